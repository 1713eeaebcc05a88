//! The systems that are measured: embedded, on the caller's thread, in front of upstreams that live in memory.

use std::future::Future;

use forebay::transport::{HttpRequest, MemoryTransport, Scripted, TransportError};
use forebay::{Config, FailureKind, Forebay, Health, Outcome, Request, Sent};
use tokio::task::{JoinHandle, spawn_local};

/// What a planted panic says.
pub(crate) const PLANTED: &str = "planted by the bench";

pub(crate) const ANSWER: &str = r#"{"id":"chatcmpl-1","object":"chat.completion","model":"well","choices":[{"index":0,"message":{"role":"assistant","content":"ok"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4}}"#;

/// Runs `work` on an actix System of one thread in real time.
pub(crate) fn on_one_thread<T>(work: impl Future<Output = T>) -> T {
    actix_rt::System::new().block_on(work)
}

/// A system of four upstreams, each of which serves the model of its name: `well` answers at once, `silent` never, `ill`
/// cuts every call, whose retry comes in hours, and an attempt at `fatal` panics.
pub(crate) async fn start() -> Forebay {
    let text = r#"
        [pool]
        threads = 0
        max_restarts = 1000000
        [queue]
        capacity = 200000
        default_timeout = "24h"
        [retry]
        jitter = "none"
        [upstreams.well]
        base_url = "http://well.test/v1"
        models = ["well"]
        limits = { max_concurrent = 8 }
        [upstreams.silent]
        base_url = "http://silent.test/v1"
        models = ["silent"]
        limits = { max_concurrent = 20 }
        [upstreams.ill]
        base_url = "http://ill.test/v1"
        models = ["ill"]
        retry = { base_delay = "6h", max_delay = "6h" }
        [upstreams.fatal]
        base_url = "http://fatal.test/v1"
        models = ["fatal", "sound"]
        retry = { max_attempts = 1 }
        limits = { max_concurrent = 256 }
        "#;
    let config = Config::from_toml(text).unwrap_or_else(|problems| panic!("{problems}"));
    Forebay::builder(config).transport(|| MemoryTransport::new(meet)).start().await.expect("the system starts")
}

async fn meet(request: HttpRequest) -> Result<forebay::transport::HttpResponse, TransportError> {
    match &*request.upstream.name {
        "silent" => std::future::pending().await,
        "ill" => Err(TransportError::new(FailureKind::Cut, Sent::Maybe, "ill")),
        "fatal" if request.body.starts_with(br#"{"model":"fatal""#) => std::panic::panic_any(PLANTED),
        _ => Ok(Scripted::json(200, ANSWER)),
    }
}

/// A chat with `model`.
pub(crate) fn chat(model: &str) -> Request {
    Request::chat(model, [serde_json::json!({"role": "user", "content": "Does it wait its turn?"})])
}

/// Makes the call beside the bench.
pub(crate) fn spawn(forebay: &Forebay, model: &str) -> JoinHandle<Outcome> {
    let (forebay, request) = (forebay.clone(), chat(model));
    spawn_local(async move { forebay.call(request).await })
}

/// Makes `count` calls to `model` and waits until all of them wait, save those in flight.
pub(crate) async fn crowd(forebay: &Forebay, model: &str, count: usize) -> Vec<JoinHandle<Outcome>> {
    let calls = (0..count).map(|_| spawn(forebay, model)).collect();
    let in_flight = if model == "silent" { 20 } else { 0 };
    until(forebay, |health| (health.waiting, health.in_flight) == (count - in_flight, in_flight)).await;
    calls
}

/// Waits until the system is as `is_so` wants it.
pub(crate) async fn until(forebay: &Forebay, is_so: impl Fn(Health) -> bool) {
    while !forebay.health().await.is_some_and(&is_so) {
        tokio::task::yield_now().await;
    }
}
