//! The priority that an event has as an alert.

use super::{Event, Priority};
use crate::ids::Confidence;

impl Event {
    /// Its priority when a subscription asks for alerts: at least `critical` from a confidence of 0.9 on, and at least
    /// `high` from 0.8 on. It is never lower than the priority of the event.
    #[must_use]
    pub fn alert_priority(&self) -> Priority {
        match self.confidence.map_or(0.0, Confidence::get) {
            confidence if confidence >= 0.9 => Priority::Critical,
            confidence if confidence >= 0.8 => self.priority.max(Priority::High),
            _ => self.priority,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::blank_event;

    #[test]
    fn confidence_raises_the_priority_of_an_alert_and_never_lowers_it() {
        let raised = |confidence: Option<f64>, priority| {
            let confidence = confidence.map(|value| Confidence::new(value).unwrap());
            Event { confidence, priority, ..blank_event() }.alert_priority()
        };
        for (confidence, from_low, from_high) in [
            (None, Priority::Low, Priority::High),
            (Some(0.79), Priority::Low, Priority::High),
            (Some(0.8), Priority::High, Priority::High),
            (Some(0.899), Priority::High, Priority::High),
            (Some(0.9), Priority::Critical, Priority::Critical),
            (Some(1.0), Priority::Critical, Priority::Critical),
        ] {
            assert_eq!(raised(confidence, Priority::Low), from_low, "{confidence:?}");
            assert_eq!(raised(confidence, Priority::High), from_high, "{confidence:?}");
            assert_eq!(raised(confidence, Priority::Critical), Priority::Critical, "{confidence:?}");
        }
    }
}
