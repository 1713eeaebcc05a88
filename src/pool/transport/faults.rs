//! awc's errors in our words: what kind of failure, and whether the upstream may have seen the request.

use std::error::Error as _;
use std::io;

use awc::error::{ConnectError, PayloadError, SendRequestError};

use super::TransportError;
use super::dial::DialError;
use super::handshake;
use super::head::Broken;
use super::trace::Exchange;
use crate::messages::{FailureKind, Sent};

/// An exchange that ended before its answer's head. The detail holds nothing of what was sent or received.
pub(super) fn unanswered(error: SendRequestError, exchange: &Exchange) -> TransportError {
    let told = |kind, detail| TransportError::new(kind, exchange.sent(), detail);
    let error = match error {
        SendRequestError::Connect(ConnectError::Io(error)) => match inner::<DialError>(&error) {
            Some(dial) => {
                return TransportError::new(dial.kind, Sent::No, dial.detail.clone()).with_message(dial.message);
            }
            None => read_or_write(&error, exchange),
        },
        SendRequestError::Connect(ConnectError::Disconnected) => told(FailureKind::Cut, "closed".to_owned()),
        SendRequestError::Connect(error) => told(FailureKind::Unreachable, error.to_string()),
        SendRequestError::Send(error) => read_or_write(&error, exchange),
        // awc does not name its parser's error; what came from the connection is the source of it.
        SendRequestError::Response(error) => match error.source().and_then(|source| source.downcast_ref()) {
            Some(error) => read_or_write(error, exchange),
            None => told(FailureKind::Malformed, error.to_string()),
        },
        SendRequestError::Url(error) => told(FailureKind::Unreachable, error.to_string()),
        error => told(FailureKind::Cut, error.to_string()),
    };
    remarked(error, exchange)
}

/// A body that ended before it was complete.
pub(super) fn incomplete(error: PayloadError, exchange: &Exchange) -> TransportError {
    let error = match error {
        PayloadError::Incomplete(Some(error)) | PayloadError::Io(error) => read_or_write(&error, exchange),
        error => TransportError::new(FailureKind::Cut, exchange.sent(), error.to_string()),
    };
    remarked(error, exchange)
}

/// With what the connection knows of the exchange.
fn remarked(error: TransportError, exchange: &Exchange) -> TransportError {
    TransportError { detail: format!("{}{}", error.detail, exchange.remark()), ..error }
}

/// What became of a connection that stood.
fn read_or_write(error: &io::Error, exchange: &Exchange) -> TransportError {
    let told = |kind| TransportError::new(kind, exchange.sent(), error.to_string());
    match handshake::of(error).map(handshake::meaning) {
        // TLS 1.3 asks for our certificate only after the handshake.
        Some((FailureKind::Certificate, message)) => told(FailureKind::Certificate).with_message(message),
        _ if inner::<Broken>(error).is_some() => told(FailureKind::Malformed),
        // How awc says that chunks are not chunks.
        _ if error.kind() == io::ErrorKind::InvalidInput => told(FailureKind::Malformed),
        _ => told(FailureKind::Cut),
    }
}

fn inner<E: std::error::Error + 'static>(error: &io::Error) -> Option<&E> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}
