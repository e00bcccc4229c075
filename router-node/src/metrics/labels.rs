//! The values of labels, as far as the files that measure do not have them.

use tickwire_core::event::decode::Reason;

/// Why messages cannot be read.
pub(super) fn dead_letters() -> Vec<&'static str> {
    Reason::ALL.iter().map(|reason| reason.as_str()).collect()
}

/// What a message of the stream can be.
pub(super) fn messages() -> Vec<&'static str> {
    vec!["event", "dead_letter", "tick", "dropped"]
}

/// Why a consumer is created again.
pub(super) fn restarts() -> Vec<&'static str> {
    vec!["missed", "silence", "reconnect", "other_stream", "behind", "elsewhere", "lost", "error"]
}

/// What a router knows for the context of events.
pub(super) fn contexts() -> Vec<&'static str> {
    vec!["markets", "reference"]
}

/// Why a message about interest is refused.
pub(super) fn interest_refusals() -> Vec<&'static str> {
    vec!["unreadable", "too_many_gateways", "too_large", "other_gateway", "taken_back"]
}

/// How much of a range an answer covers.
pub(super) fn replays() -> Vec<&'static str> {
    vec!["complete", "partial", "removed"]
}

/// Why a request for a replay is refused.
pub(super) fn replay_refusals() -> Vec<&'static str> {
    vec![
        "unreadable_request",
        "strange_reply",
        "busy",
        "unknown_interest",
        "other_stream",
        "not_there",
        "unreadable",
        "malformed",
    ]
}

/// What becomes of a request for the alerts of a user.
pub(super) fn alert_requests() -> Vec<&'static str> {
    vec!["answered", "failed", "busy", "late", "unreadable_request", "strange_reply"]
}
