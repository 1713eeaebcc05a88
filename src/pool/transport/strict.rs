//! The stream between awc and the wire, above TLS: it lets awc see only answers that awc reads right.
//!
//! awc takes a 1xx for the answer and gives the true one to the connection's next caller; takes a cut body for a whole
//! one; reads a body without a length as empty and keeps the connection; and loses an answer that comes while it
//! still uploads. All four are cured here, by watching the bytes:
//!
//! - *Idle*: awc checks a kept connection by one read before it reuses it. Anything but "nothing there yet" makes it
//!   dial anew, so an error here is how a connection is kept from carrying another exchange. What has arrived by then is
//!   looked for on the socket itself. What arrives later cannot be told from the answer: HTTP/1.1 has no names for them.
//! - *Head*, from the first byte written: interim heads are taken out, the final head is handed up whole.
//! - *Body*: counted along. The end of the stream is an error unless it ends the body.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::framing::Framing;
use super::handshake;
use super::head::{Broken, HEAD_CAP, Head, Scan, examine};
use super::trace::Exchange;
use super::wire::Carrier;

/// How much is read at once while a head is awaited beside an upload.
const READ: usize = 8 * 1024;

/// How much of an answer is read before its request is sent.
const AHEAD: usize = 1 << 20;

/// A stream that carries one exchange after another and vouches for each. See the module.
#[derive(Debug)]
pub(super) struct Strict<T: Carrier> {
    /// The wire: TCP, or TLS over it.
    io: T,
    /// Whether a failed first write means that not a byte left. TLS may have sent a record before it failed.
    exact: bool,
    state: State,
    /// Received and not handed up yet: a head that is not whole, or what came with one.
    held: BytesMut,
    /// The answer's status, once its head is held.
    status: u16,
    /// Bytes of heads in this exchange, interim ones included: what the cap is on.
    heads: usize,
    /// Whether this connection must carry no other exchange.
    spent: bool,
    /// Whether the answer came before the upload ended.
    early: Early,
    /// Why writing failed, while it is not known whether an answer came before.
    broken: Option<io::Error>,
    /// The exchange being carried, to tell what was written.
    exchange: Option<Rc<Exchange>>,
    /// Whether an exchange was carried before.
    used: bool,
}

/// An answer that came while the upload stood still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Early {
    /// None did.
    No,
    /// It is a 2xx: a peer that streams may go on reading, and may need the rest. The upload goes on until it fails, or
    /// the answer is complete without it.
    Welcome,
    /// It is a refusal, it is complete, or the upload has failed: the rest of the upload goes nowhere.
    Final,
}

#[derive(Debug)]
enum State {
    Idle,
    Head(Scan),
    Body(Framing),
}

impl<T: Carrier> Strict<T> {
    /// Watches over `io`. `exact`: a write to it that fails has sent nothing.
    pub(super) fn new(io: T, exact: bool) -> Self {
        Self {
            io,
            exact,
            state: State::Idle,
            held: BytesMut::new(),
            status: 0,
            heads: 0,
            spent: false,
            early: Early::No,
            broken: None,
            exchange: None,
            used: false,
        }
    }

    /// The first write of an exchange.
    fn begin(&mut self) -> io::Result<()> {
        if self.spent || !self.held.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotConnected, "this connection carries no other exchange"));
        }
        self.state = State::Head(Scan::default());
        self.heads = 0;
        self.exchange = Exchange::current();
        if let Some(exchange) = &self.exchange {
            exchange.carried_by(self.used);
        }
        self.used = true;
        Ok(())
    }

    fn touch(&self) {
        if let Some(exchange) = &self.exchange {
            exchange.touch();
        }
    }

    fn hear(&self) {
        if let Some(exchange) = &self.exchange {
            exchange.hear();
        }
    }

    /// The body's first bytes came with the head, or its next ones came.
    fn follow(&mut self, mut body: Framing, bytes: &[u8]) {
        self.spent |= !body.take(bytes);
        self.state = if body.complete() { State::Idle } else { State::Body(body) };
    }

    /// Takes interim heads out of what is held; whether the final head is there, and the state with it.
    fn sift(&mut self) -> Result<bool, Broken> {
        while let State::Head(scan) = &mut self.state {
            if scan.fresh() {
                // Empty lines before a head are allowed, and some peers end a body with one too many.
                let blank = self.held.iter().take_while(|&&b| matches!(b, b'\r' | b'\n')).count();
                self.held.advance(blank);
                self.heads += blank;
            }
            if self.heads + self.held.len() > HEAD_CAP + READ {
                return Err(Broken("heads of more than 128 KiB")); // the last read may hold some of the body
            }
            if self.held.is_empty() {
                return Ok(false);
            }
            match examine(&mut self.held, scan)? {
                None => return Ok(false),
                Some(Head::Interim(len)) => {
                    self.held.advance(len);
                    self.heads += len;
                    *scan = Scan::default();
                }
                Some(Head::Final { len, status, body, reusable }) => {
                    self.spent |= !reusable;
                    self.status = status;
                    let held = std::mem::take(&mut self.held);
                    self.follow(body, &held[len..]);
                    self.held = held;
                    return Ok(true);
                }
            }
        }
        Ok(true)
    }

    /// Reads until the final head is held.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.sift()? {
            let mut space = [0; READ];
            let mut buf = ReadBuf::new(&mut space);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut buf))?;
            if buf.filled().is_empty() {
                return Poll::Ready(Err(ended("before the answer")));
            }
            self.hear();
            self.held.extend_from_slice(buf.filled());
        }
        Poll::Ready(Ok(()))
    }

    /// The upload does not get on: has the peer answered already? awc reads nothing before it has written all, so then
    /// the rest of the upload is swallowed, and this is ready.
    ///
    /// A write that failed is told only when reading has come to its end too: the peer may have answered and then reset.
    fn poll_early(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.early == Early::No {
            if let Err(error) = ready!(self.poll_head(cx)) {
                // TLS says why it ended in what is read: the write only met the end.
                let broken = self.broken.take().filter(|_| handshake::of(&error).is_none());
                return Poll::Ready(Err(broken.unwrap_or(error)));
            }
            self.spent = true; // what is written from here on must not be taken for another exchange
            self.early = if self.status < 300 { Early::Welcome } else { Early::Final };
        }
        if self.early == Early::Welcome && self.broken.is_none() {
            ready!(self.poll_ahead(cx)); // woken by this, or by the write that did not get on
        }
        self.early = Early::Final;
        Poll::Ready(Ok(()))
    }

    /// Reads on behind the head while the upload stands still, until nothing more comes of it.
    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let State::Body(framing) = &mut self.state {
            if framing.lost() {
                break; // an answer that failed needs no more of its request
            }
            if self.held.len() > AHEAD {
                return Poll::Pending;
            }
            let mut space = [0; READ];
            let mut buf = ReadBuf::new(&mut space);
            let read = ready!(Pin::new(&mut self.io).poll_read(cx, &mut buf));
            let new = buf.filled();
            if read.is_err() || new.is_empty() {
                break; // whoever reads the body comes upon it again
            }
            self.spent |= !framing.take(new);
            self.held.extend_from_slice(new);
            if framing.complete() {
                self.state = State::Idle;
            }
        }
        Poll::Ready(())
    }

    /// Hands up what is held.
    fn serve(&mut self, buf: &mut ReadBuf<'_>) {
        let len = self.held.len().min(buf.remaining());
        buf.put_slice(&self.held[..len]);
        self.held.advance(len);
        if self.held.is_empty() {
            self.held = BytesMut::new(); // thousands of kept connections need no buffer
        }
    }
}

/// awc mostly says so itself, but waits for more of some that it takes for trailers.
const NO_CHUNKS: Broken = Broken("a body that is not the chunks it must be");

fn ended(when: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, format!("closed {when}"))
}

impl<T: Carrier> AsyncRead for Strict<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if !matches!(this.state, State::Head(_)) && !this.held.is_empty() {
            this.serve(buf);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        match &mut this.state {
            State::Idle if this.spent => {
                Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, "not to be used again")))
            }
            State::Idle => {
                match Pin::new(&mut this.io).poll_read(cx, buf) {
                    Poll::Pending if !this.io.has_news() => return Poll::Pending,
                    Poll::Pending => {}
                    Poll::Ready(read) => read?,
                }
                this.spent = true; // nothing was asked, so whatever this is, it is not an answer
                if buf.filled().len() == before { Poll::Ready(Err(ended("while idle"))) } else { Poll::Ready(Ok(())) }
            }
            State::Head(scan) => {
                if this.held.is_empty() && scan.fresh() {
                    // The common case: the head comes whole and is final, and can stay where awc wants it.
                    ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
                    let new = &mut buf.filled_mut()[before..];
                    if new.is_empty() {
                        return Poll::Ready(Err(ended("before the answer")));
                    }
                    this.hear();
                    if new.starts_with(b"HTTP/")
                        && let Some(Head::Final { len, body, reusable, .. }) = examine(new, &mut Scan::default())?
                    {
                        this.spent |= !reusable;
                        this.follow(body, &buf.filled()[before + len..]);
                        return Poll::Ready(Ok(()));
                    }
                    this.held.extend_from_slice(&buf.filled()[before..]);
                    buf.set_filled(before);
                }
                ready!(this.poll_head(cx))?;
                this.serve(buf);
                Poll::Ready(Ok(()))
            }
            State::Body(framing) if framing.lost() => Poll::Ready(Err(NO_CHUNKS.into())),
            State::Body(framing) => {
                ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
                let new = &buf.filled()[before..];
                if new.is_empty() {
                    return Poll::Ready(if *framing == Framing::ToEof {
                        Ok(())
                    } else {
                        Err(ended("within the body"))
                    });
                }
                this.spent |= !framing.take(new);
                if framing.lost() {
                    buf.set_filled(before);
                    return Poll::Ready(Err(NO_CHUNKS.into()));
                }
                if framing.complete() {
                    this.state = State::Idle;
                }
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl<T: Carrier> AsyncWrite for Strict<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match this.state {
            _ if this.early == Early::Final => return Poll::Ready(Ok(bytes.len())),
            _ if this.early == Early::Welcome => {}
            State::Idle => this.begin()?,
            State::Head(_) => {}
            // awc took the answer for complete when it was not: nobody may send into that.
            State::Body(_) => return Poll::Ready(Err(Broken("an exchange within another's answer").into())),
        }
        if this.broken.is_none() {
            match Pin::new(&mut this.io).poll_write(cx, bytes) {
                Poll::Ready(Ok(written)) => {
                    if written > 0 {
                        this.touch();
                    }
                    return Poll::Ready(Ok(written));
                }
                Poll::Ready(Err(error)) => {
                    if !this.exact {
                        this.touch();
                    }
                    this.broken = Some(error);
                }
                Poll::Pending => {}
            }
        }
        ready!(this.poll_early(cx))?;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.early == Early::Final {
            return Poll::Ready(Ok(()));
        }
        let uploading = matches!(this.state, State::Head(_)) || this.early == Early::Welcome;
        if this.broken.is_none() {
            match Pin::new(&mut this.io).poll_flush(cx) {
                Poll::Ready(Err(error)) if uploading => this.broken = Some(error),
                Poll::Pending if uploading => {}
                other => return other,
            }
        }
        this.poll_early(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

impl<T: Carrier> Drop for Strict<T> {
    /// awc just drops what it does not keep; under TLS the peer should be told.
    fn drop(&mut self) {
        if !self.exact {
            let _ = Pin::new(&mut self.io).poll_shutdown(&mut Context::from_waker(Waker::noop()));
        }
    }
}
