//! An error of Anthropic's in OpenAI's envelope.

use std::borrow::Cow;

use bytes::Bytes;
use serde_json::value::RawValue;

use crate::messages::json;
use crate::providers::error_body::ErrorBody;
use crate::providers::fields::{Fields, is_string, is_text, raw};
use crate::providers::openai::written::Failed;

/// The error that `body` reports, in OpenAI's envelope, and the status that its type says; `None` where it reports none.
/// Its code is a word, as typed clients want it: Anthropic's finer `error_code`, or the type.
pub(super) fn enveloped(body: &Bytes) -> Option<(Bytes, Option<u16>)> {
    let text = std::str::from_utf8(body).ok()?;
    let mut outer = Fields::read(text)?;
    let is_error = outer.take("type").is_some_and(|kind| is_text(kind, "error"));
    let error = outer.take("error");
    if !is_error && error.is_none() {
        return None;
    }
    let mut error = error.and_then(|error| Fields::read(error.get()));
    let mut take = |name: &str| error.as_mut().and_then(|error| error.take(name));
    let kind = take("type").and_then(word);
    let code = take("details").and_then(|details| Fields::read(details.get())?.take("error_code")).and_then(word);
    let message = take("message").filter(|message| is_string(message)).map(Cow::Borrowed);
    let message = message
        .unwrap_or_else(|| Cow::Owned(raw(r#""The upstream reported an error without saying which.""#.to_owned())));
    let status = kind.as_deref().and_then(status).or_else(|| ErrorBody::read(body).status());
    let kind = kind.as_deref().unwrap_or("api_error");
    let code = Some(code.as_deref().unwrap_or(kind));
    let failed = Failed { message: &message, kind, param: None, code, details: None };
    Some((failed.enveloped(), status))
}

/// The word for programs that `value` is.
fn word(value: &RawValue) -> Option<Cow<'_, str>> {
    let is_word = |word: &str| (1..=64).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_graphic());
    json::string(value).filter(|value| is_word(value))
}

/// The status of whole answers with an error of this type.
fn status(kind: &str) -> Option<u16> {
    Some(match kind {
        "invalid_request_error" => 400,
        "authentication_error" => 401,
        "billing_error" => 402,
        "permission_error" => 403,
        "not_found_error" => 404,
        "conflict_error" => 409,
        "request_too_large" => 413,
        "rate_limit_error" => 429,
        "api_error" => 500,
        "timeout_error" => 504,
        "overloaded_error" => 529,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(text: &str) -> Option<(Value, Option<u16>)> {
        let (envelope, status) = enveloped(&Bytes::copy_from_slice(text.as_bytes()))?;
        Some((serde_json::from_slice(&envelope).unwrap(), status))
    }

    #[test]
    fn each_type_has_its_status_and_a_code_that_is_a_word() {
        for (kind, status) in [
            ("invalid_request_error", Some(400)),
            ("authentication_error", Some(401)),
            ("billing_error", Some(402)),
            ("permission_error", Some(403)),
            ("not_found_error", Some(404)),
            ("request_too_large", Some(413)),
            ("rate_limit_error", Some(429)),
            ("api_error", Some(500)),
            ("timeout_error", Some(504)),
            ("overloaded_error", Some(529)),
            ("error_of_2031", None),
        ] {
            let text =
                format!(r#"{{"type":"error","error":{{"type":"{kind}","message":"m\u00e9"}},"request_id":"req_1"}}"#);
            let expected = json!({"error": {"message": "mé", "type": kind, "param": null, "code": kind}});
            assert_eq!(read(&text), Some((expected, status)), "{kind}");
        }
    }

    #[test]
    fn the_finer_code_is_the_code() {
        let text = r#"{"type":"error","error":{"type":"rate_limit_error","message":"m","details":{"error_code":"enforced_spend_limit_reached"}}}"#;
        let (error, status) = read(text).unwrap();
        assert_eq!((error["error"]["code"].as_str(), status), (Some("enforced_spend_limit_reached"), Some(429)));
    }

    #[test]
    fn errors_in_any_shape_have_the_envelope_and_what_is_none_is_none() {
        for text in [
            r#"{"type":"error"}"#,
            r#"{"type":"error","error":"boom"}"#,
            r#"{"error":{"code":503,"message":17}}"#,
            r#"{"error":{"type":"a b","message":"x"}}"#,
        ] {
            let (error, _) = read(text).unwrap();
            let error = &error["error"];
            assert!(error["message"].is_string() && error["type"] == "api_error" && error["code"] == "api_error");
            assert!(error["param"].is_null());
        }
        for text in ["", "<html>", "[]", "{}", r#"{"type":"message","error":null}"#] {
            assert!(read(text).is_none(), "{text}");
        }
    }
}
