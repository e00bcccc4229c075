//! Coverage, claims and interest by example: each rule once, small enough to read. The simulator tries them together.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod claims;
mod confirmations;
mod epochs;
mod interest;
mod made;
mod repairs;
mod sections;
