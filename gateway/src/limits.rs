//! The limits of a user: [`account`] has the counts of a user, [`budget`] is a rate with a burst, and [`sliding`]
//! counts over a sliding window.

pub mod account;
pub(crate) mod backfill_slots;
pub mod budget;
pub mod sliding;
