//! Backfill: the past that a session asks for with `resume` or `since`.
//!
//! `request` is what one session waits for, `slots` bounds how many requests of a user run at once, `ranges` is what of
//! the stream a request lacks, `cohorts` puts sessions with like ranges together, and `seek` finds where a time stands in
//! the stream, by `bisection`. All of it decides without I/O. `edge::backfill` asks the routers for it, and
//! `shard::backfill` delivers it.

pub(crate) mod bisection;
pub(crate) mod cohorts;
pub(crate) mod ranges;
pub(crate) mod request;
pub(crate) mod seek;
mod slots;
