//! What can be wrong with a configuration. Each error names the place of the mistake and what to do.

use crate::secrets::SecretFileError;
use std::fmt;
use std::path::PathBuf;
use thiserror::Error;

/// Where a value was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The embedded reference, so a default.
    Reference,
    /// A configuration file.
    File(PathBuf),
    /// The environment variable of this name.
    Environment(String),
    /// A `--set` flag.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reference => f.write_str("the defaults"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::Flag => f.write_str("flag --set"),
        }
    }
}

/// Why a configuration is refused.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("the configuration file {} is not valid TOML: {source}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The position of the mistake.
        source: Box<toml::de::Error>,
    },
    /// A `--set` flag is not `key=value`.
    #[error("--set {text}: expected key=value, such as --set nats.url=nats://127.0.0.1:4222")]
    NotAPair {
        /// What was given.
        text: String,
    },
    /// There is no such key.
    #[error(
        "unknown key {key} in {origin}; the nearest known key is {nearest} (`tickwire config reference` lists all)"
    )]
    UnknownKey {
        /// The key as given.
        key: String,
        /// Where.
        origin: Origin,
        /// The key that was probably meant.
        nearest: String,
    },
    /// The value has the wrong type for the key.
    #[error("{key} = {value} in {origin}: expected {expected}")]
    WrongType {
        /// The key.
        key: String,
        /// The value as given, secrets masked.
        value: String,
        /// Where.
        origin: Origin,
        /// The type that the key takes.
        expected: &'static str,
    },
    /// The value is of the right type, but not allowed.
    #[error("{key} = {value} in {origin}: {reason}")]
    Invalid {
        /// The key.
        key: String,
        /// The value as given, secrets masked.
        value: String,
        /// Where.
        origin: Origin,
        /// What is allowed.
        reason: String,
    },
    /// Each value is allowed, but not together.
    #[error("{keys}: {reason}")]
    Conflict {
        /// The keys, with commas between.
        keys: &'static str,
        /// What has to hold between them.
        reason: String,
    },
    /// A file that holds a secret cannot be used.
    #[error("{key} = {}: {source}", path.display())]
    SecretFile {
        /// The key that names the file.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: SecretFileError,
    },
    /// The checked layers could not be merged.
    #[error("the layers of the configuration cannot be merged: {0}")]
    Merge(config::ConfigError),
}
