//! A request's one end.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;

use super::{Error, Headers, StreamBody, Tokens};

/// How a call ends: an upstream's success, or one error.
pub type Outcome = Result<Answer, Error>;

/// Tokens a call used, as the upstream counted them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[non_exhaustive]
#[serde(default)]
pub struct Usage {
    /// Tokens read: `prompt_tokens` or `input_tokens`.
    #[serde(alias = "prompt_tokens")]
    pub input_tokens: u64,
    /// Those of them that came from the provider's cache, which most count and charge less.
    pub cached_input_tokens: u64,
    /// Tokens written: `completion_tokens` or `output_tokens`.
    #[serde(alias = "completion_tokens")]
    pub output_tokens: u64,
    /// Both together, as the upstream says.
    pub total_tokens: u64,
}

impl Usage {
    /// All tokens of the call: the upstream's own sum, or ours where it gives none.
    pub fn total(&self) -> u64 {
        self.total_tokens.max(self.input_tokens.saturating_add(self.output_tokens))
    }

    /// Tokens in and out; what the upstream's sum has beside them counts as written.
    pub(crate) fn tokens(&self) -> Tokens {
        Tokens { input: self.input_tokens, output: self.total().saturating_sub(self.input_tokens) }
    }
}

/// What is left of one of forebay's own budgets.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Remaining {
    /// The configured cap per minute.
    pub limit: u64,
    /// How much of it may still be used now.
    pub remaining: u64,
    /// Until it is whole again.
    pub reset: Duration,
}

/// forebay's own budgets of the upstream that answered, all its accounts together; `None` where no cap is set.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct BudgetView {
    /// Requests per minute.
    pub requests: Option<Remaining>,
    /// Tokens per minute.
    pub tokens: Option<Remaining>,
}

/// What forebay knows about a call beside its answer.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Meta {
    /// The upstream that gave the answer or the last error.
    pub upstream: Option<Arc<str>>,
    /// Every request made for this call.
    pub attempts: u32,
    /// Time spent waiting for a turn, backoff included.
    pub queued: Duration,
    /// What the budgets have left.
    pub budget: BudgetView,
    /// Tokens used, where the upstream said so and the answer is whole.
    pub usage: Option<Usage>,
}

/// An upstream's 2xx answer.
#[derive(Debug)]
#[non_exhaustive]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its headers, hop-by-hop, cookie and rate-limit headers taken out.
    pub headers: Headers,
    /// Its body.
    pub body: AnswerBody,
    /// What forebay knows about the call.
    pub meta: Meta,
}

/// The body of an answer.
#[non_exhaustive]
pub enum AnswerBody {
    /// Complete and checked: valid JSON of the length that was promised.
    Whole(Bytes),
    /// Server-sent events, from the first with content on.
    Stream(StreamBody),
}

impl fmt::Debug for AnswerBody {
    /// Sizes only: answers are private.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AnswerBody::Whole(bytes) => write!(f, "Whole({} bytes)", bytes.len()),
            AnswerBody::Stream(_) => f.write_str("Stream"),
        }
    }
}
