//! Sockets: accepts connections on every thread of the system's and serves them there.
//!
//! actix-web's `HttpServer` runs threads of its own. Here the application is served on the system's threads, next to the
//! dispatcher and the request actors, so that a call need not cross threads (measured: a third of a call's cost).

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::fmt::Display;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix_http::Request;
use actix_service::{IntoServiceFactory, Service};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};

use super::connection::Connection;
use super::idempotency::Shelf;
use super::places::{Goes, Handed, Place, Places};
use super::protocol::{Application, Protocol, protocol};
use super::stage::{Stage, until};
use super::{Shared, app, descriptors};
use crate::clock::{self, Instant};
use crate::messages::SeatId;
use crate::system::Forebay;
use crate::telemetry;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// After so long without a byte the kernel asks whether the caller's machine is still there.
const TCP_KEEP_ALIVE: Duration = Duration::from_secs(60);

/// What the kernel keeps of an answer beyond what the caller has room for; left alone it takes megabytes for a caller that
/// reads nothing.
#[cfg(target_os = "linux")]
const UNSENT_MAX_BYTES: u32 = 256 * 1024;

/// Between two tries to accept while accepting fails, say for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(250);

/// Before the door is shut: so long newcomers are kept out while those who have begun to connect still come in.
const SETTLE: Duration = Duration::from_millis(250);

/// Behind that: so long a connection without a whole request may still bring one.
const LAST_REQUESTS: Duration = Duration::from_millis(500);

/// The HTTP face of a [`Forebay`].
pub(crate) struct Gateway;

impl Gateway {
    /// Takes the port, before anything else is started. Nothing is accepted yet.
    ///
    /// # Errors
    /// What the system says: in use, not permitted, no such address.
    pub(crate) fn bind(addr: SocketAddr) -> io::Result<TcpListener> {
        let socket = socket2::Socket::new(socket2::Domain::for_address(addr), socket2::Type::STREAM, None)?;
        // A restart must not wait for the connections of the last run; a port in use is still an error with it. Not
        // on Windows, where it would let two processes listen on one port.
        #[cfg(unix)]
        socket.set_reuse_address(true)?;
        socket.bind(&addr.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    }

    /// Serves `listener` on every thread of the system's.
    ///
    /// # Errors
    /// When the listener cannot be shared among the threads, or none of them lives.
    pub(crate) fn serve(listener: TcpListener, forebay: &Forebay) -> io::Result<GatewayHandle> {
        let seats = forebay.arbiters();
        let (handle, doorways) = GatewayHandle::new(listener, seats.len(), descriptors::for_callers())?;
        let mut serving = false;
        let shelf = Shelf::with(forebay.registry());
        for (arbiter, doorway) in seats.iter().zip(doorways) {
            let (listener, forebay) = (handle.listener.try_clone()?, forebay.clone());
            let (local_addr, draining, shelf) = (handle.local_addr, Arc::clone(&handle.draining), shelf.clone());
            serving |= arbiter.spawn_fn(move || {
                // Built on the thread it stays on: application and connections are not `Send`.
                let shared = Shared::new(forebay, Some(doorway.seat), draining).sharing(shelf).listening_at(local_addr);
                actix_rt::spawn(accept(listener, app(shared), doorway));
            });
        }
        match serving {
            true => Ok(handle),
            false => Err(io::Error::other("no thread of the system's is there to serve connections")),
        }
    }
}

/// A gateway that serves. Dropping it ends it like [`GatewayHandle::close`], which nobody waits for then.
pub(crate) struct GatewayHandle {
    local_addr: SocketAddr,
    /// The threads have it too: the last one to drop it shuts it.
    listener: TcpListener,
    draining: Arc<AtomicBool>,
    stage: watch::Sender<Stage>,
    /// Whatever accepts holds a sender; nothing is ever sent.
    shut: mpsc::Receiver<Infallible>,
    /// Whatever serves holds a sender; nothing is ever sent.
    gone: mpsc::Receiver<Infallible>,
}

impl GatewayHandle {
    /// A gateway at `listener` with room for so many connections, and the doorways of the `threads` threads that are to
    /// serve it.
    fn new(listener: TcpListener, threads: usize, room: usize) -> io::Result<(Self, Vec<Doorway>)> {
        let local_addr = listener.local_addr()?;
        let (stage, reached) = watch::channel(Stage::Open);
        let ((alive, gone), (accepts, shut)) = (mpsc::channel(1), mpsc::channel(1));
        let (places, handed) = Places::new(threads, room, alive);
        let doorway = |(index, handed)| Doorway {
            seat: SeatId(index as u16),
            index,
            places: Arc::clone(&places),
            handed,
            stage: reached.clone(),
            accepts: Some(accepts.clone()),
        };
        let doorways = handed.into_iter().enumerate().map(doorway).collect();
        Ok((Self { local_addr, listener, draining: Arc::default(), stage, shut, gone }, doorways))
    }

    /// Where it listens; the port the system chose when it was asked for port 0.
    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// From now on it is not ready and refuses new calls as `draining`. Connections are still accepted, so that a late
    /// caller is told so.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Ends it: takes no more connections, answers what was sent on those it has, closes idle ones, and the others after
    /// the response they are at. That goes on until `deadline`, or a moment where that has passed; what is left then is
    /// cut off.
    pub(crate) async fn close(self, deadline: Instant) {
        let Self { listener, stage, mut shut, mut gone, .. } = self;
        keep_newcomers_out(&listener);
        clock::until(clock::now() + SETTLE).await;
        stage.send_replace(Stage::Shut);
        drop(listener);
        // A thread that is blocked would keep the others waiting for ever.
        by(clock::now() + SETTLE, closed(&mut shut)).await;
        telemetry::gateway::door_shut();
        stage.send_replace(Stage::Closing);
        if by(clock::now() + LAST_REQUESTS, closed(&mut gone)).await {
            return;
        }
        stage.send_replace(Stage::Cutting);
        by(deadline.max(clock::now() + LAST_REQUESTS), closed(&mut gone)).await;
    }
}

/// Resolves when no sender is left.
async fn closed(all: &mut mpsc::Receiver<Infallible>) {
    while all.recv().await.is_some() {}
}

/// Whether `work` is done by `deadline`.
async fn by(deadline: Instant, work: impl Future<Output = ()>) -> bool {
    tokio::select! {
        biased;
        () = work => true,
        () = clock::until(deadline) => false,
    }
}

/// Lets the kernel ignore whoever begins to connect, while those who have begun come in: a connection that is established
/// when the listener closes is reset, whatever its caller has sent. Who is ignored asks again a second later and is
/// refused, or is let in by our successor.
#[cfg(target_os = "linux")]
fn keep_newcomers_out(listener: &TcpListener) {
    use socket2::SockFilter;
    // A filter for the kernel's packet machine, which sees the TCP header: drop what has SYN but not ACK among its flags.
    const FLAGS: u32 = 13;
    const SYN: u32 = 0x02;
    const SYN_OR_ACK: u32 = 0x12;
    const LOAD_BYTE: u16 = 0x30; // BPF_LD | BPF_B | BPF_ABS
    const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
    const JUMP_IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    let filter = [
        SockFilter::new(LOAD_BYTE, 0, 0, FLAGS),
        SockFilter::new(AND, 0, 0, SYN_OR_ACK),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, SYN),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ];
    // Where that is not allowed, the last ones may be reset: as it is on other systems.
    drop(socket2::SockRef::from(listener).attach_filter(&filter));
}

#[cfg(not(target_os = "linux"))]
fn keep_newcomers_out(_: &TcpListener) {}

/// One thread's part in accepting connections.
struct Doorway {
    seat: SeatId,
    /// The thread's number among the places.
    index: usize,
    places: Arc<Places>,
    /// Connections that other threads accepted for this one.
    handed: mpsc::UnboundedReceiver<Handed>,
    stage: watch::Receiver<Stage>,
    /// Taken when this thread accepts no more.
    accepts: Option<mpsc::Sender<Infallible>>,
}

/// Serves `application` on the thread it runs on, to connections accepted until it is to stop.
async fn accept<A, F>(listener: TcpListener, application: A, doorway: Doorway)
where
    A: IntoServiceFactory<F, Request>,
    F: Application,
    F::Future: 'static,
    <F::Service as Service<Request>>::Future: 'static,
{
    let seat = doorway.seat;
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return telemetry::gateway::seat_lost(seat, &error),
    };
    match protocol(application).await {
        Some(service) => doorway.run(listener, &service).await,
        None => telemetry::gateway::seat_lost(seat, &"the application could not be built"),
    }
}

impl Doorway {
    /// Takes connections until the door is shut, and then those that other threads still hand over.
    async fn run(mut self, listener: tokio::net::TcpListener, service: &Protocol<TcpStream>) {
        self.accept(&listener, service).await;
        // Those that knocked before the door was shut. The runtime may not have heard of them yet: the socket has.
        let listener = listener.into_std();
        while let Some((stream, peer)) = listener.as_ref().ok().and_then(|listener| listener.accept().ok()) {
            let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
            if let Ok(stream) = stream {
                self.begin(service, stream, peer, self.places.here(self.index)).await;
            }
        }
        drop(listener);
        self.accepts = None;
        // By then nobody accepts any more, so that nobody hands over.
        until(self.stage.clone(), Stage::Closing).await;
        while let Ok(handed) = self.handed.try_recv() {
            self.take_up(service, handed).await;
        }
    }

    /// The accept loop.
    async fn accept(&mut self, listener: &tokio::net::TcpListener, service: &Protocol<TcpStream>) {
        let mut shut = std::pin::pin!(until(self.stage.clone(), Stage::Shut));
        // Until when nothing is accepted, because accepting failed.
        let mut paused: Option<Instant> = None;
        let mut failing = false;
        loop {
            if paused.is_none() && self.places.are_full() {
                self.pause(&mut paused, &mut failing, &"callers hold as many file descriptors as they may");
            }
            let accepted = tokio::select! {
                biased;
                () = &mut shut => return,
                Some(handed) = self.handed.recv() => {
                    self.take_up(service, handed).await;
                    continue;
                }
                () = clock::until(paused.unwrap_or_else(clock::now)), if paused.is_some() => {
                    paused = None;
                    continue;
                }
                accepted = listener.accept(), if paused.is_none() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    if let Ok(Goes::Here(stream, place)) = self.places.find(self.index, stream, peer) {
                        self.begin(service, stream, peer, place).await;
                    }
                    if failing && !self.places.are_full() {
                        failing = false;
                        telemetry::gateway::accept_recovered(self.seat);
                    }
                }
                Err(error) if concerns_one_connection(&error) => {}
                Err(error) => self.pause(&mut paused, &mut failing, &error),
            }
        }
    }

    /// Begins a pause in accepting, and says why where that is news.
    fn pause(&self, paused: &mut Option<Instant>, failing: &mut bool, why: &dyn Display) {
        if !std::mem::replace(failing, true) {
            telemetry::gateway::accept_failing(self.seat, why);
        }
        *paused = Some(clock::now() + ACCEPT_PAUSE);
    }

    /// Serves a connection that another thread has accepted.
    async fn take_up(&self, service: &Protocol<TcpStream>, handed: Handed) {
        if let Ok((stream, peer, place)) = handed.take_up() {
            self.begin(service, stream, peer, place).await;
        }
    }

    /// Serves one connection, beside the others of this thread.
    async fn begin(&self, service: &Protocol<TcpStream>, stream: TcpStream, peer: SocketAddr, place: Place) {
        prepare(&stream);
        if std::future::poll_fn(|cx| service.poll_ready(cx)).await.is_ok() {
            let connection = service.call((Connection::new(stream, self.stage.clone()), Some(peer)));
            actix_rt::spawn(async move {
                // How a connection ends is the caller's affair; what became of its calls is logged with them.
                drop(connection.await);
                drop(place);
            });
        }
    }
}

/// Sets what actix-http would set only on connections it unwraps by itself, and more. Without `TCP_NODELAY` Nagle's
/// algorithm holds back streamed events for some 40 ms.
fn prepare(stream: &TcpStream) {
    // A socket that refuses is one that is gone already; reading from it will tell.
    drop(stream.set_nodelay(true));
    let keep_alive = socket2::TcpKeepalive::new().with_time(TCP_KEEP_ALIVE);
    let stream = socket2::SockRef::from(stream);
    drop(stream.set_tcp_keepalive(&keep_alive));
    #[cfg(target_os = "linux")]
    drop(stream.set_tcp_notsent_lowat(UNSENT_MAX_BYTES));
}

/// Whether accepting failed for one connection that was gone before it was accepted.
fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::*;
    matches!(error.kind(), ConnectionAborted | ConnectionReset | ConnectionRefused | Interrupted | WouldBlock)
}
