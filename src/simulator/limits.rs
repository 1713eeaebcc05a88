//! The provider's own rate limits: pure token buckets with OpenAI's headers. Time is a parameter.
//!
//! A bucket is kept as the moment at which it will be full again (the "theoretical arrival time" of GCRA), in whole
//! nanoseconds, so that a promised `Retry-After` is exact: a call at that moment is granted, one a nanosecond sooner is not.

use std::time::Duration;

use serde::Serialize;

use crate::clock::Instant;

/// So much in so long, of which so long's worth may come at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Rate {
    /// How many (requests or tokens) in each `per`.
    pub amount: u64,
    /// The period of `amount`.
    #[serde(rename = "per_seconds", serialize_with = "as_seconds")]
    pub per: Duration,
    /// How much time's worth may be used at once after a rest; always at least one.
    #[serde(rename = "burst_seconds", serialize_with = "as_seconds")]
    pub burst: Duration,
}

impl Rate {
    /// `amount` a second, a second's worth at once.
    pub fn per_second(amount: u64) -> Self {
        let second = Duration::from_secs(1);
        Self { amount, per: second, burst: second }
    }

    /// `amount` a minute, a minute's worth at once.
    pub fn per_minute(amount: u64) -> Self {
        let minute = Duration::from_secs(60);
        Self { amount, per: minute, burst: minute }
    }

    /// The same rate with another burst.
    pub fn with_burst(self, burst: Duration) -> Self {
        Self { burst, ..self }
    }

    /// What a full bucket holds.
    pub fn capacity(&self) -> u64 {
        self.worth(self.depth())
    }

    /// The time an empty bucket takes to fill.
    fn depth(&self) -> u128 {
        self.burst.as_nanos().max(self.price(1))
    }

    /// How many nanoseconds of refill `cost` takes; rounded up, so that the rate is never exceeded.
    fn price(&self, cost: u64) -> u128 {
        (u128::from(cost) * self.per.as_nanos()).div_ceil(u128::from(self.amount.max(1)))
    }

    fn worth(&self, nanos: u128) -> u64 {
        u64::try_from(nanos * u128::from(self.amount) / self.per.as_nanos().max(1)).unwrap_or(u64::MAX)
    }
}

/// What one API key may do. All of it may be absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Limits {
    /// Requests in a short period.
    pub requests_per_second: Option<Rate>,
    /// Requests in a long one; both apply where both are given.
    pub requests_per_minute: Option<Rate>,
    /// Tokens, charged as what the answer's `usage` will say.
    pub tokens_per_minute: Option<Rate>,
    /// Calls in flight.
    pub max_concurrent: Option<u32>,
}

/// What ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scarce {
    Requests,
    Tokens,
    Concurrency,
}

/// A call that may not go now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) scarce: Scarce,
    /// How long until this very call would fit; `None` when nobody knows (concurrency) or it never will.
    pub(super) wait: Option<Duration>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    rate: Rate,
    /// When it is full again; in the past: it is full.
    full_at: Instant,
}

impl Bucket {
    fn new(rate: Rate, now: Instant) -> Self {
        Self { rate, full_at: now }
    }

    fn debt(&self, now: Instant) -> u128 {
        self.full_at.saturating_duration_since(now).as_nanos()
    }

    /// How long until `cost` fits; zero is now, `None` never.
    fn wait(&self, cost: u64, now: Instant) -> Option<Duration> {
        let (price, depth) = (self.rate.price(cost), self.rate.depth());
        if price > depth {
            return None;
        }
        Some(nanos((self.debt(now) + price).saturating_sub(depth)))
    }

    fn take(&mut self, cost: u64, now: Instant) {
        self.full_at = self.full_at.max(now) + nanos(self.rate.price(cost));
    }

    fn remaining(&self, now: Instant) -> u64 {
        self.rate.worth(self.rate.depth().saturating_sub(self.debt(now)))
    }

    fn reset(&self, now: Instant) -> Duration {
        self.full_at.saturating_duration_since(now)
    }
}

/// What one API key has used.
#[derive(Debug)]
pub(super) struct Meter {
    requests: Vec<Bucket>,
    tokens: Option<Bucket>,
    max_concurrent: Option<u32>,
    in_flight: u32,
}

impl Meter {
    pub(super) fn new(limits: &Limits, now: Instant) -> Self {
        let rates = [limits.requests_per_second, limits.requests_per_minute];
        Self {
            requests: rates.into_iter().flatten().map(|rate| Bucket::new(rate, now)).collect(),
            tokens: limits.tokens_per_minute.map(|rate| Bucket::new(rate, now)),
            max_concurrent: limits.max_concurrent,
            in_flight: 0,
        }
    }

    /// Takes what a call of `tokens` needs, or takes nothing. What is granted is in flight until [`Meter::leave`].
    pub(super) fn enter(&mut self, tokens: u64, now: Instant) -> Result<(), Refusal> {
        if self.max_concurrent.is_some_and(|most| self.in_flight >= most) {
            return Err(Refusal { scarce: Scarce::Concurrency, wait: None });
        }
        let requests = self.requests.iter().map(|bucket| (Scarce::Requests, bucket.wait(1, now)));
        let tokens_wait = self.tokens.iter().map(|bucket| (Scarce::Tokens, bucket.wait(tokens, now)));
        // Of several waits the longest is the true one; "never" is longer than any.
        let longest = requests.chain(tokens_wait).max_by_key(|(_, wait)| wait.unwrap_or(Duration::MAX));
        if let Some((scarce, wait)) = longest.filter(|(_, wait)| *wait != Some(Duration::ZERO)) {
            return Err(Refusal { scarce, wait });
        }
        self.requests.iter_mut().for_each(|bucket| bucket.take(1, now));
        if let Some(bucket) = &mut self.tokens {
            bucket.take(tokens, now);
        }
        self.in_flight += 1;
        Ok(())
    }

    /// A granted call is over.
    pub(super) fn leave(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// OpenAI's `x-ratelimit-*` headers: the limit is what a full bucket holds, the reset when it is full again.
    pub(super) fn headers(&self, now: Instant) -> Vec<(&'static str, String)> {
        let mut headers = Vec::new();
        // There is one set for requests: the bucket nearer to its end speaks.
        if let Some(bucket) = self.requests.iter().min_by_key(|bucket| bucket.remaining(now)) {
            headers.push(("x-ratelimit-limit-requests", bucket.rate.capacity().to_string()));
            headers.push(("x-ratelimit-remaining-requests", bucket.remaining(now).to_string()));
            headers.push(("x-ratelimit-reset-requests", go_duration(bucket.reset(now))));
        }
        if let Some(bucket) = &self.tokens {
            headers.push(("x-ratelimit-limit-tokens", bucket.rate.capacity().to_string()));
            headers.push(("x-ratelimit-remaining-tokens", bucket.remaining(now).to_string()));
            headers.push(("x-ratelimit-reset-tokens", go_duration(bucket.reset(now))));
        }
        headers
    }
}

/// A duration as OpenAI writes it in headers: `0s`, `12ms`, `1.5s`, `6m0s`, `1h2m3s`. Rounded up to milliseconds.
pub(super) fn go_duration(duration: Duration) -> String {
    let ms = whole_ms(duration);
    let (hours, minutes, seconds) = (ms / 3_600_000, ms / 60_000 % 60, ms % 60_000);
    if ms == 0 {
        return "0s".to_owned();
    }
    if ms < 1_000 {
        return format!("{ms}ms");
    }
    let seconds = match seconds % 1_000 {
        0 => format!("{}s", seconds / 1_000),
        part => format!("{}.{}s", seconds / 1_000, format!("{part:03}").trim_end_matches('0')),
    };
    match (hours, minutes) {
        (0, 0) => seconds,
        (0, minutes) => format!("{minutes}m{seconds}"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
    }
}

/// Milliseconds, rounded up: who waits that long has waited long enough.
pub(super) fn whole_ms(duration: Duration) -> u128 {
    duration.as_nanos().div_ceil(1_000_000)
}

/// Seconds, rounded up.
pub(super) fn whole_seconds(duration: Duration) -> u128 {
    duration.as_nanos().div_ceil(1_000_000_000)
}

fn as_seconds<S: serde::Serializer>(duration: &Duration, out: S) -> Result<S::Ok, S::Error> {
    out.serialize_f64(duration.as_secs_f64())
}

fn nanos(nanos: u128) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn meter(limits: Limits) -> (Meter, Instant) {
        let now = clock::now();
        (Meter::new(&limits, now), now)
    }

    fn requests(rate: Rate) -> Limits {
        Limits { requests_per_second: Some(rate), ..Limits::default() }
    }

    #[test]
    fn a_burst_is_granted_and_the_next_call_is_told_exactly_when_to_come_back() {
        let (mut meter, now) = meter(requests(Rate::per_second(20)));
        for _ in 0..20 {
            assert_eq!(meter.enter(1, now), Ok(()));
        }
        let refusal = meter.enter(1, now).unwrap_err();
        assert_eq!(refusal, Refusal { scarce: Scarce::Requests, wait: Some(Duration::from_millis(50)) });
        let wait = refusal.wait.unwrap();
        assert!(meter.enter(1, now + wait - Duration::from_nanos(1)).is_err());
        assert_eq!(meter.enter(1, now + wait), Ok(()));
        assert!(meter.enter(1, now + wait).is_err());
    }

    #[test]
    fn no_second_ever_grants_more_than_its_rate_once_the_burst_is_gone() {
        let (mut meter, start) = meter(requests(Rate::per_second(7).with_burst(Duration::ZERO)));
        let granted: Vec<u64> =
            (0..3_000u64).filter(|ms| meter.enter(1, start + Duration::from_millis(*ms)).is_ok()).collect();
        for (n, first) in granted.iter().enumerate() {
            assert!(granted[n..].iter().filter(|ms| **ms < first + 1_000).count() <= 7);
        }
        assert!(granted.len() >= 20, "{}", granted.len());
    }

    #[test]
    fn a_refused_call_costs_nothing() {
        let limits = Limits { tokens_per_minute: Some(Rate::per_minute(100)), ..requests(Rate::per_second(5)) };
        let (mut meter, now) = meter(limits);
        assert_eq!(meter.enter(80, now), Ok(()));
        let refusal = meter.enter(30, now).unwrap_err();
        assert_eq!(refusal, Refusal { scarce: Scarce::Tokens, wait: Some(Duration::from_secs(6)) });
        for _ in 0..4 {
            assert_eq!(meter.enter(5, now), Ok(()), "the refused call took no request");
        }
    }

    #[test]
    fn a_call_larger_than_the_bucket_never_fits() {
        let (mut meter, now) = meter(Limits { tokens_per_minute: Some(Rate::per_minute(100)), ..Limits::default() });
        assert_eq!(meter.enter(101, now), Err(Refusal { scarce: Scarce::Tokens, wait: None }));
        assert_eq!(meter.enter(100, now), Ok(()));
    }

    #[test]
    fn a_place_in_flight_is_free_again_when_its_call_leaves() {
        let (mut meter, now) = meter(Limits { max_concurrent: Some(1), ..Limits::default() });
        assert_eq!(meter.enter(1, now), Ok(()));
        assert_eq!(meter.enter(1, now).unwrap_err().scarce, Scarce::Concurrency);
        meter.leave();
        assert_eq!(meter.enter(1, now), Ok(()));
    }

    #[test]
    fn the_headers_follow_the_bucket() {
        let limits = Limits { tokens_per_minute: Some(Rate::per_minute(60_000)), ..requests(Rate::per_second(20)) };
        let (mut meter, now) = meter(limits);
        for _ in 0..3 {
            meter.enter(500, now).unwrap();
        }
        let headers: Vec<String> =
            meter.headers(now).into_iter().map(|(name, value)| format!("{name}: {value}")).collect();
        assert_eq!(
            headers,
            [
                "x-ratelimit-limit-requests: 20",
                "x-ratelimit-remaining-requests: 17",
                "x-ratelimit-reset-requests: 150ms",
                "x-ratelimit-limit-tokens: 60000",
                "x-ratelimit-remaining-tokens: 58500",
                "x-ratelimit-reset-tokens: 1.5s",
            ]
        );
    }

    #[test]
    fn durations_read_like_go_s() {
        let cases = [
            (0, "0s"),
            (12, "12ms"),
            (1_000, "1s"),
            (1_500, "1.5s"),
            (360_000, "6m0s"),
            (179_560, "2m59.56s"),
            (3_723_000, "1h2m3s"),
        ];
        for (ms, text) in cases {
            assert_eq!(go_duration(Duration::from_millis(ms)), text);
        }
        assert_eq!(go_duration(Duration::from_nanos(1)), "1ms");
    }
}
