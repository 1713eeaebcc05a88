//! What an upstream's error says, in whichever of the many shapes it comes.
//!
//! OpenAI's envelope, its flat form of older servers, Google's array of one, a Responses stream's nested error. `code`
//! may be a string, a number or null, and the body may be HTML: what cannot be read says nothing.

use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;

use super::fields::raw;
use super::limits::{self, Sentence};
use super::openai::written::Failed;
use super::waits;
use crate::messages::{BudgetReading, ErrorKind, Period, Reset};

/// No error worth understanding is larger; what is would only cost time.
const MAX_READ: usize = 1 << 20;

/// How much of a body that is not JSON is searched for a hint.
const MAX_TEXT: usize = 4 << 10;

/// An upstream's error, as far as it was understood.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct ErrorBody {
    /// Words for programs in lower case, the most specific first: code, status, type.
    words: Vec<String>,
    /// A status given as a number.
    number: Option<u16>,
    /// The text for people.
    message: String,
    /// Google's `RetryInfo.retryDelay`.
    retry_delay: Option<Duration>,
    /// The quotas that Google names.
    quotas: Vec<BudgetReading>,
    /// A quota of a whole day is used up.
    day_is_used_up: bool,
}

impl ErrorBody {
    /// Reads what `body` says; nothing of it is an error.
    pub(crate) fn read(body: &[u8]) -> Self {
        if body.len() > MAX_READ {
            return Self::default();
        }
        match serde_json::from_slice::<Value>(body) {
            Ok(value) => Self::of(&value),
            Err(_) => {
                let text = String::from_utf8_lossy(&body[..body.len().min(MAX_TEXT)]);
                Self { message: text.into_owned(), ..Self::default() }
            }
        }
    }

    fn of(value: &Value) -> Self {
        let value = value.get(0).unwrap_or(value);
        let outer = value.get("response").unwrap_or(value);
        let error = outer.get("error").filter(|error| !error.is_null()).unwrap_or(value);
        let mut found = Self::default();
        if let Some(text) = error.as_str() {
            found.message = text.to_owned();
            return found;
        }
        let details = error.get("details").or_else(|| value.get("details"));
        let places =
            [(error, "code"), (error, "error_code"), (error, "status"), (error, "status_code"), (error, "type")];
        let nested = details.map(|details| (details, "error_code"));
        for (place, name) in places.into_iter().chain(nested) {
            match place.get(name) {
                Some(Value::String(word)) if !word.is_empty() => found.word(word),
                Some(Value::Number(number)) => found.number = found.number.or_else(|| status(number.as_u64()?)),
                _ => {}
            }
        }
        let message = error.get("message").or_else(|| value.get("message")).or_else(|| value.get("detail"));
        found.message = message.and_then(Value::as_str).unwrap_or_default().to_owned();
        for detail in details.and_then(Value::as_array).into_iter().flatten() {
            found.google_detail(detail);
        }
        // Google's delay holds for what is counted by the minute; along with a quota of a day it misleads.
        for quota in found.quotas.iter_mut().filter(|quota| quota.period != Some(Period::DAY)) {
            quota.reset = found.retry_delay.map(|after| Reset { after, grain: Duration::from_secs(1) });
        }
        found
    }

    fn word(&mut self, word: &str) {
        match word.parse().ok().and_then(status) {
            Some(status) => self.number = self.number.or(Some(status)),
            None => self.words.push(word.to_ascii_lowercase()),
        }
    }

    fn google_detail(&mut self, detail: &Value) {
        let kind = detail.get("@type").and_then(Value::as_str).unwrap_or_default();
        if kind.ends_with("RetryInfo") {
            let delay = detail.get("retryDelay").and_then(Value::as_str);
            self.retry_delay = delay.and_then(waits::leading).or(self.retry_delay);
        }
        // A key that is not valid is told nowhere else.
        if kind.ends_with("ErrorInfo")
            && let Some(reason) = detail.get("reason").and_then(Value::as_str).filter(|reason| !reason.is_empty())
        {
            self.word(reason);
        }
        if kind.ends_with("QuotaFailure") {
            for violation in detail.get("violations").and_then(Value::as_array).into_iter().flatten() {
                let id = violation.get("quotaId").and_then(Value::as_str).unwrap_or_default();
                self.day_is_used_up |= id.contains("PerDay");
                self.quotas.extend(limits::quota(violation));
            }
        }
    }

    /// The most specific word for programs, where it is one: for logs.
    pub(crate) fn code(&self) -> Option<&str> {
        let is_word = |word: &&String| word.len() <= 64 && word.bytes().all(|byte| byte.is_ascii_graphic());
        self.words.iter().find(is_word).map(String::as_str)
    }

    /// The text for people; empty where there is none.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// The error in OpenAI's envelope, for one that came without.
    pub(crate) fn to_envelope(&self) -> Bytes {
        let message = match &*self.message {
            "" => "The upstream reported an error without saying which.",
            message => message,
        };
        let code = self.code().filter(|code| *code != "error").map(str::to_owned);
        let code = code.or_else(|| self.number.map(|number| number.to_string()));
        let kind = ErrorKind::Upstream.error_type();
        let message = raw(Value::from(message).to_string());
        Failed { message: &message, kind, param: None, code: code.as_deref(), details: None }.enveloped()
    }

    /// How long to stay away, from Google's `RetryInfo`.
    pub(crate) fn retry_delay(&self) -> Option<Duration> {
        self.retry_delay
    }

    /// How long to stay away, from the sentence for people: "Please try again in 6.2s".
    pub(crate) fn delay_in_message(&self) -> Option<Duration> {
        let message = self.message.to_ascii_lowercase();
        ["try again in ", "retry in ", "retry after ", "try again after "]
            .iter()
            .filter_map(|words| waits::leading(&message[message.find(words)? + words.len()..]))
            .next()
    }

    /// Whether a 429 of this body means quota or credit instead of a rate: no wait within a call's life mends that.
    ///
    /// Decided by the words for programs only. The text is no help: Google writes "check your plan and billing
    /// details" over a limit per minute. A quota per day counts, although Google sends a short delay along with it.
    pub(crate) fn is_out_of_quota(&self) -> bool {
        self.day_is_used_up || self.is_out_of_money()
    }

    /// Whether the key is not accepted, by Google's word: it says so under the status of a request that cannot be read.
    pub(crate) fn is_key_refused(&self) -> bool {
        self.has_word("api_key_invalid") || self.has_word("api_key_expired")
    }

    /// Whether a quota of a whole day is used up, by Google's word.
    pub(crate) fn is_day_used_up(&self) -> bool {
        self.day_is_used_up
    }

    /// Whether credit or a spending limit is used up.
    pub(crate) fn is_out_of_money(&self) -> bool {
        const WORDS: [&str; 9] = [
            "insufficient_quota",
            "insufficient_balance",
            "insufficient_credit",
            "insufficient_funds",
            "credit_balance",
            "credits_exhausted",
            "spend_limit",
            "organization_usage_limit",
            "billing",
        ];
        WORDS.iter().any(|known| self.has_word(known))
    }

    /// Whether a word for programs contains `part`.
    pub(crate) fn has_word(&self, part: &str) -> bool {
        self.words.iter().any(|word| word.contains(part))
    }

    /// Whether the text for people contains one of `phrases`, which are in lower case.
    pub(crate) fn says_any(&self, phrases: &[&str]) -> bool {
        let message = self.message.to_ascii_lowercase();
        phrases.iter().any(|phrase| message.contains(phrase))
    }

    /// The quotas that Google names.
    pub(crate) fn quotas(&self) -> &[BudgetReading] {
        &self.quotas
    }

    /// The text for people, where it is about a limit. Its words are to be relied on only where the status says that a
    /// limit is what it is about.
    pub(crate) fn sentence(&self, status: u16) -> Option<Sentence> {
        if matches!(status, 413 | 429) { Sentence::read(&self.message) } else { None }
    }

    /// The HTTP status it would have had: its number, or what its words mean. `None` when it does not say.
    pub(crate) fn status(&self) -> Option<u16> {
        const MEANINGS: [(&str, u16); 22] = [
            ("rate_limit", 429),
            ("too_many_requests", 429),
            ("quota", 429),
            ("resource_exhausted", 429),
            ("slow_down", 429),
            ("overloaded_error", 529),
            ("overloaded", 503),
            ("unavailable", 503),
            ("api_key", 401),
            ("authentication", 401),
            ("permission", 403),
            ("not_found", 404),
            ("context_length", 400),
            ("invalid_", 400),
            ("bad_request", 400),
            ("failed_precondition", 400),
            ("timeout", 504),
            ("deadline_exceeded", 504),
            ("server_error", 500),
            ("internal", 500),
            ("api_error", 500),
            ("bad_gateway", 502),
        ];
        let meaning =
            |word: &String| MEANINGS.iter().find(|(known, _)| word.contains(known)).map(|(_, status)| *status);
        self.number.or_else(|| self.words.iter().find_map(meaning))
    }
}

/// `number` when it can be an error's status.
fn status(number: u64) -> Option<u16> {
    u16::try_from(number).ok().filter(|status| (400..600).contains(status))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> ErrorBody {
        ErrorBody::read(text.as_bytes())
    }

    #[test]
    fn statuses_are_understood_in_every_shape() {
        for (text, expected) in [
            (r#"{"error":{"message":"x","type":"server_error","code":null}}"#, Some(500)),
            (r#"{"error":{"type":"tokens","code":"rate_limit_exceeded"}}"#, Some(429)),
            (r#"{"error":{"type":"invalid_request_error","code":"invalid_api_key"}}"#, Some(401)),
            (r#"{"error":{"type":"invalid_request_error","code":"context_length_exceeded"}}"#, Some(400)),
            (r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#, Some(529)),
            (r#"{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}"#, Some(503)),
            (r#"{"error":{"code":"429"}}"#, Some(429)),
            (r#"{"object":"error","message":"x","type":"BadRequestError","code":400}"#, Some(400)),
            (r#"[{"error":{"code":429,"status":"RESOURCE_EXHAUSTED"}}]"#, Some(429)),
            (r#"{"type":"response.failed","response":{"error":{"code":"server_error","message":"x"}}}"#, Some(500)),
            (r#"{"type":"error","code":"server_is_overloaded","message":"x"}"#, Some(503)),
            (r#"{"error":{"code":200}}"#, None),
            (r#"{"error":{"code":7}}"#, None),
            (r#"{"error":"boom"}"#, None),
            (r#"{"error":{"type":"upstream_error"}}"#, None),
            ("<html>", None),
            ("", None),
            ("[]", None),
            ("null", None),
        ] {
            assert_eq!(read(text).status(), expected, "{text}");
        }
    }

    #[test]
    fn quota_and_credit_are_told_from_rates() {
        for text in [
            r#"{"error":{"type":"insufficient_quota","code":"insufficient_quota"}}"#,
            r#"{"error":{"type":"insufficient_quota","code":null}}"#,
            r#"{"error":{"code":"credit_balance_exhausted"}}"#,
            r#"{"error":{"code":"organization_spend_limit_exceeded"}}"#,
            r#"{"error":{"code":"project_spend_limit_exceeded"}}"#,
            r#"{"error":{"code":"organization_usage_limit_exceeded"}}"#,
            r#"{"type":"error","error":{"type":"rate_limit_error","details":{"error_code":"enforced_spend_limit_reached"}}}"#,
            r#"{"error":{"type":"billing_error"}}"#,
            r#"{"error":{"details":[{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaId":"RequestsPerDayPerProject"}]}]}}"#,
        ] {
            assert!(read(text).is_out_of_quota(), "{text}");
        }
        for text in [
            r#"{"error":{"message":"You exceeded your current quota, check your billing","code":429,"status":"RESOURCE_EXHAUSTED"}}"#,
            r#"{"error":{"code":"rate_limit_exceeded","type":"requests"}}"#,
            r#"{"error":{"code":"slow_down"}}"#,
            r#"{"error":{"details":[{"@type":"x/QuotaFailure","violations":[{"quotaId":"RequestsPerMinute"},{}]}]}}"#,
            "insufficient_quota",
        ] {
            assert!(!read(text).is_out_of_quota(), "{text}");
        }
    }

    #[test]
    fn delays_are_found_in_details_and_in_sentences() {
        let google =
            r#"[{"error":{"details":[7,{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"38.5s"}]}}]"#;
        assert_eq!(read(google).retry_delay(), Some(Duration::from_millis(38_500)));
        for (text, millis) in [
            (r#"{"error":{"message":"Rate limit reached. Please try again in 6.2s. Visit"}}"#, Some(6_200)),
            (r#"{"error":{"message":"Please try again in 120ms."}}"#, Some(120)),
            (r#"{"error":"Please Retry After 20 seconds."}"#, Some(20_000)),
            (r#"{"detail":"try again in 1m2s"}"#, Some(62_000)),
            ("slow down, retry in 3s", Some(3_000)),
            (r#"{"error":{"message":"try again in a while"}}"#, None),
        ] {
            assert_eq!(read(text).delay_in_message(), millis.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn only_words_fit_for_a_log_are_shown() {
        assert_eq!(read(r#"{"error":{"code":"Some_Code","type":"t"}}"#).code(), Some("some_code"));
        assert_eq!(read(r#"{"error":{"code":"a\nb c","type":"t"}}"#).code(), Some("t"));
        assert_eq!(read(r#"{"error":{"message":"private"}}"#).code(), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes: Vec<u8>, text in r#"(\{|\}|\[|\]|"error":|"code":|"details":|"a"|1|,|é)*"#) {
            for body in [&bytes[..], text.as_bytes()] {
                let error = ErrorBody::read(body);
                let _ = (error.status(), error.is_out_of_quota(), error.delay_in_message(), error.code(), error.retry_delay());
            }
        }
    }
}
