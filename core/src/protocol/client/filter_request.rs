//! The events that a subscription of a frame wants: a filter, or a preset with its lists.
//!
//! A filter is kept as written, because only the gateway knows the kinds of its cluster, and a client may pass on fields
//! that it does not know. A preset needs neither, so it is parsed with the frame.

use serde_json::{Value, json};

use crate::event::Kinds;
use crate::event::object::Object;
use crate::filter::presets::{Preset, PresetError, PresetRequest};
use crate::filter::{Filter, FilterError};

/// The events that a subscription wants, as the client asked for them.
#[derive(Clone, Debug, PartialEq)]
pub enum FilterRequest {
    /// By a filter, as written.
    Explicit(Value),
    /// By a preset.
    Preset(PresetRequest),
}

impl FilterRequest {
    /// Parses the filter, or expands the preset to one.
    ///
    /// # Errors
    /// [`FilterError`] for the first wrong field of an explicit filter.
    pub fn resolve(&self, kinds: &Kinds) -> Result<Filter, FilterError> {
        match self {
            Self::Explicit(filter) => Filter::parse(filter, kinds),
            Self::Preset(request) => Ok(request.filter()),
        }
    }

    /// The most events in any hour, if it is a preset with such a number.
    #[must_use]
    pub fn max_events_per_hour(&self) -> Option<u32> {
        match self {
            Self::Explicit(_) => None,
            Self::Preset(request) => request.preset().max_events_per_hour(),
        }
    }

    /// Takes its fields out of a frame.
    pub(super) fn read(take: &mut impl FnMut(&str) -> Option<Value>) -> Result<Self, PresetError> {
        let [filter, preset, symbols, patterns] = ["filter", "preset", "symbols", "patterns"].map(&mut *take);
        let Some(preset) = preset else {
            for (field, value) in [("symbols", symbols), ("patterns", patterns)] {
                if value.is_some() {
                    return Err(PresetError::WithoutPreset { field });
                }
            }
            return Ok(Self::Explicit(filter.unwrap_or_else(|| Value::Object(Object::new()))));
        };
        let preset = Preset::read(&preset)?;
        if filter.is_some() {
            return Err(PresetError::WithFilter { preset });
        }
        Ok(Self::Preset(PresetRequest::new(preset, symbols.as_ref(), patterns.as_ref())?))
    }

    /// An object with its fields of a frame.
    pub(super) fn to_json(&self) -> Value {
        match self {
            Self::Explicit(filter) => json!({ "filter": filter }),
            Self::Preset(request) => {
                let mut fields = json!({ "preset": request.preset().as_str() });
                if let Some(symbols) = request.symbols() {
                    fields["symbols"] = json!(symbols);
                }
                if let Some(patterns) = request.patterns() {
                    fields["patterns"] = json!(patterns);
                }
                fields
            }
        }
    }
}

impl From<Value> for FilterRequest {
    fn from(filter: Value) -> Self {
        Self::Explicit(filter)
    }
}

impl From<PresetRequest> for FilterRequest {
    fn from(request: PresetRequest) -> Self {
        Self::Preset(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::codes::ErrorCode;
    use crate::protocol::{ClientFrame, Encoding, FrameError, SubscriptionRequest};

    fn subscribe(mut fields: Value) -> Result<SubscriptionRequest, FrameError> {
        fields["action"] = json!("subscribe");
        let frame = serde_json::to_vec(&fields).unwrap();
        match ClientFrame::parse(&frame, Encoding::Json)? {
            (_, ClientFrame::Subscribe { wanted, .. }) => Ok(wanted),
            (_, other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn preset_gives_its_filter_and_its_quota() {
        let wanted = subscribe(json!({ "preset": "swing_trading", "symbols": ["AAPL"], "window_ms": 50 })).unwrap();
        let expected = PresetRequest::new(Preset::SwingTrading, Some(&json!(["AAPL"])), None).unwrap();
        assert_eq!(wanted.filter.resolve(&Kinds::default()), Ok(expected.filter()));
        assert_eq!((wanted.filter, wanted.window_ms), (FilterRequest::Preset(expected), Some(50)));
    }

    #[test]
    fn explicit_quota_wins_over_that_of_the_preset() {
        let quota = |fields: Value| subscribe(fields).unwrap().quota();
        assert_eq!(quota(json!({ "preset": "swing_trading" })), Some(25));
        assert_eq!(quota(json!({ "preset": "swing_trading", "max_events_per_hour": 3 })), Some(3));
        assert_eq!(quota(json!({ "preset": "swing_trading", "max_events_per_hour": 3_000 })), Some(3_000));
        assert_eq!(quota(json!({ "preset": "daily" })), None);
        assert_eq!(quota(json!({ "preset": "daily", "max_events_per_hour": 3 })), Some(3));
        assert_eq!(quota(json!({ "filter": {} })), None);
    }

    #[test]
    fn wrong_fields_beside_a_preset_are_refused_with_their_path() {
        for (fields, path) in [
            (json!({ "preset": "swing" }), "preset: "),
            (json!({ "preset": 1 }), "preset: "),
            (json!({ "preset": "daily", "filter": {} }), "filter: "),
            (json!({ "preset": "daily", "patterns": ["Doji"] }), "patterns: "),
            (json!({ "preset": "specific" }), "patterns: "),
            (json!({ "preset": "specific", "patterns": ["Doji", 1] }), "patterns[1]: "),
            (json!({ "preset": "daily", "symbols": [] }), "symbols: "),
            (json!({ "preset": "daily", "symbols": ["A?"] }), "symbols[0]: "),
            (json!({ "symbols": ["AAPL"] }), "symbols: "),
            (json!({ "patterns": ["Doji"], "filter": {} }), "patterns: "),
            (json!({ "preset": "daily", "tiers": ["daily"] }), "tiers: "),
        ] {
            let error = subscribe(fields.clone()).unwrap_err();
            assert_eq!(error.code, ErrorCode::BadField, "{fields}: {error}");
            assert!(error.message.starts_with(path), "{fields}: {error}");
        }
    }

    #[test]
    fn request_is_read_as_it_was_written_and_refused_as_in_a_frame() {
        let read = |fields: Value| match fields {
            Value::Object(fields) => SubscriptionRequest::read(fields),
            other => panic!("{other}"),
        };
        for fields in [
            json!({ "filter": { "symbols": ["AAPL"] }, "window_ms": 50 }),
            json!({ "preset": "specific", "symbols": ["AAPL"], "patterns": ["Doji"], "max_events_per_hour": 7 }),
        ] {
            let request = read(fields.clone()).unwrap();
            assert_eq!(request, subscribe(fields).unwrap());
            assert_eq!(read(request.to_json()), Ok(request));
        }
        for fields in [json!({ "window_ms": 5_000 }), json!({ "preset": "daily", "patterns": ["Doji"] })] {
            assert_eq!(read(fields.clone()), subscribe(fields));
        }
        assert_eq!(read(json!({ "since": "5m" })).unwrap_err().code, ErrorCode::BadField);
    }

    #[test]
    fn absent_and_null_lists_mean_any() {
        let any = subscribe(json!({ "preset": "daily" })).unwrap();
        let nulls = json!({ "preset": "daily", "symbols": null, "patterns": null, "filter": null });
        assert_eq!(subscribe(nulls), Ok(any.clone()));
        assert_eq!(subscribe(json!({ "preset": "daily", "symbols": ["*"] })), Ok(any));
    }
}
