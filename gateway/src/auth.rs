//! Who a client is: a signed token or, in development alone, whatever name it gives itself.

use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use tickwire_core::ids::{NameError, UserId};
use tickwire_node::config::{AuthConfig, AuthMode};

use crate::shard::USUAL_WEIGHT;

/// What a client offers to say who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Credentials {
    /// A signed token.
    Token(String),
    /// A bare name.
    Name(String),
}

/// Who a client is, and what its token grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) user: UserId,
    /// The plan that sets the user's rate, `None` for the usual one.
    pub(crate) plan: Option<String>,
    /// Sessions of more weight are served first.
    pub(crate) weight: u8,
}

/// Why a client is not believed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthError {
    #[error("the token is not valid: {0}")]
    Token(#[from] jsonwebtoken::errors::Error),
    #[error("the token's `sub` is not a user: {0}")]
    Subject(NameError),
    #[error("?user= is taken in development alone (auth.mode = \"dev\"): send a token")]
    NameRefused,
    #[error("?user= is not a user: {0}")]
    Name(NameError),
    #[error("this gateway has no auth.jwt_secret, so it can check no token: use ?user=name")]
    NoSecret,
}

/// Checks credentials by the configuration.
pub(crate) struct Authenticator {
    mode: AuthMode,
    key: Option<DecodingKey>,
    validation: Validation,
}

impl std::fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authenticator").field("mode", &self.mode).finish_non_exhaustive()
    }
}

/// What of a token's claims is looked at, beside its expiry.
#[derive(Deserialize)]
struct Claims {
    sub: String,
    plan: Option<String>,
    weight: Option<u8>,
}

impl Authenticator {
    pub(crate) fn new(config: &AuthConfig) -> Self {
        let secret = config.jwt_secret.expose();
        Self {
            mode: config.mode,
            key: (!secret.is_empty()).then(|| DecodingKey::from_secret(secret.as_bytes())),
            validation: Validation::new(Algorithm::HS256),
        }
    }

    /// Whom the credentials prove.
    pub(crate) fn check(&self, credentials: &Credentials) -> Result<Identity, AuthError> {
        match credentials {
            Credentials::Token(token) => {
                let key = self.key.as_ref().ok_or(AuthError::NoSecret)?;
                let Claims { sub, plan, weight } = jsonwebtoken::decode(token, key, &self.validation)?.claims;
                let user = UserId::new(&sub).map_err(AuthError::Subject)?;
                Ok(Identity { user, plan, weight: weight.unwrap_or(USUAL_WEIGHT) })
            }
            Credentials::Name(name) => match self.mode {
                AuthMode::Dev => {
                    let user = UserId::new(name).map_err(AuthError::Name)?;
                    Ok(Identity { user, plan: None, weight: USUAL_WEIGHT })
                }
                AuthMode::Jwt => Err(AuthError::NameRefused),
            },
        }
    }
}
