//! A line that can fail, to the nats-server or to a gateway: whoever is behind it loses what is sent meanwhile, or waits,
//! or gets it late and in pieces.

mod carry;
mod weather;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;

use self::carry::{carry, until};
pub(crate) use self::weather::{Way, Weather};

/// How many connections may wait to be taken.
const BACKLOG: u32 = 1024;

/// The line. Dropping it cuts it for good.
#[derive(Debug)]
pub(crate) struct Line {
    /// Where to connect instead.
    pub(crate) address: SocketAddr,
    weather: watch::Sender<Weather>,
    /// How many more bytes are carried before every connection breaks, once.
    left: Arc<AtomicUsize>,
}

impl Line {
    /// A line to the nats-server at this URL.
    pub(crate) fn to(url: &str) -> Self {
        Self::to_address(url.strip_prefix("nats://").unwrap().parse().unwrap())
    }

    /// A line to whoever listens there, now or later.
    pub(crate) fn to_address(far: SocketAddr) -> Self {
        // This socket never listens. It keeps the port while nobody does.
        let holder = bound(SocketAddr::from(([127, 0, 0, 1], 0)));
        let address = holder.local_addr().unwrap();
        let listener = bound(address).listen(BACKLOG).unwrap();
        let (weather, watched) = watch::channel(Weather::default());
        let left = Arc::new(AtomicUsize::new(usize::MAX));
        let budget = Arc::clone(&left);
        tokio::spawn(async move {
            take(listener, address, far, watched, &budget).await;
            drop(holder);
        });
        Self { address, weather, left }
    }

    /// The URL of the near end of a line to NATS.
    pub(crate) fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// From now on this is wrong with it, and nothing else.
    pub(crate) fn suffer(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }

    /// Ends every connection, and takes none until it is mended.
    pub(crate) fn cut(&self) {
        self.suffer(Weather { is_cut: true, ..Weather::default() });
    }

    /// Carries nothing until it is mended. No connection ends for that.
    pub(crate) fn stall(&self) {
        self.suffer(Weather { is_stalled: true, ..Weather::default() });
    }

    /// Ends the connections after so many bytes more, in the middle of whatever is on its way, and takes new ones.
    pub(crate) fn break_after(&self, bytes: usize) {
        self.left.store(bytes, Ordering::Relaxed);
    }

    /// Takes and carries everything again.
    pub(crate) fn mend(&self) {
        self.suffer(Weather::default());
    }
}

/// A socket at this address, which others may have bound as well that do not listen.
fn bound(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(address).unwrap();
    socket
}

/// Takes connections until the line is dropped, except while it refuses them.
async fn take(
    mut listener: TcpListener,
    address: SocketAddr,
    far: SocketAddr,
    mut weather: watch::Receiver<Weather>,
    left: &Arc<AtomicUsize>,
) {
    loop {
        let is_there = loop {
            let mut watched = weather.clone();
            tokio::select! {
                accepted = listener.accept() => {
                    let Ok((near, _)) = accepted else { continue };
                    tokio::spawn(carry(near, far, weather.clone(), Arc::clone(left)));
                }
                is_there = until(&mut watched, |weather| weather.refuses) => break is_there,
            }
        };
        drop(listener);
        if !is_there || !until(&mut weather, |weather| !weather.refuses).await {
            return;
        }
        listener = bound(address).listen(BACKLOG).unwrap();
    }
}
