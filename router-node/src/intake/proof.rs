//! What an intake makes sure of before it claims anything: that retention has not passed it, that no copy of the stream
//! lacks what its leader has, and that the stream is still the one that it has read.

use super::chunk::Chunk;
use super::trouble::IntakeTrouble;
use super::{COMPARED, Intake, IntakeEvent};
use crate::checkpoint::Checkpoint;
use crate::metrics;
use crate::reader::leader;
use crate::stream::{StreamFacts, StreamView};
use crate::walk::{WalkError, WalkPace};
use std::time::Duration;
use tickwire_core::coverage::builder::Contiguity;
use tickwire_core::coverage::completeness::MissingRange;
use tickwire_core::ids::Seq;
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
        before: Contiguity,
        server: Option<&str>,
        read: &mut Chunk,
    ) -> Result<(), IntakeTrouble> {
        let (kept, sight) = self.keep_up(before.last).await.inspect_err(|_| self.reading = before)?;
        if sight.facts.replicas > 1
            && server != sight.leader.as_deref()
            && let Err(trouble) = self.compare(kept, read).await
        {
            self.reading = Contiguity::after(kept);
            return Err(trouble);
        }
        read.events.retain(|event| event.seq > kept);
        read.missing = self.missing(kept).await;
        Ok(())
    }

    /// What the stream lacks between `after` and the last message that was read. Where that cannot be found out, what is
    /// live goes on.
    async fn missing(&self, after: Seq) -> Vec<MissingRange> {
        let walk = self.context.walker.missing(after, self.reading.last, WalkPace::Live, None);
        match timeout(WALK_DEADLINE, walk).await.unwrap_or(Err(WalkError::Late)) {
            Ok(walked) => walked.missing,
            Err(error) => {
                metrics::UNWALKED_RANGES.increment(1);
                warn!(source = %self.tenure.source, %error, "whether anything is missing of what was read is not known");
                Vec::new()
            }
        }
    }

    /// Makes sure that each message is the leader's next one as well. Of many that would take too long: they are to be read
    /// from the leader.
    async fn compare(&self, mut after: Seq, read: &Chunk) -> Result<(), IntakeTrouble> {
        if read.first.len() > COMPARED {
            return Err(IntakeTrouble::Elsewhere);
        }
        let (context, filter) = (&self.context, self.tenure.source.filter());
        for seq in &read.first {
            // What retention has taken meanwhile is skipped.
            if *seq <= after {
                continue;
            }
            let next = leader::first_after(&context.nats, &context.decoder.stream, after, &filter).await;
            if next.map_err(IntakeTrouble::Failed)?.is_some_and(|next| next.seq < *seq) {
                return Err(IntakeTrouble::Behind);
            }
            after = *seq;
        }
        Ok(())
    }

    /// Makes sure that the last message that was read is there still, and not another in its place.
    pub(super) async fn check_last(&self, facts: &StreamFacts) -> Result<(), IntakeTrouble> {
        let Some(mark) = self.mark else { return Ok(()) };
        let has = facts.has(&self.context.nats, &self.context.decoder.stream, mark).await;
        if has.map_err(|error| IntakeTrouble::Failed(error.to_string()))? != Some(false) {
            return Ok(());
        }
        let (checkpoint, epoch_id, mark) = (mark.seq, self.epoch_id, Some(mark));
        self.tell(IntakeEvent::Missing(Checkpoint { checkpoint, epoch_id, mark })).await;
        Err(IntakeTrouble::Lost)
    }

    /// Skips what cannot be read any more after `last`. Returns up to where that is, or `last`, and what the stream is like.
    pub(super) async fn keep_up(&mut self, last: Seq) -> Result<(Seq, StreamView), IntakeTrouble> {
        let context = &self.context;
        let sight = StreamView::look(&context.nats, &context.decoder.stream).await;
        let sight = sight.map_err(|error| IntakeTrouble::Failed(error.to_string()))?;
        if sight.facts.epoch_id != self.epoch_id {
            return Err(IntakeTrouble::OtherStream);
        }
        let least = sight.facts.least_checkpoint();
        if least <= last {
            return Ok((last, sight));
        }
        warn!(source = %self.tenure.source, after = %last, through = %least, "retention has passed what was to be read");
        metrics::SKIPPED_RANGES.increment(1);
        self.reading.last = self.reading.last.max(least);
        self.tell(IntakeEvent::Skip(least)).await;
        Ok((least, sight))
    }
}
