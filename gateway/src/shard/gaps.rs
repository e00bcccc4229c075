//! Notifies sessions of gaps. Gaps of the same moment are sent in one message, which is encoded once for all sessions:
//! when many partitions have gaps, a shard is busy anyway.

use compact_str::CompactString;
use tickwire_core::ids::{Millis, Partition, Seq};
use tickwire_core::protocol::{Encoding, Gap, ServerFrame};

use super::Shard;
use super::flush::write_message;
use crate::metrics;
use crate::socket::Socket;

impl<S: Socket> Shard<S> {
    /// Notifies every session with a subscription of these gaps, and then moves the positions beyond them: no position
    /// covers a gap that was not notified.
    pub(super) fn notify_all(&mut self, now: Millis, gaps: &[Gap]) {
        if gaps.is_empty() {
            return;
        }
        count(gaps);
        let frames: Vec<ServerFrame> = gaps.iter().cloned().map(ServerFrame::Gap).collect();
        let mut messages = Encoding::ALL.map(|_| Vec::new());
        for number in self.sessions.numbers(|session| !session.subscriptions.is_empty()) {
            self.flush(now, number);
            let Some(session) = self.sessions.get_mut(number) else { continue };
            let encoding = session.socket.encoding();
            let message = &mut messages[encoding as usize];
            if message.is_empty() {
                write_message(message, &frames, encoding);
            }
            if session.record.gaps(now, gaps) {
                self.missing.push(number);
            }
            let sent = self.post(number, message);
            self.check_sent(now, number, sent);
        }
        for Gap { p, to, .. } in gaps {
            self.set_applied(*p, *to);
        }
    }

    /// Notifies one session of gaps.
    pub(super) fn notify_gaps(&mut self, now: Millis, number: u64, gaps: Vec<Gap>) {
        if !gaps.is_empty() {
            count(&gaps);
            if self.sessions.get_mut(number).is_some_and(|session| session.record.gaps(now, &gaps)) {
                self.missing.push(number);
            }
            let frames: Vec<ServerFrame> = gaps.into_iter().map(ServerFrame::Gap).collect();
            self.reply_all(now, number, &frames);
        }
    }
}

fn count(gaps: &[Gap]) {
    for gap in gaps {
        metrics::GAPS_NOTIFIED.with(gap.reason.to_string()).increment(1);
    }
}

pub(super) fn gap(reason: &str, p: Partition, from: Seq, to: Seq) -> Gap {
    Gap { reason: CompactString::from(reason), p, from, to }
}
