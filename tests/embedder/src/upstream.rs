//! What stands in for a provider: a transport of the program's own, and a server that answers over HTTP.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use forebay::transport::{BodyStream, HttpRequest, HttpResponse, LocalFuture, Scripted, Transport, TransportError};
use forebay::{Config, Forebay, Request};
use futures_util::StreamExt as _;
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::{Notify, Semaphore};

/// What planted panics say.
pub const PLANTED: &str = "a planted panic";

/// Tries of a call in a system that panics half the time.
pub const MANY_ATTEMPTS: u32 = 40;

/// How a call is dealt with; taken from its own text, so that every check can ask for what it needs.
#[derive(Clone, Default)]
pub struct Provider(Arc<Inner>);

#[derive(Default)]
struct Inner {
    name: &'static str,
    turns: AtomicUsize,
    /// Told when an exchange is under way, and when it has been dropped.
    begun: Notify,
    dropped: Notify,
    /// An exchange that was told to wait goes on with one of these.
    go: Option<Semaphore>,
}

impl Provider {
    /// One that signs its answers with `name`.
    pub fn named(name: &'static str) -> Self {
        Self(Arc::new(Inner { name, go: Some(Semaphore::new(0)), ..Inner::default() }))
    }

    /// A system in front of it, with `threads` threads of its own.
    pub async fn start(&self, threads: usize) -> Forebay {
        let config = format!(
            "[pool]\nthreads = {threads}\nmax_restarts = 100000\n[retry]\nbase_delay = \"1ms\"\nmax_attempts = {MANY_ATTEMPTS}\nretry_budget = 1.0\n\
             [upstreams.up]\nbase_url = \"http://upstream.test/v1\"\nmodels = [\"m\"]\nlimits = {{ max_concurrent = 16 }}"
        );
        let config = Config::from_toml(&config).expect("a good configuration");
        let provider = self.clone();
        Forebay::builder(config).transport(move || provider.clone()).start().await.expect("it starts")
    }

    /// Waits until an exchange is under way.
    pub async fn begun(&self) {
        self.0.begun.notified().await;
    }

    /// Waits until an exchange has been dropped before its end.
    pub async fn dropped(&self) {
        self.0.dropped.notified().await;
    }

    /// Lets so many exchanges go on.
    pub fn let_go(&self, count: usize) {
        self.0.go.iter().for_each(|go| go.add_permits(count));
    }
}

/// Tells when an exchange is dropped before its end.
struct Watched(Provider, bool);

impl Drop for Watched {
    fn drop(&mut self) {
        if !self.1 {
            self.0.0.dropped.notify_one();
        }
    }
}

impl Transport for Provider {
    fn send(&self, request: HttpRequest) -> LocalFuture<Result<HttpResponse, TransportError>> {
        let body: Value = serde_json::from_slice(&request.body).expect("JSON");
        let text = body["messages"][0]["content"].as_str().expect("a text").to_owned();
        let is_stream = body["stream"] == true;
        let turn = self.0.turns.fetch_add(1, Ordering::Relaxed);
        let panics = text.starts_with("panic");
        let kind = turn % 6;
        if panics && kind == 0 {
            std::panic::panic_any(PLANTED);
        }
        let provider = self.clone();
        Box::pin(async move {
            let mut watched = Watched(provider.clone(), false);
            provider.0.begun.notify_one();
            if panics && kind == 2 {
                tokio::task::yield_now().await;
                std::panic::panic_any(PLANTED);
            }
            if text.starts_with("for ever") && !is_stream {
                return std::future::pending().await;
            }
            if text.starts_with("wait")
                && let Some(go) = &provider.0.go
            {
                go.acquire().await.expect("never closed").forget();
            }
            let said = format!("{} {text}", provider.0.name);
            let mut response = if is_stream { Scripted::events(vec![]) } else { Scripted::json(200, "") };
            let pieces = if is_stream { events(&said) } else { vec![whole(&said)] };
            let broken = panics && kind == 4;
            let ends = !text.starts_with("for ever");
            watched.1 = ends;
            response.body = body_of(pieces, broken, (!ends).then_some(watched));
            Ok(response)
        })
    }
}

/// A body of `pieces`; one that is `broken` panics half-way, one with a watch never ends by itself.
fn body_of(pieces: Vec<Bytes>, broken: bool, watched: Option<Watched>) -> BodyStream {
    let pieces = stream::iter(pieces.into_iter().map(Ok));
    if broken {
        let half = pieces.take(1);
        return Box::pin(half.chain(stream::once(async {
            // Behind what has come already: a stream then has been heard.
            tokio::task::yield_now().await;
            std::panic::panic_any(PLANTED)
        })));
    }
    match watched {
        None => Box::pin(pieces),
        Some(watched) => Box::pin(pieces.take(1).chain(stream::poll_fn(move |_| {
            let _kept = &watched;
            std::task::Poll::Pending
        }))),
    }
}

fn whole(said: &str) -> Bytes {
    let message = json!({"role": "assistant", "content": said});
    let choices = json!([{"index": 0, "message": message, "finish_reason": "stop"}]);
    json!({"id": "1", "object": "chat.completion", "model": "m", "choices": choices}).to_string().into()
}

/// `said` word by word, and the end.
fn events(said: &str) -> Vec<Bytes> {
    let word = |word: &str| json!({"choices": [{"index": 0, "delta": {"content": format!("{word} ")}}]}).to_string();
    let last = json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}).to_string();
    let data = said.split(' ').map(word).chain([last, "[DONE]".to_owned()]);
    data.map(|data| format!("data: {data}\n\n").into()).collect()
}

/// A chat that says `text`.
pub fn chat(text: &str) -> Request {
    Request::chat("m", json!([{"role": "user", "content": text}]))
}

/// A server that answers each chat with what it says, whole or as events.
pub fn server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(stream));
        }
    });
    addr
}

/// Answers requests until the connection ends.
fn serve(stream: TcpStream) -> Option<()> {
    let (mut from, mut to) = (BufReader::new(stream.try_clone().ok()?), stream);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if from.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        from.read_exact(&mut body).ok()?;
        let body: Value = serde_json::from_slice(&body).ok()?;
        let said = format!("http {}", body["messages"][0]["content"].as_str()?);
        let (kind, body) = match body["stream"] == true {
            true => ("text/event-stream", events(&said).concat()),
            false => ("application/json", whole(&said).to_vec()),
        };
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n", body.len());
        to.write_all(&[head.as_bytes(), &body].concat()).ok()?;
    }
}
