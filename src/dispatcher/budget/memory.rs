//! What is worth keeping of an account over a restart: one value, of ages and waits in seconds. The status endpoint shows
//! the learned part of it.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::rest::RestMemory;
use super::{Budget, Learned, Rests, Sends};
use crate::clock::{self, Instant};
use crate::dispatcher::budget::sends::Past;
use crate::dispatcher::concurrency;
use crate::dispatcher::groups::Groups;
use crate::messages::LearnedModel;

/// No age and no period is longer: a month, in seconds.
pub(super) const LONGEST_S: f64 = 31.0 * 86_400.0;

/// Nobody's turn is further away.
pub(super) const LONGEST_TURN_S: f64 = 3_600.0;

/// An account as it is remembered.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Memory {
    at_once: concurrency::Learned,
    held_for_s: Option<f64>,
    rests: RestMemory,
    /// What is held against the caps.
    log: Vec<Past>,
    models: Vec<Model>,
}

/// A group of models as it is remembered.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct Model {
    #[serde(flatten)]
    learned: LearnedModel,
    log: Vec<Past>,
}

impl Budget {
    /// What is worth keeping. What is in flight is not: no answer will come to it.
    pub(crate) fn remember(&self, groups: &Groups, now: Instant) -> Memory {
        let names = groups.names();
        let model = |(group, learned): (_, &Learned)| {
            let model = names.get(group)?.map(str::to_owned);
            Some(Model { learned: learned.remember(model, now), log: learned.log(now) })
        };
        let ahead = |at: Option<Instant>| at.filter(|at| *at > now).map(|at| away(now, at));
        Memory {
            at_once: self.concurrency.remember(now),
            held_for_s: ahead(self.held_until),
            rests: self.rests.remember(now),
            log: self.sends.remember(now),
            models: self.groups.iter().filter_map(model).collect(),
        }
    }

    /// Takes up what was remembered by an account of the same key. Nonsense is bounded or left out, not believed.
    pub(crate) fn recall(&mut self, memory: &Memory, groups: &mut Groups, now: Instant) {
        self.concurrency.recall(memory.at_once, now);
        self.sends = Sends::recall(&memory.log, now);
        let caps = self.cap_rates();
        for Model { learned, log } in &memory.models {
            let mut recalled = Learned::recall(learned, log, now);
            recalled.forget_other_caps(caps);
            self.groups.insert(groups.of(learned.model.as_deref()), recalled);
        }
        self.rests = Rests::recall(memory.rests, now);
        if let Some(held) = memory.held_for_s {
            self.hold(now, ahead(now, sane(held, 0.0..=LONGEST_S, 0.0)));
        }
    }
}

/// `value` within `range`; `otherwise` when it is no number.
pub(super) fn sane(value: f64, range: RangeInclusive<f64>, otherwise: f64) -> f64 {
    if value.is_nan() { otherwise } else { value.clamp(*range.start(), *range.end()) }
}

/// So many seconds, [`LONGEST_S`] at most.
pub(super) fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(sane(seconds, 0.0..=LONGEST_S, 0.0))
}

/// So many seconds before `now`.
pub(super) fn ago(now: Instant, s: f64) -> Instant {
    clock::before(now, seconds(s))
}

/// So many seconds behind `now`.
pub(super) fn ahead(now: Instant, s: f64) -> Instant {
    clock::after(now, seconds(s))
}

/// How many seconds `to` lies behind `from`; negative when before it.
pub(super) fn away(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64() - from.saturating_duration_since(to).as_secs_f64()
}

#[cfg(test)]
mod tests;
