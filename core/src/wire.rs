//! How messages between the nodes look: one version byte, then MessagePack. A version that this build does not
//! know is refused by name, so that a mixed cluster degrades with a clear log line instead of a crash.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The version that this build writes and reads.
pub const VERSION: u8 = 1;

/// Why bytes from another node were refused.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// There was nothing at all.
    #[error("an empty message")]
    Empty,
    /// The sender speaks another version.
    #[error("message version {found}, this build speaks version {VERSION}: run one version of tickwire in a cluster")]
    Version {
        /// The version byte that was found.
        found: u8,
    },
    /// The version is right, the rest is not.
    #[error("malformed message: {0}")]
    Malformed(#[from] rmp_serde::decode::Error),
    /// A value that has no MessagePack form.
    #[error("cannot encode: {0}")]
    Encode(#[from] rmp_serde::encode::Error),
}

/// Encodes a message for another node.
///
/// # Errors
/// [`WireError::Encode`] if a value has no MessagePack form, which none of this crate's types has.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, WireError> {
    let mut bytes = vec![VERSION];
    rmp_serde::encode::write(&mut bytes, message)?;
    Ok(bytes)
}

/// Decodes a message from another node.
///
/// # Errors
/// [`WireError`] if it is empty, of another version, or malformed.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, WireError> {
    match bytes {
        [] => Err(WireError::Empty),
        [VERSION, body @ ..] => Ok(rmp_serde::from_slice(body)?),
        [found, ..] => Err(WireError::Version { found: *found }),
    }
}
