//! What one account may do now, and if not now, when and why: caps per minute, calls in flight, holds, resting keys.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use super::pace::{Lately, Pace};
use super::reported::Reported;
use super::window::{Ticket, Window};
use crate::clock::Instant;
use crate::config::Limits;
use crate::messages::Remaining;

/// How long a refused key rests at first, and at most.
const REST: Duration = Duration::from_secs(60);
const LONGEST_REST: Duration = Duration::from_secs(3_600);

/// One capped dimension: a strict window and the pace that spreads it.
#[derive(Debug)]
struct Capped {
    window: Window,
    pace: Pace,
}

impl Capped {
    fn new(per_minute: u64, now: Instant) -> Self {
        Self { window: Window::new(per_minute), pace: Pace::per_minute(per_minute, now) }
    }

    fn ready_at(&mut self, now: Instant, cost: u64) -> Option<Instant> {
        Some(self.window.ready_at(now, cost)?.max(self.pace.ready_at(now, cost as f64)))
    }

    fn take(&mut self, now: Instant, cost: u64) -> Ticket {
        self.pace.take(now, cost as f64);
        self.window.take(now, cost)
    }

    fn room_until(&mut self, now: Instant, deadline: Instant) -> u64 {
        // The cast saturates: an infinite pace leaves it to the window.
        self.window.room_until(now, deadline).min(self.pace.room_until(now, deadline).max(0.0) as u64)
    }

    fn remaining(&mut self, now: Instant) -> Remaining {
        let used = self.window.used(now);
        let limit = self.window.cap();
        Remaining { limit, remaining: limit.saturating_sub(used), reset: self.window.whole_in(now) }
    }

    fn set_cap(&mut self, per_minute: u64, now: Instant) {
        if per_minute != self.window.cap() {
            self.window.set_cap(per_minute);
            self.pace = Pace::per_minute(per_minute, now);
        }
    }
}

/// Puts a new cap in force and keeps what was used under the old one.
fn recap(dimension: &mut Option<Capped>, cap: Option<u64>, now: Instant) {
    match (dimension.as_mut(), cap) {
        (Some(capped), Some(cap)) => capped.set_cap(cap, now),
        _ => *dimension = cap.map(|cap| Capped::new(cap, now)),
    }
}

/// Why a call cannot go to an account now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wait {
    /// The upstream said when to come again.
    Held,
    /// Requests per minute.
    Requests,
    /// Tokens per minute.
    Tokens,
    /// After a hold, an account of unknown limits starts slowly.
    Ramp,
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Wait::Held => "held by the upstream's own word (Retry-After)",
            Wait::Requests => "its requests_per_minute (configured) are used up",
            Wait::Tokens => "its tokens_per_minute (configured) are used up",
            Wait::Ramp => "it starts slowly after a hold",
        })
    }
}

/// When a call may go to an account.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ready {
    Now,
    /// Then at the earliest, and what keeps it until then.
    At(Instant, Wait),
    /// When an attempt in flight ends.
    WhenOneEnds,
    /// The key rests until then.
    Resting(Instant),
    /// It needs more tokens than the cap ever allows.
    Never,
}

/// Budget reserved for one attempt. Gives its place in flight back when dropped, however the attempt ends.
#[derive(Debug)]
pub(crate) struct Permit {
    pub(super) in_flight: Rc<Cell<usize>>,
    /// The tokens reserved, and where they are entered.
    tokens: Option<(Ticket, u64)>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.in_flight.set(self.in_flight.get() - 1);
    }
}

/// The budgets of one account.
#[derive(Debug)]
pub(crate) struct Budget {
    requests: Option<Capped>,
    tokens: Option<Capped>,
    max_in_flight: usize,
    pub(super) in_flight: Rc<Cell<usize>>,
    held_until: Option<Instant>,
    ramp: Option<Pace>,
    /// The minute's requests while none is capped: a reload may bring a cap, and that counts them.
    uncapped: Window,
    /// Calls answered lately: how fast to come back after a hold where no cap is set.
    answered: Lately,
    rest_until: Option<Instant>,
    rest: Duration,
    /// What the provider says of its own limits.
    pub(crate) reported: Reported,
}

impl Budget {
    /// `slots` bounds the attempts in flight where `limits` does not.
    pub(crate) fn new(limits: Limits, slots: usize, now: Instant) -> Self {
        Self {
            requests: limits.requests_per_minute.map(|cap| Capped::new(cap, now)),
            tokens: limits.tokens_per_minute.map(|cap| Capped::new(cap, now)),
            max_in_flight: limits.max_concurrent.unwrap_or(slots),
            in_flight: Rc::new(Cell::new(0)),
            held_until: None,
            ramp: None,
            uncapped: Window::new(u64::MAX),
            answered: Lately::new(now),
            rest_until: None,
            rest: REST,
            reported: Reported::default(),
        }
    }

    /// Other limits from now on. What was used within the last minute stays used, what is in flight stays in flight; a
    /// key that rests is tried again, since the operator may have mended it.
    pub(crate) fn reconfigure(&mut self, limits: Limits, slots: usize, now: Instant) {
        // A cap counts what went before it, too.
        match (self.requests.take(), limits.requests_per_minute) {
            (None, Some(cap)) => {
                let mut window = std::mem::replace(&mut self.uncapped, Window::new(u64::MAX));
                window.set_cap(cap);
                self.requests = Some(Capped { window, pace: Pace::per_minute(cap, now) });
            }
            (Some(Capped { mut window, .. }), None) => {
                window.set_cap(u64::MAX);
                self.uncapped = window;
            }
            (mut capped, cap) => {
                recap(&mut capped, cap, now);
                self.requests = capped;
            }
        }
        recap(&mut self.tokens, limits.tokens_per_minute, now);
        self.max_in_flight = limits.max_concurrent.unwrap_or(slots);
        self.rest_until = None;
        self.rest = REST;
    }

    /// What was in flight belonged to a dispatcher that has died, and ends with it. What it used stays used.
    pub(crate) fn forget_in_flight(&mut self) {
        self.in_flight = Rc::default();
    }

    pub(crate) fn max_in_flight(&self) -> usize {
        self.max_in_flight
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.get()
    }

    /// Whether a cap on tokens makes estimates worth their while.
    pub(crate) fn counts_tokens(&self) -> bool {
        self.tokens.is_some()
    }

    /// May a call of `tokens` go now, and if not, when?
    pub(crate) fn ready(&mut self, now: Instant, tokens: u64) -> Ready {
        let fits = |capped: &Option<Capped>, cost| capped.as_ref().is_none_or(|capped| cost <= capped.window.cap());
        if !(fits(&self.requests, 1) && fits(&self.tokens, tokens)) {
            return Ready::Never;
        }
        if let Some(until) = self.rest_until.filter(|until| *until > now) {
            return Ready::Resting(until);
        }
        let mut at = (now, Wait::Held);
        let mut later = |when: Instant, why: Wait| {
            if when > at.0 {
                at = (when, why);
            }
        };
        if let Some(until) = self.held_until.filter(|until| *until > now) {
            later(until, Wait::Held);
        }
        if let Some(requests) = &mut self.requests {
            match requests.ready_at(now, 1) {
                Some(when) => later(when, Wait::Requests),
                None => return Ready::Never,
            }
        }
        if let Some(capped) = &mut self.tokens {
            match capped.ready_at(now, tokens) {
                Some(when) => later(when, Wait::Tokens),
                None => return Ready::Never,
            }
        }
        if self.ramp.as_ref().is_some_and(|ramp| ramp.is_over(now)) {
            self.ramp = None;
        }
        if let Some(ramp) = &mut self.ramp {
            later(ramp.ready_at(now, 1.0), Wait::Ramp);
        }
        if at.0 > now {
            Ready::At(at.0, at.1)
        } else if self.in_flight.get() >= self.max_in_flight {
            Ready::WhenOneEnds
        } else {
            Ready::Now
        }
    }

    /// Takes one request and `tokens` for an attempt that starts now.
    pub(crate) fn reserve(&mut self, now: Instant, tokens: u64) -> Permit {
        match &mut self.requests {
            Some(requests) => _ = requests.take(now, 1),
            None => self.uncapped.tally(now),
        }
        let tokens = self.tokens.as_mut().map(|capped| (capped.take(now, tokens), tokens));
        if let Some(ramp) = &mut self.ramp {
            ramp.take(now, 1.0);
        }
        self.in_flight.set(self.in_flight.get() + 1);
        Permit { in_flight: Rc::clone(&self.in_flight), tokens }
    }

    /// The attempt has ended; `used` replaces the estimate where the upstream told its usage.
    pub(crate) fn settle(&mut self, permit: Permit, used: Option<u64>) {
        let (Some((ticket, reserved)), Some(used), Some(tokens)) = (permit.tokens, used, &mut self.tokens) else {
            return;
        };
        // A count beyond the cap is taken for the cap: nonsense must not close the account for days.
        let used = used.min(tokens.window.cap().max(reserved));
        tokens.window.settle(ticket, used);
        tokens.pace.give_back(reserved as f64 - used as f64);
    }

    /// The upstream says: not before `until`. A shorter hold does not end a longer one.
    pub(crate) fn hold(&mut self, now: Instant, until: Instant) {
        if self.held_until.is_some_and(|held| held >= until) {
            return;
        }
        self.held_until = Some(until);
        if self.requests.is_none() {
            // As fast as calls were answered before, at least one a second: the upstream has just said that more is too
            // much, but not how much would be right.
            self.ramp = Some(Pace::ramp(self.answered.per_second(now).max(1.0), until));
        }
    }

    /// The key was refused: it rests, each time twice as long.
    pub(crate) fn rest(&mut self, now: Instant) {
        if self.rest_until.is_some_and(|until| until > now) {
            return; // an attempt that was under way when the rest began
        }
        self.rest_until = Some(now + self.rest);
        self.rest = (self.rest * 2).min(LONGEST_REST);
    }

    /// A call was answered.
    pub(crate) fn answered(&mut self, now: Instant) {
        self.answered.count(now);
        self.wake();
    }

    /// The key was accepted.
    pub(crate) fn wake(&mut self) {
        self.rest = REST;
        self.rest_until = None;
    }

    pub(crate) fn is_resting(&self, now: Instant) -> bool {
        self.rest_until.is_some_and(|until| until > now)
    }

    /// The most requests and tokens that can still start before `deadline`; no more than `u64::MAX / 1024` each, so that
    /// sums over accounts do not overflow.
    pub(crate) fn room_until(&mut self, now: Instant, deadline: Instant) -> (u64, u64) {
        const MOST: u64 = u64::MAX / 1024;
        let start = self.held_until.into_iter().chain(self.rest_until).fold(now, Instant::max);
        if start > deadline {
            return (0, 0);
        }
        // What a hold keeps back is not lost by the window, so both ask from `now`; the bound stays an upper one.
        let requests = self.requests.as_mut().map_or(MOST, |capped| capped.room_until(now, deadline).min(MOST));
        let tokens = self.tokens.as_mut().map_or(MOST, |capped| capped.room_until(now, deadline).min(MOST));
        (requests, tokens)
    }

    /// Until when the upstream's word holds it.
    pub(crate) fn held_until(&self, now: Instant) -> Option<Instant> {
        self.held_until.filter(|until| *until > now)
    }

    pub(crate) fn remaining_requests(&mut self, now: Instant) -> Option<Remaining> {
        self.requests.as_mut().map(|capped| capped.remaining(now))
    }

    pub(crate) fn remaining_tokens(&mut self, now: Instant) -> Option<Remaining> {
        self.tokens.as_mut().map(|capped| capped.remaining(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn limits(requests: Option<u64>, tokens: Option<u64>, concurrent: Option<usize>) -> Limits {
        Limits { requests_per_minute: requests, tokens_per_minute: tokens, max_concurrent: concurrent }
    }

    #[test]
    fn a_permit_gives_its_place_back_however_it_ends() {
        let now = clock::now();
        let mut budget = Budget::new(limits(None, None, Some(1)), 512, now);
        let permit = budget.reserve(now, 0);
        assert_eq!(budget.ready(now, 0), Ready::WhenOneEnds);
        drop(permit);
        assert_eq!(budget.ready(now, 0), Ready::Now);
        let permit = budget.reserve(now, 0);
        budget.settle(permit, Some(7));
        assert_eq!(budget.in_flight(), 0);
    }

    #[test]
    fn usage_replaces_the_estimate() {
        let now = clock::now();
        let mut budget = Budget::new(limits(None, Some(6_000), None), 512, now);
        let permit = budget.reserve(now, 5_000);
        assert!(matches!(budget.ready(now, 2_000), Ready::At(_, Wait::Tokens)));
        budget.settle(permit, Some(10));
        let soon = now + Duration::from_secs(1);
        assert_eq!(budget.ready(soon, 2_000), Ready::Now);
        assert_eq!(budget.remaining_tokens(now).map(|left| left.remaining), Some(5_990));
    }

    #[test]
    fn a_call_larger_than_the_cap_never_fits() {
        let now = clock::now();
        let mut budget = Budget::new(limits(None, Some(100), None), 512, now);
        assert_eq!(budget.ready(now, 101), Ready::Never);
    }

    #[test]
    fn a_hold_keeps_the_account_and_releases_it_paced() {
        let now = clock::now();
        let mut budget = Budget::new(limits(None, None, None), 512, now);
        let until = now + Duration::from_secs(5);
        budget.hold(now, until);
        budget.hold(now, now + Duration::from_secs(1));
        assert_eq!(budget.ready(now, 0), Ready::At(until, Wait::Held), "a shorter hold does not end a longer one");
        let permit = budget.reserve(until, 0);
        assert!(matches!(budget.ready(until, 0), Ready::At(_, Wait::Ramp)));
        drop(permit);
        let later = until + Duration::from_secs(20);
        assert_eq!(budget.ready(later, 0), Ready::Now);
    }

    #[test]
    fn a_refused_key_rests_twice_as_long_each_time_up_to_an_hour() {
        let mut now = clock::now();
        let mut budget = Budget::new(Limits::default(), 512, now);
        let mut rests = Vec::new();
        for _ in 0..8 {
            budget.rest(now);
            budget.rest(now);
            let Ready::Resting(until) = budget.ready(now, 0) else { panic!("it rests") };
            rests.push((until - now).as_secs());
            now = until;
        }
        assert_eq!(rests, [60, 120, 240, 480, 960, 1_920, 3_600, 3_600]);
        budget.wake();
        budget.rest(now);
        assert_eq!(budget.ready(now, 0), Ready::Resting(now + REST));
    }

    #[test]
    fn a_first_cap_counts_the_minute_before_it() {
        let now = clock::now();
        let mut budget = Budget::new(limits(None, None, None), 512, now);
        for _ in 0..50 {
            drop(budget.reserve(now, 0));
        }
        budget.reconfigure(limits(Some(60), None, None), 512, now);
        assert_eq!(budget.remaining_requests(now).map(|left| left.remaining), Some(10));
        budget.reconfigure(limits(None, None, None), 512, now);
        budget.reconfigure(limits(Some(55), None, None), 512, now);
        assert_eq!(budget.remaining_requests(now).map(|left| left.remaining), Some(5));
    }

    #[test]
    fn a_new_limit_keeps_what_was_used() {
        let now = clock::now();
        let mut budget = Budget::new(limits(Some(600), None, None), 512, now);
        for _ in 0..5 {
            drop(budget.reserve(now, 0));
        }
        budget.reconfigure(limits(Some(6), None, None), 512, now);
        assert_eq!(budget.remaining_requests(now).map(|left| left.remaining), Some(1));
    }
}
