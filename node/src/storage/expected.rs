//! The streams that tickwire keeps in JetStream, and how one is read, compared and restored.

use crate::config::StreamConfig;
use crate::names;
use crate::provision::layout;
use crate::storage::health::Remedy;
use async_nats::jetstream::Context;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{CreateStreamError, RequestError};
use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::{Config, DiscardPolicy, Info};

/// The use of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamUse {
    /// Events.
    Events,
    /// Dead letters.
    DeadLetters,
    /// The member view.
    View,
    /// Leases.
    Leases,
    /// Rules.
    Rules,
    /// Market records and running averages.
    Context,
    /// Reference data.
    Reference,
    /// Saved subscriptions.
    Subscriptions,
    /// Acknowledgements.
    Acks,
}

impl StreamUse {
    /// As text.
    pub fn what(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::DeadLetters => "dead letters",
            Self::View => "the member view",
            Self::Leases => "leases",
            Self::Rules => "rules",
            Self::Context => "the context of events",
            Self::Reference => "reference data",
            Self::Subscriptions => "saved subscriptions",
            Self::Acks => "acknowledgements",
        }
    }

    /// What is gone when the stream was deleted, and what to do about it.
    pub fn loss(self) -> &'static str {
        match self {
            Self::Events => "its events are lost: have those that matter published again",
            Self::DeadLetters => "its dead letters are lost",
            Self::View | Self::Leases | Self::Context => "nodes write to it again: you need not do anything",
            Self::Rules => "all rules are lost, and none applies: load them again with tickwire rules put FILE",
            Self::Reference => "all reference data is lost: load it again with tickwire reference load FILE",
            Self::Subscriptions => {
                "the saved subscriptions of all users are lost: save them again with PUT /v1/subscriptions"
            }
            Self::Acks => "all acknowledgements are lost: recent alerts come again until they are acknowledged again",
        }
    }
}

/// One of the streams, with its expected settings.
#[derive(Debug, Clone)]
pub struct ExpectedStream {
    /// Its use.
    pub keeps: StreamUse,
    wanted: Config,
}

/// The settings of a stream that a read has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamSettings {
    /// It does not exist.
    Missing,
    /// It exists.
    There {
        /// Whether it is sealed, so that it takes no messages any more.
        is_sealed: bool,
        /// The limit that it has reached, if it refuses new messages because of that.
        full: Option<&'static str>,
        /// The edited settings among those that tickwire relies on and that no configuration key sets.
        edits: Vec<&'static str>,
        /// The number of copies, if it differs from the configured one.
        replicas: Option<usize>,
        /// The last sequence.
        last: u64,
    },
}

/// All streams that tickwire keeps.
pub fn kept(config: &StreamConfig) -> [ExpectedStream; 9] {
    let bucket = |name| layout::bucket(name, config);
    [
        ExpectedStream { keeps: StreamUse::Events, wanted: layout::events(config) },
        ExpectedStream { keeps: StreamUse::DeadLetters, wanted: layout::dead_letters(config) },
        ExpectedStream { keeps: StreamUse::View, wanted: bucket(names::VIEW_BUCKET) },
        ExpectedStream { keeps: StreamUse::Leases, wanted: bucket(names::LEASES_BUCKET) },
        ExpectedStream { keeps: StreamUse::Rules, wanted: bucket(names::RULES_BUCKET) },
        ExpectedStream { keeps: StreamUse::Context, wanted: bucket(names::CONTEXT_BUCKET) },
        ExpectedStream { keeps: StreamUse::Reference, wanted: bucket(names::REFERENCE_BUCKET) },
        ExpectedStream { keeps: StreamUse::Subscriptions, wanted: bucket(names::SUBSCRIPTIONS_BUCKET) },
        ExpectedStream { keeps: StreamUse::Acks, wanted: layout::acks(config) },
    ]
}

impl ExpectedStream {
    /// The name of the stream.
    pub fn name(&self) -> &str {
        &self.wanted.name
    }

    /// The configured number of copies.
    pub fn replicas(&self) -> usize {
        self.wanted.num_replicas
    }

    /// Whether events are refused when nothing can be stored here.
    pub fn stops_events(&self) -> bool {
        self.keeps == StreamUse::Events
    }

    /// Compares a stream that was read with its expected settings.
    pub fn compare(&self, found: Option<&Info>) -> StreamSettings {
        let Some(Info { config, state, .. }) = found else { return StreamSettings::Missing };
        let refuses = config.discard == DiscardPolicy::New;
        let (count, bytes) = (state.messages, state.bytes);
        let is_reached = |limit: i64, now: u64| u64::try_from(limit).is_ok_and(|limit| limit > 0 && now >= limit);
        let full = if refuses && is_reached(config.max_messages, count) {
            Some("max_msgs")
        } else if refuses && is_reached(config.max_bytes, bytes) {
            Some("max_bytes")
        } else {
            None
        };
        let replicas = (config.num_replicas != self.wanted.num_replicas).then_some(config.num_replicas);
        StreamSettings::There {
            is_sealed: config.sealed,
            full,
            edits: self.restore_settings(config).1,
            replicas,
            last: state.last_sequence,
        }
    }

    /// The running configuration with our settings restored, and what differed.
    fn restore_settings(&self, running: &Config) -> (Config, Vec<&'static str>) {
        let is_bucket = !matches!(self.keeps, StreamUse::Events | StreamUse::DeadLetters);
        layout::restore_settings(running, &self.wanted, is_bucket)
    }

    /// Creates the stream, or restores its edited settings. It reads the stream first: an older read would undo what
    /// operators have changed since. `None` if there is nothing to do, because another router was first.
    pub(super) async fn restore(
        &self,
        context: &Context,
        remedy: Remedy,
    ) -> Result<Option<RestoredStream>, RestoreError> {
        let found = look(context, self.name()).await?;
        Ok(match (remedy, found) {
            (Remedy::Create, None) => {
                context.create_stream(self.wanted.clone()).await?;
                Some(RestoredStream::Created)
            }
            (Remedy::Restore, Some(found)) => {
                let (config, edits) = self.restore_settings(&found.config);
                if edits.is_empty() {
                    return Ok(None);
                }
                let info = context.update_stream(config).await?;
                Some(RestoredStream::Settings { through: info.state.last_sequence })
            }
            _ => None,
        })
    }
}

/// What was restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RestoredStream {
    /// The missing stream was created again.
    Created,
    /// The edited settings were restored.
    Settings {
        /// The last sequence that was stored before that.
        through: u64,
    },
}

/// Why a stream was not restored.
#[derive(Debug, thiserror::Error)]
pub(super) enum RestoreError {
    #[error("{0}")]
    Look(#[from] RequestError),
    #[error("{0}")]
    Write(#[from] CreateStreamError),
}

/// Reads the settings and state of a stream; `None` if it does not exist.
///
/// # Errors
/// When nobody answers, or the server refuses.
pub async fn look(context: &Context, name: &str) -> Result<Option<Info>, RequestError> {
    match context.request(format!("STREAM.INFO.{name}"), &()).await? {
        Response::Ok(info) => Ok(Some(info)),
        Response::Err { error } if error.error_code() == ErrorCode::STREAM_NOT_FOUND => Ok(None),
        Response::Err { error } => {
            Err(RequestError::with_source(async_nats::jetstream::context::RequestErrorKind::Other, error))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Storage;
    use async_nats::jetstream;
    use std::time::Duration;
    use tickwire_testkit::NatsServer;

    fn config() -> StreamConfig {
        StreamConfig {
            name: "EVENTS".to_owned(),
            partitions: 4,
            replicas: 1,
            max_age: Duration::from_secs(60),
            max_bytes: 1 << 30,
            max_message: 524_288,
            duplicate_window: Duration::from_secs(60),
            storage: Storage::File,
        }
    }

    /// A stream of this configuration with this many messages and bytes.
    fn info(config: &Config, messages: u64, bytes: u64) -> Info {
        let time = "2026-11-27T12:00:00Z";
        let state = serde_json::json!({ "messages": messages, "bytes": bytes, "first_seq": 1, "first_ts": time,
            "last_seq": messages, "last_ts": time, "consumer_count": 0 });
        let info = serde_json::json!({ "config": config, "created": time, "state": state, "ts": time });
        serde_json::from_value(info).unwrap()
    }

    fn edits(kept: &ExpectedStream, edited: &Config) -> Vec<&'static str> {
        match kept.compare(Some(&info(edited, 7, 700))) {
            StreamSettings::There { edits, .. } => edits,
            StreamSettings::Missing => panic!(),
        }
    }

    #[test]
    fn new_stream_has_no_faults() {
        for kept in kept(&config()) {
            let settings = kept.compare(Some(&info(&kept.wanted, 7, 700)));
            let clean = StreamSettings::There { is_sealed: false, full: None, edits: vec![], replicas: None, last: 7 };
            assert_eq!((settings, kept.compare(None)), (clean, StreamSettings::Missing), "{}", kept.name());
        }
    }

    #[test]
    fn loss_of_what_operators_and_users_have_written_says_how_to_load_it_again() {
        let losses = kept(&config()).map(|kept| kept.keeps.loss());
        let lost: Vec<&str> = losses.into_iter().filter(|loss| !loss.contains("need not do anything")).collect();
        assert_eq!(lost.len(), 6, "{lost:?}");
        assert!(lost.iter().all(|loss| loss.contains(" lost")), "{lost:?}");
        for remedy in ["tickwire rules put", "tickwire reference load", "PUT /v1/subscriptions"] {
            assert_eq!(lost.iter().filter(|loss| loss.contains(remedy)).count(), 1, "{remedy}: {lost:?}");
        }
    }

    #[test]
    fn own_settings_are_compared_but_the_limits_of_operators_are_not() {
        let [events, _, _, leases, ..] = kept(&config());
        let wanted = || events.wanted.clone();
        let limits = Config { max_messages: 10, max_bytes: 5, max_age: Duration::ZERO, ..wanted() };
        assert_eq!(edits(&events, &limits), [] as [&str; 0]);
        let fewer = Config { subjects: vec!["events.>".to_owned()], ..wanted() };
        assert_eq!(edits(&events, &fewer), ["subjects"]);
        let plain = Config { subject_transform: None, allow_direct: false, ..wanted() };
        assert_eq!(edits(&events, &plain), ["subject_transform", "allow_direct"]);
        let one = Config { max_messages_per_subject: 1, metadata: Default::default(), ..wanted() };
        assert_eq!(edits(&events, &one), ["max_msgs_per_subject", "metadata"]);
        // Metadata of others, and of the stream's epoch, stays.
        let mut noted = wanted();
        noted.metadata.insert("tickwire.life".to_owned(), "7@8".to_owned());
        assert_eq!(edits(&events, &noted), [] as [&str; 0]);
        let full = Config { max_messages: 1, ..leases.wanted.clone() };
        assert_eq!(edits(&leases, &full), ["max_msgs"]);
        assert_eq!(leases.restore_settings(&full).0, leases.wanted);
    }

    #[tokio::test]
    async fn stream_is_read_before_it_is_restored_and_only_one_router_restores_it() {
        let server = NatsServer::start();
        let context = jetstream::new(async_nats::connect(server.url()).await.unwrap());
        let [events, ..] = kept(&config());
        let restore = async |remedy| events.restore(&context, remedy).await.unwrap();
        assert_eq!(restore(Remedy::Restore).await, None, "a missing stream is not restored");
        assert_eq!(restore(Remedy::Create).await, Some(RestoredStream::Created));
        assert_eq!(restore(Remedy::Create).await, None, "another router was first");
        let raised = Config { max_bytes: 2 << 30, ..events.wanted.clone() };
        context.update_stream(Config { allow_direct: false, ..raised.clone() }).await.unwrap();
        assert_eq!(restore(Remedy::Restore).await, Some(RestoredStream::Settings { through: 0 }));
        assert_eq!(restore(Remedy::Restore).await, None, "another router was first");
        let found = look(&context, events.name()).await.unwrap().unwrap().config;
        assert_eq!((found.max_bytes, found.allow_direct), (raised.max_bytes, true), "limits are the operator's");
    }

    #[test]
    fn stream_is_full_when_its_limit_makes_it_refuse_messages() {
        let [events, ..] = kept(&config());
        let full = |config: &Config, messages, bytes| match events.compare(Some(&info(config, messages, bytes))) {
            StreamSettings::There { full, .. } => full,
            StreamSettings::Missing => panic!(),
        };
        let old = Config { max_messages: 10, ..events.wanted.clone() };
        let new = Config { discard: DiscardPolicy::New, ..old.clone() };
        assert_eq!([full(&old, 10, 1), full(&new, 9, 1), full(&new, 10, 1)], [None, None, Some("max_msgs")]);
        assert_eq!(full(&new, 1, 1 << 30), Some("max_bytes"));
    }
}
