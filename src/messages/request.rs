//! What the caller said: immutable, its body shared and never rewritten on the way.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use serde::Serialize;

use super::{Body, Droppable, Error, ErrorKind, Headers, Tokens};

/// The calls that forebay carries: OpenAI's, and Anthropic's own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum Endpoint {
    /// `/chat/completions`
    ChatCompletions,
    /// `/completions`
    Completions,
    /// `/embeddings`
    Embeddings,
    /// `/responses`
    Responses,
    /// `/moderations`
    Moderations,
    /// `/messages`, in Anthropic's format.
    Messages,
    /// `/messages/count_tokens`, in Anthropic's format.
    CountTokens,
}

impl Endpoint {
    /// Every endpoint.
    pub const ALL: [Endpoint; 7] = [
        Endpoint::ChatCompletions,
        Endpoint::Completions,
        Endpoint::Embeddings,
        Endpoint::Responses,
        Endpoint::Moderations,
        Endpoint::Messages,
        Endpoint::CountTokens,
    ];

    /// Its path below the prefix of the API's version, with a leading slash.
    pub fn path(self) -> &'static str {
        match self {
            Endpoint::ChatCompletions => "/chat/completions",
            Endpoint::Completions => "/completions",
            Endpoint::Embeddings => "/embeddings",
            Endpoint::Responses => "/responses",
            Endpoint::Moderations => "/moderations",
            Endpoint::Messages => "/messages",
            Endpoint::CountTokens => "/messages/count_tokens",
        }
    }

    /// Its path in version 1 of the API, by which jobs and batches name it: `/v1/chat/completions`.
    pub fn v1_path(self) -> String {
        format!("/v1{}", self.path())
    }

    /// The endpoint that [`Endpoint::v1_path`] names so.
    pub fn of_v1_path(path: &str) -> Option<Self> {
        let path = path.strip_prefix("/v1")?;
        Self::ALL.into_iter().find(|endpoint| endpoint.path() == path)
    }

    /// Whether it is of Anthropic's own protocol: requests, answers and errors in its format.
    pub fn is_anthropics_own(self) -> bool {
        matches!(self, Endpoint::Messages | Endpoint::CountTokens)
    }

    /// Whether a call may leave `model` out.
    pub fn model_is_optional(self) -> bool {
        matches!(self, Endpoint::Responses | Endpoint::Moderations)
    }
}

/// Which calls go first when the budget is short.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// Before the others.
    High,
    /// As they come.
    #[default]
    Normal,
    /// When nothing else waits.
    Low,
}

/// One request, as the caller made it.
#[derive(Clone, Debug)]
pub struct Request {
    endpoint: Endpoint,
    body: Body,
    headers: Headers,
    timeout: Option<Duration>,
    priority: Option<Priority>,
    tenant: Option<Arc<str>>,
    droppable: Droppable,
    /// What it may need in tokens, once somebody has asked.
    tokens: OnceLock<Tokens>,
}

impl Request {
    /// A request to `endpoint` with a JSON body, forwarded byte for byte.
    ///
    /// # Errors
    /// `invalid_request` when the body is not what CONTRACT asks of one: a UTF-8 JSON object of depth at most 128 with
    /// a `model`, and `stream` a bool where it is there.
    pub fn new(endpoint: Endpoint, body: impl Into<Bytes>) -> Result<Self, Error> {
        let body = Body::read(endpoint, body.into())?;
        Ok(Self {
            endpoint,
            body,
            headers: Headers::new(),
            timeout: None,
            priority: None,
            tenant: None,
            droppable: Droppable::default(),
            tokens: OnceLock::new(),
        })
    }

    /// A chat: `messages` is any value that serialises to the array OpenAI's API takes.
    ///
    /// # Panics
    /// When `messages` does not serialise to a JSON array or `model` is empty: the program's own mistake, not its input's.
    /// Use [`Request::new`] for bodies from outside.
    pub fn chat(model: &str, messages: impl Serialize) -> Self {
        #[derive(Serialize)]
        struct Chat<'a, M> {
            model: &'a str,
            messages: M,
        }
        let body = serde_json::to_vec(&Chat { model, messages }).expect("messages serialise to JSON");
        Self::new(Endpoint::ChatCompletions, body).expect("a chat has a model and an array of messages")
    }

    /// The same request, asking for a stream.
    ///
    /// # Errors
    /// `invalid_request` when its body says otherwise, or its endpoint has no streams.
    pub fn into_stream(mut self) -> Result<Self, Error> {
        if !self.is_stream() {
            let no_streams =
                || Error::new(ErrorKind::InvalidRequest, "this endpoint has no streams").with_param("stream");
            let body = self.body.bytes();
            let rest = &body[body.iter().position(|byte| *byte == b'{').map_or(0, |brace| brace + 1)..];
            let whole = [b"{\"stream\":true,", rest].concat();
            // A body that said `"stream": false` says it twice now, which is refused.
            self.body = Body::read(self.endpoint, whole.into())?;
            if !self.is_stream() {
                return Err(no_streams());
            }
        }
        Ok(self)
    }

    /// The call's whole life, queueing and retries included; for streams until the first event.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Where it stands among calls that wait.
    pub fn with_priority(mut self, priority: Priority) -> Self {
        self.priority = Some(priority);
        self
    }

    /// Adds a header for the upstream.
    ///
    /// # Errors
    /// `invalid_request` when name or value cannot stand in a header.
    pub fn with_header(mut self, name: &str, value: &str) -> Result<Self, Error> {
        let invalid = |what: &str| Error::new(ErrorKind::InvalidRequest, format!("header {what} cannot be sent"));
        let name = HeaderName::try_from(name).map_err(|_| invalid("name"))?;
        let value = HeaderValue::try_from(value).map_err(|_| invalid("value"))?;
        self.headers.push(name, value);
        Ok(self)
    }

    /// Replaces the headers for the upstream.
    pub fn with_headers(mut self, headers: Headers) -> Self {
        self.headers = headers;
        self
    }

    /// Who asks, as the configuration names them.
    pub fn with_tenant(mut self, tenant: Option<Arc<str>>) -> Self {
        self.tenant = tenant;
        self
    }

    /// What may be left out where an upstream's protocol has no words for it. Without this, such a call is an error that
    /// names the field.
    pub fn with_droppable(mut self, droppable: Droppable) -> Self {
        self.droppable = droppable;
        self
    }

    /// Which call it is.
    pub fn endpoint(&self) -> Endpoint {
        self.endpoint
    }

    /// The body and what was read from it.
    pub fn body(&self) -> &Body {
        &self.body
    }

    /// The model asked for.
    pub fn model(&self) -> Option<&str> {
        self.body.model()
    }

    /// Whether a stream of events is asked for.
    pub fn is_stream(&self) -> bool {
        self.body.is_stream()
    }

    /// Headers for the upstream.
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// The caller's own time limit.
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// Where it stands among calls that wait.
    pub fn priority(&self) -> Priority {
        self.priority.unwrap_or_default()
    }

    /// The same, where the caller said so.
    pub(crate) fn told_priority(&self) -> Option<Priority> {
        self.priority
    }

    /// What may be left out where it cannot be said.
    pub fn droppable(&self) -> &Droppable {
        &self.droppable
    }

    /// What it may need in tokens, as `estimate` says: asked once, since it reads the whole body.
    pub(crate) fn tokens(&self, estimate: impl FnOnce(&Self) -> Tokens) -> Tokens {
        *self.tokens.get_or_init(|| estimate(self))
    }

    /// Who asks.
    pub fn tenant(&self) -> Option<&Arc<str>> {
        self.tenant.as_ref()
    }
}
