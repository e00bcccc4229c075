//! The login to NATS. It is read from its files at every connect, so that a new one is used without a restart.

use crate::bounded_file;
use crate::config::{NatsConfig, Secret};
use crate::secrets::{self, MOST_SECRET_BYTES};
use async_nats::{Auth, AuthError};
use nkeys::KeyPair;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thiserror::Error;
use tokio::task::spawn_blocking;

/// Who a node is for NATS.
pub(crate) enum NatsLogin {
    /// Nobody in particular.
    None,
    /// The holder of a token.
    Token(Secret),
    /// A user with a password.
    User(String, Secret),
    /// The user of a credentials file: its token, and the key that signs.
    Credentials(String, Box<KeyPair>),
}

/// A file of the login that cannot be used.
#[derive(Debug, Error)]
#[error("{key} = {}: {reason}", path.display())]
pub(crate) struct LoginFileError {
    key: &'static str,
    path: PathBuf,
    reason: String,
}

impl NatsLogin {
    /// Reads what this configuration names. Blocks.
    fn read(config: &NatsConfig) -> Result<Self, LoginFileError> {
        if let Some(path) = &config.credentials {
            return Self::of_credentials(path);
        }
        let value = |key, file: &Option<PathBuf>, configured: &str| match file {
            Some(path) => secret(key, path),
            None => Ok(Secret::new(configured)),
        };
        let token = value("nats.token_file", &config.token_file, config.token.expose())?;
        if !token.is_empty() {
            return Ok(Self::Token(token));
        }
        let user = value("nats.user_file", &config.user_file, &config.user)?;
        if user.is_empty() {
            return Ok(Self::None);
        }
        let password = value("nats.password_file", &config.password_file, config.password.expose())?;
        Ok(Self::User(user.expose().to_owned(), password))
    }

    /// The same in a thread that may block.
    pub(crate) async fn read_now(config: Arc<NatsConfig>) -> Result<Self, LoginFileError> {
        let read = spawn_blocking(move || Self::read(&config)).await;
        // A panic of the thread, which should never happen.
        let failed = |error: tokio::task::JoinError| LoginFileError {
            key: "nats",
            path: PathBuf::new(),
            reason: error.to_string(),
        };
        read.map_err(failed)?
    }

    fn of_credentials(path: &Path) -> Result<Self, LoginFileError> {
        let failed = |reason: String| LoginFileError { key: "nats.credentials", path: path.to_owned(), reason };
        let content = bounded_file::read(path, MOST_SECRET_BYTES).map_err(|error| failed(error.to_string()))?;
        let text = std::str::from_utf8(&content).map_err(|error| failed(error.to_string()))?;
        let (token, seed) = parse_credentials(text).ok_or_else(|| failed("no token with a seed found".to_owned()))?;
        let pair = KeyPair::from_seed(seed).map_err(|error| failed(error.to_string()))?;
        Ok(Self::Credentials(token.to_owned(), Box::new(pair)))
    }
}

/// The login for the client library, at each of its connects. `nonce` is that of the server.
pub(crate) async fn authenticate(config: Arc<NatsConfig>, nonce: Vec<u8>) -> Result<Auth, AuthError> {
    let login = NatsLogin::read_now(config).await.map_err(AuthError::new)?;
    let mut auth = Auth::new();
    match login {
        NatsLogin::None => {}
        NatsLogin::Token(token) => auth.token = Some(token.expose().to_owned()),
        NatsLogin::User(user, password) => {
            auth.username = Some(user);
            auth.password = Some(password.expose().to_owned());
        }
        NatsLogin::Credentials(token, pair) => {
            auth.signature = Some(pair.sign(&nonce).map_err(AuthError::new)?);
            auth.jwt = Some(token);
        }
    }
    Ok(auth)
}

/// How a configuration logs in, for people: the user, and where the secret comes from.
pub(crate) struct LoginSource<'c>(pub(crate) &'c NatsConfig);

impl fmt::Display for LoginSource<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(config) = self;
        let from = |f: &mut fmt::Formatter<'_>, key: &str, file: &Option<PathBuf>| match file {
            Some(path) => write!(f, "{key}_file = {}", path.display()),
            None => write!(f, "{key}"),
        };
        if let Some(path) = &config.credentials {
            return write!(f, "with nats.credentials = {}", path.display());
        }
        if !config.token.is_empty() {
            write!(f, "with ")?;
            return from(f, "nats.token", &config.token_file);
        }
        match &config.user_file {
            None if config.user.is_empty() => return write!(f, "without a user, token or credentials"),
            None => write!(f, "as user {:?} of nats.user", config.user)?,
            Some(path) => write!(f, "as the user in nats.user_file = {}", path.display())?,
        }
        write!(f, " with the password of ")?;
        from(f, "nats.password", &config.password_file)
    }
}

/// Whether a text of a server says that it does not, or no longer, accept a login.
pub(crate) fn is_login_refusal(text: &str) -> bool {
    let text = text.to_lowercase();
    ["authorization violation", "authentication expired", "authentication revoked", "authentication timeout"]
        .iter()
        .any(|refusal| text.contains(refusal))
}

fn secret(key: &'static str, path: &Path) -> Result<Secret, LoginFileError> {
    let failed =
        |error: secrets::SecretFileError| LoginFileError { key, path: path.to_owned(), reason: error.to_string() };
    secrets::read_secret(path).map_err(failed)
}

/// The two blocks between lines of dashes in a credentials file: a token, then a seed.
pub(crate) fn parse_credentials(text: &str) -> Option<(&str, &str)> {
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
    use crate::config::{Config, LoadOptions};
    use std::fs;

    const CREDENTIALS: &str = "-----BEGIN NATS USER JWT-----\neyJ0.e30.x-_y\n------END NATS USER JWT------\n\n\
        ************************* IMPORTANT *************************\nNKEY Seed printed below.\n\n\
        -----BEGIN USER NKEY SEED-----\r\nSUAM\r\n------END USER NKEY SEED------\n";

    fn config(sets: &[(&str, &str)]) -> NatsConfig {
        let sets = sets.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Config::load(&LoadOptions { sets, ..LoadOptions::default() }).unwrap().nats
    }

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
        let config = Arc::new(config(&[("nats.credentials", path.to_str().unwrap())]));
        let missing = authenticate(Arc::clone(&config), b"nonce".to_vec()).await.err().unwrap();
        assert!(missing.to_string().contains("nats.credentials"), "{missing}");
        fs::write(&path, CREDENTIALS.replace("SUAM", &pair.seed().unwrap())).unwrap();
        let auth = authenticate(config, b"nonce".to_vec()).await.unwrap();
        assert_eq!(auth.jwt.as_deref(), Some("eyJ0.e30.x-_y"));
        pair.verify(b"nonce", &auth.signature.unwrap()).unwrap();
    }

    #[tokio::test]
    async fn files_are_read_at_every_connect() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("password");
        fs::write(&path, "first\n").unwrap();
        let config = config(&[("nats.user", "bob"), ("nats.password_file", path.to_str().unwrap())]);
        let shown = LoginSource(&config).to_string();
        assert!(shown.contains("\"bob\"") && shown.contains("nats.password_file = /") && !shown.contains("first"));
        let config = Arc::new(config);
        for password in ["first", "second"] {
            fs::write(&path, password).unwrap();
            let auth = authenticate(Arc::clone(&config), Vec::new()).await.unwrap();
            assert_eq!((auth.username.as_deref(), auth.password.as_deref()), (Some("bob"), Some(password)));
        }
        fs::remove_file(&path).unwrap();
        assert!(authenticate(config, Vec::new()).await.err().unwrap().to_string().contains("nats.password_file"));
    }

    #[test]
    fn refusals_of_a_login_are_recognised() {
        for text in ["'Authorization Violation'", "User Authentication Expired", "authorization violation"] {
            assert!(is_login_refusal(text), "{text}");
        }
        assert!(!is_login_refusal("Permissions Violation for Subscription to \"x\""));
    }
}
