//! Signs tokens, as the service that logs users in does it for a cluster with `auth.mode = "jwt"`.

use jsonwebtoken::{EncodingKey, Header};
use serde::Serialize;
use tickwire_node::config::Secret;

/// The claims of a token.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct TokenClaims<'a> {
    /// The user.
    pub sub: &'a str,
    /// The plan that sets the user's rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<&'a str>,
    /// The weight of the user's sessions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u8>,
    /// What the holder may do on admin servers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'a str>,
    /// One of the audiences that the gateways require.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aud: Option<&'a str>,
    /// One of the issuers that the gateways accept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iss: Option<&'a str>,
    /// When it was created, in seconds since 1970.
    pub iat: u64,
    /// When it expires, in seconds since 1970.
    pub exp: u64,
}

/// The token with these claims.
///
/// # Errors
/// When the claims cannot be signed.
pub fn sign(secret: &Secret, claims: &TokenClaims<'_>) -> Result<String, jsonwebtoken::errors::Error> {
    jsonwebtoken::encode(&Header::default(), claims, &EncodingKey::from_secret(secret.expose().as_bytes()))
}
