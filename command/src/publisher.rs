//! Acknowledged publishing, as every producer should do it: messages go out in order, and a bounded number of them
//! wait for the acknowledgement of the stream. A message that gets none is sent again with the same `Nats-Msg-Id`, so
//! that it is stored once.
//!
//! Order is kept as long as nothing has to be sent again. A window of 1 keeps it even then.

use async_nats::jetstream::context::{PublishError as SendError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::{self, ErrorCode};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::FuturesUnordered;
use rand::Rng;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;
use tickwire_core::backoff::Backoff;
use tickwire_node::names;
use tickwire_node::nats::{Nats, NatsError};
use tokio::time::{Instant, sleep};

/// The pauses before a message is sent again. Each is then shortened by a random factor.
const BACKOFF: Backoff = Backoff { first: 50, most: 2_000 };

/// A new event for the stream.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// Where it is published.
    pub subject: String,
    /// The `Nats-Msg-Id`. A repetition with the same id is a duplicate.
    pub msg_id: String,
    /// The event as JSON.
    pub payload: Bytes,
}

impl NewEvent {
    /// An event of this kind and key, both as people write them.
    pub fn new(kind: &str, key: &str, msg_id: String, payload: Vec<u8>) -> Self {
        let subject = names::source(kind, &tickwire_core::event::key::encode(key));
        Self { subject, msg_id, payload: payload.into() }
    }
}

/// Why an event is not known to be stored.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The stream refused it.
    #[error("{subject} is refused: {reason}")]
    Refused {
        /// Where it was published.
        subject: String,
        /// The error of NATS.
        reason: String,
    },
    /// The login may not publish it, or not receive acknowledgements.
    #[error("{subject} is not published: {denied}")]
    Denied {
        /// Where it was published.
        subject: String,
        /// What the server has denied, and to whom.
        denied: NatsError,
    },
    /// The stream did not acknowledge it in time.
    #[error("{subject} has not been acknowledged within {waited:.1?}: {reason}; it may be stored or not")]
    NotAcknowledged {
        /// Where it was published.
        subject: String,
        /// The time since the first attempt.
        waited: Duration,
        /// The last error.
        reason: String,
    },
}

/// The result of one message, with the tag that it was sent with.
pub type PublishDone<T> = (T, Result<PublishAck, PublishError>);

/// Sends messages, and keeps those that are not acknowledged yet.
///
/// A message whose subject is denied ends as [`PublishError::Denied`], and others go on. Only after hundreds of denied
/// subjects, when further ones are no longer remembered, does a message also end at its first attempt without an
/// acknowledgement, as [`PublishError::NotAcknowledged`].
pub struct Publisher<T> {
    nats: Arc<Nats>,
    window: usize,
    deadline: Option<Duration>,
    under_way: FuturesUnordered<BoxFuture<'static, PublishDone<T>>>,
}

impl<T> std::fmt::Debug for Publisher<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher")
            .field("window", &self.window)
            .field("under_way", &self.under_way.len())
            .finish_non_exhaustive()
    }
}

impl<T: Send + 'static> Publisher<T> {
    /// At most `window` messages are under way, each for at most `deadline`. Without a deadline they are sent again for
    /// ever, unless they are refused or denied.
    pub fn new(nats: &Nats, window: usize, deadline: Option<Duration>) -> Self {
        Self { nats: Arc::new(nats.clone()), window, deadline, under_way: FuturesUnordered::new() }
    }

    /// Whether the next message has to wait for another one to be done.
    pub fn is_full(&self) -> bool {
        self.under_way.len() >= self.window
    }

    /// Whether no message waits for its acknowledgement.
    pub fn is_empty(&self) -> bool {
        self.under_way.is_empty()
    }

    /// Sends a message as soon as there is room in the window. Returns a message that was done meanwhile, if any.
    pub async fn send(&mut self, tag: T, message: NewEvent) -> Option<PublishDone<T>> {
        let done =
            if self.is_full() { self.under_way.next().await } else { self.under_way.next().now_or_never().flatten() };
        // The first attempt is made here and not in the future below, so that messages go out in the order of the
        // calls.
        let start = Instant::now();
        let first = attempt(&self.nats.jetstream, &message).await;
        let (nats, deadline) = (Arc::clone(&self.nats), self.deadline);
        let settled = async move { (tag, settle(&nats, message, first, start, deadline).await) };
        self.under_way.push(settled.boxed());
        done
    }

    /// Waits for the next message to be done; `None` when none is under way. Safe to cancel.
    pub async fn done(&mut self) -> Option<PublishDone<T>> {
        self.under_way.next().await
    }
}

type Attempt = Result<jetstream::context::PublishAckFuture, SendError>;

async fn attempt(jetstream: &jetstream::Context, message: &NewEvent) -> Attempt {
    let publish = PublishMessage::build().payload(message.payload.clone()).message_id(&message.msg_id);
    jetstream.send_publish(message.subject.clone(), publish).await
}

/// Waits until the message is acknowledged, refused, denied or too late.
async fn settle(
    nats: &Nats,
    message: NewEvent,
    first: Attempt,
    start: Instant,
    deadline: Option<Duration>,
) -> Result<PublishAck, PublishError> {
    let subject = message.subject.clone();
    tokio::select! {
        biased;
        settled = acknowledged(nats, message, first, start, deadline) => settled,
        denied = nats.publish_denied(&subject) => Err(PublishError::Denied { subject, denied }),
    }
}

/// Waits for the acknowledgement of the stream, and sends the message again as long as there is none.
async fn acknowledged(
    nats: &Nats,
    message: NewEvent,
    first: Attempt,
    start: Instant,
    deadline: Option<Duration>,
) -> Result<PublishAck, PublishError> {
    let mut sent = first;
    let mut attempts = 0;
    loop {
        let error = match sent {
            Ok(acknowledgement) => match acknowledgement.await {
                // A message that was sent again is a duplicate of itself: only the first acknowledgement was lost.
                Ok(stored) => return Ok(PublishAck { duplicate: stored.duplicate && attempts == 0, ..stored }),
                Err(error) => error,
            },
            Err(error) => error,
        };
        let subject = message.subject.clone();
        if is_final(&error) {
            return Err(PublishError::Refused { subject, reason: reason_of(&error) });
        }
        attempts += 1;
        let pause = Duration::from_millis(BACKOFF.after(attempts));
        let waited = start.elapsed();
        // This message may be denied as well, and `settle` not learn of it.
        if deadline.is_some_and(|deadline| waited + pause >= deadline) || nats.may_forget_denials() {
            return Err(PublishError::NotAcknowledged { subject, waited, reason: reason_of(&error) });
        }
        let jitter = rand::rng().random_range(0.5..=1.0);
        sleep(pause.mul_f64(jitter)).await;
        sent = attempt(&nats.jetstream, &message).await;
    }
}

/// Whether the same message would be refused again.
fn is_final(error: &SendError) -> bool {
    let refusal = || error.source()?.downcast_ref::<jetstream::Error>();
    match error.kind() {
        PublishErrorKind::MaxPayloadExceeded => true,
        PublishErrorKind::Other => match refusal() {
            Some(refusal) => refusal.error_code() == ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM,
            // The client refuses it, not the stream: the subject cannot be published to.
            None => true,
        },
        _ => false,
    }
}

/// The cause for people: the error of NATS, or what to do about it.
fn reason_of(error: &SendError) -> String {
    match error.kind() {
        PublishErrorKind::StreamNotFound => "no stream takes it (start a router, which creates the stream)".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_nats::jetstream::stream::{Config, Stream};
    use std::collections::BTreeMap;
    use tickwire_testkit::NatsServer;

    /// A connection that repeats nothing only because the server is slow.
    async fn connect(server: &NatsServer) -> Nats {
        connect_with(server, Duration::from_secs(60)).await
    }

    async fn connect_with(server: &NatsServer, request_timeout: Duration) -> Nats {
        let mut config = crate::args::ConfigArgs::default().load().unwrap().nats;
        config.url = server.url();
        config.request_timeout = request_timeout;
        Nats::connect(&config, "publish", "test").await.unwrap()
    }

    async fn events(nats: &Nats) -> Stream {
        let config = Config {
            name: "EVENTS".to_owned(),
            subjects: vec![names::SOURCE_ALL.to_owned()],
            max_message_size: 10_000,
            ..Config::default()
        };
        nats.jetstream.create_stream(config).await.unwrap()
    }

    fn message(key: &str, number: u64) -> NewEvent {
        NewEvent::new("pattern", key, format!("id-{number}"), format!("{{\"number\":{number}}}").into_bytes())
    }

    async fn rest<T: Send + 'static>(publisher: &mut Publisher<T>) -> Vec<PublishDone<T>> {
        let mut all = Vec::new();
        while let Some(done) = publisher.done().await {
            all.push(done);
        }
        all
    }

    #[tokio::test]
    async fn messages_are_stored_in_order_and_repetitions_are_duplicates() {
        let server = NatsServer::start();
        let nats = connect(&server).await;
        let stream = events(&nats).await;
        let mut publisher = Publisher::new(&nats, 16, Some(Duration::from_secs(60)));
        for duplicate in [false, true] {
            let mut all = Vec::new();
            for number in 1..=500 {
                all.extend(publisher.send(number, message("BRK.B", number)).await);
                assert!(publisher.under_way.len() <= 16);
            }
            all.extend(rest(&mut publisher).await);
            let stored: BTreeMap<u64, _> = all.into_iter().map(|(number, done)| (number, done.unwrap())).collect();
            assert_eq!(stored.len(), 500);
            for (number, ack) in stored {
                assert_eq!((ack.sequence, ack.duplicate), (number, duplicate));
            }
        }
        let last = stream.get_last_raw_message_by_subject("events.pattern.BRK=2EB").await.unwrap();
        assert_eq!((last.sequence, &last.payload[..]), (500, &br#"{"number":500}"#[..]));
    }

    #[tokio::test]
    async fn unacknowledged_messages_are_sent_again() {
        let mut server = NatsServer::start();
        let nats = connect_with(&server, Duration::from_millis(300)).await;
        events(&nats).await;
        let mut publisher = Publisher::new(&nats, 100, None);
        let mut all = Vec::new();
        for number in 0..50 {
            all.extend(publisher.send(number, message("AAPL", number)).await);
        }
        server.kill();
        for number in 50..60 {
            all.extend(publisher.send(number, message("AAPL", number)).await);
        }
        let again = tokio::task::spawn_blocking(move || {
            server.restart();
            server
        });
        all.extend(rest(&mut publisher).await);
        assert_eq!(all.len(), 60);
        assert!(all.iter().all(|(_, done)| done.is_ok()), "{all:?}");
        let _server = again.await.unwrap();
        let mut stream = nats.jetstream.get_stream("EVENTS").await.unwrap();
        assert_eq!(stream.info().await.unwrap().state.messages, 60);
    }

    #[tokio::test]
    async fn publisher_waits_for_a_missing_stream_up_to_the_deadline() {
        let server = NatsServer::start();
        let nats = connect_with(&server, Duration::from_millis(300)).await;
        let mut hasty = Publisher::new(&nats, 1, Some(Duration::from_millis(100)));
        hasty.send((), message("AAPL", 1)).await;
        assert!(matches!(hasty.done().await, Some(((), Err(PublishError::NotAcknowledged { .. })))));

        let mut patient = Publisher::new(&nats, 1, None);
        patient.send((), message("AAPL", 2)).await;
        let (done, _) = tokio::join!(patient.done(), events(&nats));
        assert!(matches!(done, Some(((), Ok(stored))) if stored.sequence == 1));
    }

    #[tokio::test]
    async fn denial_of_one_subject_leaves_messages_of_others_their_time() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("nats.conf");
        let user = r#"{ user: bob, password: p, permissions: { publish: { deny: ["events.alert.>"] } } }"#;
        std::fs::write(&file, format!("authorization {{ users: [{user}] }}\nno_auth_user: bob\n")).unwrap();
        let server = NatsServer::start_with(&["-js", "-c", file.to_str().unwrap()]);
        let nats = connect_with(&server, Duration::from_millis(300)).await;
        let mut publisher = Publisher::new(&nats, 1, None);
        publisher.send((), NewEvent::new("alert", "ann", "alert".to_owned(), b"{}".to_vec())).await;
        assert!(matches!(publisher.done().await, Some(((), Err(PublishError::Denied { .. })))));

        // The server gets the message before the request for the stream, so the first attempt is not acknowledged.
        publisher.send((), message("AAPL", 1)).await;
        let (done, _) = tokio::join!(publisher.done(), events(&nats));
        assert!(matches!(done, Some(((), Ok(stored))) if stored.sequence == 1));
    }

    #[tokio::test]
    async fn refused_messages_are_not_sent_again() {
        let server = NatsServer::start();
        let nats = connect(&server).await;
        let stream = events(&nats).await;
        let mut publisher = Publisher::new(&nats, 4, None);
        let large = |bytes| NewEvent::new("pattern", "AAPL", "large".to_owned(), vec![b' '; bytes]);
        publisher.send("for the stream", large(20_000)).await;
        publisher.send("for the server", large(2_000_000)).await;
        let mut refused = Vec::new();
        for (tag, done) in rest(&mut publisher).await {
            assert!(matches!(done, Err(PublishError::Refused { .. })), "{tag}: {done:?}");
            refused.push(tag);
        }
        refused.sort_unstable();
        assert_eq!(refused, ["for the server", "for the stream"]);
        assert_eq!(stream.get_info().await.unwrap().state.messages, 0);
    }
}
