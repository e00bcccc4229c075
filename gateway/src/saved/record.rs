//! What a key of the bucket holds: the saved subscriptions of one user, as JSON. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tickwire_core::event::{Kinds, Timestamp};
use tickwire_core::protocol::{FrameError, SubscriptionName, SubscriptionRequest};
use tickwire_node::config::GatewayConfig;

use super::SavedSet;
use crate::granting::{FilterSize, check_all, grant};

/// What the value of a key is.
#[derive(Debug, PartialEq)]
pub(crate) enum SavedValue {
    /// A record. That of a deleted key is empty.
    Record(SavedRecord),
    /// A record that this version cannot read: a newer one has written it, and must not lose it.
    Newer,
    /// Something that tickwire has not written.
    Foreign,
}

/// The fields that tell a record from what other programs write. This version writes no `version`.
const FIELDS: [&str; 2] = ["version", "subscriptions"];

/// The saved subscriptions of a user.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SavedRecord {
    pub(crate) subscriptions: BTreeMap<SubscriptionName, SavedSubscription>,
}

/// A saved subscription.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SavedSubscription {
    /// The subscription, as within a `resume`.
    #[serde(with = "request_fields")]
    pub(super) request: SubscriptionRequest,
    /// When its name was first saved.
    #[serde(with = "rfc_3339")]
    pub(super) created: Timestamp,
    /// The last day on which it was saved, or its user had a session.
    #[serde(with = "rfc_3339")]
    pub(super) last_used: Timestamp,
    /// Who saved it; for people.
    pub(super) updated_by: String,
}

impl SavedRecord {
    /// Reads the value of a key.
    pub(crate) fn read(value: &[u8]) -> SavedValue {
        if value.is_empty() {
            return SavedValue::Record(Self::default());
        }
        if let Ok(record) = serde_json::from_slice(value) {
            return SavedValue::Record(record);
        }
        match serde_json::from_slice(value) {
            Ok(Value::Object(fields)) if FIELDS.iter().any(|name| fields.contains_key(*name)) => SavedValue::Newer,
            _ => SavedValue::Foreign,
        }
    }

    /// Saves a subscription. An earlier one of this name is replaced.
    pub(crate) fn put(&mut self, name: SubscriptionName, request: SubscriptionRequest, now: Timestamp, by: &str) {
        let created = self.subscriptions.get(&name).map_or(now, |former| former.created);
        let saved = SavedSubscription { request, created, last_used: now, updated_by: by.to_owned() };
        self.subscriptions.insert(name, saved);
    }

    /// Checks a subscription, and that a connection could have it and all others.
    pub(super) fn check(
        &self,
        name: &SubscriptionName,
        config: &GatewayConfig,
        kinds: &Kinds,
    ) -> Result<(), FrameError> {
        let mut sizes = BTreeMap::new();
        for (other, saved) in &self.subscriptions {
            match grant(config, kinds, other, &saved.request) {
                Ok(granted) => {
                    sizes.insert(other.clone(), FilterSize::of(&granted.filter));
                }
                Err(fault) if other == name => return Err(refused(fault)),
                // It cannot be applied either. It was saved when other settings held.
                Err(_) => {}
            }
        }
        check_all(config, &sizes).map_err(refused)
    }

    /// The user has a session now. Changes nothing if all was used after `since`.
    pub(super) fn note_use(&mut self, since: Timestamp, now: Timestamp) {
        if self.least_used().is_some_and(|used| used < since) {
            self.subscriptions.values_mut().for_each(|saved| saved.last_used = saved.last_used.max(now));
        }
    }

    /// Removes what was not used since a time. Returns the names.
    pub(super) fn sweep(&mut self, since: Timestamp) -> Vec<SubscriptionName> {
        let unused = self.subscriptions.iter().filter(|(_, saved)| saved.last_used < since);
        let names: Vec<SubscriptionName> = unused.map(|(name, _)| name.clone()).collect();
        self.subscriptions.retain(|name, _| !names.contains(name));
        names
    }

    /// When the subscription was last used that was unused for longest.
    pub(super) fn least_used(&self) -> Option<Timestamp> {
        self.subscriptions.values().map(|saved| saved.last_used).min()
    }

    /// The subscriptions without what is known about them: the first ones by name, at most as many as a session may
    /// have. There are more only if that limit was lowered, or if tickwire has not written them.
    pub(super) fn into_set(self, most: usize) -> SavedSet {
        let first = self.subscriptions.into_iter().take(most);
        first.map(|(name, saved)| (name, Arc::new(saved.request))).collect()
    }
}

fn refused((code, message): crate::granting::SubscriptionFault) -> FrameError {
    FrameError { code, message, id: None }
}

/// A request as an object with its fields.
mod request_fields {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use tickwire_core::event::object::Object;
    use tickwire_core::protocol::SubscriptionRequest;

    pub(super) fn serialize<S: Serializer>(request: &SubscriptionRequest, serializer: S) -> Result<S::Ok, S::Error> {
        request.to_json().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SubscriptionRequest, D::Error> {
        SubscriptionRequest::read(Object::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// A time as text.
mod rfc_3339 {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};
    use tickwire_core::event::Timestamp;

    pub(super) fn serialize<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(time)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tickwire_core::protocol::codes::ErrorCode;
    use tickwire_node::config::{Config, LoadOptions};

    use super::*;

    const DAY: i64 = 86_400_000;

    fn name(text: &str) -> SubscriptionName {
        SubscriptionName::new(text).unwrap()
    }

    fn request(fields: Value) -> SubscriptionRequest {
        SubscriptionRequest::read(serde_json::from_value(fields).unwrap()).unwrap()
    }

    fn record(days: &[(&str, i64)]) -> SavedRecord {
        let mut record = SavedRecord::default();
        for (named, day) in days {
            record.put(name(named), request(json!({ "preset": "daily" })), Timestamp(day * DAY), "ann");
        }
        record
    }

    #[test]
    fn record_is_read_as_it_was_written() {
        let mut record = SavedRecord::default();
        let swing = json!({ "preset": "swing_trading", "symbols": ["AAPL"], "max_events_per_hour": 5, "alert": true });
        record.put(name("swing"), request(swing.clone()), Timestamp(1_757_514_600_120), "ann");
        record.put(name("all"), request(json!({ "filter": {}, "window_ms": 50 })), Timestamp(0), "operator");
        let written = serde_json::to_value(&record).unwrap();
        let expected = json!({
            "request": swing, "created": "2025-09-10T14:30:00.120Z", "last_used": "2025-09-10T14:30:00.120Z",
            "updated_by": "ann",
        });
        assert_eq!(written["subscriptions"]["swing"], expected);
        assert_eq!(serde_json::from_value::<SavedRecord>(written).unwrap(), record);
        for foreign in [r#"{"stream":"EVENTS","seq":7}"#, r#"{"subscriptions":{"a":{}}}"#, "7", ""] {
            assert!(serde_json::from_str::<SavedRecord>(foreign).is_err(), "{foreign}");
        }
    }

    #[test]
    fn value_that_tickwire_has_not_written_is_no_record() {
        let empty = SavedValue::Record(SavedRecord::default());
        assert_eq!(SavedRecord::read(b""), empty, "a deleted key has nothing");
        assert_eq!(SavedRecord::read(br#"{"stream":"EVENTS","seq":7}"#), SavedValue::Foreign);
        assert_eq!(SavedRecord::read(b"\xff"), SavedValue::Foreign);
    }

    #[test]
    fn record_with_what_this_version_does_not_know_is_that_of_a_newer_one() {
        let saved = json!({ "filter": {}, "mood": "calm" });
        let saved = json!({ "request": saved, "created": "2026-01-01", "last_used": "2026-01-01", "updated_by": "a" });
        for newer in [
            json!({ "version": 2, "subscriptions": {} }),
            json!({ "version": 2, "sets": [] }),
            json!({ "subscriptions": {}, "groups": {} }),
            json!({ "subscriptions": { "a": saved } }),
        ] {
            assert_eq!(SavedRecord::read(newer.to_string().as_bytes()), SavedValue::Newer, "{newer}");
        }
    }

    #[test]
    fn session_gets_no_more_than_it_may_have() {
        let names: Vec<String> = (0..10_000).map(|number| format!("n{number:05}")).collect();
        let days: Vec<(&str, i64)> = names.iter().map(|name| (name.as_str(), 1)).collect();
        let set = record(&days).into_set(3);
        assert_eq!(set.into_keys().collect::<Vec<_>>(), ["n00000", "n00001", "n00002"].map(name));
    }

    #[test]
    fn replaced_subscription_keeps_the_time_of_its_creation() {
        let mut record = record(&[("a", 1)]);
        record.put(name("a"), request(json!({ "filter": {} })), Timestamp(5), "operator");
        let saved = &record.subscriptions[&name("a")];
        assert_eq!((saved.created, saved.last_used), (Timestamp(DAY), Timestamp(5)));
        assert_eq!((&saved.request, saved.updated_by.as_str()), (&request(json!({ "filter": {} })), "operator"));
    }

    #[test]
    fn use_is_noted_once_and_what_is_unused_is_swept() {
        let mut record = record(&[("a", 1), ("b", 3)]);
        let before = record.clone();
        record.note_use(Timestamp(DAY), Timestamp(4 * DAY));
        assert_eq!(record, before, "all was used since then");
        assert_eq!(record.sweep(Timestamp(2 * DAY)), [name("a")]);
        assert_eq!(record.least_used(), Some(Timestamp(3 * DAY)));
        record.note_use(Timestamp(4 * DAY), Timestamp(5 * DAY));
        assert_eq!(record.least_used(), Some(Timestamp(5 * DAY)));
        assert!(record.sweep(Timestamp(5 * DAY)).is_empty());
    }

    #[test]
    fn saved_subscriptions_must_fit_into_one_connection() {
        let mut config = Config::load(&LoadOptions::default()).unwrap().gateway;
        (config.max_subscriptions, config.max_symbols) = (2, 3);
        let check = |record: &SavedRecord, named: &str| {
            record.check(&name(named), &config, &Kinds::default()).map_err(|error| error.code)
        };
        let mut record = record(&[("a", 1), ("b", 1)]);
        assert_eq!(check(&record, "b"), Ok(()));
        record.put(name("b"), request(json!({ "filter": { "symbols": ["A", "B", "C", "D"] } })), Timestamp(0), "ann");
        assert_eq!(check(&record, "b"), Err(ErrorCode::SymbolLimit));
        record.put(name("b"), request(json!({ "filter": { "symbol": ["A"] } })), Timestamp(0), "ann");
        assert_eq!(check(&record, "b"), Err(ErrorCode::BadFilter));
        assert_eq!(check(&record, "a"), Ok(()), "the fault of another one does not count");
        record.put(name("b"), request(json!({ "filter": {} })), Timestamp(0), "ann");
        record.put(name("c"), request(json!({ "filter": {} })), Timestamp(0), "ann");
        assert_eq!(check(&record, "c"), Err(ErrorCode::SubscriptionLimit));
    }
}
