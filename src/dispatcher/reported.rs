//! What the provider last said of an account's budgets, one reading each, to explain why a call waits.

use std::time::Duration;

use super::lane::seconds;
use super::window::MINUTE;
use crate::clock::Instant;
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

    /// The share that is left of the limit; of one that is not known in full, as if all were.
    fn share(&self) -> f64 {
        match (self.reading.remaining, self.reading.limit) {
            (Some(remaining), Some(limit)) => remaining as f64 / limit as f64,
            (Some(0), None) => 0.0,
            _ => 1.0,
        }
    }

    fn in_words(&self, left: Duration) -> String {
        let BudgetReading { dimension, period, limit, remaining, reset, .. } = self.reading;
        let per = period.map_or(String::new(), |period| format!(" per {period}"));
        let what = match (remaining, limit) {
            (Some(remaining), Some(limit)) => format!("{remaining} of {limit} {dimension}{per} left"),
            (Some(remaining), None) => format!("{remaining} {dimension}{per} left"),
            (None, limit) => format!("at most {} {dimension}{per}", limit.unwrap_or_default()),
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
        for reading in &report.budgets {
            let mut fresh = Known { sent, at, reading: *reading };
            match self.0.iter_mut().find(|known| known.reading.is_of_same_budget(reading)) {
                Some(known) if known.sent > sent => {}
                Some(known) => {
                    // A sentence may have named the period, which headers go on to leave out.
                    fresh.reading.period = reading.period.or(known.reading.period);
                    *known = fresh;
                }
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
        let (known, left) = holding.min_by(|(one, _), (other, _)| one.share().total_cmp(&other.share()))?;
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

    fn reading(dimension: Dimension, remaining: u64, limit: u64, reset: u64) -> BudgetReading {
        let mut reading = BudgetReading::new(dimension, Scope::Whole, None);
        (reading.remaining, reading.limit) = (Some(remaining), Some(limit));
        reading.reset = Some(Reset { after: s(reset), grain: s(1) });
        reading
    }

    fn report(budgets: &[BudgetReading]) -> LimitReport {
        LimitReport { budgets: budgets.to_vec(), cost: None }
    }

    #[test]
    fn the_scarcest_budget_is_named_until_it_is_whole_again() {
        let now = clock::now();
        let mut reported = Reported::default();
        assert_eq!(reported.in_words(now), None);
        let budgets = [reading(Dimension::Requests, 12, 500, 3), reading(Dimension::Tokens, 29_000, 30_000, 9)];
        reported.note(&report(&budgets), now, now);
        let words = |after| reported.in_words(now + after);
        assert_eq!(words(s(0)).as_deref(), Some("12 of 500 requests left, resets in 3.0 s"));
        assert_eq!(words(s(1)).as_deref(), Some("12 of 500 requests left, resets in 2.0 s"));
        assert_eq!(words(s(3)).as_deref(), Some("29000 of 30000 tokens left, resets in 6.0 s"));
        assert_eq!(words(s(9)), None);
    }

    #[test]
    fn a_response_that_was_overtaken_says_nothing_new() {
        let now = clock::now();
        let mut reported = Reported::default();
        reported.note(&report(&[reading(Dimension::Requests, 5, 500, 30)]), now + s(2), now + s(3));
        reported.note(&report(&[reading(Dimension::Requests, 9, 500, 30)]), now + s(1), now + s(4));
        assert_eq!(reported.in_words(now + s(4)).as_deref(), Some("5 of 500 requests left, resets in 29.0 s"));
        reported.note(&report(&[reading(Dimension::Requests, 4, 250, 30)]), now + s(4), now + s(5));
        assert_eq!(reported.in_words(now + s(5)).as_deref(), Some("4 of 250 requests left, resets in 30.0 s"));
    }

    #[test]
    fn the_period_that_a_sentence_named_stays_known_and_readings_without_a_reset_hold_for_theirs() {
        let now = clock::now();
        let mut reported = Reported::default();
        let mut told = BudgetReading::new(Dimension::Tokens, Scope::Whole, Some(Period::MINUTE));
        told.limit = Some(30_000);
        reported.note(&report(&[told]), now, now);
        assert_eq!(reported.in_words(now + s(59)).as_deref(), Some("at most 30000 tokens per minute"));
        assert_eq!(reported.in_words(now + s(60)), None);
        reported.note(&report(&[reading(Dimension::Tokens, 10, 30_000, 5)]), now + s(60), now + s(60));
        assert_eq!(
            reported.in_words(now + s(60)).as_deref(),
            Some("10 of 30000 tokens per minute left, resets in 5.0 s")
        );
        assert_eq!(reported.0.len(), 1);
    }

    #[test]
    fn ever_new_budgets_do_not_fill_the_memory() {
        let now = clock::now();
        let mut reported = Reported::default();
        for n in 1..1_000 {
            let mut odd = reading(Dimension::Requests, 1, n, 60);
            odd.period = Some(Period(s(n)));
            reported.note(&report(&[odd]), now, now);
        }
        assert_eq!(reported.0.len(), KEPT);
        assert_eq!(reported.0[KEPT - 1].reading.limit, Some(999));
    }
}
