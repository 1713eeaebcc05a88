//! Windows that begin at fixed moments which the caller does not know.

use std::time::Duration;

use crate::clock::Instant;

#[derive(Clone, Debug)]
pub(super) struct Window {
    limit: u64,
    length: Duration,
    /// When the second window begins; all others follow from it. The first began before the counter did.
    second: Instant,
    /// Which window `used` is of.
    current: u128,
    used: u64,
}

impl Window {
    /// The first window ends in `phase`, which is at most `length`.
    pub(super) fn new(limit: u64, length: Duration, phase: Duration, now: Instant) -> Self {
        Self { limit, length, second: now + phase, current: 0, used: 0 }
    }

    fn number(&self, now: Instant) -> u128 {
        match now.checked_duration_since(self.second) {
            Some(since) => 1 + since.as_nanos() / self.length.as_nanos().max(1),
            None => 0,
        }
    }

    fn used(&self, now: Instant) -> u64 {
        if self.number(now) == self.current { self.used } else { 0 }
    }

    /// How long until `cost` fits; zero is now, `None` never.
    pub(super) fn wait(&self, cost: u64, now: Instant) -> Option<Duration> {
        match (cost > self.limit, self.used(now) + cost.min(self.limit) > self.limit) {
            (true, _) => None,
            (false, true) => Some(self.reset(now)),
            (false, false) => Some(Duration::ZERO),
        }
    }

    pub(super) fn take(&mut self, cost: u64, now: Instant) {
        self.used = self.used(now) + cost;
        self.current = self.number(now);
    }

    pub(super) fn remaining(&self, now: Instant) -> u64 {
        self.limit.saturating_sub(self.used(now))
    }

    /// Until the window ends.
    pub(super) fn reset(&self, now: Instant) -> Duration {
        match now.checked_duration_since(self.second) {
            // What is left of a window is at most its length, which fits again what it came from.
            Some(since) => {
                let into = since.as_nanos() % self.length.as_nanos().max(1);
                self.length - Duration::from_nanos(u64::try_from(into).unwrap_or(0))
            }
            None => self.second - now,
        }
    }

    /// Another limit, from now on. What was taken in this window stays taken.
    pub(super) fn set(&mut self, limit: u64) {
        self.limit = limit;
    }

    pub(super) fn length(&self) -> Duration {
        self.length
    }
}
