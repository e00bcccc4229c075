//! What a client tells its user, in the order in which it happened.

use std::time::Duration;

use tickwire_core::protocol::{
    Authenticated, Gap, Goaway, Heartbeat, Notice, ReceivedEvent, ServerError, SubscriptionName, Welcome,
};

/// One thing that happened on the connection.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Message {
    /// A session is ready: the first one, or one after a reconnect.
    Connected {
        /// What the server said of it.
        welcome: Welcome,
    },
    /// Every subscription that was in force before the connection was lost is in force again. What was missed follows,
    /// unless the session was `Interrupted`.
    Restored,
    /// What was missed while the connection was lost has been given; what follows is new.
    Resumed {
        /// Whether all of it was. If not, `Gap` messages have told what is missing.
        complete: bool,
    },
    /// The session could not go on where the one before ended: events between those before this message and those after
    /// it may be missing, without being told one by one. `Restored` says when the uncertainty ends.
    Interrupted,
    /// What a new subscription asked for of the time before it has been given.
    Past {
        /// Its name.
        name: SubscriptionName,
        /// Whether all of it was. If not, `Gap` messages have told what is missing, or the connection was lost.
        complete: bool,
    },
    /// A subscription that was in force was refused after a reconnect, and is gone.
    SubscriptionLost {
        /// Its name.
        name: SubscriptionName,
        /// Why.
        error: ServerError,
    },
    /// An event that a subscription matches. `p` and `seq` identify it.
    Event(Box<ReceivedEvent>),
    /// The server is alive, and this is how far it has given everything.
    Heartbeat(Heartbeat),
    /// The server dropped events or otherwise did something worth knowing.
    Notice(Notice),
    /// Events of one partition may be missing.
    Gap(Gap),
    /// The session goes on with a new token, which the provider gave.
    Authenticated(Authenticated),
    /// The server asks the client to connect again. It does so by itself, at the time that the server gave.
    Goaway(Goaway),
    /// The server refused something that no request of this client is waiting for.
    Refused(ServerError),
    /// A message of the server's could not be read, and whatever it held is lost.
    Unreadable {
        /// What was wrong with it.
        problem: String,
    },
    /// The connection is lost, or an attempt to connect again has failed.
    Disconnected {
        /// The server's close code, if it gave one.
        code: Option<u16>,
        /// Why.
        reason: String,
        /// When the next attempt comes; `None` if none will, in which case this is the last message.
        retry_in: Option<Duration>,
    },
}
