//! Checks that JetStream, the streams and the buckets exist and are as configured.

use async_nats::jetstream;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::AccountErrorKind;
use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::{Info, StorageType};
use serde::de::IgnoredAny;
use tickwire_node::config::{Storage, StreamConfig};
use tickwire_node::names;
use tickwire_node::nats::Nats;
use tickwire_node::provision::used_by_gateways;
use tickwire_node::storage::{self, CopyState, ExpectedStream, StreamSettings, copies_of};

use super::needs::DoctorRole;
use super::{CheckFinding, Verdict};

/// Checks that the account has JetStream.
pub(super) async fn jetstream(nats: &Nats) -> CheckFinding {
    match nats.jetstream.query_account().await {
        Ok(account) => {
            let found = format!("on, {} streams, {} stored", account.streams, size(account.storage));
            CheckFinding::new(Verdict::Ok, "jetstream", found)
        }
        Err(error) => {
            let advice = match error.kind() {
                AccountErrorKind::JetStream(refusal) if refusal.error_code() == ErrorCode::CLUSTER_NOT_AVAILABLE => {
                    "the servers of NATS have no leader: see that a majority of them runs, and that they reach each \
                     other"
                }
                _ => {
                    "start nats-server with -js, or enable JetStream for this account; if this user has the \
                     permissions of one role only, name the role by --role"
                }
            };
            CheckFinding::new(Verdict::Fail, "jetstream", format!("{error}: {advice}"))
        }
    }
}

/// Checks that the server refuses requests with unknown fields. One that takes them may take the acknowledgement of an
/// event for a request: a producer names the subject of its acknowledgement, and no permission applies to that.
pub(super) async fn strictness(nats: &Nats, config: &StreamConfig) -> CheckFinding {
    let what = "strict";
    let unknown = serde_json::json!({ "tickwire": 1 });
    let answer = nats.jetstream.request(format!("STREAM.INFO.{}", config.name), &unknown).await;
    match answer {
        Ok(Response::Err { error }) if error.error_code() == ErrorCode::INVALID_JSON => {
            CheckFinding::new(Verdict::Ok, what, "JetStream refuses requests with unknown fields")
        }
        Ok(Response::Ok(IgnoredAny) | Response::Err { .. }) => {
            let advice = "JetStream takes requests with unknown fields, so a producer can remove events by an \
                          acknowledgement: set jetstream { strict: true } on all servers";
            CheckFinding::new(Verdict::Fail, what, advice)
        }
        Err(error) => CheckFinding::new(Verdict::Note, what, format!("unknown: {error}")),
    }
}

/// Checks that the account has room for at least one more event.
pub(super) async fn account(nats: &Nats, config: &StreamConfig) -> CheckFinding {
    let what = "account";
    let account = match nats.jetstream.query_account().await {
        Ok(account) => account,
        Err(error) => return CheckFinding::new(Verdict::Note, what, format!("unknown: {error}")),
    };
    let (used, most) = match config.storage {
        Storage::File => (account.storage, account.limits.max_storage),
        Storage::Memory => (account.memory, account.limits.max_memory),
    };
    let Some(most) = most.and_then(|most| u64::try_from(most).ok()) else {
        let found =
            "the account has no storage limit; the limit of the server (max_file_store) cannot be checked from here";
        return CheckFinding::new(Verdict::Ok, what, found);
    };
    let (verdict, advice) = match most.saturating_sub(used) < u64::try_from(config.max_message).unwrap_or_default() {
        true => {
            (Verdict::Fail, ": NATS refuses events that do not fit; raise the account's limit, or delete something")
        }
        false => (Verdict::Ok, ""),
    };
    CheckFinding::new(verdict, what, format!("{used} of {most} bytes used{advice}"))
}

/// The stream of events, the dead letters and the buckets; for a gateway only those that it uses.
pub(super) async fn all(nats: &Nats, config: &StreamConfig, role: Option<DoctorRole>) -> Vec<CheckFinding> {
    let storage = match config.storage {
        Storage::File => StorageType::File,
        Storage::Memory => StorageType::Memory,
    };
    let mut findings = Vec::new();
    let mut missing = Vec::new();
    let used = used_by_gateways(&config.name);
    let may_ask =
        |kept: &ExpectedStream| role != Some(DoctorRole::Gateway) || used.iter().any(|name| name == kept.name());
    for kept in storage::kept(config).into_iter().filter(may_ask) {
        let name = kept.name();
        let what = if let Some(bucket) = name.strip_prefix("KV_") {
            format!("bucket {bucket}")
        } else {
            format!("stream {name}")
        };
        let finding = match look(&nats.jetstream, name).await {
            Ok(None) => {
                missing.push((findings.len(), kept.keeps.loss()));
                CheckFinding::new(Verdict::Note, what, "does not exist yet: the first router that starts creates it")
            }
            Err(problem) => CheckFinding::new(Verdict::Fail, what, problem),
            Ok(Some(info)) => {
                let faults = faults(&kept, &info, config, storage);
                match (faults.is_empty(), copies(&info)) {
                    (false, _) => CheckFinding::new(Verdict::Fail, what, faults.join("; ")),
                    (true, None) => CheckFinding::new(Verdict::Ok, what, summary(&info)),
                    (true, Some((verdict, lack))) => {
                        CheckFinding::new(verdict, what, format!("{}; {lack}", summary(&info)))
                    }
                }
            }
        };
        findings.push(finding);
    }
    // A router that starts creates all of them.
    if missing.len() < findings.len() {
        for (number, loss) in missing {
            let finding: &mut CheckFinding = &mut findings[number];
            let found = format!(
                "does not exist, though others do: is stream.name right? If it was deleted, routers create it again, \
                 empty; {loss}"
            );
            (finding.verdict, finding.found) = (Verdict::Fail, found);
        }
    }
    findings
}

async fn look(context: &jetstream::Context, name: &str) -> Result<Option<Info>, String> {
    let answer = storage::look(context, name).await;
    answer.map_err(|error| format!("cannot be read: {error}; may this user ask for it? `tickwire doctor --role` tells"))
}

/// The faults of a stream, each with what to do. Settings that a starting node corrects by itself are not faults.
fn faults(kept: &ExpectedStream, info: &Info, config: &StreamConfig, storage: StorageType) -> Vec<String> {
    let running = &info.config;
    let mut faults = Vec::new();
    if running.storage != storage {
        let kept_in = match running.storage {
            StorageType::File => "file",
            StorageType::Memory => "memory",
        };
        faults.push(format!("stored in another place than configured: set stream.storage = {kept_in:?}"));
    }
    if running.name == config.name {
        match running.metadata.get(names::PARTITIONS_METADATA) {
            None => faults.push("not created by tickwire: set stream.name to another name, or delete it".to_owned()),
            Some(count) if *count != config.partitions.to_string() => faults.push(format!(
                "has {count} partitions, stream.partitions is {}: set stream.partitions = {count}, or stop all nodes and \
                 delete the stream with all its events",
                config.partitions
            )),
            Some(_) => {}
        }
    }
    if !faults.is_empty() {
        return faults;
    }
    let StreamSettings::There { is_sealed, full, edits, replicas, .. } = kept.compare(Some(info)) else {
        return faults;
    };
    if is_sealed {
        faults.push(
            "sealed, so it stores nothing, and this cannot be undone: save its content, which can still be read, then \
             delete it, and routers create it again, empty"
                .to_owned(),
        );
    }
    if let Some(limit) = full {
        faults.push(format!("has reached {limit} and refuses new messages (discard: new): raise the limit"));
    }
    if !edits.is_empty() {
        faults.push(format!("{} not as tickwire needs: start a router, which corrects it", edits.join(", ")));
    }
    if let Some(found) = replicas {
        faults.push(format!(
            "has {found} copies, but stream.replicas = {}: the next router that starts sets it, which fails if the \
             NATS cluster has fewer servers",
            kept.replicas()
        ));
    }
    faults
}

/// What the copies of a stream lack. While a majority of them works, nothing stops: the fault is that of the next
/// server that ends.
fn copies(info: &Info) -> Option<(Verdict, String)> {
    let Some(copies) = copies_of(info) else {
        let found = "has no leader now: ask again, and see that a majority of the servers of NATS runs";
        return Some((Verdict::Fail, found.to_owned()));
    };
    let servers = |wanted: CopyState| -> Vec<&str> {
        let such = copies.iter().filter(|copy| CopyState::of(copy) == wanted);
        such.map(|copy| copy.name.as_str()).collect()
    };
    let (gone, behind) = (servers(CopyState::Gone), servers(CopyState::Behind));
    if !gone.is_empty() {
        let found = format!(
            "no sign of its copy on {}: see whether this server runs, and stop no other one before it is back",
            gone.join(", ")
        );
        return Some((Verdict::Fail, found));
    }
    let found = format!(
        "its copy on {} is behind: ask again, and stop no server before all copies are equal",
        behind.join(", ")
    );
    (!behind.is_empty()).then_some((Verdict::Note, found))
}

fn summary(info: &Info) -> String {
    let replicas = match info.config.num_replicas {
        1 => "1 replica".to_owned(),
        replicas => format!("{replicas} replicas"),
    };
    let partitions = info.config.metadata.get(names::PARTITIONS_METADATA);
    let partitions = partitions.map(|count| format!("{count} partitions, ")).unwrap_or_default();
    format!("{partitions}{replicas}, {} messages, {}", info.state.messages, size(info.state.bytes))
}

/// A size for people: little is not shown as nothing.
pub(super) fn size(bytes: u64) -> String {
    match bytes >> 20 {
        0 => format!("{} KiB", bytes.div_ceil(1024)),
        mib => format!("{mib} MiB"),
    }
}
