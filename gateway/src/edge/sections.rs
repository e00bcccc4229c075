//! Sections from routers: in batches, and in answers to requests for replays. Each is decoded once for all shards, and
//! offered to the coverage, which decides what to do with it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tickwire_core::coverage::SectionOutcome;
use tickwire_core::coverage::section::{Batch, Section};
use tickwire_core::event::Event;
use tickwire_core::ids::{Millis, Seq};
use tickwire_core::replay::{ReplayAnswer, ReplayPart};
use tickwire_core::wire;

use super::{Edge, refused};
use crate::backfill::cohorts::Cohorts;
use crate::delivery::Delivery;
use crate::metrics;
use crate::traced::BatchTraces;

impl Edge {
    /// Takes a batch of a router, as it arrived. `arrived` is the monotonic time of that, if the time from there to the
    /// socket is to be measured.
    pub fn take_batch(&mut self, now: Millis, arrived: Option<Duration>, payload: &[u8]) {
        self.take_traced_batch(now, arrived, payload, &BatchTraces::default());
    }

    /// The same with the contexts of its traced events.
    pub(super) fn take_traced_batch(
        &mut self,
        now: Millis,
        arrived: Option<Duration>,
        payload: &[u8],
        traces: &BatchTraces,
    ) {
        let batch: Batch<Bytes> = match wire::decode(payload) {
            Ok(batch) => batch,
            Err(error) => return refused(&error),
        };
        metrics::BATCHES.increment(1);
        let epoch = batch.epoch();
        for section in batch.sections {
            let (partition, through) = (section.partition, section.through);
            if !self.horizon.admits(epoch.epoch_id, through.max(section.prev).max(epoch.before)) {
                metrics::SECTIONS.with("unseen").increment(1);
                continue;
            }
            // A section with an unreadable event proves nothing. Its range is requested again.
            let section = match decode_section(section, arrived, traces) {
                Ok(section) => section,
                Err(error) => {
                    refused(&error);
                    self.coverage.unreadable(now, epoch.epoch_id, partition, through);
                    continue;
                }
            };
            let events = section.events.len() as u64;
            let offered = self.coverage.offer(now, epoch, section, &mut self.coverage_events);
            metrics::SECTIONS.with(label(offered)).increment(1);
            metrics::RECEIVED_EVENTS.increment(events);
        }
    }

    /// The NATS server answers that no router is subscribed to the subject of this ask.
    pub fn take_no_answer(&mut self, now: Millis, ask: u64) {
        metrics::REPLAY_ANSWERS.with("nobody").increment(1);
        match Cohorts::is_cohort_ask(ask) {
            true => self.cohorts.refused(now, ask),
            false => self.coverage.refused(now, ask, &mut self.coverage_events),
        }
    }

    /// Takes a message of an answer. An unreadable one changes nothing: its ask ends by its deadline.
    pub fn take_answer(&mut self, now: Millis, ask: u64, payload: &[u8]) {
        let answer: ReplayAnswer<Bytes> = match wire::decode(payload) {
            Ok(answer) => answer,
            Err(error) => return refused(&error),
        };
        let ReplayAnswer { router, epoch_id, part, last } = answer;
        let end = match &part {
            ReplayPart::Events(section) => section.through.max(section.prev),
            ReplayPart::Removed { from, through, .. } => *through.max(from),
            ReplayPart::Refused(_) => Seq(0),
        };
        // Its ask ends by its deadline.
        if end > Seq(0) && !self.horizon.admits(epoch_id, end) {
            return metrics::REPLAY_ANSWERS.with("unseen").increment(1);
        }
        let (part, reason) = match part {
            ReplayPart::Events(section) => match decode_section(section, None, &BatchTraces::default()) {
                Ok(section) => {
                    metrics::REPLAYED_EVENTS.increment(section.events.len() as u64);
                    metrics::REPLAYED_BYTES.increment(payload.len() as u64);
                    (ReplayPart::Events(section), None)
                }
                Err(error) => return refused(&error),
            },
            ReplayPart::Removed { partition, from, through, damaged } => {
                let reason = damaged.map_or("removed", |_| "damaged");
                (ReplayPart::Removed { partition, from, through, damaged }, Some(reason))
            }
            ReplayPart::Refused(refusal) => (ReplayPart::Refused(refusal), Some(refusal.as_str())),
        };
        let answer = ReplayAnswer { router, epoch_id, part, last };
        let offered = match Cohorts::is_cohort_ask(ask) {
            true => self.cohorts.answer(now, ask, answer),
            false => self.coverage.answer(now, ask, answer, &mut self.coverage_events),
        };
        let outcome = match offered {
            SectionOutcome::Unasked => label(offered),
            _ => reason.unwrap_or(label(offered)),
        };
        metrics::REPLAY_ANSWERS.with(outcome).increment(1);
    }
}

fn label(offered: SectionOutcome) -> &'static str {
    match offered {
        SectionOutcome::Applied => "applied",
        SectionOutcome::Held => "held",
        SectionOutcome::Duplicate => "duplicate",
        SectionOutcome::Outdated => "outdated",
        SectionOutcome::Foreign => "foreign",
        SectionOutcome::Unsound => "unsound",
        SectionOutcome::Unasked => "unasked",
    }
}

fn decode_section(
    section: Section<Bytes>,
    arrived: Option<Duration>,
    traces: &BatchTraces,
) -> Result<Section<Arc<Delivery>>, wire::WireError> {
    let Section { partition, revision, prev, through, events } = section;
    let decode = |(seq, bytes): (Seq, Bytes)| {
        let event: Event = wire::decode_part(&bytes)?;
        let trace = traces.begin(partition, seq, &event);
        let delivery = Delivery::new(event, partition, seq).of_bytes(bytes.len()).arrived_at(arrived).traced(trace);
        Ok((seq, Arc::new(delivery)))
    };
    let events = events.into_iter().map(decode).collect::<Result<_, wire::WireError>>()?;
    Ok(Section { partition, revision, prev, through, events })
}
