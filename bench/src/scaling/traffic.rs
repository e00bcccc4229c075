//! How many messages of each kind a cluster exchanges over NATS when nothing joins, leaves or subscribes: counted from
//! what the code does. Pure.
//!
//! Batches are what grows with gateways × routers. For one such pair, events that match the gateway come at random
//! with rate λ, the critical ones among them with rate κ, and a batch has just left. Before the window `w` is over,
//! only a critical event sends the next one; at its end, waiting events do; after it, the next event. So the mean
//! time from a batch to the next is the integral of the probability that it has not left yet:
//!
//! ```text
//! T = ∫₀ʷ e^(-κt) dt + e^(-λw) ∫₀^∞ e^(-λt) dt = (1 - e^(-κw))/κ + e^(-λw)/λ
//! ```
//!
//! The checkpoint, which reports to every gateway how far every partition was read, is one more batch at its interval.

use serde::Serialize;
use tickwire_node::names;
use tickwire_router_node::LONGEST_WINDOW;

/// A cluster and its load. Times are in seconds, rates in events a second.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct ClusterLoad {
    pub(crate) gateways: u32,
    pub(crate) routers: u32,
    pub(crate) partitions: u32,
    pub(crate) rate: f64,
    /// The part of the events that matches a gateway's interest.
    pub(crate) interest: f64,
    /// The part of the events that is critical.
    pub(crate) critical: f64,
    pub(crate) flush_window: f64,
    /// How many batches a router sends in a second, at most, before the window grows.
    pub(crate) batch_rate: f64,
    pub(crate) checkpoint_interval: f64,
    pub(crate) beat_interval: f64,
    /// How often the coordinator renews its lease and announces the view.
    pub(crate) round_interval: f64,
    pub(crate) heartbeat_interval: f64,
}

/// A kind of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TrafficKind {
    /// From a router to a gateway.
    Batches,
    /// Gateways send all routers the revision of their interest.
    InterestBeats,
    /// Gateways send all routers the changes of it.
    Interest,
    /// Nodes report to all routers, one of which is the coordinator, that they are alive.
    MembershipBeats,
    /// The coordinator announces the view to all nodes.
    Announcements,
    /// Owners renew their leases, and the coordinator its own.
    Renewals,
    /// Routers read the leases of others.
    LeaseReads,
    /// Owners store heartbeats of their partitions.
    Heartbeats,
    /// Producers publish events.
    Events,
    /// The stream delivers them, and heartbeats, to their owners.
    Deliveries,
}

impl TrafficKind {
    /// All of them, in the order of the report.
    pub(crate) const ALL: [Self; 10] = [
        Self::Batches,
        Self::InterestBeats,
        Self::Interest,
        Self::MembershipBeats,
        Self::Announcements,
        Self::Renewals,
        Self::LeaseReads,
        Self::Heartbeats,
        Self::Events,
        Self::Deliveries,
    ];

    /// What a message is, by its subject and the subject that it asks to be answered at. None of these are requests to
    /// JetStream for more, and all answers.
    pub(crate) fn of(subject: &str, reply: Option<&str>) -> Option<Self> {
        // What a consumer delivers keeps the subject that it is stored under.
        if reply.is_some_and(|reply| reply.starts_with("$JS.ACK.")) {
            return Some(Self::Deliveries);
        }
        let in_bucket = |prefix: &str| {
            let bucket = subject.strip_prefix(prefix)?.split('.').next()?;
            [names::LEASES_BUCKET, names::VIEW_BUCKET].contains(&bucket).then_some(())
        };
        match subject {
            names::VIEW => Some(Self::Announcements),
            _ if names::is_interest_beat(subject) => Some(Self::InterestBeats),
            _ if names::is_interest(subject) => Some(Self::Interest),
            _ if names::parse_gateway(subject).is_some() => Some(Self::Batches),
            _ if names::parse_beat(subject).is_some() => Some(Self::MembershipBeats),
            _ if in_bucket("$KV.").is_some() => Some(Self::Renewals),
            _ if in_bucket("$JS.API.STREAM.MSG.GET.KV_").is_some() => Some(Self::LeaseReads),
            _ => match names::parse_stored(subject) {
                names::StoredSubject::Heartbeat { .. } => Some(Self::Heartbeats),
                _ => subject.starts_with("events.").then_some(Self::Events),
            },
        }
    }

    /// For people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Batches => "batches, router to gateway",
            Self::InterestBeats => "beats of interest, to all routers",
            Self::Interest => "interest deltas, to all routers",
            Self::MembershipBeats => "beats of membership, to all routers",
            Self::Announcements => "announcements of the view, to all",
            Self::Renewals => "renewals of leases",
            Self::LeaseReads => "reads of the leases of others",
            Self::Heartbeats => "partition heartbeats",
            Self::Events => "events published",
            Self::Deliveries => "events and partition heartbeats, to their owners",
        }
    }
}

impl ClusterLoad {
    /// How many messages of a kind are published in a second.
    pub(crate) fn published(&self, kind: TrafficKind) -> f64 {
        let (gateways, routers) = (f64::from(self.gateways), f64::from(self.routers));
        // One lease more than partitions: that on what the partition transform did not recognise.
        let leases = f64::from(self.partitions) + 1.0;
        let heartbeats = f64::from(self.partitions) / self.heartbeat_interval;
        match kind {
            TrafficKind::Batches => gateways * routers * (self.batches() + 1.0 / self.checkpoint_interval),
            TrafficKind::InterestBeats => gateways / self.beat_interval,
            TrafficKind::Interest => 0.0,
            TrafficKind::MembershipBeats => (gateways + routers) / self.beat_interval,
            TrafficKind::Announcements => 1.0 / self.round_interval,
            TrafficKind::Renewals => leases / self.checkpoint_interval + 1.0 / self.round_interval,
            // Each lease is read twice a second by all but its owner.
            TrafficKind::LeaseReads => (routers - 1.0) * (2.0 * leases + 1.0 / self.round_interval),
            TrafficKind::Heartbeats => heartbeats,
            TrafficKind::Events => self.rate,
            TrafficKind::Deliveries => self.rate + heartbeats,
        }
    }

    /// How many nodes receive each of these; none where they go to the stream alone.
    pub(crate) fn receivers(&self, kind: TrafficKind) -> u32 {
        match kind {
            TrafficKind::Batches | TrafficKind::Deliveries => 1,
            TrafficKind::InterestBeats | TrafficKind::Interest | TrafficKind::MembershipBeats => self.routers,
            TrafficKind::Announcements => self.gateways + self.routers,
            TrafficKind::Renewals | TrafficKind::LeaseReads | TrafficKind::Heartbeats | TrafficKind::Events => 0,
        }
    }

    /// How many messages NATS moves for one of these: itself if it comes from a node, each of its copies that go out,
    /// and the answer to a write or a request.
    pub(crate) fn moves(&self, kind: TrafficKind) -> u32 {
        match kind {
            TrafficKind::Renewals | TrafficKind::LeaseReads | TrafficKind::Events => 2,
            TrafficKind::Deliveries => 1,
            _ => 1 + self.receivers(kind),
        }
    }

    /// How many messages NATS moves in a second.
    pub(crate) fn moved(&self) -> f64 {
        TrafficKind::ALL.iter().map(|kind| self.published(*kind) * f64::from(self.moves(*kind))).sum()
    }

    /// For how long a router gathers, once it has sent something to a gateway: longer when it has many gateways.
    pub(crate) fn window(&self) -> f64 {
        let fair = f64::from(self.gateways) / self.batch_rate;
        self.flush_window.max(fair.min(LONGEST_WINDOW.as_secs_f64()))
    }

    /// The batches of one router to one gateway in a second, beside checkpoints.
    fn batches(&self) -> f64 {
        let matching = self.rate * self.interest / f64::from(self.routers);
        let critical = matching * self.critical;
        if matching <= 0.0 {
            return 0.0;
        }
        let window = self.window();
        let within = if critical > 0.0 { -(-critical * window).exp_m1() / critical } else { window };
        1.0 / (within + (-matching * window).exp() / matching)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster() -> ClusterLoad {
        ClusterLoad {
            gateways: 4,
            routers: 4,
            partitions: 32,
            rate: 1_000.0,
            interest: 0.5,
            critical: 0.2,
            flush_window: 0.002,
            batch_rate: 10_000.0,
            checkpoint_interval: 1.0,
            beat_interval: 1.0,
            round_interval: 0.5,
            heartbeat_interval: 5.0,
        }
    }

    #[test]
    fn a_quiet_cluster_sends_checkpoints_alone() {
        let quiet = ClusterLoad { rate: 0.0, ..cluster() };
        assert_eq!(quiet.published(TrafficKind::Batches), 16.0);
        assert_eq!(quiet.published(TrafficKind::Deliveries), 6.4);
    }

    #[test]
    fn few_events_are_sent_alone_many_share_a_batch_and_critical_ones_do_not_wait() {
        let pair = ClusterLoad { gateways: 1, routers: 1, interest: 1.0, critical: 0.0, ..cluster() };
        let batches = |rate, critical| ClusterLoad { rate, critical, ..pair }.published(TrafficKind::Batches) - 1.0;
        assert!((batches(1.0, 0.0) - 1.0).abs() < 0.01);
        assert!((batches(100_000.0, 0.0) - 500.0).abs() < 1.0);
        assert!((batches(1_000.0, 1.0) - 1_000.0).abs() < 0.01);
        // In between it is what a simulation of the rule gives.
        for critical in [0.0, 0.2] {
            let (expected, seen) = (batches(1_000.0, critical), simulated(1_000.0, critical, pair.flush_window));
            assert!((expected / seen - 1.0).abs() < 0.02, "{expected} {seen}");
        }
    }

    /// Batches a second, over a million events at random.
    fn simulated(rate: f64, critical: f64, window: f64) -> f64 {
        use rand::{Rng, SeedableRng};
        let mut random = rand::rngs::SmallRng::seed_from_u64(7);
        let (mut now, mut left, mut waits, mut batches) = (0.0_f64, f64::NEG_INFINITY, false, 0.0);
        for _ in 0..1_000_000 {
            now += -random.random_range(f64::MIN_POSITIVE..1.0).ln() / rate;
            if waits && now >= left + window {
                (left, batches) = (left + window, batches + 1.0);
            }
            if now >= left + window || random.random_bool(critical) {
                (left, waits, batches) = (now, false, batches + 1.0);
            } else {
                waits = true;
            }
        }
        batches / now
    }

    #[test]
    fn router_with_many_gateways_keeps_to_its_batch_rate() {
        let crowd = ClusterLoad { gateways: 200, routers: 20, rate: 1e6, critical: 0.0, ..cluster() };
        assert_eq!(crowd.window(), 0.02);
        assert!((crowd.published(TrafficKind::Batches) / 20.0 - 10_200.0).abs() < 10.0);
        assert_eq!(ClusterLoad { gateways: 5_000, ..crowd }.window(), 0.05);
    }

    #[test]
    fn subject_gives_the_kind_of_a_message() {
        let of = |subject: &str| TrafficKind::of(subject, None);
        assert_eq!(of(&names::gateway("g", "1a")), Some(TrafficKind::Batches));
        assert_eq!(of(&names::beat("router", "r1")), Some(TrafficKind::MembershipBeats));
        assert_eq!(of(&names::heartbeat(3)), Some(TrafficKind::Heartbeats));
        assert_eq!(of(&names::source("pattern", "AAPL")), Some(TrafficKind::Events));
        assert_eq!(of("$KV.TICKWIRE_LEASES.p.3"), Some(TrafficKind::Renewals));
        assert_eq!(of("$JS.API.STREAM.MSG.GET.KV_TICKWIRE_LEASES"), Some(TrafficKind::LeaseReads));
        assert_eq!(of("$JS.API.STREAM.INFO.EVENTS"), None);
        assert_eq!(of("_INBOX_router.x"), None);
        assert_eq!(
            TrafficKind::of(&names::heartbeat(3), Some("$JS.ACK.EVENTS.c.1.2.3.4.0")),
            Some(TrafficKind::Deliveries)
        );
    }
}
