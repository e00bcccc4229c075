//! A line to the nats-server that can fail: a node that is behind it loses whatever is sent to it meanwhile, or waits.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// The line. Dropping it cuts it for good.
#[derive(Debug)]
pub(crate) struct Line {
    /// Where the node connects instead.
    pub(crate) address: SocketAddr,
    state: watch::Sender<State>,
    /// How many more bytes are carried before every connection breaks, once.
    left: Arc<AtomicUsize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Whole,
    Stalled,
    Cut,
}

impl Line {
    /// A line to the server at this URL.
    pub(crate) fn to(url: &str) -> Self {
        let server = url.strip_prefix("nats://").unwrap().to_owned();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        let address = listener.local_addr().unwrap();
        let (state, watched) = watch::channel(State::Whole);
        let left = Arc::new(AtomicUsize::new(usize::MAX));
        let budget = Arc::clone(&left);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(carry(near, server.clone(), watched.clone(), Arc::clone(&budget)));
            }
        });
        Self { address, state, left }
    }

    /// The URL of the near end.
    pub(crate) fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// Ends every connection, and takes none until it is mended.
    pub(crate) fn cut(&self) {
        self.state.send_replace(State::Cut);
    }

    /// Carries nothing until it is mended. No connection ends for that.
    pub(crate) fn stall(&self) {
        self.state.send_replace(State::Stalled);
    }

    /// Ends the connections after so many bytes more, in the middle of whatever is on its way, and takes new ones.
    pub(crate) fn break_after(&self, bytes: usize) {
        self.left.store(bytes, Ordering::Relaxed);
    }

    /// Takes and carries everything again.
    pub(crate) fn mend(&self) {
        self.state.send_replace(State::Whole);
    }
}

/// Carries one connection until either side ends it, or the line is cut.
async fn carry(mut near: TcpStream, server: String, mut state: watch::Receiver<State>, left: Arc<AtomicUsize>) {
    if *state.borrow_and_update() == State::Cut {
        return;
    }
    let Ok(mut far) = TcpStream::connect(server).await else { return };
    let (near_in, near_out) = near.split();
    let (far_in, far_out) = far.split();
    let (there, back) = (state.clone(), state.clone());
    tokio::select! {
        _ = copy(near_in, far_out, there, &left) => {}
        _ = copy(far_in, near_out, back, &left) => {}
        _ = state.wait_for(|state| *state == State::Cut) => {}
    }
}

/// Carries one direction.
async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut state: watch::Receiver<State>,
    left: &AtomicUsize,
) -> io::Result<()> {
    let mut bytes = vec![0; 16 * 1024];
    loop {
        let count = from.read(&mut bytes).await?;
        if count == 0 || state.wait_for(|state| *state == State::Whole).await.is_err() {
            return Ok(());
        }
        let before = left.load(Ordering::Relaxed);
        if before < usize::MAX {
            if before <= count {
                left.store(usize::MAX, Ordering::Relaxed);
                return to.write_all(&bytes[..before]).await;
            }
            left.store(before - count, Ordering::Relaxed);
        }
        to.write_all(&bytes[..count]).await?;
    }
}
