//! How many connections the file descriptors are enough for. Sessions and requests may have what the configuration
//! allows, or what is left of the process's limit: NATS, the admin server and files always keep theirs. Pure.

/// Descriptors that a gateway opens for itself: standard streams, listeners, signals, timers, NATS, files. It is twice
/// what was counted, because NATS opens more while it reconnects.
const OWN: u64 = 40;

/// Descriptors of a shard's runtime.
const PER_SHARD: u64 = 4;

/// With fewer descriptors for clients a gateway does not start.
const LEAST: u64 = 16;

/// HTTP connections keep at least this many descriptors, or a quarter of those for clients if that is less.
const FEWEST_CONNECTIONS: usize = 256;

/// How many connections the configuration asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequiredCapacity {
    pub(crate) sessions: usize,
    pub(crate) unnamed: usize,
    /// Plain HTTP connections.
    pub(crate) connections: usize,
    /// Connections to the admin server.
    pub(crate) admin: usize,
    pub(crate) shards: u16,
}

/// How many connections are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capacity {
    pub(crate) sessions: usize,
    pub(crate) unnamed: usize,
    pub(crate) connections: usize,
    /// How many descriptors the configured numbers need, if the process has fewer.
    pub(crate) missing: Option<u64>,
}

impl Capacity {
    /// What `descriptors` are enough for; `None` means no limit.
    ///
    /// # Errors
    /// How many descriptors a gateway needs at least.
    pub(crate) fn of(descriptors: Option<u64>, wanted: RequiredCapacity) -> Result<Self, u64> {
        let own = OWN + PER_SHARD * u64::from(wanted.shards) + wanted.admin as u64;
        let needed = own + wanted.connections as u64 + wanted.sessions as u64;
        let left = match descriptors {
            Some(descriptors) if descriptors < needed => descriptors.saturating_sub(own),
            _ => return Ok(Self::with(wanted, wanted.sessions, wanted.connections, None)),
        };
        if left < LEAST {
            return Err(own + LEAST);
        }
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        // An HTTP connection soon becomes a session or ends, so sessions have precedence.
        let fewest = (left / 4).min(FEWEST_CONNECTIONS);
        let connections = wanted.connections.min(left.saturating_sub(wanted.sessions).max(fewest));
        let sessions = left - connections;
        Ok(Self::with(wanted, sessions.min(wanted.sessions), connections, Some(needed)))
    }

    fn with(wanted: RequiredCapacity, sessions: usize, connections: usize, missing: Option<u64>) -> Self {
        // Unnamed connections get half of the places at most.
        Self { sessions, unnamed: wanted.unnamed.min(sessions.div_ceil(2)), connections, missing }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: RequiredCapacity =
        RequiredCapacity { sessions: 20_000, unnamed: 2_000, connections: 2_048, admin: 32, shards: 2 };

    #[test]
    fn enough_descriptors_allow_the_configured_numbers() {
        let all = Capacity { sessions: 20_000, unnamed: 2_000, connections: 2_048, missing: None };
        for descriptors in [None, Some(1 << 20), Some(40 + 8 + 32 + 2_048 + 20_000)] {
            assert_eq!(Capacity::of(descriptors, WANTED), Ok(all));
        }
    }

    #[test]
    fn too_few_descriptors_are_shared_and_the_gateway_keeps_its_own() {
        for descriptors in (96..22_128).step_by(7) {
            let Capacity { sessions, unnamed, connections, missing } = Capacity::of(Some(descriptors), WANTED).unwrap();
            assert!(sessions + connections <= descriptors as usize - 80, "{descriptors}");
            assert!(sessions >= connections && connections >= 4 && unnamed <= sessions.div_ceil(2), "{descriptors}");
            assert_eq!(missing, Some(22_128));
            let fitted = Capacity::of(Some(descriptors), RequiredCapacity { sessions, connections, ..WANTED });
            assert_eq!(fitted, Ok(Capacity { sessions, unnamed, connections, missing: None }));
        }
        let small = Capacity { sessions: 132, unnamed: 66, connections: 44, missing: Some(22_128) };
        assert_eq!(Capacity::of(Some(256), WANTED), Ok(small));
        let nearly = Capacity { sessions: 20_000, unnamed: 2_000, connections: 920, missing: Some(22_128) };
        assert_eq!(Capacity::of(Some(21_000), WANTED), Ok(nearly));
        assert_eq!(Capacity::of(Some(64), WANTED), Err(96));
    }
}
