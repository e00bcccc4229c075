//! How single values are read and written: durations as people write them, ranges, tokens, paths that may be empty,
//! secrets. The error of each names what is allowed.

use crate::names;
use ipnet::IpNet;
use jiff::fmt::friendly::{Spacing, SpanParser, SpanPrinter};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tickwire_core::ids::UserId;
use url::Url;

/// How many users may have metrics of their own: each has about a dozen series at each gateway.
const MOST_WATCHED: usize = 16;

static PARSER: SpanParser = SpanParser::new();
static PRINTER: SpanPrinter = SpanPrinter::new().spacing(Spacing::None);

/// Reads a duration such as "250ms" of `MIN` to `MAX` milliseconds.
pub(super) fn duration<'de, const MIN: u64, const MAX: u64, D>(deserializer: D) -> Result<Duration, D::Error>
where
    D: Deserializer<'de>,
{
    let text = String::deserialize(deserializer)?;
    let (least, most) = (Duration::from_millis(MIN), Duration::from_millis(MAX));
    match PARSER.parse_unsigned_duration(&text) {
        Ok(found) if (least..=most).contains(&found) => Ok(found),
        Ok(_) => Err(D::Error::custom(format!("must be {} to {}", shown(&least), shown(&most)))),
        Err(_) => Err(D::Error::custom("must be a duration with its unit, such as \"250ms\", \"2s\" or \"24h\"")),
    }
}

/// Writes a duration as [`duration`] reads it.
pub(super) fn show_duration<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&shown(value))
}

fn shown(value: &Duration) -> String {
    PRINTER.unsigned_duration_to_string(value)
}

/// Reads a whole number of `MIN` to `MAX`.
pub(super) fn within<'de, const MIN: u64, const MAX: u64, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: TryFrom<u64>,
    D: Deserializer<'de>,
{
    let found = i64::deserialize(deserializer)?;
    let allowed = u64::try_from(found).ok().filter(|found| (MIN..=MAX).contains(found));
    let refusal = || D::Error::custom(format!("must be {MIN} to {MAX}"));
    allowed.and_then(|found| T::try_from(found).ok()).ok_or_else(refusal)
}

/// Reads rates by name, each 0 to 1,000,000. Values from flags and the environment are text.
pub(super) fn rates<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, u32>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum WrittenValue {
        Number(u32),
        Text(String),
    }
    let written = BTreeMap::<String, WrittenValue>::deserialize(deserializer)?;
    let read = |(name, rate): (String, WrittenValue)| {
        let rate = match rate {
            WrittenValue::Number(rate) => Some(rate),
            WrittenValue::Text(text) => text.parse().ok(),
        };
        let allowed = rate.filter(|rate| *rate <= 1_000_000);
        allowed.map(|rate| (name, rate)).ok_or_else(|| D::Error::custom("must be 0 to 1000000"))
    };
    written.into_iter().map(read).collect()
}

/// Reads the address of a gateway with a placeholder for its name, or an empty text.
pub(super) fn connect_url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    let is_url = ["ws://", "wss://"].iter().any(|scheme| text.starts_with(scheme));
    match text.is_empty() || is_url && text.contains("{gateway}") {
        true => Ok(text),
        false => Err(D::Error::custom("must be a ws:// or wss:// address with {gateway} in it, or empty")),
    }
}

/// Reads the address that a server listens on. A name is none: it may have several addresses.
pub(super) fn listen_address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(deserializer)?;
    let refusal = |_| D::Error::custom("must be an IP address and a port, such as 127.0.0.1:8080 or 0.0.0.0:8080");
    text.parse().map_err(refusal)
}

/// Reads addresses, and networks such as "10.0.0.0/8".
pub(super) fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let read = |text: String| {
        let network = text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
        let refusal = || D::Error::custom("must be addresses or networks, such as \"10.0.0.0/8\" or \"fd00::1\"");
        network.ok_or_else(refusal)
    };
    Vec::<String>::deserialize(deserializer)?.into_iter().map(read).collect()
}

/// Reads at most [`MOST_WATCHED`] different users.
pub(super) fn users<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<UserId>, D::Error> {
    let read = |text: String| UserId::new(&text).map_err(D::Error::custom);
    let users = Vec::<String>::deserialize(deserializer)?.into_iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let distinct: BTreeSet<&str> = users.iter().map(UserId::as_str).collect();
    if distinct.len() == users.len() && users.len() <= MOST_WATCHED {
        Ok(users)
    } else {
        Err(D::Error::custom(format!("must be at most {MOST_WATCHED} different users")))
    }
}

/// Reads a name that must be one token of a subject.
pub(super) fn token<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    if names::is_token(&text) { Ok(text) } else { Err(D::Error::custom(names::TOKEN_RULE)) }
}

/// Reads a name as [`token`] does; empty is `None`.
pub(super) fn optional_token<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(deserializer)?;
    match text.as_str() {
        "" => Ok(None),
        token if names::is_token(token) => Ok(Some(text)),
        _ => Err(D::Error::custom(names::TOKEN_RULE)),
    }
}

/// Writes a text that may be absent; absent is empty.
pub(super) fn show_optional<S: Serializer>(value: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(value.as_deref().unwrap_or_default())
}

/// Reads a path; empty is `None`.
pub(super) fn optional_path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    let text = String::deserialize(deserializer)?;
    Ok((!text.is_empty()).then(|| text.into()))
}

/// Writes what [`optional_path`] reads.
pub(super) fn show_path<S: Serializer>(value: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    value.as_deref().unwrap_or(Path::new("")).serialize(serializer)
}

/// Reads an address of HTTP; empty is `None`. A password in it would be shown.
pub(super) fn optional_url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Url>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() {
        return Ok(None);
    }
    let is_allowed = |url: &Url| {
        let has_login = !url.username().is_empty() || url.password().is_some();
        matches!(url.scheme(), "http" | "https") && url.has_host() && !has_login && url.fragment().is_none()
    };
    let refusal = || {
        D::Error::custom(
            "must be an http:// or https:// address without user and password, or empty: such as \
                          http://127.0.0.1:4318/v1/traces",
        )
    };
    Url::parse(&text).ok().filter(is_allowed).map(Some).ok_or_else(refusal)
}

/// Writes what [`optional_url`] reads.
pub(super) fn show_url<S: Serializer>(value: &Option<Url>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(value.as_ref().map(Url::as_str).unwrap_or_default())
}

/// Reads a number from 0 to 1.
pub(super) fn ratio<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let found = f64::deserialize(deserializer)?;
    if (0.0..=1.0).contains(&found) { Ok(found) } else { Err(D::Error::custom("must be 0.0 to 1.0")) }
}

/// Reads a secret that is sent in a header.
pub(super) fn header_secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
    let secret = Secret::deserialize(deserializer)?;
    let is_visible = secret.expose().bytes().all(|byte| byte.is_ascii_graphic());
    if is_visible { Ok(secret) } else { Err(D::Error::custom("must be visible ASCII without spaces")) }
}

/// Reads the log directives.
pub(super) fn log_level<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    match tracing_subscriber::EnvFilter::builder().parse(&text) {
        Ok(_) if !text.is_empty() => Ok(text),
        _ => Err(D::Error::custom(
            "must be a level (error, warn, info, debug, trace) or directives such as \"info,tickwire_gateway=debug\"",
        )),
    }
}

/// Reads a list of NATS addresses. User and password have keys of their own, which keeps them out of logs.
pub(super) fn nats_url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.contains('@') {
        return Err(D::Error::custom("must not hold a user or password: use nats.user and nats.password"));
    }
    let valid =
        text.split(',').all(|url| !url.trim().is_empty() && url.trim().parse::<async_nats::ServerAddr>().is_ok());
    if valid {
        Ok(text)
    } else {
        Err(D::Error::custom("must be NATS addresses with commas between, such as nats://127.0.0.1:4222"))
    }
}

/// A text that is never shown: not in logs, errors or the shown configuration.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn mask(&self) -> &'static str {
        if self.0.is_empty() { "" } else { "********" }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({:?})", self.mask())
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.mask())
    }
}
