//! What the provider last said of budgets that cannot be reckoned with, since it did not say all of it (their limit, or
//! what is left): to explain why a call waits.

use std::time::Duration;

use super::cap::MINUTE;
use crate::clock::Instant;
use crate::dispatcher::lane::seconds;
use crate::messages::{BudgetReading, LimitReport};

/// The most budgets kept of one account: providers have four, and what names more of them is hostile.
const KEPT: usize = 16;

#[derive(Clone, Copy, Debug)]
struct Known {
    /// When the attempt started whose response it was: responses overtake each other, and the later attempt knows more.
    sent: Instant,
    at: Instant,
    reading: BudgetReading,
}

impl Known {
    /// How long the reading still holds: until its budget is whole again.
    fn left(&self, now: Instant) -> Option<Duration> {
        let period = || self.reading.period.map_or(MINUTE, |period| period.0);
        let holds = self.reading.reset.map_or_else(period, |reset| reset.after);
        holds.checked_sub(now.saturating_duration_since(self.at)).filter(|left| !left.is_zero())
    }

    /// What is left, as far as it compares: nothing, something, nobody knows.
    fn rank(&self) -> u64 {
        self.reading.remaining.unwrap_or(u64::MAX)
    }

    fn in_words(&self, left: Duration) -> String {
        let BudgetReading { dimension, period, limit, remaining, reset, .. } = self.reading;
        let per = period.map_or(String::new(), |period| format!(" per {period}"));
        let what = match remaining {
            Some(remaining) => format!("{remaining} {dimension}{per} left"),
            None => format!("at most {} {dimension}{per}", limit.unwrap_or_default()),
        };
        if reset.is_some() { format!("{what}, resets in {}", seconds(left)) } else { what }
    }
}

/// The newest reading of each budget.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reported(Vec<Known>);

impl Reported {
    /// A response came `at` of an attempt that was `sent` then.
    pub(crate) fn note(&mut self, report: &LimitReport, sent: Instant, at: Instant) {
        for reading in report.budgets.iter().filter(|reading| reading.limit.is_none() || reading.remaining.is_none()) {
            let fresh = Known { sent, at, reading: *reading };
            match self.0.iter_mut().find(|known| known.reading.is_of_same_budget(reading)) {
                Some(known) if known.sent > sent => {}
                Some(known) => *known = fresh,
                None => {
                    if self.0.len() == KEPT {
                        self.0.remove(0);
                    }
                    self.0.push(fresh);
                }
            }
        }
    }

    /// The scarcest budget of which a reading still holds, in words.
    pub(crate) fn in_words(&self, now: Instant) -> Option<String> {
        let holding = self.0.iter().filter_map(|known| Some((known, known.left(now)?)));
        let (known, left) = holding.min_by_key(|(known, _)| known.rank())?;
        Some(known.in_words(left))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::messages::{Dimension, Period, Reset, Scope};

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn left(dimension: Dimension, remaining: u64, reset: u64) -> BudgetReading {
        let mut reading = BudgetReading::new(dimension, Scope::Whole, None);
        reading.remaining = Some(remaining);
        reading.reset = Some(Reset { after: s(reset), grain: s(1) });
        reading
    }

    fn report(budgets: &[BudgetReading]) -> LimitReport {
        LimitReport { budgets: budgets.to_vec(), cost: None }
    }

    #[test]
    fn the_budget_of_which_least_is_left_is_named_until_it_is_whole_again() {
        let now = clock::now();
        let mut reported = Reported::default();
        assert_eq!(reported.in_words(now), None);
        reported.note(&report(&[left(Dimension::Requests, 12, 3), left(Dimension::Tokens, 29_000, 9)]), now, now);
        let words = |after| reported.in_words(now + after);
        assert_eq!(words(s(0)).as_deref(), Some("12 requests left, resets in 3.0 s"));
        assert_eq!(words(s(1)).as_deref(), Some("12 requests left, resets in 2.0 s"));
        assert_eq!(words(s(3)).as_deref(), Some("29000 tokens left, resets in 6.0 s"));
        assert_eq!(words(s(9)), None);
    }

    #[test]
    fn a_response_that_was_overtaken_says_nothing_new() {
        let now = clock::now();
        let mut reported = Reported::default();
        reported.note(&report(&[left(Dimension::Requests, 5, 30)]), now + s(2), now + s(3));
        reported.note(&report(&[left(Dimension::Requests, 9, 30)]), now + s(1), now + s(4));
        assert_eq!(reported.in_words(now + s(4)).as_deref(), Some("5 requests left, resets in 29.0 s"));
        reported.note(&report(&[left(Dimension::Requests, 4, 30)]), now + s(4), now + s(5));
        assert_eq!(reported.in_words(now + s(5)).as_deref(), Some("4 requests left, resets in 30.0 s"));
    }

    #[test]
    fn a_reading_without_a_reset_holds_for_its_period() {
        let now = clock::now();
        let mut reported = Reported::default();
        let mut told = BudgetReading::new(Dimension::Tokens, Scope::Whole, Some(Period::MINUTE));
        told.limit = Some(30_000);
        reported.note(&report(&[told]), now, now);
        assert_eq!(reported.in_words(now + s(59)).as_deref(), Some("at most 30000 tokens per minute"));
        assert_eq!(reported.in_words(now + s(60)), None);
    }

    #[test]
    fn what_is_said_in_full_is_the_models_to_tell() {
        let now = clock::now();
        let mut reported = Reported::default();
        let mut whole = left(Dimension::Requests, 5, 30);
        whole.limit = Some(500);
        reported.note(&report(&[whole]), now, now);
        assert_eq!(reported.in_words(now), None);
    }

    #[test]
    fn ever_new_budgets_do_not_fill_the_memory() {
        let now = clock::now();
        let mut reported = Reported::default();
        for n in 1..1_000 {
            let mut odd = left(Dimension::Requests, n, 60);
            odd.period = Some(Period(s(n)));
            reported.note(&report(&[odd]), now, now);
        }
        assert_eq!(reported.0.len(), KEPT);
        assert_eq!(reported.0[KEPT - 1].reading.remaining, Some(999));
    }
}
