//! How a gateway reads the alerts of a user that come again: the last one from the leader of the stream, the record of
//! acknowledgements, and pages of alerts from any router, which reads any copy of the stream by its own rules.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use tickwire_core::alerts::{AlertsPage, AlertsRequest};
use tickwire_core::event::Timestamp;
use tickwire_core::ids::{Millis, Seq, UserId};
use tickwire_node::clock::millis;
use tickwire_router_node::decisions::{Decoded, PageBuilder, ReadPurpose};

use super::super::clocks;
use super::super::cluster::{NODES, SimCluster, StoredEvent};
use super::super::rules::SimRevision;
use super::super::trace;
use super::{AlertTasks, is_alert_to, partition_of_alerts};
use crate::messages::ToShard;
use crate::reminders::reading::{NextPage, ReminderLimits, UserReading};
use crate::reminders::users::{EndedReading, USERS};
use crate::reminders::{
    DEADLINE, PAGE_DEADLINE, PAGES, PAUSE, ReadFailure, ReadResult, ReminderAnswer, SEARCH_PAGES, UnackedAlerts,
    decode_page,
};

/// The most bytes of a page: so few that some users need several pages.
const PAGE_BYTES: usize = 500;

/// The percentage of pages for which the server lags, where nodes fail.
const LAGGING: u64 = 15;

/// A reading of the alerts of a user.
pub(super) struct SimReading {
    user: UserId,
    step: ReadStep,
    /// How many pages it has got.
    pages: usize,
    /// Whether it has asked for the present page twice.
    is_repeated: bool,
    due: Millis,
    /// When it ends without a result.
    until: Millis,
}

/// What is asked for next.
enum ReadStep {
    /// The last alert of the user.
    Last,
    /// The record of the acknowledgements.
    Record(Seq),
    /// A page.
    Page(UserReading),
    /// The last alert once more, after a server that lags or a deletion.
    LastAgain(UserReading),
}

impl SimReading {
    /// When it is due next.
    pub(super) fn due(&self) -> Millis {
        self.due
    }
}

impl SimCluster {
    /// Takes requests of sessions, and goes on with the readings that are due. Returns whether a session was answered.
    pub(super) fn turn_readings(&mut self, number: usize, tasks: &mut AlertTasks) -> bool {
        while tasks.users.have_room()
            && let Ok(request) = tasks.requests.try_recv()
        {
            if let Some(user) = tasks.users.ask(request) {
                tasks.readings.push(self.begin_reading(user));
            }
        }
        let users: BTreeSet<&UserId> = tasks.readings.iter().map(|reading| &reading.user).collect();
        assert_eq!(users.len(), tasks.readings.len(), "a user is read twice at the same time: {users:?}");
        assert!(users.len() <= USERS, "too many users are read at the same time: {users:?}");
        let (now, mut is_answered) = (self.now, false);
        for mut reading in tasks.readings.extract_if(.., |reading| reading.due <= now).collect::<Vec<_>>() {
            let Some(read) = self.advance_reading(number, &mut reading) else {
                tasks.readings.push(reading);
                continue;
            };
            is_answered = true;
            let user = reading.user;
            trace::line(|| format!("{} has read the alerts of {user}: {}", self.gateways[number].node, text(&read)));
            let result: ReadResult = read.map(Arc::new);
            let EndedReading { served, is_next } = tasks.users.end(&user);
            for session in served {
                let answer = ReminderAnswer { session: session.number, result: result.clone() };
                tasks.shards[usize::from(session.shard)].send(ToShard::Reminders(answer));
            }
            if is_next {
                tasks.readings.push(self.begin_reading(user));
            }
        }
        is_answered
    }

    fn begin_reading(&mut self, user: UserId) -> SimReading {
        let (due, until) = (self.now.plus(self.network.delay()), self.now.plus(millis(DEADLINE)));
        SimReading { user, step: ReadStep::Last, pages: 0, is_repeated: false, due, until }
    }

    /// Takes the next step. Returns the result if it was the last one.
    fn advance_reading(
        &mut self,
        number: usize,
        reading: &mut SimReading,
    ) -> Option<Result<UnackedAlerts, ReadFailure>> {
        if reading.until <= self.now {
            return Some(Err(ReadFailure::Unavailable));
        }
        // The request is lost, or its answer. Without an answer nothing happens until the deadline.
        let is_lost = self.gateways[number].is_cut || self.network.loses() || self.network.loses();
        reading.due = reading.until;
        let next = match std::mem::replace(&mut reading.step, ReadStep::Last) {
            ReadStep::Page(pages) => return self.read_page(reading, pages, is_lost),
            _ if is_lost => return None,
            ReadStep::Last => match self.last_alert(&reading.user) {
                Some(last) => ReadStep::Record(last),
                None => return Some(Ok(UnackedAlerts::default())),
            },
            ReadStep::Record(last) => ReadStep::Page(self.begin_pages(number, &reading.user, last)),
            ReadStep::LastAgain(mut pages) => match self.last_alert(&reading.user) {
                Some(last) => {
                    pages.set_last(last);
                    ReadStep::Page(pages)
                }
                None => return Some(Ok(pages.finish())),
            },
        };
        (reading.step, reading.due) = (next, self.now.plus(self.network.delay()));
        None
    }

    /// The last alert of a user, as the leader of the stream has it.
    fn last_alert(&self, user: &UserId) -> Option<Seq> {
        self.readable(Seq(0)).filter(|stored| is_alert_to(stored, user)).last().map(|stored| stored.seq)
    }

    /// Reads the record of a user, and begins to read pages.
    fn begin_pages(&mut self, number: usize, user: &UserId, last: Seq) -> UserReading {
        let (_, record) = self.bucket().record(user);
        let (config, gateway) = (&self.config.gateway, &self.gateways[number]);
        let now = clocks::time_of_day(self.now).0 + gateway.ahead;
        let since = Timestamp(now.saturating_sub_unsigned(millis(config.again_window)));
        let limits = ReminderLimits { most: config.again_max, bytes: config.outbox_bytes };
        UserReading::new((gateway.node.clone(), user.clone()), since, last, &record, limits)
    }

    /// Asks for a page. A router that has just stopped may have taken the request, so it is repeated once.
    fn read_page(
        &mut self,
        reading: &mut SimReading,
        mut pages: UserReading,
        is_lost: bool,
    ) -> Option<Result<UnackedAlerts, ReadFailure>> {
        if reading.pages == PAGES && !reading.is_repeated {
            pages.search_newest();
        }
        let page = match self.ask_for_page(pages.request(), is_lost) {
            Ok(page) => page,
            Err(noticed_after) => {
                let noticed = reading.until.min(self.now.plus(noticed_after));
                if std::mem::replace(&mut reading.is_repeated, true) {
                    (reading.due, reading.until) = (noticed, noticed);
                } else {
                    reading.due = reading.until.min(noticed.plus(millis(PAUSE)));
                }
                reading.step = ReadStep::Page(pages);
                return None;
            }
        };
        (reading.pages, reading.is_repeated) = (reading.pages + 1, false);
        let partition = partition_of_alerts(&reading.user);
        let page = decode_page(page, &reading.user, partition).expect("a page can be decoded");
        let (next, pause) = match pages.take(page) {
            NextPage::Nothing => return Some(Ok(pages.finish())),
            NextPage::OtherEpoch => return Some(Err(ReadFailure::Unavailable)),
            _ if reading.pages == PAGES + SEARCH_PAGES => return Some(Ok(pages.finish())),
            NextPage::Ask => (ReadStep::Page(pages), 0),
            NextPage::AskLater => (ReadStep::LastAgain(pages), millis(PAUSE)),
        };
        (reading.step, reading.due) = (next, self.now.plus(pause + self.network.delay()));
        None
    }

    /// The page that some router answers with; the time after which the gateway knows that it gets none, in
    /// milliseconds.
    fn ask_for_page(&mut self, request: &AlertsRequest, is_lost: bool) -> Result<AlertsPage<Bytes>, u64> {
        let serving: Vec<usize> = (0..NODES).filter(|router| self.routers[*router].serves_replays()).collect();
        if is_lost {
            return Err(millis(PAGE_DEADLINE));
        }
        // If no router listens, the server answers.
        if serving.is_empty() {
            return Err(0);
        }
        let router = serving[self.network.random(serving.len() as u64) as usize];
        if self.routers[router].is_frozen {
            return Err(millis(PAGE_DEADLINE));
        }
        let (server, _) = self.some_server();
        let lags = self.failing && self.network.random(100) < LAGGING;
        let end = if lags { Seq(self.last.0.saturating_sub(self.network.random(6))) } else { Seq(u64::MAX) };
        let rules = Rc::clone(&self.routers[router].rules);
        let mut page = PageBuilder::new(request, PAGE_BYTES);
        let there = self.readable_at(server, request.after).take_while(|stored| stored.seq <= end);
        for stored in there.filter(|stored| is_alert_to(stored, &request.user)) {
            if !page.take((stored.seq, stored.event.stored), || form(stored, &rules)) {
                break;
            }
        }
        Ok(page.finish(&self.state().facts))
    }
}

/// An alert as a page carries it; `None` if a rule drops it.
fn form(stored: &StoredEvent, rules: &SimRevision) -> Option<Bytes> {
    match rules.read(stored, ReadPurpose::Replay) {
        Decoded::Event(_, wire) => Some(wire),
        Decoded::Heartbeat | Decoded::Dropped => None,
    }
}

/// A short text for the result of a reading.
fn text(read: &Result<UnackedAlerts, ReadFailure>) -> String {
    match read {
        Ok(UnackedAlerts { epoch_id, alerts, cut }) => {
            let seqs: Vec<u64> = alerts.iter().map(|alert| alert.seq.0).collect();
            format!("{seqs:?} of epoch {epoch_id}, and {cut} more")
        }
        Err(failure) => format!("{failure:?}"),
    }
}
