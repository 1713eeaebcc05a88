//! A body that is given away in pieces: actix copies what it is given before it writes, and keeps the room for that as
//! long as the connection. In one piece, a large body would be held twice, and its like long after it.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use awc::body::{BodySize, MessageBody};
use bytes::Bytes;

/// How long a piece is.
pub(crate) const PIECE_BYTES: usize = 64 * 1024;

/// What is left of a body.
pub(crate) struct InPieces(pub(crate) Bytes);

impl MessageBody for InPieces {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.0.len() as u64)
    }

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Infallible>>> {
        let rest = &mut self.get_mut().0;
        let piece = rest.split_to(rest.len().min(PIECE_BYTES));
        Poll::Ready((!piece.is_empty()).then_some(Ok(piece)))
    }
}
