//! A request's body: the bytes as they came, and the few things routing and accounting need to know of them.
//!
//! Read once, in place: one check of the encoding, one walk over the syntax, and a count of brackets that only in
//! bodies with very many of them becomes a measuring of depth. The rest is for the upstream to judge.

use std::ops::Range;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::{Endpoint, Error, ErrorKind, json};

/// How deep arrays and objects may nest; the body itself is the first level.
const MAX_DEPTH: usize = 128;

/// Whether a streamed chat's caller wants the usage chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UsageAsk {
    /// `stream_options` is absent.
    Absent,
    /// `stream_options` is null; the offset of that `null` in the body.
    NullAt(usize),
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
    /// Checks `bytes` and reads what routing and accounting need.
    ///
    /// # Errors
    /// `invalid_request`, naming the field and the cure, unless the bytes are a UTF-8 JSON object of depth at most 128
    /// with `model` a non-empty string (which [`Endpoint::model_is_optional`] allows to be absent), `messages` an array
    /// on chats and Anthropic's messages, `stream` a bool or null, and `model`, `stream` and each token limit at most once. No error repeats
    /// any of the body.
    pub fn read(endpoint: Endpoint, bytes: Bytes) -> Result<Self, Error> {
        let text = utf8(&bytes)?;
        let mut found = Found::default();
        json::each_field(text, |key, value| found.take(key, value)).map_err(|error| not_json(text, &error))?;
        if is_deeper_than(text.as_bytes(), MAX_DEPTH) {
            return Err(invalid(format!("The body nests deeper than {MAX_DEPTH} levels: flatten it.")));
        }
        if let Some(name) = found.repeated {
            return Err(invalid(format!("`{name}` stands in the body more than once: send it once.")).with_param(name));
        }
        let offset = |value: &RawValue| value.get().as_ptr() as usize - text.as_ptr() as usize;
        let model = match found.model {
            Some(value) => {
                let start = offset(value);
                Some((model_name(value)?, start..start + value.get().len()))
            }
            None if endpoint.model_is_optional() => None,
            None => return Err(invalid("`model` is missing: name the model to ask.").with_param("model")),
        };
        if matches!(endpoint, Endpoint::ChatCompletions | Endpoint::Messages) && !found.messages_are_an_array {
            return Err(invalid("`messages` must be an array of messages.").with_param("messages"));
        }
        let stream = match found.stream.map(RawValue::get) {
            None | Some("null" | "false") => false,
            // The others have no streams: what they make of the field is for the upstream to say, in a whole answer.
            Some("true") => can_stream(endpoint),
            Some(_) => return Err(invalid("`stream` must be true, false or null.").with_param("stream")),
        };
        let usage_ask = match found.stream_options {
            StreamOptions::Absent => UsageAsk::Absent,
            StreamOptions::Repeated => UsageAsk::Other,
            StreamOptions::Once(value) => usage_ask(value, offset(value)),
        };
        let token_limit = found.limits.iter().flatten().filter_map(|value| json::count(value)).max();
        Ok(Self { model, stream, token_limit, choices: found.choices.max(1), usage_ask, bytes })
    }

    /// The bytes as they came.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The model asked for.
    pub fn model(&self) -> Option<&str> {
        self.model.as_ref().map(|(name, _)| &**name)
    }

    /// Where the model's JSON string stands in the bytes, quotes included.
    pub fn model_span(&self) -> Option<Range<usize>> {
        self.model.as_ref().map(|(_, span)| span.clone())
    }

    /// Whether a stream of events is asked for, at an endpoint that has them.
    pub fn is_stream(&self) -> bool {
        self.stream
    }

    /// `max_completion_tokens`, `max_tokens` or `max_output_tokens`: the greatest that is there.
    pub fn token_limit(&self) -> Option<u64> {
        self.token_limit
    }

    /// How many answers are made: `n` or `best_of`, whichever is greater, at least 1.
    pub fn choices(&self) -> u64 {
        self.choices
    }

    /// What the caller said about usage in streams.
    pub fn usage_ask(&self) -> UsageAsk {
        self.usage_ask
    }
}

impl std::fmt::Debug for Body {
    /// The size only: prompts are private.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Body({} bytes)", self.bytes.len())
    }
}

/// What one walk over the body brings home.
#[derive(Default)]
struct Found<'a> {
    model: Option<&'a RawValue>,
    stream: Option<&'a RawValue>,
    /// In the order of [`LIMITS`].
    limits: [Option<&'a RawValue>; 3],
    stream_options: StreamOptions<'a>,
    messages_are_an_array: bool,
    messages_seen: bool,
    choices: u64,
    /// The first field that must stand once and does not.
    repeated: Option<&'static str>,
}

const LIMITS: [&str; 3] = ["max_tokens", "max_completion_tokens", "max_output_tokens"];

#[derive(Default)]
enum StreamOptions<'a> {
    #[default]
    Absent,
    Once(&'a RawValue),
    /// Which of them counts is the upstream's to say.
    Repeated,
}

impl<'a> Found<'a> {
    fn take(&mut self, key: &str, value: &'a RawValue) {
        match key {
            "model" => Self::once(&mut self.model, value, "model", &mut self.repeated),
            "stream" => Self::once(&mut self.stream, value, "stream", &mut self.repeated),
            "stream_options" => {
                self.stream_options = match self.stream_options {
                    StreamOptions::Absent => StreamOptions::Once(value),
                    _ => StreamOptions::Repeated,
                }
            }
            // Repeated messages are the upstream's to judge, but none of them may be of a wrong type.
            "messages" => {
                let is_array = value.get().starts_with('[');
                self.messages_are_an_array = is_array && (self.messages_are_an_array || !self.messages_seen);
                self.messages_seen = true;
            }
            // The greatest, where there are several: accounting errs high.
            "n" | "best_of" => self.choices = self.choices.max(json::count(value).unwrap_or(0)),
            _ => {
                if let Some(at) = LIMITS.iter().position(|name| *name == key) {
                    Self::once(&mut self.limits[at], value, LIMITS[at], &mut self.repeated);
                }
            }
        }
    }

    fn once(
        field: &mut Option<&'a RawValue>,
        value: &'a RawValue,
        name: &'static str,
        repeated: &mut Option<&'static str>,
    ) {
        if field.replace(value).is_some() {
            repeated.get_or_insert(name);
        }
    }
}

fn can_stream(endpoint: Endpoint) -> bool {
    use Endpoint::*;
    matches!(endpoint, ChatCompletions | Completions | Responses | Messages)
}

fn utf8(bytes: &[u8]) -> Result<&str, Error> {
    std::str::from_utf8(bytes)
        .map_err(|error| invalid(format!("The body is not UTF-8 from byte {} on: send UTF-8.", error.valid_up_to())))
}

/// Says what is wrong with the syntax. serde_json's own words are used for broken syntax only: they are fixed texts,
/// while those for a value of the wrong type would repeat it.
fn not_json(text: &str, error: &serde_json::Error) -> Error {
    let start = text.trim_start_matches([' ', '\t', '\n', '\r']);
    if start.is_empty() {
        return invalid("The body is empty: send a JSON object.");
    }
    if start.starts_with('\u{feff}') {
        return invalid("The body starts with a byte order mark: send JSON without one.");
    }
    if !start.starts_with('{') || error.is_data() {
        return invalid("The body must be a JSON object.");
    }
    invalid(format!("The body is not valid JSON: {error}."))
}

fn model_name(value: &RawValue) -> Result<Box<str>, Error> {
    let wrong = |what: &str| Err(invalid(format!("`model` must be a non-empty string{what}.")).with_param("model"));
    match json::string(value) {
        Some(name) if !name.is_empty() => Ok(name.into()),
        None if value.get().starts_with('"') => wrong(" of whole Unicode characters"),
        _ => wrong(""),
    }
}

fn usage_ask(options: &RawValue, at: usize) -> UsageAsk {
    if json::is_null(options) {
        return UsageAsk::NullAt(at);
    }
    if !json::is_object(options) {
        return UsageAsk::Other;
    }
    let mut asks = 0;
    let mut asked = false;
    let walk = json::each_field(options.get(), |key, value| {
        if key == "include_usage" {
            asks += 1;
            asked = value.get() == "true";
        }
    });
    match (walk, asks) {
        (Ok(()), 0) => UsageAsk::ObjectAt(at),
        (Ok(()), 1) if asked => UsageAsk::Asked,
        _ => UsageAsk::Other,
    }
}

/// Whether the valid JSON `text` nests deeper than `limit`.
fn is_deeper_than(text: &[u8], limit: usize) -> bool {
    // Counting is many times faster than measuring, and most bodies have fewer brackets than levels allowed.
    if openings(text) <= limit {
        return false;
    }
    let (mut depth, mut in_string, mut at) = (0_usize, false, 0);
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => in_string = !in_string,
            b'\\' if in_string => at += 1,
            b'{' | b'[' if !in_string => {
                depth += 1;
                if depth > limit {
                    return true;
                }
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    false
}

/// How many braces and brackets open in `text`, those within strings included.
fn openings(text: &[u8]) -> usize {
    // They differ in one bit. Blocks whose sum fits a byte are what compilers count many at a time.
    let in_block = |block: &[u8]| block.iter().map(|byte| u8::from(byte | 0x20 == b'{')).sum::<u8>();
    text.chunks(usize::from(u8::MAX)).map(|block| usize::from(in_block(block))).sum()
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidRequest, message)
}

#[cfg(test)]
mod tests;
