//! All limits of one API key together, and what it has used of them.

use std::time::Duration;

use super::Limits;
use super::counter::{Counter, Standing};
use super::growth::Growth;
use super::refusal::{Refusal, Scarce};
use super::told::{Headers, Reading};
use crate::clock::{Dice, Instant};

/// What one API key has used. Moments must not run backwards.
#[derive(Clone, Debug)]
pub struct Meter {
    limits: Limits,
    /// In the order of [`Limits::rates`].
    counters: [Option<Counter>; 4],
    growth: Option<Growth>,
    in_flight: u32,
    granted: u64,
    refused: u64,
    /// Where the fixed windows begin.
    dice: Dice,
}

impl Meter {
    /// Nothing is used yet. `limits` must be sound ([`Limits::check`]). `seed` decides where fixed windows begin, each for itself.
    pub fn new(limits: &Limits, seed: u64, now: Instant) -> Self {
        let mut meter = Self {
            limits: Limits::default(),
            counters: [const { None }; 4],
            growth: None,
            in_flight: 0,
            granted: 0,
            refused: 0,
            dice: Dice::seeded(seed),
        };
        meter.set(limits, now);
        meter
    }

    /// Other limits from now on. Buckets stay as full as they were, logs, windows and calls in flight are kept; a limit that
    /// is new, or counted in a new way, starts with nothing used.
    pub fn set(&mut self, limits: &Limits, now: Instant) {
        self.limits = *limits;
        for (counter, (scarce, rate)) in self.counters.iter_mut().zip(limits.rates()) {
            match (counter.as_mut(), rate) {
                (Some(counter), Some(rate)) => counter.set(rate, &mut self.dice, now),
                (_, rate) => *counter = rate.map(|rate| Counter::new(scarce, rate, &mut self.dice, now)),
            }
        }
        match (&mut self.growth, limits.acceleration) {
            (Some(growth), Some(rule)) => growth.set(rule),
            (growth, rule) => *growth = rule.map(Growth::new),
        }
    }

    /// The limits in force.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Takes what a call charged with `tokens` needs, or says why not. What is granted is in flight until [`Meter::leave`].
    /// What is refused costs nothing, or one request where `rejects_count`; the wait it is told then comes after that.
    pub fn enter(&mut self, tokens: u64, now: Instant) -> Result<(), Refusal> {
        if self.judge(tokens, now) == Ok(()) {
            for counter in self.counters.iter_mut().flatten() {
                counter.grant(cost(counter.scarce(), tokens), now);
            }
            if let Some(growth) = &mut self.growth {
                growth.grant(now);
            }
            self.granted += 1;
            self.in_flight += 1;
            return Ok(());
        }
        if self.limits.rejects_count {
            let requests = |counter: &&mut Counter| counter.scarce() != Scarce::Tokens;
            self.counters.iter_mut().flatten().filter(requests).for_each(|counter| counter.take(1, now));
        }
        self.refused += 1;
        // A refusal never makes room, so this is one again, with the wait as it is behind the refusal's own cost.
        self.judge(tokens, now)
    }

    fn judge(&mut self, tokens: u64, now: Instant) -> Result<(), Refusal> {
        if self.limits.max_concurrent.is_some_and(|most| self.in_flight >= most) {
            return Err(Refusal { scarce: Scarce::Concurrency, wait: None, tokens, reading: None });
        }
        let waits =
            self.counters.iter().flatten().map(|counter| (counter, counter.wait(cost(counter.scarce(), tokens), now)));
        // Of several waits the longest is the true one; "never" is longer than any.
        let longest = waits.max_by_key(|(_, wait)| wait.unwrap_or(Duration::MAX));
        let refused = longest.filter(|(_, wait)| *wait != Some(Duration::ZERO));
        if let Some((counter, None)) = refused {
            return Err(Refusal { scarce: counter.scarce(), wait: None, tokens, reading: Some(counter.reading(now)) });
        }
        // What fits a counter once keeps fitting it, but memory of busy minutes fades: growth is asked for the moment at
        // which all counters have room.
        let room_at = now + refused.and_then(|(_, wait)| wait).unwrap_or_default();
        let free_at = self.growth.as_mut().map_or(room_at, |growth| growth.free_at(room_at, now));
        let wait = free_at.saturating_duration_since(now);
        match refused {
            _ if wait.is_zero() => Ok(()),
            Some((counter, _)) if free_at == room_at => {
                Err(Refusal { scarce: counter.scarce(), wait: Some(wait), tokens, reading: Some(counter.reading(now)) })
            }
            _ => Err(Refusal { scarce: Scarce::Acceleration, wait: Some(wait), tokens, reading: None }),
        }
    }

    /// A granted call is over.
    pub fn leave(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// Granted calls that are not over.
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Calls granted and refused since the meter began.
    pub fn calls(&self) -> (u64, u64) {
        (self.granted, self.refused)
    }

    /// Where the limits stand that headers speak of: requests first, then tokens. There is one set for requests: the counter
    /// nearer to its end speaks.
    pub fn readings(&self, now: Instant) -> Vec<Reading> {
        let of = |scarce| {
            let counters = self.counters.iter().flatten().filter(move |counter| counter.scarce() == scarce);
            counters.map(|counter| counter.reading(now)).min_by_key(|reading| reading.remaining)
        };
        [Scarce::Requests, Scarce::Tokens].into_iter().filter_map(of).collect()
    }

    /// The header lines that every answer has now.
    pub fn headers(&self, now: Instant) -> Headers {
        self.limits.headers.lines(&self.readings(now))
    }

    /// How far each limit has been used since it began, hidden ones too.
    pub fn standings(&self, now: Instant) -> Vec<Standing> {
        self.counters.iter().flatten().map(|counter| counter.standing(now)).collect()
    }
}

fn cost(scarce: Scarce, tokens: u64) -> u64 {
    if scarce == Scarce::Tokens { tokens } else { 1 }
}
