//! A node: the production coordinator, if it is a router, and the production follower, in the order of their drivers.

use super::network::{Asker, Effect, Seen, SimBeat};
use super::waiting::{Waiting, view_in_kv};
use super::world::STEADY;
use crate::clock::millis;
use crate::config::MembershipConfig;
use crate::membership::coordinator::driver::round_interval;
use crate::membership::coordinator::{Coordinator, CoordinatorTask, KvAnswer, KvRequest};
use crate::membership::follower::{Follower, LEAST_PAUSE};
use crate::membership::{Beat, LEAVE_DEADLINE};
use crate::names;
use rand::Rng;
use rand::rngs::StdRng;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use tickwire_core::ids::Millis;
use tickwire_core::placement::{Member, Role, View};
use tickwire_core::wire;

/// The most tasks of news, a round or the goodbye: five requests for the lease, two for the view, two announcements.
const MOST_TASKS: u32 = 9;

/// When beats of a node arrived.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Arrivals {
    pub(super) last: u64,
    /// Since when there was no long pause.
    pub(super) since: u64,
}

#[derive(Debug)]
struct SimRouter {
    coordinator: Coordinator,
    /// The beats that were not heard yet, and when they arrived; `None` if the process was frozen and reads them later.
    beats: Vec<(Option<Millis>, SimBeat)>,
    next_round: Millis,
    round_interval: u64,
    tasks: u32,
    waiting: Option<Waiting>,
}

#[derive(Debug)]
pub(super) struct SimNode {
    pub(super) slot: usize,
    pub(super) member: Member,
    born: u64,
    drift: i64,
    pub(super) is_alive: bool,
    /// Until when it tries to say goodbye.
    leaving_until: Option<u64>,
    wants_drain: bool,
    wants_leave: bool,
    pub(super) frozen_until: u64,
    was_frozen: bool,
    /// Until when it has no connection to NATS.
    pub(super) cut_until: u64,
    /// When it lost its connection last. What was under way to it then is lost.
    pub(super) cut_at: u64,
    /// Since when it beats, and all its beats arrive unless NATS is away for all.
    pub(super) well_since: u64,
    beat_interval: u64,
    next_beat: Millis,
    router: Option<SimRouter>,
    follower: Follower,
    announcements: VecDeque<Arc<[u8]>>,
    waiting: Option<Waiting>,
    last_read: Option<Millis>,
    pub(super) view: Arc<View>,
    /// The view that the coordinator has read or written last.
    pub(super) base: View,
    /// How often KV had been damaged then.
    pub(super) base_damages: u64,
    /// How often KV had been damaged when the follower took its view.
    pub(super) damages: u64,
    heard: u64,
    /// When beats of each process arrived.
    pub(super) arrivals: BTreeMap<usize, Arrivals>,
    /// When the last beat of each process arrived that the coordinator has heard, on the clock of this one.
    taken: BTreeMap<usize, u64>,
    numbers: u64,
}

impl SimNode {
    pub(super) fn new(slot: usize, member: Member, config: &MembershipConfig, now: u64, drift: i64) -> Self {
        let start = Millis(0);
        let router = (member.role == Role::Router).then(|| SimRouter {
            coordinator: Coordinator::new(member.node.clone(), config, start),
            beats: Vec::new(),
            next_round: start,
            round_interval: millis(round_interval(config)),
            tasks: 0,
            waiting: None,
        });
        Self {
            slot,
            member,
            born: now,
            drift,
            is_alive: true,
            leaving_until: None,
            wants_drain: false,
            wants_leave: false,
            frozen_until: 0,
            was_frozen: false,
            cut_until: 0,
            cut_at: 0,
            well_since: now,
            beat_interval: millis(config.beat_interval),
            next_beat: start,
            router,
            follower: Follower::new(config.beat_interval, start),
            announcements: VecDeque::new(),
            waiting: None,
            last_read: None,
            view: Arc::default(),
            base: View::default(),
            base_damages: 0,
            damages: 0,
            heard: 0,
            arrivals: BTreeMap::new(),
            taken: BTreeMap::new(),
            numbers: 0,
        }
    }

    /// The time of its own clock.
    fn local(&self, now: u64) -> Millis {
        let age = i64::try_from(now - self.born).unwrap();
        Millis(u64::try_from(age + age * self.drift / 1_000_000).unwrap())
    }

    /// The first moment at which its clock shows `at`.
    fn global(&self, at: Millis) -> u64 {
        let local = i64::try_from(at.0).unwrap();
        let mut now = self.born + u64::try_from(local - local * self.drift / 1_000_000).unwrap();
        while self.local(now) < at {
            now += 1;
        }
        now
    }

    pub(super) fn is_router(&self) -> bool {
        self.router.is_some()
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.wants_leave || self.leaving_until.is_some()
    }

    pub(super) fn drain(&mut self) {
        self.wants_drain = !self.member.draining;
    }

    pub(super) fn leave(&mut self) {
        self.wants_leave = true;
    }

    pub(super) fn freeze(&mut self, until: u64) {
        (self.frozen_until, self.was_frozen) = (self.frozen_until.max(until), true);
    }

    /// It has no connection to NATS until `until`.
    pub(super) fn cut(&mut self, now: u64, until: u64) {
        (self.cut_at, self.cut_until) = (now, self.cut_until.max(until));
    }

    /// A beat arrives in its queue.
    pub(super) fn beat_arrives(&mut self, now: u64, beat: SimBeat) {
        if let Some(from) = beat.from {
            let Arrivals { last, since } = self.arrivals.get(&from).copied().unwrap_or_default();
            let is_steady = last > 0 && now - last <= STEADY;
            self.arrivals.insert(from, Arrivals { last: now, since: if is_steady { since } else { now } });
        }
        let arrived = (now >= self.frozen_until).then(|| self.local(now));
        if let Some(router) = &mut self.router {
            router.beats.push((arrived, beat));
        }
    }

    pub(super) fn announcement_arrives(&mut self, payload: Arc<[u8]>) {
        self.announcements.push_back(payload);
    }

    /// An answer of KV arrives; `None` if the process waits no longer.
    pub(super) fn answer_arrives(&mut self, asker: Asker, number: u64, answer: Option<(KvAnswer, Seen)>) {
        let waiting = match asker {
            Asker::Follower => &mut self.waiting,
            Asker::Coordinator => match &mut self.router {
                Some(router) => &mut router.waiting,
                None => return,
            },
        };
        if let Some(waiting) = waiting {
            waiting.take(number, answer);
        }
    }

    /// When it has something to do; in the past, if that is now.
    pub(super) fn due(&self) -> Option<u64> {
        if !self.is_alive {
            return None;
        }
        let coordinator = self.router.as_ref().map(|router| match &router.waiting {
            Some(waiting) if waiting.is_over() => 0,
            Some(_) => u64::MAX,
            None if !router.beats.is_empty() => 0,
            None => self.global(router.next_round),
        });
        let follower = match &self.waiting {
            Some(waiting) if waiting.is_over() => 0,
            Some(_) => u64::MAX,
            None if !self.announcements.is_empty() => 0,
            None => self.global(self.follower.read_at()),
        };
        let due = match self.leaving_until {
            Some(until) => coordinator.into_iter().min().unwrap_or(u64::MAX).min(until),
            None if self.wants_drain || self.wants_leave => 0,
            None => coordinator.unwrap_or(u64::MAX).min(follower).min(self.global(self.next_beat)),
        };
        Some(due.max(self.frozen_until))
    }

    /// Does everything that is to be done now.
    pub(super) fn turn(&mut self, now: u64, rng: &mut StdRng) -> Vec<Effect> {
        let (local, mut out) = (self.local(now), Vec::new());
        let is_thawed = std::mem::take(&mut self.was_frozen);
        if self.wants_leave && self.leaving_until.is_none() {
            self.say_goodbye(now, local, &mut out);
        }
        if let Some(until) = self.leaving_until {
            self.coordinate(local, rng, false, &mut out);
            let is_done = self.router.as_ref().is_none_or(|router| router.waiting.is_none());
            self.is_alive = !is_done && now < until;
            return out;
        }
        if std::mem::take(&mut self.wants_drain) {
            self.member.draining = true;
            self.send_beat(now, false, &mut out);
        }
        if local >= self.next_beat {
            self.next_beat = local.plus(self.beat_interval);
            self.send_beat(now, false, &mut out);
        }
        self.follow(local, rng, &mut out);
        // The task that reads from the connection may get its turn after the coordinator.
        let is_unread = is_thawed && rng.random_bool(0.5);
        self.coordinate(local, rng, is_unread, &mut out);
        out
    }

    fn send_beat(&mut self, now: u64, goodbye: bool, out: &mut Vec<Effect>) {
        if now < self.cut_until {
            return;
        }
        let member = Member { draining: self.member.draining || goodbye, ..self.member.clone() };
        let subject = names::beat(member.role.as_str(), member.node.id.as_str()).into();
        let payload = wire::encode(&Beat { member, goodbye }).unwrap().into();
        out.push(Effect::Beat(SimBeat { subject, payload, from: None }));
    }

    fn say_goodbye(&mut self, now: u64, local: Millis, out: &mut Vec<Effect>) {
        self.leaving_until = Some(now + millis(LEAVE_DEADLINE));
        self.send_beat(now, true, out);
        self.hear();
        if let Some(router) = &mut self.router {
            (router.waiting, router.tasks) = (None, 0);
            router.coordinator.set_followed(self.view.version);
            router.coordinator.leave(local, &Member { draining: false, ..self.member.clone() });
            self.perform(out);
        }
    }

    fn follow(&mut self, local: Millis, rng: &mut StdRng, out: &mut Vec<Effect>) {
        loop {
            if let Some(waiting) = self.waiting.take_if(|waiting| waiting.is_over()) {
                let (_, KvAnswer::ViewRead(read), seen) = waiting.end(rng) else { unreachable!() };
                self.last_read = Some(local);
                if let Some(view) = self.follower.view_read(local, read) {
                    let before = std::mem::replace(&mut self.view, view).version;
                    out.push(Effect::News { before, heard: self.heard, seen });
                }
                assert!(self.follower.read_at() > local, "the follower reads again at once");
            }
            let is_due = local >= self.follower.read_at();
            if self.waiting.is_some() {
                return;
            } else if !self.announcements.is_empty() && (!is_due || rng.random_bool(0.5)) {
                let payload = self.announcements.pop_front().unwrap();
                self.heard = wire::decode::<crate::membership::Announcement>(&payload).unwrap().version;
                self.follower.announcement(local, &payload);
            } else if is_due {
                let is_early = self.last_read.is_some_and(|last| local.since(last) < LEAST_PAUSE);
                assert!(!is_early, "the follower reads too often");
                self.waiting = Some(self.ask(Asker::Follower, KvRequest::ReadView, out));
            } else {
                return;
            }
        }
    }

    /// Passes the beats that wait to the coordinator. Returns whether there were any.
    fn hear(&mut self) -> bool {
        let read_at = self.local(self.frozen_until.max(self.born));
        let Some(router) = &mut self.router else { return false };
        let beats = std::mem::take(&mut router.beats);
        for (arrived, beat) in &beats {
            let arrived = arrived.unwrap_or(read_at);
            if let Some(from) = beat.from {
                self.taken.insert(from, arrived.0);
            }
            router.coordinator.beat(arrived, &beat.subject, &beat.payload);
        }
        !beats.is_empty()
    }

    /// If `is_unread`, the connection is read after the first step.
    fn coordinate(&mut self, local: Millis, rng: &mut StdRng, mut is_unread: bool, out: &mut Vec<Effect>) {
        while let Some(router) = &self.router {
            let is_answered = match &router.waiting {
                Some(waiting) if waiting.is_over() => true,
                None if self.leaving_until.is_none() => false,
                _ => return,
            };
            // The timer of rounds may be late after a pause.
            let is_late = is_unread && rng.random_bool(0.5);
            let is_round = !is_answered && local >= router.next_round && !is_late;
            let is_before_reading = std::mem::take(&mut is_unread) && (is_answered || is_round);
            let has_heard = !is_before_reading && self.hear();
            let Some(router) = &mut self.router else { return };
            router.coordinator.set_followed(self.view.version);
            if let Some(waiting) = router.waiting.take() {
                let (request, answer, seen) = waiting.end(rng);
                if let Some(base) = view_in_kv(&answer, request) {
                    (self.base, self.base_damages) = (base, seen.damages);
                }
                router.coordinator.take_answer(local, answer);
            } else if is_round {
                router.next_round = local.plus(router.round_interval);
                router.coordinator.round(local);
            } else if has_heard || router.coordinator.has_news {
                router.coordinator.write_news(local);
            } else if local < router.next_round {
                return;
            }
            self.perform(out);
        }
    }

    fn perform(&mut self, out: &mut Vec<Effect>) {
        while let Some(router) = &mut self.router {
            let Some(task) = router.coordinator.next_task() else {
                router.tasks = 0;
                return;
            };
            router.tasks += 1;
            assert!(router.tasks <= MOST_TASKS, "the coordinator does not come to an end: {task:?}");
            match task {
                CoordinatorTask::Announce(announcement) => {
                    let payload = wire::encode(&announcement).unwrap().into();
                    out.push(Effect::Announce(announcement.version, payload));
                }
                CoordinatorTask::Ask(request) => {
                    let waiting = self.ask(Asker::Coordinator, request, out);
                    if let Some(router) = &mut self.router {
                        router.waiting = Some(waiting);
                    }
                    return;
                }
            }
        }
    }

    fn ask(&mut self, asker: Asker, request: KvRequest, out: &mut Vec<Effect>) -> Waiting {
        self.numbers += 1;
        let number = self.numbers;
        out.push(Effect::Ask { asker, number, request: request.clone() });
        Waiting::new(number, request)
    }

    /// Whether this process has taken a beat of that one within `time` of its own clock.
    pub(super) fn has_heard(&self, now: u64, process: usize, time: u64) -> bool {
        self.taken.get(&process).is_some_and(|taken| self.local(now).0 - taken <= time)
    }
}
