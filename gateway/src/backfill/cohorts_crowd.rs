//! Sessions that catch up by gatherings, against asking the whole stream: a model of the routers and of one shard, with
//! everything that can go wrong between them.

use std::collections::VecDeque;

use proptest::prelude::*;
use proptest::sample::select;
use tickwire_core::coverage::GapReason;
use tickwire_core::event::{Audience, Event};
use tickwire_core::placement::Homes;
use tickwire_core::protocol::Encoding;
use tickwire_core::protocol::position::Position;
use tickwire_core::replay::{Purpose, ReplayBuilder, ReplayInterest, ReplayPart, ReplayRefusal, ReplayRequest};
use tickwire_core::wire;
use tickwire_testkit::blank_event;

use super::*;
use crate::backfill::request::{Backfill, BackfillAction, BackfillTarget};
use crate::edge::replay::request;
use crate::limits::account::Account;
use crate::outbox::{Frame, OutboxLimits};

/// What a router makes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CrowdFault {
    /// It answers as it should.
    Fine,
    Lost,
    Refused,
    /// It ends after its first part.
    Partial,
    Doubled,
    /// It comes when it was given up already.
    Late,
    /// Its parts come the other way round.
    Reversed,
}

/// An event to be stored.
#[derive(Clone, Debug)]
struct CrowdEvent {
    partition: u8,
    symbol: u8,
    /// How many sequences before it are of nothing that concerns us.
    gap: u8,
    /// Whose it is, if it is not everybody's.
    user: Option<u64>,
}

/// A session that comes.
#[derive(Clone, Debug)]
struct CrowdArrival {
    /// How far back it begins, per partition, in sequences.
    back: Vec<u64>,
    filters: Vec<Arc<Filter>>,
    /// Whether it looks back for its first filter alone.
    looks_back: bool,
    /// Its client reads what there is so many milliseconds after it came.
    pace: u64,
}

#[derive(Clone, Debug)]
enum CrowdAction {
    /// Events come. Too many are waiting at one of them, for all sessions that still catch up.
    Stores(Vec<CrowdEvent>, Option<usize>),
    Comes(CrowdArrival),
    /// So many of the same come at once.
    Crowd(usize, CrowdArrival),
    Leaves(usize),
    /// The stream discards so many of each hundred sequences it has.
    Discards(u64),
    Pause(u64),
}

const PARTITIONS: u8 = 4;

fn stored() -> impl Strategy<Value = CrowdEvent> {
    (0..PARTITIONS, 0..4u8, 0..4u8, prop::option::weighted(0.2, 0..3u64))
        .prop_map(|(partition, symbol, gap, user)| CrowdEvent { partition, symbol, gap, user })
}

fn comes() -> impl Strategy<Value = CrowdArrival> {
    let filter = prop::option::weighted(0.7, prop::collection::btree_set(0..4u8, 1..3)).prop_map(of_symbols);
    let back = prop_oneof![1 => Just(0), 3 => 0..20u64, 2 => 0..300u64];
    (
        prop::collection::vec(back, usize::from(PARTITIONS)),
        prop::collection::vec(filter, 1..3),
        prop::bool::weighted(0.3),
        select(vec![0, 0, 30, 400, 1_500]),
    )
        .prop_map(|(back, filters, looks_back, pace)| CrowdArrival { back, filters, looks_back, pace })
}

fn happens() -> impl Strategy<Value = CrowdAction> {
    let many = prop::collection::vec(stored(), 1..30);
    prop_oneof![
        4 => (many, prop::option::weighted(0.4, 0..15usize)).prop_map(|(events, at)| CrowdAction::Stores(events, at)),
        6 => comes().prop_map(CrowdAction::Comes),
        1 => (2..5usize, comes()).prop_map(|(count, comes)| CrowdAction::Crowd(count, comes)),
        1 => (0..8usize).prop_map(CrowdAction::Leaves),
        1 => (0..60u64).prop_map(CrowdAction::Discards),
        6 => prop_oneof![3 => 0..100u64, 1 => 100..2_000u64].prop_map(CrowdAction::Pause),
    ]
}

fn faults() -> impl Strategy<Value = Vec<CrowdFault>> {
    use CrowdFault::{Doubled, Fine, Late, Lost, Partial, Refused, Reversed};
    let any = select(vec![Fine, Fine, Fine, Lost, Refused, Partial, Doubled, Late, Reversed]);
    prop_oneof![1 => Just(Vec::new()), 3 => prop::collection::vec(any, 0..40)]
}

/// A session, and what its client knows.
struct CrowdClient {
    user: UserId,
    filters: Vec<Arc<Filter>>,
    from: Vec<Seq>,
    /// Up to where it wants the past of a single subscription.
    to: Vec<Seq>,
    pace: u64,
    reads_at: Option<Millis>,
    backfill: Backfill,
    received: Vec<(Partition, Seq)>,
    /// What is new.
    new: Vec<Arc<Delivery>>,
    gaps: Vec<(Partition, Seq, Seq)>,
    /// Where the stream was when it had caught up.
    done: Option<Position>,
}

impl CrowdClient {
    /// The subscriptions that want an event.
    fn wanting(&self, delivery: &Delivery) -> Vec<u32> {
        let event = &delivery.event;
        let wanting = (1..).zip(&self.filters).filter(|(_, filter)| filter.matches(event));
        wanting.map(|(number, _)| number).filter(|_| event.audience.admits(&self.user)).collect()
    }

    /// Whether the event is of the past that it asked for, or new for it.
    fn expects(&self, delivery: &Delivery, through: &[Seq]) -> bool {
        let at = usize::from(delivery.partition.0);
        let is_wanted = self.wanting(delivery).iter().any(|number| match self.backfill.of() {
            BackfillTarget::Session => true,
            BackfillTarget::Subscription(of) => of == *number,
        });
        is_wanted && self.from[at] < delivery.seq && delivery.seq <= through[at]
    }

    fn was_told(&self, delivery: &Delivery) -> bool {
        self.gaps.iter().any(|(partition, from, to)| {
            *partition == delivery.partition && *from < delivery.seq && delivery.seq <= *to
        })
    }

    /// The client reads all there is.
    fn read(&mut self, now: Millis) {
        let (mut account, mut frame) = (Account::new(0), Frame::default());
        self.reads_at = None;
        while self.backfill.outbox.has_output() {
            self.backfill.outbox.compose(now, &mut account, Encoding::Json, &OUTBOX, |_, _| true, &mut frame);
            let events = frame.events.iter().map(|waiting| (waiting.delivery.partition, waiting.delivery.seq));
            self.received.extend(events);
        }
    }
}

/// What a shard digests.
enum CrowdChunk {
    Events(Partition, Vec<Arc<Delivery>>, Seq),
    Gap(Partition, Seq, Seq, GapReason),
    Digested,
    End,
}

/// The sessions of a gathering, as a shard keeps them.
#[derive(Default)]
struct CrowdCohort {
    sessions: BTreeSet<u64>,
    items: VecDeque<CrowdChunk>,
    backpressured: BTreeSet<u64>,
    backpressured_since: Millis,
}

impl CrowdCohort {
    /// When those who have had the others wait give way to them.
    fn hurries_at(&self) -> Option<Millis> {
        let waits = !self.backpressured.is_empty() && self.backpressured.len() < self.sessions.len();
        waits.then(|| self.backpressured_since.plus(PATIENCE))
    }
}

/// How long is asked in vain, in milliseconds, as shipped: a shorter time passes while clients read slowly, and nobody asks.
const GIVE_UP_AS_SHIPPED: u64 = 600_000;

/// A few events fill an outbox.
const OUTBOX: OutboxLimits = OutboxLimits { bytes: 600, critical: u32::MAX, lanes: false, patience: 10_000 };

/// A stream, a router, and a gateway of one shard, of which all but the gatherings is a model.
struct CrowdWorld {
    now: Millis,
    stored: Vec<Arc<Delivery>>,
    applied: Position,
    discarded: Seq,
    faults: std::vec::IntoIter<CrowdFault>,
    /// What is on its way: when it comes, and to which ask.
    answers: Vec<(Millis, u64, ReplayAnswer<Arc<Delivery>>)>,
    all_cohorts: Cohorts,
    cohorts: BTreeMap<u64, CrowdCohort>,
    clients: BTreeMap<u64, CrowdClient>,
    came: u64,
    begun: usize,
    asks: usize,
    /// How many asks met a fault, and how many of these brought nothing in time.
    faulty: usize,
    vain: usize,
    turns: usize,
}

impl CrowdWorld {
    fn new(partitions: usize, faults: Vec<CrowdFault>) -> Self {
        Self {
            now: Millis(0),
            stored: Vec::new(),
            applied: Position { epoch_id: LIFE, seqs: vec![Seq(0); partitions] },
            discarded: Seq(0),
            faults: faults.into_iter(),
            answers: Vec::new(),
            all_cohorts: Cohorts::new(RepairLimits { give_up_after: GIVE_UP_AS_SHIPPED, ..LIMITS }),
            cohorts: BTreeMap::new(),
            clients: BTreeMap::new(),
            came: 0,
            begun: 0,
            asks: 0,
            faulty: 0,
            vain: 0,
            turns: 0,
        }
    }

    fn partitions(&self) -> usize {
        self.applied.seqs.len()
    }

    fn happen(&mut self, happens: CrowdAction) {
        match happens {
            CrowdAction::Stores(events, full_at) => self.store(&events, full_at),
            CrowdAction::Comes(comes) => self.come(comes),
            CrowdAction::Crowd(count, comes) => (0..count).for_each(|_| self.come(comes.clone())),
            CrowdAction::Leaves(nth) => {
                if let Some(number) = self.clients.keys().nth(nth).copied() {
                    self.leave(number);
                }
            }
            CrowdAction::Discards(percent) => {
                let head = self.stored.last().map_or(0, |last| last.seq.0);
                self.discarded = self.discarded.max(Seq(head * percent / 100));
            }
            CrowdAction::Pause(ms) => self.pass(self.now.plus(ms)),
        }
    }

    fn store(&mut self, events: &[CrowdEvent], full_at: Option<usize>) {
        for (number, CrowdEvent { partition, symbol: of, gap, user: addressee }) in events.iter().enumerate() {
            let at = usize::from(*partition) % self.partitions();
            let seq = Seq(self.stored.last().map_or(0, |last| last.seq.0) + 1 + u64::from(*gap));
            let audience = addressee.map_or(Audience::Public, |number| Audience::User(user(number)));
            let delivery = Arc::new(Delivery::new(event(symbol(*of), audience), Partition(at as u16), seq));
            for client in self.clients.values_mut().filter(|client| client.done.is_none()) {
                if !client.backfill.is_behind() && !client.wanting(&delivery).is_empty() {
                    client.new.push(Arc::clone(&delivery));
                }
                if full_at == Some(number) && client.backfill.fall_behind() {
                    client.new.clear();
                }
            }
            self.stored.push(delivery);
            self.applied.seqs[at] = seq;
        }
        let behind = self.clients.iter_mut().filter(|(_, client)| client.backfill.is_behind());
        let behind: Vec<u64> = behind
            .map(|(number, client)| {
                client.backfill.renew(&self.applied);
                *number
            })
            .collect();
        for number in behind {
            self.continue_backfill(number);
        }
    }

    fn come(&mut self, CrowdArrival { back, filters, looks_back, pace }: CrowdArrival) {
        self.came += 1;
        let to = self.applied.seqs.clone();
        let from: Vec<Seq> = to.iter().zip(back).map(|(to, back)| Seq(to.0.saturating_sub(back))).collect();
        let of = if looks_back { BackfillTarget::Subscription(1) } else { BackfillTarget::Session };
        let backfill = Backfill::new(self.now, None, of, from.clone(), &self.applied);
        let client = CrowdClient {
            user: user(self.came),
            filters,
            from,
            to,
            pace,
            reads_at: None,
            backfill,
            received: Vec::new(),
            new: Vec::new(),
            gaps: Vec::new(),
            done: None,
        };
        self.clients.insert(self.came, client);
        self.continue_backfill(self.came);
    }

    fn leave(&mut self, number: u64) {
        let Some(client) = self.clients.remove(&number) else { return };
        self.all_cohorts.leave(id(number));
        let Some(of) = client.backfill.cohort() else { return };
        let cohort = self.cohorts.get_mut(&of).unwrap();
        cohort.sessions.remove(&number);
        cohort.backpressured.remove(&number);
        if cohort.sessions.is_empty() {
            self.cohorts.remove(&of);
        }
    }

    /// Lets time pass. What is due happens when it is due.
    fn pass(&mut self, end: Millis) {
        loop {
            self.turn();
            let answers = self.answers.iter().map(|(at, ..)| *at);
            let reads = self.clients.values().filter_map(|client| client.reads_at);
            let hurries = self.cohorts.values().filter_map(CrowdCohort::hurries_at);
            let next = answers.chain(reads).chain(hurries).chain(self.all_cohorts.next_turn()).min();
            match next.filter(|next| *next <= end) {
                Some(next) => self.now = self.now.max(next),
                None => break,
            }
        }
        self.now = end;
    }

    /// What the edge and its shard do in turn.
    fn turn(&mut self) {
        self.turns += 1;
        assert!(self.turns < 20_000, "it goes round in circles at {}", self.now.0);
        let now = self.now;
        let (mut due, later): (Vec<_>, Vec<_>) = self.answers.drain(..).partition(|(at, ..)| *at <= now);
        self.answers = later;
        due.sort_by_key(|(at, ..)| *at);
        for (_, ask, answer) in due {
            self.all_cohorts.answer(now, ask, answer);
        }
        for (number, sessions) in self.all_cohorts.begin(now, Revision(0)) {
            self.begun += 1;
            let sessions: BTreeSet<u64> = sessions.into_iter().map(|session| session.number).collect();
            for session in &sessions {
                self.clients.get_mut(session).unwrap().backfill.joined_cohort(number);
            }
            self.cohorts.insert(number, CrowdCohort { sessions, ..CrowdCohort::default() });
        }
        let asks: Vec<_> = self.all_cohorts.asks(now).into_iter().map(|(ask, sought)| (ask, sought.clone())).collect();
        for (ask, sought) in asks {
            self.route(&ask, &sought);
        }
        assert!(self.all_cohorts.next_turn().is_none_or(|next| next > now), "all that was due is done");
        for CohortProgress { cohort, steps, ends } in self.all_cohorts.take(1) {
            self.enqueue_item(cohort, steps.steps, ends);
        }
        self.hurry();
        self.read();
        self.process();
        self.check_positions();
    }

    /// Clients read whose time it is.
    fn read(&mut self) {
        let is_due = |client: &CrowdClient| client.reads_at.is_some_and(|at| at <= self.now);
        let due = self.clients.iter().filter(|(_, client)| is_due(client)).map(|(number, _)| *number);
        for number in due.collect::<Vec<_>>() {
            self.clients.get_mut(&number).unwrap().read(self.now);
            self.continue_backfill(number);
        }
    }

    /// The router takes a request, reads the stream, and answers as it is to.
    fn route(&mut self, ask: &Ask, sought: &Interest) {
        let fault = self.faults.next().unwrap_or(CrowdFault::Fine);
        self.asks += 1;
        self.faulty += usize::from(fault != CrowdFault::Fine);
        let request = wire::decode(&request(&node("g"), ask, Revision(1), sought, Purpose::CatchUp).unwrap()).unwrap();
        let mut parts = match fault {
            CrowdFault::Lost => {
                self.vain += 1;
                return;
            }
            CrowdFault::Refused => vec![ReplayPart::Refused(ReplayRefusal::Busy)],
            CrowdFault::Partial => self.parts(&request, 1),
            CrowdFault::Fine | CrowdFault::Doubled | CrowdFault::Late | CrowdFault::Reversed => {
                self.parts(&request, usize::MAX)
            }
        };
        // The end of a range is not there yet where its partition has nothing behind it.
        let is_refused = parts.iter().any(|part| matches!(part, ReplayPart::Refused(_)));
        self.vain += usize::from(is_refused || matches!(fault, CrowdFault::Late | CrowdFault::Reversed));
        let last = parts.len() - 1;
        let mut messages: Vec<_> = parts
            .drain(..)
            .enumerate()
            .map(|(at, part)| ReplayAnswer { router: node("r"), epoch_id: LIFE, part, last: at == last })
            .collect();
        match fault {
            CrowdFault::Doubled => messages.extend(messages.clone()),
            CrowdFault::Reversed => messages.reverse(),
            _ => {}
        }
        let first = self.now.plus(if fault == CrowdFault::Late { TIMEOUT + 5 } else { 5 });
        self.answers.extend((0..).zip(messages).map(|(at, message)| (first.plus(at), ask.number, message)));
    }

    /// What there is to say to a request, in so many readings at most.
    fn parts(&self, request: &ReplayRequest, readings: usize) -> Vec<ReplayPart<Arc<Delivery>>> {
        let ReplayInterest::Carried(carried) = &request.interest else { panic!("small enough to be carried") };
        let (_, interest) = Interest::assemble(vec![carried.clone()]).unwrap();
        let (mut request, mut parts) = (request.clone(), Vec::new());
        for _ in 0..readings {
            let mut reply = ReplayBuilder::new(&request, Revision(1));
            let kept = self.stored.iter().filter(|stored| {
                stored.partition == request.partition && stored.seq > request.from && stored.seq > self.discarded
            });
            for stored in kept.take(PART) {
                let is_wanted = interest.admits(&stored.event, &node("g"), &mut Homes::default());
                reply.read(stored.seq, is_wanted.then(|| Arc::clone(stored)));
            }
            let through = reply.through().max(self.discarded.min(request.to));
            parts.extend(reply.finish(self.discarded, Seq(u64::MAX), &[]));
            if through == request.to {
                break;
            }
            request.from = through;
        }
        parts
    }

    /// The shard takes what came of a gathering.
    fn enqueue_item(&mut self, number: u64, steps: Vec<CoverageEvent<Arc<Delivery>>>, ends: bool) {
        let is_piece = !steps.is_empty();
        let Some(cohort) = self.cohorts.get_mut(&number) else {
            return self.all_cohorts.processed(number, usize::MAX);
        };
        for step in steps {
            match step {
                CoverageEvent::Apply { partition, through, events, .. } => {
                    let events: Vec<_> = events.into_iter().map(|(_, delivery)| delivery).collect();
                    let bites = events
                        .chunks(BITE)
                        .map(|bite| CrowdChunk::Events(partition, bite.to_vec(), bite[bite.len() - 1].seq));
                    cohort.items.extend(bites);
                    cohort.items.push_back(CrowdChunk::Events(partition, Vec::new(), through));
                }
                CoverageEvent::Gap { partition, from, through, reason } => {
                    cohort.items.push_back(CrowdChunk::Gap(partition, from, through, reason));
                }
                CoverageEvent::Adopt { .. } | CoverageEvent::Reset { .. } => panic!("the past does not begin anew"),
            }
        }
        cohort.items.extend(is_piece.then_some(CrowdChunk::Digested));
        cohort.items.extend(ends.then_some(CrowdChunk::End));
    }

    /// Those who have had the others wait for too long give way.
    fn hurry(&mut self) {
        for cohort in self.cohorts.values_mut() {
            if cohort.hurries_at().is_some_and(|at| at <= self.now) {
                for number in std::mem::take(&mut cohort.backpressured) {
                    self.clients.get_mut(&number).unwrap().backfill.pause();
                }
            }
        }
    }

    fn process(&mut self) {
        let numbers: Vec<u64> = self.cohorts.keys().copied().collect();
        for number in numbers {
            while let Some(cohort) = self.cohorts.get_mut(&number).filter(|cohort| cohort.backpressured.is_empty())
                && let Some(item) = cohort.items.pop_front()
            {
                let sessions = cohort.sessions.clone();
                match item {
                    CrowdChunk::Events(partition, events, reached) => {
                        let fed = events.iter().flat_map(|delivery| self.give(number, delivery)).collect();
                        self.sate(number, fed);
                        for session in &sessions {
                            self.clients.get_mut(session).unwrap().backfill.reach(number, partition, reached);
                        }
                    }
                    CrowdChunk::Gap(partition, from, through, reason) => {
                        match reason {
                            GapReason::Retention => assert!(through <= self.discarded),
                            GapReason::Damaged => panic!("nothing is damaged here"),
                            GapReason::Lost => assert!(self.vain >= 3, "asked in vain for too short a time"),
                            GapReason::TooLong => panic!("nobody lacks that much"),
                        }
                        for session in &sessions {
                            let client = self.clients.get_mut(session).unwrap();
                            let gaps = client.backfill.miss(number, partition, from, through);
                            client.gaps.extend(gaps.map(|(from, through)| (partition, from, through)));
                        }
                    }
                    CrowdChunk::Digested => self.all_cohorts.processed(number, usize::MAX),
                    CrowdChunk::End => {
                        self.cohorts.remove(&number);
                        for session in sessions {
                            self.clients.get_mut(&session).unwrap().backfill.ended(number);
                            self.continue_backfill(session);
                        }
                    }
                }
            }
        }
    }

    /// Offers an event to all sessions: the index does not know who is of a gathering. Returns who took it.
    fn give(&mut self, cohort: u64, delivery: &Arc<Delivery>) -> Vec<u64> {
        let mut fed = Vec::new();
        for (number, client) in self.clients.iter_mut().filter(|(_, client)| client.done.is_none()) {
            for subscription in client.wanting(delivery) {
                let asker = (cohort, subscription);
                if client.backfill.take(self.now, asker, delivery, Encoding::Json, &OUTBOX) {
                    client.reads_at.get_or_insert(self.now.plus(client.pace));
                    fed.push(*number);
                }
            }
        }
        fed
    }

    /// Who is quick reads at once; the others of a gathering wait for who has too much to read.
    fn sate(&mut self, number: u64, fed: BTreeSet<u64>) {
        let cohort = self.cohorts.get_mut(&number).unwrap();
        for session in fed {
            let client = self.clients.get_mut(&session).unwrap();
            if client.pace == 0 {
                client.read(self.now);
            }
            if client.backfill.outbox.bytes() > OUTBOX.bytes {
                if cohort.backpressured.is_empty() {
                    cohort.backpressured_since = self.now;
                }
                cohort.backpressured.insert(session);
            }
        }
    }

    /// Goes on with a session.
    fn continue_backfill(&mut self, number: u64) {
        let client = self.clients.get_mut(&number).unwrap();
        if client.done.is_some() {
            return;
        }
        match client.backfill.next(&OUTBOX) {
            BackfillAction::Wait => {}
            BackfillAction::Read(cohort) => {
                self.cohorts.get_mut(&cohort).unwrap().backpressured.remove(&number);
            }
            BackfillAction::Ask => {
                client.backfill.asked();
                let (epoch_id, from, to) = client.backfill.ranges();
                let wanted = if client.backfill.of() == BackfillTarget::Session { client.filters.len() } else { 1 };
                let filters = client.filters[..wanted].to_vec();
                let ranges = BackfillRanges { epoch_id, from, to, user: client.user.clone(), filters };
                self.all_cohorts.add(self.now, id(number), ranges, View::default().id());
            }
            BackfillAction::Done => client.done = Some(self.applied.clone()),
        }
    }

    /// Whatever position a session is told, its client knows of all before it.
    fn check_positions(&self) {
        for client in self.clients.values().filter(|client| client.done.is_none()) {
            if client.backfill.of() != BackfillTarget::Session {
                continue;
            }
            let mut position = self.applied.clone();
            client.new.iter().for_each(|new| position.lower_before(new.partition, new.seq));
            client.backfill.hold_back(&mut position);
            let received: BTreeSet<_> = client.received.iter().collect();
            for stored in self.stored.iter().filter(|stored| client.expects(stored, &position.seqs)) {
                let is_known = received.contains(&(stored.partition, stored.seq)) || client.was_told(stored);
                assert!(is_known, "{:?} is covered by {position:?}", stored.seq);
            }
        }
    }

    /// Every session has what it expects, once and in order, but for what it was told.
    fn check_end(&self) -> Result<(), TestCaseError> {
        for (number, client) in &self.clients {
            let Some(done) = &client.done else {
                return Err(TestCaseError::fail(format!("session {number} has not caught up: {:?}", client.backfill)));
            };
            let is_session = client.backfill.of() == BackfillTarget::Session;
            let through = if is_session { &done.seqs } else { &client.to };
            let new = client.new.iter().filter(|_| is_session).map(|new| (new.partition, new.seq));
            let received: Vec<_> = client.received.iter().copied().chain(new).collect();
            let expected: Vec<_> = self
                .stored
                .iter()
                .filter(|stored| client.expects(stored, through) && !client.was_told(stored))
                .map(|stored| (stored.partition, stored.seq))
                .collect();
            for partition in (0..self.partitions()).map(|at| Partition(at as u16)) {
                let of = |events: &[(Partition, Seq)]| -> Vec<u64> {
                    events.iter().filter(|(of, _)| *of == partition).map(|(_, seq)| seq.0).collect()
                };
                prop_assert_eq!(of(&received), of(&expected), "session {} partition {}", number, partition);
            }
            prop_assert_eq!(client.backfill.complete, client.gaps.is_empty());
        }
        let most = self.begun * self.partitions() + self.faulty;
        prop_assert!(self.asks <= most, "{} asks of at most {}", self.asks, most);
        prop_assert!(self.all_cohorts.waiting.is_empty() && self.all_cohorts.running.is_empty());
        prop_assert!(self.cohorts.is_empty() && self.answers.is_empty());
        Ok(())
    }
}

fn event(symbol: Symbol, audience: Audience) -> Event {
    Event { key: symbol.as_str().into(), audience, symbol: Some(symbol), ..blank_event() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn backfilled_sessions_get_every_event_once_or_a_gap(
        partitions in 2..=usize::from(PARTITIONS),
        before in prop::collection::vec(stored(), 1..80),
        load in prop::collection::vec(happens(), 1..40),
        faults in faults(),
    ) {
        let mut world = CrowdWorld::new(partitions, faults);
        world.store(&before, None);
        for happens in load {
            world.happen(happens);
        }
        world.pass(world.now.plus(600_000));
        world.check_end()?;
    }

    #[test]
    fn cohort_costs_as_much_as_one_session(
        partitions in 1..=usize::from(PARTITIONS),
        before in prop::collection::vec(stored(), 1..80),
        comes in comes(),
        count in 2..20usize,
    ) {
        let cost = |count| {
            let mut world = CrowdWorld::new(partitions, Vec::new());
            world.store(&before, None);
            // All read at once: who reads slowly asks for the rest apart.
            world.happen(CrowdAction::Crowd(count, CrowdArrival { pace: 0, ..comes.clone() }));
            world.pass(Millis(10_000));
            world.check_end()?;
            Ok((world.begun, world.asks))
        };
        let (one, many): (Result<_, TestCaseError>, _) = (cost(1), cost(count));
        prop_assert_eq!(one?, many?);
    }
}
