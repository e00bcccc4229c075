//! What clients ask for: their frames, read from their sockets, answered in the order of asking.

use std::sync::Arc;

use metrics::counter;
use tickwire_core::codes::{CloseCode, ErrorCode};
use tickwire_core::filter::Filter;
use tickwire_core::frames::{
    Chosen, ClientFrame, Id, Pong, ServerError, ServerFrame, Subscription, SubscriptionName, Subscriptions,
};
use tickwire_core::ids::Millis;

use super::Shard;
use crate::index::Subscriber;
use crate::messages::ToEdge;
use crate::session::{Request, Session, Stage};
use crate::socket::{Ended, Incoming};

/// How many messages of one client are read before others have their turn.
const TURN_MESSAGES: usize = 32;

/// What only a faulty client sends. Limits that are reached, and what is not possible at the moment, befall good ones.
const MALFORMED: [ErrorCode; 4] =
    [ErrorCode::BadFrame, ErrorCode::BadFilter, ErrorCode::UnknownAction, ErrorCode::BadField];

impl Shard {
    /// The socket has something to read.
    pub(crate) fn readable(&mut self, now: Millis, number: u64) {
        for _ in 0..TURN_MESSAGES {
            let Some(session) = self.sessions.get_mut(number) else { return };
            // A client that does not read its answers is not asked for more.
            if session.socket.unsent() > 0 && session.stage == Stage::Open {
                return;
            }
            let read = session.socket.read();
            let open = session.stage == Stage::Open;
            match read {
                Ok(None) => return,
                Ok(Some(_)) | Err(Ended::Refused(_)) if !open => {}
                Ok(Some(incoming)) => {
                    session.heard = now;
                    self.hear(now, number, &incoming);
                }
                Err(ended) => {
                    self.end(now, number, ended);
                    if ended == Ended::Gone {
                        return;
                    }
                }
            }
        }
    }

    fn hear(&mut self, now: Millis, number: u64, incoming: &Incoming) {
        let Some(session) = self.sessions.get(number) else { return };
        let encoding = session.socket.encoding();
        let outcome = match incoming {
            Incoming::Alive => Ok(()),
            Incoming::WrongType => {
                let expected =
                    format!("{} messages are expected on {}", encoding.message_type(), encoding.sub_protocol());
                Err(ServerError::new(None, ErrorCode::BadFrame, expected))
            }
            Incoming::Frame(bytes) => match ClientFrame::parse(bytes, encoding) {
                Ok((id, frame)) => self.act(now, number, id, frame),
                Err(error) => Err(ServerError::from(error)),
            },
        };
        if let Err(error) = outcome {
            self.refuse(now, number, error);
        }
    }

    fn act(&mut self, now: Millis, number: u64, id: Option<Id>, frame: ClientFrame) -> Result<(), ServerError> {
        match frame {
            ClientFrame::Auth { .. } => {
                let message = "this connection is authenticated; open another one for another user";
                Err(ServerError::new(id, ErrorCode::AlreadyAuthenticated, message))
            }
            ClientFrame::Ping => {
                self.reply(now, number, &ServerFrame::Pong(Pong { id }));
                Ok(())
            }
            ClientFrame::List => self.request(now, number, Request::List { id }),
            ClientFrame::Unsubscribe { chosen } => self.request(now, number, Request::Unsubscribe { id, chosen }),
            ClientFrame::Subscribe { name, filter, window_ms, max_events_per_hour } => {
                let filter = Filter::parse(&filter, &self.settings.kinds)
                    .map_err(|error| ServerError::new(id.clone(), ErrorCode::BadFilter, error.to_string()))?;
                let session = self.sessions.get(number).ok_or_else(|| gone(id.clone()))?;
                self.check_limits(session, &id, &name, &filter)?;
                let filter = Arc::new(filter);
                let subscription = self.granted(Arc::clone(&filter), window_ms, max_events_per_hour);
                self.request(now, number, Request::Subscribe { id, name, subscription })?;
                self.ask(ToEdge::Add(self.id(number), filter));
                Ok(())
            }
        }
    }

    /// What the configuration makes of what a client asks for.
    fn granted(&self, filter: Arc<Filter>, window_ms: Option<u16>, quota: Option<u32>) -> Subscription {
        let config = &self.settings.config;
        let usual = u16::try_from(config.window.as_millis()).unwrap_or(u16::MAX);
        let window_ms = if config.batching { window_ms.unwrap_or(usual) } else { 0 };
        let most = (config.max_events_per_hour > 0).then_some(config.max_events_per_hour);
        let max_events_per_hour = [quota, most].into_iter().flatten().min();
        Subscription { filter, window_ms, max_events_per_hour }
    }

    fn check_limits(
        &self,
        session: &Session,
        id: &Option<Id>,
        name: &SubscriptionName,
        filter: &Filter,
    ) -> Result<(), ServerError> {
        let config = &self.settings.config;
        let refused = |code, message: String| Err(ServerError::new(id.clone(), code, message));
        if session.wanted_subscriptions(name) > config.max_subscriptions {
            let message = format!("subscription limit is {} per connection", config.max_subscriptions);
            return refused(ErrorCode::SubscriptionLimit, message);
        }
        if session.wanted_symbols(name, filter) > config.max_symbols {
            let message = format!("symbol limit is {} per connection", config.max_symbols);
            return refused(ErrorCode::SymbolLimit, message);
        }
        Ok(())
    }

    /// Queues a request behind those that wait, and answers it at once if none does.
    fn request(&mut self, now: Millis, number: u64, request: Request) -> Result<(), ServerError> {
        let limit = self.settings.config.max_subscriptions;
        let session = self.sessions.get_mut(number).ok_or_else(|| gone(None))?;
        if session.requests.len() >= limit {
            let (Request::Subscribe { id, .. } | Request::Unsubscribe { id, .. } | Request::List { id }) = request;
            let message = format!("{limit} requests wait for their answers; send more when they have come");
            return Err(ServerError::new(id, ErrorCode::Unavailable, message));
        }
        session.requests.push_back(request);
        self.answer_waiting(now, number);
        Ok(())
    }

    /// The oldest subscription that was asked for is confirmed.
    pub(super) fn grant(&mut self, now: Millis, number: u64) {
        let Some(session) = self.sessions.get_mut(number) else { return };
        let Some(Request::Subscribe { id, name, subscription }) = session.requests.pop_front() else { return };
        let (filter, window_ms) = (Arc::clone(&subscription.filter), subscription.window_ms);
        let (subscription, former) = session.hold(name, subscription);
        let interned = self.index.add(Subscriber { session: number, subscription, window_ms }, &filter);
        if let Some(former) = former {
            self.ask(ToEdge::Remove(former.filter));
        }
        if let Some(session) = self.sessions.get_mut(number) {
            session.share(subscription, interned);
        }
        self.answer(now, number, id, ServerFrame::Subscribed);
        self.answer_waiting(now, number);
    }

    /// Answers what waits for nothing but its turn.
    fn answer_waiting(&mut self, now: Millis, number: u64) {
        while let Some(session) = self.sessions.get_mut(number) {
            match session.requests.pop_front_if(|request| !matches!(request, Request::Subscribe { .. })) {
                Some(Request::Unsubscribe { id, chosen }) => self.unsubscribe(now, number, id, chosen),
                Some(Request::List { id }) => self.answer(now, number, id, ServerFrame::Subscriptions),
                Some(Request::Subscribe { .. }) | None => return,
            }
        }
    }

    fn unsubscribe(&mut self, now: Millis, number: u64, id: Option<Id>, chosen: Chosen) {
        // What waits leaves while its subscription's name and quota are known.
        self.flush(now, number);
        let Some(session) = self.sessions.get_mut(number) else { return };
        let ended = match chosen {
            Chosen::All => session.release_all(),
            Chosen::One(name) => match session.release(&name) {
                Some(ended) => vec![ended],
                None => {
                    let known: Vec<&str> = session.subscriptions.iter().map(|held| held.name.as_str()).collect();
                    let message =
                        format!("no subscription is named {:?}; there are: {}", name.as_str(), known.join(", "));
                    self.refuse(now, number, ServerError::new(id, ErrorCode::UnknownSubscription, message));
                    return;
                }
            },
        };
        for held in ended {
            self.index.remove(number, held.number, &held.subscription.filter);
            self.ask(ToEdge::Remove(held.subscription.filter));
        }
        self.answer(now, number, id, ServerFrame::Subscribed);
    }

    /// Answers with the full list, and the position as of which it is in force.
    fn answer(&mut self, now: Millis, number: u64, id: Option<Id>, frame: fn(Subscriptions) -> ServerFrame) {
        self.flush(now, number);
        let position = self.position(number);
        let Some(session) = self.sessions.get(number) else { return };
        let subscriptions = session.shown();
        self.reply(now, number, &frame(Subscriptions { id, subscriptions, position }));
    }

    /// Tells what was wrong, and closes on a client that goes on being wrong.
    fn refuse(&mut self, now: Millis, number: u64, error: ServerError) {
        counter!("tickwire_gateway_refused_frames_total", "code" => error.code.to_string()).increment(1);
        let is_malformed = MALFORMED.iter().any(|code| code.code() == error.code);
        self.reply(now, number, &ServerFrame::Error(error));
        let Some(session) = self.sessions.get_mut(number) else { return };
        session.malformed += u32::from(is_malformed);
        if is_malformed && session.malformed > self.settings.config.max_malformed {
            self.close(now, number, CloseCode::TooManyBadFrames);
        }
    }
}

fn gone(id: Option<Id>) -> ServerError {
    ServerError::new(id, ErrorCode::Unavailable, "the session is ending")
}
