//! What the end of an attempt says of its account's limits: of what was used, and of what a refusal means.
//!
//! *Known* is what the provider said beside its answer or refusal, and each is entered with the model it is about. What a
//! refusal means is read from its words already ([`Pushback`]); here it goes to the one that learns from it: to what is
//! learned of the model's rates, to how many at once, or to what keeps calls back (`kept`). A 429 that names no time may be
//! for the rate or for the number: where what was sent comes near a limit that is guessed, it is the rate that is suspected.

use super::Budget;
use super::kept::Kept;
use super::permit::Permit;
use super::refusals::PAUSE;
use super::sends::Cost;
use crate::clock::{self, Instant};
use crate::dispatcher::concurrency::End;
use crate::dispatcher::retry::named_wait;
use crate::messages::{Failure, FailureKind, LimitReport, Pushback, Sent, Tokens};

/// So many calls that the upstream was too busy for count, at most, where an account is chosen.
const MOST_TROUBLES: usize = 4;

/// The share of a guessed limit that must have been used for a refusal to be about the rate.
const SUSPECT: f64 = 0.7;

impl Budget {
    /// The head of a good answer has come: what it says of the limits, and that the attempt was taken. A stream's comes
    /// long before its end.
    pub(crate) fn hear(&mut self, permit: &mut Permit, limits: &LimitReport, now: Instant) {
        self.reported.note(limits, permit.entered.at, now);
        let learned = self.group(permit.group, now);
        learned.hear(&permit.entered, limits, None, now);
        learned.day.take_if(|day| day.until <= permit.entered.at);
        let is_told = learned.is_told();
        let took = (!is_told).then(|| now.saturating_duration_since(permit.entered.at));
        self.concurrency.set_told(is_told);
        self.refusals.are_over();
        self.troubles = 0;
        if let Some(mark) = &mut permit.mark {
            self.concurrency.heard(mark, took, now);
        }
    }

    /// The attempt has ended well, or was called off; `used` replaces the estimate where the upstream told its usage.
    pub(crate) fn settle(&mut self, mut permit: Permit, used: Option<Tokens>, now: Instant) {
        let learned = self.group(permit.group, now);
        learned.settle(&permit.entered, used);
        self.settle_cap(&permit, used);
        // Who tells a usage has answered; that it was heard is known by then.
        let end = if used.is_some() { End::Answered { took: None } } else { End::Unrelated };
        self.end(&mut permit, end, now);
    }

    /// The attempt was not made after all.
    pub(crate) fn withheld(&mut self, mut permit: Permit, now: Instant) {
        self.settle_cap(&permit, None);
        self.group(permit.group, now).not_admitted(&permit.entered, false, now);
        self.end(&mut permit, End::Unrelated, now);
    }

    /// The attempt has ended: it cost what the upstream says, or else as much as it was estimated at most.
    fn settle_cap(&mut self, permit: &Permit, used: Option<Tokens>) {
        let (held, unsure) = permit.capped;
        let Tokens { input, output } = permit.entered.estimate;
        let used = used.unwrap_or(Tokens { input: input.max(held.input), output });
        // A count beyond the cap is taken for the cap: nonsense must not close the account for days.
        let most = self.tokens.map_or(u64::MAX, |cap| cap.per_minute.max(input.saturating_add(output)));
        let input_used = used.input.min(most);
        let cost = Cost { requests: 1, input: input_used, output: used.output.min(most - input_used), ..held };
        self.sends.settle(permit.ticket, held, cost);
        self.doubt.settle(permit.ticket, unsure);
    }

    fn end(&mut self, permit: &mut Permit, end: End, now: Instant) -> bool {
        let others = self.in_flight.get().saturating_sub(1);
        permit.mark.take().is_some_and(|mark| self.concurrency.ended(mark, end, now, others))
    }

    /// The attempt has failed: what that says of the limits. Gives what is kept back for it.
    pub(crate) fn failed(&mut self, mut permit: Permit, failure: &Failure, now: Instant) -> Option<Kept> {
        self.reported.note(&failure.limits, permit.entered.at, now);
        let named = named_wait(failure).filter(|_| failure.kind != FailureKind::OutOfQuota);
        let (entered, is_rate) = (permit.entered, failure.kind == FailureKind::RateLimited);
        self.settle_cap(&permit, None);
        let learned = self.group(permit.group, now);
        // A day's quota is not one of those that are counted down: it is used up, and that is all.
        if failure.answer.is_some() && failure.pushback != Some(Pushback::DailyQuota) {
            learned.hear(&entered, &failure.limits, named.filter(|_| is_rate), now);
        }
        let end = match (failure.kind, failure.pushback) {
            (FailureKind::Unreachable | FailureKind::Cut, _) => {
                match failure.sent {
                    Sent::No => learned.not_admitted(&entered, false, now),
                    // What was sent may have been counted before it broke.
                    _ => learned.settle(&entered, None),
                }
                End::Lost
            }
            (FailureKind::Untranslatable, _) => {
                learned.not_admitted(&entered, false, now);
                End::Unrelated
            }
            (_, Some(Pushback::Overload)) => {
                learned.not_admitted(&entered, true, now);
                End::Overloaded
            }
            (_, Some(Pushback::SlowDown)) => {
                learned.not_admitted(&entered, true, now);
                learned.slow_down(&entered, now);
                End::Unrelated
            }
            (_, Some(Pushback::NeverFits)) => {
                learned.not_admitted(&entered, true, now);
                learned.too_large(&entered, &failure.limits, now);
                End::Unrelated
            }
            (_, Some(Pushback::NoMoney | Pushback::DailyQuota)) => {
                learned.not_admitted(&entered, true, now);
                End::Unrelated
            }
            (FailureKind::RateLimited, Some(Pushback::Rate)) => {
                learned.not_admitted(&entered, true, now);
                let says_left = failure.limits.budgets.iter().any(|reading| reading.remaining.is_some());
                match named {
                    None if !says_left => {
                        let rate_is_suspect = learned.nearest_use(now).is_some_and(|share| share >= SUSPECT);
                        End::Rejected { rate_is_suspect }
                    }
                    _ => End::Unrelated,
                }
            }
            _ => {
                learned.settle(&entered, None);
                if failure.answer.is_some() {
                    self.refusals.are_over();
                }
                End::Unrelated
            }
        };
        if let Some(Pushback::Overload | Pushback::SlowDown) = failure.pushback {
            self.troubles = (self.troubles + 1).min(MOST_TROUBLES);
        }
        let is_of_number = self.end(&mut permit, end, now);
        if failure.pushback == Some(Pushback::DailyQuota) {
            return Some(self.use_up_day(permit.group, failure, now));
        }
        let mut hold = named.filter(|_| failure.pushback != Some(Pushback::NoMoney));
        if failure.pushback == Some(Pushback::SlowDown) {
            hold = Some(self.refusals.hear(entered.at, now).max(named.unwrap_or_default()));
        }
        if is_rate && failure.pushback == Some(Pushback::Rate) && !is_of_number {
            let learned = self.group(permit.group, now);
            let is_accident = learned.refused(&entered, &failure.limits, named, now);
            let is_told = learned.is_told();
            let pause = if is_accident { PAUSE } else { self.refusals.hear(entered.at, now) };
            hold = match named {
                // A silent provider that refuses again and again is given more time than it asks for.
                Some(named) if !is_told && pause > PAUSE => Some(named.max(pause)),
                Some(named) => Some(named),
                None => Some(if is_told { PAUSE } else { pause }),
            };
        }
        let until = clock::after(now, hold?);
        self.hold(now, until);
        Some(Kept::Account(until))
    }

    /// What broke a stream may keep calls back: its caller has its error, and what it says holds for the others.
    pub(crate) fn held_by(&mut self, permit: &Permit, failure: &Failure, now: Instant) -> Option<Kept> {
        match failure.pushback {
            Some(Pushback::DailyQuota) => Some(self.use_up_day(permit.group, failure, now)),
            Some(Pushback::NoMoney) => None,
            _ => {
                let until = clock::after(now, named_wait(failure)?);
                self.hold(now, until);
                Some(Kept::Account(until))
            }
        }
    }
}
