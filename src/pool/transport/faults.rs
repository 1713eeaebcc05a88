//! awc's errors in our words: what kind of failure, and whether the upstream may have seen the request.

use std::error::Error as _;
use std::io;

use awc::error::{ConnectError, PayloadError, SendRequestError};

use super::TransportError;
use super::dial::{DialError, about_certificate};
use super::head::Broken;
use super::trace::Exchange;
use crate::messages::{FailureKind, Sent};

/// An exchange that ended before its answer's head. The detail holds nothing of what was sent or received.
pub(super) fn unanswered(error: SendRequestError, exchange: &Exchange) -> TransportError {
    let (kind, detail) = match error {
        SendRequestError::Connect(ConnectError::Io(error)) => match inner::<DialError>(&error) {
            Some(dial) => return TransportError::new(dial.kind, Sent::No, dial.detail.clone()),
            None => read_or_write(&error),
        },
        SendRequestError::Connect(ConnectError::Disconnected) => (FailureKind::Cut, "closed".to_owned()),
        SendRequestError::Connect(error) => (FailureKind::Unreachable, error.to_string()),
        SendRequestError::Send(error) => read_or_write(&error),
        // awc does not name its parser's error; what came from the connection is the source of it.
        SendRequestError::Response(error) => match error.source().and_then(|source| source.downcast_ref()) {
            Some(error) => read_or_write(error),
            None => (FailureKind::Malformed, error.to_string()),
        },
        SendRequestError::Url(error) => (FailureKind::Unreachable, error.to_string()),
        error => (FailureKind::Cut, error.to_string()),
    };
    TransportError::new(kind, exchange.sent(), format!("{detail}{}", exchange.remark()))
}

/// A body that ended before it was complete.
pub(super) fn incomplete(error: PayloadError, exchange: &Exchange) -> TransportError {
    let (kind, detail) = match error {
        PayloadError::Incomplete(Some(error)) | PayloadError::Io(error) => read_or_write(&error),
        error => (FailureKind::Cut, error.to_string()),
    };
    TransportError::new(kind, exchange.sent(), format!("{detail}{}", exchange.remark()))
}

/// What became of a connection that stood.
fn read_or_write(error: &io::Error) -> (FailureKind, String) {
    let kind = if inner::<rustls::Error>(error).is_some_and(about_certificate) {
        FailureKind::Certificate // TLS 1.3 asks for ours only after the handshake
    } else if inner::<Broken>(error).is_some() || error.kind() == io::ErrorKind::InvalidInput {
        FailureKind::Malformed // the latter is how awc says that chunks are not chunks
    } else {
        FailureKind::Cut
    };
    (kind, error.to_string())
}

fn inner<E: std::error::Error + 'static>(error: &io::Error) -> Option<&E> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}
