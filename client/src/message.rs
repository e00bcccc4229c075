//! The messages of a client to its user, in the order in which things happened.

use std::collections::BTreeMap;
use std::time::Duration;

use tickwire_core::protocol::{
    Authenticated, Gap, Goaway, Heartbeat, Notice, ReceivedEvent, ServerError, Subscription, SubscriptionName, Welcome,
};

/// One message.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Message {
    /// A session is ready: the first one, or one after a reconnect.
    Connected {
        /// The server's `welcome`.
        welcome: Welcome,
    },
    /// Every subscription that was confirmed before the connection was lost is confirmed again. Missed events follow,
    /// unless the session was `Interrupted`.
    Restored,
    /// The events missed while the connection was lost were given; later ones are new.
    Resumed {
        /// Whether all of them were given. If not, `Gap` messages have reported what is missing.
        complete: bool,
    },
    /// The session could not resume: events between those before this message and those after it may be missing,
    /// without a report of the ranges. From `Restored` on, everything is covered again.
    Interrupted,
    /// The backfill of a new subscription with `since` has ended.
    Past {
        /// Its name.
        name: SubscriptionName,
        /// Whether all of it was given. If not, `Gap` messages have reported what is missing, or the connection was
        /// lost.
        complete: bool,
    },
    /// A subscription was refused after a reconnect, and has ended.
    SubscriptionLost {
        /// Its name.
        name: SubscriptionName,
        /// Why.
        error: ServerError,
    },
    /// The saved subscriptions of the user that this session has, by name. It comes when the session gets them, and
    /// when they are others than before: after a change, or after a reconnect. From then on their events arrive like
    /// those of the client's own subscriptions, which are not among these.
    SavedSubscriptions(BTreeMap<SubscriptionName, Subscription>),
    /// An event that a subscription matches. `p` and `seq` identify it. An alert to the user that was not acknowledged
    /// comes again in a later session, marked by `again`.
    Event(Box<ReceivedEvent>),
    /// The same for a subscription that asks for alerts: `subs` has the names of the subscriptions that it matches, and
    /// its priority is raised by its confidence. A saved subscription may ask for alerts as well, so a client gets them
    /// even if it never asks, unless [`ClientConfig::saved`](crate::ClientConfig::saved) is false.
    Alert(Box<ReceivedEvent>),
    /// The server's heartbeat with the client's position.
    Heartbeat(Heartbeat),
    /// A notice of the server, for example about dropped events.
    Notice(Notice),
    /// Events of one partition may be missing.
    Gap(Gap),
    /// The session continues with a new token of the provider.
    Authenticated(Authenticated),
    /// The server asks the client to reconnect. The client does this automatically, at the time that the server gave.
    Goaway(Goaway),
    /// The server sent an error that belongs to no open request.
    Refused(ServerError),
    /// A message of the server could not be parsed; its content is lost.
    Unreadable {
        /// The problem.
        problem: String,
    },
    /// The connection is lost, or an attempt to reconnect has failed.
    Disconnected {
        /// The server's close code, if it gave one.
        code: Option<u16>,
        /// Why.
        reason: String,
        /// The pause before the next attempt; `None` if there is none. Then this is the last message.
        retry_in: Option<Duration>,
    },
}
