//! What went wrong with one attempt: the one error that crosses actors.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use super::{Headers, LimitReport};

/// Whether the upstream may have seen the request. Decides nothing about retries, but a repeat of what was maybe sent
/// may be billed twice, and is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sent {
    /// Not one byte of the request left.
    No,
    /// Some of it left; what became of it is not known.
    Maybe,
}

/// The phase of an attempt that a time limit ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Phase {
    /// Resolving, connecting, handshake.
    Connect,
    /// Between the send and the first byte of the body.
    FirstByte,
    /// Between two chunks of the body.
    Idle,
}

/// The kinds of failure, as far as anyone treats them differently.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum FailureKind {
    /// Name not resolved, connection refused, no TLS handshake.
    Unreachable,
    /// A certificate that does not verify: never retried.
    Certificate,
    /// The connection was reset or closed before the answer was complete.
    Cut,
    /// A phase took too long.
    Timeout(Phase),
    /// An answer that is not what its kind must be: broken HTTP, broken JSON.
    Malformed,
    /// An answer larger than `max_answer`.
    TooLarge,
    /// A 3xx: never followed, never retried.
    Redirected,
    /// An answer with an error status that no other kind covers.
    Status,
    /// 429: the account's rate is used up.
    RateLimited,
    /// 429 that says the account is out of quota or credit: never retried.
    OutOfQuota,
    /// 401: the key is not accepted.
    KeyRefused,
    /// An error event that opened a stream.
    StreamError,
    /// The request actor died.
    Crashed,
    /// The upstream's protocol has no words for something in the request: nothing was sent, and nothing is retried there.
    Untranslatable,
}

/// What an upstream means that sends a call away for the load: each wants another cure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pushback {
    /// Too many requests or tokens of late: again when told.
    Rate,
    /// Traffic grew too fast, though within its limits.
    SlowDown,
    /// The upstream has too much to do, whoever asks: no quota of ours.
    Overload,
    /// The quota of a whole day is used up.
    DailyQuota,
    /// Credit or a spending limit is used up: no wait mends that.
    NoMoney,
    /// This one call is larger than its limit ever allows.
    NeverFits,
}

/// What the upstream said about when to come again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RetryHint {
    /// Not before this much time has passed.
    pub after: Option<Duration>,
    /// `x-should-retry`.
    pub should_retry: Option<bool>,
}

/// The end of an attempt that brought no answer to give out.
#[derive(Clone)]
#[non_exhaustive]
pub struct Failure {
    /// How it is treated.
    pub kind: FailureKind,
    /// Whether the upstream may have seen the request.
    pub sent: Sent,
    /// What the upstream answered, when it did: status, headers, body.
    pub answer: Option<(u16, Headers, Bytes)>,
    /// What it said about coming again.
    pub hint: RetryHint,
    /// What it meant, when it sent the call away for the load.
    pub(crate) pushback: Option<Pushback>,
    /// What it said of the account's limits.
    pub(crate) limits: LimitReport,
    /// For the caller: what happened, without secrets or internals.
    pub message: String,
    /// For the log: what the machine said.
    pub detail: String,
}

impl Failure {
    /// A failure with nothing answered.
    pub fn new(kind: FailureKind, sent: Sent, message: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            kind,
            sent,
            answer: None,
            hint: RetryHint::default(),
            pushback: None,
            limits: LimitReport::default(),
            message: message.into(),
            detail: detail.into(),
        }
    }

    /// The status the upstream answered with, if it did.
    pub fn status(&self) -> Option<u16> {
        self.answer.as_ref().map(|(status, _, _)| *status)
    }
}

impl fmt::Debug for Failure {
    /// Without the answer's text: it is private.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failure")
            .field("kind", &self.kind)
            .field("sent", &self.sent)
            .field("status", &self.status())
            .field("hint", &self.hint)
            .field("pushback", &self.pushback)
            .field("detail", &self.detail)
            .finish_non_exhaustive()
    }
}
