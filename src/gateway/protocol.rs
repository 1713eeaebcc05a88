//! HTTP/1.1 as the gateway serves it: actix-http, with a [`Connection`] below it and the application behind it.

use std::net::SocketAddr;
use std::time::Duration;

use actix_http::error::DispatchError;
use actix_http::{HttpService, KeepAlive, Request};
use actix_service::boxed::{self, BoxService};
use actix_service::{IntoServiceFactory, Service, ServiceFactory, ServiceFactoryExt as _, map_config};
use actix_web::body::BoxBody;
use actix_web::dev::{AppConfig, ServiceResponse};

use super::connection::{Connection, HEAD_TIMEOUT, Socket};

/// How long the rest of a refused body is read and thrown away, so that the refusal arrives, and how long a close may take.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(5);

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
pub(super) async fn protocol<S, A, F>(application: A) -> Option<Protocol<S>>
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
        .h1(application.map_err(|error: actix_web::Error| error.error_response()));
    Some(boxed::service(service.new_service(()).await.ok()?))
}
