//! Sessions that catch up by gatherings, against asking the whole stream: a model of the routers and of one shard, with
//! everything that can go wrong between them.

use std::collections::VecDeque;

use proptest::prelude::*;
use proptest::sample::select;
use tickwire_core::coverage::GapReason;
use tickwire_core::event::{Audience, Event};
use tickwire_core::frames::Encoding;
use tickwire_core::position::Position;
use tickwire_core::replay::{Part, Purpose, Refusal, ReplayRequest, Reply, Sought};
use tickwire_core::ring::Homes;
use tickwire_core::wire;
use tickwire_testkit::blank_event;

use super::*;
use crate::account::Account;
use crate::catch_up::{CatchUp, Next, Of};
use crate::edge::replay::request;
use crate::outbox::{Frame, Limits as OutboxLimits};

/// What a router makes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
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
struct Stored {
    partition: u8,
    symbol: u8,
    /// How many sequences before it are of nothing that concerns us.
    gap: u8,
    /// Whose it is, if it is not everybody's.
    user: Option<u64>,
}

/// A session that comes.
#[derive(Clone, Debug)]
struct Comes {
    /// How far back it begins, per partition, in sequences.
    back: Vec<u64>,
    filters: Vec<Arc<Filter>>,
    /// Whether it looks back for its first filter alone.
    looks_back: bool,
    /// Its client reads what there is so many milliseconds after it came.
    pace: u64,
}

#[derive(Clone, Debug)]
enum Happens {
    /// Events come. Too many are waiting at one of them, for all sessions that still catch up.
    Stores(Vec<Stored>, Option<usize>),
    Comes(Comes),
    /// So many of the same come at once.
    Crowd(usize, Comes),
    Leaves(usize),
    /// The stream discards so many of each hundred sequences it has.
    Discards(u64),
    Pause(u64),
}

const PARTITIONS: u8 = 4;

fn stored() -> impl Strategy<Value = Stored> {
    (0..PARTITIONS, 0..4u8, 0..4u8, prop::option::weighted(0.2, 0..3u64))
        .prop_map(|(partition, symbol, gap, user)| Stored { partition, symbol, gap, user })
}

fn comes() -> impl Strategy<Value = Comes> {
    let filter = prop::option::weighted(0.7, prop::collection::btree_set(0..4u8, 1..3)).prop_map(of_symbols);
    let back = prop_oneof![1 => Just(0), 3 => 0..20u64, 2 => 0..300u64];
    (
        prop::collection::vec(back, usize::from(PARTITIONS)),
        prop::collection::vec(filter, 1..3),
        prop::bool::weighted(0.3),
        select(vec![0, 0, 30, 400, 1_500]),
    )
        .prop_map(|(back, filters, looks_back, pace)| Comes { back, filters, looks_back, pace })
}

fn happens() -> impl Strategy<Value = Happens> {
    let many = prop::collection::vec(stored(), 1..30);
    prop_oneof![
        4 => (many, prop::option::weighted(0.4, 0..15usize)).prop_map(|(events, at)| Happens::Stores(events, at)),
        6 => comes().prop_map(Happens::Comes),
        1 => (2..5usize, comes()).prop_map(|(count, comes)| Happens::Crowd(count, comes)),
        1 => (0..8usize).prop_map(Happens::Leaves),
        1 => (0..60u64).prop_map(Happens::Discards),
        6 => prop_oneof![3 => 0..100u64, 1 => 100..2_000u64].prop_map(Happens::Pause),
    ]
}

fn faults() -> impl Strategy<Value = Vec<Fault>> {
    use Fault::{Doubled, Fine, Late, Lost, Partial, Refused, Reversed};
    let any = select(vec![Fine, Fine, Fine, Lost, Refused, Partial, Doubled, Late, Reversed]);
    prop_oneof![1 => Just(Vec::new()), 3 => prop::collection::vec(any, 0..40)]
}

/// A session, and what its client knows.
struct Client {
    user: UserId,
    filters: Vec<Arc<Filter>>,
    from: Vec<Seq>,
    /// Up to where it wants the past of a single subscription.
    to: Vec<Seq>,
    pace: u64,
    reads_at: Option<Millis>,
    catch_up: CatchUp,
    received: Vec<(Partition, Seq)>,
    /// What is new.
    new: Vec<Arc<Delivery>>,
    gaps: Vec<(Partition, Seq, Seq)>,
    /// Where the stream was when it had caught up.
    done: Option<Position>,
}

impl Client {
    /// The subscriptions that want an event.
    fn wanting(&self, delivery: &Delivery) -> Vec<u32> {
        let event = &delivery.event;
        let wanting = (1..).zip(&self.filters).filter(|(_, filter)| filter.matches(event));
        wanting.map(|(number, _)| number).filter(|_| event.audience.admits(&self.user)).collect()
    }

    /// Whether the event is of the past that it asked for, or new for it.
    fn expects(&self, delivery: &Delivery, upto: &[Seq]) -> bool {
        let at = usize::from(delivery.partition.0);
        let is_wanted = self.wanting(delivery).iter().any(|number| match self.catch_up.of() {
            Of::Session => true,
            Of::Subscription(of) => of == *number,
        });
        is_wanted && self.from[at] < delivery.seq && delivery.seq <= upto[at]
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
        while self.catch_up.outbox.wants_out() {
            self.catch_up.outbox.compose(now, &mut account, Encoding::Json, &OUTBOX, |_, _| true, &mut frame);
            let events = frame.events.iter().map(|waiting| (waiting.delivery.partition, waiting.delivery.seq));
            self.received.extend(events);
        }
    }
}

/// What a shard digests.
enum Morsel {
    Events(Partition, Vec<Arc<Delivery>>, Seq),
    Gap(Partition, Seq, Seq, GapReason),
    Digested,
    End,
}

/// The sessions of a gathering, as a shard keeps them.
#[derive(Default)]
struct Gathering {
    sessions: BTreeSet<u64>,
    morsels: VecDeque<Morsel>,
    sated: BTreeSet<u64>,
    sated_since: Millis,
}

impl Gathering {
    /// When those who have had the others wait give way to them.
    fn hurries_at(&self) -> Option<Millis> {
        let waits = !self.sated.is_empty() && self.sated.len() < self.sessions.len();
        waits.then(|| self.sated_since.plus(PATIENCE))
    }
}

/// How long is asked in vain, in milliseconds, as shipped: a shorter time passes while clients read slowly, and nobody asks.
const GIVE_UP_AS_SHIPPED: u64 = 600_000;

/// A few events fill an outbox.
const OUTBOX: OutboxLimits = OutboxLimits { bytes: 600, critical: u32::MAX, lanes: false, patience: 10_000 };

/// A stream, a router, and a gateway of one shard, of which all but the gatherings is a model.
struct World {
    now: Millis,
    stored: Vec<Arc<Delivery>>,
    applied: Position,
    discarded: Seq,
    faults: std::vec::IntoIter<Fault>,
    /// What is on its way: when it comes, and to which ask.
    answers: Vec<(Millis, u64, ReplayAnswer<Arc<Delivery>>)>,
    catch_ups: CatchUps,
    gatherings: BTreeMap<u64, Gathering>,
    clients: BTreeMap<u64, Client>,
    came: u64,
    begun: usize,
    asks: usize,
    /// How many asks met a fault, and how many of these brought nothing in time.
    faulty: usize,
    vain: usize,
    turns: usize,
}

impl World {
    fn new(partitions: usize, faults: Vec<Fault>) -> Self {
        Self {
            now: Millis(0),
            stored: Vec::new(),
            applied: Position { incarnation: LIFE, seqs: vec![Seq(0); partitions] },
            discarded: Seq(0),
            faults: faults.into_iter(),
            answers: Vec::new(),
            catch_ups: CatchUps::new(Limits { give_up_after: GIVE_UP_AS_SHIPPED, ..LIMITS }),
            gatherings: BTreeMap::new(),
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

    fn happen(&mut self, happens: Happens) {
        match happens {
            Happens::Stores(events, full_at) => self.store(&events, full_at),
            Happens::Comes(comes) => self.come(comes),
            Happens::Crowd(count, comes) => (0..count).for_each(|_| self.come(comes.clone())),
            Happens::Leaves(nth) => {
                if let Some(number) = self.clients.keys().nth(nth).copied() {
                    self.leave(number);
                }
            }
            Happens::Discards(percent) => {
                let head = self.stored.last().map_or(0, |last| last.seq.0);
                self.discarded = self.discarded.max(Seq(head * percent / 100));
            }
            Happens::Pause(ms) => self.pass(self.now.plus(ms)),
        }
    }

    fn store(&mut self, events: &[Stored], full_at: Option<usize>) {
        for (number, Stored { partition, symbol: of, gap, user: addressee }) in events.iter().enumerate() {
            let at = usize::from(*partition) % self.partitions();
            let seq = Seq(self.stored.last().map_or(0, |last| last.seq.0) + 1 + u64::from(*gap));
            let audience = addressee.map_or(Audience::Public, |number| Audience::User(user(number)));
            let delivery = Arc::new(Delivery::new(event(symbol(*of), audience), Partition(at as u16), seq));
            for client in self.clients.values_mut().filter(|client| client.done.is_none()) {
                if !client.catch_up.is_behind() && !client.wanting(&delivery).is_empty() {
                    client.new.push(Arc::clone(&delivery));
                }
                if full_at == Some(number) && client.catch_up.fall_behind() {
                    client.new.clear();
                }
            }
            self.stored.push(delivery);
            self.applied.seqs[at] = seq;
        }
        let behind = self.clients.iter_mut().filter(|(_, client)| client.catch_up.is_behind());
        let behind: Vec<u64> = behind
            .map(|(number, client)| {
                client.catch_up.renew(&self.applied);
                *number
            })
            .collect();
        for number in behind {
            self.catch_on(number);
        }
    }

    fn come(&mut self, Comes { back, filters, looks_back, pace }: Comes) {
        self.came += 1;
        let to = self.applied.seqs.clone();
        let from: Vec<Seq> = to.iter().zip(back).map(|(to, back)| Seq(to.0.saturating_sub(back))).collect();
        let of = if looks_back { Of::Subscription(1) } else { Of::Session };
        let catch_up = CatchUp::new(self.now, None, of, from.clone(), &self.applied);
        let client = Client {
            user: user(self.came),
            filters,
            from,
            to,
            pace,
            reads_at: None,
            catch_up,
            received: Vec::new(),
            new: Vec::new(),
            gaps: Vec::new(),
            done: None,
        };
        self.clients.insert(self.came, client);
        self.catch_on(self.came);
    }

    fn leave(&mut self, number: u64) {
        let Some(client) = self.clients.remove(&number) else { return };
        self.catch_ups.leave(id(number));
        let Some(of) = client.catch_up.gathering() else { return };
        let gathering = self.gatherings.get_mut(&of).unwrap();
        gathering.sessions.remove(&number);
        gathering.sated.remove(&number);
        if gathering.sessions.is_empty() {
            self.gatherings.remove(&of);
        }
    }

    /// Lets time pass. What is due happens when it is due.
    fn pass(&mut self, end: Millis) {
        loop {
            self.turn();
            let answers = self.answers.iter().map(|(at, ..)| *at);
            let reads = self.clients.values().filter_map(|client| client.reads_at);
            let hurries = self.gatherings.values().filter_map(Gathering::hurries_at);
            let next = answers.chain(reads).chain(hurries).chain(self.catch_ups.next_turn()).min();
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
            self.catch_ups.answer(now, ask, answer);
        }
        for (number, sessions) in self.catch_ups.begin(now, Revision(0)) {
            self.begun += 1;
            let sessions: BTreeSet<u64> = sessions.into_iter().map(|session| session.number).collect();
            for session in &sessions {
                self.clients.get_mut(session).unwrap().catch_up.gathered(number);
            }
            self.gatherings.insert(number, Gathering { sessions, ..Gathering::default() });
        }
        let asks: Vec<_> = self.catch_ups.asks(now).into_iter().map(|(ask, sought)| (ask, sought.clone())).collect();
        for (ask, sought) in asks {
            self.route(&ask, &sought);
        }
        assert!(self.catch_ups.next_turn().is_none_or(|next| next > now), "all that was due is done");
        for Came { gathering, steps, ends } in self.catch_ups.take(1) {
            self.swallow(gathering, steps.steps, ends);
        }
        self.hurry();
        self.read();
        self.digest();
        self.check_positions();
    }

    /// Clients read whose time it is.
    fn read(&mut self) {
        let is_due = |client: &Client| client.reads_at.is_some_and(|at| at <= self.now);
        let due = self.clients.iter().filter(|(_, client)| is_due(client)).map(|(number, _)| *number);
        for number in due.collect::<Vec<_>>() {
            self.clients.get_mut(&number).unwrap().read(self.now);
            self.catch_on(number);
        }
    }

    /// The router takes a request, reads the stream, and answers as it is to.
    fn route(&mut self, ask: &Ask, sought: &Interest) {
        let fault = self.faults.next().unwrap_or(Fault::Fine);
        self.asks += 1;
        self.faulty += usize::from(fault != Fault::Fine);
        let request = wire::decode(&request(&node("g"), ask, Revision(1), sought, Purpose::CatchUp).unwrap()).unwrap();
        let mut parts = match fault {
            Fault::Lost => {
                self.vain += 1;
                return;
            }
            Fault::Refused => vec![Part::Refused(Refusal::Busy)],
            Fault::Partial => self.parts(&request, 1),
            Fault::Fine | Fault::Doubled | Fault::Late | Fault::Reversed => self.parts(&request, usize::MAX),
        };
        // The end of a range is not there yet where its partition has nothing behind it.
        let is_refused = parts.iter().any(|part| matches!(part, Part::Refused(_)));
        self.vain += usize::from(is_refused || matches!(fault, Fault::Late | Fault::Reversed));
        let last = parts.len() - 1;
        let mut messages: Vec<_> = parts
            .drain(..)
            .enumerate()
            .map(|(at, part)| ReplayAnswer { router: node("r"), incarnation: LIFE, part, last: at == last })
            .collect();
        match fault {
            Fault::Doubled => messages.extend(messages.clone()),
            Fault::Reversed => messages.reverse(),
            _ => {}
        }
        let first = self.now.plus(if fault == Fault::Late { TIMEOUT + 5 } else { 5 });
        self.answers.extend((0..).zip(messages).map(|(at, message)| (first.plus(at), ask.number, message)));
    }

    /// What there is to say to a request, in so many readings at most.
    fn parts(&self, request: &ReplayRequest, readings: usize) -> Vec<Part<Arc<Delivery>>> {
        let Sought::Carried(carried) = &request.interest else { panic!("small enough to be carried") };
        let (_, interest) = Interest::assemble(vec![carried.clone()]).unwrap();
        let (mut request, mut parts) = (request.clone(), Vec::new());
        for _ in 0..readings {
            let mut reply = Reply::new(&request, Revision(1));
            let kept = self.stored.iter().filter(|stored| {
                stored.partition == request.partition && stored.seq > request.from && stored.seq > self.discarded
            });
            for stored in kept.take(PART) {
                let is_wanted = interest.admits(&stored.event, &node("g"), &mut Homes::default());
                reply.read(stored.seq, is_wanted.then(|| Arc::clone(stored)));
            }
            let upto = reply.upto().max(self.discarded.min(request.to));
            parts.extend(reply.finish(self.discarded, Seq(u64::MAX), &[]));
            if upto == request.to {
                break;
            }
            request.from = upto;
        }
        parts
    }

    /// The shard takes what came of a gathering.
    fn swallow(&mut self, number: u64, steps: Vec<Step<Arc<Delivery>>>, ends: bool) {
        let is_piece = !steps.is_empty();
        let Some(gathering) = self.gatherings.get_mut(&number) else {
            return self.catch_ups.digested(number, usize::MAX);
        };
        for step in steps {
            match step {
                Step::Apply { partition, upto, events, .. } => {
                    let events: Vec<_> = events.into_iter().map(|(_, delivery)| delivery).collect();
                    let bites = events
                        .chunks(BITE)
                        .map(|bite| Morsel::Events(partition, bite.to_vec(), bite[bite.len() - 1].seq));
                    gathering.morsels.extend(bites);
                    gathering.morsels.push_back(Morsel::Events(partition, Vec::new(), upto));
                }
                Step::Gap { partition, from, upto, reason } => {
                    gathering.morsels.push_back(Morsel::Gap(partition, from, upto, reason));
                }
                Step::Adopt { .. } | Step::Reset { .. } => panic!("the past does not begin anew"),
            }
        }
        gathering.morsels.extend(is_piece.then_some(Morsel::Digested));
        gathering.morsels.extend(ends.then_some(Morsel::End));
    }

    /// Those who have had the others wait for too long give way.
    fn hurry(&mut self) {
        for gathering in self.gatherings.values_mut() {
            if gathering.hurries_at().is_some_and(|at| at <= self.now) {
                for number in std::mem::take(&mut gathering.sated) {
                    self.clients.get_mut(&number).unwrap().catch_up.give_way();
                }
            }
        }
    }

    fn digest(&mut self) {
        let numbers: Vec<u64> = self.gatherings.keys().copied().collect();
        for number in numbers {
            while let Some(gathering) = self.gatherings.get_mut(&number).filter(|gathering| gathering.sated.is_empty())
                && let Some(morsel) = gathering.morsels.pop_front()
            {
                let sessions = gathering.sessions.clone();
                match morsel {
                    Morsel::Events(partition, events, reached) => {
                        let fed = events.iter().flat_map(|delivery| self.give(number, delivery)).collect();
                        self.sate(number, fed);
                        for session in &sessions {
                            self.clients.get_mut(session).unwrap().catch_up.reach(number, partition, reached);
                        }
                    }
                    Morsel::Gap(partition, from, upto, reason) => {
                        match reason {
                            GapReason::Retention => assert!(upto <= self.discarded),
                            GapReason::Damaged => panic!("nothing is damaged here"),
                            GapReason::Lost => assert!(self.vain >= 3, "asked in vain for too short a time"),
                            GapReason::TooLong => panic!("nobody lacks that much"),
                        }
                        for session in &sessions {
                            let client = self.clients.get_mut(session).unwrap();
                            let told = client.catch_up.miss(number, partition, from, upto);
                            client.gaps.extend(told.map(|(from, upto)| (partition, from, upto)));
                        }
                    }
                    Morsel::Digested => self.catch_ups.digested(number, usize::MAX),
                    Morsel::End => {
                        self.gatherings.remove(&number);
                        for session in sessions {
                            self.clients.get_mut(&session).unwrap().catch_up.ended(number);
                            self.catch_on(session);
                        }
                    }
                }
            }
        }
    }

    /// Offers an event to all sessions: the index does not know who is of a gathering. Returns who took it.
    fn give(&mut self, gathering: u64, delivery: &Arc<Delivery>) -> Vec<u64> {
        let mut fed = Vec::new();
        for (number, client) in self.clients.iter_mut().filter(|(_, client)| client.done.is_none()) {
            for subscription in client.wanting(delivery) {
                let asker = (gathering, subscription);
                if client.catch_up.take(self.now, asker, delivery, Encoding::Json, &OUTBOX) {
                    client.reads_at.get_or_insert(self.now.plus(client.pace));
                    fed.push(*number);
                }
            }
        }
        fed
    }

    /// Who is quick reads at once; the others of a gathering wait for who has too much to read.
    fn sate(&mut self, number: u64, fed: BTreeSet<u64>) {
        let gathering = self.gatherings.get_mut(&number).unwrap();
        for session in fed {
            let client = self.clients.get_mut(&session).unwrap();
            if client.pace == 0 {
                client.read(self.now);
            }
            if client.catch_up.outbox.bytes() > OUTBOX.bytes {
                if gathering.sated.is_empty() {
                    gathering.sated_since = self.now;
                }
                gathering.sated.insert(session);
            }
        }
    }

    /// Goes on with a session.
    fn catch_on(&mut self, number: u64) {
        let client = self.clients.get_mut(&number).unwrap();
        if client.done.is_some() {
            return;
        }
        match client.catch_up.next(&OUTBOX) {
            Next::Wait => {}
            Next::Read(gathering) => {
                self.gatherings.get_mut(&gathering).unwrap().sated.remove(&number);
            }
            Next::Ask => {
                client.catch_up.asked();
                let (incarnation, from, to) = client.catch_up.lack();
                let wanted = if client.catch_up.of() == Of::Session { client.filters.len() } else { 1 };
                let filters = client.filters[..wanted].to_vec();
                let lack = Lack { incarnation, from, to, user: client.user.clone(), filters };
                self.catch_ups.add(self.now, id(number), lack, View::default().id());
            }
            Next::Done => client.done = Some(self.applied.clone()),
        }
    }

    /// Whatever position a session is told, its client knows of all before it.
    fn check_positions(&self) {
        for client in self.clients.values().filter(|client| client.done.is_none()) {
            if client.catch_up.of() != Of::Session {
                continue;
            }
            let mut position = self.applied.clone();
            client.new.iter().for_each(|new| position.hold_before(new.partition, new.seq));
            client.catch_up.hold_back(&mut position);
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
                return Err(TestCaseError::fail(format!("session {number} has not caught up: {:?}", client.catch_up)));
            };
            let is_session = client.catch_up.of() == Of::Session;
            let upto = if is_session { &done.seqs } else { &client.to };
            let new = client.new.iter().filter(|_| is_session).map(|new| (new.partition, new.seq));
            let received: Vec<_> = client.received.iter().copied().chain(new).collect();
            let expected: Vec<_> = self
                .stored
                .iter()
                .filter(|stored| client.expects(stored, upto) && !client.was_told(stored))
                .map(|stored| (stored.partition, stored.seq))
                .collect();
            for partition in (0..self.partitions()).map(|at| Partition(at as u16)) {
                let of = |events: &[(Partition, Seq)]| -> Vec<u64> {
                    events.iter().filter(|(of, _)| *of == partition).map(|(_, seq)| seq.0).collect()
                };
                prop_assert_eq!(of(&received), of(&expected), "session {} partition {}", number, partition);
            }
            prop_assert_eq!(client.catch_up.complete, client.gaps.is_empty());
        }
        let most = self.begun * self.partitions() + self.faulty;
        prop_assert!(self.asks <= most, "{} asks of at most {}", self.asks, most);
        prop_assert!(self.catch_ups.waiting.is_empty() && self.catch_ups.running.is_empty());
        prop_assert!(self.gatherings.is_empty() && self.answers.is_empty());
        Ok(())
    }
}

fn event(symbol: Symbol, audience: Audience) -> Event {
    Event { key: symbol.as_str().into(), audience, symbol: Some(symbol), ..blank_event() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sessions_that_catch_up_get_all_of_it_once_or_are_told(
        partitions in 2..=usize::from(PARTITIONS),
        before in prop::collection::vec(stored(), 1..80),
        load in prop::collection::vec(happens(), 1..40),
        faults in faults(),
    ) {
        let mut world = World::new(partitions, faults);
        world.store(&before, None);
        for happens in load {
            world.happen(happens);
        }
        world.pass(world.now.plus(600_000));
        world.check_end()?;
    }

    #[test]
    fn a_crowd_costs_what_one_costs(
        partitions in 1..=usize::from(PARTITIONS),
        before in prop::collection::vec(stored(), 1..80),
        comes in comes(),
        count in 2..20usize,
    ) {
        let cost = |count| {
            let mut world = World::new(partitions, Vec::new());
            world.store(&before, None);
            // All read at once: who reads slowly asks for the rest apart.
            world.happen(Happens::Crowd(count, Comes { pace: 0, ..comes.clone() }));
            world.pass(Millis(10_000));
            world.check_end()?;
            Ok((world.begun, world.asks))
        };
        let (one, many): (Result<_, TestCaseError>, _) = (cost(1), cost(count));
        prop_assert_eq!(one?, many?);
    }
}
