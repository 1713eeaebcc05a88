//! A stream's events, one by one, for programs that embed forebay.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::Stream;

use crate::messages::{Error, ErrorKind, Meta, StreamBody};
use crate::providers::sse::SseParser;

/// The largest event handed out; the pool takes no larger one.
const MAX_EVENT: usize = 16 << 20;

/// One server-sent event.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Event {
    /// Its `event:` field.
    pub name: Option<String>,
    /// Its `data:` lines, joined by line ends.
    pub data: String,
}

/// The events of a streamed answer. Bounded: while it is not read, the upstream is not read either. Dropping it closes
/// the upstream connection.
pub struct Events {
    body: StreamBody,
    parser: SseParser,
    meta: Meta,
}

impl Events {
    pub(super) fn new(body: StreamBody, meta: Meta) -> Self {
        Self { body, parser: SseParser::new(MAX_EVENT), meta }
    }

    /// What forebay knows about the call.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// The next event; `None` behind the proper end of the stream. Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<Result<Event, Error>> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl Stream for Events {
    type Item = Result<Event, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match self.parser.next() {
                Some(Ok(event)) => {
                    let name = event.name().map(str::to_owned);
                    let data = String::from_utf8_lossy(&event.data()).into_owned();
                    return Poll::Ready(Some(Ok(Event { name, data })));
                }
                Some(Err(_)) => {
                    let error = Error::new(ErrorKind::UpstreamUnavailable, "an event of the stream is too large");
                    return Poll::Ready(Some(Err(error)));
                }
                None => {}
            }
            match ready!(self.body.poll_next(cx)) {
                Some(Ok(piece)) => self.parser.push(piece),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }
}
