//! The way of a stream's bytes from the request actor straight to the caller: bounded, and with an end that says what
//! it is. A channel that merely closes is a stream that broke: its writer died.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::{Error, ErrorKind};

/// Pieces that may wait to be read. A piece is some 16 KiB, or one event where that is larger.
const PIECES: usize = 16;

type End = Arc<OnceLock<Result<(), Error>>>;

/// A stream from its writer to its reader.
pub(crate) fn stream() -> (StreamSender, StreamBody) {
    let (pieces, received) = mpsc::channel(PIECES);
    let end = End::default();
    (
        StreamSender { pieces, end: Arc::clone(&end) },
        StreamBody { pieces: received, end, hold: Hold::None, told: false },
    )
}

/// Kept by whoever knows when the writer can write no more, though it is still there: on a thread that is blocked.
/// Dropped, it breaks a stream that its writer has not ended.
#[derive(Debug)]
pub(crate) struct Tether(#[expect(dead_code, reason = "it matters when it is dropped")] oneshot::Sender<Infallible>);

enum Hold {
    /// The writer alone ends it.
    None,
    Tether(oneshot::Receiver<Infallible>),
    /// There was a tether, and it has been dropped.
    Broken,
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
    hold: Hold,
    told: bool,
}

impl StreamBody {
    /// Ties it to something besides its writer.
    pub(crate) fn tether(&mut self) -> Tether {
        let (tether, held) = oneshot::channel();
        self.hold = Hold::Tether(held);
        Tether(tether)
    }

    /// The next piece: whole server-sent events. `None` comes only behind a stream's proper end; an error is the last
    /// thing before it.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        if self.told {
            return Poll::Ready(None);
        }
        if let Some(piece) = ready!(self.poll_piece(cx)) {
            return Poll::Ready(Some(Ok(piece)));
        }
        self.told = true;
        Poll::Ready(match self.end.get() {
            Some(Ok(())) => None,
            Some(Err(error)) => Some(Err(error.clone())),
            None => Some(Err(Error::new(ErrorKind::WorkerCrashed, "the request actor crashed in mid-stream"))),
        })
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Poll::Ready(piece) = self.pieces.poll_recv(cx) {
            return Poll::Ready(piece);
        }
        match &mut self.hold {
            Hold::None => return Poll::Pending,
            Hold::Tether(held) => _ = ready!(Pin::new(held).poll(cx)),
            Hold::Broken => {}
        }
        self.hold = Hold::Broken;
        // What the writer said before that counts, its end above all.
        match self.pieces.try_recv() {
            Ok(piece) => Poll::Ready(Some(piece)),
            Err(_) => {
                self.pieces.close();
                Poll::Ready(None)
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    fn said(body: &mut StreamBody) -> Option<String> {
        let said = body.next().now_or_never()?;
        Some(said.map_or("the end".into(), |said| match said {
            Ok(piece) => String::from_utf8_lossy(&piece).into_owned(),
            Err(error) => error.code().to_owned(),
        }))
    }

    #[test]
    fn a_tether_that_is_dropped_breaks_only_a_stream_that_has_not_ended() {
        let piece = || Bytes::from_static(b"piece");
        for ends in [false, true] {
            let (send, mut body) = stream();
            let tether = body.tether();
            assert_eq!(said(&mut body), None);
            send.send(piece()).now_or_never().expect("there is room").expect("it is read");
            let writer = if ends {
                send.end(Ok(()));
                None
            } else {
                Some(send)
            };
            drop(tether);
            assert_eq!(said(&mut body).as_deref(), Some("piece"));
            let end = if ends { "the end" } else { "worker_crashed" };
            assert_eq!(said(&mut body).as_deref(), Some(end));
            assert_eq!(said(&mut body).as_deref(), Some("the end"));
            assert!(writer.is_none_or(|send| send.send(piece()).now_or_never().expect("it is told").is_err()));
        }
    }
}
