//! A connection to the bucket of rules, for one command.

use tickwire_core::event::Kinds;
use tickwire_node::nats::Nats;
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
        let bucket = nats.unless_denied(RuleBucket::open(&nats)).await??;
        Ok(Self { nats, bucket, kinds: config.events.taken(), url: config.nats.url })
    }

    /// Does some work with the bucket, unless NATS denies it: then the work would only find out that it is late.
    pub(super) async fn unless_denied<T, E>(&self, work: impl Future<Output = Result<T, E>>) -> Result<T, RulesError>
    where
        RulesError: From<E>,
    {
        Ok(self.nats.unless_denied(work).await??)
    }

    /// Closes the connection, and returns the result of the work with it.
    pub(super) async fn close<T>(self, done: Result<T, RulesError>) -> Result<T, RulesError> {
        let done = done?;
        self.nats.close().await?;
        Ok(done)
    }
}
