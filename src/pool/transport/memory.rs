//! The in-memory twin: answers come from a function. For tests, simulations and embedding programs.

use std::future::Future;
use std::rc::Rc;

use bytes::Bytes;
use futures_util::stream;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};

use super::{BodyStream, HttpRequest, HttpResponse, LocalFuture, Transport, TransportError};
use crate::messages::Headers;

/// A transport that asks a function for each answer.
pub struct MemoryTransport<F>(Rc<F>);

impl<F, Fut> MemoryTransport<F>
where
    F: Fn(HttpRequest) -> Fut + 'static,
    Fut: Future<Output = Result<HttpResponse, TransportError>> + 'static,
{
    /// Answers with `answer`, which may take its (virtual) time.
    pub fn new(answer: F) -> Self {
        Self(Rc::new(answer))
    }
}

impl<F, Fut> Transport for MemoryTransport<F>
where
    F: Fn(HttpRequest) -> Fut + 'static,
    Fut: Future<Output = Result<HttpResponse, TransportError>> + 'static,
{
    fn send(&self, request: HttpRequest) -> LocalFuture<Result<HttpResponse, TransportError>> {
        Box::pin((self.0)(request))
    }
}

/// Answers ready to be given.
pub struct Scripted;

impl Scripted {
    /// A JSON answer in one piece.
    pub fn json(status: u16, body: impl Into<Bytes>) -> HttpResponse {
        Self::pieces(status, "application/json", vec![Ok(body.into())])
    }

    /// A stream of server-sent events, each item a chunk of the wire.
    pub fn events(chunks: Vec<Result<Bytes, TransportError>>) -> HttpResponse {
        Self::pieces(200, "text/event-stream", chunks)
    }

    fn pieces(status: u16, content_type: &'static str, chunks: Vec<Result<Bytes, TransportError>>) -> HttpResponse {
        let mut headers = Headers::new();
        headers.push(CONTENT_TYPE, HeaderValue::from_static(content_type));
        let body: BodyStream = Box::pin(stream::iter(chunks));
        HttpResponse::new(status, headers, body)
    }

    /// `response` with one more header.
    ///
    /// # Panics
    /// When name or value cannot stand in a header.
    pub fn with(mut response: HttpResponse, name: &'static str, value: &str) -> HttpResponse {
        response.headers.push(HeaderName::from_static(name), HeaderValue::from_str(value).expect("a header value"));
        response
    }
}
