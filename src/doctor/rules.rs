//! Checks how many rules routers skip.

use tickwire_core::event::Kinds;
use tickwire_node::names::RULES_BUCKET;
use tickwire_node::nats::Nats;
use tickwire_node::rule_bucket::{RuleBucket, RuleBucketError};
use tickwire_node::storage;

use super::{CheckFinding, Verdict};
use crate::rules::ClusterRules;

const WHAT: &str = "rules";

/// Reads the rules as a router with these kinds does; nothing if there is no bucket of rules yet.
pub(super) async fn check(nats: &Nats, kinds: &Kinds) -> Option<CheckFinding> {
    let stream = format!("KV_{RULES_BUCKET}");
    let Ok(Some(_)) = storage::look(&nats.jetstream, &stream).await else { return None };
    Some(match read(nats, kinds).await {
        Ok(ClusterRules { set, skipped, .. }) => judge(set.rules().len(), skipped.len()),
        Err(error) => CheckFinding::new(Verdict::Note, WHAT, format!("not read: {error}")),
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
