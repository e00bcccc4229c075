//! The coordinator: one router, the holder of the coordinator's lease, writes the view. Every router is ready to do it.
//!
//! Every router records all beats all the time, so that a new coordinator knows what the old one knew. A node's absence
//! counts only while this node can be expected to receive beats: not while KV fails; not while its own beats do not
//! come back, nor until every other node had time to reconnect after that; and not after this process itself was
//! paused. A beat counts from its arrival, and all that have arrived are recorded before absence is judged, so time
//! spent on KV is neither absence nor a pause, unless one request takes more than half of the timeout. Views are written by compare-and-set; a node whose write is refused is
//! not the coordinator. At intervals the coordinator reads back what it wrote, because KV may have lost it.
//!
//! No I/O. Beats that change the view (news), a round, or the goodbye begin some work: tasks, one after the other. The [driver](self::driver)
//! performs each and returns the answer of KV; nothing else begins before the work is done. Beats are recorded at any
//! time.

pub(super) mod driver;
mod task;
mod tenure;
#[cfg(test)]
mod tests;

pub(super) use task::{CoordinatorTask, KvAnswer, KvRequest};

use super::view_change::ViewChange;
use super::{Announcement, Beat};
use crate::clock::millis;
use crate::config::MembershipConfig;
use crate::connection_health::BACKOFF;
use crate::lease::{HeldLease, LeaseError, LeaseRead, LeaseStep, Observed};
use crate::metrics;
use crate::names;
use crate::view::{BeatError, Roster};
use std::collections::VecDeque;
use task::Work;
use tenure::CoordinatorTenure;
use tickwire_core::ids::{Millis, NodeRef};
use tickwire_core::placement::{Member, View};
use tickwire_core::wire;
use tracing::{debug, info, warn};

/// After how many rounds the coordinator reads the view again.
const REVIEW: u32 = 8;

/// The state.
#[derive(Debug)]
pub(super) struct Coordinator {
    me: NodeRef,
    roster: Roster,
    timeout: u64,
    /// How long this node's own beats may not come back.
    patience: u64,
    lease_ttl: u64,
    observed: Option<Observed>,
    tenure: Option<CoordinatorTenure>,
    /// The version of the view that this node follows: it is in use.
    followed: u64,
    /// When the last turn began. Each input but a beat is a turn.
    last_turn: Millis,
    /// Whether this turn began late: this process was paused, or its request was answered late.
    was_late: bool,
    /// Whether a turn was late since the last round, so that another node may be the coordinator by now.
    must_renew: bool,
    /// Whether beats have changed the view since the last attempt to write it began.
    pub(super) has_news: bool,
    /// Until when absence does not count, because other nodes may still wait to reconnect.
    lenient_until: Millis,
    work: Work,
    tasks: VecDeque<CoordinatorTask>,
}

impl Coordinator {
    /// Knows no node yet, and does not have the lease.
    pub(super) fn new(me: NodeRef, config: &MembershipConfig, now: Millis) -> Self {
        let timeout = millis(config.timeout);
        metrics::COORDINATOR.set(0.0);
        Self {
            me,
            roster: Roster::new(now, timeout),
            timeout,
            // At least one and a half beat intervals.
            patience: timeout / 2,
            lease_ttl: millis(config.lease_ttl),
            observed: None,
            tenure: None,
            followed: 0,
            last_turn: now,
            was_late: false,
            must_renew: false,
            has_news: false,
            lenient_until: now,
            work: Work::News,
            tasks: VecDeque::new(),
        }
    }

    /// This node follows the view of this version now.
    pub(super) fn set_followed(&mut self, version: u64) {
        self.followed = version;
    }

    /// Records a beat that arrived at this time, perhaps before the last turn. An invalid beat changes nothing.
    pub(super) fn beat(&mut self, arrived: Millis, subject: &str, payload: &[u8]) {
        self.has_news |= self.record(arrived, subject, payload);
    }

    /// Writes the view if beats have changed it. Due after beats, and after other work if there is news.
    pub(super) fn write_news(&mut self, now: Millis) {
        self.begin_turn(now);
        if self.has_news {
            self.work = Work::News;
            self.write_view(now);
        }
    }

    /// Takes or renews the lease, writes the view if it has changed, and announces it. Due every [`round_interval`](driver::round_interval).
    pub(super) fn round(&mut self, now: Millis) {
        self.begin_turn(now);
        if self.is_cut_off(now) {
            self.be_lenient(now);
        }
        if now < self.lenient_until {
            self.roster.restart_silence(now);
        }
        self.work = Work::Round;
        self.must_renew = false;
        match &mut self.tenure {
            None => self.ask(KvRequest::ReadLease),
            Some(tenure) => {
                tenure.age += 1;
                if tenure.age >= REVIEW {
                    tenure.view = None;
                }
                let step = tenure.lease.write();
                self.follow(now, step);
            }
        }
    }

    /// The coordinator's own goodbye: it writes a last view without itself, and another router can take over at once.
    /// What was being done is given up.
    pub(super) fn leave(&mut self, now: Millis, member: &Member) {
        self.begin_turn(now);
        self.tasks.clear();
        self.work = Work::Leave;
        if let Err(error) = self.roster.goodbye(now, member) {
            warn!(%error, "own goodbye refused");
        }
        self.write_view(now);
    }

    /// The next task, when the last one is done and answered; `None` if this work is done.
    pub(super) fn next_task(&mut self) -> Option<CoordinatorTask> {
        self.tasks.pop_front()
    }

    /// KV has answered the request of the last task.
    pub(super) fn take_answer(&mut self, now: Millis, answer: KvAnswer) {
        self.begin_turn(now);
        if self.was_late {
            // A request that was answered late may have waited for a connection, and then beats were delayed as well.
            self.be_lenient(now);
        }
        match (answer, &mut self.tenure) {
            (KvAnswer::LeaseRead(read), None) => self.try_lease(now, read),
            (KvAnswer::LeaseWritten(written), None) => self.lease_taken(now, written),
            (KvAnswer::LeaseRead(read), Some(tenure)) => {
                let step = tenure.lease.was_read(read);
                self.follow(now, step);
            }
            (KvAnswer::LeaseWritten(written), Some(tenure)) => {
                let step = tenure.lease.was_written(written);
                self.follow(now, step);
            }
            (KvAnswer::ViewRead(read), _) => self.view_read(now, read),
            (KvAnswer::ViewWritten(written), _) => self.view_written(now, written),
        }
    }

    /// Notices a pause of this process, after which beats may wait unread. A shorter one makes no live node silent: it was
    /// heard at most a third of the timeout before.
    fn begin_turn(&mut self, now: Millis) {
        self.was_late = now.since(self.last_turn) > self.timeout / 2;
        self.must_renew |= self.was_late;
        self.last_turn = now;
        if self.was_late {
            self.roster.restart_silence(now);
        }
    }

    /// Records a beat. Returns whether it changes the view.
    fn record(&mut self, arrived: Millis, subject: &str, payload: &[u8]) -> bool {
        let folded = match wire::decode::<Beat>(payload) {
            // A node can be permitted to send only its own beats.
            Ok(Beat { member, .. }) if names::beat(member.role.as_str(), member.node.id.as_str()) != subject => {
                Err("the subject is of another node".to_owned())
            }
            Ok(Beat { member, goodbye: true }) => self.roster.goodbye(arrived, &member).map(|()| true).map_err(text),
            Ok(Beat { member, goodbye: false }) => {
                // It comes back before a round has noticed that it did not.
                if member.node == self.me && self.is_cut_off(arrived) {
                    self.be_lenient(arrived);
                }
                self.roster.beat(arrived, member).map_err(text)
            }
            Err(error) => Err(error.to_string()),
        };
        folded.unwrap_or_else(|error| {
            metrics::MEMBERSHIP_BEATS_REFUSED.increment(1);
            debug!(subject, error, "beat refused");
            false
        })
    }

    /// Whether this node's own beats do not come back.
    fn is_cut_off(&self, now: Millis) -> bool {
        now.since(self.roster.last_beat(&self.me).unwrap_or_default()) > self.patience
    }

    /// What cut this node off also cut others off, and their backoff may be longer. Absence does not count until they
    /// had time to reconnect.
    fn be_lenient(&mut self, since: Millis) {
        self.lenient_until = self.lenient_until.max(since.plus(BACKOFF.most));
        self.roster.restart_silence(since);
    }

    /// Takes the lease if it is free or stale.
    fn try_lease(&mut self, now: Millis, read: Result<LeaseRead<()>, LeaseError>) {
        let read = match read {
            Ok(read) => read,
            Err(error) => {
                debug!(%error, "coordinator's lease not read");
                self.be_lenient(now);
                return self.write_view(now);
            }
        };
        let observed = self.observed.get_or_insert(Observed::new(now, read.revision));
        if !read.is_foreign {
            observed.see(now, read.revision);
        }
        if read.is_free_for(&self.me) || observed.is_stale(now, self.lease_ttl) {
            self.ask(KvRequest::WriteLease { revision: read.revision, is_ours: true });
        } else {
            self.write_view(now);
        }
    }

    fn lease_taken(&mut self, now: Millis, written: Result<u64, LeaseError>) {
        match written {
            Ok(revision) => {
                info!("became the coordinator");
                metrics::COORDINATOR.set(1.0);
                // This node has recorded beats all the time, and accounted for its own pauses. So absence counts at
                // once, and the death of a coordinator is detected as early as that of any other node.
                let lease = HeldLease::new(names::COORDINATOR_KEY, self.me.clone(), revision);
                self.tenure = Some(CoordinatorTenure::new(lease));
            }
            Err(error) => {
                debug!(%error, "coordinator's lease not taken");
                if !matches!(error, LeaseError::Refused { .. }) {
                    self.be_lenient(now);
                }
            }
        }
        self.write_view(now);
    }

    /// Does what the held lease needs next.
    fn follow(&mut self, now: Millis, step: LeaseStep) {
        let is_ours = self.work != Work::Leave;
        match step {
            LeaseStep::Read => self.ask(KvRequest::ReadLease),
            LeaseStep::Write { revision } => self.ask(KvRequest::WriteLease { revision, is_ours }),
            LeaseStep::Nothing(written) if is_ours => {
                if let Err(error) = written {
                    self.handle_failure(now, &error);
                }
                self.write_view(now);
            }
            LeaseStep::Nothing(written) => {
                if let Err(error) = written {
                    debug!(%error, "coordinator's lease not given back");
                }
                self.tenure = None;
                metrics::COORDINATOR.set(0.0);
            }
        }
    }

    /// Writes the view that follows from the beats, if it has changed and this node is the coordinator.
    fn write_view(&mut self, now: Millis) {
        self.has_news = false;
        let Some(tenure) = &mut self.tenure else { return self.view_done(now) };
        match tenure.view.take() {
            Some((revision, current)) => self.write_next(now, revision, current),
            None => self.ask(KvRequest::ReadView),
        }
    }

    fn view_read(&mut self, now: Millis, read: Result<(u64, Option<View>), LeaseError>) {
        match read {
            Ok((revision, view)) => {
                if let Some(tenure) = &mut self.tenure {
                    tenure.age = 0;
                }
                self.write_next(now, revision, view.unwrap_or_default());
            }
            // An unreadable view is overwritten.
            Err(LeaseError::Unreadable { revision, source, .. }) => {
                warn!(%source, "unreadable member view in KV, writing a new one");
                self.write_next(now, revision, View::default());
            }
            Err(error) => {
                self.handle_failure(now, &error);
                self.view_done(now);
            }
        }
    }

    fn write_next(&mut self, now: Millis, revision: u64, current: View) {
        // Since the round began, when that had to wait for KV.
        if self.is_cut_off(now) {
            self.be_lenient(now);
        }
        let Some(tenure) = &mut self.tenure else { return self.view_done(now) };
        if self.must_renew && self.work == Work::News {
            // The round that is due finds out first whether another node is the coordinator.
            tenure.view = Some((revision, current));
            return;
        }
        tenure.version = tenure.version.max(self.followed);
        match self.roster.next_view(&current, tenure.version, now) {
            Some(view) => {
                let change = ViewChange::between(&current, &view, |node| self.roster.said_goodbye(node));
                tenure.next = Some((view.clone(), change));
                self.ask(KvRequest::WriteView { revision, view });
            }
            None => {
                tenure.view = Some((revision, current));
                self.view_done(now);
            }
        }
    }

    fn view_written(&mut self, now: Millis, written: Result<u64, LeaseError>) {
        match (written, &mut self.tenure) {
            (Ok(revision), Some(tenure)) => {
                if let Some((next, change)) = tenure.next.take() {
                    change.log_written(&next);
                    tenure.version = next.version;
                    (tenure.view, tenure.age) = (Some((revision, next)), 0);
                }
                self.announce();
            }
            // The next round finds out from the lease whether another node is the coordinator.
            (Err(LeaseError::Refused { .. }), _) => debug!("another node wrote the view"),
            (Err(error), _) => self.handle_failure(now, &error),
            (Ok(_), None) => {}
        }
        self.view_done(now);
    }

    /// The part of the work that is about the view is done.
    fn view_done(&mut self, now: Millis) {
        match (self.work, &mut self.tenure) {
            (Work::News, _) => {}
            (Work::Round, _) => self.announce(),
            (Work::Leave, Some(tenure)) => {
                let step = tenure.lease.write();
                self.follow(now, step);
            }
            (Work::Leave, None) => metrics::COORDINATOR.set(0.0),
        }
    }

    fn announce(&mut self) {
        if let Some((_, view)) = self.tenure.as_ref().and_then(|tenure| tenure.view.as_ref()) {
            self.tasks.push_back(CoordinatorTask::Announce(Announcement { version: view.version }));
        }
    }

    /// Handles a failure: KV failed, so absence does not count; or another node has the lease.
    fn handle_failure(&mut self, now: Millis, error: &LeaseError) {
        if matches!(error, LeaseError::Refused { .. }) {
            self.roster.restart_silence(now);
            info!("lost the coordinator's lease to another node");
            metrics::COORDINATOR.set(0.0);
            (self.tenure, self.observed) = (None, None);
        } else {
            self.be_lenient(now);
            warn!(%error, "the coordinator cannot reach KV");
        }
    }

    fn ask(&mut self, request: KvRequest) {
        self.tasks.push_back(CoordinatorTask::Ask(request));
    }
}

fn text(error: BeatError) -> String {
    error.to_string()
}
