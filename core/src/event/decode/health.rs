//! Checks and normalises the health reports of services.

use serde_json::Value;

use super::fields::Fields;
use super::reason::{Reason, Undecodable};

const STATUSES: [&str; 3] = ["healthy", "warning", "error"];

/// Checks a health report. The status is changed to lower case; the default service is the subject's key.
pub(crate) fn check(fields: &mut Fields, key: &str) -> Result<(), Undecodable> {
    if let Some(found) = fields.peek("status") {
        let text = found.text(Reason::BadStatus)?;
        let status = STATUSES
            .into_iter()
            .find(|status| text.eq_ignore_ascii_case(status))
            .ok_or_else(|| found.refuse(Reason::BadStatus, format_args!("expected one of {}", STATUSES.join(", "))))?;
        fields.rest.insert("status".to_owned(), Value::from(status));
    }
    if let Some(found) = fields.peek("service") {
        found.text(Reason::BadHealth)?;
    } else {
        fields.rest.insert("service".to_owned(), Value::from(key));
    }
    if let Some(found) = fields.peek("message") {
        found.text(Reason::BadHealth)?;
    }
    if let Some(found) = fields.peek("metrics") {
        found.object(Reason::BadHealth)?;
    }
    if let Some(found) = fields.peek("error_counts") {
        found.numbers(Reason::BadHealth)?;
    }
    Ok(())
}
