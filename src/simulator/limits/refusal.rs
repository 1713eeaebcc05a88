//! A call that may not go now, and what a 429 says of it.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use super::Limits;
use super::told::{HeaderStyle, Headers, Reading, go_duration, whole_seconds};

/// What ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Scarce {
    /// Requests per second or minute.
    Requests,
    /// Requests, by the counter of which no header speaks.
    HiddenRequests,
    /// Tokens per minute.
    Tokens,
    /// Nothing but patience: traffic grew too fast.
    Acceleration,
    /// Places in flight.
    Concurrency,
}

/// A call that may not go now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    /// What ran out; of several the one that keeps the call away longest.
    pub scarce: Scarce,
    /// How long until this very call would be let in, to the nanosecond, if nothing else comes before it; `None` when nobody
    /// knows (concurrency) or it never would. The truth: what the caller is told is in [`Refusal::told`].
    pub wait: Option<Duration>,
    /// The tokens the call would have been charged.
    pub tokens: u64,
    /// Where the limit in question stands behind the refusal, where it is a rate.
    pub reading: Option<Reading>,
}

impl Refusal {
    /// How long the caller is told to wait. Nobody is told the time of a place in flight, nor how long to slow down.
    pub fn told(&self, limits: &Limits) -> Option<Duration> {
        self.may_tell().and_then(|wait| limits.retry_after.told(wait))
    }

    /// The header lines of the 429 that say when to come back; those that say where limits stand are the meter's.
    pub fn headers(&self, limits: &Limits) -> Headers {
        self.may_tell().map(|wait| limits.retry_after.lines(wait)).unwrap_or_default()
    }

    fn may_tell(&self) -> Option<Duration> {
        self.wait.filter(|_| self.scarce != Scarce::Acceleration)
    }

    /// The body of the 429, in the provider's words.
    pub fn body(&self, limits: &Limits, model: &str) -> Value {
        let again = self.told(limits);
        let (message, kind, code) = match self.scarce {
            Scarce::Acceleration => {
                let message = "Slow down: your request rate rose too fast. Reduce it to its original level, keep it there \
                               for at least 15 minutes, and then increase it gradually.";
                (message.to_owned(), "rate_limit_error", "slow_down")
            }
            Scarce::Concurrency => {
                (format!("Too many concurrent requests for {model}."), "requests", "rate_limit_exceeded")
            }
            scarce => {
                let (what, requested) =
                    if scarce == Scarce::Tokens { ("tokens", self.tokens) } else { ("requests", 1) };
                if limits.headers == HeaderStyle::Azure && self.wait.is_some() {
                    return azure(what, again);
                }
                (self.openai(model, what, requested, again), what, "rate_limit_exceeded")
            }
        };
        json!({"error": {"message": message, "type": kind, "param": null, "code": code}})
    }

    /// What OpenAI says of a rate.
    fn openai(&self, model: &str, what: &str, requested: u64, again: Option<Duration>) -> String {
        let per = self.reading.and_then(|reading| period(&reading));
        let (limit, used) = self.reading.map_or((0, 0), |reading| (reading.limit, reading.used()));
        if self.wait.is_none() {
            return format!(
                "Request too large for {model} on {what}{}: Limit {limit}, Requested {requested}. The input or output \
                 tokens must be reduced in order to run successfully.",
                per.unwrap_or_default()
            );
        }
        let figures = per.map(|per| format!("{per}: Limit {limit}, Used {used}, Requested {requested}"));
        let again = again.map(|told| format!(" Please try again in {}.", go_duration(told)));
        let (figures, again) = (figures.unwrap_or_default(), again.unwrap_or_default());
        format!("Rate limit reached for {model} on {what}{figures}.{again}")
    }
}

/// What Azure says of a rate.
fn azure(what: &str, again: Option<Duration>) -> Value {
    let limit = if what == "tokens" { "token" } else { "call" };
    let again = again.map(|told| format!(" Please retry after {} seconds.", whole_seconds(told)));
    let message = format!(
        "Requests to the ChatCompletions_Create Operation under Azure OpenAI API version 2024-10-21 have exceeded {limit} \
         rate limit of your current OpenAI S0 pricing tier.{}",
        again.unwrap_or_default()
    );
    json!({"error": {"code": "429", "message": message}})
}

/// How OpenAI names a limit's period. There is no name for windows of other lengths, nor for what nobody shall know: their
/// figures are left out.
fn period(reading: &Reading) -> Option<&'static str> {
    Some(match (reading.scarce, reading.period.as_secs(), reading.period.subsec_nanos()) {
        (Scarce::Requests, 1, 0) => " per sec",
        (Scarce::Requests, 60, 0) => " per min (RPM)",
        (Scarce::Requests, 86_400, 0) => " per day (RPD)",
        (Scarce::Tokens, 60, 0) => " per min (TPM)",
        (Scarce::Tokens, 86_400, 0) => " per day (TPD)",
        _ => return None,
    })
}
