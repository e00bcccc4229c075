//! Alerts carry the pattern event that they are about: filters look into it for what the alert itself does not say.

use serde_json::Value;

use super::fields::Fields;

/// What filters look at in the pattern event of an alert. The event itself stays in the data as it came.
pub(crate) fn pattern_event(alert: &Fields) -> Fields {
    for (name, prefix) in [("event", "event."), ("pattern_event", "pattern_event.")] {
        if let Some(Value::Object(event)) = alert.rest.get(name) {
            let looked_at = ["symbol", "pattern", "pattern_type", "tier", "confidence"];
            let copy = |name: &str| event.get(name).map(|value| (name.to_owned(), value.clone()));
            return Fields::new(prefix, looked_at.into_iter().filter_map(copy).collect());
        }
    }
    Fields::default()
}
