//! JetStream, the streams and the buckets: there, and as configured?

use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::{Info, StorageType};
use async_nats::jetstream::{self, ErrorCode};
use tickwire_node::config::{Storage, StreamConfig};
use tickwire_node::names;
use tickwire_node::nats::Nats;

use super::{Finding, Verdict};

/// Whether there is JetStream for us.
pub(super) async fn jetstream(nats: &Nats) -> Finding {
    match nats.jetstream.query_account().await {
        Ok(account) => {
            let found = format!("on, {} streams, {} MiB stored", account.streams, account.storage >> 20);
            Finding::new(Verdict::Ok, "jetstream", found)
        }
        Err(error) => {
            let mend = "start nats-server with -js, or enable JetStream for this account";
            Finding::new(Verdict::Fail, "jetstream", format!("{error}: {mend}"))
        }
    }
}

/// The stream of events, the dead letters and the buckets.
pub(super) async fn all(nats: &Nats, config: &StreamConfig) -> Vec<Finding> {
    let storage = match config.storage {
        Storage::File => StorageType::File,
        Storage::Memory => StorageType::Memory,
    };
    let mut findings = Vec::new();
    let buckets = [names::VIEW_BUCKET, names::LEASES_BUCKET].map(|bucket| format!("KV_{bucket}"));
    let streams = [config.name.clone(), names::DEAD_LETTERS.to_owned()].into_iter().chain(buckets);
    for name in streams {
        let what = if let Some(bucket) = name.strip_prefix("KV_") {
            format!("bucket {bucket}")
        } else {
            format!("stream {name}")
        };
        let finding = match look(&nats.jetstream, &name).await {
            Ok(None) => Finding::new(Verdict::Note, what, "not there yet: the first node that starts makes it"),
            Err(problem) => Finding::new(Verdict::Fail, what, problem),
            Ok(Some(info)) => {
                let faults = faults(&info, config, storage);
                if faults.is_empty() {
                    Finding::new(Verdict::Ok, what, told(&info))
                } else {
                    Finding::new(Verdict::Fail, what, faults.join("; "))
                }
            }
        };
        findings.push(finding);
    }
    findings
}

async fn look(context: &jetstream::Context, name: &str) -> Result<Option<Info>, String> {
    let answer = context.request(format!("STREAM.INFO.{name}"), &()).await;
    match answer.map_err(|error| format!("cannot be asked for: {error}; is this user permitted to use $JS.API.>?"))? {
        Response::Ok(info) => Ok(Some(info)),
        Response::Err { error } if error.error_code() == ErrorCode::STREAM_NOT_FOUND => Ok(None),
        Response::Err { error } => Err(error.to_string()),
    }
}

/// What is wrong with a stream, each with what to do. What a starting node puts right by itself is no fault.
fn faults(info: &Info, config: &StreamConfig, storage: StorageType) -> Vec<String> {
    let running = &info.config;
    let mut faults = Vec::new();
    if running.storage != storage {
        faults.push(format!("kept in {:?}, not as configured: set stream.storage to that", running.storage));
    }
    if running.name == config.name {
        match running.metadata.get(names::PARTITIONS_METADATA) {
            None => faults.push("not made by tickwire: set stream.name to another name, or delete it".to_owned()),
            Some(count) if *count != config.partitions.to_string() => faults.push(format!(
                "has {count} partitions, stream.partitions is {}: set stream.partitions = {count}, or use a new \
                 stream.name",
                config.partitions
            )),
            Some(_) => {
                let wanted = (names::SOURCE_EVENTS.to_owned(), names::transform(config.partitions));
                let transform = running.subject_transform.clone();
                if transform.map(|transform| (transform.source, transform.destination)) != Some(wanted) {
                    faults.push("lacks the partition transform: start a node, which puts it right".to_owned());
                }
            }
        }
    }
    faults
}

fn told(info: &Info) -> String {
    let replicas = match info.config.num_replicas {
        1 => "1 replica".to_owned(),
        replicas => format!("{replicas} replicas"),
    };
    let partitions = info.config.metadata.get(names::PARTITIONS_METADATA);
    let partitions = partitions.map(|count| format!("{count} partitions, ")).unwrap_or_default();
    format!("{partitions}{replicas}, {} messages, {} MiB", info.state.messages, info.state.bytes >> 20)
}
