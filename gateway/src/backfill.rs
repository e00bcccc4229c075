//! Backfill: replays for sessions that resume, or ask for the past with `since`.
//!
//! * `request` is the backfill of one session, and `slots` bounds how many a user may have at once;
//! * `seek` schedules searches for the position of a time in the stream, and `bisection` makes them;
//! * `ranges` is what a backfill lacks, and `cohorts` puts sessions with similar ranges together.
//!
//! Except for `bisection` all of it decides without I/O. `edge/backfill.rs` asks the routers, and `shard/backfill.rs`
//! delivers the events.

pub(crate) mod bisection;
pub(crate) mod cohorts;
pub(crate) mod request;
pub(crate) mod seek;
