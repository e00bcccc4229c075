//! The state that the handles of a connection and its owner share: the subscriptions, and the bytes to send.
//!
//! One lock guards both, because a subscription is both an entry and a line to the server. It is held only to append
//! a few bytes, or to hand out the messages of one read.

use super::LinkError;
use super::message::NatsMessage;
use crate::link::subscriber::{LinkSubscriber, SubscriberSender, queue};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, oneshot, watch};

/// How many bytes may wait to be sent.
const MAX_OUT: usize = 4 * 1024 * 1024;

/// The longest subject that can be published to: a server refuses lines of more than 4 KiB, and ends the connection.
const LONGEST_SUBJECT: usize = 1024;

/// The largest payload that a server can be configured to take.
const LARGEST_PAYLOAD: usize = 64 * 1024 * 1024;

/// How many refusals are remembered: repeated refusals must not use ever more memory.
const REFUSALS: usize = 16;

#[derive(Debug, Default)]
pub(super) struct LinkShared {
    state: Mutex<LinkState>,
    /// Notified when there is something to send.
    pub(super) wake: Notify,
    /// What the server has refused since the start, as it said it.
    refusals: watch::Sender<Vec<String>>,
}

#[derive(Debug, Default)]
struct LinkState {
    up: bool,
    /// Whether the owner has ended.
    closed: bool,
    next: u64,
    subscriptions: BTreeMap<u64, LinkSubscription>,
    out: Vec<u8>,
    /// The callers that wait for the server's next answers to `PING`, in order.
    pongs: VecDeque<Option<oneshot::Sender<()>>>,
    max_payload: usize,
    failure: String,
}

#[derive(Debug)]
struct LinkSubscription {
    subject: String,
    group: Option<String>,
    sender: SubscriberSender,
}

impl LinkShared {
    fn lock(&self) -> MutexGuard<'_, LinkState> {
        // A panic leaves at worst half a line, and the connection is opened again after a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn subscribe(
        self: &Arc<Self>,
        name: &'static str,
        subject: &str,
        group: Option<&str>,
        most: usize,
    ) -> Result<LinkSubscriber, LinkError> {
        if !is_subject(subject.as_bytes()) || !group.is_none_or(|group| is_subject(group.as_bytes())) {
            return Err(LinkError::Subject);
        }
        let mut state = self.lock();
        if state.closed {
            return Err(LinkError::Closed);
        }
        state.next += 1;
        let number = state.next;
        let (sender, inlet) = queue(name, most, self, number);
        let subscription = LinkSubscription { subject: subject.to_owned(), group: group.map(str::to_owned), sender };
        if state.up {
            let line = subscription.line(number);
            state.out.extend_from_slice(line.as_bytes());
            self.wake.notify_one();
        }
        state.subscriptions.insert(number, subscription);
        Ok(inlet)
    }

    pub(super) fn unsubscribe(&self, number: u64) {
        let mut state = self.lock();
        if state.subscriptions.remove(&number).is_some() && state.up {
            state.out.extend_from_slice(format!("UNSUB {number}\r\n").as_bytes());
            self.wake.notify_one();
        }
    }

    pub(super) fn publish(&self, subject: &[u8], reply: Option<&[u8]>, payload: &[u8]) -> Result<(), LinkError> {
        if !is_subject(subject) || !reply.is_none_or(is_subject) {
            return Err(LinkError::Subject);
        }
        let mut state = self.lock();
        if !state.up {
            return Err(LinkError::Away);
        }
        if payload.len() > state.max_payload {
            return Err(LinkError::TooLarge);
        }
        if state.out.len() + payload.len() > MAX_OUT {
            return Err(LinkError::Full);
        }
        let out = &mut state.out;
        out.extend_from_slice(b"PUB ");
        out.extend_from_slice(subject);
        if let Some(reply) = reply {
            out.push(b' ');
            out.extend_from_slice(reply);
        }
        out.extend_from_slice(format!(" {}\r\n", payload.len()).as_bytes());
        out.extend_from_slice(payload);
        out.extend_from_slice(b"\r\n");
        self.wake.notify_one();
        Ok(())
    }

    /// Sends a `PING`, which the server answers when it has handled everything before it.
    pub(super) fn ping(&self) -> Result<oneshot::Receiver<()>, LinkError> {
        let mut state = self.lock();
        if !state.up {
            return Err(LinkError::Away);
        }
        let (sender, receiver) = oneshot::channel();
        state.ask(Some(sender));
        self.wake.notify_one();
        Ok(receiver)
    }

    /// Asks the server whether it is alive.
    pub(super) fn keep_alive(&self) {
        self.lock().ask(None);
    }

    /// Handles the server's answer to a `PING`.
    pub(super) fn pong(&self) {
        if let Some(Some(waiting)) = self.lock().pongs.pop_front() {
            // The caller may have given up.
            waiting.send(()).ok();
        }
    }

    /// Answers a `PING` of the server.
    pub(super) fn answer_ping(&self) {
        self.lock().out.extend_from_slice(b"PONG\r\n");
    }

    /// Hands out the messages, and empties `messages`.
    pub(super) fn hand_out(&self, messages: &mut Vec<(u64, NatsMessage)>) {
        let state = self.lock();
        for (number, message) in messages.drain(..) {
            // A message for an ended subscription was on its way.
            if let Some(subscription) = state.subscriptions.get(&number) {
                subscription.sender.offer(message);
            }
        }
    }

    /// Takes the bytes to send, if any.
    pub(super) fn take_out(&self, into: &mut Vec<u8>) {
        let mut state = self.lock();
        into.clear();
        std::mem::swap(into, &mut state.out);
    }

    /// The connection is up: all subscriptions are sent again.
    pub(super) fn set_up(&self, max_payload: usize) {
        self.lock().begin(max_payload);
    }

    /// Another connection takes the place of the present one, if nothing waits to be sent, and no answer to a `PING` is
    /// awaited unless `is_late`. All subscriptions are sent again.
    pub(super) fn replace(&self, max_payload: usize, is_late: bool) -> bool {
        let mut state = self.lock();
        let is_idle = state.out.is_empty() && (is_late || state.pongs.is_empty());
        if is_idle {
            state.begin(max_payload);
        }
        is_idle
    }

    /// The connection is lost, with the reason.
    pub(super) fn set_down(&self, failure: String) {
        let mut state = self.lock();
        state.up = false;
        state.failure = failure;
        state.out = Vec::new();
        state.pongs.clear();
    }

    /// There will be no further connection.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.up = false;
        state.closed = true;
        state.pongs.clear();
        state.out = Vec::new();
        state.subscriptions.clear();
    }

    pub(super) fn refuse(&self, refusal: String) {
        self.refusals.send_modify(|refusals| {
            if refusals.len() < REFUSALS {
                refusals.push(refusal);
            }
        });
    }

    pub(super) fn refusals(&self) -> watch::Receiver<Vec<String>> {
        self.refusals.subscribe()
    }

    pub(super) fn is_up(&self) -> bool {
        self.lock().up
    }

    pub(super) fn max_payload(&self) -> usize {
        self.lock().max_payload
    }

    pub(super) fn set_max_payload(&self, most: usize) {
        self.lock().max_payload = most.min(LARGEST_PAYLOAD);
    }

    /// The last reason why there was no connection.
    pub(super) fn failure(&self) -> String {
        self.lock().failure.clone()
    }
}

impl LinkState {
    /// A connection begins: all subscriptions are sent.
    fn begin(&mut self, max_payload: usize) {
        self.out.clear();
        self.pongs.clear();
        let lines: String = self.subscriptions.iter().map(|(number, one)| one.line(*number)).collect();
        self.out.extend_from_slice(lines.as_bytes());
        self.max_payload = max_payload.min(LARGEST_PAYLOAD);
        self.up = true;
    }

    fn ask(&mut self, waiting: Option<oneshot::Sender<()>>) {
        self.out.extend_from_slice(b"PING\r\n");
        self.pongs.push_back(waiting);
    }
}

impl LinkSubscription {
    fn line(&self, number: u64) -> String {
        match &self.group {
            Some(group) => format!("SUB {} {group} {number}\r\n", self.subject),
            None => format!("SUB {} {number}\r\n", self.subject),
        }
    }
}

/// Whether this can stand in a control line: a subject that others have chosen could otherwise inject a line.
fn is_subject(subject: &[u8]) -> bool {
    (1..=LONGEST_SUBJECT).contains(&subject.len()) && !subject.iter().any(|byte| b" \t\r\n\0".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::message::Layout;
    use bytes::Bytes;
    use std::time::Duration;
    use tokio::time::{Instant, advance};

    fn message(size: u32) -> NatsMessage {
        let layout = Layout { subject: (4, 5), reply: (0, 0), body: 0, payload: 0 };
        NatsMessage::new(Bytes::from(vec![b'x'; size as usize]), layout, Instant::now())
    }

    fn out(shared: &LinkShared) -> String {
        let mut bytes = Vec::new();
        shared.take_out(&mut bytes);
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn subscriptions_are_sent_again_on_every_connection() {
        let shared = Arc::new(LinkShared::default());
        let early = shared.subscribe("q", "a.>", None, 100).unwrap();
        assert_eq!((out(&shared).as_str(), shared.publish(b"x", None, b"")), ("", Err(LinkError::Away)));
        shared.set_up(100);
        assert_eq!(out(&shared), "SUB a.> 1\r\n");
        let late = shared.subscribe("q", "b", Some("g"), 100).unwrap();
        shared.publish(b"x", Some(b"r"), b"abc").unwrap();
        drop(early);
        assert_eq!(out(&shared), "SUB b g 2\r\nPUB x r 3\r\nabc\r\nUNSUB 1\r\n");
        shared.publish(b"y", None, b"lost with its connection").unwrap();
        shared.set_down("gone".to_owned());
        shared.set_up(100);
        assert_eq!(out(&shared), "SUB b g 2\r\n");
        shared.close();
        assert!(matches!(shared.subscribe("q", "c", None, 100), Err(LinkError::Closed)));
        drop(late);
    }

    #[test]
    fn connection_is_replaced_when_nothing_waits_for_the_present_one() {
        let shared = Arc::new(LinkShared::default());
        let inlet = shared.subscribe("q", "a", None, 100).unwrap();
        shared.set_up(100);
        assert!(!shared.replace(200, true), "a line waits to be sent");
        assert_eq!(out(&shared), "SUB a 1\r\n");
        let mut answer = shared.ping().unwrap();
        assert_eq!(out(&shared), "PING\r\n");
        assert!(!shared.replace(200, false), "an answer is awaited");
        shared.pong();
        answer.try_recv().unwrap();
        assert!(shared.replace(200, false));
        assert_eq!((out(&shared).as_str(), shared.max_payload(), shared.is_up()), ("SUB a 1\r\n", 200, true));
        let mut answer = shared.ping().unwrap();
        assert_eq!(out(&shared), "PING\r\n");
        assert!(shared.replace(200, true));
        assert!(answer.try_recv().is_err(), "the answer never comes");
        drop(inlet);
    }

    #[test]
    fn subject_cannot_inject_a_line() {
        let shared = Arc::new(LinkShared::default());
        shared.set_up(100);
        let long = vec![b'x'; LONGEST_SUBJECT + 1];
        for bad in [&b""[..], b"a b", b"a\rb", b"a\nb", b"a\tb", b"a\0b", &long] {
            assert_eq!(shared.publish(bad, None, b""), Err(LinkError::Subject));
            assert_eq!(shared.publish(b"x", Some(bad), b""), Err(LinkError::Subject));
        }
        assert_eq!(shared.publish(b"x", None, &[0; 101]), Err(LinkError::TooLarge));
        shared.set_max_payload(MAX_OUT);
        shared.publish(b"x", None, &vec![0; MAX_OUT]).unwrap();
        assert_eq!(shared.publish(b"x", None, b"1"), Err(LinkError::Full));
    }

    #[tokio::test]
    async fn queue_is_bounded_in_bytes_and_drops_the_newest() {
        let shared = Arc::new(LinkShared::default());
        shared.set_up(100);
        let mut inlet = shared.subscribe("q", "a", None, 1_000).unwrap();
        let mut stranger = shared.subscribe("q", "b", None, 1_000).unwrap();
        let mut received =
            vec![(1, message(400)), (1, message(401)), (2, message(5_000)), (1, message(402)), (7, message(1))];
        shared.hand_out(&mut received);
        assert!(received.is_empty());
        assert_eq!(inlet.dropped(), 1);
        assert_eq!(inlet.next().await.unwrap().size(), 400);
        shared.hand_out(&mut vec![(1, message(403))]);
        let mut taken = Vec::new();
        assert_eq!(inlet.next_many(&mut taken, 10).await, 2);
        assert_eq!(taken.iter().map(NatsMessage::size).collect::<Vec<_>>(), [401, 403]);
        assert_eq!((stranger.next().await.unwrap().size(), stranger.dropped()), (5_000, 0), "queue empty");
        shared.close();
        assert!(inlet.next().await.is_none());
        assert_eq!(inlet.next_many(&mut taken, 10).await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn message_that_waits_keeps_the_time_of_its_arrival() {
        let shared = Arc::new(LinkShared::default());
        let mut inlet = shared.subscribe("q", "a", None, 1_000_000).unwrap();
        assert_eq!(inlet.take_waiting().len(), 0);
        let start = Instant::now();
        for size in [100_000, 10, 20] {
            shared.hand_out(&mut vec![(1, message(size))]);
            advance(Duration::from_secs(1)).await;
        }
        // The second was copied out of its read buffer.
        let first = inlet.next().await.unwrap();
        let waiting = inlet.take_waiting();
        let seen = [&first, &waiting[0], &waiting[1]].map(|message| (message.size(), message.arrived() - start));
        let at = Duration::from_secs;
        assert_eq!((seen, waiting.len()), ([(100_000, at(0)), (10, at(1)), (20, at(2))], 2));
        shared.hand_out(&mut vec![(1, message(1_000_000))]);
        assert_eq!((inlet.dropped(), inlet.take_waiting().len()), (0, 1), "queue empty");
    }
}
