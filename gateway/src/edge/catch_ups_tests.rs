//! Gatherings: their rules by example, and sessions that catch up by them against asking the whole stream.

use std::collections::VecDeque;

use proptest::prelude::*;
use proptest::sample::select;
use tickwire_core::coverage::GapReason;
use tickwire_core::event::{Audience, Event, Kind, Priority, Timestamp};
use tickwire_core::filter::Filter;
use tickwire_core::frames::Encoding;
use tickwire_core::ids::{NodeId, NodeRef, Nonce, Partition, Revision, Symbol, UserId};
use tickwire_core::position::Position;
use tickwire_core::replay::{Part, Refusal, ReplayRequest, Reply, Sought};
use tickwire_core::ring::View;
use tickwire_core::wire;

use super::*;
use crate::account::Account;
use crate::catch_up::{CatchUp, Next, Of};
use crate::edge::replay::request;
use crate::outbox::{Frame, Limits as OutboxLimits};

const LIFE: Incarnation = Incarnation(7);
const TIMEOUT: u64 = 200;
const TRIES: u32 = 3;
const LIMITS: Limits = Limits {
    grace: 100,
    held_events: 100,
    replays: 100,
    replay_timeout: TIMEOUT,
    replay_tries: TRIES,
    replay_range: 1_000_000,
};

/// How many messages a router reads for one part of its answer.
const PART: usize = 3;

/// How many events the model of a shard digests at a time.
const BITE: usize = 2;

/// How long those who read wait for those who do not, as shards have it.
const PATIENCE: u64 = 500;

fn node(name: &str) -> NodeRef {
    NodeRef { id: NodeId::new(name).unwrap(), nonce: Nonce(1) }
}

fn symbol(number: u8) -> Symbol {
    Symbol::new(&format!("S{number}")).unwrap()
}

fn user(number: u64) -> UserId {
    UserId::new(&format!("u{}", number % 3)).unwrap()
}

fn id(number: u64) -> SessionId {
    SessionId { shard: 0, number }
}

fn of_symbols(symbols: Option<BTreeSet<u8>>) -> Arc<Filter> {
    let symbols = symbols.map(|symbols| symbols.into_iter().map(symbol).collect());
    Arc::new(Filter { symbols, ..Filter::default() })
}

/// `(from, to]` of a single partition, and everything in it.
fn lack(from: u64, to: u64) -> Lack {
    let (from, to) = (vec![Seq(from)], vec![Seq(to)]);
    Lack { incarnation: LIFE, from, to, user: user(0), filters: vec![of_symbols(None)] }
}

fn add(catch_ups: &mut CatchUps, now: u64, session: u64, lack: Lack) {
    catch_ups.add(Millis(now), id(session), lack, View::default().id());
}

/// What begins now: the sessions of each gathering.
fn begin(catch_ups: &mut CatchUps, now: u64) -> Vec<Vec<u64>> {
    let begun = catch_ups.begin(Millis(now)).into_iter();
    begun.map(|(_, sessions)| sessions.into_iter().map(|session| session.number).collect()).collect()
}

/// What is asked for now: number, from and to.
fn asks(catch_ups: &mut CatchUps, now: u64) -> Vec<(u64, u64, u64)> {
    catch_ups.asks(Millis(now)).into_iter().map(|(ask, _)| (ask.number, ask.from.0, ask.to.0)).collect()
}

/// Answers an ask as far as `upto`, with no event.
fn cover(catch_ups: &mut CatchUps, now: u64, ask: u64, (prev, upto): (u64, u64)) -> Offered {
    let (prev, upto) = (Seq(prev), Seq(upto));
    let section = tickwire_core::section::Section {
        partition: Partition(0),
        revision: Revision(1),
        prev,
        upto,
        events: Vec::new(),
    };
    let part = Part::Events(section);
    catch_ups.answer(Millis(now), ask, ReplayAnswer { router: node("r"), incarnation: LIFE, part, last: true })
}

/// Has pieces come that no shard digests, until nothing more is asked for. Returns how far the answers came.
fn clog(catch_ups: &mut CatchUps, now: u64, from: u64) -> u64 {
    let mut upto = from;
    while let Some((ask, ..)) = asks(catch_ups, now).pop() {
        assert_eq!(cover(catch_ups, now, ask, (upto, upto + 1)), Offered::Applied);
        upto += 1;
        assert_eq!(catch_ups.take(1).len(), 1);
    }
    upto
}

#[test]
fn those_who_come_within_fifty_milliseconds_begin_together() {
    let mut catch_ups = CatchUps::new(LIMITS);
    add(&mut catch_ups, 0, 1, lack(100, 120));
    add(&mut catch_ups, 49, 2, lack(105, 125));
    assert_eq!(catch_ups.next_turn(), Some(Millis(50)));
    assert!(begin(&mut catch_ups, 49).is_empty() && asks(&mut catch_ups, 49).is_empty());
    assert_eq!(begin(&mut catch_ups, 50), [[1, 2]]);
    let [(ask, 100, 125)] = asks(&mut catch_ups, 50)[..] else { panic!("one ask for what either lacks") };
    // Who comes now waits for the next one of its class, which waits for this one.
    add(&mut catch_ups, 60, 3, lack(110, 130));
    assert!(begin(&mut catch_ups, 200).is_empty());
    assert_eq!(catch_ups.next_turn(), Some(Millis(50 + TIMEOUT)), "there is nothing to do before that");
    cover(&mut catch_ups, 200, ask, (100, 125));
    let came = catch_ups.take(1);
    assert!(matches!(&came[..], [Came { steps, ends: true, .. }] if steps.len() == 1), "{came:?}");
    assert_eq!(begin(&mut catch_ups, 200), [[3]]);
}

#[test]
fn classes_are_powers_of_four() {
    let mut catch_ups = CatchUps::new(LIMITS);
    for (session, missing) in (0..).zip([0, 1, 3, 4, 15, 16, 63, 64, 255, 256]) {
        add(&mut catch_ups, 0, session, lack(1_023 - missing, 1_023));
    }
    assert_eq!(begin(&mut catch_ups, 50), [vec![0, 1, 2], vec![3, 4], vec![5, 6], vec![7, 8], vec![9]]);
    // Of several partitions the one that lacks most counts.
    let mut two = CatchUps::new(LIMITS);
    for (session, missing) in [(1, [1, 16]), (2, [63, 0]), (3, [15, 15])] {
        let from = missing.map(|missing| Seq(1_000 - missing)).into();
        add(&mut two, 0, session, Lack { from, to: vec![Seq(1_000); 2], ..lack(0, 0) });
    }
    assert_eq!(begin(&mut two, 50), [vec![3], vec![1, 2]]);
}

#[test]
fn who_lacks_as_much_of_another_time_is_not_asked_for_together() {
    let mut catch_ups = CatchUps::new(LIMITS);
    add(&mut catch_ups, 0, 1, lack(900, 1_000));
    add(&mut catch_ups, 0, 2, lack(1_999_900, 2_000_000));
    assert_eq!(begin(&mut catch_ups, 50), [vec![1], vec![2]]);
    let ranges: Vec<_> = asks(&mut catch_ups, 50).into_iter().map(|(_, from, to)| (from, to)).collect();
    assert_eq!(ranges, [(900, 1_000), (1_999_900, 2_000_000)]);
}

#[test]
fn a_gathering_waits_for_none_of_another_class() {
    let mut catch_ups = CatchUps::new(LIMITS);
    add(&mut catch_ups, 0, 1, lack(0, 100_000));
    assert_eq!(begin(&mut catch_ups, 50), [[1]]);
    assert_eq!(asks(&mut catch_ups, 50).len(), 1);
    add(&mut catch_ups, 60, 2, lack(99_990, 100_000));
    assert_eq!(catch_ups.next_turn(), Some(Millis(110)));
    assert_eq!(begin(&mut catch_ups, 110), [[2]]);
    let [(ask, 99_990, 100_000)] = asks(&mut catch_ups, 110)[..] else { panic!("asked for alone") };
    cover(&mut catch_ups, 120, ask, (99_990, 100_000));
    let came = catch_ups.take(1);
    assert_eq!(came.iter().map(|came| (came.gathering, came.ends)).collect::<Vec<_>>(), [(2, true)]);
    assert_eq!(catch_ups.running.len(), 1, "the other one goes on");
}

#[test]
fn a_clogged_gathering_asks_for_nothing_and_lets_others_of_its_class_begin() {
    let mut catch_ups = CatchUps::new(LIMITS);
    add(&mut catch_ups, 0, 1, lack(0, 100));
    begin(&mut catch_ups, 50);
    add(&mut catch_ups, 50, 2, lack(0, 100));
    assert!(begin(&mut catch_ups, 100).is_empty(), "one of a class at a time");
    assert_eq!(clog(&mut catch_ups, 100, 0), UNDIGESTED as u64);
    assert_eq!(catch_ups.next_turn(), Some(Millis(100)), "the other one may begin");
    assert_eq!(begin(&mut catch_ups, 100), [[2]]);
    let [(ask, 0, 100)] = asks(&mut catch_ups, 100)[..] else { panic!("the other one alone asks") };
    assert_eq!(ask >> ASK_BITS, 2);
    catch_ups.digested(1);
    let [(ask, from, 100)] = asks(&mut catch_ups, 101)[..] else { panic!("it goes on") };
    assert_eq!((ask >> ASK_BITS, from), (1, UNDIGESTED as u64));
}

#[test]
fn each_shard_has_to_digest_a_piece() {
    let mut catch_ups = CatchUps::new(LIMITS);
    add(&mut catch_ups, 0, 1, lack(0, 100));
    begin(&mut catch_ups, 50);
    let (ask, ..) = asks(&mut catch_ups, 50)[0];
    cover(&mut catch_ups, 50, ask, (0, 1));
    assert_eq!(catch_ups.take(UNDIGESTED).len(), 1);
    assert!(asks(&mut catch_ups, 50).is_empty());
    assert!(catch_ups.take(UNDIGESTED).is_empty(), "nothing came: there is nothing to digest");
    catch_ups.digested(1);
    assert_eq!(asks(&mut catch_ups, 50).len(), 1);
}

#[test]
fn a_bounded_number_of_gatherings_run() {
    let mut catch_ups = CatchUps::new(LIMITS);
    for session in 1..RUNNING as u64 {
        add(&mut catch_ups, 0, session, lack(0, 100));
        assert_eq!(begin(&mut catch_ups, 50), [[session]]);
        clog(&mut catch_ups, 50, 0);
    }
    for (session, missing) in [(101, 1), (102, 20), (103, 100), (104, 2_000)] {
        add(&mut catch_ups, 50, session, lack(0, missing));
    }
    assert_eq!(begin(&mut catch_ups, 100), [[101]], "there is room for one more");
    assert_eq!((catch_ups.running.len(), catch_ups.waiting.len()), (RUNNING, 3));
}

#[test]
fn nothing_is_asked_for_that_nobody_waits_for() {
    let mut catch_ups = CatchUps::new(LIMITS);
    for session in [1, 2] {
        add(&mut catch_ups, 0, session, lack(0, 100));
    }
    begin(&mut catch_ups, 50);
    let (ask, ..) = asks(&mut catch_ups, 50)[0];
    cover(&mut catch_ups, 60, ask, (0, 50));
    catch_ups.leave(id(1));
    let [(ask, 50, 100)] = asks(&mut catch_ups, 60)[..] else { panic!("the other one waits yet") };
    catch_ups.leave(id(2));
    assert!(asks(&mut catch_ups, 60 + TIMEOUT).is_empty() && catch_ups.next_turn().is_none());
    assert_eq!(cover(&mut catch_ups, 70, ask, (50, 100)), Offered::Foreign);
    assert!(catch_ups.take(1).is_empty());
    // Nor does anything begin for those who left before.
    for session in [3, 4] {
        add(&mut catch_ups, 300, session, lack(0, 100));
    }
    catch_ups.leave(id(3));
    assert_eq!(catch_ups.next_turn(), Some(Millis(350)));
    catch_ups.leave(id(4));
    assert!(catch_ups.next_turn().is_none() && begin(&mut catch_ups, 350).is_empty());
}

#[test]
fn another_life_of_the_stream_ends_all() {
    let mut catch_ups = CatchUps::new(LIMITS);
    add(&mut catch_ups, 0, 1, lack(0, 100));
    begin(&mut catch_ups, 50);
    let (ask, ..) = asks(&mut catch_ups, 50)[0];
    add(&mut catch_ups, 50, 2, lack(0, 1));
    catch_ups.forget_all();
    assert_eq!(cover(&mut catch_ups, 60, ask, (0, 100)), Offered::Foreign);
    assert!(catch_ups.take(1).is_empty() && begin(&mut catch_ups, 500).is_empty() && catch_ups.next_turn().is_none());
}

#[test]
fn numbers_of_asks_tell_gatherings_from_live_coverage() {
    let mut catch_ups = CatchUps::new(LIMITS);
    for (session, missing) in (1..).zip([1, 10, 100, 1_000]) {
        add(&mut catch_ups, 0, session, lack(0, missing));
    }
    assert_eq!(begin(&mut catch_ups, 50).len(), 4);
    let asked = asks(&mut catch_ups, 50);
    assert!(asked.iter().all(|(ask, ..)| CatchUps::is_asked(*ask)));
    assert_eq!(asked.iter().map(|(ask, ..)| ask >> ASK_BITS).collect::<Vec<_>>(), [1, 2, 3, 4]);
    let (mut live, mut steps) = (Coverage::<Arc<Delivery>>::new(1, Limits { grace: 0, ..LIMITS }), Vec::new());
    for (prev, upto) in [(0, 1), (5, 6)] {
        let (partition, events) = (Partition(0), Vec::new());
        let (prev, upto) = (Seq(prev), Seq(upto));
        let section = tickwire_core::section::Section { partition, revision: Revision(1), prev, upto, events };
        live.offer(Millis(0), LIFE, section, &mut steps);
    }
    let asked = live.asks(Millis(0), &mut steps);
    assert!(!asked.is_empty() && asked.iter().all(|ask| !CatchUps::is_asked(ask.number)));
    assert!(!CatchUps::is_asked((1 << ASK_BITS) - 1) && CatchUps::is_asked(1 << ASK_BITS));
}

#[test]
fn an_ask_that_could_not_be_sent_is_made_again() {
    let mut catch_ups = CatchUps::new(LIMITS);
    add(&mut catch_ups, 0, 1, lack(0, 100));
    begin(&mut catch_ups, 50);
    let mut now = 50;
    // More often than asks may bring nothing.
    for _ in 0..2 * TRIES {
        let [(ask, 0, 100)] = asks(&mut catch_ups, now)[..] else { panic!("asked for again") };
        catch_ups.unsent(Millis(now), ask);
        assert!(catch_ups.take(1).is_empty());
        now = catch_ups.next_turn().unwrap().0;
    }
    let (ask, ..) = asks(&mut catch_ups, now)[0];
    catch_ups.refused(Millis(now), ask);
    assert!(catch_ups.take(1).is_empty(), "one refusal is no gap");
}

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
            catch_ups: CatchUps::new(LIMITS),
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
        for (number, sessions) in self.catch_ups.begin(now) {
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
            self.swallow(gathering, steps, ends);
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
        self.vain += usize::from(matches!(fault, Fault::Lost | Fault::Refused | Fault::Late | Fault::Reversed));
        let request = wire::decode(&request(&node("g"), ask, Revision(1), sought).unwrap()).unwrap();
        let mut parts = match fault {
            Fault::Lost => return,
            Fault::Refused => vec![Part::Refused(Refusal::Busy)],
            Fault::Partial => self.parts(&request, 1),
            Fault::Fine | Fault::Doubled | Fault::Late | Fault::Reversed => self.parts(&request, usize::MAX),
        };
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
                let is_wanted = interest.admits(&stored.event, &node("g"), &View::default());
                reply.read(stored.seq, is_wanted.then(|| Arc::clone(stored)));
            }
            let upto = reply.upto().max(self.discarded.min(request.to));
            parts.extend(reply.finish(self.discarded));
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
            return self.catch_ups.digested(number);
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
                            GapReason::Lost => assert!(self.vain >= TRIES as usize),
                            GapReason::TooLong => panic!("nobody lacks that much"),
                        }
                        for session in &sessions {
                            let client = self.clients.get_mut(session).unwrap();
                            let told = client.catch_up.miss(number, partition, from, upto);
                            client.gaps.extend(told.map(|(from, upto)| (partition, from, upto)));
                        }
                    }
                    Morsel::Digested => self.catch_ups.digested(number),
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
    Event {
        kind: Kind::Pattern,
        key: symbol.as_str().into(),
        audience,
        id: "e".into(),
        ts: Timestamp(0),
        stored: Timestamp(0),
        session: None,
        symbol: Some(symbol),
        pattern: None,
        tier: None,
        confidence: None,
        priority: Priority::Low,
        regime: None,
        tags: Vec::new(),
        data: serde_json::Map::new(),
        rooms: Vec::new(),
    }
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
