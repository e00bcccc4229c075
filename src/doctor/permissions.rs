//! Checks whether the configured user has the permissions of a role. It tries them, since only the server knows them;
//! no try has an effect.

use async_nats::header::{HeaderMap, NATS_EXPECTED_STREAM};
use tickwire_core::placement::Role;
use tickwire_node::config::Config;
use tickwire_node::names;
use tickwire_node::nats::{Nats, NatsError};

use super::{CheckFinding, Verdict};

/// A node that does not exist.
const NOBODY: &str = "doctor";

/// The subjects that a role uses.
struct RoleNeeds {
    subscribes: Vec<String>,
    publishes: Vec<String>,
}

fn needs(role: Role, stream: &str) -> RoleNeeds {
    let batches = names::gateway(NOBODY, "0");
    let snapshots = names::snapshot(NOBODY, "0");
    let interest = [names::INTEREST, names::INTEREST_BEAT].map(str::to_owned);
    let common = [
        names::beat(role.as_str()),
        names::name(NOBODY),
        "$JS.API.INFO".to_owned(),
        format!("$JS.API.STREAM.INFO.{stream}"),
        format!("$JS.API.STREAM.CREATE.{stream}"),
        format!("$JS.API.STREAM.UPDATE.{stream}"),
        format!("$JS.API.STREAM.MSG.GET.KV_{}", names::VIEW_BUCKET),
    ];
    let mut needs = RoleNeeds {
        subscribes: vec![names::VIEW.to_owned(), names::STORAGE.to_owned(), names::name(NOBODY)],
        publishes: common.to_vec(),
    };
    match role {
        Role::Router => {
            needs.subscribes.extend(interest);
            needs.subscribes.extend([names::beat("*"), names::REPLAY.to_owned(), names::replay_of(NOBODY, "0")]);
            needs.publishes.extend([
                batches,
                snapshots,
                names::replayed(NOBODY, "0", 0),
                names::direct_get(stream),
                names::VIEW.to_owned(),
                names::STORAGE.to_owned(),
                names::heartbeat(0),
                names::dead_letter(NOBODY),
                format!("$KV.{}.{}", names::VIEW_BUCKET, NOBODY),
                format!("$KV.{}.{}", names::LEASES_BUCKET, NOBODY),
                format!("$JS.API.STREAM.MSG.GET.KV_{}", names::LEASES_BUCKET),
                format!("$KV.{}.{}", names::CONTEXT_BUCKET, NOBODY),
                format!("$JS.API.STREAM.MSG.GET.{stream}"),
                format!("$JS.API.CONSUMER.CREATE.{stream}.{NOBODY}"),
                format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{NOBODY}"),
                format!("$JS.API.CONSUMER.DELETE.{stream}.{NOBODY}"),
            ]);
            for bucket in [names::RULES_BUCKET, names::CONTEXT_BUCKET, names::REFERENCE_BUCKET] {
                needs.publishes.push(format!("$JS.API.STREAM.INFO.KV_{bucket}"));
                needs.publishes.push(format!("$JS.API.STREAM.MSG.GET.KV_{bucket}"));
            }
        }
        Role::Gateway => {
            needs.subscribes.extend([batches, snapshots, names::replayed_all(NOBODY, "0")]);
            needs.publishes.extend(interest);
            needs.publishes.extend([
                names::REPLAY.to_owned(),
                names::replay_of(NOBODY, "0"),
                names::direct_get(stream),
            ]);
            needs.publishes.push(format!("{}.{NOBODY}", names::inbox(Role::Router.as_str())));
            needs.publishes.extend([
                format!("$KV.{}.{NOBODY}", names::SUBSCRIPTIONS_BUCKET),
                format!("$JS.API.STREAM.INFO.KV_{}", names::SUBSCRIPTIONS_BUCKET),
                format!("$JS.API.STREAM.MSG.GET.KV_{}", names::SUBSCRIPTIONS_BUCKET),
                names::source("alert", NOBODY),
                format!("$KV.{}.{NOBODY}", names::ACKS_BUCKET),
                format!("$JS.API.STREAM.INFO.KV_{}", names::ACKS_BUCKET),
                format!("$JS.API.STREAM.MSG.GET.KV_{}", names::ACKS_BUCKET),
                format!("$JS.API.STREAM.MSG.GET.{stream}"),
            ]);
        }
    }
    needs
}

/// Tries the permissions of a role, with the role's own inboxes.
pub(super) async fn of(role: Role, config: &Config) -> CheckFinding {
    let what = format!("may be a {role}", role = role.as_str());
    match tried(role, config).await {
        Ok(count) => CheckFinding::new(Verdict::Ok, what, format!("{count} subjects tried")),
        Err(error) => CheckFinding::new(Verdict::Fail, what, error.to_string()),
    }
}

async fn tried(role: Role, config: &Config) -> Result<usize, NatsError> {
    let nats = Nats::connect(&config.nats, role.as_str(), NOBODY).await?;
    let needs = needs(role, &config.stream.name);
    let failed = |error: &dyn std::fmt::Display| NatsError::NoAnswer { reason: error.to_string() };
    let mut subscriptions = Vec::new();
    for subject in needs.subscribes {
        subscriptions.push(nats.client.subscribe(subject).await.map_err(|error| failed(&error))?);
    }
    // No stream has this name: the server checks the permission, then the stream refuses the message.
    let mut headers = HeaderMap::new();
    headers.insert(NATS_EXPECTED_STREAM, NOBODY);
    let count = subscriptions.len() + needs.publishes.len();
    for subject in needs.publishes {
        let published = nats.client.publish_with_headers(subject, headers.clone(), "".into()).await;
        published.map_err(|error| failed(&error))?;
    }
    nats.check().await?;
    nats.close().await?;
    Ok(count)
}
