//! A caller's connection, watched where actix-http does not watch: it times the first head of a connection only, a wait for
//! the rest of a body that nobody reads not at all, and no write. A caller that does not do its part is cut here.
//!
//! What is owed depends on whose turn it is, and only [`super::guard`] knows when a request has begun and when its answer
//! has been given: it takes an [`Answering`] from the connection's [`Talk`] for as long. While one is held the caller owes
//! nothing, however long its call waits and however silent its stream is.
//!
//! - Something to write is not taken: [`TAKE_MIN_BYTES`] within each [`TAKE_WINDOW`], or the connection is reset.
//! - Nothing is being answered and bytes have come: the head they begin must be there within [`HEAD_TIMEOUT`].
//! - Nothing is being answered and nothing comes: the connection is closed after [`KEEP_ALIVE`]. Not by actix-http's timer,
//!   which starts anew whenever the connection is polled.
//! - A request has been read whole and is being answered: at most about [`AHEAD_MAX_BYTES`] of what comes behind it are read.
//!   actix-http keeps itself busy for as long as its buffer is full of requests that it has no room for, and forgets what is
//!   left there unless it is polled once more.
//!
//! While the gateway closes, a connection reads as ended as soon as nothing is under way on it and nothing more has come:
//! actix-http then closes it in good order. actix-http has a signal of its own for that, but a request that has been read
//! behind it is never answered: its caller meets a silent end. Here what has been sent is read first.

#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::stage::{Stage, until};
use crate::clock::{self, Instant};
use crate::telemetry;

/// How long a head may take.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(20);

/// How long an idle connection is kept: longer than the pools of the usual clients keep theirs, so that they close first.
const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// A caller for whom something waits to be written must take some of it within such a window.
const TAKE_WINDOW: Duration = Duration::from_secs(60);

/// 256 B/s over a window. What counts is what the kernel takes from us, and that goes in steps of some 200 KiB (measured over
/// loopback): a caller that reads less than such a step in a window, some 3.5 KiB/s, may be cut although it reads.
const TAKE_MIN_BYTES: usize = 15 * 1024;

/// What is read in one turn. actix-http would read up to 128 KiB before it looks at any of it, on every connection.
const TURN_BYTES: usize = 8 * 1024;

/// actix-http's buffer grows, and it would be filled in one turn: a thousand large bodies would take 100 KiB more each.
const ROOM_MAX_BYTES: usize = 2 * TURN_BYTES;

/// What a caller may send ahead while it is answered. The rest waits in the kernel.
const AHEAD_MAX_BYTES: usize = 4 * 1024;

/// What lies below a [`Connection`].
pub(super) trait Socket: AsyncRead + AsyncWrite + Unpin + 'static {
    /// Makes closing reset the connection from now on: what has not gone out is thrown away, and what has is not taken
    /// for all there is.
    fn reset_when_closed(&self);
}

impl Socket for TcpStream {
    fn reset_when_closed(&self) {
        // A socket that refuses is gone already.
        drop(socket2::SockRef::from(self).set_linger(Some(Duration::ZERO)));
    }
}

/// What guard and connection tell each other.
#[derive(Default)]
struct Exchange {
    /// Requests that have begun so far.
    begun: Cell<u64>,
    /// Whether one of them is being answered.
    answering: Cell<bool>,
    /// Whether the last one has been read to its end.
    whole: Cell<bool>,
    /// Whether the answer has no end but the connection's.
    unframed: Cell<bool>,
    /// Whether all of such an answer has been given.
    complete: Cell<bool>,
    /// Woken when the answer has been given: then the connection may end, or more may be read.
    waiting: RefCell<Option<Waker>>,
}

/// The guard's end of a connection; requests carry it.
pub(super) struct Talk(Rc<Exchange>);

impl Talk {
    /// A request has begun.
    pub(super) fn begin(&self) -> Answering {
        self.0.begun.set(self.0.begun.get() + 1);
        self.0.answering.set(true);
        self.0.whole.set(false);
        Answering(Rc::clone(&self.0))
    }

    /// The request that has begun has been read to its end.
    pub(super) fn is_whole(&self) {
        self.0.whole.set(true);
    }
}

/// Held while a request is being answered.
pub(super) struct Answering(Rc<Exchange>);

impl Answering {
    /// The answer has no framing: unless it is said to be complete, the connection ends with a reset.
    pub(super) fn is_unframed(&self) {
        self.0.unframed.set(true);
    }

    /// All of the answer has been given.
    pub(super) fn complete(&self) {
        self.0.complete.set(true);
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.answering.set(false);
        if let Some(waiting) = self.0.waiting.take() {
            waiting.wake();
        }
    }
}

/// A connection that is cut when the caller does not do its part. The watch lives on the polls of whoever reads and
/// writes: it wakes that task.
pub(super) struct Connection<S: Socket> {
    socket: S,
    exchange: Rc<Exchange>,
    /// What `exchange.begun` was when last looked at.
    begun: u64,
    /// Until when the caller must have done what it owes, while it is the caller's turn.
    owed: Option<Owed>,
    /// Set while there is something to write that the socket does not take.
    taking: Option<Taking>,
    /// Wakes in time for whatever is due next; not set anew when that moves further away.
    alarm: Option<Alarm>,
    /// What has been read in this turn.
    read: usize,
    /// Bytes read while a request that is whole was being answered.
    ahead: usize,
    /// Whether our half was closed in order.
    is_shut: bool,
    last: Last,
    stage: watch::Receiver<Stage>,
    /// The next stage that matters. Polled when there is nothing to read.
    next: Pin<Box<dyn Future<Output = ()>>>,
    reached: Stage,
}

/// What was last done on a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    /// It is new, or bytes have come: there may be more to them.
    Read,
    /// All that was to be written has been.
    Wrote,
    /// The caller does not take more at the moment.
    Blocked,
}

/// What the caller owes while nothing is being answered.
#[derive(Clone, Copy)]
struct Owed {
    until: Instant,
    what: What,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    /// Another request, or the rest of a body that nobody reads.
    Request,
    /// The rest of a head.
    Head,
    /// To take its answer.
    Taking,
}

/// A window within which the caller must take [`TAKE_MIN_BYTES`].
struct Taking {
    until: Instant,
    taken: usize,
}

struct Alarm {
    at: Instant,
    sleep: Pin<Box<dyn Future<Output = ()>>>,
}

impl<S: Socket> Connection<S> {
    /// A connection that has been accepted; `stage` says how far the gateway's end has come.
    pub(super) fn new(socket: S, stage: watch::Receiver<Stage>) -> Self {
        Self {
            socket,
            exchange: Rc::default(),
            begun: 0,
            owed: None,
            taking: None,
            alarm: None,
            read: 0,
            ahead: 0,
            is_shut: false,
            last: Last::Read,
            next: Box::pin(until(stage.clone(), Stage::Closing)),
            stage,
            reached: Stage::Open,
        }
    }

    /// The guard's end.
    pub(super) fn talk(&self) -> Talk {
        Talk(Rc::clone(&self.exchange))
    }

    /// Whether the caller has the next word. Forgets what it owed when it has not, or has had it in between.
    fn is_callers_turn(&mut self) -> bool {
        let begun = self.exchange.begun.get();
        let is_turn = !self.exchange.answering.get() && self.taking.is_none();
        if begun != self.begun || !is_turn {
            self.begun = begun;
            self.owed = None;
        }
        is_turn
    }

    /// Bytes have come. The first of a head start its time; others that come while it is the caller's turn do not.
    fn heard(&mut self) {
        if self.is_callers_turn() && self.owed.is_none_or(|owed| owed.what != What::Head) {
            self.owed = Some(Owed { until: clock::now() + HEAD_TIMEOUT, what: What::Head });
        }
    }

    /// By when the caller must do something, and what.
    fn due(&mut self) -> Option<Owed> {
        if let Some(taking) = &self.taking {
            return Some(Owed { until: taking.until, what: What::Taking });
        }
        if !self.is_callers_turn() {
            return None;
        }
        Some(*self.owed.get_or_insert_with(|| Owed { until: clock::now() + KEEP_ALIVE, what: What::Request }))
    }

    /// Ready when the caller should have done something by now. Wakes the task in time otherwise.
    fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<What> {
        while let Some(due) = self.due() {
            let alarm = match &mut self.alarm {
                Some(alarm) if alarm.at <= due.until => alarm,
                alarm => alarm.insert(Alarm { at: due.until, sleep: Box::pin(clock::until(due.until)) }),
            };
            ready!(alarm.sleep.as_mut().poll(cx));
            let is_due = alarm.at >= due.until;
            self.alarm = None;
            match &mut self.taking {
                _ if !is_due => {}
                Some(taking) if taking.taken >= TAKE_MIN_BYTES => {
                    *taking = Taking { until: clock::now() + TAKE_WINDOW, taken: 0 };
                }
                _ => return Poll::Ready(due.what),
            }
        }
        Poll::Pending
    }

    /// Ready when the caller should have done something by now: `Ok` when the connection is to be closed for that, an error
    /// when it is cut.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let why = match ready!(self.poll_due(cx)) {
            What::Request => return Poll::Ready(Ok(())),
            What::Head => "its head took too long",
            What::Taking => {
                // What the kernel holds for it is given back at once, too.
                self.socket.reset_when_closed();
                "it took too little of its answer"
            }
        };
        telemetry::gateway::caller_cut(why);
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)))
    }
}

impl<S: Socket> Connection<S> {
    /// Nothing is there to read: ready when that is the end, since the gateway closes.
    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.reached < Stage::Cutting && self.next.as_mut().poll(cx).is_ready() {
            self.reached = if self.reached < Stage::Closing { Stage::Closing } else { Stage::Cutting };
            self.next = Box::pin(until(self.stage.clone(), Stage::Cutting));
        }
        let is_idle = match self.last {
            // What is left of a body that was refused may come, so that the refusal arrives.
            Last::Wrote if self.exchange.whole.get() => self.reached >= Stage::Closing,
            Last::Wrote | Last::Read => self.reached >= Stage::Cutting,
            Last::Blocked => false,
        };
        if is_idle && !self.exchange.answering.get() {
            return Poll::Ready(());
        }
        if self.reached >= Stage::Closing || self.ahead > 0 {
            self.exchange.waiting.replace(Some(cx.waker().clone()));
        }
        Poll::Pending
    }
}

impl<S: Socket> Drop for Connection<S> {
    fn drop(&mut self) {
        // The end of the connection would be taken for the end of the answer.
        if self.exchange.unframed.get() && !(self.exchange.complete.get() && self.is_shut) {
            self.socket.reset_when_closed();
        }
    }
}

impl<S: Socket> AsyncRead for Connection<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.read >= TURN_BYTES {
            this.read = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let is_ahead = this.exchange.answering.get() && this.exchange.whole.get();
        if !is_ahead {
            this.ahead = 0;
        }
        let read = match this.ahead < AHEAD_MAX_BYTES {
            true if buffer.remaining() > ROOM_MAX_BYTES => {
                let mut turn = ReadBuf::new(buffer.initialize_unfilled_to(TURN_BYTES));
                let read = Pin::new(&mut this.socket).poll_read(cx, &mut turn);
                let bytes = turn.filled().len();
                buffer.advance(bytes);
                read
            }
            true => Pin::new(&mut this.socket).poll_read(cx, buffer),
            false => Poll::Pending,
        };
        match read {
            // Nothing read is the caller's end of file: actix closes in order then.
            Poll::Pending => {
                this.read = 0;
                match this.poll_end(cx) {
                    Poll::Pending => this.poll_over(cx).map(Ok),
                    end => end,
                }
            }
            ready => {
                this.last = Last::Read;
                let bytes = buffer.filled().len() - before;
                this.read += bytes;
                if is_ahead {
                    this.ahead += bytes;
                }
                if bytes > 0 {
                    this.heard();
                }
                ready
            }
        }
    }
}

impl<S: Socket> AsyncWrite for Connection<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.socket).poll_write(cx, bytes);
        this.last = if written.is_pending() { Last::Blocked } else { Last::Wrote };
        match &written {
            Poll::Pending => {
                this.taking.get_or_insert_with(|| Taking { until: clock::now() + TAKE_WINDOW, taken: 0 });
                this.poll_end(cx).map(|end| end.and(Err(io::ErrorKind::TimedOut.into())))
            }
            Poll::Ready(result) => {
                if let (Some(taking), Ok(taken)) = (&mut this.taking, result) {
                    taking.taken += taken;
                }
                written
            }
        }
    }

    /// actix-http flushes when it has nothing left to write.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.socket).poll_flush(cx))?;
        if this.taking.take().is_some() {
            // It may have been read for the last time before this; whether it is over now is for a read to say.
            cx.waker().wake_by_ref();
        }
        // Nobody need read or write again before something is due. Whether it is due already is for a read to say: the
        // next request may lie in actix-http's buffer.
        if this.poll_due(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.is_shut = true;
        Pin::new(&mut this.socket).poll_shutdown(cx)
    }
}
