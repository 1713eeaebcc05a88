//! The gateway in process, for this room's tests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use actix_http::Request;
use actix_web::body::BoxBody;
use actix_web::dev::{Service, ServiceResponse};
use actix_web::test::{self, TestRequest};

use super::{Shared, app};
use crate::config::{Config, Log, LogFormat, Pool, Queue, Server, Tenant};
use crate::messages::Secret;
use crate::system::Forebay;

/// A configuration of defaults, with no upstream and no tenant.
pub(super) fn config() -> Config {
    Config {
        server: Server {
            listen: ([127, 0, 0, 1], 0).into(),
            allow_anonymous: false,
            origins: Vec::new(),
            admin_key: None,
            max_body: 16 * 1024 * 1024,
            drain_timeout: Duration::from_secs(30),
        },
        queue: Queue { capacity: 10_000, max_bytes: 1 << 30, default_timeout: Duration::from_secs(600) },
        pool: Pool { threads: 0, slots_per_account: 8, max_restarts: 100, restart_window: Duration::from_secs(60) },
        log: Log { level: "info".into(), format: LogFormat::Auto },
        upstreams: BTreeMap::new(),
        routes: BTreeMap::new(),
        tenants: BTreeMap::new(),
        warnings: Vec::new(),
        effective: Vec::new(),
    }
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
