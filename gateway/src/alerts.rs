//! Alerts that operators and producers send to one user: `POST /v1/alerts` of the admin server.
//!
//! * `new_alert` reads the request, by the rules for what producers publish;
//! * `sender` stores the alert as a producer would, so it reaches the user on the way of all events;
//! * `presence` asks all gateways whether the user has a session.

pub(crate) mod new_alert;
pub(crate) mod presence;
pub(crate) mod sender;
