//! Replaces the keys that check tokens when their files change. Sessions that are open go on: each token is checked
//! when it arrives.

use super::TOKENS;
use super::file::{MOST_SECRET_BYTES, SecretFileError, secret_of};
use super::follower::{FileContents, FollowedFile, Follower};
use super::troubles::SecretTroubles;
use crate::auth::Authenticator;
use crate::config::{AuthConfig, LEAST_SECRET_BYTES, Secret};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

const SECRET: &str = "auth.jwt_secret_file";
const FORMER: &str = "auth.jwt_former_secret_file";

/// The files of the secrets, and who checks tokens with them.
#[derive(Debug)]
pub(crate) struct TokenKeys {
    follower: Follower,
    config: AuthConfig,
    authenticator: Arc<Authenticator>,
}

impl TokenKeys {
    /// Returns who checks tokens by this configuration, and the follower of the files, if it names any.
    pub(crate) async fn start(config: &AuthConfig, troubles: SecretTroubles) -> (Arc<Authenticator>, Option<Self>) {
        let secret = FollowedFile::of(SECRET, config.jwt_secret_file.as_ref(), MOST_SECRET_BYTES, check_secret);
        let former = FollowedFile::of(FORMER, config.jwt_former_secret_file.as_ref(), MOST_SECRET_BYTES, check_former);
        let files: Vec<FollowedFile> = secret.into_iter().chain(former).collect();
        if files.is_empty() {
            return (Arc::new(Authenticator::new(config)), None);
        }
        let (follower, contents) = Follower::start(TOKENS, "token secrets".to_owned(), files, troubles).await;
        let config = config.clone();
        let first = contents.map_or_else(|| config.clone(), |contents| with(&config, &contents));
        let authenticator = Arc::new(Authenticator::new(&first));
        (Arc::clone(&authenticator), Some(Self { follower, config, authenticator }))
    }

    /// Replaces the keys until the node drains.
    pub(crate) async fn run(mut self, drain: CancellationToken) {
        loop {
            let contents = tokio::select! {
                () = drain.cancelled() => return,
                contents = self.follower.changed() => contents,
            };
            self.authenticator.replace_keys(&with(&self.config, &contents));
            self.follower.reloaded(Ok(()));
        }
    }
}

/// The configuration with the secrets in the files.
fn with(config: &AuthConfig, contents: &FileContents) -> AuthConfig {
    let mut config = config.clone();
    // Contents were checked, so none is invalid here; an empty one is no secret.
    let secret = |key| contents.get(key).map(|content| secret_of(content).unwrap_or_default());
    if let Some(secret) = secret(SECRET) {
        config.jwt_secret = secret;
    }
    if let Some(former) = secret(FORMER) {
        config.jwt_former_secret = former;
    }
    config
}

fn check_secret(content: &[u8]) -> Result<(), String> {
    long_enough(&secret_of(content).map_err(|error| error.to_string())?)
}

fn check_former(content: &[u8]) -> Result<(), String> {
    match secret_of(content) {
        Err(SecretFileError::Empty) => Ok(()),
        Err(error) => Err(error.to_string()),
        Ok(secret) => long_enough(&secret),
    }
}

fn long_enough(secret: &Secret) -> Result<(), String> {
    match secret.expose().len() {
        LEAST_SECRET_BYTES.. => Ok(()),
        bytes => Err(format!("has {bytes} bytes: a secret has at least {LEAST_SECRET_BYTES}")),
    }
}
