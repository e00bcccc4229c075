//! The production queue and passes of replays, and readers of the stream that lag, fail, and end early.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tickwire_core::event::decode::{Reason, Undecodable};
use tickwire_core::ids::{EpochId, Millis, NodeRef, Revision, Seq};
use tickwire_core::interest::Interest;
use tickwire_core::interest::table::{LatestInterest, SharedInterest};
use tickwire_core::replay::{Purpose, ReplayAnswer, ReplayInterest, ReplayPart, ReplayRefusal, ReplayRequest};
use tickwire_core::wire;
use tickwire_router_node::decisions::{
    Asker, Decoded, Due, Pass, PassOutcome, Proof, Proved, QueuedReplay, ReadPurpose, ReplayedEvent, RoutedEvent, Span,
    Walked, is_proved, makes_sense, pack,
};

use super::cluster::{AT_ONCE, PARTITIONS, SimCluster, StoredEvent};
use super::intake::MAX_ANSWER_DELAY;
use super::network::{MAX_PAYLOAD, SimMessage};
use super::rules::SimRevision;

/// The most messages that a reader returns at a time, and the average number of reads before a pass is out of time.
const READ: u64 = 3;
const BATCHES: u64 = 4;

/// The percentage of readers whose server lags, where nodes fail.
const LAGGING: u64 = 15;

/// A pass that has taken this long answers with what it has.
const LONG: Duration = Duration::from_secs(1);

/// A gateway, and the number of its ask.
type SimRequest = (NodeRef, u64);

/// A pass that is under way.
pub(super) struct SimPass {
    pass: Pass<SimRequest>,
    purpose: Purpose,
    reader: Option<SimRangeReader>,
    until: Millis,
    /// Whether it has read everything, and must prove that.
    is_read: bool,
}

/// A reader of the copy of the stream on one server.
struct SimRangeReader {
    span: Span,
    server: usize,
    /// The last sequence that the server has.
    end: Seq,
    cursor: Seq,
    proof: Proof,
}

impl SimPass {
    /// When it is due next.
    pub(super) fn due(&self) -> Millis {
        self.until
    }
}

impl SimRangeReader {
    /// Whether it reads every message of the stream.
    fn reads_all(&self) -> bool {
        self.span.partition.is_none() || self.proof == Proof::Sequences
    }
}

impl SimCluster {
    /// A router receives a request for a replay.
    pub(super) fn enqueue_replay(&mut self, number: usize, ask: u64, request: ReplayRequest) {
        let router = &mut self.routers[number];
        router.due = AT_ONCE;
        let (now, reply) = (router.time(self.now), (request.gateway.clone(), ask));
        let asker = Asker::of(&request.gateway, &router.view);
        if let Some(refused) = router.queue.push(now, asker, request, reply) {
            self.refuse(number, &refused, ReplayRefusal::Busy);
        }
    }

    /// Gives the passes of a router their turns. Returns whether they did anything.
    pub(super) fn turn_replays(&mut self, number: usize, now: Millis) -> bool {
        let mut is_busy = false;
        while let Some(Due { requests, stale }) = self.routers[number].queue.begin(now) {
            is_busy = true;
            stale.iter().for_each(|waiting| self.refuse(number, waiting, ReplayRefusal::Busy));
            if !requests.is_empty() {
                let running = self.begin_pass(number, now, requests);
                self.routers[number].passes.push(running);
            }
        }
        for running in self.routers[number].passes.extract_if(.., |running| running.until <= now).collect::<Vec<_>>() {
            is_busy = true;
            self.advance(number, now, running);
        }
        is_busy
    }

    /// Begins a pass for requests. Those without usable interest are refused.
    fn begin_pass(&mut self, number: usize, now: Millis, requests: Vec<QueuedReplay<SimRequest>>) -> SimPass {
        let view = Arc::clone(&self.routers[number].view);
        let purpose = requests[0].request.purpose;
        let mut pass = Pass::new(PARTITIONS, self.config.router.replay_bytes, view);
        for waiting in requests {
            match self.interest_for(number, &waiting.request) {
                Ok((revision, interest)) => pass.add(waiting, revision, interest),
                Err(refusal) => self.refuse(number, &waiting, refusal),
            }
        }
        let reader = pass.span().map(|span| self.reader(span));
        SimPass { pass, purpose, reader, until: now.plus(self.reading), is_read: false }
    }

    /// A reader of one of the kinds that routers use. Its server may lag.
    fn reader(&mut self, span: Span) -> SimRangeReader {
        let lags = self.failing && self.network.random(100) < LAGGING;
        let end = if lags { Seq(self.last.0.saturating_sub(self.network.random(6))) } else { Seq(u64::MAX) };
        let (server, name) = self.leader();
        let is_consumer = self.network.random(2) == 0;
        let proof = match (is_consumer, name) {
            (true, Some(name)) => Proof::Leaders(Some(name)),
            (true, None) if span.partition.is_some() => Proof::OneCopy,
            _ => Proof::Sequences,
        };
        SimRangeReader { span, server, end, cursor: span.from, proof }
    }

    /// Continues a pass that is due.
    fn advance(&mut self, number: usize, now: Millis, mut running: SimPass) {
        if !running.is_read {
            match self.read_range(number, &mut running) {
                Ok(is_read) => running.is_read = is_read,
                Err(refusal) => {
                    running.pass.ended();
                    return self.finish(number, running, &Err(refusal));
                }
            }
            // Other things may happen before the proof.
            if !running.is_read || self.failing && self.network.random(4) == 0 {
                running.until = now.plus(1 + self.network.random(MAX_ANSWER_DELAY));
                return self.routers[number].passes.push(running);
            }
        }
        let proved = self.prove(number, &running);
        self.finish(number, running, &proved);
    }

    /// Reads more of the range. Returns whether the reading is complete.
    fn read_range(&mut self, number: usize, SimPass { pass, reader, .. }: &mut SimPass) -> Result<bool, ReplayRefusal> {
        let Some(reader) = reader else { return Ok(true) };
        let (reads_all, rules) = (reader.reads_all(), Rc::clone(&self.routers[number].rules));
        loop {
            if self.is_unanswered(number) {
                return Err(ReplayRefusal::Unreadable);
            }
            let dice = self.network.random(BATCHES);
            if !pass.wants_more(if dice == 0 { LONG } else { Duration::ZERO }) {
                return Ok(true);
            }
            // A walk proves the sequences against the leader's copy, so the reader reads that copy.
            let server = if reader.proof == Proof::Sequences { self.leader().0 } else { reader.server };
            let most = 1 + self.network.random(READ) as usize;
            let there = self.readable_at(server, reader.cursor).take_while(|stored| stored.seq <= reader.end);
            let wanted = there.filter(|stored| reads_all || Some(stored.partition) == reader.span.partition);
            let messages: Vec<StoredEvent> = wanted.take(most).cloned().collect();
            let Some(last) = messages.last() else {
                pass.ended();
                return Ok(true);
            };
            reader.cursor = last.seq;
            for stored in &messages {
                pass.take(stored.seq, Some(stored.partition.0.into()), || decode(stored, &rules));
            }
            pass.advance(messages.len() as u64, last.seq, reads_all);
            if self.failing && dice == 1 {
                return Ok(false);
            }
        }
    }

    /// Proves afterwards that the reading was complete, and returns the state of the stream.
    fn prove(&mut self, number: usize, SimPass { pass, reader, .. }: &SimPass) -> Result<Proved, ReplayRefusal> {
        let (state, proofs) = (self.state(), reader.iter().map(|reader| reader.proof.clone()).collect::<Vec<_>>());
        if self.is_unanswered(number) || !is_proved(&proofs, &state) {
            return Err(ReplayRefusal::Unreadable);
        }
        let Some((from, through)) = pass.claimed(&state.facts) else {
            return Ok(Proved {
                facts: state.facts,
                walked: Walked { through: Seq(0), missing: Vec::new(), removed: Seq(0) },
            });
        };
        if through > self.last {
            return Err(ReplayRefusal::Unreadable);
        }
        Ok(Proved { facts: state.facts, walked: self.walk(number, from, through) })
    }

    /// Sends the answers of a pass.
    fn finish(&mut self, number: usize, running: SimPass, proved: &Result<Proved, ReplayRefusal>) {
        let SimPass { pass, purpose, .. } = running;
        let mut left = Vec::new();
        for outcome in pass.finish(proved.as_ref().map_err(|refusal| *refusal)) {
            match outcome {
                PassOutcome::Answered(waiting, parts) => {
                    let epoch_id = waiting.request.epoch_id;
                    // Several messages make an answer, and may arrive in any order.
                    let parts = parts.into_iter().flat_map(packed).flat_map(|part| self.network.split(part)).collect();
                    self.send_answer(number, &waiting.reply, epoch_id, parts);
                }
                PassOutcome::Refused(waiting, refusal) => self.refuse(number, &waiting, refusal),
                PassOutcome::Left(waiting) => left.push(waiting),
            }
        }
        self.routers[number].queue.ended(purpose, left);
    }

    pub(super) fn refuse(&mut self, number: usize, waiting: &QueuedReplay<SimRequest>, refusal: ReplayRefusal) {
        self.send_answer(number, &waiting.reply, EpochId(0), vec![ReplayPart::Refused(refusal)]);
    }

    fn send_answer(&mut self, number: usize, reply: &SimRequest, epoch_id: EpochId, parts: Vec<ReplayPart<Bytes>>) {
        let ((gateway, ask), count) = (reply, parts.len());
        if self.routers[number].is_cut {
            return;
        }
        for (at, part) in parts.into_iter().enumerate() {
            let router = self.routers[number].node.clone();
            let bytes = wire::encode(&ReplayAnswer { router, epoch_id, part, last: at + 1 == count }).unwrap();
            self.network.send(self.now, &SimMessage::Answer(gateway.clone(), *ask, bytes.into()));
        }
    }

    /// The interest to match against. A router must not use an older revision than the gateway asked for. With faults
    /// it may, but its answer has the revision that it used, so the gateway can detect that.
    fn interest_for(
        &mut self,
        number: usize,
        request: &ReplayRequest,
    ) -> Result<(Revision, Arc<LatestInterest>), ReplayRefusal> {
        if !makes_sense(request, PARTITIONS) {
            return Err(ReplayRefusal::Malformed);
        }
        match &request.interest {
            ReplayInterest::Carried(part) => {
                let (revision, interest) = Interest::assemble(vec![part.clone()]).ok_or(ReplayRefusal::Malformed)?;
                Ok((revision, Arc::new(SharedInterest::new(interest).held())))
            }
            ReplayInterest::ByRevision(least) => {
                let ignores_revision = self.failing && self.network.random(2) == 0;
                let least = if ignores_revision { Revision(0) } else { *least };
                let known = self.routers[number].engine.interest(&request.gateway, least);
                let (revision, interest) = known.ok_or(ReplayRefusal::UnknownInterest)?;
                Ok((revision, Arc::new(interest.held())))
            }
        }
    }
}

/// The content of a message, as the decoder of a router with these rules would return it.
fn decode(stored: &StoredEvent, rules: &SimRevision) -> Option<ReplayedEvent> {
    let StoredEvent { is_heartbeat, is_unreadable, .. } = stored;
    ReplayedEvent::of(match (is_unreadable, is_heartbeat) {
        (true, _) => Err(Undecodable::new(Reason::Unreadable, String::new())),
        (false, true) => Ok(Decoded::Heartbeat),
        (false, false) => Ok(match rules.read(stored, ReadPurpose::Replay) {
            Decoded::Event(event, _) => Decoded::Event(event, ()),
            Decoded::Heartbeat => Decoded::Heartbeat,
            Decoded::Dropped => Decoded::Dropped,
        }),
    })
}

/// The messages that carry a part of an answer.
fn packed(part: ReplayPart<RoutedEvent>) -> Vec<ReplayPart<Bytes>> {
    match part {
        ReplayPart::Events(section) => {
            pack(vec![section], MAX_PAYLOAD / 2).into_iter().flatten().map(ReplayPart::Events).collect()
        }
        ReplayPart::Removed { partition, from, through, damaged } => {
            vec![ReplayPart::Removed { partition, from, through, damaged }]
        }
        ReplayPart::Refused(refusal) => vec![ReplayPart::Refused(refusal)],
    }
}
