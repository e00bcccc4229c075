//! The login to a NATS server.

use crate::nats_login::NatsLogin;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

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
    jwt: Option<&'c str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sig: Option<String>,
}

/// The line that logs in to a server with this `INFO`.
pub(super) fn line(login: &NatsLogin, name: &str, info: &ServerInfo, tls: bool) -> Result<String, String> {
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
    match login {
        NatsLogin::None => {}
        NatsLogin::Token(token) => connect.auth_token = Some(token.expose()),
        NatsLogin::User(user, password) => {
            (connect.user, connect.pass) = (Some(user.as_str()), Some(password.expose()));
        }
        NatsLogin::Credentials(token, pair) => {
            let signature = pair.sign(info.nonce.as_bytes()).map_err(|error| format!("nats.credentials: {error}"))?;
            (connect.jwt, connect.sig) = (Some(token.as_str()), Some(URL_SAFE_NO_PAD.encode(signature)));
        }
    }
    let connect = serde_json::to_string(&connect).map_err(|error| error.to_string())?;
    Ok(format!("CONNECT {connect}\r\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;
    use nkeys::KeyPair;

    #[test]
    fn login_is_in_the_line_and_signs_the_nonce() {
        let info = ServerInfo { nonce: "nonce".to_owned(), ..ServerInfo::default() };
        let sent = |login: &NatsLogin| -> serde_json::Value {
            let line = line(login, "n", &info, false).unwrap();
            serde_json::from_str(line.strip_prefix("CONNECT ").unwrap()).unwrap()
        };
        let user = sent(&NatsLogin::User("bob".to_owned(), Secret::new("p")));
        assert_eq!((&user["user"], &user["pass"], user.get("jwt")), (&"bob".into(), &"p".into(), None));
        assert_eq!(sent(&NatsLogin::Token(Secret::new("t")))["auth_token"], "t");
        let pair = KeyPair::new_user();
        let signed = sent(&NatsLogin::Credentials("jwt".to_owned(), Box::new(pair.clone())));
        assert_eq!(signed["jwt"], "jwt");
        let signature = URL_SAFE_NO_PAD.decode(signed["sig"].as_str().unwrap()).unwrap();
        pair.verify(b"nonce", &signature).unwrap();
    }
}
