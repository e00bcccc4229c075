//! The turns of a router's ownership, and the answers that it gets from the stream and the leases.

use super::*;

impl SimCluster {
    pub(super) fn turn_ownership(&mut self, number: usize) -> bool {
        let router = &mut self.routers[number];
        let now = self.now.plus(router.offset);
        if std::mem::take(&mut router.was_disconnected) {
            router.ownership.reconnected(now);
            router.completeness.forget_walks();
            router.intakes.values_mut().for_each(|intake| intake.reconnect());
            router.round_at = now;
        }
        let (late, operations) = std::mem::take(&mut router.operations).into_iter().partition(|op| op.until <= now);
        router.operations = operations;
        for Operation { source, is_write, .. } in late as Vec<Operation> {
            match is_write {
                true => router.ownership.lease_written(now, source, WriteOutcome::Unanswered),
                false => router.ownership.lease_read(now, source, None),
            }
            router.round_at = now;
        }
        if let Some((task, _)) = router.stream_request.take_if(|(_, at)| *at <= now) {
            self.answer_stream_task(number, now, task);
        }
        let router = &mut self.routers[number];
        if router.drains_until.is_some() {
            router.ownership.drain(now);
        }
        if router.is_cut {
            router.ownership.disconnected(now);
        }
        if router.round_at <= now {
            router.round_at = now.plus(IDLE_ROUNDS * millis(ROUND));
            router.ownership.turn(now, Arc::clone(&router.view), &router.report, &router.checkpoints);
        }
        let tasks = router.ownership.take_tasks();
        let is_busy = !tasks.is_empty();
        if is_busy {
            router.round_at = router.round_at.min(now.plus(millis(ROUND)));
        }
        for task in tasks {
            self.start_task(number, now, task);
        }
        is_busy
    }

    /// Gives the ownership the stream's answer to a task, or none.
    fn answer_stream_task(&mut self, number: usize, now: Millis, task: StreamTask) {
        let is_late = self.routers[number].is_cut || self.failing && self.network.random(10) == 0;
        match task {
            StreamTask::Look(expected) => {
                let look = StreamLook::at(self, &expected).now_or_never().expect("an answer").expect("no failure");
                self.routers[number].ownership.stream_checked(now, (!is_late).then_some(look));
            }
            StreamTask::Begin { known, before } => {
                let facts = (!is_late).then(|| self.begin_epoch(known, before));
                self.routers[number].ownership.epoch_begun(now, facts);
            }
        }
        self.routers[number].round_at = now;
    }

    /// Starts a task of the ownership.
    fn start_task(&mut self, number: usize, now: Millis, task: OwnershipTask) {
        let router = &mut self.routers[number];
        let request = match task {
            OwnershipTask::Order(order) => return router.orders.push_back(order),
            OwnershipTask::Look(expected) => {
                let at = now.plus(1 + self.network.random(LOOK));
                return router.stream_request = Some((StreamTask::Look(expected), at));
            }
            OwnershipTask::Begin { known, before } => {
                let at = now.plus(1 + self.network.random(LOOK));
                return router.stream_request = Some((StreamTask::Begin { known, before }, at));
            }
            OwnershipTask::Read(source) => KvRequest::Read(source),
            OwnershipTask::Write { source, revision, is_ours, checkpoint } => {
                let owner = is_ours.then(|| router.node.clone());
                KvRequest::Write { source, revision, record: LeaseRecord { owner, state: checkpoint } }
            }
        };
        self.nonces += 1;
        let deadline = lease_deadline(self.config.membership.lease_ttl);
        let (KvRequest::Read(source) | KvRequest::Write { source, .. }) = &request;
        let (source, is_write) = (*source, matches!(request, KvRequest::Write { .. }));
        router.operations.push(Operation { number: self.nonces, source, is_write, until: now.plus(millis(deadline)) });
        if !router.is_cut {
            self.network.send_once(self.now, SimMessage::Lease(number, self.nonces, request));
        }
    }
}
