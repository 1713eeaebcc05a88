//! OpenAI's forms, as answers of other protocols are written in them: the chunks of a chat's stream, `usage`, and the
//! envelope of an error.

use std::fmt::Write as _;

use bytes::{Bytes, BytesMut};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::messages::Usage;

/// What a stream ends with.
pub(in crate::providers) const DONE: &[u8] = b"data: [DONE]\n\n";

/// Writes the chunks of one stream, each as an event of one line.
#[derive(Debug)]
pub(in crate::providers) struct Chunks {
    /// How every chunk begins.
    head: String,
    tells_usage: bool,
}

impl Chunks {
    /// For an answer of this `id`, made by `model` at `created`: both are JSON, and strings. `tells_usage`: the caller has
    /// asked for it.
    pub(in crate::providers) fn new(id: &str, created: u64, model: &str, tells_usage: bool) -> Self {
        let head = format!(
            r#"data: {{"id":{id},"object":"chat.completion.chunk","created":{created},"model":{model},"choices":["#
        );
        Self { head, tells_usage }
    }

    /// A chunk of one `choice`, which is JSON. Where usage is told at the end, all chunks before say that they have none.
    pub(in crate::providers) fn choice(&self, choice: &str, out: &mut BytesMut) {
        let usage = if self.tells_usage { r#","usage":null"# } else { "" };
        self.write(format_args!("{choice}]{usage}"), out);
    }

    /// The last chunk, for whoever has asked for usage.
    pub(in crate::providers) fn usage(&self, told: &Told, service_tier: Option<&'static str>, out: &mut BytesMut) {
        if !self.tells_usage {
            return;
        }
        let usage = serde_json::to_string(told).unwrap_or_else(|_| "null".to_owned());
        let tier = service_tier.map(|tier| format!(r#","service_tier":"{tier}""#)).unwrap_or_default();
        self.write(format_args!(r#"],"usage":{usage}{tier}"#), out);
    }

    fn write(&self, rest: std::fmt::Arguments<'_>, out: &mut BytesMut) {
        // Writing to a buffer that grows cannot fail.
        let _ = write!(out, "{}{rest}}}\n\n", self.head);
    }
}

/// A `usage`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub(in crate::providers) struct Told {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
    prompt_tokens_details: Prompt,
    #[serde(skip_serializing_if = "Option::is_none")]
    completion_tokens_details: Option<Completion>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
struct Prompt {
    cached_tokens: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_write_tokens: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
struct Completion {
    reasoning_tokens: u64,
}

impl Told {
    /// Of `usage`; of the tokens read, those put into a cache, and of the tokens written, those of thoughts, where they are
    /// counted.
    pub(in crate::providers) fn new(usage: Usage, cached: Option<u64>, thoughts: Option<u64>) -> Self {
        Self {
            prompt_tokens: usage.input_tokens,
            completion_tokens: usage.output_tokens,
            total_tokens: usage.total_tokens,
            prompt_tokens_details: Prompt { cached_tokens: usage.cached_input_tokens, cache_write_tokens: cached },
            completion_tokens_details: thoughts.map(|reasoning_tokens| Completion { reasoning_tokens }),
        }
    }

    /// The same for forebay's own accounts.
    pub(in crate::providers) fn usage(&self) -> Usage {
        Usage {
            input_tokens: self.prompt_tokens,
            cached_input_tokens: self.prompt_tokens_details.cached_tokens,
            output_tokens: self.completion_tokens,
            total_tokens: self.total_tokens,
        }
    }
}

/// An error.
#[derive(Serialize)]
pub(in crate::providers) struct Failed<'a> {
    /// A string.
    pub(in crate::providers) message: &'a RawValue,
    #[serde(rename = "type")]
    pub(in crate::providers) kind: &'a str,
    pub(in crate::providers) param: Option<()>,
    /// A word or null: typed clients fail on the numbers that some servers send.
    pub(in crate::providers) code: Option<&'a str>,
    /// What else a provider says of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::providers) details: Option<&'a RawValue>,
}

impl Failed<'_> {
    /// The error in its envelope, as a whole body.
    pub(in crate::providers) fn enveloped(&self) -> Bytes {
        #[derive(Serialize)]
        struct Envelope<'a> {
            error: &'a Failed<'a>,
        }
        // Strings, and JSON that has been read: nothing of it can fail to be written.
        serde_json::to_vec(&Envelope { error: self }).map(Bytes::from).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told() -> Told {
        let usage = Usage { input_tokens: 5, cached_input_tokens: 2, output_tokens: 3, total_tokens: 8 };
        Told::new(usage, None, Some(1))
    }

    fn written(tells_usage: bool) -> String {
        let (chunks, mut out) = (Chunks::new("\"i\"", 7, "\"m\"", tells_usage), BytesMut::new());
        chunks.choice(r#"{"index":0}"#, &mut out);
        chunks.usage(&told(), Some("default"), &mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn usage_is_null_in_all_chunks_but_the_last_and_in_none_where_nobody_asked() {
        let head = r#"data: {"id":"i","object":"chat.completion.chunk","created":7,"model":"m","choices":["#;
        assert_eq!(written(false), format!("{head}{{\"index\":0}}]}}\n\n"));
        let usage = r#"{"prompt_tokens":5,"completion_tokens":3,"total_tokens":8,"prompt_tokens_details":{"cached_tokens":2},"completion_tokens_details":{"reasoning_tokens":1}}"#;
        let last = format!("{head}],\"usage\":{usage},\"service_tier\":\"default\"}}\n\n");
        assert_eq!(written(true), format!("{head}{{\"index\":0}}],\"usage\":null}}\n\n{last}"));
    }

    #[test]
    fn what_is_told_is_what_is_counted() {
        assert_eq!(Told::new(told().usage(), None, Some(1)), told());
    }

    #[test]
    fn an_error_has_all_fields_that_clients_look_for() {
        let message = serde_json::from_str(r#""no""#).unwrap();
        let failed = Failed { message, kind: "server_error", param: None, code: None, details: None };
        assert_eq!(failed.enveloped(), r#"{"error":{"message":"no","type":"server_error","param":null,"code":null}}"#);
    }
}
