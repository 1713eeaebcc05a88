//! A bucket that refills all the time.
//!
//! It is kept as the moment at which it will be full again (the "theoretical arrival time" of GCRA), in whole nanoseconds,
//! so that a promised `Retry-After` is exact: a call at that moment is granted, one a nanosecond sooner is not.

use std::time::Duration;

use super::rate::Rate;
use crate::clock::Instant;

#[derive(Clone, Debug)]
pub(super) struct Bucket {
    rate: Rate,
    /// The time it takes to fill, in nanoseconds.
    depth: u128,
    /// When it is full again; in the past: it is full.
    full_at: Instant,
}

impl Bucket {
    /// A full one.
    pub(super) fn new(rate: Rate, burst: Duration, now: Instant) -> Self {
        Self { rate, depth: rate.depth(burst), full_at: now }
    }

    fn debt(&self, now: Instant) -> u128 {
        self.reset(now).as_nanos()
    }

    /// How long until `cost` fits; zero is now, `None` never.
    pub(super) fn wait(&self, cost: u64, now: Instant) -> Option<Duration> {
        let price = self.rate.price(cost);
        if price > self.depth {
            return None;
        }
        Some(nanos((self.debt(now) + price).saturating_sub(self.depth)))
    }

    /// Takes `cost`; what is not there cannot be taken: no bucket is emptier than empty.
    pub(super) fn take(&mut self, cost: u64, now: Instant) {
        self.full_at = now + nanos((self.debt(now) + self.rate.price(cost)).min(self.depth));
    }

    pub(super) fn remaining(&self, now: Instant) -> u64 {
        self.rate.worth(self.depth.saturating_sub(self.debt(now)))
    }

    /// Until it is full.
    pub(super) fn reset(&self, now: Instant) -> Duration {
        self.full_at.saturating_duration_since(now)
    }

    /// Another rate, from now on. The bucket stays as full as it was, in parts of the whole, and so is full at the same moment
    /// as before unless its depth changes.
    pub(super) fn set(&mut self, rate: Rate, burst: Duration, now: Instant) {
        let depth = rate.depth(burst);
        if depth != self.depth {
            self.full_at = now + nanos(self.debt(now) * depth / self.depth.max(1));
        }
        (self.rate, self.depth) = (rate, depth);
    }
}

fn nanos(nanos: u128) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}
