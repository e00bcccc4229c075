//! Rules between keys, beyond the range of each.

use tickwire_core::event::{Kind, Kinds};

use super::error::ConfigError;
use super::sections::{AuthConfig, AuthMode, Config, EventsConfig, ProxyProtocol};
use super::values::Secret;
use std::path::PathBuf;

/// The shortest key that HS256 allows (RFC 7518, 3.2).
pub(crate) const LEAST_SECRET_BYTES: usize = 32;

/// Why a value and a file of it cannot both be set.
const ONE_SOURCE: &str = "both are set, and only one can be used: remove the value, or the file";

impl AuthConfig {
    /// The secret that signs tokens, or none in `dev` mode. Only nodes with clients need it.
    ///
    /// # Errors
    /// When the mode is `jwt` and the secret is missing, or it or the former one is too short.
    pub fn secret(&self) -> Result<Option<&Secret>, ConfigError> {
        if self.mode == AuthMode::Dev {
            return Ok(None);
        }
        let conflict = |keys, reason| Err(ConfigError::Conflict { keys, reason });
        let bytes = self.jwt_secret.expose().len();
        if bytes < LEAST_SECRET_BYTES {
            let found = if bytes == 0 { "there is no secret".to_owned() } else { format!("this one has {bytes}") };
            let reason = format!(
                "mode jwt needs a secret of at least {LEAST_SECRET_BYTES} bytes, {found}: set TICKWIRE_AUTH__JWT_SECRET, \
                 or write one to the file of TICKWIRE_AUTH__JWT_SECRET_FILE"
            );
            return conflict("auth.mode, auth.jwt_secret", reason);
        }
        let former = self.jwt_former_secret.expose().len();
        if former > 0 && former < LEAST_SECRET_BYTES {
            let reason = format!(
                "a former secret has at least {LEAST_SECRET_BYTES} bytes too, this one has {former}; empty: none"
            );
            return conflict("auth.mode, auth.jwt_former_secret", reason);
        }
        Ok(Some(&self.jwt_secret))
    }
}

impl EventsConfig {
    /// The kinds that a cluster accepts: the built-in ones, and the configured ones.
    pub fn taken(&self) -> Kinds {
        Kinds::new(self.kinds.iter().map(|(kind, audience)| (Kind::from(kind.as_str()), *audience)))
    }
}

/// The bytes of a `resume` for each subscription beside its filter's names: the subscription's name, fields, numbers.
const SUBSCRIPTION_BYTES: usize = 256;

/// The bytes of a `resume` for each partition: its part of the position, and the last seen sequence.
const PARTITION_BYTES: usize = 32;

impl Config {
    /// The size of the `resume` of a session that uses all its limits.
    fn largest_resume(&self) -> usize {
        let Self { gateway, stream, .. } = self;
        let partitions = stream.partitions as usize * PARTITION_BYTES;
        let subscriptions = gateway.max_subscriptions.saturating_mul(SUBSCRIPTION_BYTES);
        gateway.max_filter_bytes.saturating_add(subscriptions).saturating_add(partitions)
    }

    /// Checks the rules between keys.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let Self { events, membership, stream, nats, gateway, health, auth, .. } = self;
        let has_user = !nats.user.is_empty() || nats.user_file.is_some();
        let has_token = !nats.token.is_empty() || nats.token_file.is_some();
        let logins = [has_user, has_token, nats.credentials.is_some()].iter().filter(|set| **set).count();
        // Whether at most one of a value and its file is set.
        let one = |value: &str, file: &Option<PathBuf>| value.is_empty() || file.is_none();
        let built_in = |name: &String| !matches!(Kind::from(name.as_str()), Kind::Other(_));
        let rules = [
            (
                !events.kinds.keys().any(built_in),
                "events.kinds",
                "the built-in kinds (pattern, market, health, alert, backtest) keep their audience; name others only",
            ),
            (
                membership.timeout >= membership.beat_interval * 3,
                "membership.timeout, membership.beat_interval",
                "the timeout must be at least three times the beat interval, so that neither a lost beat nor a short pause \
                 of the coordinator removes a node",
            ),
            (
                stream.duplicate_window <= stream.max_age,
                "stream.duplicate_window, stream.max_age",
                "the window must not be longer than events are kept",
            ),
            (
                gateway.read_bytes as usize >= gateway.max_frame_bytes,
                "gateway.read_bytes, gateway.max_frame_bytes",
                "a client must be able to send the largest frame within a second",
            ),
            (
                gateway.max_frame_bytes >= self.largest_resume(),
                "gateway.max_frame_bytes, gateway.max_filter_bytes, gateway.max_subscriptions",
                "the largest session must fit into one resume: max_frame_bytes must be at least max_filter_bytes, and 256 \
                 bytes for each of max_subscriptions, and 32 for each of stream.partitions",
            ),
            (
                gateway.user_filter_bytes >= gateway.max_filter_bytes,
                "gateway.user_filter_bytes, gateway.max_filter_bytes",
                "a user must be able to have one session that uses all its limits",
            ),
            (
                gateway.proxy_protocol == ProxyProtocol::Off || !gateway.trusted_proxies.is_empty(),
                "gateway.proxy_protocol, gateway.trusted_proxies",
                "PROXY headers are read only from trusted proxies: name those that may connect",
            ),
            (health.is_ordered(), "health", "the threshold of a warning must be reached before that of the error"),
            (
                health.silence_kinds.iter().all(|kind| built_in(kind) || events.kinds.contains_key(kind)),
                "health.silence_kinds, events.kinds",
                "only kinds that the cluster accepts can be silent: name built-in ones, or those of events.kinds",
            ),
            (one(&nats.user, &nats.user_file), "nats.user, nats.user_file", ONE_SOURCE),
            (one(nats.password.expose(), &nats.password_file), "nats.password, nats.password_file", ONE_SOURCE),
            (one(nats.token.expose(), &nats.token_file), "nats.token, nats.token_file", ONE_SOURCE),
            (one(auth.jwt_secret.expose(), &auth.jwt_secret_file), "auth.jwt_secret, auth.jwt_secret_file", ONE_SOURCE),
            (
                one(auth.jwt_former_secret.expose(), &auth.jwt_former_secret_file),
                "auth.jwt_former_secret, auth.jwt_former_secret_file",
                ONE_SOURCE,
            ),
            (logins <= 1, "nats.user, nats.token, nats.credentials", "only one way to log in can be used"),
            (
                (nats.password.is_empty() && nats.password_file.is_none()) || has_user,
                "nats.password, nats.user",
                "a password needs its user",
            ),
            (
                nats.tls_cert.is_some() == nats.tls_key.is_some(),
                "nats.tls_cert, nats.tls_key",
                "a certificate and its key must be given together",
            ),
        ];
        match rules.into_iter().find(|(holds, ..)| !holds) {
            Some((_, keys, reason)) => Err(ConfigError::Conflict { keys, reason: reason.to_owned() }),
            None => Ok(()),
        }
    }
}
