//! OpenAI's protocol, and that of all who speak it.

mod chunk;
mod encode;
mod stream;
pub(super) mod written;

use bytes::Bytes;
use serde_json::value::RawValue;

pub(crate) use encode::encode;
use stream::StreamReader;

use super::dialect::{Answers, Events};
use super::object;
use crate::messages::{Endpoint, Usage, json};

/// Answers that go to their callers as they came.
#[derive(Debug)]
pub(crate) struct Unchanged {
    endpoint: Endpoint,
    /// The stream was asked for usage on our own account: the chunk that brings it is not the caller's.
    strip_usage: bool,
}

impl Answers for Unchanged {
    fn whole(&self, body: Bytes) -> Result<(Bytes, Option<Usage>), String> {
        let usage = usage_of(&body)?;
        Ok((body, usage))
    }

    fn events(&self) -> Box<dyn Events> {
        Box::new(StreamReader::new(self.endpoint, self.strip_usage))
    }

    fn error_in(&self, body: &Bytes) -> Option<(Bytes, Option<u16>)> {
        let (chunk, _) = chunk::Chunk::read(body);
        chunk.is_error().then(|| stream::enveloped(body.clone(), chunk.has_envelope()))
    }
}

/// What a whole answer says about usage, once it is known to be one JSON object.
fn usage_of(body: &Bytes) -> Result<Option<Usage>, String> {
    let mut usage = None;
    object::walk(body, |key, value| {
        if key == "usage" {
            usage = read_usage(value);
        }
    })?;
    Ok(usage)
}

/// Reads a `usage` object in either of its forms; `None` unless it counts something.
fn read_usage(usage: &RawValue) -> Option<Usage> {
    if !json::is_object(usage) {
        return None;
    }
    let (mut input, mut output, mut total, mut cached) = (None, None, None, None);
    json::each_field(usage.get(), |key, value| match key {
        "prompt_tokens" | "input_tokens" => input = json::count(value).max(input),
        "completion_tokens" | "output_tokens" => output = json::count(value).max(output),
        "total_tokens" => total = json::count(value).max(total),
        "prompt_tokens_details" | "input_tokens_details" => cached = cached_tokens(value).max(cached),
        _ => {}
    })
    .ok()?;
    if input.is_none() && output.is_none() && total.is_none() {
        return None;
    }
    let (input_tokens, output_tokens) = (input.unwrap_or(0), output.unwrap_or(0));
    let total_tokens = total.unwrap_or_else(|| input_tokens.saturating_add(output_tokens));
    let cached_input_tokens = cached.unwrap_or(0).min(input_tokens);
    Some(Usage { input_tokens, cached_input_tokens, output_tokens, total_tokens })
}

/// The `cached_tokens` of usage's details, where there are any.
fn cached_tokens(details: &RawValue) -> Option<u64> {
    let mut cached = None;
    json::each_field(details.get(), |key, value| {
        if key == "cached_tokens" {
            cached = json::count(value);
        }
    })
    .ok()?;
    cached
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<Option<Usage>, String> {
        usage_of(&Bytes::copy_from_slice(text.as_bytes()))
    }

    fn usage(input_tokens: u64, output_tokens: u64, total_tokens: u64) -> Option<Usage> {
        Some(Usage { input_tokens, output_tokens, total_tokens, cached_input_tokens: 0 })
    }

    #[test]
    fn usage_is_read_in_all_its_forms() {
        for (text, expected) in [
            (r#"{"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}"#, usage(3, 4, 7)),
            (r#"{"usage":{"input_tokens":3,"output_tokens":4,"total_tokens":9}}"#, usage(3, 4, 9)),
            (r#"{"usage":{"prompt_tokens":3,"total_tokens":3}}"#, usage(3, 0, 3)),
            (r#"{"usage":{"input_tokens":3,"prompt_tokens":3,"output_tokens":4.0,"cost":null}}"#, usage(3, 4, 7)),
            (r#"{"usage":{"total_tokens":7}}"#, usage(0, 0, 7)),
            (r#"{"usage":{"prompt_tokens":99999999999999999999,"completion_tokens":1}}"#, usage(u64::MAX, 1, u64::MAX)),
        ] {
            assert_eq!(read(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn cached_tokens_are_part_of_those_read() {
        for (details, cached) in [
            (r#""prompt_tokens_details":{"audio_tokens":0,"cached_tokens":64}"#, 64),
            (r#""input_tokens_details":{"cached_tokens":64}"#, 64),
            (r#""prompt_tokens_details":{"cached_tokens":1000}"#, 100),
            (r#""prompt_tokens_details":{"cached_tokens":null}"#, 0),
            (r#""prompt_tokens_details":null"#, 0),
            (r#""prompt_tokens_details":[64]"#, 0),
        ] {
            let usage = read(&format!(r#"{{"usage":{{"prompt_tokens":100,{details}}}}}"#)).unwrap().unwrap();
            assert_eq!((usage.input_tokens, usage.cached_input_tokens), (100, cached), "{details}");
        }
    }

    #[test]
    fn missing_null_and_strange_usage_is_none_and_no_error() {
        for value in ["null", "{}", "[]", "17", "\"many\"", r#"{"prompt_tokens":null}"#, r#"{"prompt_tokens":-1}"#] {
            assert_eq!(read(&format!("{{\"usage\":{value}}}")), Ok(None), "{value}");
        }
        assert_eq!(read(r#" {"seed":123456789012345678901234567890,"x":"\ud800","x":1e999} "#), Ok(None));
    }

    #[test]
    fn cut_or_mangled_answers_are_errors_that_repeat_nothing() {
        for text in [
            "",
            " ",
            "{",
            r#"{"usage":{}"#,
            "{}{}",
            "[]",
            "null",
            "\"private\"",
            "<html>private</html>",
            r#"{"a":"private"#,
        ] {
            let error = read(text).unwrap_err();
            assert!(!error.contains("private"), "{error}");
        }
        assert!(usage_of(&Bytes::from_static(b"{\"a\":\"\xff\"}")).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged_without_a_panic(bytes: Vec<u8>) {
            let _ = usage_of(&Bytes::from(bytes));
        }

        #[test]
        fn an_answer_cut_anywhere_is_an_error(cut in any::<prop::sample::Index>()) {
            let text = r#"{"choices":[{"message":{"content":"a\"b"}}],"usage":{"prompt_tokens":12}}"#;
            prop_assert!(read(&text[..cut.index(text.len())]).is_err());
        }
    }
}
