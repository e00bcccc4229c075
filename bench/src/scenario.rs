//! What a bench does: how many sockets want what, and which events come when. Everything follows from the scenario and
//! a seed, so that the injector, the sockets and the oracle agree on every event by its number alone.

use clap::ValueEnum;
use serde::Serialize;
use serde_json::{Value, json};
use std::time::Duration;
use tickwire_core::event::Kinds;
use tickwire_core::filter::Filter;

use super::draw::{Draw, SYMBOLS, SymbolsBy, mix, symbol};
use super::schedule::Schedule;

/// How many symbols a socket wants, where it does not want all.
const SYMBOLS_EACH: u32 = 5;

/// How long events come before anything is measured.
const WARM_UP: Duration = Duration::from_secs(2);

/// What `burst` multiplies its rate with, and for how long: the market opens.
const BURST: (f64, Duration) = (20.0, Duration::from_secs(2));

/// One in this number of readers of `slow` stalls.
const STALLS: u32 = 100;

/// A load, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Scenario {
    /// Sockets with one 5-symbol subscription each, and no events: memory and connect rate
    Idle,
    /// All sockets get all events
    Broadcast,
    /// 500 symbols, each socket 5 of them: the everyday one
    Selective,
    /// Selective, and for 2 s twenty times the rate: the market opens
    Burst,
    /// Broadcast, and halfway through 1 % of the readers stall
    Slow,
    /// Selective, with 200 more clients a second coming and going
    Churn,
}

/// The numbers of a run. The scenario has defaults for those that the command line does not set.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Numbers {
    pub(crate) sockets: Option<u32>,
    pub(crate) rate: Option<f64>,
    pub(crate) seconds: Option<u32>,
    pub(crate) window_ms: u16,
    /// Events come in batches, at this interval.
    pub(crate) batch: Duration,
    /// How many gateways share the sockets.
    pub(crate) gateways: u32,
    pub(crate) placing: Placing,
    pub(crate) symbols_by: SymbolsBy,
    pub(crate) enrich: bool,
}

/// Which sockets are at the same gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Placing {
    /// Every gateway has sockets for all symbols, as behind a load balancer that knows nothing of them
    Spread,
    /// Every gateway has the sockets for its share of the symbols, as behind one that keeps desks or sectors together
    Grouped,
}

/// A scenario with its numbers.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) scenario: Scenario,
    pub(crate) sockets: u32,
    /// Events a second, beside a burst.
    pub(crate) rate: f64,
    /// How long is measured.
    pub(crate) measured: Duration,
    pub(crate) window_ms: u16,
    pub(crate) gateways: u32,
    pub(crate) placing: Placing,
    /// What the events are about.
    pub(crate) draw: Draw,
    /// Whether routers have reference data of all symbols.
    pub(crate) enrich: bool,
    pub(crate) schedule: Schedule,
    /// The first event that is measured.
    pub(crate) measure_from: u64,
    /// The first event that comes after the readers of `slow` stall; of other scenarios the first that is measured.
    pub(crate) split: u64,
}

impl Plan {
    /// The scenario with these numbers.
    pub(crate) fn new(scenario: Scenario, numbers: Numbers) -> Self {
        let (sockets, rate, seconds) = scenario.defaults();
        let sockets = numbers.sockets.unwrap_or(sockets);
        let rate = if scenario == Scenario::Idle { 0.0 } else { numbers.rate.unwrap_or(rate) };
        let measured = Duration::from_secs(numbers.seconds.unwrap_or(seconds).into());
        let warm_up = if scenario == Scenario::Idle { Duration::ZERO } else { WARM_UP };
        let parts = match scenario {
            Scenario::Burst => {
                let (times, length) = BURST;
                let before = measured.saturating_sub(length) / 2;
                let after = measured.saturating_sub(length + before);
                vec![(warm_up + before, rate), (length.min(measured), rate * times), (after, rate)]
            }
            _ => vec![(warm_up + measured, rate)],
        };
        let schedule = Schedule::new(&parts, numbers.batch);
        let measure_from = schedule.first_at(warm_up);
        let split = match scenario {
            Scenario::Slow => schedule.first_at(warm_up + measured / 2),
            _ => measure_from,
        };
        let Numbers { window_ms, gateways, placing, symbols_by, enrich, .. } = numbers;
        let draw = Draw { scenario, symbols_by };
        Self {
            scenario,
            sockets,
            rate,
            measured,
            window_ms,
            gateways,
            placing,
            draw,
            enrich,
            schedule,
            measure_from,
            split,
        }
    }

    /// When the measuring begins, from the first event on.
    pub(crate) fn warm_up(&self) -> Duration {
        if self.scenario == Scenario::Idle { Duration::ZERO } else { WARM_UP }
    }

    /// When readers stall, from the first event on; `None` if none do.
    pub(crate) fn stall_at(&self) -> Option<Duration> {
        (self.scenario == Scenario::Slow).then(|| WARM_UP + self.measured / 2)
    }

    /// Whether this socket is one of those that stall.
    pub(crate) fn stalls(&self, socket: u32) -> bool {
        self.scenario == Scenario::Slow && socket.is_multiple_of(STALLS)
    }

    /// How many clients come and go a second.
    pub(crate) fn churn(&self) -> u32 {
        if self.scenario == Scenario::Churn { 200 } else { 0 }
    }

    /// What a socket subscribes to, as a client writes it. Every condition has to be evaluated for every event.
    pub(crate) fn filter(&self, socket: u32) -> Value {
        match self.scenario {
            Scenario::Broadcast | Scenario::Slow => json!({ "min_confidence": 0.5 }),
            Scenario::Idle | Scenario::Selective | Scenario::Burst | Scenario::Churn => {
                let symbols: Vec<String> = self.symbols_of(socket).into_iter().map(symbol).collect();
                json!({ "symbols": symbols, "min_confidence": 0.5 })
            }
        }
    }

    /// Which gateway a socket connects to.
    pub(crate) fn gateway_of(&self, socket: u32) -> usize {
        (socket % self.gateways) as usize
    }

    /// Five different symbols, of all or of the share of its gateway.
    fn symbols_of(&self, socket: u32) -> Vec<u32> {
        let (shares, share) = match self.placing {
            Placing::Spread => (1, 0),
            Placing::Grouped => (self.gateways, socket % self.gateways),
        };
        let mut symbols: Vec<u32> = Vec::new();
        let draw = |draw: u64| (mix(u64::from(socket) << 32 | draw) % u64::from(SYMBOLS / shares)) as u32;
        let mut draws = (0..).map(|number| draw(number) * shares + share);
        while symbols.len() < SYMBOLS_EACH as usize {
            symbols.extend(draws.next().filter(|drawn| !symbols.contains(drawn)));
        }
        symbols
    }

    /// The same, as the gateway reads it.
    pub(crate) fn parsed_filter(&self, socket: u32) -> Result<Filter, String> {
        Filter::parse(&self.filter(socket), &Kinds::default()).map_err(|error| error.to_string())
    }
}

impl Scenario {
    /// Sockets, events a second, and seconds to measure.
    fn defaults(self) -> (u32, f64, u32) {
        match self {
            Self::Idle => (19_000, 0.0, 5),
            Self::Broadcast => (1_000, 100.0, 10),
            Self::Selective => (5_000, 2_000.0, 10),
            Self::Burst => (5_000, 200.0, 12),
            Self::Slow => (500, 500.0, 40),
            Self::Churn => (1_000, 2_000.0, 10),
        }
    }

    /// Its name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Broadcast => "broadcast",
            Self::Selective => "selective",
            Self::Burst => "burst",
            Self::Slow => "slow",
            Self::Churn => "churn",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickwire_core::event::{Event, Timestamp};
    use tickwire_core::ids::Seq;

    fn plan(scenario: Scenario) -> Plan {
        let batch = Duration::from_millis(2);
        Plan::new(scenario, Numbers { seconds: Some(10), batch, ..Numbers::small(200, 1_000.0) })
    }

    impl Numbers {
        /// One gateway, one second, no window and no batches.
        pub(crate) fn small(sockets: u32, rate: f64) -> Self {
            Self {
                sockets: Some(sockets),
                rate: Some(rate),
                seconds: Some(1),
                window_ms: 0,
                batch: Duration::ZERO,
                gateways: 1,
                placing: Placing::Spread,
                symbols_by: SymbolsBy::Uniform,
                enrich: false,
            }
        }
    }

    #[test]
    fn sockets_that_are_grouped_want_symbols_of_their_gateway_alone() {
        let numbers = Numbers { gateways: 4, placing: Placing::Grouped, ..Numbers::small(200, 1.0) };
        let plan = Plan::new(Scenario::Selective, numbers);
        for socket in 0..plan.sockets {
            let symbols = plan.symbols_of(socket);
            assert_eq!(symbols.iter().collect::<std::collections::BTreeSet<_>>().len(), 5, "{symbols:?}");
            let own = |symbol: &u32| *symbol < SYMBOLS && *symbol as usize % 4 == plan.gateway_of(socket);
            assert!(symbols.iter().all(own), "socket {socket}: {symbols:?}");
        }
    }

    #[test]
    fn sockets_want_five_symbols_and_get_a_hundredth_of_all_events() {
        let plan = plan(Scenario::Selective);
        let filters: Vec<Filter> = (0..plan.sockets).map(|socket| plan.parsed_filter(socket).unwrap()).collect();
        assert!(filters.iter().all(|filter| filter.symbols.as_ref().unwrap().len() == 5));
        let events: Vec<Event> =
            (0..500).map(|number| plan.draw.class(number).event(number, Seq(1), Timestamp(0)).unwrap()).collect();
        let matches = filters.iter().map(|filter| events.iter().filter(|event| filter.matches(event)).count());
        let matches: usize = matches.sum();
        assert!((900..1_100).contains(&matches), "{matches} of {} pairs", 200 * 500);
    }

    #[test]
    fn a_burst_is_twenty_times_the_rate_for_two_seconds() {
        let plan = plan(Scenario::Burst);
        assert_eq!(plan.schedule.total(), 1_000 * (2 + 8) + 20_000 * 2);
        assert_eq!((plan.measure_from, plan.split), (plan.split, plan.schedule.first_at(WARM_UP)));
    }

    #[test]
    fn readers_stall_halfway_through() {
        let plan = plan(Scenario::Slow);
        assert_eq!(plan.stall_at(), Some(Duration::from_secs(7)));
        assert_eq!((0..200).filter(|socket| plan.stalls(*socket)).count(), 2);
        assert_eq!(plan.split - plan.measure_from, 5_000);
    }
}
