//! What real providers do to who calls too often: pure models of their limiters. Time and dice are parameters.
//!
//! | file | what |
//! |---|---|
//! | `rate` | so much in so long, and how that is counted: [`Rate`], [`Counting`] |
//! | `bucket`, `log`, `window` | the three ways of counting |
//! | `counter` | any of them, with the account of what it granted |
//! | `growth` | refuses what is within the limits but has grown too fast: [`Acceleration`] |
//! | `workers` | refuses nothing and gets slower: so many at a time, the others in line: [`Workers`] |
//! | `charge` | how many tokens a call is charged: [`Charge`] |
//! | `meter` | all limits of one API key together: [`Meter`] |
//! | `refusal` | a call that may not go now, and what a 429 says of it: [`Refusal`] |
//! | `told` | what headers say: [`Reading`], [`HeaderStyle`], [`RetryAfter`] |
//!
//! A simulation of its own drives them in virtual time:
//!
//! ```
//! use std::time::Duration;
//! use forebay::clock;
//! use forebay::simulator::limits::{Limits, Meter, Rate};
//!
//! let mut limits = Limits::default();
//! limits.requests_per_minute = Some(Rate::per_minute(2).sliding());
//! let start = clock::now();
//! let mut meter = Meter::new(&limits, 1, start);
//! assert!(meter.enter(0, start).is_ok() && meter.enter(0, start).is_ok());
//! let refusal = meter.enter(0, start).unwrap_err();
//! assert_eq!(refusal.wait, Some(Duration::from_secs(60)));
//! assert!(meter.enter(0, start + Duration::from_secs(60)).is_ok());
//! ```

mod bucket;
mod charge;
mod counter;
mod growth;
mod log;
mod meter;
mod rate;
mod refusal;
mod told;
mod window;
mod workers;

use serde::Serialize;

pub use charge::Charge;
pub use counter::Standing;
pub use growth::Acceleration;
pub use meter::Meter;
pub use rate::{Counting, Rate};
pub use refusal::{Refusal, Scarce};
pub use told::{HeaderStyle, Headers, Reading, RetryAfter};
pub use workers::Workers;

/// What one API key may do, and what it is told of that. The default limits nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Limits {
    /// Requests in a short period.
    pub requests_per_second: Option<Rate>,
    /// Requests in a long one; both apply where both are given.
    pub requests_per_minute: Option<Rate>,
    /// Requests once more, by a counter of which no header speaks: "60 a minute may be enforced as one a second".
    pub hidden_requests: Option<Rate>,
    /// Tokens, charged as `charge` says.
    pub tokens_per_minute: Option<Rate>,
    /// What a call is charged in tokens.
    pub charge: Charge,
    /// Whether a refused call costs a request all the same, as at OpenAI.
    pub rejects_count: bool,
    /// Refuses traffic that grows too fast, although it is within the limits.
    pub acceleration: Option<Acceleration>,
    /// Calls in flight; one more is refused, and nobody says when a place will be free.
    pub max_concurrent: Option<u32>,
    /// Calls worked on at a time; the others wait in a line without end and are answered late instead of never. A [`Meter`]
    /// refuses nothing for it: the line is [`Workers`].
    pub workers: Option<u32>,
    /// Whether and how headers tell where the limits stand.
    pub headers: HeaderStyle,
    /// Whether and how a 429 says when to come back.
    pub retry_after: RetryAfter,
}

impl Limits {
    /// All rates, with what each runs out of. Their order is that of the counters in a [`Meter`].
    pub(super) fn rates(&self) -> [(Scarce, Option<Rate>); 4] {
        [
            (Scarce::Requests, self.requests_per_second),
            (Scarce::Requests, self.requests_per_minute),
            (Scarce::HiddenRequests, self.hidden_requests),
            (Scarce::Tokens, self.tokens_per_minute),
        ]
    }

    /// The same with every rate multiplied by `factor`: a provider that halves its limits, or restores them. How many at once
    /// stays as it is.
    #[must_use]
    pub fn scaled(&self, factor: f64) -> Self {
        let scaled = |rate: Option<Rate>| rate.map(|rate| rate.scaled(factor));
        Self {
            requests_per_second: scaled(self.requests_per_second),
            requests_per_minute: scaled(self.requests_per_minute),
            hidden_requests: scaled(self.hidden_requests),
            tokens_per_minute: scaled(self.tokens_per_minute),
            ..*self
        }
    }

    /// What is wrong with these limits, if anything.
    pub fn check(&self) -> Result<(), String> {
        for (_, rate) in self.rates() {
            rate.map_or(Ok(()), |rate| rate.check())?;
        }
        if self.max_concurrent == Some(0) || self.workers == Some(0) {
            return Err("a limit must be 1 to 1000000000; leave it out for none".to_owned());
        }
        self.acceleration.map_or(Ok(()), |acceleration| acceleration.check())
    }
}

#[cfg(test)]
mod tests;
