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

use actix_http::error::DispatchError;
use actix_http::{HttpService, KeepAlive, Request};
use actix_service::boxed::{self, BoxService};
use actix_service::{IntoServiceFactory, Service, ServiceFactory, ServiceFactoryExt as _, map_config};
use actix_web::body::BoxBody;
use actix_web::dev::{AppConfig, ServiceResponse};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};

use super::connection::{Connection, HEAD_TIMEOUT, Socket};
use super::places::{Goes, Handed, Place, Places};
use super::{Shared, app, descriptors};
use crate::clock::{self, Instant};
use crate::messages::SeatId;
use crate::system::Forebay;
use crate::telemetry;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// How long the rest of a refused body is read and thrown away, so that the refusal arrives, and how long a close may take.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// After so long without a byte the kernel asks whether the caller's machine is still there.
const TCP_KEEP_ALIVE: Duration = Duration::from_secs(60);

/// What the kernel keeps of an answer beyond what the caller has room for; left alone it takes megabytes for a caller that
/// reads nothing.
#[cfg(target_os = "linux")]
const UNSENT_MAX_BYTES: u32 = 256 * 1024;

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
        let seats = forebay.arbiters();
        let (places, handed) = Places::new(seats.len(), descriptors::for_callers(), alive);
        let mut serving = false;
        for (index, (arbiter, handed)) in seats.iter().zip(handed).enumerate() {
            let seat = SeatId(index as u16);
            let (listener, forebay, draining) = (listener.try_clone()?, forebay.clone(), Arc::clone(&draining));
            let doorway = Doorway { seat, index, places: Arc::clone(&places), handed, stopped: stopped.clone() };
            serving |= arbiter.spawn_fn(move || {
                // Built on the thread it stays on: application and connections are not `Send`.
                let shared = Shared::new(forebay, Some(seat), draining);
                actix_rt::spawn(accept(listener, app(shared), doorway));
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
    /// Whatever serves holds a sender; nothing is ever sent.
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

/// One thread's part in accepting connections.
struct Doorway {
    seat: SeatId,
    /// The thread's number among the places.
    index: usize,
    places: Arc<Places>,
    /// Connections that other threads accepted for this one.
    handed: mpsc::UnboundedReceiver<Handed>,
    stopped: watch::Receiver<bool>,
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
    match protocol(application, doorway.stopped.clone()).await {
        Some(service) => doorway.run(&listener, &service).await,
        None => telemetry::gateway::seat_lost(seat, &"the application could not be built"),
    }
}

/// What can be served: an actix-web application.
pub(super) trait Application:
    ServiceFactory<
        Request,
        Config = AppConfig,
        Response = ServiceResponse<BoxBody>,
        Error = actix_web::Error,
        InitError = (),
    > + 'static
{
}

impl<F> Application for F where
    F: ServiceFactory<
            Request,
            Config = AppConfig,
            Response = ServiceResponse<BoxBody>,
            Error = actix_web::Error,
            InitError = (),
        > + 'static
{
}

/// Serves one connection, from its first byte to its last.
pub(super) type Protocol<S> = BoxService<(Connection<S>, Option<SocketAddr>), (), DispatchError>;

/// HTTP/1.1 with `application` behind it; `None` when that cannot be built.
pub(super) async fn protocol<S, A, F>(application: A, stopped: watch::Receiver<bool>) -> Option<Protocol<S>>
where
    S: Socket,
    A: IntoServiceFactory<F, Request>,
    F: Application,
    F::Future: 'static,
    <F::Service as Service<Request>>::Future: 'static,
{
    let application = map_config(application, |()| AppConfig::default());
    let service = HttpService::build()
        // Idle connections are closed by `Connection`.
        .keep_alive(KeepAlive::Os)
        .client_request_timeout(HEAD_TIMEOUT)
        .client_disconnect_timeout(DISCONNECT_TIMEOUT)
        // With half-closed connections a caller that hangs up while its call waits would never be noticed.
        .h1_allow_half_closed(false)
        .on_connect_ext(|connection: &Connection<S>, with: &mut actix_http::Extensions| {
            with.insert(connection.talk());
        })
        // Idle connections close when this resolves, the others after the response they are at.
        .graceful_shutdown_signal(move || until_stopped(stopped.clone()))
        .h1(application.map_err(|error: actix_web::Error| error.error_response()));
    Some(boxed::service(service.new_service(()).await.ok()?))
}

impl Doorway {
    /// The accept loop.
    async fn run(mut self, listener: &tokio::net::TcpListener, service: &Protocol<TcpStream>) {
        let mut stop = std::pin::pin!(until_stopped(self.stopped.clone()));
        // Until when nothing is accepted, because accepting failed.
        let mut paused: Option<Instant> = None;
        let mut failing = false;
        loop {
            if paused.is_none() && self.places.are_full() {
                self.pause(&mut paused, &mut failing, &"callers hold as many file descriptors as they may");
            }
            let accepted = tokio::select! {
                biased;
                () = &mut stop => return,
                Some(handed) = self.handed.recv() => {
                    if let Ok((stream, peer, place)) = handed.take_up() {
                        begin(service, stream, peer, place).await;
                    }
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
                        begin(service, stream, peer, place).await;
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
}

/// Serves one connection, beside the others of this thread.
async fn begin(service: &Protocol<TcpStream>, stream: TcpStream, peer: SocketAddr, place: Place) {
    prepare(&stream);
    if std::future::poll_fn(|cx| service.poll_ready(cx)).await.is_ok() {
        let connection = service.call((Connection::new(stream), Some(peer)));
        actix_rt::spawn(async move {
            // How a connection ends is the caller's affair; what became of its calls is logged with them.
            drop(connection.await);
            drop(place);
        });
    }
}

/// Resolves when the gateway is to stop, or its handle is gone.
async fn until_stopped(mut stopped: watch::Receiver<bool>) {
    // An error means that the handle is gone.
    drop(stopped.wait_for(|stopped| *stopped).await);
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
