//! Coverage, sections and interest by example: a small test for each rule. The simulator tests them together.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod builder;
mod confirmations;
mod epochs;
mod fixtures;
mod interest;
mod repairs;
mod sections;
