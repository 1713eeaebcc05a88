//! What the tests of the whole system share: virtual time, a scripted upstream, a ready configuration.
#![allow(dead_code, unreachable_pub)] // each test file uses its part

use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use forebay::clock::{self, Instant};
use forebay::transport::{HttpRequest, HttpResponse, MemoryTransport, TransportError};
use forebay::{Config, Endpoint, Forebay, Request};

/// Runs `test` on a whole actix System of one thread whose clock stands still until nothing else is to be done.
pub fn in_virtual_time<T>(test: impl Future<Output = T>) -> T {
    let runtime =
        || tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().expect("a runtime");
    actix_rt::System::with_tokio_rt(runtime).block_on(test)
}

/// A configuration of one upstream `up` that serves `m`, without jitter, all on one thread; `more` is added behind it.
pub fn config(more: &str) -> Config {
    config_of(&format!(
        r#"
        [upstreams.up]
        base_url = "http://upstream.test/v1"
        api_keys = ["sk-test-0000000001"]
        models = ["m"]
        {more}
        "#
    ))
}

/// A configuration of these upstreams, without jitter, all on one thread.
pub fn config_of(upstreams: &str) -> Config {
    let text = format!("[pool]\nthreads = 0\n[retry]\njitter = \"none\"\n{upstreams}");
    Config::from_toml(&text).unwrap_or_else(|problems| panic!("{problems}"))
}

/// What one attempt meets.
pub type Scene =
    Box<dyn FnOnce(HttpRequest) -> forebay::transport::LocalFuture<Result<HttpResponse, TransportError>> + Send>;

/// An upstream that plays its scenes in order, one an attempt, then its last scene again and again.
#[derive(Clone)]
pub struct Script {
    scenes: Arc<Mutex<VecDeque<Scene>>>,
    finally: Arc<dyn Fn() -> Scene + Send + Sync>,
    seen: Arc<Mutex<Vec<(Instant, HttpRequest)>>>,
}

impl Script {
    /// Plays `scenes`, then `finally` for ever.
    pub fn new(scenes: Vec<Scene>, finally: impl Fn() -> Scene + Send + Sync + 'static) -> Self {
        Self { scenes: Arc::new(Mutex::new(scenes.into())), finally: Arc::new(finally), seen: Arc::default() }
    }

    /// When each attempt came.
    pub fn times(&self) -> Vec<Instant> {
        self.seen.lock().expect("no panic while held").iter().map(|(at, _)| *at).collect()
    }

    /// The seconds between one attempt and the next, rounded to hundredths.
    pub fn waits(&self) -> Vec<f64> {
        let times = self.times();
        times.windows(2).map(|pair| ((pair[1] - pair[0]).as_secs_f64() * 100.0).round() / 100.0).collect()
    }

    /// What each attempt said.
    pub fn requests(&self) -> Vec<HttpRequest> {
        self.seen.lock().expect("no panic while held").iter().map(|(_, request)| request.clone()).collect()
    }

    /// Starts a system in front of this upstream.
    pub async fn start(&self, config: Config) -> Forebay {
        let script = self.clone();
        Forebay::builder(config)
            .seed(1)
            .transport(move || {
                let script = script.clone();
                MemoryTransport::new(move |request: HttpRequest| {
                    script.seen.lock().expect("no panic while held").push((clock::now(), request.clone()));
                    let scene = script.scenes.lock().expect("no panic while held").pop_front();
                    scene.unwrap_or_else(|| (script.finally)())(request)
                })
            })
            .start()
            .await
            .expect("the system starts")
    }
}

/// A scene that gives `answer`, made anew for each attempt.
pub fn gives(answer: impl FnOnce() -> Result<HttpResponse, TransportError> + Send + 'static) -> Scene {
    Box::new(|_| Box::pin(std::future::ready(answer())))
}

/// A scene in which nothing ever comes.
pub fn silence() -> Scene {
    Box::new(|_| Box::pin(std::future::pending()))
}

/// A chat that says `text`.
pub fn chat(text: &str) -> Request {
    Request::chat("m", [serde_json::json!({"role": "user", "content": text})])
}

/// A streamed chat that says `text`.
pub fn streamed(text: &str) -> Request {
    let body = serde_json::json!({"model": "m", "stream": true, "messages": [{"role": "user", "content": text}]});
    Request::new(Endpoint::ChatCompletions, body.to_string()).expect("a good body")
}

/// A good whole answer that says `text`.
pub fn good(text: &str) -> String {
    serde_json::json!({
        "id": "chatcmpl-1", "object": "chat.completion", "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    })
    .to_string()
}

/// Seconds.
pub fn s(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}
