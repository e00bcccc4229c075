//! The streams of a cluster in which no router has run yet.

use super::Cluster;
use tickwire_node::config::{Config, LoadOptions};
use tickwire_node::nats::Nats;
use tickwire_node::provision::provision;

impl Cluster {
    /// Creates the streams and buckets, as the first router that starts does: without them gateways only wait.
    pub(crate) async fn create_streams(&self) {
        let sets = self.settings.clone();
        let config = Config::load(&LoadOptions { sets, ..LoadOptions::default() }).unwrap();
        let nats = Nats::connect(&config.nats, "router", "of-the-test").await.unwrap();
        provision(&nats, &config.stream).await.unwrap();
    }
}
