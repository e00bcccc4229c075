//! Alerts carry the pattern event that caused them. Filters use its fields where the alert itself lacks them.

use serde_json::Value;

use super::fields::Fields;

/// The fields of an alert's pattern event that filters use. The pattern event itself stays unchanged in `data`.
pub(crate) fn pattern_event(alert: &Fields) -> Fields {
    for (name, prefix) in [("event", "event."), ("pattern_event", "pattern_event.")] {
        if let Some(Value::Object(event)) = alert.rest.get(name) {
            let used = ["symbol", "pattern", "pattern_type", "tier", "confidence"];
            let copy = |name: &str| event.get(name).map(|value| (name.to_owned(), value.clone()));
            return Fields::new(prefix, used.into_iter().filter_map(copy).collect());
        }
    }
    Fields::default()
}
