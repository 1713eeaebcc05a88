//! Two upstreams in memory, on one route, and all that they were asked.
#![allow(dead_code, unreachable_pub)] // each test file uses its part

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use forebay::clock::{self, Instant};
use forebay::transport::{HttpRequest, HttpResponse, LocalFuture, MemoryTransport, Scripted, TransportError};
use forebay::{Config, Error, FailureKind, Forebay, Outcome, Request, Sent};
use futures_util::future::join_all;

use super::support::{good, s};

pub type Told = Result<HttpResponse, TransportError>;

/// Two upstreams, `first` and `second`, that serve `a` and `b`, on the route `smart` in this order; both serve `m`.
pub fn two(first: &str, second: &str) -> Config {
    let text = format!(
        r#"
        [pool]
        threads = 0
        [retry]
        jitter = "none"
        [upstreams.first]
        base_url = "http://first.test/v1"
        models = ["a", "m"]
        {first}
        [upstreams.second]
        base_url = "http://second.test/v1"
        models = ["b", "m"]
        {second}
        [routes.smart]
        targets = ["first/a", "second/b"]
        "#
    );
    Config::from_toml(&text).unwrap_or_else(|problems| panic!("{problems}"))
}

/// One exchange, as an upstream saw it.
#[derive(Clone)]
pub struct Seen {
    pub at: Instant,
    pub upstream: String,
    pub key: String,
    pub url: String,
    pub body: serde_json::Value,
}

/// The upstreams: they note what they are asked, and answer as the test says.
#[derive(Clone, Default)]
pub struct World(Arc<Mutex<Vec<Seen>>>);

impl World {
    /// A system in front of upstreams that answer each exchange with `answer`, which may take its time.
    pub async fn start<F>(&self, config: Config, answer: F) -> Forebay
    where
        F: Fn(Seen) -> LocalFuture<Told> + Send + Sync + 'static,
    {
        let (seen, answer) = (self.clone(), Arc::new(answer));
        let open = move || {
            let (seen, answer) = (seen.clone(), Arc::clone(&answer));
            MemoryTransport::new(move |request: HttpRequest| {
                let came = Seen::of(&request);
                seen.0.lock().expect("no panic while held").push(came.clone());
                answer(came)
            })
        };
        Forebay::builder(config).seed(1).transport(open).start().await.expect("the system starts")
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.0.lock().expect("no panic while held").clone()
    }

    pub fn asked(&self, upstream: &str) -> usize {
        self.seen().iter().filter(|seen| seen.upstream == upstream).count()
    }

    pub fn by_key(&self) -> BTreeMap<String, usize> {
        self.seen().into_iter().fold(BTreeMap::new(), |mut counts, seen| {
            *counts.entry(seen.key).or_default() += 1;
            counts
        })
    }
}

impl Seen {
    fn of(request: &HttpRequest) -> Self {
        let key = request.headers.get("authorization").unwrap_or("Bearer none").trim_start_matches("Bearer ");
        Self {
            at: clock::now(),
            upstream: request.upstream.name.to_string(),
            key: key.to_owned(),
            url: request.url.clone(),
            body: serde_json::from_slice(&request.body).expect("JSON"),
        }
    }
}

/// At once.
pub fn told(answer: Told) -> LocalFuture<Told> {
    Box::pin(std::future::ready(answer))
}

/// After a while.
pub fn later(seconds: f64, answer: impl FnOnce() -> Told + 'static) -> LocalFuture<Told> {
    Box::pin(async move {
        clock::until(clock::now() + s(seconds)).await;
        answer()
    })
}

pub fn ok() -> Told {
    Ok(Scripted::json(200, good("ok")))
}

pub fn status(status: u16) -> Told {
    Ok(Scripted::json(status, format!(r#"{{"error":{{"message":"told {status}","code":null}}}}"#)))
}

pub fn fails(kind: FailureKind) -> Told {
    Err(TransportError::new(kind, Sent::Maybe, "scripted"))
}

pub fn call(model: &str) -> Request {
    Request::chat(model, [serde_json::json!({"role": "user", "content": "hello"})])
}

/// Status, code, attempts, and the upstream that was asked last.
pub fn ended(error: &Error) -> (u16, &str, u32, Option<&str>) {
    (error.status(), error.code(), error.meta().attempts, error.meta().upstream.as_deref())
}

/// Makes calls beside; gives how each ended, and when.
pub fn beside(
    forebay: &Forebay,
    count: usize,
    model: &'static str,
) -> tokio::task::JoinHandle<Vec<(Instant, Outcome)>> {
    let forebay = forebay.clone();
    tokio::task::spawn_local(async move {
        let each = |_| async { (forebay.call(call(model)).await, clock::now()) };
        join_all((0..count).map(each)).await.into_iter().map(|(outcome, at)| (at, outcome)).collect()
    })
}

pub async fn status_of(forebay: &Forebay, upstream: &str) -> serde_json::Value {
    let status = serde_json::to_value(forebay.status().await.expect("the dispatcher answers")).expect("JSON");
    let all = status["upstreams"].as_array().expect("upstreams").clone();
    all.into_iter().find(|one| one["name"] == upstream).expect("it is there")
}
