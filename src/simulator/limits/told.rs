//! What a provider says of its limits in headers.

use std::time::Duration;

use serde::Serialize;

use super::refusal::Scarce;

/// Header lines: lower-case names with their values.
pub type Headers = Vec<(&'static str, String)>;

/// Where a limit stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Which limit.
    pub scarce: Scarce,
    /// Over what it counts: the period, or the length of its windows.
    pub period: Duration,
    /// The most that can be granted at once; of a window its own share.
    pub limit: u64,
    /// What is left now.
    pub remaining: u64,
    /// Until the bucket is full, the oldest entry of the log leaves, or the window ends.
    pub reset: Duration,
}

impl Reading {
    /// What has been used of `limit`.
    pub fn used(&self) -> u64 {
        self.limit.saturating_sub(self.remaining)
    }
}

/// Whose manner of telling: whether and how headers say where limits stand, on good answers and on 429, and in whose words
/// the body of a 429 does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum HeaderStyle {
    /// OpenAI's `x-ratelimit-*`, whose resets are durations as Go writes them, to the millisecond: `1s`, `6m0s`, `12ms`.
    #[default]
    OpenAi,
    /// The same names with resets in whole seconds, rounded up, as Azure writes them, and Azure's bodies without figures.
    Azure,
    /// No header says anything; bodies are OpenAI's.
    None,
}

impl HeaderStyle {
    /// The header lines for these readings; there is one set for requests and one for tokens.
    pub fn lines(self, readings: &[Reading]) -> Headers {
        let reset = |reset| match self {
            HeaderStyle::Azure => whole_seconds(reset).to_string(),
            HeaderStyle::OpenAi | HeaderStyle::None => go_duration(reset),
        };
        let lines = |reading: &Reading| {
            let [limit, remaining, until] = match reading.scarce {
                Scarce::Tokens => {
                    ["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"]
                }
                _ => ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"],
            };
            [
                (limit, reading.limit.to_string()),
                (remaining, reading.remaining.to_string()),
                (until, reset(reading.reset)),
            ]
        };
        match self {
            HeaderStyle::None => Headers::new(),
            HeaderStyle::OpenAi | HeaderStyle::Azure => readings.iter().flat_map(lines).collect(),
        }
    }
}

/// Whether and how a 429 says when to come back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RetryAfter {
    /// Whole seconds in `retry-after`, and beside it `retry-after-ms`, as OpenAI has it: exact to the millisecond.
    #[default]
    Exact,
    /// Whole seconds, rounded up, and no more.
    Seconds,
    /// No time at all, not in the message either.
    Absent,
}

impl RetryAfter {
    /// How long a caller is told to wait when this is the truth; never less than that.
    pub fn told(self, wait: Duration) -> Option<Duration> {
        match self {
            RetryAfter::Exact => Some(millis(whole_ms(wait))),
            RetryAfter::Seconds => Some(millis(whole_seconds(wait).saturating_mul(1_000))),
            RetryAfter::Absent => None,
        }
    }

    /// The header lines for this wait.
    pub fn lines(self, wait: Duration) -> Headers {
        let seconds = ("retry-after", whole_seconds(wait).to_string());
        match self {
            RetryAfter::Exact => vec![seconds, ("retry-after-ms", whole_ms(wait).to_string())],
            RetryAfter::Seconds => vec![seconds],
            RetryAfter::Absent => Headers::new(),
        }
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
fn whole_ms(duration: Duration) -> u128 {
    duration.as_nanos().div_ceil(1_000_000)
}

/// Seconds, rounded up.
pub(super) fn whole_seconds(duration: Duration) -> u128 {
    duration.as_nanos().div_ceil(1_000_000_000)
}

fn millis(ms: u128) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn who_waits_as_long_as_told_has_waited_long_enough() {
        let wait = Duration::from_nanos(1_200_000_001);
        let told: Vec<_> = [RetryAfter::Exact, RetryAfter::Seconds, RetryAfter::Absent]
            .map(|how| (how.told(wait).map(|told| told.as_millis()), how.lines(wait)))
            .to_vec();
        let line = |name, value: &str| (name, value.to_owned());
        assert_eq!(
            told,
            [
                (Some(1_201), vec![line("retry-after", "2"), line("retry-after-ms", "1201")]),
                (Some(2_000), vec![line("retry-after", "2")]),
                (None, vec![]),
            ]
        );
    }
}
