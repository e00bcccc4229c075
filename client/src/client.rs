//! The two ends that a user holds: the handle that asks, and the messages that come. The owner task behind them is in
//! `owner`.

use std::time::{Duration, Instant};

use serde_json::Value;
use tickwire_core::protocol::codes::Reconnect;
use tickwire_core::protocol::since::Since;
use tickwire_core::protocol::{
    ClientFrame, SubscriptionName, SubscriptionRequest, SubscriptionSelector, Subscriptions,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::config::ClientConfig;
use crate::dial::{self, Dial, Tcp};
use crate::error::ClientError;
use crate::message::Message;
use crate::owner::ClientOwner;
use crate::requests::{GrantedAnswer, ReplySender};
use crate::target::Target;

/// Requests that may wait for the owner task, beside those that the server has yet to answer.
const COMMANDS: usize = 16;

/// A request on its way to the owner task.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) frame: ClientFrame,
    pub(crate) reply: ReplySender,
}

/// A handle to a connection. Clones share it.
#[derive(Clone, Debug)]
pub struct Client {
    commands: mpsc::Sender<Command>,
    stop: CancellationToken,
    request_timeout: Duration,
}

/// What comes from the server, and what happens to the connection, in order.
#[derive(Debug)]
pub struct Messages {
    receiver: mpsc::Receiver<Message>,
}

/// How a subscription's events are to come; what is `None` is left to the gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubscribeOptions {
    /// How long events may wait to be sent together, in milliseconds; 0 to 1000.
    pub window_ms: Option<u16>,
    /// How many events an hour are sent at most; what comes beyond is told by a notice.
    pub max_events_per_hour: Option<u32>,
    /// From where on what was stored before is wanted as well. It comes after the answer and before what is new, and
    /// [`Message::Past`] ends it. If the connection is lost before that, it does not go on.
    pub since: Option<Since>,
}

impl Client {
    /// Connects to the first gateway of the list that takes the client, and returns when it has said `welcome`. This
    /// first time each gateway is tried once; only a connection that once stood is made again by itself.
    ///
    /// # Errors
    /// [`ClientError::BadConfig`], else why the last gateway could not be used, or the first that refused for good.
    pub async fn connect(config: ClientConfig) -> Result<(Self, Messages), ClientError> {
        Self::connect_through(Tcp, config).await
    }

    pub(crate) async fn connect_through<D: Dial>(
        dialler: D,
        config: ClientConfig,
    ) -> Result<(Self, Messages), ClientError> {
        if config.buffer == 0 {
            return Err(ClientError::BadConfig { field: "buffer", problem: "must be at least 1".to_owned() });
        }
        let targets = Target::all(&config)?;
        let mut last = ClientError::Ended;
        for (index, target) in targets.iter().enumerate() {
            match dial::connect(&dialler, target, &config).await {
                Ok(link) => {
                    let (commands, asked) = mpsc::channel(COMMANDS);
                    let (messages_out, receiver) = mpsc::channel(config.buffer);
                    let stop = CancellationToken::new();
                    let client = Self { commands, stop: stop.clone(), request_timeout: config.request_timeout };
                    let owner = ClientOwner::new(dialler, config, (targets, index), asked, messages_out);
                    tokio::spawn(owner.run(link, stop));
                    return Ok((client, Messages { receiver }));
                }
                Err(error) if matches!(error.reconnect(), Reconnect::No | Reconnect::NewToken) => return Err(error),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Subscribes, or replaces the subscription of this name while it runs. Returns when the server has confirmed it:
    /// from then on nothing that matches is missed without being told. Gives the full list as it is then.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the server's code and words, [`ClientError::BadName`], [`ClientError::TimedOut`]
    /// or [`ClientError::Ended`].
    pub async fn subscribe(
        &self,
        name: &str,
        filter: Value,
        options: SubscribeOptions,
    ) -> Result<Subscriptions, ClientError> {
        let name = SubscriptionName::new(name)?;
        let SubscribeOptions { window_ms, max_events_per_hour, since } = options;
        let wanted = SubscriptionRequest { filter, window_ms, max_events_per_hour };
        self.list_after(ClientFrame::Subscribe { name, wanted, since }, "subscribe").await
    }

    /// Ends the subscription of this name, or all of them if it is `*`. Gives what remains.
    ///
    /// # Errors
    /// As [`Client::subscribe`].
    pub async fn unsubscribe(&self, name: &str) -> Result<Subscriptions, ClientError> {
        let chosen = match name {
            "*" => SubscriptionSelector::All,
            name => SubscriptionSelector::One(SubscriptionName::new(name)?),
        };
        self.list_after(ClientFrame::Unsubscribe { chosen }, "unsubscribe").await
    }

    /// The subscriptions as the server has them.
    ///
    /// # Errors
    /// As [`Client::subscribe`].
    pub async fn list(&self) -> Result<Subscriptions, ClientError> {
        self.list_after(ClientFrame::List, "list").await
    }

    /// Asks for a sign of life and gives the time that it took, any wait for a reconnect or a slow reader included.
    ///
    /// # Errors
    /// As [`Client::subscribe`].
    pub async fn ping(&self) -> Result<Duration, ClientError> {
        let asked = Instant::now();
        self.ask(ClientFrame::Ping, "ping").await?;
        Ok(asked.elapsed())
    }

    /// Closes the connection and returns when it is closed. What was received before can still be read.
    pub async fn close(&self) {
        self.stop.cancel();
        self.commands.closed().await;
    }

    async fn list_after(&self, frame: ClientFrame, what: &'static str) -> Result<Subscriptions, ClientError> {
        match self.ask(frame, what).await? {
            GrantedAnswer::Subscriptions(list) => Ok(list),
            GrantedAnswer::Pong => Err(ClientError::BadAnswer { what }),
        }
    }

    async fn ask(&self, frame: ClientFrame, what: &'static str) -> Result<GrantedAnswer, ClientError> {
        let exchange = async {
            let (reply, answer) = oneshot::channel();
            self.commands.send(Command { frame, reply }).await.map_err(|_| ClientError::Ended)?;
            answer.await.map_err(|_| ClientError::Ended)?
        };
        let late = |_| ClientError::TimedOut { what, after: self.request_timeout };
        timeout(self.request_timeout, exchange).await.map_err(late)?
    }
}

impl Messages {
    /// The next message; `None` when the client has ended and everything was read. Safe to cancel.
    pub async fn recv(&mut self) -> Option<Message> {
        self.receiver.recv().await
    }
}
