//! A stranger: whoever can reach a door and means harm, or knows no better. From a seed it throws bytes at every door at
//! once, while everything else goes on: at client sockets before and after they say who they are, at the HTTP and admin
//! servers, at the subjects of producers, and at those between nodes.
//!
//! Nothing that it stores is a valid event, so that whatever it does changes nothing of what anybody is due.

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

/// Where admin servers are to be found.
pub(crate) type Admins = Arc<Mutex<Vec<SocketAddr>>>;

/// How often each door was tried.
#[derive(Debug, Default)]
pub(crate) struct Tried {
    sockets: AtomicUsize,
    requests: AtomicUsize,
    events: AtomicUsize,
    peers: AtomicUsize,
}

/// A stranger at work. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Stranger {
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
    tried: Arc<Tried>,
}

impl Stranger {
    /// Begins. `gateways` and `admins` may change meanwhile; `cluster` gives the address of NATS and a name to use.
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

    /// Ends, and fails unless every door was tried.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        for task in self.tasks.drain(..) {
            task.await.unwrap();
        }
        eprintln!("the stranger tried {:?}", self.tried);
        let Tried { sockets, requests, events, peers } = &*self.tried;
        let least = [sockets, requests, events, peers].map(|count| count.load(Ordering::Relaxed)).into_iter().min();
        assert!(least > Some(10), "the stranger came to every door: {:?}", self.tried);
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
