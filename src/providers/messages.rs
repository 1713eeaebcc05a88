//! Anthropic's own protocol, from callers who speak it to upstreams who do: nothing is translated.

mod encode;
mod stream;

use bytes::Bytes;

pub(crate) use encode::encode;
use stream::StreamReader;

use super::anthropic::usage::Counts;
use super::dialect::{Answers, Events};
use super::error_body::ErrorBody;
use super::object;
use crate::messages::{Usage, envelope, json};

/// Answers that go to their callers as they came.
#[derive(Debug)]
pub(crate) struct Unchanged;

impl Answers for Unchanged {
    fn whole(&self, body: Bytes) -> Result<(Bytes, Option<Usage>), String> {
        let mut counted = Counts::default();
        object::walk(&body, |key, value| {
            if key == "usage" {
                counted.read(value);
            }
        })?;
        Ok((body, counted.usage()))
    }

    fn events(&self) -> Box<dyn Events> {
        Box::new(StreamReader::default())
    }

    fn error_in(&self, body: &Bytes) -> Option<(Bytes, Option<u16>)> {
        let mut is_error = false;
        // What is no object reports nothing.
        let _ = object::walk(body, |key, value| match key {
            "error" => is_error |= !json::is_null(value),
            "type" => is_error |= value.get() == "\"error\"",
            _ => {}
        });
        is_error.then(|| enveloped(body.clone()))
    }
}

/// An error as it came where it has Anthropic's envelope, otherwise put into it; and the status that it says.
fn enveloped(error: Bytes) -> (Bytes, Option<u16>) {
    let (mut is_error, mut has_object) = (false, false);
    let walk = object::walk(&error, |key, value| match key {
        "error" => has_object = json::is_object(value),
        "type" => is_error = value.get() == "\"error\"",
        _ => {}
    });
    let read = ErrorBody::read(&error);
    let status = read.status();
    if walk.is_ok() && is_error && has_object {
        return (error, status);
    }
    let message = match read.message() {
        "" => "The upstream reported an error without saying which.",
        message => message,
    };
    let kind = envelope::anthropic_type(status.unwrap_or(500));
    (envelope::anthropic(kind, message, read.code().filter(|code| *code != "error"), None), status)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn whole(text: &str) -> Result<Option<(u64, u64, u64)>, String> {
        let body = Bytes::copy_from_slice(text.as_bytes());
        let (out, usage) = Unchanged.whole(body.clone())?;
        assert_eq!(out, body, "byte for byte");
        Ok(usage.map(|usage| (usage.input_tokens, usage.output_tokens, usage.total_tokens)))
    }

    #[test]
    fn what_a_cache_was_asked_for_counts_as_input_and_an_answer_passes_as_it_came() {
        for (usage, expected) in [
            (r#"{"input_tokens":10,"output_tokens":5}"#, Some((10, 5, 15))),
            (
                r#"{"input_tokens":10,"cache_creation_input_tokens":200,"cache_read_input_tokens":3000,"output_tokens":5,
                   "cache_creation":{"ephemeral_5m_input_tokens":200},"server_tool_use":null,"service_tier":"new"}"#,
                Some((3210, 5, 3215)),
            ),
            (r#"{"input_tokens":10,"cache_read_input_tokens":null,"output_tokens":null}"#, Some((10, 0, 10))),
            (
                r#"{"input_tokens":99999999999999999999,"cache_read_input_tokens":1,"output_tokens":1}"#,
                Some((u64::MAX, 1, u64::MAX)),
            ),
            (r#"{"output_tokens":-1}"#, None),
            ("null", None),
            ("[7]", None),
            ("{}", None),
        ] {
            let text = format!(r#"{{ "type":"message","big":123456789012345678901,"usage":{usage},"x":1.0,"x":2 }}"#);
            assert_eq!(whole(&text), Ok(expected), "{usage}");
        }
        assert_eq!(whole(r#"{"input_tokens":2095}"#), Ok(None), "a count is no use");
    }

    #[test]
    fn cut_or_mangled_answers_are_errors_that_repeat_nothing() {
        for text in ["", "{", "[]", "null", "\"private\"", "<html>private</html>", r#"{"type":"message","a":"private"#]
        {
            assert!(!whole(text).unwrap_err().contains("private"), "{text}");
        }
    }

    #[test]
    fn an_error_keeps_its_envelope_and_one_without_gets_it() {
        let theirs = r#"{"type":"error","error":{"details":null,"type":"overloaded_error","message":"Overloaded"},"request_id":"req_theirs"}"#;
        let (body, status) = enveloped(Bytes::from_static(theirs.as_bytes()));
        assert_eq!((body, status), (Bytes::from_static(theirs.as_bytes()), Some(529)));
        for (text, status, kind, message) in [
            (r#"{"error":{"message":"slow","code":"rate_limit_exceeded"}}"#, Some(429), "rate_limit_error", "slow"),
            (r#"{"type":"error","error":"boom"}"#, None, "api_error", "boom"),
            (r#"{"error":{"code":503}}"#, Some(503), "overloaded_error", "The upstream reported"),
            ("boom", None, "api_error", "boom"),
            ("", None, "api_error", "The upstream reported"),
        ] {
            let (body, said) = enveloped(Bytes::copy_from_slice(text.as_bytes()));
            let body: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(
                (said, &body["type"], &body["error"]["type"]),
                (status, &json!("error"), &json!(kind)),
                "{text}"
            );
            assert!(body["error"]["message"].as_str().unwrap().starts_with(message), "{text}");
        }
    }

    #[test]
    fn a_whole_answer_where_events_were_asked_for_is_an_error_only_when_it_says_so() {
        let reports = |text: &'static str| Unchanged.error_in(&Bytes::from_static(text.as_bytes()));
        assert_eq!(reports(r#"{"type":"error","error":{"type":"api_error","message":"x"}}"#).unwrap().1, Some(500));
        assert!(reports(r#"{"error":"boom"}"#).is_some());
        for text in [r#"{"type":"message","content":[]}"#, r#"{"error":null}"#, "[]", ""] {
            assert!(reports(text).is_none(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged_without_a_panic(bytes: Vec<u8>) {
            let bytes = Bytes::from(bytes);
            let _ = (Unchanged.whole(bytes.clone()), Unchanged.error_in(&bytes), enveloped(bytes));
        }
    }
}
