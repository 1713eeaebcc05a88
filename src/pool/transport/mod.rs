//! One HTTP exchange: what the pool asks of a transport, whatever carries it.

mod awc;
mod dial;
mod faults;
mod framing;
mod handshake;
mod head;
mod memory;
mod pieces;
mod reach;
mod strict;
#[cfg(test)]
pub(crate) mod tests;
mod tls;
mod trace;
mod wire;

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use futures_core::Stream;

use crate::messages::{FailureKind, Headers, Sent, Upstream};

pub use self::awc::http;
pub use memory::{MemoryTransport, Scripted};
#[cfg(feature = "gateway")]
pub(crate) use pieces::{InPieces, PIECE_BYTES};
pub use reach::ChosenBy;
pub(crate) use reach::is_public;

/// A future that stays on its thread.
pub type LocalFuture<T> = Pin<Box<dyn Future<Output = T>>>;

/// A body as it arrives; ends with `None` only when it is complete.
pub type BodyStream = Pin<Box<dyn Stream<Item = Result<Bytes, TransportError>>>>;

/// Carries HTTP exchanges for one thread of the pool: it may keep connections, and need not be `Send`.
pub trait Transport: 'static {
    /// POSTs `request`; resolves with the answer's head.
    ///
    /// A redirect is an answer like any other; interim (1xx) answers are never seen. Whoever calls sets the limits of
    /// time, save that of connecting (`request.upstream.timeouts.connect`), which is the transport's own. Dropping the
    /// future or the body ends the exchange and closes its connection.
    ///
    /// What connects must ask `request.chosen_by` about each address, or callers reach what is private by their webhooks.
    fn send(&self, request: HttpRequest) -> LocalFuture<Result<HttpResponse, TransportError>>;
}

/// Makes a [`Transport`] for each thread of the pool.
pub type TransportFactory = Arc<dyn Fn() -> Rc<dyn Transport> + Send + Sync>;

/// A POST.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HttpRequest {
    /// Where it goes: TLS trust and time limits of connecting come from here.
    pub upstream: Arc<Upstream>,
    /// Absolute, `http` or `https`.
    pub url: String,
    /// Who has chosen the URL: which addresses it may lead to, and whether its connection is kept.
    pub chosen_by: ChosenBy,
    /// All headers but host and content-length.
    pub headers: Headers,
    /// The body.
    pub body: Bytes,
    /// Which call it belongs to, as text; for logs and for scripted transports.
    pub call: crate::messages::CallId,
}

/// The head of an answer, and its body to come.
#[non_exhaustive]
pub struct HttpResponse {
    /// The final status.
    pub status: u16,
    /// Headers as they came.
    pub headers: Headers,
    /// The body.
    pub body: BodyStream,
}

impl HttpResponse {
    /// An answer of these parts.
    pub fn new(status: u16, headers: Headers, body: BodyStream) -> Self {
        Self { status, headers, body }
    }
}

/// Why an exchange failed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TransportError {
    /// `Unreachable`, `Certificate`, `Cut`, `Timeout(Connect)` or `Malformed`.
    pub kind: FailureKind,
    /// Whether the upstream may have seen the request.
    pub sent: Sent,
    /// What happened, for the log.
    pub detail: String,
    /// What happened and what to do, for the caller, where there is more to say than `kind` does.
    pub message: Option<&'static str>,
}

impl TransportError {
    /// An error of these parts.
    pub fn new(kind: FailureKind, sent: Sent, detail: impl Into<String>) -> Self {
        Self { kind, sent, detail: detail.into(), message: None }
    }

    /// Tells the caller this.
    pub fn with_message(self, message: impl Into<Option<&'static str>>) -> Self {
        Self { message: message.into(), ..self }
    }
}
