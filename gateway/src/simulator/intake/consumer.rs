//! What a consumer of the stream delivers, and when.

use super::*;

impl SimCluster {
    /// What a consumer has for its intake now.
    pub(super) fn poll_consumer(&mut self, number: usize, reader: &mut SimIntake, now: Millis) -> ConsumerOutput {
        let longest = reader.since.plus(millis(silence(self.config.membership.tick_interval)));
        let Some(consumer) = &mut reader.consumer else { return ConsumerOutput::Trouble(IntakeTrouble::Silent) };
        if consumer.is_ended {
            return ConsumerOutput::Trouble(IntakeTrouble::Failed("the consumer is gone".to_owned()));
        }
        if consumer.start != self.stream.starts || self.routers[number].is_cut {
            consumer.silent_since.get_or_insert(now);
        }
        if let Some(since) = consumer.silent_since {
            return ConsumerOutput::until(now, since.plus(SILENCE), IntakeTrouble::Silent);
        }
        if consumer.held_until > now {
            return ConsumerOutput::Nothing(consumer.held_until);
        }
        let available = self.readable_at(consumer.server, consumer.cursor);
        let available = available.filter(|stored| Some(stored.partition) == reader.partition).take(MAX_PENDING);
        let available: Vec<StoredEvent> = available.cloned().collect();
        if !available.is_empty() {
            return self.deliver_batch(number, consumer, available, now);
        }
        consumer.cursor = consumer.cursor.max(self.last);
        consumer.idle_at = consumer.idle_since.map(|_| now);
        match consumer.lost_at {
            Some(at) => ConsumerOutput::until(now, at.plus(HEARTBEAT), IntakeTrouble::Missed),
            None => ConsumerOutput::until(now, longest, IntakeTrouble::Silent),
        }
    }

    /// Delivers some of the available messages. One of them may be lost.
    fn deliver_batch(
        &mut self,
        number: usize,
        consumer: &mut Consumer,
        available: Vec<StoredEvent>,
        now: Millis,
    ) -> ConsumerOutput {
        // The lost message may be the only one that is available, or one of several.
        let may_drop = available.len() > 1 || self.network.random(2) == 0;
        let drops = may_drop && std::mem::take(&mut self.routers[number].drops_next);
        let most = if self.failing { 1 + self.network.random(BATCH) } else { BATCH };
        let (count, idle_at) = (available.len() as u64, consumer.last_idle_heartbeat());
        let lost = drops.then(|| self.network.random(count.min(most + 1)) as usize);
        let (mut messages, mut pending) = (Vec::new(), count);
        for (at, stored) in available.into_iter().enumerate().take(most as usize + usize::from(drops)) {
            consumer.number += 1;
            consumer.cursor = stored.seq;
            pending -= 1;
            if lost == Some(at) {
                consumer.lost_at = Some(now);
                continue;
            }
            consumer.lost_at = None;
            let (seq, number, stored_at) = (stored.seq, consumer.number, stored.event.stored);
            messages.push((ConsumerDelivery { seq, number, stored: stored_at, pending }, stored));
        }
        (consumer.idle_since, consumer.idle_at) = ((pending == 0).then_some(now), None);
        match messages.is_empty() {
            true => ConsumerOutput::Nothing(now.plus(HEARTBEAT)),
            false => ConsumerOutput::Messages(idle_at, messages),
        }
    }
}

impl Consumer {
    /// The time of its last idle heartbeat, which says that it had delivered everything.
    fn last_idle_heartbeat(&self) -> Option<Millis> {
        let (since, at) = (self.idle_since?, self.idle_at?);
        let beats = at.since(since) / HEARTBEAT;
        (beats > 0).then(|| since.plus(beats * HEARTBEAT))
    }
}

impl ConsumerOutput {
    /// Nothing before a time, and trouble from then on.
    fn until(now: Millis, until: Millis, trouble: IntakeTrouble) -> Self {
        if until <= now { Self::Trouble(trouble) } else { Self::Nothing(until) }
    }
}
