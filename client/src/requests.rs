//! The open requests and the confirmed subscriptions of a client. Pure: frames go in and out as values.
//!
//! A request survives a reconnect: it is sent again with the same id, until its caller gives up. A subscription is held
//! from the answer that confirms it to the answer that ends it. Its filter is kept as the caller wrote it, so that
//! fields unknown to this client are not lost. The saved subscriptions of the user are the server's: they are only known
//! here.

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
use crate::saved::SavedSubscriptions;

/// The most requests that are open at once; further ones wait.
const MAX_OPEN: usize = 256;

/// The answer to a granted request.
#[derive(Debug)]
pub(crate) enum GrantedAnswer {
    /// The list of subscriptions after the request.
    Subscriptions(Subscriptions),
    /// The answer to a ping.
    Pong,
    /// An alert is acknowledged.
    Acked,
}

/// The channel to the caller of a request.
pub(crate) type ReplySender = oneshot::Sender<Result<GrantedAnswer, ClientError>>;

/// A request on its way to the owner task.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) frame: ClientFrame,
    pub(crate) reply: ReplySender,
}

/// The server cannot restore a subscription at the moment, so this session is useless.
#[derive(Debug)]
pub(crate) struct CannotRestore(pub(crate) ServerError);

/// The result of an answer.
#[derive(Debug, Default)]
pub(crate) struct Answered {
    /// Messages for the user.
    pub(crate) for_user: Vec<Message>,
    /// For the answer to a resume: whether it was granted.
    pub(crate) resumed: Option<bool>,
}

/// The encoding of frames, and the most bytes of one.
pub(crate) type FrameWriter = (Encoding, usize);

/// The beginning of a session.
#[derive(Debug)]
pub(crate) struct SessionStart {
    /// Whether it cannot resume although the position is known.
    pub(crate) interrupted: bool,
    pub(crate) resubscription: Resubscription,
}

/// The frames and messages of a new session or of a repeated subscription.
#[derive(Debug, Default)]
pub(crate) struct Resubscription {
    pub(crate) frames: Vec<Vec<u8>>,
    /// Messages for the user.
    pub(crate) for_user: Vec<Message>,
}

/// The owner of a backfill.
#[derive(Debug)]
enum BackfillOf {
    Session,
    Subscription(SubscriptionName),
}

#[derive(Debug)]
struct OpenRequest {
    frame: ClientFrame,
    /// `None` for requests of the client itself after a reconnect.
    reply: Option<ReplySender>,
}

/// The requests of one client, over all its sessions.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    last_id: u64,
    open: BTreeMap<u64, OpenRequest>,
    held: BTreeMap<SubscriptionName, SubscriptionRequest>,
    saved: SavedSubscriptions,
    /// The backfills that have not ended, by the ids of the frames that asked for them.
    backfills: BTreeMap<u64, BackfillOf>,
}

impl Requests {
    /// Those of a client that subscribes when it has connected.
    pub(crate) fn holding(name: SubscriptionName, wanted: SubscriptionRequest) -> Self {
        Self { held: BTreeMap::from([(name, wanted)]), ..Self::default() }
    }

    /// Whether another request may be sent. None may before a resume is answered: if it is refused, the held
    /// subscriptions must be sent first.
    pub(crate) fn has_room(&self) -> bool {
        self.open.len() < MAX_OPEN && !self.is_resuming()
    }

    /// Whether a resume is not answered yet.
    pub(crate) fn is_resuming(&self) -> bool {
        self.open.values().any(|open| matches!(open.frame, ClientFrame::Resume { .. }))
    }

    /// Whether there are confirmed subscriptions, of the client itself or saved ones.
    pub(crate) fn holds_any(&self) -> bool {
        !self.held.is_empty() || !self.saved.is_empty()
    }

    /// Whether subscriptions of an earlier session are not confirmed again yet.
    pub(crate) fn restoring(&self) -> bool {
        self.open.values().any(|open| open.reply.is_none())
    }

    /// Takes a request and returns its frame; `None` if its caller has given up already, or the frame is larger than
    /// the server accepts.
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

    /// The frame with a new token for the session. No request waits for its answer.
    pub(crate) fn authenticate(&mut self, token: String, encoding: Encoding) -> Vec<u8> {
        self.last_id += 1;
        encode(self.last_id, &ClientFrame::Auth { token: Token(token) }, encoding)
    }

    /// Begins a new session: with a resume from `place` if that is known, there are subscriptions, and the server
    /// accepts a frame of its size. The next frames then depend on the answer. The server adds the saved subscriptions
    /// to the resume, as they are now.
    pub(crate) fn start_session(
        &mut self,
        place: Option<(Position, BTreeMap<Partition, Seq>)>,
        (encoding, most): FrameWriter,
    ) -> SessionStart {
        self.open.retain(|_, open| open.reply.is_some());
        self.saved.start_session();
        let Some((position, seen)) = place.filter(|_| self.holds_any()) else {
            return SessionStart { interrupted: false, resubscription: self.resubscribe((encoding, most)) };
        };
        let resume = ClientFrame::Resume { position, seen, subscriptions: self.held.clone() };
        let resume = self.open(resume, None, encoding);
        if resume.len() <= most {
            return SessionStart {
                interrupted: false,
                resubscription: Resubscription { frames: vec![resume], for_user: Vec::new() },
            };
        }
        debug!(bytes = resume.len(), most, "resume frame exceeds the server's limit, subscribing again");
        self.close(self.last_id);
        SessionStart { interrupted: true, resubscription: self.resubscribe((encoding, most)) }
    }

    /// Subscribes again to all held subscriptions, and repeats the open requests. A subscription that is too large for
    /// the server is lost. The server adds the saved subscriptions before it answers. If there are no others, a request
    /// for the list gets that answer.
    pub(crate) fn resubscribe(&mut self, (encoding, most): FrameWriter) -> Resubscription {
        let again = self.repeat_open(encoding);
        let mut resubscription = Resubscription::default();
        for (name, wanted) in self.held.clone() {
            let frame = self.open(ClientFrame::Subscribe { name: name.clone(), wanted, since: None }, None, encoding);
            if frame.len() <= most {
                resubscription.frames.push(frame);
                continue;
            }
            self.close(self.last_id);
            self.held.remove(&name);
            resubscription.for_user.push(Message::SubscriptionLost { name, error: too_large(frame.len(), most) });
        }
        if self.held.is_empty() && !self.saved.is_empty() {
            resubscription.frames.push(self.open(ClientFrame::List, None, encoding));
        }
        if !resubscription.for_user.is_empty() && resubscription.frames.is_empty() {
            resubscription.for_user.push(Message::Restored);
        }
        resubscription.frames.extend(again);
        resubscription
    }

    /// The frames of requests of the session before whose callers still wait.
    pub(crate) fn repeat_open(&mut self, encoding: Encoding) -> Vec<Vec<u8>> {
        self.open.retain(|_, open| open.reply.as_ref().is_none_or(|reply| !reply.is_closed()));
        let Self { open, backfills, .. } = self;
        let unanswered = open.iter().filter(|(_, open)| open.reply.is_some());
        let again = unanswered.map(|(id, open)| {
            note_backfill(backfills, *id, &open.frame);
            encode(*id, &open.frame, encoding)
        });
        again.collect()
    }

    /// The session has ended. Returns messages about backfills of subscriptions that are lost. The backfill of a resume
    /// is continued by the next session.
    pub(crate) fn end_session(&mut self) -> Vec<Message> {
        let lost = std::mem::take(&mut self.backfills).into_iter().filter_map(|(id, of)| match of {
            // An unanswered request is sent again with its backfill.
            BackfillOf::Subscription(name) if !self.open.contains_key(&id) => {
                Some(Message::Past { name, complete: false })
            }
            BackfillOf::Session | BackfillOf::Subscription(_) => None,
        });
        lost.collect()
    }

    /// A backfill has ended. Returns the message for the user.
    pub(crate) fn caught_up(&mut self, end: &CaughtUp) -> Option<Message> {
        let complete = end.resumed;
        match self.backfills.remove(&number(end.id.as_ref()?)?)? {
            BackfillOf::Session => Some(Message::Resumed { complete }),
            BackfillOf::Subscription(name) => Some(Message::Past { name, complete }),
        }
    }

    /// Takes a message that may be an answer.
    pub(crate) fn answered(&mut self, message: ServerMessage) -> Result<Answered, CannotRestore> {
        let id = match &message {
            ServerMessage::Subscribed(answer) | ServerMessage::Subscriptions(answer) => answer.id.as_ref(),
            ServerMessage::Pong(pong) => pong.id.as_ref(),
            ServerMessage::Acked(acked) => acked.id.as_ref(),
            ServerMessage::Error(error) => error.id.as_ref(),
            _ => None,
        };
        // The error for a skipped frame has no id. Only a resume can be larger than frames that were granted before.
        let was_skipped = matches!(&message, ServerMessage::Error(error)
            if error.id.is_none() && error.code == ErrorCode::FrameTooLarge.code());
        let resume = self.open.iter().find(|(_, open)| matches!(open.frame, ClientFrame::Resume { .. }));
        let id = id.and_then(number).or_else(|| resume.filter(|_| was_skipped).map(|(id, _)| *id));
        let open = id.and_then(|id| self.open.remove(&id));
        let answer = match message {
            ServerMessage::Subscribed(list) | ServerMessage::Subscriptions(list) => {
                Ok(GrantedAnswer::Subscriptions(list))
            }
            ServerMessage::Pong(_) => Ok(GrantedAnswer::Pong),
            ServerMessage::Acked(_) => Ok(GrantedAnswer::Acked),
            ServerMessage::Authenticated(answer) => {
                return Ok(Answered { for_user: vec![Message::Authenticated(answer)], resumed: None });
            }
            ServerMessage::Error(error) => Err(error),
            _ => return Ok(Answered::default()),
        };
        if answer.is_err()
            && let Some(id) = id
        {
            self.backfills.remove(&id);
        }
        match (open, answer) {
            (Some(OpenRequest { frame, reply: Some(reply) }), answer) => {
                let mut for_user = Vec::new();
                if let Ok(granted) = &answer {
                    self.hold(frame);
                    for_user.extend(self.take_list(granted));
                }
                let answer = answer.map_err(|error| ClientError::Refused { code: error.code, msg: error.msg });
                // A caller that has given up knows that the change may have been made.
                drop(reply.send(answer));
                Ok(Answered { for_user, resumed: None })
            }
            (Some(OpenRequest { frame, reply: None }), answer) => {
                let mut for_user = Vec::new();
                if let Ok(granted) = &answer {
                    self.hold(frame.clone());
                    for_user.extend(self.take_list(granted));
                }
                let restored = self.restored(frame, answer.err())?;
                for_user.extend(restored.for_user);
                Ok(Answered { for_user, ..restored })
            }
            (None, Err(error)) => Ok(Answered { for_user: vec![Message::Refused(error)], resumed: None }),
            (None, Ok(granted)) => {
                Ok(Answered { for_user: self.take_list(&granted).into_iter().collect(), resumed: None })
            }
        }
    }

    /// Takes the list of an answer, or one that was not requested. Returns a message if there are other saved
    /// subscriptions in it than before.
    fn take_list(&mut self, granted: &GrantedAnswer) -> Option<Message> {
        let GrantedAnswer::Subscriptions(list) = granted else { return None };
        self.saved.take(list, &mut self.held).map(Message::SavedSubscriptions)
    }

    fn open(&mut self, frame: ClientFrame, reply: Option<ReplySender>, encoding: Encoding) -> Vec<u8> {
        self.last_id += 1;
        let bytes = encode(self.last_id, &frame, encoding);
        note_backfill(&mut self.backfills, self.last_id, &frame);
        self.open.insert(self.last_id, OpenRequest { frame, reply });
        bytes
    }

    /// Removes a request that is not sent.
    fn close(&mut self, id: u64) -> Option<OpenRequest> {
        self.backfills.remove(&id);
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
            ClientFrame::Resume { .. }
            | ClientFrame::Auth { .. }
            | ClientFrame::Ack { .. }
            | ClientFrame::List
            | ClientFrame::Ping => {}
        }
    }

    fn restored(&mut self, frame: ClientFrame, refusal: Option<ServerError>) -> Result<Answered, CannotRestore> {
        let mut for_user = Vec::new();
        let resumed = matches!(frame, ClientFrame::Resume { .. }).then_some(refusal.is_none());
        match (frame, refusal) {
            (_, Some(error)) if error.code == ErrorCode::Unavailable.code() => return Err(CannotRestore(error)),
            (ClientFrame::Resume { .. }, Some(error)) => {
                debug!(%error.msg, "resume refused");
                return Ok(Answered { for_user: vec![Message::Interrupted], resumed });
            }
            (ClientFrame::Subscribe { name, .. }, Some(error)) => {
                self.held.remove(&name);
                for_user.push(Message::SubscriptionLost { name, error });
            }
            _ => {}
        }
        if !self.restoring() {
            for_user.push(Message::Restored);
        }
        Ok(Answered { for_user, resumed })
    }
}

fn too_large(bytes: usize, most: usize) -> ServerError {
    let message = format!("the frame has {bytes} bytes, the limit of the server is {most}");
    ServerError::new(None, ErrorCode::FrameTooLarge, message)
}

/// Notes the backfill that a frame asks for, if any.
fn note_backfill(backfills: &mut BTreeMap<u64, BackfillOf>, id: u64, frame: &ClientFrame) {
    let of = match frame {
        ClientFrame::Subscribe { name, since: Some(_), .. } => BackfillOf::Subscription(name.clone()),
        ClientFrame::Resume { .. } => BackfillOf::Session,
        _ => return,
    };
    backfills.insert(id, of);
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
