//! What the events of a bench are about: the class of each follows from its number.

use clap::ValueEnum;
use serde::Serialize;
use serde_json::json;
use std::sync::LazyLock;
use tickwire_core::event::decode::{RawMessage, decode};
use tickwire_core::event::{Event, Kinds, Timestamp};
use tickwire_core::ids::Seq;

use super::scenario::Scenario;

/// How many symbols there are.
pub(crate) const SYMBOLS: u32 = 500;

/// Confidences are uniform over 0.50 to 0.99. Where windows are to be measured they end below 0.90, since from there on
/// an event is critical and waits for none. All in hundredths.
const LEAST: u32 = 50;
const MOST: u32 = 99;
const CRITICAL: u32 = 90;

/// For each symbol, the share of the events that have it or one before it, by Zipf 1.0.
static ZIPF: LazyLock<Vec<f64>> = LazyLock::new(|| {
    let shares = (1..=SYMBOLS).scan(0.0, |sum, rank| {
        *sum += 1.0 / f64::from(rank);
        Some(*sum)
    });
    let shares: Vec<f64> = shares.collect();
    let whole = shares.last().copied().unwrap_or(1.0);
    shares.into_iter().map(|share| share / whole).collect()
});

/// How often events have each symbol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SymbolsBy {
    /// All symbols equally often
    Uniform,
    /// By Zipf 1.0: the second symbol half as often as the first, the third a third as often
    Zipf,
}

/// Which events a scenario has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Draw {
    pub(crate) scenario: Scenario,
    pub(crate) symbols_by: SymbolsBy,
}

/// What an event is about. Events of one class concern the same sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Class {
    symbol: u32,
    hundredths: u32,
}

impl Draw {
    /// What an event is about.
    pub(crate) fn class(self, number: u64) -> Class {
        let bits = mix(number);
        let most = match self.scenario {
            Scenario::Broadcast | Scenario::Slow => CRITICAL - 1,
            Scenario::Idle | Scenario::Selective | Scenario::Burst | Scenario::Churn => MOST,
        };
        let confidences = most - LEAST + 1;
        let symbol = match self.symbols_by {
            SymbolsBy::Uniform => (bits as u32) % SYMBOLS,
            SymbolsBy::Zipf => by_zipf(bits as u32),
        };
        Class { symbol, hundredths: LEAST + ((bits >> 32) as u32) % confidences }
    }
}

/// The symbol whose share of all numbers has this one.
fn by_zipf(bits: u32) -> u32 {
    let place = f64::from(bits) / (f64::from(u32::MAX) + 1.0);
    (ZIPF.partition_point(|share| *share <= place) as u32).min(SYMBOLS - 1)
}

impl Class {
    /// Whether its events are critical.
    pub(crate) fn is_critical(self) -> bool {
        self.hundredths >= CRITICAL
    }

    /// The symbol.
    pub(crate) fn symbol(self) -> String {
        symbol(self.symbol)
    }

    /// What a producer publishes of an event of this class, the number in its `id`.
    pub(crate) fn payload(self, number: u64, at: Timestamp) -> Vec<u8> {
        let pattern = ["BreakoutBO", "DoubleBottom", "BullFlag", "Hammer", "Doji"][self.symbol as usize % 5];
        let tier = ["daily", "intraday", "combo"][self.symbol as usize % 3];
        let price = f64::from(self.symbol) + 17.25;
        let payload = json!({
            "pattern": pattern,
            "symbol": self.symbol(),
            "tier": tier,
            "confidence": f64::from(self.hundredths) / 100.0,
            "timestamp": at.0,
            "id": number.to_string(),
            "source": "bench",
            "price": price,
            "target": price * 1.08,
            "stop": price * 0.97,
            "volume": 100_000 + u64::from(self.symbol) * 1_000,
        });
        payload.to_string().into_bytes()
    }

    /// The event that a router makes of it.
    pub(crate) fn event(self, number: u64, seq: Seq, at: Timestamp) -> Result<Event, String> {
        let raw = RawMessage {
            kind_token: "pattern",
            key_token: &self.symbol(),
            content_type: None,
            msg_id: None,
            payload: &self.payload(number, at),
            stream: "BENCH",
            seq,
            stored: at,
        };
        decode(&raw, &Kinds::default()).map_err(|refusal| refusal.detail)
    }
}

/// Spreads numbers evenly over all 64 bits: the finaliser of SplitMix64 (Steele, Lea, Flood, 2014).
pub(crate) fn mix(number: u64) -> u64 {
    let mut bits = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// The name of a symbol.
pub(crate) fn symbol(number: u32) -> String {
    format!("S{number:03}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickwire_core::event::Priority;

    #[test]
    fn a_fifth_of_the_events_is_critical_except_in_broadcast() {
        let of = |scenario| Draw { scenario, symbols_by: SymbolsBy::Uniform };
        let critical = |draw: Draw| (0..10_000).filter(|number| draw.class(*number).is_critical()).count();
        let (selective, broadcast) = (of(Scenario::Selective), of(Scenario::Broadcast));
        assert!((1_900..2_100).contains(&critical(selective)), "{}", critical(selective));
        assert_eq!(critical(broadcast), 0);
        for number in 0..100 {
            let class = selective.class(number);
            let event = class.event(number, Seq(1), Timestamp(0)).unwrap();
            let critical = event.priority == Priority::Critical;
            assert_eq!((critical, event.id.as_str()), (class.is_critical(), number.to_string().as_str()));
        }
    }

    #[test]
    fn symbols_come_as_often_as_zipf_says() {
        let draw = Draw { scenario: Scenario::Selective, symbols_by: SymbolsBy::Zipf };
        let mut counts = vec![0_u32; SYMBOLS as usize];
        for number in 0..200_000 {
            counts[draw.class(number).symbol as usize] += 1;
        }
        // The first has one in 6.79, the sum of 1/1 to 1/500.
        for rank in [1, 2, 3, 10, 50] {
            let expected = 200_000.0 / 6.793 / f64::from(rank);
            let count = f64::from(counts[rank as usize - 1]);
            assert!((count / expected - 1.0).abs() < 0.15, "{rank}: {count} of {expected}");
        }
        assert!(counts.iter().all(|count| *count > 0));
    }
}
