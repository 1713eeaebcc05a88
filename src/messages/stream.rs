//! The way of a stream's bytes from the request actor straight to the caller: bounded, and with an end that says what
//! it is. A channel that merely closes is a stream that broke: its writer died.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{Error, ErrorKind};

/// Pieces that may wait to be read. A piece is some 16 KiB, or one event where that is larger.
const PIECES: usize = 16;

type End = Arc<OnceLock<Result<(), Error>>>;

/// A stream from its writer to its reader.
pub(crate) fn stream() -> (StreamSender, StreamBody) {
    let (pieces, received) = mpsc::channel(PIECES);
    let end = End::default();
    (StreamSender { pieces, end: Arc::clone(&end) }, StreamBody { pieces: received, end, told: false })
}

/// The writing end. Dropped without [`StreamSender::end`] it tells the reader that the stream broke.
#[derive(Debug)]
pub(crate) struct StreamSender {
    pieces: mpsc::Sender<Bytes>,
    end: End,
}

impl StreamSender {
    /// Hands over whole events; waits while the reader is behind.
    ///
    /// # Errors
    /// The reader is gone.
    pub(crate) async fn send(&self, events: Bytes) -> Result<(), ()> {
        self.pieces.send(events).await.map_err(|_| ())
    }

    /// Waits until the reader is gone.
    pub(crate) async fn closed(&self) {
        self.pieces.closed().await;
    }

    /// Says how the stream ended. What was sent before is still read.
    pub(crate) fn end(self, end: Result<(), Error>) {
        // Set once, here: `end` takes the only writer.
        let _ = self.end.set(end);
    }
}

/// The events of a stream, as the upstream wrote them. Dropping it calls the stream off.
pub struct StreamBody {
    pieces: mpsc::Receiver<Bytes>,
    end: End,
    told: bool,
}

impl StreamBody {
    /// The next piece: whole server-sent events. `None` comes only behind a stream's proper end; an error is the last
    /// thing before it.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        if let Some(piece) = ready!(self.pieces.poll_recv(cx)) {
            return Poll::Ready(Some(Ok(piece)));
        }
        if std::mem::replace(&mut self.told, true) {
            return Poll::Ready(None);
        }
        Poll::Ready(match self.end.get() {
            Some(Ok(())) => None,
            Some(Err(error)) => Some(Err(error.clone())),
            None => Some(Err(Error::new(ErrorKind::WorkerCrashed, "the request actor crashed in mid-stream"))),
        })
    }

    /// See [`StreamBody::poll_next`]. Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<Result<Bytes, Error>> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }
}

impl fmt::Debug for StreamBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StreamBody")
    }
}
