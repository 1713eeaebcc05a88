//! How a call is said to an upstream and its answer understood: one contract, a kind of upstream each.
//!
//! Callers speak OpenAI's protocol, or Anthropic's on its own routes. Where the upstream speaks the same, requests and
//! answers pass as they are; where it does not, they are translated both ways.

use std::time::SystemTime;

use bytes::{Bytes, BytesMut};

use super::sse::Event;
use super::{anthropic, gemini, messages, openai};
use crate::messages::{Account, Endpoint, Headers, Request, UpstreamKind, Usage};

/// Whether calls to `endpoint` can be sent to upstreams of this kind.
pub(crate) fn speaks(kind: UpstreamKind, endpoint: Endpoint) -> bool {
    match kind {
        UpstreamKind::OpenAi => !endpoint.is_anthropics_own(),
        UpstreamKind::Anthropic => endpoint.is_anthropics_own() || endpoint == Endpoint::ChatCompletions,
        UpstreamKind::Gemini => endpoint == Endpoint::ChatCompletions,
    }
}

/// All of a request but its framing, and how its answer is to be read.
#[derive(Debug)]
pub(crate) struct Encoded {
    pub(crate) url: String,
    pub(crate) headers: Headers,
    pub(crate) body: Bytes,
    pub(crate) answers: Box<dyn Answers>,
}

/// What of a request has no words in the upstream's protocol.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Untranslatable {
    /// The field, as a path: `logprobs`, `messages[2].content[0]`.
    pub(crate) field: String,
    /// Why, and what to do instead, in a sentence; it names the field and repeats no private value.
    pub(crate) message: String,
}

/// The request to `account`, for the upstream's `model`. An answer that does not say when it was made was made `now`.
///
/// # Errors
/// What the upstream's protocol cannot express.
pub(crate) fn encode(
    request: &Request,
    account: &Account,
    model: Option<&str>,
    now: SystemTime,
) -> Result<Encoded, Untranslatable> {
    match account.upstream.kind {
        UpstreamKind::OpenAi => Ok(openai::encode(request, account, model)),
        UpstreamKind::Anthropic if request.endpoint().is_anthropics_own() => {
            Ok(messages::encode(request, account, model))
        }
        UpstreamKind::Anthropic => anthropic::encode(request, account, model, now),
        UpstreamKind::Gemini => gemini::encode(request, account, model, now),
    }
}

/// How the answer to one request is read, and what its caller gets of it.
pub(crate) trait Answers: std::fmt::Debug {
    /// Checks that a 2xx body is whole, reads what it says about usage, and gives what the caller gets for it.
    ///
    /// # Errors
    /// What is wrong, for the log and without any of the body. Such an answer was cut or mangled on the way and is worth
    /// another try. A strange `usage` in a whole answer is no error: it is none.
    fn whole(&self, body: Bytes) -> Result<(Bytes, Option<Usage>), String>;

    /// A reader at the start of a stream.
    fn events(&self) -> Box<dyn Events>;

    /// The error that the JSON object `body` reports where events were asked for, in the caller's envelope, and its status
    /// if it says so; `None` when it reports none.
    fn error_in(&self, body: &Bytes) -> Option<(Bytes, Option<u16>)>;

    /// The body of an error answer in the caller's envelope, from the upstream's.
    fn error(&self, body: Bytes) -> Bytes {
        body
    }
}

/// Follows one stream from its first event to its end.
pub(crate) trait Events: std::fmt::Debug {
    /// Reads the upstream's next event. What the caller gets for it, if anything, is written behind `out`, as whole events;
    /// nothing unless the step is to hold it or to pass it on.
    fn read(&mut self, event: &Event, out: &mut BytesMut) -> Step;

    /// The body has ended, and the stream is complete: what the caller still gets.
    fn finish(&mut self, _out: &mut BytesMut) {}

    /// Whether the upstream has said all: a stream that ends before that was cut, however clean its end looks.
    fn is_complete(&self) -> bool;

    /// Whether nothing can come any more but the end of the body.
    fn is_ended(&self) -> bool;

    /// The usage told last.
    fn usage(&self) -> Option<Usage>;
}

/// What to do with an event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// An opening without content: keep it until the first content, so that what goes wrong before is still retried.
    Hold,
    /// Pass it on, behind what is held.
    Content,
    /// Say nothing of it: clients break on it or did not ask for it.
    Drop,
    /// The upstream reports an error. `body` has it in the caller's envelope; `status` is the one it would have had as a
    /// whole answer, where it says so. What is held is worthless.
    Error {
        /// The error as a whole body.
        body: Bytes,
        /// The status, if the error says what it is.
        status: Option<u16>,
    },
    /// Not what such a stream consists of: something on the way broke it.
    Malformed {
        /// What is wrong, for the log, without any of the event.
        detail: String,
    },
}

impl Step {
    /// For streams whose events go to the caller as they came: writes `event` behind `out`, if the caller is to have it.
    pub(super) fn passing_on(self, event: &Event, out: &mut BytesMut) -> Self {
        if matches!(self, Self::Hold | Self::Content) {
            out.extend_from_slice(event.raw());
        }
        self
    }
}
