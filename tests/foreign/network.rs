//! A bad network: the ledger runs over lines between every node and NATS, and between the clients and every gateway.
//! The lines have network faults, one at a time and two at once.
//!
//! The faults are random, from a seed that is printed. `TICKWIRE_CHAOS_SEED` sets it. The short form has two rounds.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use std::time::Duration;
use tickwire_testkit::Pulse;
use tokio::time::sleep;

use super::tools::{is_full, report};
use crate::cluster::Cluster;
use crate::cut::{Line, LineDirection, LineFaults};
use crate::ledger::book::{Crowd, DEFAULTS_CROWD, Ledger, seed};
use crate::node::DEADLINE;

/// How long after the end of a fault every node may take to be ready.
const READY: Duration = Duration::from_secs(15);

/// The rounds of two faults in the full form.
const PAIRS: usize = 12;

/// No client reads slowly on purpose: 30 kB a second is slow enough.
const CROWD: Crowd = Crowd { slow: 0, ..DEFAULTS_CROWD };

/// A fault of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NetworkFault {
    /// A delay of 150 ms, plus or minus 50.
    Slow,
    /// A delay of 20 ms, plus or minus 400: never negative, and in order.
    Jittery,
    /// No bytes pass, and no connection ends.
    BlackHole,
    /// 30 kB a second.
    Narrow,
    /// Slices of 16 bytes.
    Sliced,
    /// Every connection is closed after 20,000 bytes.
    Closed,
    /// Every connection is reset within two seconds.
    Reset,
    /// One direction is three seconds late.
    Late,
    /// Connections end, and are refused.
    Refused,
}

impl NetworkFault {
    const ALL: [Self; 9] = [
        Self::Slow,
        Self::Jittery,
        Self::BlackHole,
        Self::Narrow,
        Self::Sliced,
        Self::Closed,
        Self::Reset,
        Self::Late,
        Self::Refused,
    ];

    /// Adds this fault to others.
    fn add_to(self, line_faults: LineFaults, direction: LineDirection) -> LineFaults {
        let ms = Duration::from_millis;
        match self {
            Self::Slow => LineFaults { delay: Some((ms(150), ms(50))), ..line_faults },
            Self::Jittery => LineFaults { delay: Some((ms(20), ms(400))), ..line_faults },
            Self::BlackHole => LineFaults { is_stalled: true, ..line_faults },
            Self::Narrow => LineFaults { rate: Some(30_000), ..line_faults },
            Self::Sliced => LineFaults { slice: Some(16), ..line_faults },
            Self::Closed => LineFaults { most: Some(20_000), ..line_faults },
            Self::Reset => LineFaults { resets: Some(ms(2_000)), ..line_faults },
            Self::Late => LineFaults { late: Some((direction, ms(3_000))), ..line_faults },
            Self::Refused => LineFaults { refuses: true, ..line_faults },
        }
    }

    /// How long it lasts.
    fn lasts(self, rng: &mut StdRng) -> Duration {
        let ms = match self {
            Self::BlackHole if is_full() => 3_000..=9_000,
            _ => 3_000..=5_000,
        };
        Duration::from_millis(rng.random_range(ms))
    }
}

/// The lines of a fault.
#[derive(Debug, Clone, Copy)]
enum NetworkPlace {
    /// Those of all nodes to NATS.
    Nodes,
    /// Those of one router, or of one gateway, to NATS.
    Router,
    Gateway,
    /// Those of the clients to all gateways.
    Doors,
}

impl NetworkPlace {
    const ALL: [Self; 4] = [Self::Nodes, Self::Router, Self::Gateway, Self::Doors];

    fn lines<'a>(self, cluster: &'a Cluster, rng: &mut StdRng) -> Vec<&'a Line> {
        let Cluster { routers, gateways, .. } = cluster;
        let nodes = match self {
            Self::Nodes => routers.iter().chain(gateways).collect(),
            Self::Router => vec![routers.choose(rng).unwrap()],
            Self::Gateway => vec![gateways.choose(rng).unwrap()],
            Self::Doors => return gateways.iter().map(|gateway| gateway.door.as_ref().unwrap()).collect(),
        };
        nodes.into_iter().map(|node| node.line.as_ref().unwrap()).collect()
    }
}

/// Injects these faults at the same time. Returns how long the nodes took to be ready after their end.
async fn inject(ledger: &mut Ledger, faults: &[(NetworkFault, NetworkPlace)]) -> Duration {
    let Ledger { cluster, rng, .. } = ledger;
    let mut lines: Vec<(&Line, LineFaults)> = Vec::new();
    let (seed, direction) = (rng.random(), [LineDirection::Forward, LineDirection::Backward][rng.random_range(0..2)]);
    for (fault, place) in faults {
        for line in place.lines(cluster, rng) {
            let known = lines.iter().position(|(other, _)| other.address == line.address);
            let at = known.unwrap_or_else(|| {
                lines.push((line, LineFaults { seed, ..LineFaults::default() }));
                lines.len() - 1
            });
            lines[at].1 = fault.add_to(lines[at].1, direction);
        }
    }
    let lasting = faults.iter().map(|(fault, _)| fault.lasts(rng)).max().unwrap();
    for (line, line_faults) in &lines {
        line.set_faults(*line_faults);
    }
    sleep(lasting).await;
    let pulse = Pulse::start();
    for (line, _) in &lines {
        line.mend();
    }
    let took = ledger.cluster.ready_within(DEADLINE).await;
    assert!(took <= READY + pulse.allowance(), "{faults:?}: ready after {took:.1?}");
    eprintln!("{faults:?} for {lasting:.1?}: ready after {took:.1?}");
    ledger.publisher.more(40).await;
    took
}

/// The faults of each round: each fault at each place, then pairs. The short form has one fault in front of NATS, then
/// one there together with another in front of the gateways.
fn rounds(rng: &mut StdRng) -> Vec<Vec<(NetworkFault, NetworkPlace)>> {
    if !is_full() {
        let drawn: Vec<NetworkFault> = NetworkFault::ALL.choose_multiple(rng, 3).copied().collect();
        return vec![
            vec![(drawn[0], NetworkPlace::Nodes)],
            vec![(drawn[1], NetworkPlace::Nodes), (drawn[2], NetworkPlace::Doors)],
        ];
    }
    let alone =
        [NetworkPlace::Nodes, NetworkPlace::Doors].map(|place| NetworkFault::ALL.map(|fault| vec![(fault, place)]));
    let pairs = (0..PAIRS).map(|_| {
        let two: Vec<NetworkFault> = NetworkFault::ALL.choose_multiple(rng, 2).copied().collect();
        two.into_iter().map(|fault| (fault, *NetworkPlace::ALL.choose(rng).unwrap())).collect()
    });
    alone.into_iter().flatten().chain(pairs).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_on_a_bad_network_and_nodes_recover() {
    let seed = seed(4);
    let cluster = Cluster::start_shipped_behind_doors(2, 2).await;
    let mut ledger = Ledger::start_with("network", seed, cluster, CROWD).await;
    let rounds = rounds(&mut ledger.rng);
    let mut longest = Duration::ZERO;
    for faults in &rounds {
        longest = longest.max(inject(&mut ledger, faults).await);
    }
    let tally = ledger.close().await;
    let (count, received) = (rounds.len(), tally.received);
    report("bad network", &format!("{received} deliveries exact, {count} rounds of faults, ready after {longest:.1?}"));
}
