//! Decides whose commands are read next. Sockets with something to read are in a queue. When sockets have their turn, a
//! few messages of each are read, for about as long as events may wait. A session that exceeds its command rate, or its
//! user's, is paused until it has budget again; what it sends waits in its connection.

use std::time::Duration;

use tickwire_core::ids::Millis;

use super::Shard;
use crate::limits::budget::{Price, Rate};
use crate::metrics;
use crate::shard::session::SessionStage;
use crate::socket::{Socket, SocketEnd};

/// How long sockets are read before events have their turn.
const TURN: Duration = Duration::from_micros(500);

/// How many messages of one client are read before others have their turn.
const TURN_MESSAGES: usize = 8;

/// This many bytes, of a client's commands or of the answers, cost as much as one command.
const COMMAND_BYTES: u64 = 16 * 1024;

/// A user may send commands at this many times the rate of a session. Its sessions share that.
const USER_SHARE: u32 = 4;

/// While more bytes of requests than this wait for the edge, no commands are read.
pub(super) const EDGE_BYTES: usize = 8 * 1024 * 1024;

/// The longest pause before the session is checked again, in milliseconds.
const PAUSE_MS: u64 = 5_000;

/// While too much waits for the edge, it is checked again after this time, in milliseconds.
const EDGE_PAUSE_MS: u64 = 4;

/// The rates of commands.
#[derive(Clone, Copy, Debug)]
pub(super) struct CommandRates {
    session: Rate,
    user: Rate,
}

impl CommandRates {
    /// `per_second` commands a second for a session, with bursts of up to `burst`.
    pub(super) fn new(per_second: u32, burst: u32) -> Self {
        let session = Rate::new(per_second, u64::from(burst));
        Self { session, user: session.times(USER_SHARE) }
    }
}

/// The state of reading a session's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SocketReading {
    /// It has nothing to read. It is read when it has.
    Awaited,
    /// It has something to read, and is in the queue.
    Due,
    /// It has something to read, and its rate is used up.
    Paused,
}

/// The result of a turn.
enum Turn {
    /// There is nothing more to read now.
    Done,
    /// There may be more to read.
    More,
    /// There may be more to read, and the rate is used up until this time.
    Pause(Millis),
    /// The session is gone.
    Gone,
}

impl<S: Socket> Shard<S> {
    /// The socket of a session has something to read. Puts it into the queue.
    pub(crate) fn readable(&mut self, number: u64) {
        if let Some(session) = self.sessions.get_mut(number) {
            session.reading = SocketReading::Due;
            self.due.push_back(number);
        }
    }

    /// Whether sockets wait to be read, and may be.
    pub(crate) fn has_commands(&self) -> bool {
        !self.due.is_empty() && self.edge_full_until.is_none()
    }

    /// Reads sockets in turn.
    pub(crate) fn read_sockets(&mut self, now: Millis) {
        if !self.has_commands() {
            return;
        }
        let begun = (self.settings.clocks.monotonic)();
        for _ in 0..self.due.len() {
            if self.edge.waiting() > EDGE_BYTES {
                metrics::EDGE_QUEUE_FULL.increment(1);
                self.edge_full_until = Some(now.plus(EDGE_PAUSE_MS));
                return;
            }
            let Some(number) = self.due.pop_front() else { return };
            let turn = self.read(now, number, begun);
            let Some(session) = self.sessions.get_mut(number) else { continue };
            match turn {
                Turn::Done => {
                    session.reading = SocketReading::Awaited;
                    session.socket.watch_again();
                }
                Turn::More => self.due.push_back(number),
                Turn::Pause(until) => {
                    metrics::COMMAND_PAUSES.increment(1);
                    session.reading = SocketReading::Paused;
                    // Unread bytes are a sign of life too.
                    session.liveness.received(now);
                    self.pauses.set(self.pauses.round(until.min(now.plus(PAUSE_MS))), number);
                }
                Turn::Gone => {}
            }
            if self.spent(begun) >= TURN {
                return;
            }
        }
    }

    /// Puts sessions whose pause is over into the queue again.
    pub(super) fn end_pauses(&mut self, now: Millis) {
        if self.edge_full_until.is_some_and(|until| until <= now) {
            self.edge_full_until = None;
        }
        while let Some((_, numbers)) = self.pauses.pop_due(now) {
            for number in numbers {
                self.readable(number);
            }
        }
    }

    /// When [`Self::end_pauses`] must be called next.
    pub(super) fn next_pause(&self) -> Option<Millis> {
        [self.pauses.next(), self.edge_full_until].into_iter().flatten().min()
    }

    /// The time since `begun`.
    pub(super) fn spent(&self, begun: Duration) -> Duration {
        (self.settings.clocks.monotonic)().saturating_sub(begun)
    }

    /// Reads messages of one session, up to the limits of a turn.
    fn read(&mut self, now: Millis, number: u64, begun: Duration) -> Turn {
        for _ in 0..TURN_MESSAGES {
            let Self { sessions, accounts, command_rates, .. } = self;
            let Some(session) = sessions.get_mut(number) else { return Turn::Gone };
            // No more is read from a client that does not read its answers.
            if !session.socket.wants_input() && session.stage == SessionStage::Open {
                return Turn::Done;
            }
            let of_user = accounts[session.account].commands.free_at(&command_rates.user);
            let until = session.commands.free_at(&command_rates.session).max(of_user);
            if until > now {
                return Turn::Pause(until);
            }
            let read = session.socket.read();
            let open = session.stage == SessionStage::Open;
            match read {
                Ok(None) => return Turn::Done,
                Ok(Some(_)) | Err(SocketEnd::Refused(_)) if !open => self.spend_command(now, number, 0),
                Ok(Some(incoming)) => {
                    session.liveness.received(now);
                    self.spend_command(now, number, incoming.len());
                    self.take_message(now, number, &incoming);
                }
                Err(ended) => {
                    self.end(now, number, ended);
                    if ended == SocketEnd::Gone {
                        return Turn::Gone;
                    }
                }
            }
            if self.spent(begun) >= TURN {
                break;
            }
        }
        Turn::More
    }

    /// Counts a command of `bytes`.
    fn spend_command(&mut self, now: Millis, number: u64, bytes: usize) {
        self.spend(now, number, |rate| rate.units(1));
        self.spend_bytes(now, number, bytes);
    }

    /// Counts an answer of `bytes`.
    pub(super) fn spend_bytes(&mut self, now: Millis, number: u64, bytes: usize) {
        self.spend(now, number, |rate| rate.part(bytes as u64, COMMAND_BYTES));
    }

    fn spend(&mut self, now: Millis, number: u64, price: impl Fn(&Rate) -> Price) {
        let Self { sessions, accounts, command_rates, .. } = self;
        let Some(session) = sessions.get_mut(number) else { return };
        session.commands.spend(now, price(&command_rates.session));
        accounts[session.account].commands.spend(now, price(&command_rates.user));
    }
}
