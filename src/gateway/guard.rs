//! Wraps every request: it gets an id, comes in only if it may, and is answered even if its handler panics.

use std::fmt;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use actix_web::body::BoxBody;
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::http::header::{self, HeaderValue};
use actix_web::http::{ConnectionType, Method};
use actix_web::middleware::Next;
use actix_web::{HttpMessage as _, HttpRequest, HttpResponse, ResponseError, web};
use bytes::Bytes;

use super::connection::Talk;
use super::origin::{self, Origin};
use super::{Shared, envelope_at, errors, headers, operations, sending, status};
use crate::messages::{CallId, Envelope, Error, ErrorKind};
use crate::telemetry;

/// Who calls, found once for all handlers.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) id: CallId,
    pub(super) tenant: Option<Arc<str>>,
    /// The form in which errors are understood.
    pub(super) envelope: Envelope,
}

impl Caller {
    /// The caller of `request`, as [`guard`] found it.
    pub(super) fn of(request: &HttpRequest) -> Self {
        let found = request.extensions().get::<Self>().cloned();
        found.unwrap_or_else(|| Self::at(request.path()))
    }

    /// A caller of `path`, by a fresh id.
    fn at(path: &str) -> Self {
        Self { id: CallId::new(), tenant: None, envelope: envelope_at(path) }
    }

    /// The body of `error`, which ends the call.
    pub(super) fn body_of(&self, error: &Error) -> Bytes {
        error.to_body_in(self.envelope, Some(self.id))
    }
}

/// The middleware around all routes, those that do not exist included.
pub(super) async fn guard(
    mut request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let caller = Caller::at(request.path());
    // Without a connection, in process, there is nobody to tell.
    let answering = request.conn_data::<Talk>().map(Talk::begin);
    if matches!(request.parts_mut().1, Payload::None) {
        read_whole(request.request());
    }
    let version = request.version();
    let Some(shared) = request.app_data::<web::Data<Shared>>().cloned() else {
        return Err(Panicked(caller).into());
    };
    // actix takes `Upgrade: h2c` and its kin for a connection that changes hands; they are ignored and closed behind.
    let upgrades = request.headers().contains_key(header::UPGRADE);
    let mut from = Origin::Plain;
    let mut response = match admit(&shared, &request, &caller, &mut from) {
        Ok(Some(answer)) => request.into_response(answer),
        Ok(None) => match unless_it_panics(next.call(request)).await {
            Some(response) => response?,
            None => {
                telemetry::gateway::handler_panicked(caller.id);
                return Err(Panicked(caller).into());
            }
        },
        Err(error) => {
            telemetry::gateway::refused(caller.id, error.code());
            let rest = request.take_payload();
            request.into_response(errors::reply_unread(&error, &caller, rest))
        }
    };
    let head = response.response_mut().head_mut();
    // The next call on this connection would be refused: its caller is spared it.
    if upgrades || shared.is_draining() {
        head.set_connection_type(ConnectionType::Close);
    }
    name(&caller, head.headers_mut());
    from.allow(head.headers_mut());
    Ok(sending::seen_off(response, version, answering))
}

/// Tells the connection of `request` that nothing more is to come of it.
pub(super) fn read_whole(request: &HttpRequest) {
    if let Some(talk) = request.conn_data::<Talk>() {
        talk.is_whole();
    }
}

/// What `work` brings; `None` when it panics. It is polled no more then, and what it holds is dropped by the caller.
async fn unless_it_panics<T>(work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
        Ok(poll) => poll.map(Some),
        Err(_) => Poll::Ready(None),
    })
    .await
}

/// Lets a request in, answers it at once, or refuses it.
fn admit(
    shared: &Shared,
    request: &ServiceRequest,
    caller: &Caller,
    from: &mut Origin,
) -> Result<Option<HttpResponse>, Error> {
    check_protocol(request)?;
    let mut caller = caller.clone();
    if !operations::is_open(request.path()) {
        let doors = shared.doors();
        let is_operators = status::is_operators(request.path());
        let has_key = !is_operators && !doors.tenants.is_empty();
        *from = origin::judge(request.headers(), &doors.config.server.origins, has_key)?;
        if from.is_preflight(request.method(), request.headers()) {
            return Ok(Some(from.preflight(request.headers())));
        }
        if !is_operators {
            caller.tenant = doors.tenants.caller(request.headers())?;
        }
    }
    request.extensions_mut().insert(caller);
    Ok(None)
}

/// Refuses what would turn the connection into something else: its body would never end.
fn check_protocol(request: &ServiceRequest) -> Result<(), Error> {
    if request.method() == Method::CONNECT {
        return Err(Error::new(ErrorKind::MethodNotAllowed, "this is no proxy: CONNECT is not served"));
    }
    let mut upgrades = request.headers().get_all(header::UPGRADE);
    if upgrades.any(|to| to.as_bytes().trim_ascii().eq_ignore_ascii_case(b"websocket")) {
        return Err(Error::new(ErrorKind::InvalidRequest, "header upgrade: WebSockets are not served"));
    }
    // actix sees to it that there is at most one; what stands in it, it takes as it comes.
    if request.headers().get(header::HOST).is_some_and(|host| !is_host(host.as_bytes())) {
        return Err(Error::new(ErrorKind::InvalidRequest, "header host: it must be a name or an address, and a port"));
    }
    Ok(())
}

/// Whether a `Host` header holds what RFC 9110 lets it hold, and no path, query or credentials: others along the way may
/// have read those as part of the address.
fn is_host(value: &[u8]) -> bool {
    let port = value.iter().rposition(|byte| *byte == b':').filter(|at| value[at + 1..].iter().all(u8::is_ascii_digit));
    let name = &value[..port.unwrap_or(value.len())];
    let consists_of =
        |text: &[u8], more: &[u8]| text.iter().all(|byte| byte.is_ascii_alphanumeric() || more.contains(byte));
    match name.strip_prefix(b"[") {
        Some(address) => address.strip_suffix(b"]").is_some_and(|address| consists_of(address, b":.%-_~")),
        None => consists_of(name, b"-._~%!$&'()*+,;="),
    }
}

/// Puts our id in place of whatever the upstream called its own part, under the name that the caller's SDK looks for, too.
fn name(caller: &Caller, to: &mut header::HeaderMap) {
    let Ok(id) = HeaderValue::try_from(caller.id.to_string()) else { return };
    if caller.envelope == Envelope::Anthropic {
        to.insert(headers::REQUEST_ID, id.clone());
    }
    to.insert(headers::X_REQUEST_ID, id);
}

/// A handler panicked. An error and not a response, because the request it belongs to is gone with the handler.
#[derive(Debug)]
struct Panicked(Caller);

impl fmt::Display for Panicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the handler of {} panicked", self.0.id)
    }
}

impl ResponseError for Panicked {
    fn error_response(&self) -> HttpResponse {
        let error = Error::new(ErrorKind::WorkerCrashed, "the gateway failed on this request; its log says where");
        let mut response = errors::reply(&error, &self.0);
        name(&self.0, response.headers_mut());
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::testing::{answer, config, get, served, tenant};
    use actix_web::http::StatusCode;
    use actix_web::test::{self, TestRequest};

    #[actix_web::test]
    async fn every_response_has_an_id_of_its_own() {
        let app = served(config()).await;
        let mut ids = std::collections::BTreeSet::new();
        for path in ["/healthz", "/v1/models", "/nowhere", "/v1/embeddings"] {
            let response = answer(&app, get(path)).await;
            let id = response.headers().get("x-request-id").unwrap().to_str().unwrap().to_owned();
            assert!(id.starts_with("req_"), "{path}: {id}");
            ids.insert(id);
        }
        assert_eq!(ids.len(), 4);
    }

    #[actix_web::test]
    async fn with_tenants_every_route_but_the_probes_asks_for_a_key() {
        let mut config = config();
        config.tenants.insert("team".into(), tenant("key"));
        let app = served(config).await;
        for path in ["/v1/models", "/v1/chat/completions", "/nowhere", "/", "/openai/v1/models/x"] {
            let response = answer(&app, get(path)).await;
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{path}");
            let keyed = answer(&app, get(path).insert_header(("x-api-key", "key"))).await;
            assert_ne!(keyed.status(), StatusCode::UNAUTHORIZED, "{path}");
        }
        assert_eq!(answer(&app, get("/healthz")).await.status(), StatusCode::OK);
    }

    #[actix_web::test]
    async fn a_foreign_web_page_is_refused_without_tenants_but_for_the_probes() {
        let app = served(config()).await;
        let from_page = |path| get(path).insert_header(("origin", "https://evil.example"));
        let response = answer(&app, from_page("/v1/models")).await;
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        assert!(!response.headers().contains_key("access-control-allow-origin"));
        assert_eq!(answer(&app, from_page("/healthz")).await.status(), StatusCode::OK);
    }

    #[actix_web::test]
    async fn a_listed_web_page_gets_its_preflight_and_its_answer() {
        let mut config = config();
        config.server.origins.push("https://app.example".into());
        let app = served(config).await;
        let preflight = TestRequest::with_uri("/v1/chat/completions")
            .method(Method::OPTIONS)
            .insert_header(("origin", "https://app.example"))
            .insert_header(("access-control-request-method", "POST"))
            .insert_header(("access-control-request-headers", "authorization,content-type"));
        let response = answer(&app, preflight).await;
        assert_eq!(response.status(), StatusCode::NO_CONTENT);
        assert_eq!(response.headers().get("access-control-allow-headers").unwrap(), "authorization,content-type");
        assert_eq!(response.headers().get("access-control-allow-origin").unwrap(), "https://app.example");
        let response = answer(&app, get("/v1/models").insert_header(("origin", "https://app.example"))).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers().get("access-control-allow-origin").unwrap(), "https://app.example");
    }

    #[actix_web::test]
    async fn connect_and_websockets_are_refused_and_other_upgrades_ignored() {
        let app = served(config()).await;
        let connect = TestRequest::with_uri("/v1/models").method(Method::CONNECT);
        assert_eq!(answer(&app, connect).await.status(), StatusCode::METHOD_NOT_ALLOWED);
        let websocket = get("/v1/models").insert_header(("upgrade", "WebSocket"));
        assert_eq!(answer(&app, websocket).await.status(), StatusCode::BAD_REQUEST);
        let h2c = get("/v1/models").insert_header(("upgrade", "h2c"));
        assert_eq!(answer(&app, h2c).await.status(), StatusCode::OK);
    }

    #[test]
    fn a_host_is_a_name_or_an_address_and_perhaps_a_port() {
        for host in
            ["", "a", "a:1", "my_service.ns.svc:8787", "127.0.0.1:80", "[::1]", "[::1]:8787", "[fe80::1%25eth0]"]
        {
            assert!(is_host(host.as_bytes()), "{host}");
        }
        for host in ["a/b", "a?x=", "a#", "a b", "user@a", "a:b", "a:1:2", "::1", "[::1", "[::1]x", "a\\b", "ä", "a\0"]
        {
            assert!(!is_host(host.as_bytes()), "{host}");
        }
    }

    #[actix_web::test]
    async fn a_panicking_handler_is_answered_with_500_and_an_envelope() {
        let shared = crate::gateway::testing::shared(config()).await;
        let app = actix_web::App::new()
            .app_data(web::Data::new(shared))
            .route("/boom", web::get().to(boom))
            .wrap(actix_web::middleware::from_fn(guard));
        let app = test::init_service(app).await;
        let error = test::try_call_service(&app, get("/boom").to_request()).await.unwrap_err();
        let response = error.error_response();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert!(response.headers().contains_key("x-request-id"));
        let body = actix_web::body::to_bytes(response.into_body()).await.unwrap();
        assert!(body.starts_with(b"{\"error\":{"));
    }

    async fn boom() -> HttpResponse {
        panic!("on purpose")
    }
}
