//! Checks how many rules routers skip.

use std::time::Duration;
use tickwire_core::event::Kinds;
use tickwire_node::names::RULES_BUCKET;
use tickwire_node::nats::Nats;
use tickwire_node::rule_bucket::{RuleBucket, RuleBucketError};
use tickwire_node::storage;
use tokio::time::timeout;

use super::{CheckFinding, Verdict};
use crate::rules::ClusterRules;

const WHAT: &str = "rules";

/// How long to read the bucket, which may hold more than rules.
const DEADLINE: Duration = Duration::from_secs(5);

/// Reads the rules as a router with these kinds does; nothing if there is no bucket of rules yet.
pub(super) async fn check(nats: &Nats, kinds: &Kinds) -> Option<CheckFinding> {
    let stream = format!("KV_{RULES_BUCKET}");
    let Ok(Some(_)) = storage::look(&nats.jetstream, &stream).await else { return None };
    Some(match timeout(DEADLINE, read(nats, kinds)).await {
        Ok(Ok(ClusterRules { set, skipped, .. })) => judge(set.rules().len(), skipped.len()),
        Ok(Err(error)) => CheckFinding::new(Verdict::Note, WHAT, format!("not read: {error}")),
        Err(_) => CheckFinding::new(Verdict::Note, WHAT, format!("not read within {DEADLINE:?}")),
    })
}

async fn read(nats: &Nats, kinds: &Kinds) -> Result<ClusterRules, RuleBucketError> {
    ClusterRules::read(&RuleBucket::open(nats).await?, kinds).await
}

/// Judges the numbers of the rules that routers apply and of those that they skip.
pub(super) fn judge(applied: usize, skipped: usize) -> CheckFinding {
    if skipped == 0 {
        return CheckFinding::new(Verdict::Ok, WHAT, format!("{applied} stored, none skipped"));
    }
    let total = applied + skipped;
    let found = format!("routers skip {skipped} of {total}: `tickwire rules list` has the reasons");
    CheckFinding::new(Verdict::Fail, WHAT, found)
}
