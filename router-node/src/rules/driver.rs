//! Reads the bucket of rules again and again, and sends each new state to the decoder.

use super::ActiveRules;
use super::book::{KnownRules, RuleBook};
use crate::metrics;
use std::sync::Arc;
use std::time::Duration;
use tickwire_core::event::Kinds;
use tickwire_node::bucket::{BucketError, BucketNews, BucketReader};
use tickwire_node::nats::Nats;
use tickwire_node::rule_bucket::{RuleBucket, RuleBucketError};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// The pause between two looks. Every router applies a change within a second.
const PAUSE: Duration = Duration::from_millis(400);

/// After how many looks at an unchanged bucket it is read again from its beginning. Messages that were removed without
/// a mark show only then.
const REVIEW: u32 = 120;

/// How many skipped rules the log names when the rules have changed. `GET /v1/rules` names all.
const NAMED: usize = 32;

/// What to do when all rules are lost.
const LOAD_AGAIN: &str = "load them again with tickwire rules put FILE";

/// How long a router that starts tries to read the rules.
const START_DEADLINE: Duration = Duration::from_secs(20);

/// The task.
#[derive(Debug)]
pub(crate) struct RulesDriver {
    bucket: RuleBucket,
    reader: BucketReader,
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
        let bucket = RuleBucket::open(nats).await?;
        let (current, rules) = watch::channel(Arc::default());
        let reader = bucket.reader(REVIEW);
        let mut driver = Self { bucket, reader, book: RuleBook::new(kinds), current, is_failing: false };
        let news = driver.reader.first(START_DEADLINE).await?;
        driver.take(news);
        Ok((driver, ActiveRules::new(rules)))
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

    /// Looks at the bucket, and takes what is new.
    async fn turn(&mut self) -> Result<(), BucketError> {
        if let Some(news) = self.reader.look().await?.news {
            self.take(news);
        }
        Ok(())
    }

    fn take(&mut self, news: BucketNews) {
        if let Some(known) = self.book.take(news) {
            self.publish(known);
        }
    }

    fn publish(&self, known: KnownRules) {
        let KnownRules { set, skipped, lost, .. } = &known;
        if *lost > 0 {
            warn!(rules = *lost, advice = LOAD_AGAIN, "all rules are lost: their bucket is new and empty");
        }
        for rule in skipped.iter().take(NAMED) {
            warn!(rule = rule.id.as_deref().unwrap_or("without an id"), fault = %rule.fault, "rule skipped");
        }
        let (revision, count, skipped) = (set.revision().0, set.rules().len(), skipped.len());
        self.current.send_replace(Arc::new(known));
        // Whoever reads these may rely on the rules being in effect.
        info!(revision, rules = count, skipped, "new rules");
        metrics::RULES_SKIPPED.set(skipped as f64);
        metrics::RULE_REVISION.set(revision as f64);
    }
}
