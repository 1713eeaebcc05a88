//! What a simulator is told.

use std::time::Duration;

use super::faults::Odds;
use super::limits::Limits;

/// What a [`super::Simulator`] is told. The default has no limits, no faults and no latency.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Settings {
    /// Decides all dice: the same seed and the same order of arrival give the same faults and latencies.
    pub seed: u64,
    /// How probable each fault is.
    pub odds: Odds,
    /// What one API key may do.
    pub limits: Limits,
    /// How the rates of `limits` change while it runs.
    pub changes: Vec<Change>,
    /// What happens to a call beyond `limits.max_concurrent`.
    pub beyond_concurrency: Beyond,
    /// The shortest and the longest time before an answer, uniform between them. A limit's own 429 comes at once.
    pub latency: (Duration, Duration),
    /// In how many pieces the content of a stream comes.
    pub chunks: usize,
    /// The time between two pieces.
    pub chunk_gap: Duration,
    /// The `Retry-After` of the fault `rate-limited`.
    pub retry_after: Duration,
    /// The `Retry-After` of the fault `status-503`, if it has one.
    pub retry_after_503: Option<Duration>,
    /// What `/v1/models` lists; any model is answered.
    pub models: Vec<String>,
}

/// A change of all rates at a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Change {
    /// When, since the simulator was bound.
    pub after: Duration,
    /// What the rates, as they were set, are multiplied by from then on: 0.5 halves them, 1 restores them.
    pub factor: f64,
}

/// What happens to a call beyond the concurrency limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Beyond {
    /// 429, without a time.
    #[default]
    Refuse,
    /// The connection is reset.
    Reset,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            seed: 1,
            odds: Odds::none(),
            limits: Limits::default(),
            changes: Vec::new(),
            beyond_concurrency: Beyond::Refuse,
            latency: (Duration::ZERO, Duration::ZERO),
            chunks: 5,
            chunk_gap: Duration::from_millis(5),
            retry_after: Duration::from_secs(1),
            retry_after_503: None,
            models: ["gpt-4o", "gpt-4o-mini", "text-embedding-3-small", "omni-moderation-latest"]
                .map(str::to_owned)
                .to_vec(),
        }
    }
}

impl Settings {
    /// What is wrong with these settings, if anything.
    pub fn check(&self) -> Result<(), String> {
        self.odds.check()?;
        if self.latency.0 > self.latency.1 {
            return Err(format!(
                "the latency's lower end {:?} is above its upper end {:?}",
                self.latency.0, self.latency.1
            ));
        }
        if !(1..=10_000).contains(&self.chunks) {
            return Err(format!("{} chunks; it must be 1 to 10000", self.chunks));
        }
        self.limits.check()?;
        for Change { after, factor } in &self.changes {
            if !(factor.is_finite() && *factor > 0.0) {
                return Err(format!("the factor {factor} of the limits at {after:?}; it must be above 0"));
            }
            // A rate that is sound now may be more than there can be, or leave a window less than one, later.
            let scaled = self.limits.scaled(*factor);
            scaled.check().map_err(|problem| format!("the limits at {after:?}: {problem}"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulator::{Fault, Rate};

    #[test]
    fn settings_that_cannot_be_are_refused() {
        let broken: [fn(&mut Settings); 5] = [
            |settings| settings.odds.set(Fault::Reset, 1.5),
            |settings| settings.latency = (Duration::from_secs(2), Duration::from_secs(1)),
            |settings| settings.chunks = 0,
            |settings| settings.limits.requests_per_second = Some(Rate::per_second(0)),
            |settings| settings.limits.max_concurrent = Some(0),
        ];
        assert_eq!(Settings::default().check(), Ok(()));
        for spoil in broken {
            let mut settings = Settings::default();
            spoil(&mut settings);
            assert!(settings.check().is_err(), "{settings:?}");
        }
    }
}
