//! The metadata of a delivered message, from its subject for acknowledgements. Pure.
//!
//! `$JS.ACK.<stream>.<consumer>.<times>.<seq>.<number>.<nanoseconds>.<pending>`, or since server 2.15
//! `$JS.ACK.<domain>.<account>.<stream>.<consumer>.…` with the same end. Servers may append to it.

use tickwire_core::event::Timestamp;
use tickwire_core::ids::Seq;

/// The metadata of a delivered message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConsumerDelivery {
    /// Its sequence in the stream.
    pub seq: Seq,
    /// Its number among the messages of the consumer.
    pub number: u64,
    /// When it was stored.
    pub stored: Timestamp,
    /// How many messages follow.
    pub pending: u64,
}

impl ConsumerDelivery {
    /// Reads the subject for acknowledgements.
    pub(crate) fn read(reply: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(reply.strip_prefix(b"$JS.ACK.")?).ok()?;
        let words = text.split('.').count();
        // Seven words after the prefix, or at least nine with domain and account.
        let skipped = match words {
            7 => 3,
            9.. => 5,
            _ => return None,
        };
        let mut numbers = text.split('.').skip(skipped).map(|word| word.parse::<u64>().ok());
        let mut next = || numbers.next().flatten();
        let (seq, number, nanos, pending) = (next()?, next()?, next()?, next()?);
        let stored = Timestamp(i64::try_from(nanos / 1_000_000).ok()?);
        Some(Self { seq: Seq(seq), number, stored, pending })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        let expected = ConsumerDelivery { seq: Seq(10), number: 7, stored: Timestamp(1_764_244_800_123), pending: 3 };
        for reply in [
            "$JS.ACK.EVENTS.r1-p3-1.1.10.7.1764244800123456789.3",
            "$JS.ACK._.a1b2.EVENTS.r1-p3-1.1.10.7.1764244800123456789.3",
            "$JS.ACK.hub.a1b2.EVENTS.r1-p3-1.1.10.7.1764244800123456789.3.token",
            "$JS.ACK.hub.a1b2.EVENTS.r1-p3-1.1.10.7.1764244800123456789.3.token.more",
        ] {
            assert_eq!(ConsumerDelivery::read(reply.as_bytes()), Some(expected), "{reply}");
        }
    }

    #[test]
    fn other_subjects_are_not_deliveries() {
        for odd in [
            &b""[..],
            b"$JS.ACK.",
            b"$JS.ACK.EVENTS.c.1.10.7.1764244800123456789",
            b"$JS.ACK.EVENTS.c.1.10.7.1764244800123456789.3.x",
            b"$JS.ACK.EVENTS.c.1.-10.7.1764244800123456789.3",
            b"$JS.ACK.EVENTS.c.1.10.7.99999999999999999999.3",
            b"$JS.ACK.\xff.c.1.10.7.1764244800123456789.3",
            b"_INBOX.x.1.10.7.1764244800123456789.3",
        ] {
            assert_eq!(ConsumerDelivery::read(odd), None, "{}", odd.escape_ascii());
        }
    }
}
