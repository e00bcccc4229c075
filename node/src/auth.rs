//! Authenticates clients and operators: a signed token proves who somebody is. In development only, a client may use a
//! bare name.
//!
//! The library checks that a token was signed with the secret. `claims` checks its claims against a time that is passed
//! in, so that a refusal can name what is wrong.

mod claims;

use crate::config::{AuthConfig, AuthMode};
use axum::http::HeaderValue;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, crypto};
use serde_json::{Map, Value};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tickwire_core::ids::{NameError, UserId};
use tickwire_core::protocol::codes::CloseCode;

/// The weight of a session whose token has no weight.
pub const USUAL_WEIGHT: u8 = 1;

/// How many characters of a claim an error repeats.
const SHOWN: usize = 40;

/// What a client sends to authenticate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// A signed token.
    Token(String),
    /// A bare name.
    Name(String),
}

/// Who a client is, and what its token grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user: the `sub` of the token.
    pub user: UserId,
    /// The plan that sets the user's rate; `None` for the default.
    pub plan: Option<String>,
    /// Sessions with more weight are served first.
    pub weight: u8,
    /// When the token expires, since 1970; `None` for a bare name.
    pub expires: Option<Duration>,
}

/// Why credentials are refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// It is no token at all.
    #[error("this is not a signed token (JWT): {0}")]
    Malformed(&'static str),
    /// Another algorithm than HS256 signed it.
    #[error("the token is signed with {0}, and only HS256 is accepted")]
    Algorithm(String),
    /// Another secret signed it, or it was changed.
    #[error("the token's signature is wrong: it was signed with another secret, or changed afterwards")]
    Signature,
    /// It expired this long ago.
    #[error("the token expired {} ago by this gateway's clock", seconds(*.0))]
    Expired(Duration),
    /// It becomes valid after this time.
    #[error("the token is not valid for another {} by this gateway's clock (nbf)", seconds(*.0))]
    NotYetValid(Duration),
    /// A claim is missing or wrong.
    #[error("the token's `{claim}` {problem}")]
    Claim {
        /// Its name.
        claim: &'static str,
        /// What is wrong, for its sender.
        problem: String,
    },
    /// A bare name is refused where tokens are required.
    #[error("?user= is accepted only in development (auth.mode = \"dev\"): send a token")]
    NameRefused,
    /// The name is not valid.
    #[error("?user= is not a valid user name: {0}")]
    Name(NameError),
    /// Tokens cannot be checked here.
    #[error(
        "this gateway has no auth.jwt_secret, so it cannot check tokens: use ?user=name, or start it with \
         TICKWIRE_AUTH__JWT_SECRET"
    )]
    NoSecret,
}

impl AuthError {
    /// The code with which the connection is closed. It is not final if the client can succeed later, or with a new
    /// token.
    pub fn close_code(&self) -> CloseCode {
        match self {
            Self::Expired(_) => CloseCode::TokenExpired,
            Self::NotYetValid(_) => CloseCode::TokenNotYetValid,
            _ => CloseCode::AuthFailed,
        }
    }
}

/// What the holder of a token may do on admin servers, beside what every user may: the claim `role`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminRole {
    /// Everything.
    Operator,
    /// Read the status of nodes, without that of users, and publish events.
    Producer,
}

/// Checks credentials by the configuration.
///
/// Its keys can be replaced while it is used. The lock is held to copy a pointer.
pub struct Authenticator {
    config: AuthConfig,
    keys: RwLock<Arc<[DecodingKey]>>,
}

impl std::fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authenticator").field("mode", &self.config.mode).finish_non_exhaustive()
    }
}

impl Authenticator {
    /// Checks with the secret and the rules of this configuration.
    pub fn new(config: &AuthConfig) -> Self {
        Self { config: config.clone(), keys: RwLock::new(keys(config)) }
    }

    /// Accepts tokens of the secrets in this configuration from now on, and no others. All else stays as it was.
    pub(crate) fn replace_keys(&self, config: &AuthConfig) {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys(config);
    }

    fn keys(&self) -> Arc<[DecodingKey]> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether there is a secret, without which no token can be checked.
    pub(crate) fn has_secret(&self) -> bool {
        !self.keys().is_empty()
    }

    /// For how long after its expiry a token is still accepted.
    pub fn leeway(&self) -> Duration {
        self.config.leeway
    }

    /// The identity that the credentials prove at `now`, since 1970.
    ///
    /// # Errors
    /// Why they prove none.
    pub fn check(&self, now: Duration, credentials: &Credentials) -> Result<Identity, AuthError> {
        match credentials {
            Credentials::Token(token) => self.check_token(now, token.trim()),
            Credentials::Name(name) => match self.config.mode {
                AuthMode::Dev => {
                    let user = UserId::new(name).map_err(AuthError::Name)?;
                    Ok(Identity { user, plan: None, weight: USUAL_WEIGHT, expires: None })
                }
                AuthMode::Jwt => Err(AuthError::NameRefused),
            },
        }
    }

    /// The holder of a token at `now`, since 1970, and the role; `None` for a token without a role, or with one that has
    /// no meaning here.
    ///
    /// # Errors
    /// Why the token is not valid.
    pub fn check_role(&self, now: Duration, token: &str) -> Result<(UserId, Option<AdminRole>), AuthError> {
        let claims = self.verified(token.trim())?;
        let identity = claims::read(now, &claims, &self.config)?;
        Ok((identity.user, claims::role(&claims)))
    }

    fn check_token(&self, now: Duration, token: &str) -> Result<Identity, AuthError> {
        claims::read(now, &self.verified(token)?, &self.config)
    }

    /// The claims of a token whose signature is right.
    fn verified(&self, token: &str) -> Result<Map<String, Value>, AuthError> {
        let keys = self.keys();
        if keys.is_empty() {
            return Err(AuthError::NoSecret);
        }
        let (signed, signature) = token.rsplit_once('.').unwrap_or_default();
        let Some((header, claims)) = signed.split_once('.').filter(|(_, claims)| !claims.contains('.')) else {
            let problem =
                if token.is_empty() { "it is empty" } else { "it does not have three parts with dots between them" };
            return Err(AuthError::Malformed(problem));
        };
        check_header(header)?;
        // `verify` returns an error for a signature that is not base64. Such a token is refused like any other with a
        // wrong signature.
        let signs = |key| crypto::verify(signature, signed.as_bytes(), key, Algorithm::HS256).unwrap_or_default();
        if !keys.iter().any(signs) {
            return Err(AuthError::Signature);
        }
        object(claims).ok_or(AuthError::Malformed("its second part is not a JSON object in base64"))
    }
}

/// The keys of the secrets that there are: that which signs first.
fn keys(config: &AuthConfig) -> Arc<[DecodingKey]> {
    let secrets = [&config.jwt_secret, &config.jwt_former_secret].into_iter().filter(|secret| !secret.is_empty());
    secrets.map(|secret| DecodingKey::from_secret(secret.expose().as_bytes())).collect()
}

/// The token of `Bearer <token>`. The scheme may have any case, and spaces follow it (RFC 9110, 11.1 and 11.4).
pub fn bearer(value: &HeaderValue) -> Option<&str> {
    let (scheme, token) = value.to_str().ok()?.trim().split_once([' ', '\t'])?;
    scheme.eq_ignore_ascii_case("Bearer").then(|| token.trim())
}

/// Refuses a token whose header names another algorithm or an extension.
fn check_header(header: &str) -> Result<(), AuthError> {
    let header = object(header).ok_or(AuthError::Malformed("its first part is not a JSON object in base64"))?;
    match header.get("alg") {
        Some(Value::String(algorithm)) if algorithm == "HS256" => {}
        Some(algorithm) => return Err(AuthError::Algorithm(shown(algorithm))),
        None => return Err(AuthError::Malformed("its header names no algorithm (alg)")),
    }
    // RFC 7515, 4.1.11: a token is invalid if it lists an extension that is not supported. None are supported.
    match header.get("crit") {
        None => Ok(()),
        Some(_) => Err(AuthError::Malformed("its header requires extensions (crit) that are not supported")),
    }
}

fn object(part: &str) -> Option<Map<String, Value>> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

/// The beginning of a value, for an error message to its sender.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// A time in whole seconds, rounded up, so that a short time is not shown as 0.
fn seconds(time: Duration) -> String {
    format!("{} s", time.as_secs() + u64::from(time.subsec_nanos() > 0))
}

#[cfg(test)]
#[path = "auth_tests.rs"]
mod tests;
