//! What events go through on their way to the sockets.

use clap::ValueEnum;
use serde::Serialize;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Through {
    /// One gateway, to which routed batches are sent
    Gateway,
    /// A producer, JetStream, a router and a gateway
    Cluster,
    /// A server that does nothing but one `send` of ready bytes per delivery: the yardstick
    Bare,
}

impl Through {
    /// Its name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Cluster => "cluster",
            Self::Bare => "bare",
        }
    }

    /// The process that holds the sockets.
    pub(crate) fn under_test(self) -> &'static str {
        match self {
            Self::Gateway | Self::Cluster => "gateway",
            Self::Bare => "bare",
        }
    }
}
