//! Replays: what routers answer, with everything that can be wrong with it.

use std::sync::Arc;

use bytes::Bytes;
use tickwire_core::ids::{Revision, Seq};
use tickwire_core::interest::Interest;
use tickwire_core::placement::Homes;
use tickwire_core::replay::{ReplayAnswer, ReplayBuilder, ReplayInterest, ReplayPart, ReplayRefusal, ReplayRequest};
use tickwire_core::wire;

use super::cluster::{SimCluster, StoredEvent};
use super::network::SimMessage;

/// The most messages that a router reads for one answer.
const READ: u64 = 5;

/// Of a hundred answers, how many end early when nodes fail: those of a replica that lags.
const LAGGING: u64 = 15;

impl SimCluster {
    pub(super) fn replay(&mut self, number: usize, ask: u64, request: &ReplayRequest) {
        let parts = match self.read_again(number, request) {
            Ok(parts) => parts,
            Err(refusal) => vec![ReplayPart::Refused(refusal)],
        };
        let count = parts.len();
        for (at, part) in parts.into_iter().enumerate() {
            let answer = ReplayAnswer {
                router: self.routers[number].node.clone(),
                epoch_id: self.epoch.epoch_id,
                part,
                last: at + 1 == count,
            };
            let read = self.now.plus(self.reading);
            let bytes = wire::encode(&answer).unwrap();
            self.network.send(read, &SimMessage::Answer(request.gateway.clone(), ask, bytes.into()));
        }
    }

    fn read_again(&mut self, number: usize, request: &ReplayRequest) -> Result<Vec<ReplayPart<Bytes>>, ReplayRefusal> {
        if request.epoch_id != self.epoch.epoch_id {
            return Err(ReplayRefusal::OtherStream);
        }
        let (revision, interest) = self.sought(number, request)?;
        let end = match self.failing && self.network.random(100) < LAGGING {
            true => Seq(self.last.0.saturating_sub(self.network.random(6))),
            false => self.last,
        };
        let most = 1 + self.network.random(READ) as usize;
        let mut homes = Homes::new(Arc::clone(&self.routers[number].view));
        let mut reply = ReplayBuilder::new(request, revision);
        let readable =
            self.readable(request.from).filter(|stored| stored.partition == request.partition && stored.seq <= end);
        for StoredEvent { seq, event, wire, is_heartbeat, .. } in readable.take(most) {
            let wanted = !is_heartbeat && interest.admits(event, &request.gateway, &mut homes);
            reply.read(*seq, wanted.then(|| wire.clone()));
        }
        let through = reply.through();
        let missing = self.missing(number, request.from, through);
        let parts = reply.finish(Seq(self.first.0 - 1), through, &missing);
        // An answer of several messages, which may come in any order.
        Ok(parts.into_iter().flat_map(|part| self.network.halve(part)).collect())
    }

    /// The interest to match against. One that is older than asked for is never to be used; some router does so all
    /// the same, but it cannot lie about its revision.
    fn sought(&mut self, number: usize, request: &ReplayRequest) -> Result<(Revision, Interest), ReplayRefusal> {
        match &request.interest {
            ReplayInterest::Carried(part) => Interest::assemble(vec![part.clone()]).ok_or(ReplayRefusal::Malformed),
            ReplayInterest::Told(least) => {
                let careless = self.failing && self.network.random(2) == 0;
                let least = if careless { Revision(0) } else { *least };
                let known = self.routers[number].engine.interest(&request.gateway, least);
                let (revision, interest) = known.ok_or(ReplayRefusal::UnknownInterest)?;
                Ok((revision, Interest::clone(&interest.latest())))
            }
        }
    }
}
