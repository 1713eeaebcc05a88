//! A system whose one upstream is a scripted peer, and what its callers hear.

use std::io;
use std::sync::LazyLock;

use super::own::Own;
use crate::messages::{AnswerBody, Error, Outcome, Request, Tokens};
use crate::pool::transport::tests::peer::{Asked, Conn, Peer};
use crate::pool::transport::tests::rig::{OURS, trusted};
use crate::system::Events;
use crate::{Config, Forebay};

/// How an outcome reads in which a caller got what it was owed, whole or as a stream.
pub(super) const OWN: &str = "200 own answer";

/// What a caller says: its word, and how it wants to be answered.
#[derive(Clone, Copy)]
pub(super) struct Ask<'a> {
    /// What the peer is to do; answers plainly where this is empty.
    pub(super) fault: &'a str,
    /// What the answer must repeat.
    pub(super) word: &'a str,
    /// Whether a stream is asked for.
    pub(super) is_stream: bool,
    /// Whether its body is one of [`UPLOADS`].
    pub(super) is_large: bool,
}

/// Requests larger than what a connection holds on its way, for a whole answer and for a stream. They are read and weighed
/// once: that takes longer than their journey.
static UPLOADS: LazyLock<[Request; 2]> = LazyLock::new(|| {
    let whole = Request::chat("m", serde_json::json!([{"role": "user", "content": "x".repeat(10 << 20)}]));
    let stream = whole.clone().into_stream().unwrap();
    [whole, stream].map(|request| {
        request.tokens(|_| Tokens { input: 1, output: 0 });
        request
    })
});

impl<'a> Ask<'a> {
    /// Asks for a whole answer.
    pub(super) fn whole(fault: &'a str, word: &'a str) -> Self {
        Self { fault, word, is_stream: false, is_large: false }
    }

    /// What it is to the system.
    pub(super) fn request(&self) -> Request {
        let chat = || Request::chat("m", serde_json::json!([{"role": "user", "content": self.word}]));
        let request = if self.is_large { UPLOADS[usize::from(self.is_stream)].clone() } else { chat() };
        let mut request = request.with_header("openai-word", self.word).unwrap();
        if !self.fault.is_empty() {
            request = request.with_header("openai-fault", self.fault).unwrap();
        }
        if self.is_stream {
            request = request.with_header("openai-stream", "yes").unwrap().into_stream().unwrap();
        }
        request
    }
}

/// The system, and the peer it talks to.
pub(super) struct Stage {
    pub(super) forebay: Forebay,
    pub(super) peer: Peer,
    base: String,
}

impl Stage {
    /// A system that makes one attempt for each call, one at a time: whoever calls next meets what the last one left.
    pub(super) async fn plain(
        tls: bool,
        script: impl Fn(&mut Conn, &Asked) -> io::Result<bool> + Send + Sync + 'static,
    ) -> Self {
        // Nothing takes that long, and what hangs shall say where.
        let limits = "answer_timeout = \"20s\"\nfirst_byte_timeout = \"20s\"\nidle_timeout = \"20s\"";
        let keys = format!("{limits}\nretry = {{ max_attempts = 1 }}\nlimits = {{ max_concurrent = 1 }}");
        Self::of(tls, &keys, script).await
    }

    /// A system whose upstream has these `keys`.
    pub(super) async fn of(
        tls: bool,
        keys: &str,
        script: impl Fn(&mut Conn, &Asked) -> io::Result<bool> + Send + Sync + 'static,
    ) -> Self {
        let peer = Peer::start(tls.then(trusted), script);
        let base = format!("{}://{}", if tls { "https" } else { "http" }, peer.address);
        Self { forebay: system(&base, keys).await, peer, base }
    }

    /// Puts other keys in force, for the same pool.
    pub(super) fn reconfigure(&self, keys: &str) {
        self.forebay.reconfigure(config(&self.base, keys));
    }

    /// Calls, and says how it ended.
    pub(super) async fn hear(&self, ask: Ask<'_>) -> String {
        if ask.is_stream {
            return match self.forebay.stream(ask.request()).await {
                Ok(events) => heard(events, ask.word).await,
                Err(error) => told(&error),
            };
        }
        judged(self.call(ask).await, ask.word)
    }

    /// Calls for a whole answer.
    pub(super) async fn call(&self, ask: Ask<'_>) -> Outcome {
        self.forebay.call(ask.request()).await
    }
}

/// A system on this thread whose upstream `up` is at `base`, trusts our authority, and has these `keys`.
pub(super) async fn system(base: &str, keys: &str) -> Forebay {
    Forebay::start(config(base, keys)).await.unwrap()
}

/// What such a system is told.
pub(super) fn config(base: &str, keys: &str) -> Config {
    let trust = format!("ca_file = {:?}", OURS.file());
    let trust = if base.starts_with("https") && !keys.contains("ca_file") { trust.as_str() } else { "" };
    let upstream = format!("[upstreams.up]\nbase_url = \"{base}/v1\"\nmodels = [\"m\"]");
    Config::from_toml(&format!("[pool]\nthreads = 0\n{upstream}\n{trust}\n{keys}")).unwrap()
}

/// How a whole answer to `word` reads.
pub(super) fn judged(outcome: Outcome, word: &str) -> String {
    match outcome {
        Err(error) => told(&error),
        Ok(answer) => match answer.body {
            AnswerBody::Whole(body) if body == Own::new(word, false).body() => {
                OWN.replace("200", &answer.status.to_string())
            }
            body => format!("{} WRONG: {body:?} to {word}", answer.status),
        },
    }
}

/// How a stream that was opened for `word` reads to its end.
async fn heard(mut events: Events, word: &str) -> String {
    let own = Own::new(word, true);
    let (mut heard, mut broken) = (String::new(), None);
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => heard.push_str(&format!("data: {}\n\n", event.data)),
            Err(error) => broken = Some(told(&error).split_once(' ').expect("a status").1.to_owned()),
        }
    }
    match broken {
        None if heard == own.body() => OWN.to_owned(),
        Some(why) if heard == own.first => format!("200 own events, then: {why}"),
        broken => format!("200 WRONG: {heard:?} to {word}, then {broken:?}"),
    }
}

/// How an error reads to a caller; its code is left out where it is the usual one.
pub(super) fn told(error: &Error) -> String {
    if let Some((_, body)) = error.answer() {
        let body: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
        return format!("{} the upstream's: {}", error.status(), body["error"]["message"].as_str().unwrap_or_default());
    }
    let message = error.message();
    let message = message.strip_prefix("up: ").unwrap_or(message);
    let message = message.strip_suffix(" (1 attempt made)").unwrap_or(message);
    match error.code() {
        "upstream_unavailable" => format!("{} {message}", error.status()),
        code => format!("{} {code}: {message}", error.status()),
    }
}
