//! A line with faults, to the nats-server or to a gateway: it loses, delays, stalls or splits the bytes that it
//! carries.

mod carry;
mod line_faults;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;

use self::carry::{carry, until};
pub(crate) use self::line_faults::{LineDirection, LineFaults};

/// How many connections may wait to be taken.
const BACKLOG: u32 = 1024;

/// The line. Dropping it cuts it for good.
#[derive(Debug)]
pub(crate) struct Line {
    /// The address to connect to instead.
    pub(crate) address: SocketAddr,
    faults: watch::Sender<LineFaults>,
    /// How many more bytes are carried before every connection breaks, once.
    left: Arc<AtomicUsize>,
}

impl Line {
    /// A line to the nats-server at this URL.
    pub(crate) fn to(url: &str) -> Self {
        Self::to_address(url.strip_prefix("nats://").unwrap().parse().unwrap())
    }

    /// A line to this address, where a process listens now or later.
    pub(crate) fn to_address(far: SocketAddr) -> Self {
        // This socket never listens. It keeps the port while no listener exists.
        let holder = bound(SocketAddr::from(([127, 0, 0, 1], 0)));
        let address = holder.local_addr().unwrap();
        let listener = bound(address).listen(BACKLOG).unwrap();
        let (faults, watched) = watch::channel(LineFaults::default());
        let left = Arc::new(AtomicUsize::new(usize::MAX));
        let budget = Arc::clone(&left);
        tokio::spawn(async move {
            accept_all(listener, address, far, watched, &budget).await;
            drop(holder);
        });
        Self { address, faults, left }
    }

    /// The URL of the near end of a line to NATS.
    pub(crate) fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// Replaces all faults of the line.
    pub(crate) fn set_faults(&self, faults: LineFaults) {
        self.faults.send_replace(faults);
    }

    /// Ends every connection, and accepts none until `mend`.
    pub(crate) fn cut(&self) {
        self.set_faults(LineFaults { is_cut: true, ..LineFaults::default() });
    }

    /// Carries nothing until `mend`. No connection ends.
    pub(crate) fn stall(&self) {
        self.set_faults(LineFaults { is_stalled: true, ..LineFaults::default() });
    }

    /// Ends the connections after this many more bytes, in the middle of a message, and accepts new ones.
    pub(crate) fn break_after(&self, bytes: usize) {
        self.left.store(bytes, Ordering::Relaxed);
    }

    /// Removes all faults.
    pub(crate) fn mend(&self) {
        self.set_faults(LineFaults::default());
    }
}

/// A socket at this address. Other sockets that do not listen may have the same address.
fn bound(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(address).unwrap();
    socket
}

/// Accepts connections until the line is dropped, except while it refuses them.
async fn accept_all(
    mut listener: TcpListener,
    address: SocketAddr,
    far: SocketAddr,
    mut faults: watch::Receiver<LineFaults>,
    left: &Arc<AtomicUsize>,
) {
    loop {
        let is_there = loop {
            let mut watched = faults.clone();
            tokio::select! {
                accepted = listener.accept() => {
                    let Ok((near, _)) = accepted else { continue };
                    tokio::spawn(carry(near, far, faults.clone(), Arc::clone(left)));
                }
                is_there = until(&mut watched, |faults| faults.refuses) => break is_there,
            }
        };
        drop(listener);
        if !is_there || !until(&mut faults, |faults| !faults.refuses).await {
            return;
        }
        listener = bound(address).listen(BACKLOG).unwrap();
    }
}
