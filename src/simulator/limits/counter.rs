//! One rate, counted in whichever way, with the account of what it granted.

use std::time::Duration;

use serde::Serialize;

use super::bucket::Bucket;
use super::log::Log;
use super::rate::{Counting, Rate, as_seconds};
use super::refusal::Scarce;
use super::told::Reading;
use super::window::Window;
use crate::clock::{Dice, Instant};

#[derive(Clone, Debug)]
enum Kind {
    Bucket(Bucket),
    Log(Log),
    Window(Window),
}

impl Kind {
    fn new(rate: &Rate, dice: &mut Dice, now: Instant) -> Self {
        match rate.counting {
            Counting::Bucket { burst } => Kind::Bucket(Bucket::new(*rate, burst, now)),
            Counting::Sliding => Kind::Log(Log::new(rate.capacity(), rate.per)),
            Counting::Fixed { window } => Kind::Window(Window::new(rate.capacity(), window, dice.up_to(window), now)),
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Counter {
    scarce: Scarce,
    rate: Rate,
    kind: Kind,
    /// What calls were granted; what refused calls cost is not in it.
    granted: u64,
    /// When it began.
    start: Instant,
    /// What it offered until `rate` came into force.
    offered: f64,
    /// When `rate` came into force.
    since: Instant,
}

impl Counter {
    /// `dice` decides where fixed windows begin.
    pub(super) fn new(scarce: Scarce, rate: Rate, dice: &mut Dice, now: Instant) -> Self {
        Self { scarce, rate, kind: Kind::new(&rate, dice, now), granted: 0, start: now, offered: 0.0, since: now }
    }

    pub(super) fn scarce(&self) -> Scarce {
        self.scarce
    }

    /// How long until `cost` fits; zero is now, `None` never. Once it fits it fits until something is taken.
    pub(super) fn wait(&self, cost: u64, now: Instant) -> Option<Duration> {
        match &self.kind {
            Kind::Bucket(bucket) => bucket.wait(cost, now),
            Kind::Log(log) => log.wait(cost, now),
            Kind::Window(window) => window.wait(cost, now),
        }
    }

    /// Takes what a call needs.
    pub(super) fn grant(&mut self, cost: u64, now: Instant) {
        self.granted += cost;
        self.take(cost, now);
    }

    /// Takes what a refused call costs.
    pub(super) fn take(&mut self, cost: u64, now: Instant) {
        match &mut self.kind {
            Kind::Bucket(bucket) => bucket.take(cost, now),
            Kind::Log(log) => log.take(cost, now),
            Kind::Window(window) => window.take(cost, now),
        }
    }

    pub(super) fn reading(&self, now: Instant) -> Reading {
        let per = self.rate.per;
        let (period, remaining, reset) = match &self.kind {
            Kind::Bucket(bucket) => (per, bucket.remaining(now), bucket.reset(now)),
            Kind::Log(log) => (per, log.remaining(now), log.reset(now)),
            Kind::Window(window) => (window.length(), window.remaining(now), window.reset(now)),
        };
        Reading { scarce: self.scarce, period, limit: self.rate.capacity(), remaining, reset }
    }

    /// Another rate from now on: a bucket stays as full as it was, logs and windows keep what was taken. One that counts in
    /// another way, or in windows of another length, knows nothing of what was.
    pub(super) fn set(&mut self, rate: Rate, dice: &mut Dice, now: Instant) {
        if rate == self.rate {
            return;
        }
        self.offered = self.offered_until(now);
        self.since = now;
        self.rate = rate;
        match (&mut self.kind, rate.counting) {
            (Kind::Bucket(bucket), Counting::Bucket { burst }) => bucket.set(rate, burst, now),
            (Kind::Log(log), Counting::Sliding) => log.set(rate.capacity(), rate.per),
            (Kind::Window(window), Counting::Fixed { window: length }) if window.length() == length => {
                window.set(rate.capacity());
            }
            (kind, _) => *kind = Kind::new(&rate, dice, now),
        }
    }

    fn offered_until(&self, now: Instant) -> f64 {
        self.offered + self.rate.steady_per_second() * now.saturating_duration_since(self.since).as_secs_f64()
    }

    pub(super) fn standing(&self, now: Instant) -> Standing {
        let offered = self.offered_until(now);
        Standing {
            limit: self.scarce,
            rate: self.rate,
            age: now.saturating_duration_since(self.start),
            granted: self.granted,
            offered,
            utilisation: if offered > 0.0 { self.granted as f64 / offered } else { 0.0 },
        }
    }
}

/// How far a limit has been used since the key's first call.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Standing {
    /// Which limit.
    pub limit: Scarce,
    /// Its rate now.
    pub rate: Rate,
    /// How long it has been counting.
    #[serde(rename = "age_seconds", serialize_with = "as_seconds")]
    pub age: Duration,
    /// What calls were granted, in requests or tokens as charged.
    pub granted: u64,
    /// What the rate came to in that time, changes of the rate included, but not what a bucket held at first.
    pub offered: f64,
    /// `granted / offered`. Above 1 for as long as a bucket's first content, or the windows that beginning and end cut, are a
    /// large part of it.
    pub utilisation: f64,
}
