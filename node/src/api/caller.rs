//! Who has sent a request: what an answer logs and stores of a change.

use std::fmt;
use std::net::IpAddr;
use tickwire_core::ids::UserId;

/// Who has sent a request that the gate has admitted: an extension of each such request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The holder of the token; `None` for a request without one.
    holder: Option<UserId>,
    /// The address from which the request came.
    peer: Option<IpAddr>,
}

impl Caller {
    pub(super) fn new(holder: Option<UserId>, peer: Option<IpAddr>) -> Self {
        Self { holder, peer }
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.holder, self.peer) {
            (Some(holder), _) => f.write_str(holder.as_str()),
            (None, Some(peer)) => write!(f, "{peer} without a token"),
            (None, None) => f.write_str("somebody without a token"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caller_is_shown_by_the_holder_of_the_token_or_the_address() {
        let (ann, peer) = (UserId::new("ann").unwrap(), IpAddr::from([127, 0, 0, 1]));
        assert_eq!(Caller::new(Some(ann), Some(peer)).to_string(), "ann");
        assert_eq!(Caller::new(None, Some(peer)).to_string(), "127.0.0.1 without a token");
        assert_eq!(Caller::new(None, None).to_string(), "somebody without a token");
    }
}
