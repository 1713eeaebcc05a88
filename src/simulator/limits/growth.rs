//! Refuses traffic that grows too fast, although it is within the limits: OpenAI's 429 `slow_down`.

use std::collections::VecDeque;
use std::time::Duration;

use serde::Serialize;

use super::rate::{LONGEST, as_seconds};
use crate::clock::Instant;

/// How fast traffic may grow. A call is refused when the minute that it would end had more requests than `floor` and more than
/// `growth_percent` of the busiest minute in the `memory` before that minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Acceleration {
    /// So many requests in a minute may always be, whatever was before.
    pub floor: u64,
    /// How much more than before may be, in per cent of before: 150 is half as much again.
    pub growth_percent: u32,
    /// The length of a "minute".
    #[serde(rename = "minute_seconds", serialize_with = "as_seconds")]
    pub minute: Duration,
    /// How far back the busiest minute may lie.
    #[serde(rename = "memory_seconds", serialize_with = "as_seconds")]
    pub memory: Duration,
}

impl Acceleration {
    /// Half as much again as in the busiest minute of the fifteen before, once above `floor`.
    pub fn above(floor: u64) -> Self {
        Self { floor, growth_percent: 150, minute: Duration::from_secs(60), memory: Duration::from_secs(900) }
    }

    /// What is wrong with these figures, if anything.
    pub fn check(&self) -> Result<(), String> {
        if self.floor == 0 || self.minute.is_zero() {
            return Err(
                "an acceleration limit needs a floor of at least 1, or no call could ever be the first".to_owned()
            );
        }
        if self.minute > LONGEST || self.memory > LONGEST {
            return Err("an acceleration limit can look back 365 days at most".to_owned());
        }
        Ok(())
    }

    fn most_after(&self, busiest: u64) -> u64 {
        let grown = u128::from(busiest) * u128::from(self.growth_percent) / 100;
        u64::try_from(grown).unwrap_or(u64::MAX).max(self.floor)
    }
}

/// A granted call, and how many the minute had that it ended.
#[derive(Clone, Copy, Debug)]
struct Grant {
    at: Instant,
    minute_had: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Growth {
    rule: Acceleration,
    /// Those of the last minute.
    recent: VecDeque<Grant>,
    /// Of those before, back to the end of memory, the ones that no later one exceeds: the first is the busiest.
    peaks: VecDeque<Grant>,
}

impl Growth {
    pub(super) fn new(rule: Acceleration) -> Self {
        Self { rule, recent: VecDeque::new(), peaks: VecDeque::new() }
    }

    /// Moves what is older than a minute to the past, and forgets what is older than memory.
    fn age(&mut self, now: Instant) {
        while let Some(grant) = self.recent.front().copied().filter(|grant| grant.at + self.rule.minute <= now) {
            self.recent.pop_front();
            while self.peaks.back().is_some_and(|peak| peak.minute_had <= grant.minute_had) {
                self.peaks.pop_back();
            }
            self.peaks.push_back(grant);
        }
        let span = self.rule.minute + self.rule.memory;
        while self.peaks.front().is_some_and(|peak| peak.at + span <= now) {
            self.peaks.pop_front();
        }
    }

    fn has_room(&self) -> bool {
        let busiest = self.peaks.front().map_or(0, |peak| peak.minute_had);
        (self.recent.len() as u64) < self.rule.most_after(busiest)
    }

    /// The first moment, not before `from`, at which one more may go if none goes before. `from` is `now` or later.
    pub(super) fn free_at(&mut self, from: Instant, now: Instant) -> Instant {
        self.age(now);
        if from == now && self.has_room() {
            return now;
        }
        // Room comes only when a call leaves the last minute: it is one fewer there and may be a new peak.
        let mut trial = self.clone();
        let mut at = from;
        trial.age(at);
        while let Some(oldest) = trial.recent.front().filter(|_| !trial.has_room()) {
            at = oldest.at + self.rule.minute;
            trial.age(at);
        }
        at
    }

    pub(super) fn grant(&mut self, now: Instant) {
        self.age(now);
        self.recent.push_back(Grant { at: now, minute_had: self.recent.len() as u64 + 1 });
    }

    pub(super) fn set(&mut self, rule: Acceleration) {
        self.rule = rule;
    }
}
