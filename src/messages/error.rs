//! The error a caller sees, a row of the contract's table each.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use super::{CallId, Envelope, Headers, Meta};

/// The rows of the contract's error table.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
#[allow(missing_docs)] // each is the table's row of that name
pub enum ErrorKind {
    InvalidRequest,
    InvalidApiKey,
    Forbidden,
    UnknownUrl,
    ModelNotFound,
    NotFound,
    MethodNotAllowed,
    BodyTimeout,
    IdempotencyConflict,
    BodyTooLarge,
    TenantLimit,
    Overloaded,
    Draining,
    Restarting,
    DeadlineExceeded,
    UpstreamUnavailable,
    UpstreamRedirected,
    WorkerCrashed,
    /// The upstream's own final error; status and body are the upstream's.
    Upstream,
    /// The configuration or the surroundings do not allow a start; never seen over HTTP.
    Start,
}

impl ErrorKind {
    /// Its HTTP status; 502 for [`ErrorKind::Upstream`] whose own status is unknown.
    pub fn status(self) -> u16 {
        use ErrorKind::*;
        match self {
            InvalidRequest => 400,
            InvalidApiKey => 401,
            Forbidden => 403,
            UnknownUrl | ModelNotFound | NotFound => 404,
            MethodNotAllowed => 405,
            BodyTimeout => 408,
            IdempotencyConflict => 409,
            BodyTooLarge => 413,
            TenantLimit => 429,
            Overloaded | Draining | Restarting => 503,
            DeadlineExceeded => 504,
            UpstreamUnavailable | UpstreamRedirected | Upstream => 502,
            WorkerCrashed | Start => 500,
        }
    }

    /// Its `error.code`.
    pub fn code(self) -> &'static str {
        use ErrorKind::*;
        match self {
            InvalidRequest => "invalid_request",
            InvalidApiKey => "invalid_api_key",
            Forbidden => "forbidden",
            UnknownUrl => "unknown_url",
            ModelNotFound => "model_not_found",
            NotFound => "not_found",
            MethodNotAllowed => "method_not_allowed",
            BodyTimeout => "body_timeout",
            IdempotencyConflict => "idempotency_conflict",
            BodyTooLarge => "body_too_large",
            TenantLimit => "tenant_limit",
            Overloaded => "overloaded",
            Draining => "draining",
            Restarting => "restarting",
            DeadlineExceeded => "deadline_exceeded",
            UpstreamUnavailable => "upstream_unavailable",
            UpstreamRedirected => "upstream_redirected",
            WorkerCrashed => "worker_crashed",
            Upstream => "upstream_error",
            Start => "start_failed",
        }
    }

    /// OpenAI's `error.type` for it.
    pub fn error_type(self) -> &'static str {
        use ErrorKind::*;
        match self.status() {
            401 => "authentication_error",
            403 => "permission_error",
            429 => "rate_limit_error",
            400..=499 => "invalid_request_error",
            _ if self == Upstream => "upstream_error",
            503 => "overloaded_error",
            504 => "timeout_error",
            _ => "api_error",
        }
    }
}

/// Why a call brought no answer. Cheap to move; never holds a secret.
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    message: String,
    param: Option<Cow<'static, str>>,
    retry_after: Option<Duration>,
    upstream: Option<(u16, Headers, Bytes)>,
    is_lasting: bool,
    asks_for_time: bool,
    meta: Meta,
}

impl Error {
    /// An error of the table's row `kind`; `message` says what happened and what to do, in a sentence.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            param: None,
            retry_after: None,
            upstream: None,
            is_lasting: false,
            asks_for_time: false,
            meta: Meta::default(),
        }))
    }

    /// The upstream's own final answer, passed on as it is.
    pub fn upstream(status: u16, headers: Headers, body: Bytes) -> Self {
        let mut error = Self::new(ErrorKind::Upstream, format!("the upstream answered {status}"));
        error.0.upstream = Some((status, headers, body));
        error
    }

    /// Names the field of the request at fault.
    pub fn with_param(mut self, param: impl Into<Cow<'static, str>>) -> Self {
        self.0.param = Some(param.into());
        self
    }

    /// Says when another try may succeed.
    pub fn with_retry_after(mut self, after: Duration) -> Self {
        self.0.retry_after = Some(after);
        self
    }

    /// Says that another try would end the same.
    pub(crate) fn lasting(mut self) -> Self {
        self.0.is_lasting = true;
        self
    }

    /// Says that nothing is wrong with the call: it came at a bad time. Who can wait, as a job can, ends with no such error.
    pub(crate) fn asking_for_time(mut self) -> Self {
        self.0.asks_for_time = true;
        self
    }

    /// Adds what is known about the call.
    pub fn with_meta(mut self, meta: Meta) -> Self {
        self.0.meta = meta;
        self
    }

    /// The table's row.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The table's `error.code`.
    pub fn code(&self) -> &'static str {
        self.0.kind.code()
    }

    /// The HTTP status: the upstream's own where it has spoken last.
    pub fn status(&self) -> u16 {
        self.0.upstream.as_ref().map_or(self.0.kind.status(), |(status, _, _)| *status)
    }

    /// What happened, in a sentence.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The field of the request at fault.
    pub fn param(&self) -> Option<&str> {
        self.0.param.as_deref()
    }

    /// When another try may succeed.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Whether the same call would end the same: it is an error that is never retried.
    pub fn is_lasting(&self) -> bool {
        self.0.is_lasting
    }

    /// Whether the call came at a bad time, and nothing else is wrong with it.
    pub(crate) fn asks_for_time(&self) -> bool {
        self.0.asks_for_time
    }

    /// The upstream's own answer, where it has spoken last: headers and body.
    pub fn answer(&self) -> Option<(&Headers, &Bytes)> {
        self.0.upstream.as_ref().map(|(_, headers, body)| (headers, body))
    }

    /// What is known about the call.
    pub fn meta(&self) -> &Meta {
        &self.0.meta
    }

    /// The error in OpenAI's envelope; the upstream's body as it came where it has spoken last.
    pub fn to_body(&self) -> Bytes {
        self.to_body_in(Envelope::OpenAi, None)
    }

    /// The same in the form that the caller of `id` understands.
    pub(crate) fn to_body_in(&self, envelope: Envelope, id: Option<CallId>) -> Bytes {
        match self.answer() {
            Some((_, body)) => body.clone(),
            None => envelope.body(self, id),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code(), self.message())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("code", &self.code())
            .field("status", &self.status())
            .field("message", &self.message())
            .field("attempts", &self.meta().attempts)
            .finish()
    }
}

impl std::error::Error for Error {}
