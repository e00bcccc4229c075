//! Performs what the engine of a router wants done, as its driver does.

use super::*;

impl SimCluster {
    /// Performs the outputs of the engine.
    pub(super) fn perform(&mut self, number: usize, now: Millis) -> bool {
        let outputs = self.routers[number].engine.take_outputs();
        let report = self.routers[number].engine.take_report();
        let is_busy = !outputs.is_empty();
        for output in outputs {
            let router = &mut self.routers[number];
            match output {
                EngineOutput::Read { tenure, epoch_id, checkpoint } => {
                    router.published.begin(tenure, checkpoint);
                    router.intakes.insert(tenure, Box::new(SimIntake::new(tenure, epoch_id, checkpoint)));
                }
                EngineOutput::Stop(tenure) => drop(router.intakes.remove(&tenure)),
                EngineOutput::Send { .. } if router.is_cut => panic!("{} sends without a connection", router.node),
                EngineOutput::Send { gateway, epoch, sections } => {
                    let Epoch { before, .. } = epoch;
                    let is_of_epoch = sections.iter().all(|section| section.prev >= before);
                    assert!(
                        is_of_epoch,
                        "sections begin before their epoch, which begins after {before}: {sections:?}"
                    );
                    router.published.send(&gateway, &sections);
                    for batch in batches(&router.node, epoch, sections, MAX_PAYLOAD) {
                        let ends = batch.sections.iter().map(|section| (section.partition, section.through));
                        let ends = BatchEnds { epoch_id: batch.epoch_id, ends: ends.collect() };
                        let bytes = wire::encode(&batch).unwrap();
                        self.network.send(self.now, &SimMessage::Batch(gateway.clone(), bytes.into(), ends));
                    }
                }
                // A router that drains needs no interest.
                EngineOutput::AskSnapshot { .. } if router.drains_until.is_some() => {}
                EngineOutput::AskSnapshot { gateway, attempts } => {
                    let at = now.plus(SNAPSHOT_BACKOFF.after(attempts));
                    let until = at.plus(millis(SNAPSHOT_DEADLINE));
                    router.snapshots.insert(gateway, SnapshotRequest { at: Some(at), until });
                }
                // Batches are flushed at once, unless the router has no connection.
                EngineOutput::Checkpoint(_) if router.is_cut => {}
                EngineOutput::Checkpoint(checkpoints) => {
                    router.published.check(&checkpoints, report.as_ref().unwrap_or(&router.report), &router.view);
                    router.checkpoints = checkpoints;
                }
                EngineOutput::Released { tenures, checkpoints } => {
                    router.published.check(&checkpoints, report.as_ref().unwrap_or(&router.report), &router.view);
                    let checkpoints = if router.is_cut { SourceCheckpoints::new() } else { checkpoints };
                    router.ownership.released(now, &tenures, &checkpoints);
                    router.round_at = now;
                }
            }
        }
        if let Some(report) = report {
            self.routers[number].report = report;
        }
        is_busy
    }

    /// Sends the requests for snapshots that are due, and ends those that are too late.
    pub(super) fn turn_snapshots(&mut self, number: usize, now: Millis) -> bool {
        let router = &mut self.routers[number];
        let mut late = Vec::new();
        for (gateway, snapshot) in &mut router.snapshots {
            if snapshot.at.is_some_and(|at| at <= now) {
                snapshot.at = None;
                if !router.is_cut {
                    self.network.send(self.now, &SimMessage::AskSnapshot(gateway.clone(), number));
                }
            }
            if snapshot.until <= now {
                late.push(gateway.clone());
            }
        }
        let is_busy = !late.is_empty();
        for gateway in late {
            router.snapshot(gateway, None);
        }
        is_busy
    }
}
