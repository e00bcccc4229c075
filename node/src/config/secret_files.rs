//! The keys that name a file with a secret: `nats.password_file` for `nats.password`, and so on. What a file holds
//! takes the place of the value, which is empty then.

use super::error::ConfigError;
use super::sections::{AuthConfig, Config, NatsConfig};
use super::values::Secret;
use crate::secrets::{self, SecretFileError};
use std::path::Path;

impl Config {
    /// Reads the files that hold secrets.
    pub(super) fn read_secret_files(&mut self) -> Result<(), ConfigError> {
        let NatsConfig { user, user_file, password, password_file, token, token_file, .. } = &mut self.nats;
        if let Some(path) = user_file {
            secret("nats.user_file", path)?.expose().clone_into(user);
        }
        if let Some(path) = password_file {
            *password = secret("nats.password_file", path)?;
        }
        if let Some(path) = token_file {
            *token = secret("nats.token_file", path)?;
        }
        let AuthConfig { jwt_secret, jwt_secret_file, jwt_former_secret, jwt_former_secret_file, .. } = &mut self.auth;
        if let Some(path) = jwt_secret_file {
            *jwt_secret = secret("auth.jwt_secret_file", path)?;
        }
        if let Some(path) = jwt_former_secret_file {
            // A rotation ends when this file is emptied.
            *jwt_former_secret = match secret("auth.jwt_former_secret_file", path) {
                Err(ConfigError::SecretFile { source: SecretFileError::Empty, .. }) => Secret::default(),
                read => read?,
            };
        }
        Ok(())
    }
}

fn secret(key: &'static str, path: &Path) -> Result<Secret, ConfigError> {
    let failed = |source| ConfigError::SecretFile { key, path: path.to_owned(), source };
    secrets::read_secret(path).map_err(failed)
}
