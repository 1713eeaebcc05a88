//! The headers of answers: what the upstream sent and what forebay knows.

use std::time::Duration;

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::messages::{BudgetView, Headers, Meta, Remaining};

/// Anthropic's name for it.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(super) const X_SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
pub(super) const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");
const X_FOREBAY_UPSTREAM: HeaderName = HeaderName::from_static("x-forebay-upstream");
const X_FOREBAY_ATTEMPTS: HeaderName = HeaderName::from_static("x-forebay-attempts");
const X_FOREBAY_QUEUED_MS: HeaderName = HeaderName::from_static("x-forebay-queued-ms");

const X_FOREBAY_COST_USD: HeaderName = HeaderName::from_static("x-forebay-cost-usd");

/// Copies what the upstream sent, except what frames its message: ours is framed anew.
pub(super) fn copy(from: Headers, to: &mut HeaderMap) {
    for (name, value) in from {
        let framing = matches!(
            name.as_str(),
            "connection" | "content-length" | "keep-alive" | "trailer" | "transfer-encoding" | "upgrade"
        );
        if !framing {
            to.append(name, value);
        }
    }
}

/// Says which upstream answered, after how many attempts and how much waiting, and what the budgets have left.
pub(super) fn describe(meta: &Meta, to: &mut HeaderMap) {
    if let Some(upstream) = meta.upstream.as_deref().and_then(|name| HeaderValue::from_str(name).ok()) {
        to.insert(X_FOREBAY_UPSTREAM, upstream);
    }
    if let Some(cost) = meta.cost_usd.and_then(|cost| HeaderValue::try_from(dollars(cost)).ok()) {
        to.insert(X_FOREBAY_COST_USD, cost);
    }
    to.insert(X_FOREBAY_ATTEMPTS, HeaderValue::from(meta.attempts));
    to.insert(X_FOREBAY_QUEUED_MS, HeaderValue::from(u64::try_from(meta.queued.as_millis()).unwrap_or(u64::MAX)));
    budgets(&meta.budget, to);
}

/// What is left of forebay's own budgets.
pub(super) fn budgets(budget: &BudgetView, to: &mut HeaderMap) {
    const REQUESTS: [HeaderName; 3] = [
        HeaderName::from_static("x-ratelimit-limit-requests"),
        HeaderName::from_static("x-ratelimit-remaining-requests"),
        HeaderName::from_static("x-ratelimit-reset-requests"),
    ];
    const TOKENS: [HeaderName; 3] = [
        HeaderName::from_static("x-ratelimit-limit-tokens"),
        HeaderName::from_static("x-ratelimit-remaining-tokens"),
        HeaderName::from_static("x-ratelimit-reset-tokens"),
    ];
    let mut show = |names: [HeaderName; 3], left: &Option<Remaining>| {
        let Some(left) = left else { return };
        let [limit, remaining, reset] = names;
        to.insert(limit, HeaderValue::from(left.limit));
        to.insert(remaining, HeaderValue::from(left.remaining));
        if let Ok(value) = HeaderValue::try_from(openai_duration(left.reset)) {
            to.insert(reset, value);
        }
    };
    show(REQUESTS, &budget.requests);
    show(TOKENS, &budget.tokens);
}

/// An amount in US$, to a millionth of a cent, without an exponent.
fn dollars(amount: f64) -> String {
    let text = format!("{amount:.8}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A duration as OpenAI's rate-limit headers write it: `12ms`, `1s`, `8.64s`, `6m0s`, `1h0m0s`. Rounded up, to whole
/// seconds from a minute on: who waits that long has not come too early.
fn openai_duration(time: Duration) -> String {
    let millis = time.as_nanos().div_ceil(1_000_000);
    match millis {
        0 => "0s".to_owned(),
        1..1_000 => format!("{millis}ms"),
        1_000..60_000 if millis.is_multiple_of(1_000) => format!("{}s", millis / 1_000),
        1_000..60_000 => {
            let text = format!("{}.{:03}", millis / 1_000, millis % 1_000);
            format!("{}s", text.trim_end_matches('0'))
        }
        _ => {
            let seconds = millis.div_ceil(1_000);
            let (hours, minutes, seconds) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
            match hours {
                0 => format!("{minutes}m{seconds}s"),
                _ => format!("{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_look_as_openai_writes_them() {
        let written = |millis| openai_duration(Duration::from_millis(millis));
        assert_eq!(written(0), "0s");
        assert_eq!(written(12), "12ms");
        assert_eq!(written(999), "999ms");
        assert_eq!(written(1_000), "1s");
        assert_eq!(written(8_640), "8.64s");
        assert_eq!(written(59_999), "59.999s");
        assert_eq!(written(60_000), "1m0s");
        assert_eq!(written(360_000), "6m0s");
        assert_eq!(written(90_500), "1m31s");
        assert_eq!(written(3_600_000), "1h0m0s");
        assert_eq!(written(86_399_999), "24h0m0s");
        assert_eq!(openai_duration(Duration::from_nanos(1)), "1ms");
    }

    #[test]
    fn a_cost_is_written_without_an_exponent() {
        let written = [0.0, 1e-7, 0.000_125, 1.5, 1_234.0].map(dollars);
        assert_eq!(written, ["0", "0.0000001", "0.000125", "1.5", "1234"]);
    }

    #[test]
    fn budgets_are_shown_only_where_there_is_a_cap() {
        let mut to = HeaderMap::new();
        let requests = Remaining { limit: 500, remaining: 499, reset: Duration::from_millis(120) };
        let meta = Meta { budget: BudgetView { requests: Some(requests), tokens: None }, ..Meta::default() };
        describe(&meta, &mut to);
        assert_eq!(to.get("x-ratelimit-limit-requests").unwrap(), "500");
        assert_eq!(to.get("x-ratelimit-remaining-requests").unwrap(), "499");
        assert_eq!(to.get("x-ratelimit-reset-requests").unwrap(), "120ms");
        assert!(!to.contains_key("x-ratelimit-limit-tokens"));
    }

    #[test]
    fn a_call_says_who_answered_and_what_it_took() {
        let mut to = HeaderMap::new();
        let meta = Meta {
            upstream: Some("openai".into()),
            attempts: 2,
            queued: Duration::from_micros(41_900),
            cost_usd: Some(0.000_125),
            ..Meta::default()
        };
        describe(&meta, &mut to);
        assert_eq!(to.get("x-forebay-upstream").unwrap(), "openai");
        assert_eq!(to.get("x-forebay-attempts").unwrap(), "2");
        assert_eq!(to.get("x-forebay-queued-ms").unwrap(), "41");
        assert_eq!(to.get("x-forebay-cost-usd").unwrap(), "0.000125");
    }

    #[test]
    fn headers_that_frame_the_upstreams_message_are_not_copied() {
        let from: Headers =
            [("content-length", "5"), ("transfer-encoding", "chunked"), ("openai-version", "2020-10-01")]
                .into_iter()
                .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
                .collect();
        let mut to = HeaderMap::new();
        copy(from, &mut to);
        assert_eq!(to.len(), 1);
        assert_eq!(to.get("openai-version").unwrap(), "2020-10-01");
    }
}
