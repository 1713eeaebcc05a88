//! One caller's connection. While the gateway closes it reads as ended as soon as nothing is under way on it and nothing
//! more has come: actix-http then closes it in good order.
//!
//! actix-http has a signal of its own for that, but a request that has been read behind it is never answered: its caller
//! meets a silent end. Here what has been sent is read first.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;

/// How far the gateway's end has come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Stage {
    /// Connections are taken.
    Open,
    /// No more connections are taken; those that wait to be are the last.
    Shut,
    /// Connections end once they are idle.
    Closing,
    /// Those without a whole request end, too: new ones, half a head, the rest of a refused body.
    Cutting,
}

/// Resolves when the gateway has come to `stage`, or its handle is gone.
pub(super) async fn until(mut stage: watch::Receiver<Stage>, is: Stage) {
    // An error means that the handle is gone.
    drop(stage.wait_for(|now| *now >= is).await);
}

/// What is under way on a connection.
#[derive(Clone, Default)]
pub(super) struct Activity(Rc<Doings>);

#[derive(Default)]
struct Doings {
    requests: Cell<usize>,
    /// Woken when the last of them is over: then the connection may end.
    waiting: RefCell<Option<Waker>>,
}

impl Activity {
    /// A request is under way until what it gives is dropped.
    fn begin(&self) -> Busy {
        self.0.requests.set(self.0.requests.get() + 1);
        Busy(Rc::clone(&self.0))
    }
}

/// A request under way.
pub(super) struct Busy(Rc<Doings>);

impl Drop for Busy {
    fn drop(&mut self) {
        let left = self.0.requests.get() - 1;
        self.0.requests.set(left);
        if left == 0
            && let Some(waiting) = self.0.waiting.take()
        {
            waiting.wake();
        }
    }
}

/// Keeps the connection of `request` busy; hand what it gives to [`until_sent`] with the response.
pub(super) fn begin(request: &ServiceRequest) -> Option<Busy> {
    request.conn_data::<Activity>().map(Activity::begin)
}

/// Keeps a connection busy until a streamed `response` is at its end or given up. A whole one is as good as written.
pub(super) fn until_sent(busy: Option<Busy>, response: ServiceResponse<BoxBody>) -> ServiceResponse<BoxBody> {
    match (busy, response.response().body().size()) {
        (Some(busy), BodySize::Stream) => response.map_body(|_, body| BoxBody::new(BusyBody { body, _busy: busy })),
        _ => response,
    }
}

/// A body that keeps its connection busy.
struct BusyBody {
    body: BoxBody,
    _busy: Busy,
}

impl MessageBody for BusyBody {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(cx)
    }
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

/// The socket, as actix-http sees it.
pub(super) struct Connection {
    stream: TcpStream,
    activity: Activity,
    last: Last,
    stage: watch::Receiver<Stage>,
    /// The next stage that matters. Polled when there is nothing to read.
    next: Pin<Box<dyn Future<Output = ()>>>,
    reached: Stage,
}

impl Connection {
    pub(super) fn new(stream: TcpStream, stage: watch::Receiver<Stage>) -> Self {
        let next = Box::pin(until(stage.clone(), Stage::Closing));
        Self { stream, activity: Activity::default(), last: Last::Read, stage, next, reached: Stage::Open }
    }

    pub(super) fn activity(&self) -> &Activity {
        &self.activity
    }

    /// Nothing is there to read: whether that is the end.
    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.reached < Stage::Cutting && self.next.as_mut().poll(cx).is_ready() {
            self.reached = if self.reached < Stage::Closing { Stage::Closing } else { Stage::Cutting };
            self.next = Box::pin(until(self.stage.clone(), Stage::Cutting));
        }
        let is_idle = match self.last {
            Last::Wrote => self.reached >= Stage::Closing,
            Last::Read => self.reached >= Stage::Cutting,
            Last::Blocked => false,
        };
        if is_idle && self.activity.0.requests.get() == 0 {
            return Poll::Ready(());
        }
        if self.reached >= Stage::Closing {
            self.activity.0.waiting.replace(Some(cx.waker().clone()));
        }
        Poll::Pending
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_read(cx, buf) {
            Poll::Pending => self.poll_over(cx).map(Ok),
            ready => {
                self.last = Last::Read;
                ready
            }
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.last = if written.is_pending() { Last::Blocked } else { Last::Wrote };
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
