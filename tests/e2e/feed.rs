//! Random events and filters from a seed: every kind, and every form of every field, so that each filter matches some
//! events and not others.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Map, Value, json};
use std::ops::Range;

use crate::producer::ProducerMessage;

/// The symbols of the events.
pub(crate) const SYMBOLS: [&str; 8] = ["AAPL", "NVDA", "BRK.B", "^GSPC", "SPY", "ORCL", "GOOG", "YHOO"];

/// The users who get alerts and backtests.
pub(crate) const USERS: [&str; 6] = ["ann", "bob@x.com", "carl", "dora", "eve", "frank the 1st"];

const PATTERNS: [&str; 5] = ["BreakoutBO", "Hammer", "Doji", "TrendReversal", "SurgeDetection"];
const TIERS: [&str; 3] = ["daily", "intraday", "combo"];
const PRIORITIES: [&str; 4] = ["low", "medium", "high", "critical"];
const REGIMES: [&str; 4] = ["bull", "bear", "neutral", "consolidation"];
const TAGS: [&str; 4] = ["earnings", "gap up", "high_confidence", "multi_timeframe"];
const ROOMS: [&str; 3] = ["desk 1", "vip", "取引"];
const KINDS: [&str; 5] = ["pattern", "market", "health", "alert", "backtest"];

/// A generator of events and filters. The same seed gives the same ones.
#[derive(Debug)]
pub(crate) struct RunningFeed {
    rng: StdRng,
    count: u64,
}

impl RunningFeed {
    pub(crate) fn new(seed: u64) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), count: 0 }
    }

    /// The next event, in JSON or, every fourth, in MessagePack.
    pub(crate) fn event(&mut self) -> ProducerMessage {
        self.count += 1;
        let kind = match self.rng.random_range(0..10) {
            0..6 => "pattern",
            6 => "market",
            7 => "health",
            8 => "alert",
            _ => "backtest",
        };
        let (key, mut event) = match kind {
            "pattern" => self.pattern(),
            "market" => self.market(),
            "health" => self.health(),
            "alert" => self.alert(),
            _ => (self.pick(&USERS), json!({ "result": self.rng.random::<f64>(), "trades": [1, -2, { "n": 3 }] })),
        };
        self.common(&mut event);
        let outgoing = match self.count % 4 {
            0 => ProducerMessage::msgpack(kind, key, &event),
            _ => ProducerMessage::json(kind, key, &event),
        };
        match self.count % 3 {
            0 => outgoing.id(format!("msg-{}", self.count)),
            _ => outgoing,
        }
    }

    /// A filter that some events pass.
    pub(crate) fn filter(&mut self) -> Value {
        let mut filter = Map::new();
        let mut list = |name: &str, chance: f64, values: &[&'static str], most: usize| {
            if self.rng.random_bool(chance) {
                let count = self.rng.random_range(1..=most);
                let chosen: Vec<_> = values.choose_multiple(&mut self.rng, count).collect();
                filter.insert(name.to_owned(), json!(chosen));
            }
        };
        list("kinds", 0.6, &KINDS, 5);
        list("symbols", 0.4, &SYMBOLS, 4);
        list("patterns", 0.25, &PATTERNS, 3);
        list("tiers", 0.25, &TIERS, 2);
        list("regimes", 0.1, &REGIMES, 2);
        list("tags", 0.2, &TAGS, 2);
        list("rooms", 0.15, &ROOMS, 2);
        if self.rng.random_bool(0.25) {
            filter.insert("min_confidence".to_owned(), json!(self.hundredths()));
        }
        if self.rng.random_bool(0.2) {
            filter.insert("min_priority".to_owned(), json!(self.pick(&PRIORITIES)));
        }
        if self.rng.random_bool(0.2) {
            filter.insert("market_hours_only".to_owned(), json!(true));
        }
        if self.rng.random_bool(0.2) {
            let conditions = [
                json!({ "price": { "min": 50, "max": 101.5 }, "source": { "ne": "feed" } }),
                json!({ "volume": { "in": [7, "7"] } }),
                json!({ "etf_performance.XLK": { "min": 0.25 } }),
                json!({ "trades": { "contains": -2.0 }, "result": { "max": 0.75 } }),
                json!({ "summary": { "prefix": "The market", "contains": "bullish" } }),
            ];
            filter.insert("data".to_owned(), conditions.choose(&mut self.rng).cloned().unwrap());
        }
        Value::Object(filter)
    }

    fn pattern(&mut self) -> (&'static str, Value) {
        let symbol = self.pick(&SYMBOLS);
        let name = if self.rng.random_bool(0.8) { "pattern" } else { "pattern_type" };
        let mut event = json!({ name: self.pick(&PATTERNS), "source": "TickStockPL", "price": 101.25, "volume": 7 });
        if self.rng.random_bool(0.5) {
            event["symbol"] = json!(symbol);
        }
        (symbol, event)
    }

    fn market(&mut self) -> (&'static str, Value) {
        let event = json!({
            "regime": self.pick(&REGIMES),
            "regime_confidence": self.hundredths(),
            "risk_on_score": 0.5 - self.hundredths(),
            "etf_performance": { "XLK": self.hundredths(), "XLE": -self.hundredths() },
        });
        (self.pick(&["US", "EU"]), event)
    }

    fn health(&mut self) -> (&'static str, Value) {
        let status = self.pick(&["healthy", "Warning", "ERROR"]);
        (self.pick(&["db", "feed-1"]), json!({ "status": status, "metrics": { "lag": self.hundredths() } }))
    }

    fn alert(&mut self) -> (&'static str, Value) {
        let about = json!({
            "pattern": self.pick(&PATTERNS),
            "symbol": self.pick(&SYMBOLS),
            "tier": self.pick(&TIERS),
            "confidence": self.hundredths(),
        });
        (self.pick(&USERS), json!({ "alert_id": self.count, "type": "match", "event": about }))
    }

    /// Adds fields that events of any kind may have.
    fn common(&mut self, event: &mut Value) {
        if self.rng.random_bool(0.7) {
            event["tier"] = json!(self.pick(&TIERS));
        }
        match self.rng.random_range(0..4) {
            0 => event["confidence"] = json!(self.hundredths().to_string()),
            1..3 => event["confidence"] = json!(self.hundredths()),
            _ => {}
        }
        if self.rng.random_bool(0.3) {
            event["priority"] = json!(self.pick(&PRIORITIES).to_uppercase());
        }
        if self.rng.random_bool(0.3) {
            event["tags"] = json!([self.pick(&TAGS), "ünïcode"]);
        }
        if self.rng.random_bool(0.3) {
            event["rooms"] = json!([self.pick(&ROOMS), self.pick(&ROOMS)]);
        }
        if self.rng.random_bool(0.3) {
            event["event_id"] = json!(format!("e-{}", self.count));
        }
        // A regular session, an evening, a Sunday, a day without a time, or now.
        match self.rng.random_range(0..5) {
            0 => event["timestamp"] = json!(1_757_514_600.12),
            1 => event["ts"] = json!("2025-09-10T18:30:00-04:00"),
            2 => event["timestamp"] = json!(1_757_861_400_250_u64),
            3 => event["timestamp"] = json!("2025-09-10"),
            _ => {}
        }
    }

    fn hundredths(&mut self) -> f64 {
        f64::from(self.rng.random_range(0..=100)) / 100.0
    }

    fn pick(&mut self, values: &[&'static str]) -> &'static str {
        values.choose(&mut self.rng).copied().unwrap()
    }
}

/// Patterns with these numbers, of all symbols in turn.
pub(crate) fn patterns(numbers: Range<usize>) -> Vec<ProducerMessage> {
    numbers.map(|number| pattern(SYMBOLS[number % SYMBOLS.len()], number)).collect()
}

/// The `number`th of a plain series of patterns on one symbol.
pub(crate) fn pattern(symbol: &str, number: usize) -> ProducerMessage {
    let event = json!({ "pattern": "BreakoutBO", "confidence": 0.5, "number": number });
    ProducerMessage::json("pattern", symbol, &event)
}

/// An alert to `user`.
pub(crate) fn alert(user: &str, number: usize) -> ProducerMessage {
    ProducerMessage::json("alert", user, &json!({ "alert_id": number, "type": "match", "symbol": "AAPL" }))
}

/// A backtest of `user`.
pub(crate) fn backtest(user: &str, number: usize) -> ProducerMessage {
    ProducerMessage::json("backtest", user, &json!({ "run": number, "symbol": "AAPL", "result": 0.25 }))
}
