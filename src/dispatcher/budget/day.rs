//! A day's quota that is used up: its models' calls wait for its end. Other models have quotas of their own.

use std::time::Duration;

use super::refusals::SCOUTS_FOR;
use super::wait::Wait;
use crate::clock::Instant;
use crate::dispatcher::retry::named_wait;
use crate::messages::{BudgetReading, Failure, Period};

/// Where nobody says when the quota comes back, it is tried again after this.
const UNTOLD: Duration = Duration::from_secs(3_600);

/// How long the quota is used up by the refusal's own word: the time that it names, or when what is used up is reset.
pub(super) fn used_up_for(failure: &Failure) -> Duration {
    let is_of_day = |reading: &&BudgetReading| reading.period == Some(Period::DAY);
    let is_used_up = |reading: &&BudgetReading| reading.remaining == Some(0);
    let budgets = &failure.limits.budgets;
    let reading = budgets.iter().find(is_of_day).or_else(|| budgets.iter().find(is_used_up));
    let reset = || Some(reading?.reset?).map(|reset| reset.after + reset.grain).filter(|after| !after.is_zero());
    named_wait(failure).or_else(reset).unwrap_or(UNTOLD)
}

#[derive(Debug)]
pub(super) struct UsedUp {
    pub(super) until: Instant,
    /// When the first call behind it went: it may be used up still.
    tried: Option<Instant>,
}

impl UsedUp {
    pub(super) fn new(until: Instant) -> Self {
        Self { until, tried: None }
    }

    /// When a call may go, and what keeps it until then.
    pub(super) fn ready_at(&self, now: Instant) -> Option<(Instant, Wait)> {
        if self.until > now {
            return Some((self.until, Wait::DayUsedUp));
        }
        // One goes ahead, and the others see how it fares.
        let until = self.tried? + SCOUTS_FOR;
        (until > now).then_some((until, Wait::Ramp))
    }

    /// A call goes.
    pub(super) fn goes(&mut self, now: Instant) {
        self.tried.get_or_insert(now);
    }
}
