//! May this call be tried again, and when? "May" is the verdict and the upstream's retry budget, "when" the backoff.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::{Dice, Instant};
use crate::config::{Jitter, Retry};
use crate::messages::{Failure, FailureKind};
use crate::providers::classify::is_retryable;

/// What an attempt's end means for its call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// Again, as soon as an account can take it: the account it was at is held until the time the upstream named.
    AgainWhenReady,
    /// Again at this time.
    AgainAt(Instant),
    /// This failure is the call's end.
    GiveUp,
}

/// Judges a failure. `counted` attempts have been used up, this one included.
pub(crate) fn judge(failure: &Failure, counted: u32, policy: &Retry, now: Instant, dice: &mut Dice) -> Verdict {
    if !is_retryable(failure) {
        return Verdict::GiveUp;
    }
    if is_free(failure) {
        return Verdict::AgainWhenReady;
    }
    if counted >= policy.max_attempts {
        return Verdict::GiveUp;
    }
    if named_wait(failure).is_some() {
        return Verdict::AgainWhenReady;
    }
    Verdict::AgainAt(now + backoff(policy, counted, dice))
}

/// The shortest hold: below it lies no time to wait but a hot loop.
const SHORTEST_HOLD: Duration = Duration::from_millis(100);

/// The time the upstream has named: when to come again, not before. "At once" (`Retry-After: 0`, a date gone by) names none.
pub(crate) fn named_wait(failure: &Failure) -> Option<Duration> {
    failure.hint.after.filter(|after| !after.is_zero()).map(|after| after.max(SHORTEST_HOLD))
}

/// Whether an attempt that failed so costs its call nothing.
pub(crate) fn is_free(failure: &Failure) -> bool {
    failure.kind == FailureKind::RateLimited && named_wait(failure).is_some()
}

/// The wait behind the `counted`-th attempt: `base_delay * multiplier^(counted - 1)`, at most `max_delay`; with full
/// jitter uniform between nothing and that (M. Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015).
pub(crate) fn backoff(policy: &Retry, counted: u32, dice: &mut Dice) -> Duration {
    let delay = longest_backoff(policy, counted);
    match policy.jitter {
        Jitter::Full => dice.up_to(delay),
        Jitter::None => delay,
    }
}

/// The longest that the wait behind the `counted`-th attempt may be.
pub(crate) fn longest_backoff(policy: &Retry, counted: u32) -> Duration {
    let exponent = i32::try_from(counted.saturating_sub(1)).unwrap_or(i32::MAX);
    let seconds = policy.base_delay.as_secs_f64() * policy.multiplier.powi(exponent);
    // Not `from_secs_f64`: a large power is infinite.
    if seconds < policy.max_delay.as_secs_f64() { Duration::from_secs_f64(seconds) } else { policy.max_delay }
}

/// The window within which retries are weighed against first attempts.
const WINDOW: Duration = Duration::from_secs(10);

/// Retries allowed within [`WINDOW`] whatever the number of first attempts.
const FLOOR: usize = 30;

/// Keeps retries of one upstream to a share of its first attempts, so that they do not finish off what is ill.
#[derive(Debug)]
pub(crate) struct RetryBudget {
    share: f64,
    firsts: VecDeque<Instant>,
    retries: VecDeque<Instant>,
    /// When the upstream last answered a call with anything but 5xx, or was first asked behind a lull.
    answered: Instant,
}

/// What the budget says to a retry that is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Allowance {
    Go,
    /// Ask again then.
    Wait(Instant),
    /// Nothing was answered for ten seconds: the call ends with its last error.
    End,
}

impl RetryBudget {
    pub(crate) fn new(share: f64, now: Instant) -> Self {
        Self { share, firsts: VecDeque::new(), retries: VecDeque::new(), answered: now }
    }

    pub(crate) fn set_share(&mut self, share: f64) {
        self.share = share;
    }

    fn forget(&mut self, now: Instant) {
        for log in [&mut self.firsts, &mut self.retries] {
            while log.front().is_some_and(|at| *at + WINDOW <= now) {
                log.pop_front();
            }
        }
    }

    fn starts(&mut self, now: Instant) {
        self.forget(now);
        if self.firsts.is_empty() && self.retries.is_empty() && self.answered + WINDOW <= now {
            // Behind a lull: that nothing was answered while nothing was asked says nothing.
            self.answered = now;
        }
    }

    /// A first attempt starts.
    pub(crate) fn first(&mut self, now: Instant) {
        self.starts(now);
        self.firsts.push_back(now);
    }

    /// A retry that counts starts.
    pub(crate) fn retry(&mut self, now: Instant) {
        self.starts(now);
        self.retries.push_back(now);
    }

    /// The upstream is alive: it has answered a call.
    pub(crate) fn answered(&mut self, now: Instant) {
        self.answered = now;
    }

    /// Retries that may start now.
    pub(crate) fn room(&mut self, now: Instant) -> usize {
        self.forget(now);
        let allowed = FLOOR + (self.share * self.firsts.len() as f64) as usize;
        allowed.saturating_sub(self.retries.len())
    }

    /// When the answer to [`RetryBudget::ask`] may be another: a retry leaves the window, or the silence is long enough.
    pub(crate) fn next_change(&self, now: Instant) -> Instant {
        let silent_at = Some(self.answered + WINDOW).filter(|at| *at > now);
        let oldest = self.retries.front().map(|at| *at + WINDOW);
        oldest.into_iter().chain(silent_at).min().unwrap_or(now + WINDOW)
    }

    /// May a retry start now?
    pub(crate) fn ask(&mut self, now: Instant) -> Allowance {
        if self.room(now) > 0 {
            Allowance::Go
        } else if self.answered + WINDOW <= now {
            Allowance::End
        } else {
            Allowance::Wait(self.next_change(now))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::messages::Sent;

    fn policy() -> Retry {
        Retry {
            max_attempts: 5,
            base_delay: Duration::from_secs(1),
            multiplier: 2.0,
            max_delay: Duration::from_secs(60),
            jitter: Jitter::None,
            retry_budget: 0.2,
        }
    }

    fn failure(kind: FailureKind) -> Failure {
        Failure::new(kind, Sent::Maybe, "", "")
    }

    #[test]
    fn backoff_doubles_up_to_its_limit() {
        let mut dice = Dice::seeded(1);
        let delays: Vec<u64> = (1..=9).map(|n| backoff(&policy(), n, &mut dice).as_secs()).collect();
        assert_eq!(delays, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(backoff(&policy(), u32::MAX, &mut dice), Duration::from_secs(60));
    }

    #[test]
    fn full_jitter_is_uniform_between_nothing_and_the_delay() {
        let policy = Retry { jitter: Jitter::Full, ..policy() };
        let mut dice = Dice::seeded(7);
        let mut tenths = [0; 10];
        for _ in 0..10_000 {
            let delay = backoff(&policy, 3, &mut dice).as_secs_f64();
            assert!(delay <= 4.0);
            tenths[((delay / 0.4) as usize).min(9)] += 1;
        }
        assert!(tenths.iter().all(|count| (850..1_150).contains(count)), "{tenths:?}");
    }

    #[test]
    fn attempts_are_counted_but_for_a_429_that_names_its_time() {
        let now = clock::now();
        let mut dice = Dice::seeded(1);
        let cut = failure(FailureKind::Cut);
        assert_eq!(judge(&cut, 4, &policy(), now, &mut dice), Verdict::AgainAt(now + Duration::from_secs(8)));
        assert_eq!(judge(&cut, 5, &policy(), now, &mut dice), Verdict::GiveUp);
        let mut limited = failure(FailureKind::RateLimited);
        assert_eq!(judge(&limited, 5, &policy(), now, &mut dice), Verdict::GiveUp);
        limited.hint.after = Some(Duration::from_secs(1));
        assert_eq!(judge(&limited, 500, &policy(), now, &mut dice), Verdict::AgainWhenReady);
        assert!(is_free(&limited));
        limited.hint.after = Some(Duration::ZERO);
        assert!(!is_free(&limited), "at once names no time");
    }

    #[test]
    fn the_retry_budget_lets_a_share_and_thirty_pass_and_the_rest_wait_while_anything_is_answered() {
        let start = clock::now();
        let mut budget = RetryBudget::new(0.2, start);
        for _ in 0..100 {
            budget.first(start);
        }
        let mut passed = 0;
        while budget.ask(start) == Allowance::Go {
            budget.retry(start);
            passed += 1;
        }
        assert_eq!(passed, 50);
        let later = start + Duration::from_secs(6);
        budget.answered(later);
        assert_eq!(budget.ask(later), Allowance::Wait(start + WINDOW));
        assert_eq!(budget.ask(start + WINDOW), Allowance::Go);
    }

    #[test]
    fn a_lull_is_no_silence() {
        let start = clock::now();
        let mut budget = RetryBudget::new(0.0, start);
        let now = start + Duration::from_secs(3_600);
        budget.first(now);
        for _ in 0..30 {
            budget.retry(now);
        }
        assert_eq!(budget.ask(now), Allowance::Wait(now + WINDOW));
    }

    #[test]
    fn over_budget_a_call_ends_when_nothing_was_answered_for_ten_seconds() {
        let start = clock::now();
        let mut budget = RetryBudget::new(0.0, start);
        let now = start + Duration::from_secs(5);
        for _ in 0..30 {
            budget.retry(now);
        }
        assert_eq!(budget.ask(now), Allowance::Wait(start + WINDOW));
        assert_eq!(budget.ask(start + WINDOW), Allowance::End);
    }
}
