//! What an intake makes sure of before it claims anything: that retention has not passed it, that no copy of the stream
//! lacks what its leader has, and that the stream is still the one that it has read.

use super::chunk::Chunk;
use super::trouble::Trouble;
use super::{COMPARED, Intake, What};
use crate::ownership::tenancy::Checkpoint;
use crate::reader::leader;
use crate::replay::walk::{Haste, WalkError};
use crate::stream::{Facts, Sight};
use metrics::counter;
use std::time::Duration;
use tickwire_core::claims::Reading;
use tickwire_core::ids::Seq;
use tickwire_core::whole::MissingRange;
use tokio::time::timeout;
use tracing::warn;

/// How long what is live may wait for a walk of the stream.
const WALK_DEADLINE: Duration = Duration::from_secs(3);

impl Intake {
    /// Makes sure that retention has not passed what was to be read after `before`, and skips what it has taken; and that
    /// what this server has sent is what the leader has. When the server cannot be asked, or has more than was read, the
    /// chunk is not claimed, and is read again.
    pub(super) async fn catch_up(
        &mut self,
        before: Reading,
        server: Option<&str>,
        read: &mut Chunk,
    ) -> Result<(), Trouble> {
        let (kept, sight) = self.keep_up(before.last).await.inspect_err(|_| self.reading = before)?;
        if sight.facts.replicas > 1
            && server != sight.leader.as_deref()
            && let Err(trouble) = self.compare(kept, read).await
        {
            self.reading = Reading::after(kept);
            return Err(trouble);
        }
        read.events.retain(|event| event.seq > kept);
        read.missing = self.missing(kept).await;
        Ok(())
    }

    /// What the stream lacks between `after` and the last message that was read. Where that cannot be found out, what is
    /// live goes on.
    async fn missing(&self, after: Seq) -> Vec<MissingRange> {
        let walk = self.context.walker.missing(after, self.reading.last, Haste::Live, None);
        match timeout(WALK_DEADLINE, walk).await.unwrap_or(Err(WalkError::Late)) {
            Ok(walked) => walked.missing,
            Err(error) => {
                counter!("tickwire_router_unwalked_ranges_total").increment(1);
                warn!(source = %self.tenure.source, %error, "whether anything is missing of what was read is not known");
                Vec::new()
            }
        }
    }

    /// Makes sure that each message is the leader's next one as well. Of many that would take too long: they are to be read
    /// from the leader.
    async fn compare(&self, mut after: Seq, read: &Chunk) -> Result<(), Trouble> {
        if read.first.len() > COMPARED {
            return Err(Trouble::Elsewhere);
        }
        let (context, filter) = (&self.context, self.tenure.source.filter());
        for seq in &read.first {
            // What retention has taken meanwhile is skipped.
            if *seq <= after {
                continue;
            }
            let next = leader::first_after(&context.nats, &context.decoder.stream, after, &filter).await;
            if next.map_err(Trouble::Failed)?.is_some_and(|next| next.seq < *seq) {
                return Err(Trouble::Behind);
            }
            after = *seq;
        }
        Ok(())
    }

    /// Makes sure that the last message that was read is there still, and not another in its place.
    pub(super) async fn check_last(&self, facts: &Facts) -> Result<(), Trouble> {
        let Some(mark) = self.mark else { return Ok(()) };
        let has = facts.has(&self.context.nats, &self.context.decoder.stream, mark).await;
        if has.map_err(|error| Trouble::Failed(error.to_string()))? != Some(false) {
            return Ok(());
        }
        let (floor, incarnation, mark) = (mark.seq, self.incarnation, Some(mark));
        self.tell(What::Missing(Checkpoint { floor, incarnation, mark })).await;
        Err(Trouble::Lost)
    }

    /// Skips what cannot be read any more after `last`. Returns up to where that is, or `last`, and what the stream is like.
    pub(super) async fn keep_up(&mut self, last: Seq) -> Result<(Seq, Sight), Trouble> {
        let context = &self.context;
        let sight = Sight::look(&context.nats, &context.decoder.stream).await;
        let sight = sight.map_err(|error| Trouble::Failed(error.to_string()))?;
        if sight.facts.incarnation != self.incarnation {
            return Err(Trouble::OtherStream);
        }
        let least = sight.facts.least_floor();
        if least <= last {
            return Ok((last, sight));
        }
        warn!(source = %self.tenure.source, after = %last, upto = %least, "retention has passed what was to be read");
        counter!("tickwire_router_skipped_ranges_total").increment(1);
        self.reading.last = self.reading.last.max(least);
        self.tell(What::Skip(least)).await;
        Ok((least, sight))
    }
}
