//! Reads the bucket of rules, and sends each new state to the decoder.
//!
//! Every look is a request of its own with a deadline, so there is nothing to restore after a lost connection: the next
//! look shows all that has changed meanwhile.

use super::ActiveRules;
use super::book::{KnownRules, RuleBook};
use crate::metrics;
use std::sync::Arc;
use std::time::Duration;
use tickwire_core::event::Kinds;
use tickwire_node::nats::Nats;
use tickwire_node::rule_bucket::{RuleBucket, RuleBucketError};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// The pause between two looks. Every router applies a change within a second.
const PAUSE: Duration = Duration::from_millis(400);

/// How long a router that starts tries to read the rules.
const START_DEADLINE: Duration = Duration::from_secs(20);

/// The task.
#[derive(Debug)]
pub(crate) struct RulesDriver {
    bucket: RuleBucket,
    book: RuleBook,
    current: watch::Sender<Arc<KnownRules>>,
    /// Whether the last look has failed.
    is_failing: bool,
}

impl RulesDriver {
    /// Reads the rules for the first time. No event may be routed before that: without its rules, it would go to
    /// sessions that must not get it.
    ///
    /// # Errors
    /// When the rules cannot be read before the deadline.
    pub(crate) async fn start(nats: &Nats, kinds: Kinds) -> Result<(Self, ActiveRules), RuleBucketError> {
        let end = Instant::now() + START_DEADLINE;
        let bucket = RuleBucket::open(nats).await?;
        let (current, rules) = watch::channel(Arc::default());
        let mut driver = Self { bucket, book: RuleBook::new(kinds), current, is_failing: false };
        loop {
            match driver.turn().await {
                Ok(()) => return Ok((driver, ActiveRules::new(rules))),
                Err(error) if Instant::now() >= end => return Err(error),
                Err(error) => debug!(%error, "rules not read yet"),
            }
            sleep(PAUSE).await;
        }
    }

    /// The bucket.
    pub(crate) fn bucket(&self) -> RuleBucket {
        self.bucket.clone()
    }

    /// Follows the rules until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        while stop.run_until_cancelled(sleep(PAUSE)).await.is_some() {
            let Some(done) = stop.run_until_cancelled(self.turn()).await else { return };
            let was_failing = std::mem::replace(&mut self.is_failing, done.is_err());
            match done {
                Ok(()) if was_failing => info!("rules read again"),
                Ok(()) => {}
                Err(error) if was_failing => debug!(%error, "rules not read"),
                // The set that is known stays in effect.
                Err(error) => warn!(%error, "rules not read, events are routed by those known before"),
            }
        }
    }

    /// Looks at the bucket, and reads what is new.
    async fn turn(&mut self) -> Result<(), RuleBucketError> {
        let state = self.bucket.state().await?;
        let Some(after) = self.book.look(state) else { return Ok(()) };
        let entries = self.bucket.entries_after(after).await?;
        if let Some(news) = self.book.take(state, after, entries) {
            self.publish(news);
        }
        Ok(())
    }

    fn publish(&self, news: KnownRules) {
        let KnownRules { set, skipped, .. } = &news;
        for rule in skipped {
            warn!(rule = rule.id.as_deref().unwrap_or("without an id"), fault = %rule.fault, "rule skipped");
        }
        info!(revision = set.revision().0, rules = set.rules().len(), skipped = skipped.len(), "new rules");
        metrics::RULE_REVISION.set(set.revision().0 as f64);
        metrics::RULES_SKIPPED.set(skipped.len() as f64);
        self.current.send_replace(Arc::new(news));
    }
}
