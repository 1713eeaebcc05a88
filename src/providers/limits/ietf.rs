//! The IETF's `RateLimit` and `RateLimit-Policy`, in the forms of the draft's several years.
//!
//! Until 2023 `RateLimit: limit=100, remaining=50, reset=5` and `RateLimit-Policy: 100;w=60`; since then
//! `RateLimit: "default";r=50;t=5` and `RateLimit-Policy: "default";q=100;w=60`.

use std::time::Duration;

use super::{add, count};
use crate::messages::{BudgetReading, Dimension, LimitReport, Period, Reset, Scope};
use crate::providers::waits;

const SECOND: Duration = Duration::from_secs(1);

/// Adds what the two headers say, either of which may be absent.
pub(super) fn read(limits: Option<&str>, policies: Option<&str>, report: &mut LimitReport) {
    let Some(limits) = limits else {
        for policy in split(policies.unwrap_or_default(), ',') {
            add(report, policy_alone(policy));
        }
        return;
    };
    let policies = || split(policies.unwrap_or_default(), ',');
    let (mut limit, mut remaining, mut reset) = (None, None, None);
    for item in split(limits, ',') {
        let name = head(item);
        match name.split_once('=') {
            Some(("limit", value)) => limit = Some(value),
            Some(("remaining", value)) => remaining = Some(value),
            Some(("reset", value)) => reset = Some(value),
            Some(_) => {}
            None => {
                let policy = policies().find(|policy| head(policy) == name).map(policy_alone);
                let mut reading = policy.unwrap_or(Some(requests(None)));
                if let Some(reading) = &mut reading {
                    reading.remaining = param(item, "r").and_then(natural);
                    reading.reset = param(item, "t").and_then(in_seconds);
                }
                add(report, reading);
            }
        }
    }
    let policy = policies().find(|policy| limit.is_none_or(|limit| head(policy) == limit));
    let mut reading = requests(policy.and_then(|policy| param(policy, "w")).and_then(window));
    reading.limit = limit.and_then(natural);
    reading.remaining = remaining.and_then(natural);
    reading.reset = reset.and_then(in_seconds);
    add(report, Some(reading));
}

/// What a policy says by itself; `None` when it counts what is not counted here.
fn policy_alone(policy: &str) -> Option<BudgetReading> {
    let mut reading = requests(param(policy, "w").and_then(window));
    match param(policy, "qu").map(unquoted) {
        None | Some("requests") => {}
        Some("tokens") => reading.dimension = Dimension::Tokens,
        Some(_) => return None,
    }
    reading.limit = natural(param(policy, "q").unwrap_or(head(policy)));
    Some(reading)
}

fn requests(period: Option<Period>) -> BudgetReading {
    BudgetReading::new(Dimension::Requests, Scope::Whole, period)
}

fn natural(text: &str) -> Option<u64> {
    u64::try_from(count(text)?).ok()
}

fn window(text: &str) -> Option<Period> {
    waits::plain(text, SECOND).filter(|length| !length.is_zero()).map(Period)
}

fn in_seconds(text: &str) -> Option<Reset> {
    waits::plain(text, SECOND).map(|after| Reset { after, grain: SECOND })
}

/// What stands before an item's parameters.
fn head(item: &str) -> &str {
    split(item, ';').next().unwrap_or_default()
}

/// The value of an item's parameter.
fn param<'a>(item: &'a str, name: &str) -> Option<&'a str> {
    split(item, ';').skip(1).find_map(|param| param.strip_prefix(name)?.trim_ascii_start().strip_prefix('='))
}

fn unquoted(text: &str) -> &str {
    text.trim_ascii().trim_matches('"')
}

/// The parts of `text` between `mark`s that stand outside of quotes, trimmed.
fn split(text: &str, mark: char) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |char: char| {
        let is_mark = char == mark && !quoted;
        if char == '"' && !escaped {
            quoted = !quoted;
        }
        escaped = char == '\\' && !escaped;
        is_mark
    })
    .map(str::trim_ascii)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Readings as `limit/remaining per period, reset` in seconds.
    fn said(limits: Option<&str>, policies: Option<&str>) -> Vec<String> {
        let mut report = LimitReport::default();
        read(limits, policies, &mut report);
        let number = |number: Option<u64>| number.map_or("?".to_owned(), |number| number.to_string());
        let words = |reading: &BudgetReading| {
            let period = reading.period.map_or("?".to_owned(), |period| period.to_string());
            let reset = number(reading.reset.map(|reset| reset.after.as_secs()));
            let (limit, remaining) = (number(reading.limit), number(reading.remaining));
            format!("{limit}/{remaining} {} per {period}, {reset}", reading.dimension)
        };
        report.budgets.iter().map(words).collect()
    }

    #[test]
    fn every_form_of_the_draft_is_read() {
        for (limits, policies, expected) in [
            (Some("limit=100, remaining=50, reset=5"), None, vec!["100/50 requests per ?, 5"]),
            (Some("limit=100, remaining=50, reset=5"), Some("10;w=1, 100;w=60"), vec!["100/50 requests per minute, 5"]),
            (Some("remaining=50"), Some("100;w=60"), vec!["?/50 requests per minute, ?"]),
            (Some(r#""default";r=50;t=30"#), None, vec!["?/50 requests per ?, 30"]),
            (
                Some(r#""burst";r=5;t=1, "a,b;c";r=900; t=3000"#),
                Some(r#""burst";q=10;w=10,"a,b;c";q=1000;w=3600"#),
                vec!["10/5 requests per 10 s, 1", "1000/900 requests per hour, 3000"],
            ),
            (
                Some(r#""tpm";r=7;t=2, "size";r=1"#),
                Some(r#""tpm";q=9;qu="tokens";w=60, "size";q=5;qu="content-bytes""#),
                vec!["9/7 tokens per minute, 2"],
            ),
            (None, Some("5;w=1, 0;w=60, x"), vec!["5/? requests per second, ?"]),
            (Some(r#"";r=5"#), None, vec![]),
            (Some("limit=0, remaining=0, reset=1"), None, vec![]),
            (Some("limit=, remaining=é"), Some(";;;"), vec![]),
        ] {
            assert_eq!(said(limits, policies), expected, "{limits:?} {policies:?}");
        }
    }
}
