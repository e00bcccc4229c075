//! Another life of the stream begins: its sequences mean something else. Sessions are told what they lose of the former
//! life, and are given the new one from its beginning.

use tickwire_core::frames::{Heartbeat, ServerFrame};
use tickwire_core::ids::{Life, Millis, Partition};

use super::Shard;
use super::gaps::gap;

impl Shard {
    /// Sequences are those of `life` from here on. The edge covers all of it for whoever was promised something before.
    pub(super) fn begin_life(&mut self, now: Millis, has_former: bool, life: Life) {
        if has_former {
            self.forget_past(now, life);
            let ends = (0..).map(Partition).zip(&self.applied.seqs);
            let gaps: Vec<_> = ends.map(|(p, end)| gap("reset", p, *end, *end)).collect();
            self.tell_all(now, &gaps);
        }
        self.applied.incarnation = life.incarnation;
        self.applied.seqs.fill(life.before);
        self.before = life.before;
        if !has_former {
            return;
        }
        // Nobody is to go on from a position of the former life.
        for number in self.sessions.numbers(|session| !session.subscriptions.is_empty()) {
            let position = self.position(number);
            self.reply(now, number, &ServerFrame::Heartbeat(Heartbeat { position }));
        }
    }

    /// What is lacking of the former life cannot be had any more.
    fn forget_past(&mut self, now: Millis, life: Life) {
        self.gatherings.clear();
        for number in self.sessions.numbers(|session| session.catch_up.is_some() || session.ahead.is_some()) {
            let Some(session) = self.sessions.get_mut(number) else { continue };
            session.ahead = None;
            let lost = session.catch_up.as_mut().map(|catch_up| catch_up.reset(life, &self.applied.seqs));
            let gaps = lost.into_iter().flatten().map(|(p, from, to)| gap("reset", p, from, to)).collect();
            self.flush(now, number);
            self.tell_gaps(now, number, gaps);
        }
    }
}
