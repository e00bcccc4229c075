//! The values of labels.

use std::sync::LazyLock;

use tickwire_core::coverage::GapReason;
use tickwire_core::event::Priority;
use tickwire_core::protocol::codes::{CloseCode, ErrorCode, NoticeCode};

use crate::index::Dimension;

/// The outcomes of sections from routers.
const OUTCOMES: [&str; 6] = ["applied", "held", "duplicate", "outdated", "foreign", "unsound"];

static CLOSE_CODES: LazyLock<Vec<String>> =
    LazyLock::new(|| CloseCode::ALL.iter().map(|code| code.code().to_string()).collect());

static ERROR_CODES: LazyLock<Vec<String>> =
    LazyLock::new(|| ErrorCode::ALL.iter().map(|code| code.code().to_string()).collect());

/// Why ranges cannot be given.
pub(super) fn gaps() -> Vec<&'static str> {
    GapReason::ALL.map(GapReason::as_str).to_vec()
}

/// Why sessions are notified of a gap.
pub(super) fn notified_gaps() -> Vec<&'static str> {
    [gaps(), vec!["overload", "reset"]].concat()
}

/// How urgent events are.
pub(super) fn priorities() -> Vec<&'static str> {
    Priority::ALL.iter().map(|priority| priority.as_str()).collect()
}

/// The statuses that refuse a request for a WebSocket.
pub(super) fn upgrade_refusals() -> Vec<&'static str> {
    vec!["400", "403", "426", "503"]
}

/// Why a message to routers is not sent.
pub(super) fn unsent() -> Vec<&'static str> {
    vec!["too_large", "no_room"]
}

/// What becomes of a section.
pub(super) fn sections() -> Vec<&'static str> {
    [OUTCOMES.to_vec(), vec!["unseen"]].concat()
}

/// What becomes of an answer to a request for a replay.
pub(super) fn replay_answers() -> Vec<&'static str> {
    let refusals = ["busy", "unknown_interest", "other_stream", "not_there", "unreadable", "malformed"];
    [OUTCOMES.to_vec(), vec!["unseen", "unasked", "nobody", "removed", "damaged"], refusals.to_vec()].concat()
}

/// By what an index finds filters.
pub(super) fn dimensions() -> Vec<&'static str> {
    Dimension::ALL.map(Dimension::as_str).to_vec()
}

/// What a reading of unacknowledged alerts finds.
pub(super) fn reminder_readings() -> Vec<&'static str> {
    vec!["none", "some", "failed"]
}

/// What becomes of an unacknowledged alert.
pub(super) fn reminders() -> Vec<&'static str> {
    vec!["sent", "limit", "quota", "expired"]
}

/// Whether something is so.
pub(super) fn booleans() -> Vec<&'static str> {
    vec!["true", "false"]
}

/// Why events are dropped.
pub(super) fn drops() -> Vec<&'static str> {
    [user_drops(), vec!["closed", "reset"]].concat()
}

/// Why events are dropped, as their client is notified.
pub(super) fn user_drops() -> Vec<&'static str> {
    use NoticeCode::{Expired, Quota, SlowConsumer, Throttled};
    [SlowConsumer, Throttled, Quota, Expired].map(NoticeCode::as_str).to_vec()
}

/// Why events are replaced by newer ones.
pub(super) fn conflations() -> Vec<&'static str> {
    [NoticeCode::SlowConsumer, NoticeCode::Throttled].map(NoticeCode::as_str).to_vec()
}

/// Why urgent events wait.
pub(super) fn delays() -> Vec<&'static str> {
    vec![NoticeCode::CriticalBudget.as_str()]
}

/// The codes of notices.
pub(super) fn notices() -> Vec<&'static str> {
    NoticeCode::ALL.map(NoticeCode::as_str).to_vec()
}

/// The codes of closes.
pub(super) fn close_codes() -> Vec<&'static str> {
    CLOSE_CODES.iter().map(String::as_str).collect()
}

/// The codes of refused frames.
pub(super) fn error_codes() -> Vec<&'static str> {
    ERROR_CODES.iter().map(String::as_str).collect()
}
