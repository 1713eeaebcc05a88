//! A key that rests: the upstream does not take it, or its account has no money. No waiting call mends that, an operator
//! does; so its calls are told at once, and it is tried again now and then.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::memory::seconds;
use crate::clock::Instant;

/// How long a key rests at first, and at most.
pub(super) const REST: Duration = Duration::from_secs(60);
const LONGEST_REST: Duration = Duration::from_secs(3_600);

/// Why a key rests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Rest {
    /// The upstream does not accept it.
    Refused,
    /// Credit or a spending limit is used up.
    NoMoney,
}

impl fmt::Display for Rest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Rest::Refused => "the key was refused",
            Rest::NoMoney => "the account is out of credit or has reached its spending limit",
        })
    }
}

#[derive(Debug)]
pub(super) struct Rests {
    current: Option<(Instant, Rest)>,
    next: Duration,
}

impl Default for Rests {
    fn default() -> Self {
        Self { current: None, next: REST }
    }
}

/// As it is remembered.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct RestMemory {
    rests_for_s: Option<f64>,
    is_for_money: bool,
    /// How long it rests the next time.
    next_s: f64,
}

impl RestMemory {
    #[cfg(test)]
    pub(super) fn new(rests_for_s: Option<f64>, next_s: f64) -> Self {
        Self { rests_for_s, is_for_money: false, next_s }
    }
}

impl Rests {
    pub(super) fn remember(&self, now: Instant) -> RestMemory {
        let current = self.at(now);
        RestMemory {
            rests_for_s: current.map(|(until, _)| (until - now).as_secs_f64()),
            is_for_money: matches!(current, Some((_, Rest::NoMoney))),
            next_s: self.next.as_secs_f64(),
        }
    }

    /// Takes up what was remembered. Nonsense is bounded.
    pub(super) fn recall(kept: RestMemory, now: Instant) -> Self {
        let why = if kept.is_for_money { Rest::NoMoney } else { Rest::Refused };
        let current = kept.rests_for_s.map(|rests| (now + seconds(rests).min(LONGEST_REST), why));
        Self { current, next: seconds(kept.next_s).clamp(REST, LONGEST_REST) }
    }

    /// The key is to rest, each time twice as long. Gives how long where the rest begins now: what was under way at its
    /// beginning does not prolong it.
    pub(super) fn begin(&mut self, why: Rest, now: Instant) -> Option<Duration> {
        if self.at(now).is_some() {
            return None;
        }
        let length = self.next;
        self.next = (length * 2).min(LONGEST_REST);
        self.current = Some((now + length, why));
        Some(length)
    }

    /// Until when it rests, and why.
    pub(super) fn at(&self, now: Instant) -> Option<(Instant, Rest)> {
        self.current.filter(|(until, _)| *until > now)
    }

    /// The upstream has answered a call. What it took on while there was money says nothing of whether there is some now.
    pub(super) fn heard(&mut self, now: Instant) {
        if !matches!(self.at(now), Some((_, Rest::NoMoney))) {
            *self = Self::default();
        }
    }
}
