//! Waits for a cluster: until it has settled, or is ready and stays so.

use super::{Cluster, OWNED, PARTITIONS, SHIPPED_DEADLINE};
use crate::diagnosis::diagnose;
use crate::node::DEADLINE;
use futures_util::StreamExt;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// The pause between two checks whether a cluster is complete.
const CHECK_PAUSE: Duration = Duration::from_millis(5);

/// How long a cluster must stay ready before it counts as ready.
const STEADY: Duration = Duration::from_millis(500);

/// Waits until the server has taken all subscriptions of this client. A flush only writes them.
pub(crate) async fn until_subscribed(client: &async_nats::Client) {
    let inbox = client.new_inbox();
    let mut echo = client.subscribe(inbox.clone()).await.unwrap();
    client.publish(inbox, "".into()).await.unwrap();
    timeout(DEADLINE, echo.next()).await.expect("an echo in time").expect("an echo");
}

impl Cluster {
    /// Waits until every partition has one owner, each router has its fair share, and every node is ready.
    pub(crate) async fn settled(&mut self) {
        let deadline = if self.uses_defaults { SHIPPED_DEADLINE } else { DEADLINE };
        let end = Instant::now() + deadline;
        while !self.is_settled().await {
            if Instant::now() >= end {
                panic!("not within {deadline:?}: {}", diagnose(self).await);
            }
            sleep(CHECK_PAUSE).await;
        }
    }

    async fn is_settled(&mut self) -> bool {
        let (fair, owned) = (self.fair_share(), self.owned().await);
        let is_owned = owned.iter().sum::<u32>() == PARTITIONS;
        let mut is_settled = is_owned && owned.iter().all(|count| fair.contains(count));
        for node in self.routers.iter_mut().chain(&mut self.gateways) {
            is_settled &= node.readyz().await.0 == 200;
        }
        is_settled
    }

    /// Waits until every node is ready and stays ready, every partition has one owner and no gateway has a gap. Returns
    /// how long that took. Fails if it took longer than `deadline`.
    pub(crate) async fn ready_within(&mut self, deadline: Duration) -> Duration {
        let started_at = Instant::now();
        let mut since = None;
        loop {
            let is_ready = self.is_ready().await;
            let elapsed = started_at.elapsed();
            since = if is_ready { since.or(Some(elapsed)) } else { None };
            match since {
                Some(since) if elapsed - since >= STEADY => return since,
                None if elapsed > deadline => panic!("not ready within {deadline:?}: {}", diagnose(self).await),
                _ => sleep(CHECK_PAUSE * 10).await,
            }
        }
    }

    async fn is_ready(&mut self) -> bool {
        let mut is_ready = self.owned().await.iter().sum::<u32>() == PARTITIONS;
        for gateway in &mut self.gateways {
            let metrics = gateway.metrics().await;
            let missing = ["tickwire_gateway_open_gaps", "tickwire_gateway_silent_partitions"];
            is_ready &= missing.iter().all(|name| metrics.get(name) == 0.0);
        }
        for node in self.routers.iter_mut().chain(&mut self.gateways) {
            is_ready &= node.readyz().await.0 == 200;
        }
        is_ready
    }

    /// How many partitions each router owns.
    pub(crate) async fn owned(&mut self) -> Vec<u32> {
        let mut owned = Vec::new();
        for router in &mut self.routers {
            owned.push(router.metrics().await.get(OWNED) as u32);
        }
        owned
    }

    /// The range of partitions that a router may own: at most its share plus 15 %, and at least the rest that this
    /// leaves.
    fn fair_share(&self) -> std::ops::RangeInclusive<u32> {
        let routers = u32::try_from(self.routers.len()).unwrap();
        let most = (PARTITIONS * 115).div_ceil(routers * 100).min(PARTITIONS);
        PARTITIONS.saturating_sub(most * (routers - 1))..=most
    }
}
