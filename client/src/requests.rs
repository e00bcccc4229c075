//! What was asked and not answered yet, and which subscriptions are in force. Pure: frames go in and out as values.
//!
//! A request survives a reconnect: it is asked again, with its id, until its caller gives up. A subscription is held
//! from the answer that confirmed it to the answer that ended it, with the filter as the caller wrote it, so that
//! nothing that this client does not know of is lost from it.

use std::collections::BTreeMap;

use tickwire_core::ids::{Partition, Seq};
use tickwire_core::protocol::codes::ErrorCode;
use tickwire_core::protocol::position::Position;
use tickwire_core::protocol::{
    CaughtUp, ClientFrame, Encoding, Id, ServerError, ServerMessage, SubscriptionName, SubscriptionRequest,
    SubscriptionSelector, Subscriptions, Token,
};
use tokio::sync::oneshot;
use tracing::debug;

use crate::error::ClientError;
use crate::message::Message;

/// At most so many requests are open at once; further ones wait with their callers.
const MAX_OPEN: usize = 256;

/// What the server says to a request that it grants.
#[derive(Debug)]
pub(crate) enum GrantedAnswer {
    /// The list of subscriptions, as it is after the request.
    Subscriptions(Subscriptions),
    /// The answer to a ping.
    Pong,
}

/// Where an answer goes.
pub(crate) type ReplySender = oneshot::Sender<Result<GrantedAnswer, ClientError>>;

/// The server could not take back a subscription for now, so this session is of no use.
#[derive(Debug)]
pub(crate) struct CannotRestore(pub(crate) ServerError);

/// What follows from an answer.
#[derive(Debug, Default)]
pub(crate) struct Answered {
    /// What the user should be told.
    pub(crate) messages_out: Vec<Message>,
    /// If it answers a resume, whether that was granted.
    pub(crate) resumed: Option<bool>,
}

/// How frames are written, and how many bytes one may have at most.
pub(crate) type FrameWriter = (Encoding, usize);

/// How a session begins.
#[derive(Debug)]
pub(crate) struct SessionStart {
    /// Whether it cannot go on where the one before ended, though that is known.
    pub(crate) interrupted: bool,
    pub(crate) anew: Resubscription,
}

/// What is asked when subscriptions are made anew.
#[derive(Debug, Default)]
pub(crate) struct Resubscription {
    pub(crate) frames: Vec<Vec<u8>>,
    /// What the user should be told.
    pub(crate) messages_out: Vec<Message>,
}

/// Whose past is awaited.
#[derive(Debug)]
enum PastOf {
    Session,
    Subscription(SubscriptionName),
}

#[derive(Debug)]
struct OpenRequest {
    frame: ClientFrame,
    /// `None` for what the client itself asks after a reconnect.
    reply: Option<ReplySender>,
}

/// The requests of one client, over all its sessions.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    last_id: u64,
    open: BTreeMap<u64, OpenRequest>,
    held: BTreeMap<SubscriptionName, SubscriptionRequest>,
    /// What of the past is still to come, by the ids of the frames that asked for it.
    pasts: BTreeMap<u64, PastOf>,
}

impl Requests {
    /// Whether another request may be made. Until a resume is answered none may: if it is refused, what was in force
    /// comes first.
    pub(crate) fn has_room(&self) -> bool {
        self.open.len() < MAX_OPEN && !self.is_resuming()
    }

    /// Whether a resume was asked for and not answered.
    pub(crate) fn is_resuming(&self) -> bool {
        self.open.values().any(|open| matches!(open.frame, ClientFrame::Resume { .. }))
    }

    /// Whether subscriptions were in force when the last session ended.
    pub(crate) fn holds_any(&self) -> bool {
        !self.held.is_empty()
    }

    /// Whether subscriptions of an earlier session are still to be confirmed.
    pub(crate) fn restoring(&self) -> bool {
        self.open.values().any(|open| open.reply.is_none())
    }

    /// Takes a request and gives the frame for it; nothing if its caller has given up already, or the frame is larger
    /// than the server takes.
    pub(crate) fn ask(
        &mut self,
        frame: ClientFrame,
        reply: ReplySender,
        (encoding, most): FrameWriter,
    ) -> Option<Vec<u8>> {
        if reply.is_closed() {
            return None;
        }
        let bytes = self.open(frame, Some(reply), encoding);
        if bytes.len() <= most {
            return Some(bytes);
        }
        if let Some(OpenRequest { reply: Some(reply), .. }) = self.close(self.last_id) {
            let ServerError { code, msg, .. } = too_large(bytes.len(), most);
            drop(reply.send(Err(ClientError::Refused { code, msg })));
        }
        None
    }

    /// The frame with a new token for the session. Its answer is not waited for.
    pub(crate) fn authenticate(&mut self, token: String, encoding: Encoding) -> Vec<u8> {
        self.last_id += 1;
        encode(self.last_id, &ClientFrame::Auth { token: Token(token) }, encoding)
    }

    /// How a new session begins: with a resume from `place` on, if that is known and anything is held, and the server
    /// takes a frame of its size. What follows then depends on its answer.
    pub(crate) fn start_session(
        &mut self,
        place: Option<(Position, BTreeMap<Partition, Seq>)>,
        (encoding, most): FrameWriter,
    ) -> SessionStart {
        self.open.retain(|_, open| open.reply.is_some());
        let Some((position, seen)) = place.filter(|_| self.holds_any()) else {
            return SessionStart { interrupted: false, anew: self.subscribe_anew((encoding, most)) };
        };
        let resume = ClientFrame::Resume { position, seen, subscriptions: self.held.clone() };
        let resume = self.open(resume, None, encoding);
        if resume.len() <= most {
            return SessionStart {
                interrupted: false,
                anew: Resubscription { frames: vec![resume], messages_out: Vec::new() },
            };
        }
        debug!(bytes = resume.len(), most, "the session cannot go on: its resume is larger than the server takes");
        self.close(self.last_id);
        SessionStart { interrupted: true, anew: self.subscribe_anew((encoding, most)) }
    }

    /// Subscribes to everything that was in force as if it were new, and then asks again. What the server would not take
    /// any more is gone.
    pub(crate) fn subscribe_anew(&mut self, (encoding, most): FrameWriter) -> Resubscription {
        let again = self.ask_again(encoding);
        let mut anew = Resubscription::default();
        for (name, wanted) in self.held.clone() {
            let frame = self.open(ClientFrame::Subscribe { name: name.clone(), wanted, since: None }, None, encoding);
            if frame.len() <= most {
                anew.frames.push(frame);
                continue;
            }
            self.close(self.last_id);
            self.held.remove(&name);
            anew.messages_out.push(Message::SubscriptionLost { name, error: too_large(frame.len(), most) });
        }
        if !anew.messages_out.is_empty() && anew.frames.is_empty() {
            anew.messages_out.push(Message::Restored);
        }
        anew.frames.extend(again);
        anew
    }

    /// The frames of what callers asked in the session before, and still wait for.
    pub(crate) fn ask_again(&mut self, encoding: Encoding) -> Vec<Vec<u8>> {
        self.open.retain(|_, open| open.reply.as_ref().is_none_or(|reply| !reply.is_closed()));
        let Self { open, pasts, .. } = self;
        let unanswered = open.iter().filter(|(_, open)| open.reply.is_some());
        let again = unanswered.map(|(id, open)| {
            await_past(pasts, *id, &open.frame);
            encode(*id, &open.frame, encoding)
        });
        again.collect()
    }

    /// The session has ended. Gives what the user should be told of the past that does not come any more; what a session
    /// lacks is asked for by the next.
    pub(crate) fn end_session(&mut self) -> Vec<Message> {
        let lost = std::mem::take(&mut self.pasts).into_iter().filter_map(|(id, of)| match of {
            // One that was not even answered is asked for again.
            PastOf::Subscription(name) if !self.open.contains_key(&id) => Some(Message::Past { name, complete: false }),
            PastOf::Session | PastOf::Subscription(_) => None,
        });
        lost.collect()
    }

    /// What was asked for of the past has come. Gives what the user should be told.
    pub(crate) fn caught_up(&mut self, end: &CaughtUp) -> Option<Message> {
        let complete = end.resumed;
        match self.pasts.remove(&number(end.id.as_ref()?)?)? {
            PastOf::Session => Some(Message::Resumed { complete }),
            PastOf::Subscription(name) => Some(Message::Past { name, complete }),
        }
    }

    /// Takes what may be an answer.
    pub(crate) fn answered(&mut self, message: ServerMessage) -> Result<Answered, CannotRestore> {
        let id = match &message {
            ServerMessage::Subscribed(answer) | ServerMessage::Subscriptions(answer) => answer.id.as_ref(),
            ServerMessage::Pong(pong) => pong.id.as_ref(),
            ServerMessage::Error(error) => error.id.as_ref(),
            _ => None,
        };
        // A frame that was passed over is answered without its id. Only a resume is larger than what was granted before.
        let passed_over = matches!(&message, ServerMessage::Error(error)
            if error.id.is_none() && error.code == ErrorCode::FrameTooLarge.code());
        let resume = self.open.iter().find(|(_, open)| matches!(open.frame, ClientFrame::Resume { .. }));
        let id = id.and_then(number).or_else(|| resume.filter(|_| passed_over).map(|(id, _)| *id));
        let open = id.and_then(|id| self.open.remove(&id));
        let answer = match message {
            ServerMessage::Subscribed(list) | ServerMessage::Subscriptions(list) => {
                Ok(GrantedAnswer::Subscriptions(list))
            }
            ServerMessage::Pong(_) => Ok(GrantedAnswer::Pong),
            ServerMessage::Authenticated(said) => {
                return Ok(Answered { messages_out: vec![Message::Authenticated(said)], resumed: None });
            }
            ServerMessage::Error(error) => Err(error),
            _ => return Ok(Answered::default()),
        };
        if answer.is_err()
            && let Some(id) = id
        {
            self.pasts.remove(&id);
        }
        match (open, answer) {
            (Some(OpenRequest { frame, reply: Some(reply) }), answer) => {
                if answer.is_ok() {
                    self.hold(frame);
                }
                let answer = answer.map_err(|error| ClientError::Refused { code: error.code, msg: error.msg });
                // A caller that has given up was told that the change may have been made.
                drop(reply.send(answer));
                Ok(Answered::default())
            }
            (Some(OpenRequest { frame, reply: None }), answer) => self.restored(frame, answer.err()),
            (None, Err(error)) => Ok(Answered { messages_out: vec![Message::Refused(error)], resumed: None }),
            (None, Ok(_)) => Ok(Answered::default()),
        }
    }

    fn open(&mut self, frame: ClientFrame, reply: Option<ReplySender>, encoding: Encoding) -> Vec<u8> {
        self.last_id += 1;
        let bytes = encode(self.last_id, &frame, encoding);
        await_past(&mut self.pasts, self.last_id, &frame);
        self.open.insert(self.last_id, OpenRequest { frame, reply });
        bytes
    }

    /// Forgets a request that is not made after all.
    fn close(&mut self, id: u64) -> Option<OpenRequest> {
        self.pasts.remove(&id);
        self.open.remove(&id)
    }

    fn hold(&mut self, frame: ClientFrame) {
        match frame {
            ClientFrame::Subscribe { name, wanted, .. } => {
                self.held.insert(name, wanted);
            }
            ClientFrame::Unsubscribe { chosen: SubscriptionSelector::One(name) } => {
                self.held.remove(&name);
            }
            ClientFrame::Unsubscribe { chosen: SubscriptionSelector::All } => self.held.clear(),
            ClientFrame::Resume { .. } | ClientFrame::Auth { .. } | ClientFrame::List | ClientFrame::Ping => {}
        }
    }

    fn restored(&mut self, frame: ClientFrame, refusal: Option<ServerError>) -> Result<Answered, CannotRestore> {
        let mut messages_out = Vec::new();
        let resumed = matches!(frame, ClientFrame::Resume { .. }).then_some(refusal.is_none());
        match (frame, refusal) {
            (_, Some(error)) if error.code == ErrorCode::Unavailable.code() => return Err(CannotRestore(error)),
            (ClientFrame::Resume { .. }, Some(error)) => {
                debug!(%error.msg, "the session cannot go on");
                return Ok(Answered { messages_out: vec![Message::Interrupted], resumed });
            }
            (ClientFrame::Subscribe { name, .. }, Some(error)) => {
                self.held.remove(&name);
                messages_out.push(Message::SubscriptionLost { name, error });
            }
            _ => {}
        }
        if !self.restoring() {
            messages_out.push(Message::Restored);
        }
        Ok(Answered { messages_out, resumed })
    }
}

fn too_large(bytes: usize, most: usize) -> ServerError {
    let message = format!("the frame has {bytes} bytes, and the server takes {most}");
    ServerError::new(None, ErrorCode::FrameTooLarge, message)
}

/// Remembers, if a frame asks for the past, whose that is.
fn await_past(pasts: &mut BTreeMap<u64, PastOf>, id: u64, frame: &ClientFrame) {
    let of = match frame {
        ClientFrame::Subscribe { name, since: Some(_), .. } => PastOf::Subscription(name.clone()),
        ClientFrame::Resume { .. } => PastOf::Session,
        _ => return,
    };
    pasts.insert(id, of);
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
