//! The settings of each stream and bucket, and how an existing one is changed to them.

use super::error::ProvisionError;
use crate::config::{Storage, StreamConfig};
use crate::names;
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType, SubjectTransform};
use std::collections::HashMap;
use std::time::Duration;

/// How long dead letters are kept.
const DEAD_LETTERS_AGE: Duration = Duration::from_secs(7 * 24 * 3600);

/// How many bytes of dead letters are kept.
const DEAD_LETTERS_BYTES: i64 = 256 * 1024 * 1024;

/// The stream of events. It has no limit per subject and no TTL per message: nothing is missing between the first and
/// the last sequence, so a router can send sections for the ranges that it has read.
pub(crate) fn events(config: &StreamConfig) -> Config {
    Config {
        name: config.name.clone(),
        description: Some("Market events, stored by partition".to_owned()),
        subjects: subjects(config),
        subject_transform: Some(SubjectTransform {
            source: names::SOURCE_EVENTS.to_owned(),
            destination: names::transform(config.partitions),
        }),
        metadata: HashMap::from([(names::PARTITIONS_METADATA.to_owned(), config.partitions.to_string())]),
        max_age: config.max_age,
        max_bytes: config.max_bytes,
        max_message_size: config.max_message,
        duplicate_window: config.duplicate_window,
        ..kept(config)
    }
}

/// The subjects that producers publish to, and the heartbeats of each configured partition. A heartbeat of any other
/// partition would have no reader, so a publisher gets an error that no stream takes it.
fn subjects(config: &StreamConfig) -> Vec<String> {
    [names::SOURCE_ALL.to_owned()].into_iter().chain((0..config.partitions).map(names::heartbeat)).collect()
}

/// The stream of dead letters.
pub(crate) fn dead_letters(config: &StreamConfig) -> Config {
    Config {
        name: names::DEAD_LETTERS.to_owned(),
        description: Some("Events that could not be read, each with its reason".to_owned()),
        subjects: vec![names::DEAD_ALL.to_owned()],
        max_age: DEAD_LETTERS_AGE,
        max_bytes: DEAD_LETTERS_BYTES,
        ..kept(config)
    }
}

/// A bucket, with the settings that NATS' clients expect.
pub(crate) fn bucket(name: &str, config: &StreamConfig) -> Config {
    Config {
        name: format!("KV_{name}"),
        subjects: vec![format!("$KV.{name}.>")],
        max_messages_per_subject: 1,
        discard: DiscardPolicy::New,
        allow_rollup: true,
        deny_delete: true,
        max_bytes: -1,
        ..kept(config)
    }
}

/// How long an acknowledgement is kept.
pub const ACKS_KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// The bucket of acknowledgements. It forgets a user who has acknowledged nothing for so long.
pub(crate) fn acks(config: &StreamConfig) -> Config {
    Config { max_age: ACKS_KEPT, ..bucket(names::ACKS_BUCKET, config) }
}

/// The settings that all of them share.
fn kept(config: &StreamConfig) -> Config {
    Config {
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::Old,
        allow_direct: true,
        storage: storage(config),
        num_replicas: config.replicas,
        max_messages: -1,
        max_messages_per_subject: -1,
        max_consumers: -1,
        max_message_size: -1,
        ..Config::default()
    }
}

/// The running configuration with the settings that follow ours, and all others (placement, compression, additions of
/// the server) unchanged.
pub(super) fn adapt(running: &Config, wanted: &Config) -> Config {
    let duplicate_window =
        if wanted.duplicate_window.is_zero() { running.duplicate_window } else { wanted.duplicate_window };
    Config {
        subjects: wanted.subjects.clone(),
        subject_transform: wanted.subject_transform.clone(),
        max_age: wanted.max_age,
        max_bytes: wanted.max_bytes,
        max_message_size: wanted.max_message_size,
        max_messages_per_subject: wanted.max_messages_per_subject,
        allow_direct: wanted.allow_direct,
        num_replicas: wanted.num_replicas,
        duplicate_window,
        ..running.clone()
    }
}

/// The running configuration with our own settings restored: those that tickwire relies on and that no configuration
/// key sets, so that all nodes agree on them. For a bucket this includes its limits. Also returns the names of the
/// settings that differed.
pub(crate) fn restore_settings(running: &Config, wanted: &Config, is_bucket: bool) -> (Config, Vec<&'static str>) {
    let (mut config, mut edits) = (running.clone(), Vec::new());
    let mut put = |name, differs: bool| {
        if differs {
            edits.push(name);
        }
        differs
    };
    if put("subjects", running.subjects != wanted.subjects) {
        config.subjects.clone_from(&wanted.subjects);
    }
    if put("subject_transform", running.subject_transform != wanted.subject_transform) {
        config.subject_transform.clone_from(&wanted.subject_transform);
    }
    if put("max_msgs_per_subject", running.max_messages_per_subject != wanted.max_messages_per_subject) {
        config.max_messages_per_subject = wanted.max_messages_per_subject;
    }
    if put("allow_direct", running.allow_direct != wanted.allow_direct) {
        config.allow_direct = wanted.allow_direct;
    }
    if put("metadata", wanted.metadata.iter().any(|(name, value)| running.metadata.get(name) != Some(value))) {
        config.metadata.extend(wanted.metadata.clone());
    }
    if is_bucket && put("max_bytes", running.max_bytes != wanted.max_bytes) {
        config.max_bytes = wanted.max_bytes;
    }
    if is_bucket && put("max_msgs", running.max_messages != wanted.max_messages) {
        config.max_messages = wanted.max_messages;
    }
    if is_bucket && put("max_age", running.max_age != wanted.max_age) {
        config.max_age = wanted.max_age;
    }
    (config, edits)
}

/// Refuses a running stream of events that is not ours, or whose partitions or storage differ from the configuration.
pub(super) fn check_events(running: &Config, config: &StreamConfig) -> Result<(), ProvisionError> {
    let stream = || running.name.clone();
    let recorded = running.metadata.get(names::PARTITIONS_METADATA).and_then(|count| count.parse::<u32>().ok());
    match recorded {
        None => Err(ProvisionError::NotOurs { stream: stream() }),
        Some(running) if running != config.partitions => {
            Err(ProvisionError::Partitions { stream: stream(), running, configured: config.partitions })
        }
        Some(_) => check_storage(running, config),
    }
}

/// Refuses a running stream whose storage differs from the configuration.
pub(super) fn check_storage(running: &Config, config: &StreamConfig) -> Result<(), ProvisionError> {
    if running.storage == storage(config) {
        Ok(())
    } else {
        Err(ProvisionError::Storage {
            stream: running.name.clone(),
            running: format!("{:?}", running.storage).to_lowercase(),
        })
    }
}

fn storage(config: &StreamConfig) -> StorageType {
    match config.storage {
        Storage::File => StorageType::File,
        Storage::Memory => StorageType::Memory,
    }
}
