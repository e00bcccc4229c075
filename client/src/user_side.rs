//! What an owner has on its user's side: where requests come from, and where messages go. A [`Client`](crate::Client)
//! has channels; a listener of a load generator has a function, which needs less memory.

use std::future::{Future, pending};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::message::Message;
use crate::requests::Command;

/// The user's side of one client.
pub(crate) trait UserSide: Send {
    /// The next request; `None` if there will be none. Safe to cancel.
    fn command(&mut self) -> impl Future<Output = Option<Command>> + Send;

    /// Delivers a message, and waits for room. Returns how long that took.
    fn deliver(&mut self, message: Message) -> impl Future<Output = Duration> + Send;
}

/// The channels to and from a user.
#[derive(Debug)]
pub(crate) struct Channels {
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) messages: mpsc::Sender<Message>,
}

impl UserSide for Channels {
    async fn command(&mut self) -> Option<Command> {
        self.commands.recv().await
    }

    async fn deliver(&mut self, message: Message) -> Duration {
        let Err(mpsc::error::TrySendError::Full(message)) = self.messages.try_send(message) else {
            return Duration::ZERO;
        };
        let blocked = Instant::now();
        // Without a reader the task is about to be stopped.
        self.messages.send(message).await.ok();
        blocked.elapsed()
    }
}

/// A function that takes the messages. There are no requests.
pub(crate) struct Function<F>(pub(crate) F);

impl<F: FnMut(Message) + Send> UserSide for Function<F> {
    async fn command(&mut self) -> Option<Command> {
        pending().await
    }

    async fn deliver(&mut self, message: Message) -> Duration {
        (self.0)(message);
        Duration::ZERO
    }
}
