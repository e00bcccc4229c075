//! What is under way: beats, announcements, and requests to KV with their answers.

use super::plan::Plan;
use crate::membership::coordinator::{KvAnswer, KvRequest};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// How long a delayed message takes, at most.
pub(super) const LONGEST_DELAY: u64 = 1_500;

/// A part of a process that asks KV.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asker {
    Coordinator,
    Follower,
}

#[derive(Debug, Clone)]
pub(super) struct SimBeat {
    pub(super) subject: Arc<str>,
    pub(super) payload: Arc<[u8]>,
    /// The process that sent it, unless it is forged.
    pub(super) from: Option<usize>,
}

/// The state of KV that an answer shows.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seen {
    pub(super) is_stale: bool,
    /// How often KV had been damaged.
    pub(super) damages: u64,
}

#[derive(Debug)]
pub(super) enum Delivery {
    /// A message reaches a process; with the time when it was sent.
    Beat {
        to: usize,
        sent: u64,
        beat: SimBeat,
    },
    Announcement {
        to: usize,
        sent: u64,
        payload: Arc<[u8]>,
    },
    /// A request reaches KV.
    Request(Flight),
    /// The answer of KV reaches the process.
    Answer {
        process: usize,
        asker: Asker,
        number: u64,
        answer: KvAnswer,
        seen: Seen,
    },
    /// The process waits no longer for the answer.
    GiveUp {
        process: usize,
        asker: Asker,
        number: u64,
    },
}

/// A process that asks KV.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sender {
    pub(super) process: usize,
    pub(super) cut_until: u64,
    pub(super) damages: u64,
}

#[derive(Debug)]
pub(super) struct Flight {
    pub(super) process: usize,
    pub(super) asker: Asker,
    pub(super) number: u64,
    pub(super) request: KvRequest,
    /// How often KV had been damaged, as far as the process knows.
    pub(super) damages: u64,
    /// How long the answer takes; `None` if it is lost.
    pub(super) back: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Network {
    pub(super) now: u64,
    pub(super) rng: StdRng,
    /// By time, and in the order of sending.
    queue: BTreeMap<(u64, u64), Delivery>,
    sent: u64,
    /// Of a hundred messages, how many are lost.
    pub(super) loss: u32,
    pub(super) away_until: u64,
    pub(super) slow_until: u64,
    pub(super) stale_until: u64,
    /// How much longer KV takes for each request: half of it before the request takes effect.
    pub(super) kv_delay: u64,
    /// How long a process waits for the answer to a request.
    deadline: u64,
}

impl Network {
    pub(super) fn new(plan: &Plan, deadline: u64) -> Self {
        Self {
            now: 0,
            rng: StdRng::seed_from_u64(plan.seed),
            queue: BTreeMap::new(),
            sent: 0,
            loss: plan.loss,
            away_until: 0,
            slow_until: 0,
            stale_until: 0,
            kv_delay: plan.kv_delay,
            deadline,
        }
    }

    /// When the next delivery is.
    pub(super) fn next(&self) -> Option<u64> {
        self.queue.first_key_value().map(|((at, _), _)| *at)
    }

    /// The next delivery that is due.
    pub(super) fn take(&mut self) -> Option<Delivery> {
        let entry = self.queue.first_entry()?;
        (entry.key().0 <= self.now).then(|| entry.remove())
    }

    pub(super) fn random(&mut self, range: Range<u64>) -> u64 {
        self.rng.random_range(range)
    }

    pub(super) fn is_lost(&mut self) -> bool {
        self.loss > 0 && self.rng.random_range(0..100) < self.loss
    }

    fn deliver(&mut self, at: u64, delivery: Delivery) {
        self.sent += 1;
        self.queue.insert((at, self.sent), delivery);
    }

    /// Sends a message to a process. It may be lost, delayed or duplicated; otherwise messages stay in order. Returns
    /// whether it arrives in time.
    pub(super) fn send(&mut self, to: usize, mut message: impl FnMut() -> Delivery) -> bool {
        if self.is_lost() {
            return false;
        }
        let is_late = self.is_lost();
        let latency = if is_late { self.random(100..LONGEST_DELAY) } else { 1 + to as u64 % 4 };
        self.deliver(self.now + latency, message());
        if self.is_lost() {
            let again = self.random(1..LONGEST_DELAY);
            self.deliver(self.now + again, message());
        }
        !is_late
    }

    /// Sends a request to KV. A sender that is cut off until `cut_until` sends it then, if it still does.
    pub(super) fn ask(&mut self, (asker, number, request): (Asker, u64, KvRequest), sender: Sender) {
        let Sender { process, cut_until, damages } = sender;
        self.deliver(self.now + self.deadline, Delivery::GiveUp { process, asker, number });
        let is_cut_off = cut_until > self.now;
        let half = self.kv_delay / 2;
        let mut at = self.now.max(cut_until) + half + self.random(1..10);
        let mut back = half + self.random(1..10);
        if self.now < self.slow_until {
            (at, back) = (at + self.random(0..1_200), back + self.random(0..1_200));
        }
        let mut is_lost = self.is_lost() || is_cut_off && self.rng.random_bool(0.5);
        if at < self.away_until {
            if self.rng.random_bool(0.5) {
                // The server says at once that it has no leader.
                let answer = request.unanswered();
                let answer = Delivery::Answer { process, asker, number, answer, seen: Seen::default() };
                return self.deliver(at, answer);
            }
            is_lost |= self.rng.random_bool(0.5);
            at = self.away_until + self.random(0..50);
        }
        if !is_lost {
            let back = if self.is_lost() { None } else { Some(back) };
            self.deliver(at, Delivery::Request(Flight { process, asker, number, request, damages, back }));
        }
    }

    pub(super) fn answer(&mut self, flight: &Flight, answer: KvAnswer, seen: Seen) {
        let Flight { process, asker, number, back, .. } = *flight;
        if let Some(back) = back {
            self.deliver(self.now + back, Delivery::Answer { process, asker, number, answer, seen });
        }
    }
}

/// What a process does to others.
#[derive(Debug)]
pub(super) enum Effect {
    Beat(SimBeat),
    Announce(u64, Arc<[u8]>),
    Ask {
        asker: Asker,
        number: u64,
        request: KvRequest,
    },
    /// The follower has taken another view. `before` is the version of the last one, `heard` was announced last.
    News {
        before: u64,
        heard: u64,
        seen: Seen,
    },
}
