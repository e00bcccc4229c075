//! The walk over the files: it turns bars in time order into events.
//!
//! [`Tape::feed`] begins a walk. Every walk starts with new detectors, so all walks yield the same steps; the caller
//! repeats them. A payload lacks only its `timestamp`, which the publisher adds, so that nothing here depends on a
//! clock.
//!
//! One-minute detectors are reset every trading day: the night between two days is not a move of one minute.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::bars::{Bar, BarTime, Row};
use crate::combo::Agreement;
use crate::detect::{DETECTORS, Detector, Finding, Inputs, Pattern, round};
use crate::market::Market;
use crate::tape::{File, Tape};

/// The key of `market` events.
const MARKET_KEY: &str = "US";

/// The kind of an event of the feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FeedKind {
    /// A pattern found in the prices of a symbol.
    Pattern,
    /// The state of the whole market.
    Market,
}

impl FeedKind {
    /// The name in a subject.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pattern => "pattern",
            Self::Market => "market",
        }
    }
}

/// One event to publish to `events.<kind>.<key>`, with the key encoded for subjects.
#[derive(Debug, Clone, PartialEq)]
pub struct FeedEvent {
    /// Its kind.
    pub kind: FeedKind,
    /// The symbol, or `US` for the market.
    pub key: String,
    /// A unique id within a walk, the same in every walk: `AAPL:BreakoutBO:2010-02-03`, `US:market:2010-10-18`.
    pub id: String,
    /// The payload without the `timestamp`.
    pub payload: Map<String, Value>,
}

/// One instant of one file.
#[derive(Debug, Clone, PartialEq)]
pub struct FeedStep {
    /// The file.
    pub file: File,
    /// The instant; steps never go back in time.
    pub bar_time: BarTime,
    /// The number of the file's bars at it.
    pub bars: usize,
    /// The events of these bars: symbols in the order of the file, then the market.
    pub events: Vec<FeedEvent>,
}

/// One walk over a [`Tape`].
#[derive(Debug)]
pub struct Feed<'a> {
    tape: &'a Tape,
    next: usize,
    symbols: BTreeMap<(File, &'a str), FeedWatch>,
    market: Market,
}

impl Tape {
    /// Walks all bars once, with new detectors.
    pub fn feed(&self) -> Feed<'_> {
        Feed { tape: self, next: 0, symbols: BTreeMap::new(), market: Market::default() }
    }
}

impl Iterator for Feed<'_> {
    type Item = FeedStep;

    fn next(&mut self) -> Option<FeedStep> {
        let tape = self.tape;
        let instant = tape.instants.get(self.next)?;
        self.next += 1;
        let inputs = *tape.inputs.get(&instant.file)?;
        let mut events = Vec::new();
        for row in &instant.rows {
            let watch = self.symbols.entry((instant.file, &row.symbol)).or_insert_with(|| FeedWatch::new(inputs));
            watch.bar(instant.file, row, &mut events);
        }
        if !inputs.minutes
            && let Some(mut payload) = self.market.day(&instant.rows)
        {
            payload.insert("source".to_owned(), json!("feed"));
            payload.insert("bar_time".to_owned(), json!(instant.time.to_string()));
            let id = format!("{MARKET_KEY}:market:{}", instant.time);
            events.push(FeedEvent { kind: FeedKind::Market, key: MARKET_KEY.to_owned(), id, payload });
        }
        Some(FeedStep { file: instant.file, bar_time: instant.time, bars: instant.rows.len(), events })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.tape.len() - self.next;
        (left, Some(left))
    }
}

impl ExactSizeIterator for Feed<'_> {}

/// The detectors of one symbol of one file, and its bars.
#[derive(Debug)]
struct FeedWatch {
    detectors: Vec<Detector>,
    minutes: bool,
    bars: Vec<Bar>,
    last: Option<BarTime>,
    agreement: Agreement,
}

impl FeedWatch {
    fn new(inputs: Inputs) -> Self {
        let detectors = DETECTORS.into_iter().filter(|detector| detector.runs_on(inputs)).collect();
        Self { detectors, minutes: inputs.minutes, bars: Vec::new(), last: None, agreement: Agreement::default() }
    }

    fn bar(&mut self, file: File, row: &Row, events: &mut Vec<FeedEvent>) {
        if self.minutes && self.last.is_some_and(|last| last.date() != row.time.date()) {
            self.bars.clear();
            self.agreement = Agreement::default();
        }
        self.last = Some(row.time);
        self.bars.push(row.bar);
        for detector in &self.detectors {
            if let Some(mut finding) = detector.find(&self.bars) {
                let partner = self.agreement.partner(self.bars.len(), detector.pattern, &mut finding);
                events.push(pattern_event(file, row, detector.pattern, &finding, partner));
            }
        }
    }
}

fn pattern_event(file: File, row: &Row, pattern: Pattern, finding: &Finding, partner: Option<Pattern>) -> FeedEvent {
    let tier = if partner.is_some() { "combo" } else { file.as_str() };
    let mut payload = Map::from_iter([
        ("pattern".to_owned(), json!(pattern.to_string())),
        ("symbol".to_owned(), json!(row.symbol)),
        ("tier".to_owned(), json!(tier)),
        ("confidence".to_owned(), json!(finding.confidence)),
        ("source".to_owned(), json!("feed")),
        ("bar_time".to_owned(), json!(row.time.to_string())),
        ("direction".to_owned(), json!(finding.direction.as_str())),
    ]);
    if let Some(partner) = partner {
        payload.insert("agrees_with".to_owned(), json!(partner.to_string()));
    }
    payload.extend(finding.figures.iter().map(|&(name, value)| (name.to_owned(), json!(round(value)))));
    let id = format!("{}:{pattern}:{}", row.symbol, row.time);
    FeedEvent { kind: FeedKind::Pattern, key: row.symbol.clone(), id, payload }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::parse;

    fn minutes(day: &str, closes: impl Iterator<Item = f64>) -> String {
        closes
            .zip(30..)
            .map(|(close, minute)| {
                format!("{day}T09:{minute}:00,SPX,{close},{},{},{close},0\n", close + 1.0, close - 1.0)
            })
            .collect()
    }

    fn tape_of(days: &[String]) -> Tape {
        let text = format!("time_new_york,symbol,open,high,low,close,volume\n{}", days.concat());
        Tape::of(vec![(File::Intraday, parse("intraday.csv", &text).unwrap())])
    }

    /// 29 minutes at 100, except one at 102 that makes a level.
    fn flat() -> impl Iterator<Item = f64> {
        (0..29).map(|minute| if minute == 15 { 102.0 } else { 100.0 })
    }

    /// All findings except dojis: every bar here with open equal to close is a doji.
    fn events(tape: &Tape) -> Vec<FeedEvent> {
        let events = tape.feed().flat_map(|step| step.events);
        events.filter(|event| event.payload["pattern"] != "Doji").collect()
    }

    #[test]
    fn change_over_night_is_not_a_one_minute_move() {
        let jump = std::iter::once(150.0);
        let apart = tape_of(&[minutes("2019-11-05", flat()), minutes("2019-11-06", jump.clone())]);
        assert_eq!(events(&apart), []);
        let together = tape_of(&[minutes("2019-11-05", flat().chain(jump))]);
        assert_eq!(events(&together).len(), 2);
    }

    #[test]
    fn combo_names_its_partner() {
        let jump = [minutes("2019-11-05", flat().chain(std::iter::once(150.0)))];
        let [alone, combo] = &events(&tape_of(&jump))[..] else { panic!("not two events") };
        assert_eq!(alone.id, "SPX:ResistanceBreak:2019-11-05T09:59:00-05:00");
        assert_eq!(alone.payload["tier"], "intraday");
        assert_eq!(alone.payload.get("agrees_with"), None);
        assert_eq!(combo.id, "SPX:MomentumSurge:2019-11-05T09:59:00-05:00");
        assert_eq!(combo.payload["tier"], "combo");
        assert_eq!(combo.payload["agrees_with"], "ResistanceBreak");
    }
}
