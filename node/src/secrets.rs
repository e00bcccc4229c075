//! Secrets in files, which are read again when they change: passwords and certificates for NATS, and the secrets that
//! sign tokens.
//!
//! * `file` reads one. The configuration reads those with secrets at the start;
//! * `watched` decides what a reading of them means. Pure: the contents and the time are passed in;
//! * `follower` reads them once a second, for the two below;
//! * `connections` connects to NATS anew, and `tokens` replaces the keys that check tokens;
//! * `troubles` keeps what is wrong with them for `/v1/health` and the alert.

mod connections;
mod file;
mod follower;
mod tokens;
mod troubles;
mod watched;

pub use connections::ConnectionFiles;
pub use file::{SecretFileError, read_secret};
pub use troubles::SecretTroubles;

pub(crate) use file::MOST_SECRET_BYTES;
pub(crate) use tokens::TokenKeys;

/// What is read again, by name: the values of the label `what`.
const CONNECTION: &str = "nats";
const TOKENS: &str = "tokens";

/// The values of the label `what`.
pub(crate) fn kinds() -> Vec<&'static str> {
    vec![CONNECTION, TOKENS]
}
