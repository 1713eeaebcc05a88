//! Gemini's errors in OpenAI's envelope.
//!
//! Google's details stay in it, beside OpenAI's fields: what they say of quotas and of when to come again is read from there
//! where the error came within a stream.

use bytes::Bytes;
use serde_json::value::RawValue;

use crate::messages::json;
use crate::providers::error_body::ErrorBody;
use crate::providers::fields::{Fields, is_string, items};
use crate::providers::openai::written::Failed;

/// The error of `body` in OpenAI's envelope, and the status that it says. What is none of Google's is still an error, as far
/// as it can be read.
pub(super) fn enveloped(body: &[u8]) -> (Bytes, Option<u16>) {
    let read = ErrorBody::read(body);
    let status = read.status();
    let googles = error_of(body).and_then(|mut fields| {
        let message = fields.take("message").filter(|message| is_string(message))?;
        let word = fields.take("status").and_then(json::string).filter(|word| !word.is_empty());
        let code = word.map_or_else(|| status.map_or_else(String::new, |status| status.to_string()), Into::into);
        let details = fields.take("details").filter(|details| items(details).is_some_and(|list| !list.is_empty()));
        let failed = Failed { message, kind: kind_of(status), param: None, code: Some(&code), details };
        Some(failed.enveloped())
    });
    (googles.unwrap_or_else(|| read.to_envelope()), status)
}

/// The error that an answer or an event is; `None` when it is none.
pub(super) fn in_answer(body: &[u8]) -> Option<(Bytes, Option<u16>)> {
    error_of(body).map(|_| enveloped(body))
}

/// The fields of the error in `{"error":{…}}` or `[{"error":{…}}]`. One that is a mere string has none.
fn error_of(body: &[u8]) -> Option<Fields<'_>> {
    let body: &RawValue = serde_json::from_slice(body).ok()?;
    let body = match items(body) {
        Some(list) => list.into_iter().next()?,
        None => body,
    };
    Some(Fields::of_any(Some(Fields::read(body.get())?.take("error")?)))
}

/// OpenAI's `type` for a status.
fn kind_of(status: Option<u16>) -> &'static str {
    match status {
        Some(401) => "authentication_error",
        Some(403) => "permission_error",
        Some(429) => "rate_limit_error",
        Some(400..=499) => "invalid_request_error",
        _ => "server_error",
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::messages::Headers;
    use crate::providers::classify::{classify, classify_event};

    const LIMITED: &str = r#"{"error":{"code":429,"message":"Quota exceeded.","status":"RESOURCE_EXHAUSTED","details":[
        {"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaId":"GenerateRequestsPerMinutePerProjectPerModel","quotaValue":"15"}]},
        {"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"38s"}]}}"#;

    fn json(body: &[u8]) -> serde_json::Value {
        serde_json::from_slice(body).unwrap()
    }

    #[test]
    fn an_error_keeps_its_message_and_gets_a_code_that_is_a_string() {
        for body in [LIMITED.to_owned(), format!("[{LIMITED}]")] {
            let (envelope, status) = enveloped(body.as_bytes());
            let error = &json(&envelope)["error"];
            assert_eq!(status, Some(429));
            assert_eq!((&error["message"], &error["code"]), (&"Quota exceeded.".into(), &"RESOURCE_EXHAUSTED".into()));
            assert_eq!((&error["type"], &error["param"]), (&"rate_limit_error".into(), &serde_json::Value::Null));
            assert_eq!(error["details"][1]["retryDelay"], "38s");
        }
    }

    #[test]
    fn what_it_says_of_limits_is_read_from_its_envelope_too() {
        let (now, headers) = (SystemTime::UNIX_EPOCH, Headers::new());
        let (envelope, status) = enveloped(LIMITED.as_bytes());
        let told = classify(429, &headers, &Bytes::from(LIMITED), now);
        let event = classify_event(status, &headers, &envelope, now);
        assert_eq!(told.hint.after, Some(Duration::from_secs(38)));
        assert_eq!((event.kind, event.hint.after), (told.kind, told.hint.after));
        assert_eq!((event.pushback, format!("{:?}", event.limits)), (told.pushback, format!("{:?}", told.limits)));
        assert!(!told.limits.is_empty());
    }

    #[test]
    fn a_day_s_quota_reads_the_same_in_both_forms() {
        let day = LIMITED.replace("PerMinute", "PerDay");
        let (envelope, status) = enveloped(day.as_bytes());
        let now = SystemTime::UNIX_EPOCH;
        let told = classify(429, &Headers::new(), &Bytes::from(day), now);
        let event = classify_event(status, &Headers::new(), &envelope, now);
        assert_eq!((event.kind, event.hint.after), (told.kind, told.hint.after));
    }

    #[test]
    fn what_is_no_error_is_none_and_what_is_no_json_is_an_error_all_the_same() {
        for body in ["{}", "[]", "null", "", r#"{"error":null}"#, r#"[{"candidates":[]}]"#, "<html>"] {
            assert_eq!(in_answer(body.as_bytes()), None, "{body}");
            assert!(json(&enveloped(body.as_bytes()).0)["error"]["message"].is_string(), "{body}");
        }
        for body in [r#"{"error":"boom"}"#, r#"{"error":{}}"#, r#"{"error":{"message":7,"code":503}}"#] {
            let (envelope, _) = in_answer(body.as_bytes()).unwrap();
            assert!(json(&envelope)["error"]["message"].is_string(), "{body}");
        }
    }
}
