//! A connection to the bucket of rules, for one command.

use tickwire_core::event::Kinds;
use tickwire_node::nats::{Nats, NatsError};
use tickwire_node::rule_bucket::RuleBucket;

use super::RulesError;
use tickwire_command::args::NatsArgs;

pub(super) struct Connection {
    nats: Nats,
    pub(super) bucket: RuleBucket,
    /// The kinds of this configuration.
    pub(super) kinds: Kinds,
    /// The addresses of NATS.
    pub(super) url: String,
}

impl Connection {
    pub(super) async fn open(args: &NatsArgs) -> Result<Self, RulesError> {
        let config = args.load()?;
        let nats = Nats::connect(&config.nats, "rules", "cli").await?;
        match RuleBucket::open(&nats).await {
            Ok(bucket) => Ok(Self { nats, bucket, kinds: config.events.taken(), url: config.nats.url }),
            Err(error) => Err(cause(&nats, error.into()).await),
        }
    }

    /// Closes the connection, and returns the result of the work with it.
    pub(super) async fn close<T>(self, done: Result<T, RulesError>) -> Result<T, RulesError> {
        match done {
            Ok(done) => {
                self.nats.close().await?;
                Ok(done)
            }
            Err(error) => Err(cause(&self.nats, error).await),
        }
    }
}

/// The real cause of an error: a missing permission only shows as silence.
async fn cause(nats: &Nats, error: RulesError) -> RulesError {
    match nats.check().await {
        Err(refused @ NatsError::Refused { .. }) => refused.into(),
        _ => error,
    }
}
