//! Every provider's own headers and bodies, and none of them a reason to panic.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use proptest::prelude::*;

use super::*;
use crate::messages::Scope;
use crate::providers::classify::classify;
use crate::providers::waits::LONGEST;

fn now() -> SystemTime {
    moments::http_date("Fri, 21 Aug 2026 12:00:00 GMT").unwrap()
}

fn headers(lines: &[(&str, &str)]) -> Headers {
    let line =
        |(name, value): &(&str, &str)| (HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(*value).unwrap());
    lines.iter().map(line).collect()
}

/// A report in words: `limit/remaining dimension per period, reset`, what was not said as `?`.
fn words(report: &LimitReport) -> Vec<String> {
    let number = |number: Option<u64>| number.map_or("?".to_owned(), |number| number.to_string());
    let words = |reading: &BudgetReading| {
        let scope = if reading.scope == Scope::Whole { String::new() } else { format!(" of {:?}", reading.scope) };
        let period = reading.period.map_or("?".to_owned(), |period| period.to_string());
        let reset = reading.reset.map_or("?".to_owned(), |reset| format!("{:?}", reset.after));
        let (limit, remaining) = (number(reading.limit), number(reading.remaining));
        format!("{limit}/{remaining} {}{scope} per {period}, {reset}", reading.dimension)
    };
    report.budgets.iter().map(words).collect()
}

fn said(lines: &[(&str, &str)]) -> Vec<String> {
    words(&from_headers(&headers(lines), now()))
}

fn said_with(lines: &[(&str, &str)], body: &str) -> LimitReport {
    classify(429, &headers(lines), &Bytes::copy_from_slice(body.as_bytes()), now()).limits
}

#[test]
fn openai_with_its_project_and_usage_based_variants() {
    let lines = [
        ("openai-processing-ms", "749"),
        ("x-ratelimit-limit-requests", "5000"),
        ("x-ratelimit-limit-tokens", "160000"),
        ("x-ratelimit-limit-tokens_usage_based", "160000"),
        ("x-ratelimit-remaining-requests", "4999"),
        ("x-ratelimit-remaining-tokens", "158866"),
        ("x-ratelimit-remaining-tokens_usage_based", "158866"),
        ("x-ratelimit-reset-requests", "12ms"),
        ("x-ratelimit-reset-tokens", "425ms"),
        ("x-ratelimit-reset-tokens_usage_based", "425ms"),
        ("x-ratelimit-limit-project-tokens", "150000"),
        ("x-ratelimit-remaining-project-tokens", "0"),
        ("x-ratelimit-reset-project-tokens", "6m0s"),
        ("x-ratelimit-limit-images", "5"),
        ("x-ratelimit-remaining-images", "0"),
        ("x-request-id", "req_1"),
    ];
    assert_eq!(
        said(&lines),
        [
            "5000/4999 requests per ?, 12ms",
            "160000/158866 tokens per ?, 425ms",
            "160000/158866 tokens of UsageBased per ?, 425ms",
            "150000/0 tokens of Project per ?, 360s",
        ]
    );
    let report = from_headers(&headers(&lines), now());
    assert_eq!(report.budgets[0].reset.map(|reset| reset.grain), Some(Duration::from_millis(1)));
}

#[test]
fn azure_counts_in_whole_seconds_and_says_minus_one_of_what_it_does_not_know() {
    let known = [
        ("x-ratelimit-limit-requests", "20"),
        ("x-ratelimit-remaining-requests", "19"),
        ("x-ratelimit-reset-requests", "10"),
        ("x-ratelimit-remaining-tokens", "119950"),
        ("apim-request-id", "1"),
    ];
    assert_eq!(said(&known), ["20/19 requests per ?, 10s", "?/119950 tokens per ?, ?"]);
    assert_eq!(
        from_headers(&headers(&known), now()).budgets[0].reset.map(|reset| reset.grain),
        Some(Duration::from_secs(1))
    );
    for limit in ["-1", "0"] {
        let unknown = [
            ("x-ratelimit-limit-requests", limit),
            ("x-ratelimit-remaining-requests", limit),
            ("x-ratelimit-reset-requests", "0"),
            ("x-ratelimit-limit-tokens", limit),
            ("x-ratelimit-remaining-tokens", "5"),
        ];
        assert!(from_headers(&headers(&unknown), now()).is_empty(), "{limit}");
    }
}

#[test]
fn anthropic_has_four_budgets_and_a_priority_tier_and_resets_in_the_past_when_full() {
    let lines = [
        ("date", "Tue, 30 Jan 2024 18:30:00 GMT"),
        ("anthropic-ratelimit-requests-limit", "1000"),
        ("anthropic-ratelimit-requests-remaining", "999"),
        ("anthropic-ratelimit-requests-reset", "2024-01-30T18:30:01Z"),
        ("anthropic-ratelimit-tokens-limit", "96000"),
        ("anthropic-ratelimit-tokens-remaining", "96000"),
        ("anthropic-ratelimit-tokens-reset", "2024-01-30T18:29:59Z"),
        ("anthropic-ratelimit-input-tokens-limit", "80000"),
        ("anthropic-ratelimit-input-tokens-remaining", "20000"),
        ("anthropic-ratelimit-input-tokens-reset", "2024-01-30T18:30:45Z"),
        ("anthropic-ratelimit-output-tokens-limit", "16000"),
        ("anthropic-ratelimit-output-tokens-remaining", "16000"),
        ("anthropic-ratelimit-output-tokens-reset", "2024-01-30T18:30:00Z"),
        ("anthropic-priority-input-tokens-limit", "10000"),
        ("anthropic-priority-input-tokens-remaining", "9618"),
        ("anthropic-priority-input-tokens-reset", "2024-01-30T18:30:03Z"),
        ("anthropic-ratelimit-unified-status", "allowed"),
        ("anthropic-ratelimit-unified-reset", "1706639400"),
        ("anthropic-organization-id", "1"),
    ];
    assert_eq!(
        said(&lines),
        [
            "1000/999 requests per minute, 1s",
            "96000/96000 tokens per minute, 0ns",
            "80000/20000 input tokens per minute, 45s",
            "16000/16000 output tokens per minute, 0ns",
            "10000/9618 input tokens of Priority per minute, 3s",
        ]
    );
}

#[test]
fn groq_writes_its_day_of_requests_as_openai_writes_its_minute() {
    let lines = [
        ("x-ratelimit-limit-requests", "14400"),
        ("x-ratelimit-limit-tokens", "18000"),
        ("x-ratelimit-remaining-requests", "14370"),
        ("x-ratelimit-remaining-tokens", "17997"),
        ("x-ratelimit-reset-requests", "2m59.56s"),
        ("x-ratelimit-reset-tokens", "7.66s"),
    ];
    // The names do not tell the period: 30 * 86,400 s / 14,400 = 180 s tells it, and so would the host.
    assert_eq!(said(&lines), ["14400/14370 requests per ?, 179.56s", "18000/17997 tokens per ?, 7.66s"]);
}

#[test]
fn mistral_names_its_periods_and_what_a_request_is_charged() {
    let lines = [
        ("x-ratelimit-limit-req-minute", "60"),
        ("x-ratelimit-remaining-req-minute", "59"),
        ("x-ratelimit-limit-tokens-minute", "500000"),
        ("x-ratelimit-remaining-tokens-minute", "499939"),
        ("x-ratelimit-limit-tokens-month", "1000000000"),
        ("x-ratelimit-remaining-tokens-month", "999000000"),
        ("x-ratelimit-tokens-query-cost", "61"),
    ];
    assert_eq!(
        said(&lines),
        [
            "60/59 requests per minute, ?",
            "500000/499939 tokens per minute, ?",
            "1000000000/999000000 tokens per month, ?",
        ]
    );
    assert_eq!(from_headers(&headers(&lines), now()).cost, Some(61));
    let older = [
        ("ratelimitbysize-limit", "500000"),
        ("ratelimitbysize-remaining", "499939"),
        ("ratelimitbysize-reset", "25"),
        ("ratelimitbysize-query-cost", "61"),
        ("x-ratelimitbysize-limit-month", "1000000000"),
        ("x-ratelimitbysize-remaining-month", "999000000"),
    ];
    assert_eq!(said(&older), ["500000/499939 tokens per ?, 25s", "1000000000/999000000 tokens per month, ?"]);
    assert_eq!(from_headers(&headers(&older), now()).cost, Some(61));
}

#[test]
fn together_counts_by_the_second_and_github_with_the_same_names_does_not() {
    let lines = [
        ("x-ratelimit-limit", "10"),
        ("x-ratelimit-remaining", "9"),
        ("x-ratelimit-reset", "1"),
        ("x-ratelimit-limit-dynamic", "4"),
        ("x-ratelimit-remaining-dynamic", "0"),
        ("x-tokenlimit-limit", "3000"),
        ("x-tokenlimit-remaining", "2500"),
    ];
    assert_eq!(
        said(&lines),
        ["10/9 requests per second, 1s", "4/0 requests of Dynamic per second, ?", "3000/2500 tokens per second, ?",]
    );
    let github = [
        ("date", "Fri, 21 Aug 2026 12:00:00 GMT"),
        ("x-ratelimit-limit", "5000"),
        ("x-ratelimit-remaining", "4987"),
        ("x-ratelimit-used", "13"),
        ("x-ratelimit-resource", "core"),
        ("x-ratelimit-reset", "1787313630"),
    ];
    assert_eq!(said(&github), ["5000/4987 requests per ?, 30s"]);
}

#[test]
fn cerebras_fireworks_and_the_standard_to_be() {
    let cerebras = [
        ("x-ratelimit-limit-requests-day", "14400"),
        ("x-ratelimit-remaining-requests-day", "14399"),
        ("x-ratelimit-reset-requests-day", "33011.382867"),
        ("x-ratelimit-limit-tokens-minute", "60000"),
        ("x-ratelimit-remaining-tokens-minute", "59800"),
        ("x-ratelimit-reset-tokens-minute", "11.382867"),
    ];
    assert_eq!(
        said(&cerebras),
        ["14400/14399 requests per day, 33011.382867s", "60000/59800 tokens per minute, 11.382867s"]
    );
    let fireworks = [
        ("x-ratelimit-limit-tokens-prompt", "11250000"),
        ("x-ratelimit-limit-tokens-cache-adjusted-prompt", "5400000"),
        ("x-ratelimit-limit-tokens-generated", "36000"),
        ("x-ratelimit-remaining-tokens-generated", "100"),
        ("x-ratelimit-over-limit", "yes"),
    ];
    assert_eq!(said(&fireworks), ["11250000/? input tokens per ?, ?", "36000/100 output tokens per ?, ?"]);
    let ietf = [("ratelimit", r#""default";r=50;t=30"#), ("ratelimit-policy", r#""default";q=100;w=60"#)];
    assert_eq!(said(&ietf), ["100/50 requests per minute, 30s"]);
    let apart = [("ratelimit-limit", "100, 100;w=60"), ("ratelimit-remaining", "50"), ("ratelimit-reset", "5")];
    assert_eq!(said(&apart), ["100/50 requests per ?, 5s"]);
}

#[test]
fn a_429_of_openai_names_the_period_that_its_headers_leave_out_and_the_charge() {
    let body = r#"{"error":{"message":"Rate limit reached for gpt-4o in organization org-1 on tokens per min (TPM): Limit 30000, Used 22999, Requested 12528. Please try again in 11.054s.","type":"tokens","param":null,"code":"rate_limit_exceeded"}}"#;
    let lines = [
        ("x-ratelimit-limit-requests", "500"),
        ("x-ratelimit-remaining-requests", "499"),
        ("x-ratelimit-limit-tokens", "30000"),
        ("x-ratelimit-remaining-tokens", "7000"),
        ("x-ratelimit-reset-tokens", "45.998s"),
    ];
    let report = said_with(&lines, body);
    assert_eq!(words(&report), ["500/499 requests per ?, ?", "30000/7000 tokens per minute, 45.998s"]);
    assert_eq!(report.cost, Some(12_528));
    assert_eq!(words(&said_with(&[], body)), ["30000/7001 tokens per minute, ?"]);
}

#[test]
fn a_429_of_gemini_names_its_quotas() {
    let body = r#"[{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","message":"You exceeded your current quota","details":[
        {"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[
            {"quotaMetric":"generativelanguage.googleapis.com/generate_content_free_tier_requests","quotaId":"GenerateRequestsPerMinutePerProjectPerModel-FreeTier","quotaValue":"15"},
            {"quotaId":"GenerateContentInputTokensPerModelPerMinute-FreeTier","quotaValue":"250000"},
            {"quotaId":"GenerateRequestsPerDayPerProjectPerModel-FreeTier","quotaValue":20},
            {"quotaId":"GenerateImagesPerMinute","quotaValue":"2"},{"quotaId":7},7]},
        {"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"38s"}]}}]"#;
    assert_eq!(
        words(&said_with(&[], body)),
        ["15/0 requests per minute, 38s", "250000/? input tokens per minute, 38s", "20/0 requests per day, ?"]
    );
}

#[test]
fn what_says_nothing_is_an_empty_report() {
    let lines = [
        ("content-type", "application/json"),
        ("retry-after", "5"),
        ("x-ratelimit-limit-requests", "many"),
        ("x-ratelimit-remaining-tokens", "-3"),
        ("x-ratelimit-reset-tokens", "5s"),
        ("ratelimit-policy", "a"),
    ];
    let report = from_headers(&headers(&lines), now());
    assert!(report.is_empty());
    assert_eq!(from_headers(&headers(&lines[..2]), now()).budgets.capacity(), 0, "nothing said, nothing allocated");
}

#[test]
fn more_never_remains_than_the_limit_and_large_numbers_are_cut_off() {
    let lines = [
        ("x-ratelimit-remaining-requests", "99999999999999999999999999"),
        ("x-ratelimit-limit-requests", "20.9"),
        ("x-ratelimit-limit-tokens", "1e300"),
        ("x-ratelimit-reset-tokens", "1e300"),
    ];
    assert_eq!(said(&lines), ["20/20 requests per ?, ?", "18446744073709551615/? tokens per ?, 604800s"]);
}

fn name() -> impl Strategy<Value = String> {
    let words = "(x-ratelimit-|ratelimit-|anthropic-ratelimit-|x-tokenlimit-|ratelimitbysize-)(limit|remaining|reset)(-(input|tokens|requests|minute|day|project|dynamic|based|query|cost|images)){0,3}";
    prop_oneof![words, "ratelimit(-policy)?", "date", "retry-after", "[a-z][a-z_-]{0,30}"]
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    let text = prop_oneof![
        "-?[0-9]{1,30}",
        "[0-9.]{1,12}(ms|s|m|h|d|us)([0-9]{1,3}s)?",
        "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(Z|[+-][0-9]{2}:[0-9]{2})",
        r#"("a"|a|limit=[0-9]{1,3}|[0-9]{1,3}|;|,| |"|\\|;r=[0-9]{1,3}|;q=[0-9]{1,3}|;w=[0-9]{1,3}|;t=-?[0-9]){0,8}"#,
        any::<f64>().prop_map(|number| number.to_string()),
    ];
    prop_oneof![text.prop_map(String::into_bytes), proptest::collection::vec(0x20u8..=0xff, 0..40)]
}

proptest! {
    #[test]
    fn any_headers_and_bodies_give_a_sane_report(
        lines in proptest::collection::vec((name(), value()), 0..40),
        status in prop_oneof![Just(429u16), Just(413), any::<u16>()],
        noise: Vec<u8>,
        message in "(Limit |Used |Requested |tokens|requests| per |min|day|[0-9,]{1,22}| |é|\\\\n)*",
        quota in r#"("[A-Za-z]{0,9}"|"(Requests|InputTokens|Tokens)Per(Minute|Day|Week)"|[0-9]{1,22}|null)"#,
    ) {
        let headers: Headers = lines
            .iter()
            .filter_map(|(name, value)| Some((HeaderName::try_from(name).ok()?, HeaderValue::from_bytes(value).ok()?)))
            .collect();
        let body = format!(r#"{{"error":{{"message":"{message}","details":[{{"@type":"x/QuotaFailure","violations":[{{"quotaId":{quota},"quotaValue":{quota}}}]}}]}}}}"#);
        for body in [Bytes::from(noise), Bytes::from(body)] {
            let failure = classify(status, &headers, &body, now());
            prop_assert!(status != 429 || failure.pushback.is_some());
            for report in [failure.limits, from_headers(&headers, now())] {
                prop_assert!(report.budgets.len() <= MAX_BUDGETS);
                for (place, reading) in report.budgets.iter().enumerate() {
                    prop_assert!(reading.limit.is_some() || reading.remaining.is_some());
                    prop_assert!(reading.limit != Some(0));
                    prop_assert!(reading.limit.is_none_or(|limit| reading.remaining.is_none_or(|left| left <= limit)));
                    prop_assert!(reading.period.is_none_or(|period| !period.0.is_zero() && period.0 <= 5 * LONGEST));
                    prop_assert!(reading.reset.is_none_or(|reset| reset.after <= LONGEST && !reset.grain.is_zero()));
                    let same = |other: &BudgetReading| {
                        (other.dimension, other.scope, other.period) == (reading.dimension, reading.scope, reading.period)
                    };
                    prop_assert!(!report.budgets[place + 1..].iter().any(same), "each budget once");
                }
            }
        }
    }
}
