//! The login to a NATS server.

use crate::config::NatsConfig;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The `INFO` of a server.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct ServerInfo {
    pub(super) max_payload: usize,
    pub(super) tls_required: bool,
    pub(super) nonce: String,
    /// The addresses of the other servers of its cluster.
    pub(super) connect_urls: Vec<String>,
    /// Whether it is about to stop ("lame duck mode").
    pub(super) ldm: bool,
}

/// The `CONNECT` to a server.
#[derive(Serialize)]
struct Connect<'c> {
    verbose: bool,
    pedantic: bool,
    tls_required: bool,
    name: &'c str,
    lang: &'static str,
    version: &'static str,
    protocol: u8,
    echo: bool,
    headers: bool,
    no_responders: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'c str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pass: Option<&'c str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    auth_token: Option<&'c str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jwt: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sig: Option<String>,
}

/// The line that logs in to a server with this `INFO`.
pub(super) async fn line(config: &NatsConfig, name: &str, info: &ServerInfo, tls: bool) -> Result<String, String> {
    let mut connect = Connect {
        verbose: false,
        pedantic: false,
        tls_required: tls,
        name,
        lang: "rust",
        version: env!("CARGO_PKG_VERSION"),
        protocol: 1,
        echo: true,
        headers: true,
        no_responders: true,
        user: None,
        pass: None,
        auth_token: None,
        jwt: None,
        sig: None,
    };
    if let Some(path) = &config.credentials {
        let (jwt, signature) = sign(path, &info.nonce).await?;
        (connect.jwt, connect.sig) = (Some(jwt), Some(signature));
    } else if !config.token.is_empty() {
        connect.auth_token = Some(config.token.expose());
    } else if !config.user.is_empty() {
        (connect.user, connect.pass) = (Some(config.user.as_str()), Some(config.password.expose()));
    }
    let connect = serde_json::to_string(&connect).map_err(|error| error.to_string())?;
    Ok(format!("CONNECT {connect}\r\n"))
}

/// The user's token from a credentials file, and the server's nonce signed with the seed of that file.
async fn sign(path: &Path, nonce: &str) -> Result<(String, String), String> {
    let failed = |reason: String| format!("nats.credentials = {}: {reason}", path.display());
    let text = tokio::fs::read_to_string(path).await.map_err(|error| failed(error.to_string()))?;
    let (jwt, seed) = parse_credentials(&text).ok_or_else(|| failed("no token with a seed found".to_owned()))?;
    let pair = KeyPair::from_seed(seed).map_err(|error| failed(error.to_string()))?;
    let signature = pair.sign(nonce.as_bytes()).map_err(|error| failed(error.to_string()))?;
    Ok((jwt.to_owned(), URL_SAFE_NO_PAD.encode(signature)))
}

/// The two blocks between lines of dashes in a credentials file: a token, then a seed.
fn parse_credentials(text: &str) -> Option<(&str, &str)> {
    let is_mark = |line: &&str| line.starts_with("---");
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let mut next = || {
        lines.by_ref().find(is_mark)?;
        let content = lines.next()?;
        lines.next().filter(is_mark)?;
        Some(content)
    };
    Some((next()?, next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CREDENTIALS: &str = "-----BEGIN NATS USER JWT-----\neyJ0.e30.x-_y\n------END NATS USER JWT------\n\n\
        ************************* IMPORTANT *************************\nNKEY Seed printed below.\n\n\
        -----BEGIN USER NKEY SEED-----\r\nSUAM\r\n------END USER NKEY SEED------\n";

    #[test]
    fn credentials_file_has_a_token_and_a_seed() {
        assert_eq!(parse_credentials(CREDENTIALS), Some(("eyJ0.e30.x-_y", "SUAM")));
        assert_eq!(parse_credentials("-----BEGIN-----\nx\n-----END-----\n"), None);
        assert_eq!(parse_credentials(""), None);
    }

    #[tokio::test]
    async fn seed_signs_the_nonce_of_the_server() {
        let pair = KeyPair::new_user();
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("node.creds");
        std::fs::write(&path, CREDENTIALS.replace("SUAM", &pair.seed().unwrap())).unwrap();
        let (jwt, signature) = sign(&path, "nonce").await.unwrap();
        assert_eq!(jwt, "eyJ0.e30.x-_y");
        pair.verify(b"nonce", &URL_SAFE_NO_PAD.decode(signature).unwrap()).unwrap();
        assert!(sign(&home.path().join("missing"), "nonce").await.unwrap_err().contains("nats.credentials"));
    }
}
