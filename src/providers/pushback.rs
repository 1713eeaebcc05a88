//! Which of the several things it means that an upstream sends a call away for the load. A 429 alone is five.

use super::error_body::ErrorBody;
use super::limits::Sentence;
use crate::messages::{Period, Pushback};

/// What an error answer of `status` means; `None` where it is about something else. Says nothing of whether the call is
/// tried again.
///
/// Out of money is decided by words for programs only: a text may repeat what a caller wrote, and would close the account.
pub(crate) fn pushback(status: u16, error: &ErrorBody, sentence: Option<Sentence>) -> Option<Pushback> {
    let is_slow_down = error.has_word("slow_down")
        || error.has_word("dynamic_request_limited")
        || error.has_word("dynamic_token_limited");
    match status {
        402 => Some(Pushback::NoMoney),
        // Some send the one call that is too large under the status of a body that is.
        413 => sentence.filter(Sentence::can_never_fit).map(|_| Pushback::NeverFits),
        429 => Some(of_429(error, sentence, is_slow_down)),
        // OpenAI's slow_down was a 503 before it was a 429.
        503 if is_slow_down => Some(Pushback::SlowDown),
        // Groq's 498, Anthropic's 529.
        498 | 503 | 529 => Some(Pushback::Overload),
        500..=599 if error.has_word("overloaded") => Some(Pushback::Overload),
        // Anthropic tells a spending limit as a 400, too.
        400..=499 if error.is_out_of_money() => Some(Pushback::NoMoney),
        _ => None,
    }
}

fn of_429(error: &ErrorBody, sentence: Option<Sentence>, is_slow_down: bool) -> Pushback {
    // In Anthropic's words, and in those of its documentation.
    const GROWTH: [&str; 3] = ["usage increase rate", "acceleration limit", "sharp increase"];
    // Azure's, and OpenAI's.
    const LOAD: [&str; 2] = ["high demand", "currently overloaded"];
    let is_of_day =
        error.is_day_used_up() || sentence.is_some_and(|sentence| sentence.reading.period == Some(Period::DAY));
    let never_fits =
        sentence.is_some_and(|sentence| sentence.can_never_fit()) || error.says_any(&["request too large"]);
    if error.is_out_of_money() {
        Pushback::NoMoney
    } else if never_fits {
        Pushback::NeverFits
    } else if is_of_day {
        Pushback::DailyQuota
    } else if is_slow_down || error.says_any(&GROWTH) {
        Pushback::SlowDown
    } else if error.has_word("overloaded") || error.says_any(&LOAD) {
        Pushback::Overload
    } else {
        Pushback::Rate
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use bytes::Bytes;

    use super::Pushback::{self, *};
    use crate::messages::FailureKind::{self, *};
    use crate::messages::Headers;
    use crate::providers::classify::{classify, is_retryable};

    #[test]
    fn the_error_map_row_by_row() {
        let rows: [(u16, &str, FailureKind, Option<Pushback>, bool); 40] = [
            (
                400,
                r#"{"error":{"code":"context_length_exceeded","type":"invalid_request_error"}}"#,
                Status,
                None,
                false,
            ),
            (400, r#"{"object":"error","type":"BadRequestError","code":400}"#, Status, None, false),
            (400, r#"[{"error":{"code":400,"status":"FAILED_PRECONDITION"}}]"#, Status, None, false),
            (
                400,
                r#"{"type":"error","error":{"type":"invalid_request_error","message":"Your credit balance is too low"}}"#,
                Status,
                None,
                false,
            ),
            (
                400,
                r#"{"type":"error","error":{"type":"invalid_request_error","details":{"error_code":"enforced_spend_limit_reached"}}}"#,
                Status,
                Some(NoMoney),
                false,
            ),
            (400, "<html>billing</html>", Status, None, false),
            (401, r#"{"error":{"code":"invalid_api_key"}}"#, KeyRefused, None, false),
            (402, r#"{"type":"error","error":{"type":"billing_error"}}"#, Status, Some(NoMoney), false),
            (402, "", Status, Some(NoMoney), false),
            (
                403,
                r#"{"statusCode":403,"message":"Out of call volume quota. Quota will be replenished in 12:34:56."}"#,
                Status,
                None,
                false,
            ),
            (404, r#"{"error":{"code":"model_not_found"}}"#, Status, None, false),
            (408, "", Status, None, true),
            (409, "", Status, None, true),
            (413, r#"{"type":"error","error":{"type":"request_too_large"}}"#, Status, None, false),
            (
                413,
                r#"{"error":{"message":"Request too large for model `m` on tokens per minute (TPM): Limit 6000, Requested 12000","code":"rate_limit_exceeded"}}"#,
                Status,
                Some(NeverFits),
                false,
            ),
            (422, r#"{"detail":[]}"#, Status, None, false),
            (424, "", Status, None, false),
            (429, "", RateLimited, Some(Rate), true),
            (
                429,
                r#"{"error":{"code":"rate_limit_exceeded","type":"requests","message":"Please try again in 120ms."}}"#,
                RateLimited,
                Some(Rate),
                true,
            ),
            (429, r#"{"error":{"code":"slow_down","type":"rate_limit_error"}}"#, RateLimited, Some(SlowDown), true),
            (
                429,
                r#"{"error":{"code":"insufficient_quota","type":"insufficient_quota"}}"#,
                OutOfQuota,
                Some(NoMoney),
                false,
            ),
            (
                429,
                r#"{"error":{"code":"credit_balance_exhausted","type":"insufficient_quota"}}"#,
                OutOfQuota,
                Some(NoMoney),
                false,
            ),
            (429, r#"{"error":{"code":"project_spend_limit_exceeded"}}"#, OutOfQuota, Some(NoMoney), false),
            (429, r#"{"error":{"code":"organization_usage_limit_exceeded"}}"#, OutOfQuota, Some(NoMoney), false),
            (
                429,
                r#"{"error":{"message":"Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 45000.","code":"rate_limit_exceeded"}}"#,
                RateLimited,
                Some(NeverFits),
                true,
            ),
            (
                429,
                r#"{"error":{"message":"on tokens per min (TPM): Limit 30000, Used 0, Requested 30001.","code":"rate_limit_exceeded"}}"#,
                RateLimited,
                Some(NeverFits),
                true,
            ),
            (
                429,
                r#"{"error":{"message":"on requests per day (RPD): Limit 200, Used 200, Requested 1. Please try again in 7m12s.","code":"rate_limit_exceeded"}}"#,
                RateLimited,
                Some(DailyQuota),
                true,
            ),
            (
                429,
                r#"{"type":"error","error":{"type":"rate_limit_error","message":"This request would exceed your organization's rate limit of 80,000 input tokens per minute"}}"#,
                RateLimited,
                Some(Rate),
                true,
            ),
            (
                429,
                r#"{"type":"error","error":{"type":"rate_limit_error","message":"This request would exceed your organization's maximum usage increase rate for input tokens per minute."}}"#,
                RateLimited,
                Some(SlowDown),
                true,
            ),
            (
                429,
                r#"{"type":"error","error":{"type":"rate_limit_error","details":{"error_code":"enforced_spend_limit_reached"}}}"#,
                OutOfQuota,
                Some(NoMoney),
                false,
            ),
            (
                429,
                r#"{"error":{"status":"RESOURCE_EXHAUSTED","details":[{"@type":"x/QuotaFailure","violations":[{"quotaId":"GenerateRequestsPerMinutePerProjectPerModel"}]}]}}"#,
                RateLimited,
                Some(Rate),
                true,
            ),
            (
                429,
                r#"{"error":{"status":"RESOURCE_EXHAUSTED","details":[{"@type":"x/QuotaFailure","violations":[{"quotaId":"GenerateRequestsPerDayPerProjectPerModel"}]},{"@type":"x/RetryInfo","retryDelay":"38s"}]}}"#,
                OutOfQuota,
                Some(DailyQuota),
                false,
            ),
            (429, r#"{"error":{"type":"dynamic_token_limited"}}"#, RateLimited, Some(SlowDown), true),
            (
                429,
                r#"{"error":{"code":"429","message":"The system is currently experiencing high demand and cannot process your request."}}"#,
                RateLimited,
                Some(Overload),
                true,
            ),
            (498, r#"{"error":{"code":"capacity_exceeded"}}"#, Status, Some(Overload), false),
            (500, r#"{"error":{"type":"server_error"}}"#, Status, None, true),
            (502, "<html>", Status, None, true),
            (503, r#"{"error":{"code":"server_is_overloaded"}}"#, Status, Some(Overload), true),
            (503, r#"{"error":{"code":"slow_down"}}"#, Status, Some(SlowDown), true),
            (529, r#"{"type":"error","error":{"type":"overloaded_error"}}"#, Status, Some(Overload), true),
        ];
        for (status, body, kind, pushback, retried) in rows {
            let failure =
                classify(status, &Headers::new(), &Bytes::copy_from_slice(body.as_bytes()), SystemTime::UNIX_EPOCH);
            let seen = (failure.kind, failure.pushback, is_retryable(&failure));
            assert_eq!(seen, (kind, pushback, retried), "{status} {body}");
        }
    }
}
