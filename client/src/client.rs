//! The two parts that a user holds: the handle for requests, and the received messages. The owner task behind them is
//! in `owner`.

use std::time::{Duration, Instant};

use tickwire_core::protocol::codes::Reconnect;
use tickwire_core::protocol::since::Since;
use tickwire_core::protocol::{
    ClientFrame, FilterRequest, ReceivedEvent, SubscriptionName, SubscriptionRequest, SubscriptionSelector,
    Subscriptions,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::config::ClientConfig;
use crate::connect::connect;
use crate::dial::{Dial, Network};
use crate::error::ClientError;
use crate::message::Message;
use crate::owner::ClientOwner;
use crate::requests::{Command, GrantedAnswer, Requests};
use crate::target::Target;
use crate::user_side::Channels;

/// How many requests may wait for the owner task, besides those that the server has not answered yet.
const COMMANDS: usize = 16;

/// A handle to a connection. Clones share it.
#[derive(Clone, Debug)]
pub struct Client {
    commands: mpsc::Sender<Command>,
    stop: CancellationToken,
    request_timeout: Duration,
}

/// The messages of the server and the changes of the connection, in order.
#[derive(Debug)]
pub struct Messages {
    receiver: mpsc::Receiver<Message>,
}

/// Options of a subscription; the gateway decides for `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubscribeOptions {
    /// How long events may wait to be sent together, in milliseconds; 0 to 1000.
    pub window_ms: Option<u16>,
    /// The most events that are sent in an hour. A notice reports the events that were dropped beyond it.
    pub max_events_per_hour: Option<u32>,
    /// Whether its events come as [`Message::Alert`]: with the names of the subscriptions that they match, and with a
    /// priority that their confidence raises. An event of several subscriptions is an alert if one of them asks for it.
    pub alert: bool,
    /// The start of a backfill with stored events. They are sent after the answer and before new events, and
    /// [`Message::Past`] ends them. If the connection is lost before that, the backfill does not continue.
    pub since: Option<Since>,
}

impl Client {
    /// Connects to the first gateway of the list that accepts the client, and returns after its `welcome`. Here each
    /// gateway is tried once. Only a connection that was ready is reconnected automatically.
    ///
    /// # Errors
    /// [`ClientError::BadConfig`], the error of the first gateway that refused for good, or that of the last gateway.
    pub async fn connect(config: ClientConfig) -> Result<(Self, Messages), ClientError> {
        Self::connect_through(Network::new(config.tls_ca.clone()), config).await
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
            match connect(&dialler, target, &config).await {
                Ok(link) => {
                    let (commands, command_receiver) = mpsc::channel(COMMANDS);
                    let (messages, receiver) = mpsc::channel(config.buffer);
                    let stop = CancellationToken::new();
                    let client = Self { commands, stop: stop.clone(), request_timeout: config.request_timeout };
                    let user_messages = messages.clone();
                    let gone = async move { user_messages.closed().await };
                    let user = Channels { commands: command_receiver, messages };
                    let owner = ClientOwner::new(dialler, config, (targets, index), Requests::default(), user);
                    tokio::spawn(owner.run(link, stop, gone));
                    return Ok((client, Messages { receiver }));
                }
                Err(error) if matches!(error.reconnect(), Reconnect::No | Reconnect::NewToken) => return Err(error),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Subscribes, or replaces the subscription with this name. Returns the full list when the server has confirmed it:
    /// from then on every matching event is sent or reported as missing.
    ///
    /// `filter` is a filter as JSON, or a [`PresetRequest`](crate::PresetRequest). A preset is sent by its name, also
    /// after a reconnect, so its numbers are those of the gateway.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the server's code and text, [`ClientError::BadName`], [`ClientError::TimedOut`]
    /// or [`ClientError::Ended`].
    pub async fn subscribe(
        &self,
        name: &str,
        filter: impl Into<FilterRequest>,
        options: SubscribeOptions,
    ) -> Result<Subscriptions, ClientError> {
        let name = SubscriptionName::new(name)?;
        let SubscribeOptions { window_ms, max_events_per_hour, alert, since } = options;
        let wanted = SubscriptionRequest { filter: filter.into(), window_ms, max_events_per_hour, alert };
        self.list_after(ClientFrame::Subscribe { name, wanted, since }, "subscribe").await
    }

    /// Ends the subscription with this name, or all of them for `*`. Returns the remaining list.
    ///
    /// A saved subscription ends for this connection alone, and comes back with the next one. Delete it, or connect
    /// without saved subscriptions ([`ClientConfig::saved`]), to be without it for good.
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

    /// Acknowledges an event of kind `alert`, for this user. Returns when that is recorded.
    ///
    /// # Errors
    /// As [`Client::subscribe`]. The server refuses events of other kinds with 418.
    pub async fn acknowledge(&self, alert: &ReceivedEvent) -> Result<(), ClientError> {
        self.ask(ClientFrame::Ack { partition: alert.p, seq: alert.seq }, "ack").await?;
        Ok(())
    }

    /// The server's list of subscriptions. A client without subscriptions of its own gets the saved ones two seconds
    /// after the welcome, or before this answer.
    ///
    /// # Errors
    /// As [`Client::subscribe`].
    pub async fn list(&self) -> Result<Subscriptions, ClientError> {
        self.list_after(ClientFrame::List, "list").await
    }

    /// Pings the server and returns the time that it took, including any wait for a reconnect or a slow reader.
    ///
    /// # Errors
    /// As [`Client::subscribe`].
    pub async fn ping(&self) -> Result<Duration, ClientError> {
        let sent = Instant::now();
        self.ask(ClientFrame::Ping, "ping").await?;
        Ok(sent.elapsed())
    }

    /// Closes the connection and returns when it is closed. Messages received before can still be read.
    pub async fn close(&self) {
        self.stop.cancel();
        self.commands.closed().await;
    }

    async fn list_after(&self, frame: ClientFrame, what: &'static str) -> Result<Subscriptions, ClientError> {
        match self.ask(frame, what).await? {
            GrantedAnswer::Subscriptions(list) => Ok(list),
            GrantedAnswer::Pong | GrantedAnswer::Acked => Err(ClientError::BadAnswer { what }),
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
