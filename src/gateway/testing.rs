//! The gateway in process, for this room's tests.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use actix_http::Request;
use actix_web::body::BoxBody;
use actix_web::dev::{Service, ServiceResponse};
use actix_web::test::{self, TestRequest};

use super::guard::Caller;
use super::{Shared, app};
use crate::config::{Config, Tenant};
use crate::messages::{CallId, Envelope, Secret};
use crate::system::Forebay;

/// A configuration with no tenant.
pub(super) fn config() -> Config {
    system("")
}

/// The same with one upstream `up` that serves `m` and `x-*`, without jitter; `more` is added behind it.
pub(super) fn system(more: &str) -> Config {
    let text = format!(
        r#"
        [pool]
        threads = 0
        [retry]
        jitter = "none"
        [upstreams.up]
        base_url = "http://upstream.test/v1"
        api_keys = ["sk-test-0000000001"]
        models = ["m", "x-*"]
        {more}
        "#
    );
    Config::from_toml(&text).unwrap_or_else(|problems| panic!("{problems}"))
}

/// Somebody who understands errors in this form.
pub(super) fn caller(envelope: Envelope) -> Caller {
    Caller { id: CallId::new(), tenant: None, envelope }
}

pub(super) fn tenant(key: &str) -> Tenant {
    Tenant { key: Secret::new(key) }
}

pub(super) async fn shared(config: Config) -> Shared {
    Shared::new(Forebay::start(config).await.unwrap(), None, Arc::new(AtomicBool::new(false)))
}

pub(super) async fn served(
    config: Config,
) -> impl Service<Request, Response = ServiceResponse<BoxBody>, Error = actix_web::Error> {
    test::init_service(app(shared(config).await)).await
}

pub(super) fn get(path: &str) -> TestRequest {
    TestRequest::get().uri(path)
}

pub(super) async fn answer(
    app: &impl Service<Request, Response = ServiceResponse<BoxBody>, Error = actix_web::Error>,
    request: TestRequest,
) -> ServiceResponse<BoxBody> {
    test::call_service(app, request.to_request()).await
}

pub(super) async fn json(response: ServiceResponse<BoxBody>) -> serde_json::Value {
    serde_json::from_slice(&test::read_body(response).await).unwrap()
}
