//! The commands of clients. They are answered in the order of their arrival.

use std::collections::BTreeMap;
use std::sync::Arc;

use tickwire_core::filter::Filter;
use tickwire_core::ids::{Millis, Partition, Seq};
use tickwire_core::protocol::codes::{CloseCode, ErrorCode};
use tickwire_core::protocol::position::Position;
use tickwire_core::protocol::since::Since;
use tickwire_core::protocol::{
    ClientFrame, Id, Pong, ServerError, ServerFrame, Subscription, SubscriptionName, SubscriptionRequest,
    SubscriptionSelector, Subscriptions,
};

use super::{Shard, ShardConfig};
use crate::granting::{self, SubscriptionFault, symbols};
use crate::index::Subscriber;
use crate::messages::ToEdge;
use crate::metrics;
use crate::shard::session::{ActiveSubscription, Request};
use crate::socket::{Incoming, Socket};

/// Errors that only a faulty client causes. A correct client may reach limits, or ask for what is not possible now.
const MALFORMED: [ErrorCode; 4] =
    [ErrorCode::BadFrame, ErrorCode::BadFilter, ErrorCode::UnknownAction, ErrorCode::BadField];

/// How many of a session's subscriptions an error lists.
const NAMED: usize = 8;

impl<S: Socket> Shard<S> {
    /// Takes a message of a client.
    pub(super) fn take_message(&mut self, now: Millis, number: u64, incoming: &Incoming) {
        let Some(session) = self.sessions.get(number) else { return };
        let encoding = session.socket.encoding();
        let outcome = match incoming {
            Incoming::Alive => Ok(()),
            Incoming::WrongType => {
                let expected =
                    format!("{} messages are expected on {}", encoding.message_type(), encoding.sub_protocol());
                Err(ServerError::new(None, ErrorCode::BadFrame, expected))
            }
            Incoming::TooLarge => {
                let most = self.settings.config.max_frame_bytes;
                let message = format!("a frame larger than {most} bytes was skipped (gateway.max_frame_bytes)");
                Err(ServerError::new(None, ErrorCode::FrameTooLarge, message))
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
        if matches!(frame, ClientFrame::List | ClientFrame::Unsubscribe { .. } | ClientFrame::Subscribe { .. }) {
            self.apply_saved(now, number);
        }
        match frame {
            ClientFrame::Auth { token } => self.authenticate(now, number, id, token),
            ClientFrame::Ping => {
                self.answer_with(now, number, &ServerFrame::Pong(Pong { id }));
                Ok(())
            }
            ClientFrame::Ack { partition, seq } => self.acknowledge(number, id, partition, seq),
            ClientFrame::List => self.request(now, number, Request::List { id }),
            ClientFrame::Unsubscribe { chosen } => {
                self.request(now, number, Request::Unsubscribe { id, chosen: chosen.clone() })?;
                self.leave_saved(number, &chosen);
                Ok(())
            }
            ClientFrame::Subscribe { name, wanted, since } => {
                if let Some(Since::Position(position)) = &since {
                    self.check_partitions(&id, "since", position)?;
                }
                let session = self.sessions.get(number).ok_or_else(|| session_ending(id.clone()))?;
                // Cheap checks first.
                self.check_subscriptions(&id, session.wanted_subscriptions(&name))?;
                let subscription = self.granted(&id, &name, &wanted)?;
                self.check_symbols(&id, session.wanted(&name, &subscription.filter, symbols))?;
                let bytes = session.wanted(&name, &subscription.filter, Filter::bytes);
                let more = subscription.filter.bytes();
                self.check_bytes(&id, bytes, session.asked_bytes() + more)?;
                self.check_user_bytes(&id, number, more)?;
                if since.is_some()
                    && (session.backfill.is_some() || session.requests.iter().any(Request::wants_backfill))
                {
                    let message = "a backfill is already running; send `since` again after caught_up";
                    return Err(ServerError::new(id, ErrorCode::Unavailable, message));
                }
                let filter = Arc::clone(&subscription.filter);
                let chosen = SubscriptionSelector::One(name.clone());
                let past = since.map(|since| self.backfill_begin(since));
                self.request(now, number, Request::Subscribe { id, name, subscription, past })?;
                self.leave_saved(number, &chosen);
                self.ask(ToEdge::Add(self.id(number), vec![filter]));
                Ok(())
            }
            ClientFrame::Resume { position, seen, subscriptions } => {
                let from = self.resume_position(&id, position, seen)?;
                let session = self.sessions.get(number).ok_or_else(|| session_ending(id.clone()))?;
                if !session.subscriptions.is_empty() || session.requests.iter().any(Request::is_confirmed) {
                    let message = "resume must be sent before any subscribe, with all subscriptions";
                    return Err(ServerError::new(id, ErrorCode::ResumeNotFirst, message));
                }
                if session.backfill.is_some() {
                    let message = "a backfill is already running; resume after caught_up";
                    return Err(ServerError::new(id, ErrorCode::Unavailable, message));
                }
                self.check_subscriptions(&id, subscriptions.len())?;
                let mut subscriptions = subscriptions
                    .into_iter()
                    .map(|(name, wanted)| self.granted(&id, &name, &wanted).map(|granted| (name, granted)))
                    .collect::<Result<Vec<_>, ServerError>>()?;
                self.check_symbols(&id, subscriptions.iter().map(|(_, wanted)| symbols(&wanted.filter)).sum())?;
                let bytes = subscriptions.iter().map(|(_, wanted)| wanted.filter.bytes()).sum();
                self.check_bytes(&id, bytes, bytes)?;
                self.check_user_bytes(&id, number, bytes)?;
                self.resume_saved(now, number, &mut subscriptions);
                if subscriptions.is_empty() {
                    let message = "subscriptions: missing; list all to continue, except those that the user has saved";
                    return Err(ServerError::new(id, ErrorCode::BadField, message));
                }
                let filters = subscriptions.iter().map(|(_, wanted)| Arc::clone(&wanted.filter)).collect();
                self.request(now, number, Request::Resume { id, from, subscriptions })?;
                self.ask(ToEdge::Add(self.id(number), filters));
                Ok(())
            }
        }
    }

    /// The subscription that a client gets for its request, within the limits of the configuration.
    fn granted(
        &self,
        id: &Option<Id>,
        name: &SubscriptionName,
        wanted: &SubscriptionRequest,
    ) -> Result<Subscription, ServerError> {
        let ShardConfig { config, kinds, .. } = &self.settings;
        granting::grant(config, kinds, name, wanted).map_err(refused(id))
    }

    /// Where a session resumes: at the position that it names, or beyond it where it has seen more.
    fn resume_position(
        &self,
        id: &Option<Id>,
        mut position: Position,
        seen: BTreeMap<Partition, Seq>,
    ) -> Result<Position, ServerError> {
        let refused = |message: String| ServerError::new(id.clone(), ErrorCode::BadField, message);
        self.check_partitions(id, "position", &position)?;
        for (partition, seq) in seen {
            let Some(at) = position.seqs.get_mut(usize::from(partition.0)) else {
                return Err(refused(format!("seen: the position has no partition {partition}")));
            };
            *at = (*at).max(seq);
        }
        // A gateway may lag, and its clients may be ahead of it up to `beyond`. A position further ahead is refused,
        // because the client would get no events.
        let known = self.applied.seqs.iter().max().map_or(0, |seq| seq.0);
        let beyond = known.saturating_add(self.settings.config.replay_range);
        let is_behind = position.epoch_id > self.applied.epoch_id && self.outage.is_some();
        let is_near = position.epoch_id != self.applied.epoch_id || position.seqs.iter().all(|seq| seq.0 <= beyond);
        if is_near && !is_behind {
            return Ok(position);
        }
        if self.outage.is_some() {
            let message = "position: this gateway is behind, because of an outage; resume later, or elsewhere";
            return Err(ServerError::new(id.clone(), ErrorCode::Unavailable, message));
        }
        Err(refused("position: it lies beyond the end of the stream".to_owned()))
    }

    /// Checks that a position has exactly the partitions of the stream. From any other a session cannot resume.
    fn check_partitions(&self, id: &Option<Id>, field: &str, position: &Position) -> Result<(), ServerError> {
        let (named, partitions) = (position.seqs.len(), usize::from(self.settings.partitions));
        if named == partitions {
            return Ok(());
        }
        let message =
            format!("{field}: it has {named} partitions, but the stream has {partitions}; subscribe without it");
        Err(ServerError::new(id.clone(), ErrorCode::BadField, message))
    }

    fn check_subscriptions(&self, id: &Option<Id>, subscriptions: usize) -> Result<(), ServerError> {
        granting::check_subscriptions(&self.settings.config, subscriptions).map_err(refused(id))
    }

    fn check_symbols(&self, id: &Option<Id>, symbols: usize) -> Result<(), ServerError> {
        granting::check_symbols(&self.settings.config, symbols).map_err(refused(id))
    }

    /// Checks the size of a session's filters: those that it will have, and those in requests that wait.
    fn check_bytes(&self, id: &Option<Id>, wanted: usize, asked: usize) -> Result<(), ServerError> {
        granting::check_bytes(&self.settings.config, wanted).map_err(refused(id))?;
        let most = self.settings.config.max_filter_bytes;
        if asked > most {
            let message = format!("filters of {most} bytes wait for their answers; send more after these");
            return Err(ServerError::new(id.clone(), ErrorCode::Unavailable, message));
        }
        Ok(())
    }

    /// Queues a request after those that wait, and answers it at once if it is the first and needs no confirmation.
    pub(super) fn request(&mut self, now: Millis, number: u64, request: Request) -> Result<(), ServerError> {
        let limit = self.settings.config.max_subscriptions;
        let session = self.sessions.get_mut(number).ok_or_else(|| session_ending(None))?;
        if session.requests.len() >= limit {
            let id = request.into_id();
            let message = format!("{limit} requests wait for their answers; send more after these");
            return Err(ServerError::new(id, ErrorCode::Unavailable, message));
        }
        let bytes = request.bytes();
        session.requests.push_back(request);
        self.count_filters(number, bytes, 0);
        self.answer_waiting(now, number);
        Ok(())
    }

    /// The oldest request is confirmed.
    pub(super) fn grant(&mut self, now: Millis, number: u64) {
        let Some(session) = self.sessions.get_mut(number) else { return };
        let (id, gaps) = match session.requests.pop_front() {
            Some(Request::Subscribe { id, name, subscription, past }) => {
                let Some(subscription) = self.activate(number, name, subscription) else { return };
                if past.is_none() {
                    self.owe_reminders(number, &[subscription]);
                }
                let gaps = past.map(|begin| {
                    self.flush(now, number);
                    self.start_backfill(now, (number, subscription), id.clone(), &begin)
                });
                (id, gaps)
            }
            Some(Request::Resume { id, from, subscriptions }) => {
                for (name, subscription) in subscriptions {
                    self.activate(number, name, subscription);
                }
                self.log_resume(now, number, &from);
                let gaps = self.go_on(now, number, id.clone(), &from);
                (id, Some(gaps))
            }
            Some(Request::Saved { change, .. }) => {
                self.change_by_saved(now, number, change);
                return self.answer_waiting(now, number);
            }
            Some(Request::Unsubscribe { .. } | Request::List { .. }) | None => return,
        };
        self.update_registration(number);
        match gaps {
            None => self.answer(now, number, id, ServerFrame::Subscribed),
            Some(gaps) => {
                // The answer is sent before anything of the backfill.
                self.show(now, number, id, ServerFrame::Subscribed);
                self.notify_gaps(now, number, gaps);
                self.continue_backfill(now, number);
            }
        }
        self.ask_for_reminders(now, number);
        self.answer_waiting(now, number);
    }

    /// Activates a subscription, and returns its number.
    pub(super) fn activate(&mut self, number: u64, name: SubscriptionName, subscription: Subscription) -> Option<u32> {
        let session = self.sessions.get_mut(number)?;
        let Subscription { window_ms, alert, .. } = subscription;
        let filter = Arc::clone(&subscription.filter);
        let (subscription, former) = session.hold(name, subscription);
        let interned = self.index.add(Subscriber { session: number, subscription, window_ms, alert }, &filter);
        if let Some(former) = former {
            self.count_filters(number, 0, former.filter.bytes());
            self.ask(ToEdge::Remove(former.filter));
        }
        self.sessions.get_mut(number)?.share(subscription, interned);
        self.log_subscription(number, subscription);
        Some(subscription)
    }

    /// Answers the first requests of the queue that need no confirmation.
    fn answer_waiting(&mut self, now: Millis, number: u64) {
        while let Some(session) = self.sessions.get_mut(number) {
            match session.requests.pop_front_if(|request| !request.is_confirmed()) {
                Some(Request::Unsubscribe { id, chosen }) => self.unsubscribe(now, number, id, chosen),
                Some(Request::List { id }) => self.answer(now, number, id, ServerFrame::Subscriptions),
                Some(Request::Saved { change, .. }) => self.change_by_saved(now, number, change),
                Some(Request::Subscribe { .. } | Request::Resume { .. }) | None => break,
            }
        }
        self.catch_up_with_saved(now, number);
    }

    fn unsubscribe(&mut self, now: Millis, number: u64, id: Option<Id>, chosen: SubscriptionSelector) {
        // Waiting events are sent first, while their subscription's name and quota are known.
        self.flush(now, number);
        let Some(session) = self.sessions.get_mut(number) else { return };
        let ended = match chosen {
            SubscriptionSelector::All => session.release_all(),
            SubscriptionSelector::One(name) => match session.release(&name) {
                Some(ended) => vec![ended],
                None => {
                    let count = session.subscriptions.len();
                    let known = session.subscriptions.iter().take(NAMED).map(|held| held.name.as_str());
                    let known = known.chain((count > NAMED).then_some("…")).collect::<Vec<_>>().join(", ");
                    let known = if count == 0 { "none".to_owned() } else { format!("{count}: {known}") };
                    let message = format!("no subscription is named {:?}; existing ones: {known}", name.as_str());
                    self.refuse(now, number, ServerError::new(id, ErrorCode::UnknownSubscription, message));
                    return;
                }
            },
        };
        self.deactivate(number, ended);
        self.update_registration(number);
        self.answer(now, number, id, ServerFrame::Subscribed);
    }

    /// Ends subscriptions that the session has released.
    pub(super) fn deactivate(&mut self, number: u64, ended: Vec<ActiveSubscription>) {
        for held in ended {
            self.index.remove(number, held.number, &held.subscription.filter);
            self.count_filters(number, 0, held.subscription.filter.bytes());
            self.ask(ToEdge::Remove(held.subscription.filter));
        }
    }

    /// Answers with the full list of subscriptions, and the position from which on it is active.
    pub(super) fn answer(&mut self, now: Millis, number: u64, id: Option<Id>, frame: fn(Subscriptions) -> ServerFrame) {
        self.flush(now, number);
        self.show(now, number, id, frame);
    }

    fn show(&mut self, now: Millis, number: u64, id: Option<Id>, frame: fn(Subscriptions) -> ServerFrame) {
        let position = self.position(number);
        let Some(session) = self.sessions.get(number) else { return };
        let subscriptions = session.shown();
        self.answer_with(now, number, &frame(Subscriptions::new(id, subscriptions, position)));
    }

    /// Sends an answer. Its bytes count for the session's command rate.
    pub(super) fn answer_with(&mut self, now: Millis, number: u64, frame: &ServerFrame) {
        self.reply(now, number, frame);
        self.spend_bytes(now, number, self.frame.len());
    }

    /// Answers with an error, and closes a client that sends too many malformed frames.
    pub(super) fn refuse(&mut self, now: Millis, number: u64, error: ServerError) {
        metrics::REFUSED_FRAMES.with(error.code.to_string()).increment(1);
        let is_malformed = MALFORMED.iter().any(|code| code.code() == error.code);
        self.answer_with(now, number, &ServerFrame::Error(error));
        let Some(session) = self.sessions.get_mut(number) else { return };
        if is_malformed && session.malformed_frames.add(now, self.settings.config.max_malformed) {
            self.close(now, number, CloseCode::TooManyBadFrames);
        }
    }
}

/// The error of a refused subscription.
fn refused(id: &Option<Id>) -> impl FnOnce(SubscriptionFault) -> ServerError {
    move |(code, message)| ServerError::new(id.clone(), code, message)
}

fn session_ending(id: Option<Id>) -> ServerError {
    ServerError::new(id, ErrorCode::Unavailable, "the session is ending")
}
