//! Sockets: accepts connections and serves each on the thread that accepted it.
//!
//! actix-web's `HttpServer` runs threads of its own. Here the application is served on the system's threads, next to the
//! dispatcher and the request actors, so that a call need not cross threads (measured: a third of a call's cost).

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix_http::HttpService;
use actix_service::{IntoServiceFactory as _, Service, ServiceFactory, ServiceFactoryExt as _, map_config};
use actix_web::dev::AppConfig;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};

use super::{Shared, app};
use crate::clock;
use crate::messages::SeatId;
use crate::system::{Forebay, Seat};
use crate::telemetry;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// How long an idle connection is kept: longer than the pools of the usual clients keep theirs, so that they close first.
const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// How long a head may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(20);

/// How long the rest of a refused body is read and thrown away, so that the refusal arrives, and how long a close may take.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// After so long without a byte the kernel asks whether the caller's machine is still there.
const TCP_KEEP_ALIVE: Duration = Duration::from_secs(60);

/// Between two tries to accept while accepting fails, say for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(250);

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
        let local_addr = listener.local_addr()?;
        let draining = Arc::new(AtomicBool::new(false));
        let (stop, stopped) = watch::channel(false);
        let (alive, gone) = mpsc::channel(1);
        let mut serving = false;
        for Seat { id, arbiter } in forebay.seats() {
            let listener = listener.try_clone()?;
            let forebay = forebay.clone();
            let (draining, stopped, alive) = (Arc::clone(&draining), stopped.clone(), alive.clone());
            serving |= arbiter.spawn_fn(move || {
                // Built on the thread it stays on: application and connections are not `Send`.
                let shared = Shared::new(forebay, Some(id), draining);
                actix_rt::spawn(serve_on(id, listener, shared, stopped, alive));
            });
        }
        match serving {
            true => Ok(GatewayHandle { local_addr, draining, stop, gone }),
            false => Err(io::Error::other("no thread of the system's is there to serve connections")),
        }
    }
}

/// A gateway that serves. Dropping it ends it like [`GatewayHandle::stop_accepting`].
pub(crate) struct GatewayHandle {
    local_addr: SocketAddr,
    draining: Arc<AtomicBool>,
    stop: watch::Sender<bool>,
    /// Each accept loop and each connection holds a sender; nothing is ever sent.
    gone: mpsc::Receiver<Infallible>,
}

impl GatewayHandle {
    /// Where it listens; the port the system chose when it was asked for port 0.
    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// From now on it is not ready and refuses new calls as `draining`. Connections are still accepted, so that a late
    /// caller is told so.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Takes no more connections, closes idle ones, and the others after the response they are at.
    pub(crate) fn stop_accepting(&self) {
        self.stop.send_replace(true);
    }

    /// Resolves when the last connection is gone; without [`GatewayHandle::stop_accepting`] that is never. Nothing is
    /// lost when it is dropped.
    pub(crate) async fn closed(&mut self) {
        while self.gone.recv().await.is_some() {}
    }
}

/// Serves connections on the thread it runs on until `stopped` says otherwise.
async fn serve_on(
    seat: SeatId,
    listener: TcpListener,
    shared: Shared,
    stopped: watch::Receiver<bool>,
    alive: mpsc::Sender<Infallible>,
) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return telemetry::gateway::seat_lost(seat, &error),
    };
    // Connections finish what they are at and close when the accept loop ends, or is dropped with its handle.
    let closing = stopped.clone();
    let service = HttpService::build()
        .keep_alive(KEEP_ALIVE)
        .client_request_timeout(HEAD_TIMEOUT)
        .client_disconnect_timeout(DISCONNECT_TIMEOUT)
        // With half-closed connections a caller that hangs up while its call waits would never be noticed.
        .h1_allow_half_closed(false)
        // Nagle's algorithm holds back streamed events for some 40 ms.
        .tcp_nodelay(true)
        .graceful_shutdown_signal(move || until_stopped(closing.clone()))
        .h1(map_config(app(shared).into_factory().map_err(|error: actix_web::Error| error.error_response()), |()| {
            AppConfig::default()
        }));
    // actix-http's service takes connections of more than one kind: this names ours.
    fn serves_tcp<S: Service<(TcpStream, Option<SocketAddr>)>>(service: S) -> S {
        service
    }
    let service = match service.new_service(()).await {
        Ok(service) => serves_tcp(service),
        Err(()) => return telemetry::gateway::seat_lost(seat, &"the application could not be built"),
    };
    let mut failing = false;
    let mut stop = std::pin::pin!(until_stopped(stopped));
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stop => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                if std::mem::take(&mut failing) {
                    telemetry::gateway::accept_recovered(seat);
                }
                prepare(&stream);
                if ready(&service).await {
                    let connection = service.call((stream, Some(peer)));
                    let alive = alive.clone();
                    actix_rt::spawn(async move {
                        // How a connection ends is the caller's affair; what became of its calls is logged with them.
                        drop(connection.await);
                        drop(alive);
                    });
                }
                // Other threads accept from the same listener: one that is awake must not take a whole burst alone.
                tokio::task::yield_now().await;
            }
            Err(error) if concerns_one_connection(&error) => {}
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    telemetry::gateway::accept_failing(seat, &error);
                }
                tokio::select! {
                    biased;
                    () = &mut stop => return,
                    () = clock::until(clock::now() + ACCEPT_PAUSE) => {}
                }
            }
        }
    }
}

/// Waits until `service` takes a connection; false when it never will.
async fn ready(service: &impl Service<(TcpStream, Option<SocketAddr>)>) -> bool {
    std::future::poll_fn(|cx| service.poll_ready(cx)).await.is_ok()
}

/// Resolves when the gateway is to stop, or its handle is gone.
async fn until_stopped(mut stopped: watch::Receiver<bool>) {
    // An error means that the handle is gone.
    drop(stopped.wait_for(|stopped| *stopped).await);
}

/// Sets what actix-http does not: it sets `TCP_NODELAY` only where it accepts by itself.
fn prepare(stream: &TcpStream) {
    // A socket that refuses is one that is gone already; reading from it will tell.
    drop(stream.set_nodelay(true));
    let keep_alive = socket2::TcpKeepalive::new().with_time(TCP_KEEP_ALIVE);
    drop(socket2::SockRef::from(stream).set_tcp_keepalive(&keep_alive));
}

/// Whether accepting failed for one connection that was gone before it was accepted.
fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::*;
    matches!(error.kind(), ConnectionAborted | ConnectionReset | ConnectionRefused | Interrupted | WouldBlock)
}
