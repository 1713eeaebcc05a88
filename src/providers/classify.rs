//! What an upstream's error answer means: its kind, when to come again, and whether at all.

use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::error_body::ErrorBody;
use super::pushback::pushback;
use super::{limits, moments, pacific, waits};
use crate::messages::{Failure, FailureKind, Headers, Pushback, RetryHint, Sent};

/// Statuses that are tried again.
const RETRIED: [u16; 8] = [408, 409, 429, 500, 502, 503, 504, 529];

/// Statuses that never are, whatever the upstream says of it: the next try would be the same request to the same end.
const NEVER_RETRIED: [u16; 6] = [400, 401, 403, 404, 413, 422];

/// The failure that an answer of `status` is. `now` stands in for the answer's own `Date` where it has none.
///
/// The answer is kept as it came, headers included; nothing of its text is in the failure's message or detail.
pub(crate) fn classify(status: u16, headers: &Headers, body: &Bytes, now: SystemTime) -> Failure {
    let error = ErrorBody::read(body);
    let kind = match status {
        300..=399 => FailureKind::Redirected,
        401 => FailureKind::KeyRefused,
        400 | 403 if error.is_key_refused() => FailureKind::KeyRefused,
        429 if error.is_out_of_quota() => FailureKind::OutOfQuota,
        429 => FailureKind::RateLimited,
        _ => FailureKind::Status,
    };
    failure(kind, status, headers, body, &error, now)
}

/// The failure that an error event is that opened a stream. It is what its status would be as a whole answer (so a
/// rate limit holds back the account however it was told), and a fault of the upstream's where it has none.
pub(crate) fn classify_event(status: Option<u16>, headers: &Headers, body: &Bytes, now: SystemTime) -> Failure {
    let mut failure = classify(status.unwrap_or(502), headers, body, now);
    if failure.kind == FailureKind::Status {
        failure.kind = FailureKind::StreamError;
        failure.message = "The upstream opened the stream with an error.".to_owned();
    }
    failure
}

/// Whether another try may end otherwise. Says nothing of when, nor of how many.
pub(crate) fn is_retryable(failure: &Failure) -> bool {
    use FailureKind::*;
    match failure.kind {
        Certificate | Redirected | OutOfQuota | KeyRefused | Untranslatable => false,
        _ if failure.pushback == Some(Pushback::NoMoney) => false,
        _ if failure.hint.should_retry == Some(false) => false,
        Unreachable | Cut | Timeout(_) | Malformed | TooLarge | RateLimited | Crashed => true,
        StreamError => !failure.status().is_some_and(|status| NEVER_RETRIED.contains(&status)),
        Status => failure.status().is_some_and(|status| {
            RETRIED.contains(&status) || (failure.hint.should_retry == Some(true) && may_be_retried(status))
        }),
    }
}

/// Whether an upstream that asks for another try after `status` gets it.
fn may_be_retried(status: u16) -> bool {
    status >= 400 && !NEVER_RETRIED.contains(&status)
}

/// What has become of a request behind a failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    /// Certainly nobody worked on it: it may be made again at no risk.
    Unworked,
    /// It was answered, if only to say that it failed.
    Answered,
    /// It may have been worked on, and billed, and what came of it was lost.
    Lost,
}

/// What is known of the fate of a request that failed so.
pub(crate) fn fate(failure: &Failure) -> Fate {
    use FailureKind::*;
    let (Sent::Maybe, Some(status)) = (failure.sent, failure.status()) else {
        return if failure.sent == Sent::No { Fate::Unworked } else { Fate::Lost };
    };
    match (failure.kind, status) {
        (RateLimited | OutOfQuota | KeyRefused | Redirected | Untranslatable, _) => Fate::Unworked,
        // It was sent away for the load, or before it was begun.
        (_, 429 | 503 | 529) => Fate::Unworked,
        // Who says so stands between us and whoever may have worked on it.
        (_, 408 | 502 | 504 | 520..=524) => Fate::Lost,
        // Refused for what it is.
        (_, 400..=499) if status != 409 => Fate::Unworked,
        _ => Fate::Answered,
    }
}

fn failure(
    kind: FailureKind,
    status: u16,
    headers: &Headers,
    body: &Bytes,
    error: &ErrorBody,
    now: SystemTime,
) -> Failure {
    let sentence = error.sentence(status);
    let pushback = pushback(status, error, sentence);
    let message = match kind {
        FailureKind::Redirected => "The upstream answered with a redirect, which is not followed.".to_owned(),
        FailureKind::KeyRefused => "The upstream does not accept the key it was sent.".to_owned(),
        FailureKind::OutOfQuota => "The account at the upstream is out of quota or credit.".to_owned(),
        FailureKind::RateLimited => limited(pushback).to_owned(),
        _ => format!("The upstream answered with status {status}."),
    };
    let detail = match error.code() {
        Some(code) => format!("status {status}, {code}, {} bytes", body.len()),
        None => format!("status {status}, {} bytes", body.len()),
    };
    let mut failure = Failure::new(kind, Sent::Maybe, message, detail);
    failure.answer = Some((status, headers.clone(), body.clone()));
    failure.hint = RetryHint { after: after(status, headers, error, now), should_retry: should_retry(headers) };
    failure.pushback = pushback;
    failure.limits = limits::from_error(headers, error.quotas(), sentence, now);
    failure
}

/// What a caller is told of a 429 that is not about money.
fn limited(pushback: Option<Pushback>) -> &'static str {
    match pushback {
        Some(Pushback::SlowDown) => "The upstream finds that traffic grows too fast.",
        Some(Pushback::Overload) => "The upstream is overloaded.",
        Some(Pushback::DailyQuota) => "The account's quota of the day for this model is used up at the upstream.",
        Some(Pushback::NeverFits) => "The call is larger than the upstream's limit ever allows.",
        _ => "The upstream's rate limit is reached.",
    }
}

/// When to come again. What is unreadable or negative says nothing, and the next source is asked.
fn after(status: u16, headers: &Headers, error: &ErrorBody, now: SystemTime) -> Option<Duration> {
    if status == 429 && error.is_day_used_up() {
        // Google's own delay is that of a minute's quota, which is not the one that is used up.
        return Some(pacific::until_midnight(moments::answered_at(headers, now)));
    }
    let millis = |name| headers.get(name).and_then(|value| waits::plain(value, Duration::from_millis(1)));
    millis("retry-after-ms")
        .or_else(|| millis("x-ms-retry-after-ms"))
        .or_else(|| headers.get("retry-after").and_then(|value| retry_after(value, headers, now)))
        .or_else(|| error.retry_delay())
        // A sentence is the last resort, and only where its subject is sure to be the limit.
        .or_else(|| if status == 429 { error.delay_in_message() } else { None })
}

/// `Retry-After`: seconds, fractions of them, or a date.
pub(crate) fn retry_after(value: &str, headers: &Headers, now: SystemTime) -> Option<Duration> {
    if let Some(length) = waits::plain(value, Duration::from_secs(1)) {
        return Some(length);
    }
    Some(moments::between(moments::answered_at(headers, now), moments::http_date(value)?))
}

fn should_retry(headers: &Headers) -> Option<bool> {
    let value = headers.get("x-should-retry")?.trim_ascii();
    if value.eq_ignore_ascii_case("true") {
        Some(true)
    } else if value.eq_ignore_ascii_case("false") {
        Some(false)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use http::header::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::*;
    use crate::messages::Phase;

    fn headers(lines: &[(&str, &str)]) -> Headers {
        lines
            .iter()
            .map(|(name, value)| (HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(*value).unwrap()))
            .collect()
    }

    fn now() -> SystemTime {
        httpdate::parse_http_date("Fri, 21 Aug 2026 12:00:00 GMT").unwrap()
    }

    fn classify_with(status: u16, lines: &[(&str, &str)], body: &str) -> Failure {
        classify(status, &headers(lines), &Bytes::copy_from_slice(body.as_bytes()), now())
    }

    fn after_millis(lines: &[(&str, &str)], body: &str) -> Option<u128> {
        classify_with(429, lines, body).hint.after.map(|after| after.as_millis())
    }

    #[test]
    fn each_status_is_retried_or_not_as_the_contract_says() {
        for status in [408, 409, 429, 500, 502, 503, 504, 529] {
            assert!(is_retryable(&classify_with(status, &[], "")), "{status}");
            assert!(!is_retryable(&classify_with(status, &[("x-should-retry", "false")], "")), "{status}");
        }
        for status in [301, 302, 307, 308, 400, 401, 403, 404, 413, 422] {
            assert!(!is_retryable(&classify_with(status, &[], "")), "{status}");
            assert!(!is_retryable(&classify_with(status, &[("x-should-retry", "true")], "")), "{status}");
        }
        for lines in [&[][..], &[("x-should-retry", "true")]] {
            assert!(!is_retryable(&classify_with(402, lines, "")), "no wait brings money");
            assert!(!is_retryable(&classify_event(Some(402), &headers(lines), &Bytes::new(), now())));
        }
        for status in [405, 418, 424, 498, 501, 505, 520] {
            assert!(!is_retryable(&classify_with(status, &[], "")), "{status}");
            assert!(is_retryable(&classify_with(status, &[("x-should-retry", "True")], "")), "{status}");
        }
    }

    #[test]
    fn kinds_are_told_by_status_and_body() {
        let quota = r#"{"error":{"code":"insufficient_quota"}}"#;
        let key = r#"{"error":{"code":400,"status":"INVALID_ARGUMENT","details":[
            {"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"API_KEY_INVALID"}]}}"#;
        for (status, body, kind) in [
            (429, "", FailureKind::RateLimited),
            (429, quota, FailureKind::OutOfQuota),
            (400, quota, FailureKind::Status),
            (401, "", FailureKind::KeyRefused),
            (400, key, FailureKind::KeyRefused),
            (307, "", FailureKind::Redirected),
            (500, "<html>", FailureKind::Status),
        ] {
            assert_eq!(classify_with(status, &[], body).kind, kind, "{status} {body}");
        }
        assert!(!is_retryable(&classify_with(429, &[("x-should-retry", "true"), ("retry-after", "1")], quota)));
    }

    #[test]
    fn failures_without_an_answer_are_retried_but_for_certificates() {
        use FailureKind::*;
        for (kind, expected) in [
            (Unreachable, true),
            (Certificate, false),
            (Cut, true),
            (Timeout(Phase::Connect), true),
            (Timeout(Phase::Idle), true),
            (Malformed, true),
            (TooLarge, true),
            (StreamError, true),
            (Crashed, true),
            (Status, false),
        ] {
            assert_eq!(is_retryable(&Failure::new(kind, Sent::Maybe, "", "")), expected, "{kind:?}");
        }
    }

    #[test]
    fn retry_hints_are_read_in_their_order() {
        let google =
            r#"{"error":{"message":"try again in 9s","details":[{"@type":"x/RetryInfo","retryDelay":"38s"}]}}"#;
        for (lines, body, expected) in [
            (&[("retry-after", "7"), ("retry-after-ms", "250")][..], google, Some(250)),
            (&[("retry-after", "7"), ("x-ms-retry-after-ms", "300")], "", Some(300)),
            (&[("retry-after", "7"), ("retry-after-ms", "soon")], google, Some(7_000)),
            (&[("Retry-After", "0.25")], "", Some(250)),
            (&[("retry-after", "0")], google, Some(0)),
            (&[("retry-after", "-1")], google, Some(38_000)),
            (&[("retry-after", "NaN")], "", None),
            (&[("retry-after", "inf")], "", None),
            (&[("retry-after", "")], r#"{"error":{"message":"Please try again in 6.2s."}}"#, Some(6_200)),
            (&[("retry-after", "1e30")], "", Some(604_800_000)),
            (&[], "", None),
        ] {
            assert_eq!(after_millis(lines, body), expected, "{lines:?} {body}");
        }
        let sentence = r#"{"error":{"message":"try again in 9s"}}"#;
        assert_eq!(classify_with(503, &[], sentence).hint.after, None, "sentences are believed of 429 only");
        assert_eq!(classify_with(503, &[], google).hint.after, Some(Duration::from_secs(38)));
    }

    #[test]
    fn a_quota_of_googles_day_comes_back_at_midnight_there_whatever_delay_is_named() {
        let body = r#"{"error":{"status":"RESOURCE_EXHAUSTED","details":[
            {"@type":"x/QuotaFailure","violations":[{"quotaId":"GenerateRequestsPerDayPerProjectPerModel"}]},
            {"@type":"x/RetryInfo","retryDelay":"38s"}]}}"#;
        assert_eq!(after_millis(&[], body), Some(19 * 3_600_000));
        assert_eq!(after_millis(&[("retry-after", "38")], body), Some(19 * 3_600_000));
        assert_eq!(after_millis(&[("date", "Fri, 21 Aug 2026 06:59:00 GMT")], body), Some(60_000));
    }

    #[test]
    fn dates_are_measured_by_the_upstreams_own_clock() {
        let date = ("retry-after", "Fri, 21 Aug 2026 12:00:30 GMT");
        assert_eq!(after_millis(&[date], ""), Some(30_000));
        assert_eq!(after_millis(&[date, ("date", "Fri, 21 Aug 2026 12:00:20 GMT")], ""), Some(10_000));
        assert_eq!(after_millis(&[date, ("date", "yesterday")], ""), Some(30_000));
        assert_eq!(after_millis(&[date, ("date", "Fri, 21 Aug 2026 13:00:00 GMT")], ""), Some(0));
        assert_eq!(after_millis(&[("retry-after", "Fri, 21 Aug 2099 12:00:00 GMT")], ""), Some(604_800_000));
    }

    #[test]
    fn an_error_event_is_what_its_status_would_be() {
        for (status, kind, shown, retried) in [
            (None, FailureKind::StreamError, 502, true),
            (Some(500), FailureKind::StreamError, 500, true),
            (Some(418), FailureKind::StreamError, 418, true),
            (Some(400), FailureKind::StreamError, 400, false),
            (Some(429), FailureKind::RateLimited, 429, true),
            (Some(401), FailureKind::KeyRefused, 401, false),
        ] {
            let failure = classify_event(status, &headers(&[]), &Bytes::new(), now());
            assert_eq!(
                (failure.kind, failure.status(), is_retryable(&failure)),
                (kind, Some(shown), retried),
                "{status:?}"
            );
        }
    }

    #[test]
    fn neither_message_nor_detail_repeats_the_upstreams_text() {
        for status in [307, 400, 401, 429, 500] {
            let failure = classify_with(status, &[], r#"{"error":{"message":"private","code":"a private code"}}"#);
            assert!(!format!("{} {}", failure.message, failure.detail).contains("private"));
            assert_eq!(failure.sent, Sent::Maybe);
        }
    }

    proptest! {
        #[test]
        fn every_answer_is_classified(status: u16, value in "[ -~]{0,30}", number: f64, body: Vec<u8>) {
            for value in [value, number.to_string()] {
                let lines: Vec<_> = ["retry-after", "retry-after-ms", "date", "x-should-retry"].iter().map(|name| (*name, &*value)).collect();
                let headers = headers(&lines);
                let body = Bytes::from(body.clone());
                for failure in [classify(status, &headers, &body, now()), classify_event(Some(status), &headers, &body, now())] {
                    prop_assert!(failure.hint.after.is_none_or(|after| after <= waits::LONGEST));
                    let never = NEVER_RETRIED.contains(&status) || (300..400).contains(&status);
                    prop_assert!(!(never && is_retryable(&failure)));
                }
            }
        }
    }
}
