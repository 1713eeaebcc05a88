//! One try of one call: its order, the opening of its stream, its end.

use std::sync::Arc;

use actix::prelude::*;
use bytes::Bytes;

use super::{
    Account, AttemptId, Durable, Error, Failure, Headers, LimitReport, Redactor, Request, SlotId, StreamBody, Usage,
};

/// Dispatcher to request actor: make this try.
#[derive(Message, Clone, Debug)]
#[rtype(result = "()")]
pub(crate) struct RunAttempt {
    pub(crate) slot: SlotId,
    pub(crate) id: AttemptId,
    pub(crate) request: Arc<Request>,
    pub(crate) account: Arc<Account>,
    /// The model's name at the upstream; `None` when the caller named none.
    pub(crate) model: Option<Arc<str>>,
    /// Takes configured secrets out of what the upstream says.
    pub(crate) redactor: Redactor,
    /// Who keeps a record of it, when somebody does.
    pub(crate) durable: Option<Arc<Durable>>,
}

/// Dispatcher to request actor: nobody waits for this try any more. Answered with an [`Attempted`] like any other end.
#[derive(Message, Clone, Debug)]
#[rtype(result = "()")]
pub(crate) struct Abort {
    pub(crate) slot: SlotId,
    pub(crate) id: AttemptId,
    /// What the reader of an open stream is told.
    pub(crate) told: Option<Error>,
}

/// Request actor to dispatcher: the stream has shown its first content. Its bytes go straight to the caller; an
/// [`Attempted`] follows at its end.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub(crate) struct Opened {
    pub(crate) slot: SlotId,
    pub(crate) id: AttemptId,
    pub(crate) status: u16,
    pub(crate) headers: Headers,
    /// What its head said of the account's limits.
    pub(crate) limits: LimitReport,
    pub(crate) events: StreamBody,
}

/// Request actor to dispatcher: the try has ended and the slot is free.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Attempted {
    pub(crate) slot: SlotId,
    pub(crate) id: AttemptId,
    pub(crate) end: AttemptEnd,
}

/// How a try ended.
pub(crate) enum AttemptEnd {
    /// A whole 2xx answer, complete and well-formed.
    Answered { status: u16, headers: Headers, body: Bytes, usage: Option<Usage>, limits: LimitReport },
    /// A stream that had been opened has ended. What broke it was told to the caller through the stream.
    Streamed { usage: Option<Usage>, broken: Option<Failure> },
    /// Nothing to give out.
    Failed(Failure),
    /// It was called off.
    Aborted,
    /// It was not made: it could not be put on record.
    Withheld(Error),
}

impl AttemptEnd {
    /// What the response that ended it said of the account's limits. Nothing at a stream's end: its head was the response,
    /// and [`Opened`] brought what that said while it was fresh.
    pub(crate) fn limits(&self) -> Option<&LimitReport> {
        match self {
            AttemptEnd::Answered { limits, .. } => Some(limits),
            AttemptEnd::Failed(failure) => Some(&failure.limits),
            AttemptEnd::Streamed { .. } | AttemptEnd::Aborted | AttemptEnd::Withheld(_) => None,
        }
    }
}
