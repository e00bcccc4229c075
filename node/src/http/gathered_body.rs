//! The body of a request in large pieces.
//!
//! The HTTP server passes on what each read brings, and each chunk, as a piece of its own. Every piece keeps the buffer of
//! its read, which has 8 KiB or more. Handlers keep all pieces until the body is complete. So a peer that sends single
//! bytes would take thousands of times their memory.
//!
//! Its end is the end of the request: from then on the peer waits, and the node works.

use super::deadlines::{ConnectionDeadline, Phase};
use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Frame, SizeHint};
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// The least bytes of a piece, unless it is the last one.
const PIECE_BYTES: usize = 16 * 1024;

/// A body whose pieces are copied into larger ones. It has no trailers.
#[derive(Debug)]
pub(super) struct GatheredBody<B> {
    body: B,
    gathered: BytesMut,
    has_ended: bool,
    line: Arc<ConnectionDeadline>,
}

impl<B: Body> GatheredBody<B> {
    /// The body of a request whose head has arrived on this connection.
    pub(super) fn new(body: B, line: Arc<ConnectionDeadline>) -> Self {
        let has_ended = body.is_end_stream();
        line.enter(if has_ended { Phase::Working } else { Phase::Head });
        Self { body, gathered: BytesMut::new(), has_ended, line }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for GatheredBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        while !self.has_ended && self.gathered.len() < PIECE_BYTES {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.gathered.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => {
                    self.has_ended = true;
                    self.line.enter(Phase::Working);
                }
            }
        }
        let piece = mem::take(&mut self.gathered).freeze();
        Poll::Ready((!piece.is_empty()).then(|| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended && self.gathered.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, gathered) = (self.body.size_hint(), self.gathered.len() as u64);
        let mut hint = SizeHint::new();
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(gathered));
        }
        hint.set_lower(rest.lower().saturating_add(gathered));
        hint
    }
}
