//! Checks the claims of a token against the configuration and the time.

use super::{AdminRole, AuthError, Identity, USUAL_WEIGHT, shown};
use crate::config::AuthConfig;
use serde_json::{Map, Value};
use std::time::Duration;
use tickwire_core::ids::UserId;

/// Reads the claims of a token whose signature was verified.
pub(super) fn read(now: Duration, claims: &Map<String, Value>, config: &AuthConfig) -> Result<Identity, AuthError> {
    let AuthConfig { leeway, audience, issuer, .. } = config;
    let claim = |name: &'static str| (name, claims.get(name).filter(|value| !value.is_null()));
    let expires = date(claim("exp"))?.ok_or_else(|| wrong("exp", "is missing: a token must have an expiry"))?;
    if now >= expires.saturating_add(*leeway) {
        return Err(AuthError::Expired(now.saturating_sub(expires)));
    }
    if let Some(begins) = date(claim("nbf"))?
        && begins > now.saturating_add(*leeway)
    {
        return Err(AuthError::NotYetValid(begins.saturating_sub(now)));
    }
    one_of(claim("aud"), audience, "auth.audience")?;
    one_of(claim("iss"), issuer, "auth.issuer")?;
    let user = text(claim("sub"))?.ok_or_else(|| wrong("sub", "is missing: it names the user"))?;
    let user = UserId::new(user).map_err(|error| wrong("sub", format!("is not a valid user name: {error}")))?;
    let plan = text(claim("plan"))?.map(str::to_owned);
    Ok(Identity { user, plan, weight: weight(claim("weight"))?, expires: Some(expires) })
}

/// The role of the claim `role`. Tokens of clients may have roles of another application, so an unknown role is none.
pub(super) fn role(claims: &Map<String, Value>) -> Option<AdminRole> {
    match claims.get("role")?.as_str()? {
        "operator" => Some(AdminRole::Operator),
        "producer" => Some(AdminRole::Producer),
        _ => None,
    }
}

type Claim<'a> = (&'static str, Option<&'a Value>);

fn wrong(claim: &'static str, problem: impl Into<String>) -> AuthError {
    AuthError::Claim { claim, problem: problem.into() }
}

/// A time since 1970 (RFC 7519, NumericDate: seconds, with a fraction or not). A negative time is read as 0, and one
/// that is too large as [`Duration::MAX`].
fn date((name, value): Claim<'_>) -> Result<Option<Duration>, AuthError> {
    let Some(value) = value else { return Ok(None) };
    let seconds = match (value.as_u64(), value.as_f64()) {
        (Some(whole), _) => Duration::from_secs(whole),
        (None, Some(number)) if number <= 0.0 => Duration::ZERO,
        (None, Some(number)) => Duration::try_from_secs_f64(number).unwrap_or(Duration::MAX),
        (None, None) => {
            return Err(wrong(name, format!("is {}: a number of seconds since 1970 is expected", shown(value))));
        }
    };
    Ok(Some(seconds))
}

fn text((name, value): Claim<'_>) -> Result<Option<&str>, AuthError> {
    match value {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(wrong(name, format!("is {}: text is expected", shown(other)))),
    }
}

/// If the configuration names allowed values, the claim (a text or a list of texts) must have one of them.
fn one_of((name, value): Claim<'_>, allowed: &[String], key: &str) -> Result<(), AuthError> {
    if allowed.is_empty() {
        return Ok(());
    }
    let is_allowed = |value: &Value| value.as_str().is_some_and(|text| allowed.iter().any(|one| one == text));
    match value {
        Some(Value::Array(list)) if list.iter().any(is_allowed) => Ok(()),
        Some(value) if is_allowed(value) => Ok(()),
        Some(value) => Err(wrong(name, format!("is {}, which this gateway does not accept ({key})", shown(value)))),
        None => Err(wrong(name, format!("is missing, and this gateway requires it ({key})"))),
    }
}

/// The weight. JSON has only one type of number, so `2.0` is a valid weight.
fn weight((name, value): Claim<'_>) -> Result<u8, AuthError> {
    let Some(value) = value else { return Ok(USUAL_WEIGHT) };
    let number = value.as_f64().filter(|number| number.fract() == 0.0 && (0.0..=255.0).contains(number));
    let weight = number.map(|number| number as u8);
    weight.ok_or_else(|| wrong(name, format!("is {}: a whole number from 0 to 255 is expected", shown(value))))
}
