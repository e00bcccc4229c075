//! Carries the bytes of one connection of a line.

use rand::Rng;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, sleep_until};

use super::line_faults::{Delays, LineDirection, LineFaults};

/// How many bytes are read at a time.
const CHUNK: usize = 16 * 1024;

/// How many chunks of a direction may be under way.
const UNDER_WAY: usize = 64;

/// Carries one connection until either side ends it, or the line does.
pub(super) async fn carry(
    mut near: TcpStream,
    far: SocketAddr,
    mut faults: watch::Receiver<LineFaults>,
    left: Arc<AtomicUsize>,
) {
    if faults.borrow_and_update().is_cut {
        return;
    }
    let Ok(mut far) = TcpStream::connect(far).await else { return };
    near.set_nodelay(true).ok();
    far.set_nodelay(true).ok();
    let (near_in, near_out) = near.split();
    let (far_in, far_out) = far.split();
    let (there, back, resets) = (faults.clone(), faults.clone(), faults.clone());
    let is_reset = tokio::select! {
        _ = direction(LineDirection::Forward, near_in, far_out, there, &left) => false,
        _ = direction(LineDirection::Backward, far_in, near_out, back, &left) => false,
        _ = until(&mut faults, |faults| faults.is_cut || faults.refuses) => false,
        () = reset(resets) => true,
    };
    if is_reset {
        near.set_zero_linger().ok();
        far.set_zero_linger().ok();
    }
}

/// Waits until the faults meet a condition. Returns false if the line was dropped.
pub(super) async fn until(faults: &mut watch::Receiver<LineFaults>, is: impl FnMut(&LineFaults) -> bool) -> bool {
    faults.wait_for(is).await.is_ok()
}

/// Waits for the moment at which the connection is reset.
async fn reset(mut faults: watch::Receiver<LineFaults>) {
    while until(&mut faults, |faults| faults.resets.is_some()).await {
        let within = faults.borrow().resets.unwrap_or_default();
        let after = within.mul_f64(rand::rng().random());
        sleep(after).await;
        if faults.borrow().resets.is_some() {
            return;
        }
    }
}

/// Carries one direction.
async fn direction(
    way: LineDirection,
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut faults: watch::Receiver<LineFaults>,
    left: &AtomicUsize,
) -> io::Result<()> {
    let (queue, mut queued) = mpsc::channel(UNDER_WAY);
    let seen = faults.clone();
    let read = async move {
        let mut delays = Delays::new(way);
        loop {
            let mut bytes = vec![0; CHUNK];
            let count = from.read(&mut bytes).await.unwrap_or(0);
            bytes.truncate(count);
            let due = delays.due(Instant::now(), &seen.borrow());
            // The end of the connection waits its turn as well.
            if queue.send((due, bytes)).await.is_err() || count == 0 {
                return std::future::pending().await;
            }
        }
    };
    let write = async {
        let mut carried = 0;
        while let Some((due, bytes)) = queued.recv().await {
            if due > Instant::now() {
                sleep_until(due).await;
            }
            if bytes.is_empty() {
                until(&mut faults, |faults| !faults.is_stalled).await;
                return Ok(());
            }
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                if !until(&mut faults, |faults| !faults.is_stalled).await {
                    return Ok(());
                }
                let now = *faults.borrow();
                let (mut piece, after) = rest.split_at(now.piece(rest.len()));
                rest = after;
                let mut is_last = spend(left, &mut piece);
                carried = if now.most.is_some() { carried + piece.len() } else { 0 };
                is_last |= now.most.is_some_and(|most| carried >= most);
                to.write_all(piece).await?;
                if is_last {
                    return Ok(());
                }
                match now.pause(piece.len()) {
                    Some(pause) => sleep(pause).await,
                    None if now.slice.is_some() => yield_now().await,
                    None => {}
                }
            }
        }
        Ok(())
    };
    tokio::select! {
        () = read => Ok(()),
        written = write => written,
    }
}

/// Takes a piece from the bytes that are left before the line breaks, once. Returns whether it breaks with this piece.
fn spend(left: &AtomicUsize, piece: &mut &[u8]) -> bool {
    let before = left.load(Ordering::Relaxed);
    if before == usize::MAX {
        return false;
    }
    if before <= piece.len() {
        left.store(usize::MAX, Ordering::Relaxed);
        *piece = &piece[..before];
        return true;
    }
    left.store(before - piece.len(), Ordering::Relaxed);
    false
}
