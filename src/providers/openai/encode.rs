//! A request as it goes to one account.

use bytes::Bytes;

use super::Unchanged;
use crate::messages::{Account, Endpoint, Request, Upstream, UsageAsk};
use crate::providers::dialect::Encoded;
use crate::providers::edits::{self, Edit};
use crate::providers::outgoing;

/// The request to `account`, for the upstream's `model`.
///
/// The body is the caller's, byte for byte and shared, unless the model's name differs there or the stream is to be
/// asked for its usage: then those places are rewritten and nothing else. A body without a model keeps none.
pub(crate) fn encode(request: &Request, account: &Account, model: Option<&str>) -> Encoded {
    let upstream = &*account.upstream;
    let (body, strip_usage) = rewritten(request, upstream, model);
    Encoded {
        url: format!("{}{}", upstream.base_url, request.endpoint().path()),
        headers: outgoing::headers(request, account, outgoing::bearer),
        body,
        answers: Box::new(Unchanged { endpoint: request.endpoint(), strip_usage }),
    }
}

/// The body to send, and whether it asks for usage on our own account.
fn rewritten(request: &Request, upstream: &Upstream, model: Option<&str>) -> (Bytes, bool) {
    let body = request.body();
    let mut edits: Vec<Edit> = edits::model(body, model).into_iter().collect();
    let has_usage = matches!(request.endpoint(), Endpoint::ChatCompletions | Endpoint::Completions);
    let asks = upstream.ask_usage && body.is_stream() && has_usage;
    let ask = if asks { ask_for_usage(body.bytes(), body.usage_ask()) } else { None };
    let is_asked = ask.is_some();
    edits.extend(ask);
    (edits::made(body.bytes(), edits), is_asked)
}

/// Where to write what, so that the stream reports its usage; `None` where the caller has spoken.
fn ask_for_usage(body: &[u8], ask: UsageAsk) -> Option<Edit> {
    const ASK: &str = r#""include_usage":true"#;
    match ask {
        UsageAsk::Absent => {
            let brace = body.iter().position(|byte| *byte == b'{')?;
            Some(first_field(body, brace, &format!(r#""stream_options":{{{ASK}}}"#)))
        }
        UsageAsk::NullAt(at) => Some((at..at + "null".len(), format!("{{{ASK}}}"))),
        UsageAsk::ObjectAt(brace) => Some(first_field(body, brace, ASK)),
        UsageAsk::Asked | UsageAsk::Other => None,
    }
}

/// The edit that makes `field` the first of the object whose brace opens at `brace`.
fn first_field(body: &[u8], brace: usize, field: &str) -> Edit {
    let inside = brace + 1;
    let is_empty = body[inside..].trim_ascii_start().starts_with(b"}");
    (inside..inside, if is_empty { field.to_owned() } else { format!("{field},") })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::messages::UpstreamKind;
    use crate::providers::examples;

    fn account(headers: &[(&'static str, &'static str)]) -> Account {
        examples::account(UpstreamKind::OpenAi, "https://example.test/v1", "sk-1", headers)
    }

    fn request(endpoint: Endpoint, text: &str) -> Request {
        Request::new(endpoint, text.to_owned()).unwrap()
    }

    fn body_of(text: &str, model: Option<&str>) -> (String, bool) {
        let (body, is_asked) = rewritten(&request(Endpoint::ChatCompletions, text), &account(&[]).upstream, model);
        (String::from_utf8(body.to_vec()).unwrap(), is_asked)
    }

    #[test]
    fn a_body_that_needs_no_change_is_shared() {
        for (endpoint, text, model) in [
            (Endpoint::ChatCompletions, r#"{"model":"a","messages":[]}"#, Some("a")),
            (Endpoint::ChatCompletions, r#"{"model":"\u0061","messages":[]}"#, Some("a")),
            (Endpoint::ChatCompletions, r#"{"model":"a","messages":[]}"#, None),
            (Endpoint::Responses, r#"{"model":"a","stream":true}"#, Some("a")),
            (Endpoint::Responses, r#"{"stream":true}"#, Some("a")),
            (Endpoint::Embeddings, r#"{"model":"a","stream":true}"#, Some("a")),
        ] {
            let request = request(endpoint, text);
            let (body, is_asked) = rewritten(&request, &account(&[]).upstream, model);
            assert_eq!(body.as_ptr(), request.body().bytes().as_ptr(), "{text}");
            assert!(!is_asked, "{text}");
        }
    }

    #[test]
    fn only_the_models_name_is_rewritten() {
        let text =
            r#"{"messages":[{"content":"\"model\":\"a\""}], "model" : "a" ,"x":1.0,"x":01e0}"#.replace("01e0", "1e0");
        let (body, _) = body_of(&text, Some("b\"é\\"));
        assert_eq!(body, text.replace(r#" "a" "#, r#" "b\"é\\" "#));
    }

    #[test]
    fn streams_are_asked_for_usage_unless_the_caller_has_spoken() {
        let with = |more: &str| format!(r#" {{"model":"a","messages":[],"stream":true{more}}}"#);
        for (before, after) in [
            ("", None),
            (r#","stream_options":null"#, Some(r#","stream_options":{"include_usage":true}"#)),
            (r#","stream_options":{}"#, Some(r#","stream_options":{"include_usage":true}"#)),
            (r#","stream_options":{ }"#, Some(r#","stream_options":{"include_usage":true }"#)),
            (r#","stream_options":{"x":1}"#, Some(r#","stream_options":{"include_usage":true,"x":1}"#)),
        ] {
            let expected = match after {
                Some(after) => with(after),
                None => with("").replace(" {", r#" {"stream_options":{"include_usage":true},"#),
            };
            assert_eq!(body_of(&with(before), None), (expected, true));
        }
        for more in [
            r#","stream_options":{"include_usage":true}"#,
            r#","stream_options":{"include_usage":false}"#,
            r#","stream_options":[]"#,
        ] {
            assert_eq!(body_of(&with(more), Some("a")), (with(more), false));
        }
    }

    #[test]
    fn model_and_usage_are_rewritten_together_in_any_order() {
        for text in [
            r#"{"model":"a","messages":[],"stream":true,"stream_options":{"x":1}}"#,
            r#"{"stream_options":{"x":1},"stream":true,"messages":[],"model":"a"}"#,
        ] {
            let expected = text.replace(r#""a""#, r#""bb""#).replace(r#"{"x""#, r#"{"include_usage":true,"x""#);
            assert_eq!(body_of(text, Some("bb")), (expected, true));
        }
    }

    #[test]
    fn headers_are_the_callers_then_the_configured_then_the_key() {
        let request = request(Endpoint::ChatCompletions, r#"{"model":"a","messages":[],"stream":true}"#)
            .with_header("OpenAI-Beta", "caller")
            .and_then(|request| request.with_header("x-team", "caller"))
            .and_then(|request| request.with_header("authorization", "Bearer caller"))
            .and_then(|request| request.with_header("x-api-key", "caller"))
            .and_then(|request| request.with_header("content-length", "1"))
            .unwrap();
        let encoded = encode(&request, &account(&[("x-team", "ml"), ("transfer-encoding", "chunked")]), None);
        let got: Vec<_> =
            encoded.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        assert_eq!(
            got,
            [
                ("openai-beta", "caller"),
                ("x-team", "ml"),
                ("content-type", "application/json"),
                ("accept", "text/event-stream"),
                ("authorization", "Bearer sk-1"),
            ]
        );
        assert!(encoded.headers.iter().last().unwrap().1.is_sensitive());
        assert_eq!(encoded.url, "https://example.test/v1/chat/completions");
    }

    #[test]
    fn a_configured_authorization_stands_instead_of_the_key() {
        let request = request(Endpoint::Embeddings, r#"{"model":"a"}"#).with_header("accept", "x/y").unwrap();
        let encoded = encode(&request, &account(&[("authorization", "Basic abc")]), None);
        assert_eq!(encoded.headers.get("authorization"), Some("Basic abc"));
        assert_eq!(encoded.headers.get("accept"), Some("x/y"));
        assert_eq!(encoded.headers.len(), 3);
    }

    proptest! {
        #[test]
        fn whatever_is_rewritten_the_rest_means_the_same(model in ".{1,12}", options in 0..5_usize, spaces in "[ \n]{0,3}") {
            let options = ["", r#","stream_options":null"#, r#","stream_options":{}"#, r#","stream_options":{"a":[]}"#, r#","stream_options":7"#][options];
            let text = format!(r#"{spaces}{{{spaces}"model"{spaces}:{spaces}"a","messages":[{{}}],"stream":true{options}{spaces}}}"#);
            let (body, added) = body_of(&text, Some(&model));
            let mut before: serde_json::Value = serde_json::from_str(&text).unwrap();
            let after: serde_json::Value = serde_json::from_str(&body).unwrap();
            before["model"] = model.into();
            if added {
                if before["stream_options"].is_null() {
                    before["stream_options"] = serde_json::json!({});
                }
                before["stream_options"]["include_usage"] = true.into();
            }
            prop_assert_eq!(before, after);
            prop_assert_eq!(added, !text.contains(":7"));
        }
    }
}
