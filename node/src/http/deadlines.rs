//! The deadlines of one connection, by its phase: it waits for a request, receives a request, waits for the node, or sends
//! an answer.
//!
//! [`Timed`] wraps the connection for the HTTP server. It sees the phase by the bytes that pass through it, and ends
//! the connection when a phase lasts too long. So the time between two requests and the time of a head have separate
//! limits, and an answer that the peer does not read ends.

use crate::clock::Clock;
use crate::http::client_network::ClientNetwork;
use crate::http::slots::ConnectionSlot;
use crate::metrics;
use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tickwire_core::ids::Millis;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// How long a peer may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// To send the head of a request, from its first byte; for the first request, from the start of the connection. A
    /// body has the same time after its head.
    pub head: Duration,
    /// To send another request.
    pub idle: Duration,
    /// To take an answer.
    pub write: Duration,
}

impl Deadlines {
    fn of(&self, phase: Phase) -> Duration {
        match phase {
            Phase::Head => self.head,
            Phase::Answering => self.write,
            // The node has deadlines of its own for its work.
            Phase::Working | Phase::Idle => self.idle,
        }
    }
}

/// What a connection does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// A request is arriving.
    Head,
    /// A request has arrived completely, and its answer is not there yet.
    Working,
    /// An answer is being sent.
    Answering,
    /// The connection waits for the next request.
    Idle,
}

impl Phase {
    fn as_str(self) -> &'static str {
        match self {
            Self::Head => "head",
            Self::Answering => "write",
            Self::Working | Self::Idle => "idle",
        }
    }
}

/// What the parts of a connection share: its slot, its phase and the start of the phase.
#[derive(Debug)]
pub(super) struct ConnectionDeadline {
    clock: Clock,
    place: ConnectionSlot,
    /// The phase in the lowest two bits, its beginning in milliseconds above.
    phase: AtomicU64,
}

impl ConnectionDeadline {
    /// A new connection, whose first request is arriving.
    pub(super) fn new(clock: Clock, place: ConnectionSlot) -> Self {
        let line = Self { clock, place, phase: AtomicU64::new(0) };
        line.enter(Phase::Head);
        line
    }

    /// A phase begins.
    pub(super) fn enter(&self, phase: Phase) {
        let now = self.clock.now();
        self.phase.store(now.0 << 2 | phase as u64, Ordering::Relaxed);
        self.place.set_served(now, matches!(phase, Phase::Working | Phase::Answering));
    }

    /// The phase and its beginning.
    fn phase(&self) -> (Phase, Millis) {
        let packed = self.phase.load(Ordering::Relaxed);
        let phase = match packed & 3 {
            0 => Phase::Head,
            1 => Phase::Working,
            2 => Phase::Answering,
            _ => Phase::Idle,
        };
        (phase, Millis(packed >> 2))
    }

    /// The connection counts for this network from now on, and no longer for that of its peer.
    pub(super) fn counts_for(&self, network: ClientNetwork) {
        self.place.counts_for(network);
    }

    /// Waits until the slot is given to another connection.
    pub(super) async fn displaced(&self) {
        self.place.displaced().await;
    }
}

/// A connection that ends when its peer takes too long.
#[derive(Debug)]
pub(super) struct Timed<S> {
    stream: S,
    line: Arc<ConnectionDeadline>,
    deadlines: Deadlines,
    timer: Pin<Box<Sleep>>,
}

impl<S> Timed<S> {
    pub(super) fn new(stream: S, line: Arc<ConnectionDeadline>, deadlines: Deadlines) -> Self {
        Self { stream, line, deadlines, timer: Box::pin(sleep_until(Instant::now())) }
    }

    /// The connection, without deadlines.
    pub(super) fn into_inner(self) -> S {
        self.stream
    }

    /// The stream is pending: also waits for the deadline.
    fn check(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let (phase, since) = self.line.phase();
        let deadline = self.line.clock.at(since) + self.deadlines.of(phase);
        if self.timer.deadline() != deadline {
            self.timer.as_mut().reset(deadline);
        }
        self.timer.as_mut().poll(cx).map(|()| {
            metrics::HTTP_TIMEOUTS.with(phase.as_str()).increment(1);
            ErrorKind::TimedOut.into()
        })
    }

    /// The poll result, or a timeout if it is pending and the time is up.
    fn timed<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match polled {
            Poll::Pending => self.check(cx).map(Err),
            ready @ Poll::Ready(_) => ready,
        }
    }

    /// Notes that an answer is written, even if only to a request that could not be read.
    fn writes(&self) {
        if self.line.phase().0 != Phase::Answering {
            self.line.enter(Phase::Answering);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Timed<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before && self.line.phase().0 == Phase::Idle {
            self.line.enter(Phase::Head);
        }
        self.timed(cx, polled)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Timed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.writes();
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.timed(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.writes();
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.timed(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    // The HTTP server flushes when it has written everything, and also when it has nothing to write.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        if matches!(polled, Poll::Ready(Ok(()))) && self.line.phase().0 == Phase::Answering {
            self.line.enter(Phase::Idle);
        }
        self.timed(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.timed(cx, polled)
    }
}
