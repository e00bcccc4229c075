//! Values of a bucket that cannot be read: somebody else, or another version of tickwire, has written them. They do not
//! count, the others do.

use crate::metrics;
use tracing::warn;

/// The values of one reading that could not be read: how many, and where the first one is.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct UnreadableValues {
    count: u64,
    first: Option<String>,
}

impl UnreadableValues {
    /// The value of one key.
    #[must_use]
    pub fn one(key: &str) -> Self {
        Self { count: 1, first: Some(key.to_owned()) }
    }

    /// Notes the value of a key.
    pub fn note(&mut self, key: &str) {
        self.count += 1;
        self.first.get_or_insert_with(|| key.to_owned());
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Counts and logs them.
    pub fn report(&self, bucket: &'static str) {
        if let Some(key) = &self.first {
            metrics::UNREADABLE_VALUES.with(bucket).increment(self.count);
            warn!(bucket, values = self.count, %key, "unreadable values in a bucket, they do not count");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unreadable_values_are_counted_with_the_key_of_the_first() {
        let mut unreadable = UnreadableValues::default();
        ["a", "b", "a"].into_iter().for_each(|key| unreadable.note(key));
        assert_eq!(unreadable, UnreadableValues { count: 3, first: Some("a".to_owned()) });
    }
}
