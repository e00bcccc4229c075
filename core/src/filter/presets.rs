//! Named filters with fixed numbers: a client subscribes by the name, and adds its symbols.
//!
//! A preset becomes an ordinary [`Filter`], so nothing after the parsing of frames knows presets. The numbers are only
//! here; `docs/protocol.md` shows the same table, and a test compares the two.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde_json::Value;

use super::{Filter, FilterError, parse};
use crate::event::{Priority, Tier};
use crate::hint::{hint_with_list, quoted, type_of};
use crate::ids::{Confidence, Pattern, Symbol};

/// The name of a filter with fixed numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Preset {
    /// Patterns in daily bars.
    Daily,
    /// Patterns of high confidence in any tier.
    HighConfidence,
    /// The patterns that the client names.
    Specific,
    /// Quick moves within the trading day, for scalpers.
    IntradayScalping,
    /// Breaks and reversals that last for days.
    SwingTrading,
    /// Signs of unusual risk in any tier.
    RiskMonitoring,
}

/// The numbers of a preset. An empty list means any.
#[derive(Debug)]
struct PresetNumbers {
    patterns: &'static [&'static str],
    tiers: &'static [Tier],
    min_confidence: f64,
    min_priority: Priority,
    market_hours_only: bool,
    max_events_per_hour: Option<u32>,
}

impl Preset {
    /// Every preset, in the order of the documentation.
    pub const ALL: [Self; 6] = [
        Self::Daily,
        Self::HighConfidence,
        Self::Specific,
        Self::IntradayScalping,
        Self::SwingTrading,
        Self::RiskMonitoring,
    ];

    /// The name in frames.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Daily => "daily",
            Self::HighConfidence => "high_confidence",
            Self::Specific => "specific",
            Self::IntradayScalping => "intraday_scalping",
            Self::SwingTrading => "swing_trading",
            Self::RiskMonitoring => "risk_monitoring",
        }
    }

    /// Reads a name from a frame.
    ///
    /// # Errors
    /// [`PresetError::WrongType`] or [`PresetError::UnknownPreset`].
    pub fn read(value: &Value) -> Result<Self, PresetError> {
        match value {
            Value::String(name) => name.parse(),
            other => Err(PresetError::WrongType { found: type_of(other) }),
        }
    }

    /// The most events in any hour, unless the client asks for another number.
    #[must_use]
    pub fn max_events_per_hour(self) -> Option<u32> {
        self.numbers().max_events_per_hour
    }

    fn numbers(self) -> PresetNumbers {
        match self {
            Self::Daily => PresetNumbers {
                patterns: &[],
                tiers: &[Tier::Daily],
                min_confidence: 0.7,
                min_priority: Priority::Medium,
                market_hours_only: false,
                max_events_per_hour: None,
            },
            Self::HighConfidence => PresetNumbers {
                patterns: &[],
                tiers: &[],
                min_confidence: 0.8,
                min_priority: Priority::High,
                market_hours_only: false,
                max_events_per_hour: None,
            },
            Self::Specific => PresetNumbers {
                patterns: &[],
                tiers: &[],
                min_confidence: 0.6,
                min_priority: Priority::Medium,
                market_hours_only: false,
                max_events_per_hour: None,
            },
            Self::IntradayScalping => PresetNumbers {
                patterns: &["ScalpingBO", "MomentumSurge", "QuickReversal"],
                tiers: &[Tier::Intraday],
                min_confidence: 0.75,
                min_priority: Priority::High,
                market_hours_only: true,
                max_events_per_hour: Some(200),
            },
            Self::SwingTrading => PresetNumbers {
                patterns: &["BreakoutBO", "TrendReversal", "SupportBreak", "ResistanceBreak"],
                tiers: &[Tier::Daily, Tier::Combo],
                min_confidence: 0.7,
                min_priority: Priority::Medium,
                market_hours_only: false,
                max_events_per_hour: Some(25),
            },
            Self::RiskMonitoring => PresetNumbers {
                patterns: &["SurgeDetection", "VolatilitySpike", "LiquidityDrop"],
                tiers: &[],
                min_confidence: 0.6,
                min_priority: Priority::High,
                market_hours_only: false,
                max_events_per_hour: Some(100),
            },
        }
    }
}

impl FromStr for Preset {
    type Err = PresetError;

    /// Reads a name in any case.
    fn from_str(text: &str) -> Result<Self, PresetError> {
        let known = Self::ALL.into_iter().find(|preset| preset.as_str().eq_ignore_ascii_case(text));
        known.ok_or_else(|| {
            let hint = hint_with_list(text, Self::ALL.map(Self::as_str));
            PresetError::UnknownPreset { found: quoted(text), hint }
        })
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A preset as a client asks for it, with its symbols and patterns. It has patterns exactly if the preset is
/// [`Preset::Specific`], and no list is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PresetRequest {
    preset: Preset,
    symbols: Option<BTreeSet<Symbol>>,
    patterns: Option<BTreeSet<Pattern>>,
}

impl PresetRequest {
    /// Takes a preset with the lists of a frame, which are read like those of a filter: an absent list of symbols, or
    /// one with `*`, means any.
    ///
    /// # Errors
    /// [`PresetError`] if a list is wrong, if [`Preset::Specific`] has no patterns, or if another preset has some.
    pub fn new(preset: Preset, symbols: Option<&Value>, patterns: Option<&Value>) -> Result<Self, PresetError> {
        let patterns = match (preset, patterns) {
            (Preset::Specific, Some(list)) => parse::patterns("patterns".to_owned(), list)?,
            (_, Some(_)) => return Err(PresetError::FixedPatterns { preset }),
            (_, None) => None,
        };
        if preset == Preset::Specific && patterns.is_none() {
            return Err(PresetError::MissingPatterns);
        }
        let symbols = symbols.map(|list| parse::symbols("symbols".to_owned(), list)).transpose()?.flatten();
        Ok(Self { preset, symbols, patterns })
    }

    /// The preset.
    #[must_use]
    pub fn preset(&self) -> Preset {
        self.preset
    }

    /// The symbols; `None` means any.
    #[must_use]
    pub fn symbols(&self) -> Option<&BTreeSet<Symbol>> {
        self.symbols.as_ref()
    }

    /// The patterns of the client.
    #[must_use]
    pub fn patterns(&self) -> Option<&BTreeSet<Pattern>> {
        self.patterns.as_ref()
    }

    /// The filter that the preset stands for.
    #[must_use]
    pub fn filter(&self) -> Filter {
        let numbers = self.preset.numbers();
        let fixed = numbers.patterns.iter().map(|name| Pattern::new(name).expect("presets name valid patterns"));
        let fixed: BTreeSet<Pattern> = fixed.collect();
        Filter {
            symbols: self.symbols.clone(),
            patterns: self.patterns.clone().or((!fixed.is_empty()).then_some(fixed)),
            tiers: (!numbers.tiers.is_empty()).then(|| numbers.tiers.iter().copied().collect()),
            min_confidence: Confidence::new(numbers.min_confidence),
            min_priority: Some(numbers.min_priority),
            market_hours_only: numbers.market_hours_only,
            ..Filter::default()
        }
    }
}

/// Why a preset, or what is sent beside it, was refused. Each text begins with the field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PresetError {
    /// The name is not text.
    #[error("preset: expected text, found {found}")]
    WrongType {
        /// The type that was found.
        found: &'static str,
    },
    /// No preset has this name.
    #[error("preset: unknown {found}; {hint}")]
    UnknownPreset {
        /// The text in quotes, or its beginning if it is long.
        found: String,
        /// The nearest preset, and all.
        hint: String,
    },
    /// A filter was sent beside the preset.
    #[error("filter: the preset \"{preset}\" has a filter of its own; send `filter` or `preset`, not both")]
    WithFilter {
        /// The preset.
        preset: Preset,
    },
    /// A list was sent that belongs beside a preset, but there is none.
    #[error("{field}: allowed only beside `preset`; without a preset, write it within `filter`")]
    WithoutPreset {
        /// The list.
        field: &'static str,
    },
    /// [`Preset::Specific`] has no patterns. `*` counts as absent, as in a filter.
    #[error("patterns: missing; the preset \"specific\" needs a list of patterns, without \"*\"")]
    MissingPatterns,
    /// Patterns were sent beside a preset that has its own.
    #[error("patterns: the preset \"{preset}\" takes none; only \"specific\" does")]
    FixedPatterns {
        /// The preset.
        preset: Preset,
    },
    /// A list is wrong.
    #[error(transparent)]
    BadList(#[from] FilterError),
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::event::Kinds;
    use crate::filter::FilterProblem;

    fn filter_of(preset: Preset) -> Filter {
        let patterns = (preset == Preset::Specific).then(|| json!(["Doji"]));
        PresetRequest::new(preset, None, patterns.as_ref()).unwrap().filter()
    }

    #[test]
    fn each_preset_is_the_filter_with_its_documented_numbers() {
        let scalping = ["ScalpingBO", "MomentumSurge", "QuickReversal"];
        let swing = ["BreakoutBO", "TrendReversal", "SupportBreak", "ResistanceBreak"];
        let risk = ["SurgeDetection", "VolatilitySpike", "LiquidityDrop"];
        let table = [
            ("daily", json!({ "tiers": ["daily"], "min_confidence": 0.7, "min_priority": "medium" }), None),
            ("high_confidence", json!({ "min_confidence": 0.8, "min_priority": "high" }), None),
            ("specific", json!({ "patterns": ["Doji"], "min_confidence": 0.6, "min_priority": "medium" }), None),
            (
                "intraday_scalping",
                json!({
                    "patterns": scalping, "tiers": ["intraday"], "min_confidence": 0.75, "min_priority": "high",
                    "market_hours_only": true,
                }),
                Some(200),
            ),
            (
                "swing_trading",
                json!({
                    "patterns": swing, "tiers": ["daily", "combo"], "min_confidence": 0.7, "min_priority": "medium",
                }),
                Some(25),
            ),
            ("risk_monitoring", json!({ "patterns": risk, "min_confidence": 0.6, "min_priority": "high" }), Some(100)),
        ];
        assert_eq!(table.each_ref().map(|(name, ..)| *name), Preset::ALL.map(Preset::as_str));
        for (name, filter, max_events_per_hour) in table {
            let preset: Preset = name.parse().unwrap();
            assert_eq!(filter_of(preset), Filter::parse(&filter, &Kinds::default()).unwrap(), "{name}");
            assert_eq!(preset.max_events_per_hour(), max_events_per_hour, "{name}");
        }
    }

    #[test]
    fn symbols_narrow_every_preset_and_are_read_as_in_a_filter() {
        for preset in Preset::ALL {
            let patterns = (preset == Preset::Specific).then(|| json!(["Doji"]));
            let of = |symbols: Value| PresetRequest::new(preset, Some(&symbols), patterns.as_ref());
            let wanted = BTreeSet::from(["AAPL", "TSLA"].map(|symbol| Symbol::new(symbol).unwrap()));
            let narrowed = of(json!(["TSLA", "AAPL", "TSLA"])).unwrap().filter();
            assert_eq!(narrowed, Filter { symbols: Some(wanted), ..filter_of(preset) });
            assert_eq!(of(json!(["AAPL", "*"])).unwrap().filter(), filter_of(preset));
            let Err(PresetError::BadList(error)) = of(json!([])) else { panic!("an empty list is accepted") };
            assert_eq!((error.path.as_str(), error.problem), ("symbols", FilterProblem::EmptyList));
            let Err(PresetError::BadList(error)) = of(json!(["AAPL", "T*"])) else { panic!("T* is accepted") };
            assert_eq!(error.path, "symbols[1]");
        }
    }

    #[test]
    fn specific_needs_patterns_and_no_other_preset_takes_any() {
        for preset in Preset::ALL {
            let of = |patterns: Option<Value>| PresetRequest::new(preset, None, patterns.as_ref());
            if preset == Preset::Specific {
                assert_eq!(of(None), Err(PresetError::MissingPatterns));
                assert_eq!(of(Some(json!(["Doji", "*"]))), Err(PresetError::MissingPatterns));
                assert!(matches!(of(Some(json!([]))), Err(PresetError::BadList(_))));
                assert!(matches!(of(Some(json!("Doji"))), Err(PresetError::BadList(_))));
            } else {
                assert_eq!(of(Some(json!(["Doji"]))), Err(PresetError::FixedPatterns { preset }));
                assert_eq!(of(Some(json!([]))), Err(PresetError::FixedPatterns { preset }));
            }
        }
    }

    #[test]
    fn unknown_name_is_refused_with_the_nearest_name_and_the_list() {
        let list =
            "it must be one of daily, high_confidence, specific, intraday_scalping, swing_trading, risk_monitoring";
        let error = "swing_tradin".parse::<Preset>().unwrap_err().to_string();
        assert_eq!(error, format!("preset: unknown \"swing_tradin\"; did you mean \"swing_trading\"? {list}"));
        let error = "colours of the day".parse::<Preset>().unwrap_err().to_string();
        assert_eq!(error, format!("preset: unknown \"colours of the day\"; {list}"));
        assert_eq!(Preset::read(&json!("SWING_trading")), Ok(Preset::SwingTrading));
        assert_eq!(Preset::read(&json!(["daily"])), Err(PresetError::WrongType { found: "a list" }));
    }
}
