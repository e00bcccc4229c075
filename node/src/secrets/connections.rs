//! Connects to NATS anew when a file has changed that holds a login or a certificate. A new connection reads these
//! files anyway. So all that is left to do is to replace the present ones, which would last until NATS ends them.

use super::CONNECTION;
use super::file::{MOST_SECRET_BYTES, secret_of};
use super::follower::{FollowedFile, Follower};
use super::troubles::SecretTroubles;
use crate::config::NatsConfig;
use crate::nats::Nats;
use crate::nats_login::parse_credentials;
use crate::nats_tls::MOST_CERTIFICATE_BYTES;
use tokio_util::sync::CancellationToken;

/// The files of a connection, read before it was opened.
#[derive(Debug)]
pub struct ConnectionFiles(Follower);

impl ConnectionFiles {
    /// Reads the files of this configuration; `None` if it names none. `name` is that of the connection.
    pub async fn start(config: &NatsConfig, name: String, troubles: SecretTroubles) -> Option<Self> {
        let files = files(config);
        if files.is_empty() {
            return None;
        }
        Some(Self(Follower::start(CONNECTION, name, files, troubles).await.0))
    }

    /// Replaces the connections after each change until the node drains.
    pub async fn run(self, nats: Nats, drain: CancellationToken) {
        let Self(mut follower) = self;
        loop {
            tokio::select! {
                () = drain.cancelled() => return,
                _ = follower.changed() => {}
            }
            let outcome = tokio::select! {
                () = drain.cancelled() => return,
                outcome = nats.renew() => outcome,
            };
            follower.reloaded(outcome);
        }
    }
}

fn files(config: &NatsConfig) -> Vec<FollowedFile> {
    let (secret, certificate) = (MOST_SECRET_BYTES, MOST_CERTIFICATE_BYTES);
    let all = [
        FollowedFile::of("nats.user_file", config.user_file.as_ref(), secret, check_secret),
        FollowedFile::of("nats.password_file", config.password_file.as_ref(), secret, check_secret),
        FollowedFile::of("nats.token_file", config.token_file.as_ref(), secret, check_secret),
        FollowedFile::of("nats.credentials", config.credentials.as_ref(), secret, check_credentials),
        FollowedFile::of("nats.tls_ca", config.tls_ca.as_ref(), certificate, check_pem),
        FollowedFile::of("nats.tls_cert", config.tls_cert.as_ref(), certificate, check_pem),
        FollowedFile::of("nats.tls_key", config.tls_key.as_ref(), certificate, check_pem),
    ];
    all.into_iter().flatten().collect()
}

fn check_secret(content: &[u8]) -> Result<(), String> {
    secret_of(content).map(|_| ()).map_err(|error| error.to_string())
}

fn check_credentials(content: &[u8]) -> Result<(), String> {
    let text = std::str::from_utf8(content).map_err(|error| error.to_string())?;
    parse_credentials(text).map(|_| ()).ok_or_else(|| "has no token with a seed".to_owned())
}

/// The attempt to connect checks the rest.
fn check_pem(content: &[u8]) -> Result<(), String> {
    let mark = b"-----BEGIN ";
    let is_pem = content.windows(mark.len()).any(|part| part == mark);
    if is_pem { Ok(()) } else { Err("has no block of PEM".to_owned()) }
}
