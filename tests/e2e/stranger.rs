//! A stranger: anyone who can reach an interface and sends hostile or wrong input. From a seed it sends random bytes to
//! every interface at once, while the test runs: to client sockets before and after authentication, to the HTTP and
//! admin servers, to the subjects of producers, and to those between nodes.
//!
//! It stores no valid event, so it does not change the events that clients must get.

mod bytes;
mod client;
mod peer;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;
use crate::ledger::reader::Gateways;

/// The addresses of the admin servers.
pub(crate) type Admins = Arc<Mutex<Vec<SocketAddr>>>;

/// How often each interface was tried.
#[derive(Debug, Default)]
pub(crate) struct Tried {
    sockets: AtomicUsize,
    requests: AtomicUsize,
    events: AtomicUsize,
    peers: AtomicUsize,
}

/// A running stranger. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Stranger {
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
    tried: Arc<Tried>,
}

impl Stranger {
    /// Starts it. `gateways` and `admins` may change meanwhile; `cluster` has the address of NATS and credentials.
    pub(crate) fn start(seed: u64, cluster: &Cluster, gateways: &Gateways, admins: &Admins) -> Self {
        eprintln!("the stranger's seed is {seed}");
        let (stop, tried) = (CancellationToken::new(), Arc::new(Tried::default()));
        let rng = |number: u64| StdRng::seed_from_u64(seed.wrapping_mul(31).wrapping_add(number));
        let (query, nats) = (cluster.query("stranger"), cluster.nats_url());
        let nats = nats.strip_prefix("nats://").expect("an address without TLS").to_owned();
        let run = |work: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
            let stop = stop.clone();
            tokio::spawn(async move { stop.run_until_cancelled(work).await.unwrap_or_default() })
        };
        let tasks = vec![
            run(Box::pin(client::sockets(rng(1), Arc::clone(gateways), query.clone(), Arc::clone(&tried)))),
            run(Box::pin(client::sockets(rng(2), Arc::clone(gateways), query, Arc::clone(&tried)))),
            run(Box::pin(client::requests(rng(3), Arc::clone(gateways), Arc::clone(&tried)))),
            run(Box::pin(client::requests(rng(4), Arc::clone(admins), Arc::clone(&tried)))),
            run(Box::pin(peer::events(rng(5), nats.clone(), Arc::clone(&tried)))),
            run(Box::pin(peer::subjects(rng(6), nats, Arc::clone(&tried)))),
        ];
        Self { stop, tasks, tried }
    }

    /// Ends it, and fails unless every interface was tried.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        for task in self.tasks.drain(..) {
            task.await.unwrap();
        }
        eprintln!("the stranger tried {:?}", self.tried);
        let Tried { sockets, requests, events, peers } = &*self.tried;
        let least = [sockets, requests, events, peers].map(|count| count.load(Ordering::Relaxed)).into_iter().min();
        assert!(least > Some(10), "the stranger tried every interface: {:?}", self.tried);
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
