//! Backfill: replays for sessions that resume, or ask for the past with `since`.
//!
//! * `request` is the backfill of one session (`limits/backfill_slots.rs` bounds how many a user may have at once);
//! * `seek` schedules searches for the last sequence before a time, and `bisection` makes them;
//! * `cohorts` puts sessions that lack similar ranges together.
//!
//! Except for `bisection` all of it decides without I/O. `edge/backfill.rs` asks the routers, and `shard/cohorts.rs`
//! delivers the events.

pub(crate) mod bisection;
pub(crate) mod cohorts;
pub(crate) mod request;
pub(crate) mod seek;
