//! A request's body: the bytes as they came, and the few things routing and accounting need to know of them.

use std::ops::Range;

use bytes::Bytes;

use super::{Endpoint, Error};

/// Whether a streamed chat's caller wants the usage chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UsageAsk {
    /// `stream_options` is absent or null.
    Absent,
    /// `stream_options` is an object without `include_usage`; the offset of its opening brace in the body.
    ObjectAt(usize),
    /// The caller asked for it.
    Asked,
    /// The caller said no, or wrote something only the upstream can judge.
    Other,
}

/// The bytes of a body and what was read from them. Never changed, never re-serialised.
#[derive(Clone)]
pub struct Body {
    bytes: Bytes,
    model: Option<(Box<str>, Range<usize>)>,
    stream: bool,
    token_limit: Option<u64>,
    choices: u64,
    usage_ask: UsageAsk,
}

impl Body {
    /// stub
    pub fn read(_endpoint: Endpoint, bytes: Bytes) -> Result<Self, Error> {
        Ok(Self { bytes, model: None, stream: false, token_limit: None, choices: 1, usage_ask: UsageAsk::Absent })
    }
    /// The bytes as they came.
    pub fn bytes(&self) -> &Bytes { &self.bytes }
    /// The model asked for.
    pub fn model(&self) -> Option<&str> { self.model.as_ref().map(|(name, _)| &**name) }
    /// Where the model's JSON string stands in the bytes, quotes included.
    pub fn model_span(&self) -> Option<Range<usize>> { self.model.as_ref().map(|(_, span)| span.clone()) }
    /// Whether a stream of events is asked for.
    pub fn is_stream(&self) -> bool { self.stream }
    /// `max_completion_tokens`, `max_tokens` or `max_output_tokens`: the greatest that is there.
    pub fn token_limit(&self) -> Option<u64> { self.token_limit }
    /// How many answers are asked for: `n`, at least 1.
    pub fn choices(&self) -> u64 { self.choices }
    /// What the caller said about usage in streams.
    pub fn usage_ask(&self) -> UsageAsk { self.usage_ask }
}

impl std::fmt::Debug for Body {
    /// The size only: prompts are private.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Body({} bytes)", self.bytes.len())
    }
}
