//! What was asked and not answered yet, and which subscriptions are in force. Pure: frames go in and out as values.
//!
//! A request survives a reconnect: it is asked again, with its id, until its caller gives up. A subscription is held
//! from the answer that confirmed it to the answer that ended it, with the filter as the caller wrote it, so that
//! nothing that this client does not know of is lost from it.

use std::collections::BTreeMap;

use tickwire_core::codes::ErrorCode;
use tickwire_core::frames::{
    Chosen, ClientFrame, Encoding, Id, ServerError, ServerMessage, SubscriptionName, Subscriptions,
};
use tokio::sync::oneshot;

use crate::error::ClientError;
use crate::message::Message;

/// At most so many requests are open at once; further ones wait with their callers.
const MAX_OPEN: usize = 256;

/// What the server says to a request that it grants.
#[derive(Debug)]
pub(crate) enum Answer {
    /// The list of subscriptions, as it is after the request.
    Subscriptions(Subscriptions),
    /// The answer to a ping.
    Pong,
}

/// Where an answer goes.
pub(crate) type Reply = oneshot::Sender<Result<Answer, ClientError>>;

/// The server could not take back a subscription for now, so this session is of no use.
#[derive(Debug)]
pub(crate) struct CannotRestore(pub(crate) ServerError);

#[derive(Debug)]
struct Open {
    frame: ClientFrame,
    /// `None` for what the client itself asks after a reconnect.
    reply: Option<Reply>,
}

/// The requests of one client, over all its sessions.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    last_id: u64,
    open: BTreeMap<u64, Open>,
    held: BTreeMap<SubscriptionName, ClientFrame>,
}

impl Requests {
    /// Whether another request may be made.
    pub(crate) fn has_room(&self) -> bool {
        self.open.len() < MAX_OPEN
    }

    /// Whether subscriptions were in force when the last session ended.
    pub(crate) fn holds_any(&self) -> bool {
        !self.held.is_empty()
    }

    /// Whether subscriptions of an earlier session are still to be confirmed.
    pub(crate) fn restoring(&self) -> bool {
        self.open.values().any(|open| open.reply.is_none())
    }

    /// Takes a request and gives the frame for it; nothing if its caller has given up already.
    pub(crate) fn ask(&mut self, frame: ClientFrame, reply: Reply, encoding: Encoding) -> Option<Vec<u8>> {
        (!reply.is_closed()).then(|| self.open(frame, Some(reply), encoding))
    }

    /// The frames with which a new session begins: the subscriptions in force first, then what is still unanswered.
    pub(crate) fn start_session(&mut self, encoding: Encoding) -> Vec<Vec<u8>> {
        self.open.retain(|_, open| open.reply.as_ref().is_some_and(|reply| !reply.is_closed()));
        let unanswered: Vec<_> = self.open.iter().map(|(id, open)| encode(*id, &open.frame, encoding)).collect();
        let held: Vec<_> = self.held.values().cloned().collect();
        let mut frames: Vec<_> = held.into_iter().map(|frame| self.open(frame, None, encoding)).collect();
        frames.extend(unanswered);
        frames
    }

    /// Takes what may be an answer. Gives what the user should be told.
    pub(crate) fn answered(&mut self, message: ServerMessage) -> Result<Vec<Message>, CannotRestore> {
        let id = match &message {
            ServerMessage::Subscribed(answer) | ServerMessage::Subscriptions(answer) => answer.id.as_ref(),
            ServerMessage::Pong(pong) => pong.id.as_ref(),
            ServerMessage::Error(error) => error.id.as_ref(),
            _ => None,
        };
        let open = id.and_then(number).and_then(|id| self.open.remove(&id));
        let answer = match message {
            ServerMessage::Subscribed(list) | ServerMessage::Subscriptions(list) => Ok(Answer::Subscriptions(list)),
            ServerMessage::Pong(_) => Ok(Answer::Pong),
            ServerMessage::Error(error) => Err(error),
            _ => return Ok(Vec::new()),
        };
        match (open, answer) {
            (Some(Open { frame, reply: Some(reply) }), answer) => {
                if answer.is_ok() {
                    self.hold(frame);
                }
                let answer = answer.map_err(|error| ClientError::Refused { code: error.code, msg: error.msg });
                // A caller that has given up was told that the change may have been made.
                drop(reply.send(answer));
                Ok(Vec::new())
            }
            (Some(Open { frame, reply: None }), answer) => self.restored(frame, answer.err()),
            (None, Err(error)) => Ok(vec![Message::Refused(error)]),
            (None, Ok(_)) => Ok(Vec::new()),
        }
    }

    fn open(&mut self, frame: ClientFrame, reply: Option<Reply>, encoding: Encoding) -> Vec<u8> {
        self.last_id += 1;
        let bytes = encode(self.last_id, &frame, encoding);
        self.open.insert(self.last_id, Open { frame, reply });
        bytes
    }

    fn hold(&mut self, frame: ClientFrame) {
        match &frame {
            ClientFrame::Subscribe { name, .. } => {
                self.held.insert(name.clone(), frame);
            }
            ClientFrame::Unsubscribe { chosen: Chosen::One(name) } => {
                self.held.remove(name);
            }
            ClientFrame::Unsubscribe { chosen: Chosen::All } => self.held.clear(),
            ClientFrame::Resume { .. } | ClientFrame::Auth { .. } | ClientFrame::List | ClientFrame::Ping => {}
        }
    }

    fn restored(&mut self, frame: ClientFrame, refusal: Option<ServerError>) -> Result<Vec<Message>, CannotRestore> {
        let mut told = Vec::new();
        match (frame, refusal) {
            (_, Some(error)) if error.code == ErrorCode::Unavailable.code() => return Err(CannotRestore(error)),
            (ClientFrame::Subscribe { name, .. }, Some(error)) => {
                self.held.remove(&name);
                told.push(Message::SubscriptionLost { name, error });
            }
            _ => {}
        }
        if !self.restoring() {
            told.push(Message::Restored);
        }
        Ok(told)
    }
}

fn encode(id: u64, frame: &ClientFrame, encoding: Encoding) -> Vec<u8> {
    frame.encode(Some(&Id::Number(id.into())), encoding)
}

fn number(id: &Id) -> Option<u64> {
    match id {
        Id::Number(number) => number.as_u64(),
        Id::Text(_) => None,
    }
}
