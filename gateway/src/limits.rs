//! What a user may have and may ask for: `account` holds both, `budget` is a rate with a burst, and `sliding` counts over
//! a window that slides.

pub mod account;
pub mod budget;
pub mod sliding;
