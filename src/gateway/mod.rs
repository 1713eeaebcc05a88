//! The HTTP face: one file a resource. It reads just enough of a call to pass it on, and says in HTTP how it ended.
//!
//! A call's way in: [`listener`] accepts its [`connection`] on a thread of the system's, [`protocol`] reads it, [`guard`] wraps everything (id,
//! panics, [`origin`], [`auth`]), [`calls`] reads head and [`body`] and begins the call, and its outcome goes out whole,
//! as a [`stream`], or as one of the [`errors`], one for each [`idempotency`] key; [`sending`] sees it off.

mod auth;
mod batches;
mod body;
mod calls;
mod connection;
mod descriptors;
mod errors;
mod files;
mod guard;
mod headers;
mod idempotency;
mod jobs;
mod listener;
mod models;
mod operations;
mod origin;
mod pages;
mod places;
mod protocol;
mod sending;
mod stage;
mod status;
mod stream;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use actix_web::body::BoxBody;
use actix_web::dev::{ServiceFactory, ServiceRequest, ServiceResponse};
use actix_web::{App, middleware, web};

use crate::config::Config;
use crate::messages::{Endpoint, Envelope, SeatId};
use crate::system::Forebay;

pub(crate) use descriptors::raise as raise_descriptors;
pub(crate) use listener::{Gateway, GatewayHandle};

/// What the handlers of one thread share.
pub(crate) struct Shared {
    forebay: Forebay,
    /// The thread the handlers run on, when it is one of the system's.
    seat: Option<SeatId>,
    /// Only programs of this machine can connect.
    on_loopback: bool,
    /// Calls with an `Idempotency-Key`, of all threads.
    shelf: idempotency::Shelf,
    /// Set when the daemon is asked to end: from then on nothing new is begun.
    draining: Arc<AtomicBool>,
    /// What was read from the configuration in force; read anew when that is another.
    doors: RefCell<Arc<Doors>>,
}

/// Who may come in, by one configuration.
struct Doors {
    config: Arc<Config>,
    tenants: auth::Tenants,
    operator: auth::Operator,
}

impl Doors {
    fn of(config: Arc<Config>) -> Arc<Self> {
        Arc::new(Self { tenants: auth::Tenants::of(&config), operator: auth::Operator::of(&config), config })
    }
}

impl Shared {
    /// What handlers on the thread `seat` share with each other and, through `draining`, with all threads.
    pub(crate) fn new(forebay: Forebay, seat: Option<SeatId>, draining: Arc<AtomicBool>) -> Self {
        let doors = RefCell::new(Doors::of(forebay.config()));
        let shelf = idempotency::Shelf::with(forebay.registry());
        Self { forebay, seat, on_loopback: true, shelf, draining, doors }
    }

    /// The same, which shares its calls with an `Idempotency-Key` with others.
    fn sharing(self, shelf: idempotency::Shelf) -> Self {
        Self { shelf, ..self }
    }

    /// The same, for callers that come in at `addr`: what is in process is as near as loopback.
    pub(crate) fn listening_at(self, addr: SocketAddr) -> Self {
        Self { on_loopback: addr.ip().to_canonical().is_loopback(), ..self }
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    fn doors(&self) -> Arc<Doors> {
        let config = self.forebay.config();
        let mut doors = self.doors.borrow_mut();
        if !Arc::ptr_eq(&doors.config, &config) {
            *doors = Doors::of(config);
        }
        Arc::clone(&doors)
    }
}

/// The whole gateway as an actix-web application. The daemon serves it to sockets; a test or a simulation drives it in
/// process, on the clock it likes.
pub(crate) fn app(
    shared: Shared,
) -> App<
    impl ServiceFactory<
        ServiceRequest,
        Config = (),
        Response = ServiceResponse<BoxBody>,
        Error = actix_web::Error,
        InitError = (),
    >,
> {
    App::new()
        // An `Rc` would do; `Data` is what actix-web's extractors know.
        .app_data(web::Data::new(shared))
        .configure(operations::routes)
        .configure(status::routes)
        .configure(|config| {
            for prefix in PREFIXES {
                config.service(web::scope(prefix).configure(v1));
            }
        })
        .default_service(web::to(errors::unknown_url))
        .wrap(middleware::from_fn(guard::guard))
}

/// Where the API stands: under each vendor's name, too, for SDKs that are given a base URL without a version.
const PREFIXES: [&str; 3] = ["/v1", "/openai/v1", "/anthropic/v1"];

/// The form of errors at `path`: that of the endpoint which stands there. What is not there is refused in Anthropic's form
/// where its SDKs look for more: below its messages, and under its name.
fn envelope_at(path: &str) -> Envelope {
    let below = PREFIXES.iter().find_map(|prefix| path.strip_prefix(prefix));
    let endpoint = Endpoint::ALL.into_iter().find(|endpoint| below == Some(endpoint.path()));
    let is_anthropics = below.is_some_and(|path| path.starts_with("/messages/")) || path.starts_with("/anthropic/");
    match endpoint {
        Some(endpoint) => Envelope::of(endpoint),
        None if is_anthropics => Envelope::Anthropic,
        None => Envelope::OpenAi,
    }
}

/// What stands below each of the prefixes.
fn v1(config: &mut web::ServiceConfig) {
    for endpoint in Endpoint::ALL {
        config.service(calls::resource(endpoint));
    }
    models::routes(config);
    jobs::routes(config);
    files::routes(config);
    batches::routes(config);
}
