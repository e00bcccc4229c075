//! Whose commands are read next. Sockets that have something to say stand in a row, and are read a little each when
//! sockets have their turn, for about as long as events may wait for it. Who asks for more than its rate, or than its
//! user's, is read no further until there is some again: what it sends then waits in its own connection.

use std::time::Duration;

use metrics::counter;
use tickwire_core::ids::Millis;

use super::Shard;
use crate::limits::budget::{Price, Rate};
use crate::shard::session::SessionStage;
use crate::socket::{Socket, SocketEnd};

/// How long sockets are read before events have their turn.
const TURN: Duration = Duration::from_micros(500);

/// How many messages of one client are read before others have their turn.
const TURN_MESSAGES: usize = 8;

/// So many bytes, of what a client asks or of what it is answered, cost as much as a command.
const COMMAND_BYTES: u64 = 16 * 1024;

/// So many sessions of a user may do as much as they may do alone; more share that.
const USER_SHARE: u32 = 4;

/// When so many bytes of requests wait for the edge, no more commands are read.
const EDGE_BYTES: usize = 8 * 1024 * 1024;

/// How long a pause lasts at most before the session is looked at again, in milliseconds.
const PAUSE_MS: u64 = 5_000;

/// How long until the edge is looked at again then, in milliseconds.
const EDGE_PAUSE_MS: u64 = 4;

/// How fast commands may come.
#[derive(Clone, Copy, Debug)]
pub(super) struct CommandRates {
    session: Rate,
    user: Rate,
}

impl CommandRates {
    /// So many commands a second of a session, and at most `burst` of them saved up.
    pub(super) fn new(per_second: u32, burst: u32) -> Self {
        let session = Rate::new(per_second, u64::from(burst));
        Self { session, user: session.times(USER_SHARE) }
    }
}

/// Whether a session's socket is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SocketReading {
    /// As soon as it has something.
    Awaited,
    /// It has something, and stands in the row.
    Due,
    /// It has something, and its rate is used up.
    Paused,
}

/// What became of a turn.
enum Turn {
    /// There is nothing more for now.
    Done,
    /// There may be more.
    More,
    /// There may be more, and its rate is used up until then.
    Pause(Millis),
    /// The session is gone.
    Gone,
}

impl<S: Socket> Shard<S> {
    /// The socket of a session has something to read, which is done when it is its turn.
    pub(crate) fn readable(&mut self, number: u64) {
        if let Some(session) = self.sessions.get_mut(number) {
            session.reading = SocketReading::Due;
            self.due.push_back(number);
        }
    }

    /// Whether sockets wait to be read that may be.
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
                counter!("tickwire_gateway_edge_full_total").increment(1);
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
                    counter!("tickwire_gateway_paused_commands_total").increment(1);
                    session.reading = SocketReading::Paused;
                    // What waits in its connection is a sign of life, though it is not read.
                    session.pulse.heard(now);
                    self.pauses.set(self.pauses.round(until.min(now.plus(PAUSE_MS))), number);
                }
                Turn::Gone => {}
            }
            if self.spent(begun) >= TURN {
                return;
            }
        }
    }

    /// Those whose pause is over stand in the row again.
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

    /// When [`Self::end_pauses`] is next to be called.
    pub(super) fn next_pause(&self) -> Option<Millis> {
        [self.pauses.next(), self.edge_full_until].into_iter().flatten().min()
    }

    /// How long work has taken that has begun then.
    pub(super) fn spent(&self, begun: Duration) -> Duration {
        (self.settings.clocks.monotonic)().saturating_sub(begun)
    }

    /// Reads what one session may say before others have their turn.
    fn read(&mut self, now: Millis, number: u64, begun: Duration) -> Turn {
        for _ in 0..TURN_MESSAGES {
            let Self { sessions, accounts, command_rates, .. } = self;
            let Some(session) = sessions.get_mut(number) else { return Turn::Gone };
            // A client that does not read its answers is not asked for more.
            if !session.socket.takes_more() && session.stage == SessionStage::Open {
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
                    session.pulse.heard(now);
                    self.spend_command(now, number, incoming.len());
                    self.hear(now, number, &incoming);
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

    /// A command of so many bytes has come.
    fn spend_command(&mut self, now: Millis, number: u64, bytes: usize) {
        self.spend(now, number, |rate| rate.units(1));
        self.spend_bytes(now, number, bytes);
    }

    /// A client has been answered in so many bytes.
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
