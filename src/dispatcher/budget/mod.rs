//! What one account may do now, and if not now, when and why.
//!
//! Everything that may keep a call back is a file of its own, and the strictest decides: `cap` (the user's limits, never
//! exceeded), `told` and `guess` (the provider's own, learned, one `learned` for each group of models), `concurrency` (how
//! many at once), and here the upstream's word: holds, and keys that rest. All of it is reckoned from `sends`, the log of
//! what went when. Policy only: time comes in as a parameter, nothing here waits.

mod cap;
mod correction;
mod day;
mod doubt;
mod growth;
mod guess;
mod kind;
mod learned;
mod margin;
mod memory;
mod news;
mod ramp;
mod refusals;
mod reported;
mod rest;
mod sends;
mod told;
mod view;
mod wait;

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use self::cap::Cap;
pub(crate) use self::cap::MINUTE;
use self::day::UsedUp;
use self::doubt::{Doubt, Unsure};
use self::learned::{CapRates, Entered, Learned};
use self::news::Said;
pub(crate) use self::news::{Fact, News, Whose};
use self::ramp::{Lately, Ramp};
use self::refusals::{PAUSE, Refusals};
use self::reported::Reported;
pub(crate) use self::rest::Rest;
use self::rest::Rests;
use self::sends::{Cost, Counted, Sends, Ticket};
pub(crate) use self::view::Reason;
pub(crate) use self::wait::{Beyond, Ready, Wait};
use super::ask::{Ask, Group};
use super::concurrency::{Concurrency, End, Mark, Room};
use super::retry::named_wait;
use crate::clock::{self, Instant};
use crate::config::Limits;
use crate::messages::{Failure, FailureKind, LimitReport, Pushback, Remaining, Tokens};

/// So many calls that the upstream was too busy for count, at most, where an account is chosen.
const MOST_TROUBLES: usize = 4;

/// The share of a guessed limit that must have been used for a refusal to be about the rate.
const SUSPECT: f64 = 0.7;

/// Budget reserved for one attempt. Gives its place in flight back when dropped, however the attempt ends.
#[derive(Debug)]
pub(crate) struct Permit {
    pub(super) in_flight: Rc<Cell<usize>>,
    group: Group,
    entered: Entered,
    /// Where it is entered in the account's log.
    ticket: Ticket,
    /// What is held against the caps, and how far that may be off.
    capped: (Cost, Unsure),
    /// Taken at the end.
    mark: Option<Mark>,
}

impl Permit {
    pub(crate) fn group(&self) -> Group {
        self.group
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.in_flight.set(self.in_flight.get() - 1);
    }
}

/// What a failure keeps back, and until when.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kept {
    /// All calls to the account.
    Account(Instant),
    /// Those of a model whose quota of the day is used up; whether that was not known before.
    Model { group: Group, until: Instant, is_news: bool },
}

/// The budgets of one account.
#[derive(Debug)]
pub(crate) struct Budget {
    requests: Option<Cap>,
    tokens: Option<Cap>,
    /// All attempts of the last minute, as they are held against the caps. Kept without caps as well: a reload may bring
    /// one, and that counts them.
    sends: Sends,
    /// How far what those under way are held with may be off.
    doubt: Doubt,
    groups: HashMap<Group, Learned>,
    concurrency: Concurrency,
    pub(super) in_flight: Rc<Cell<usize>>,
    held_until: Option<Instant>,
    refusals: Refusals,
    /// Calls it was too busy for since it last answered one well.
    troubles: usize,
    ramp: Option<Ramp>,
    /// Calls answered lately: how fast to come back after a hold where nothing else says.
    answered: Lately,
    rests: Rests,
    /// What the provider says of its own limits.
    reported: Reported,
    /// What the operator was told of it.
    said: Said,
}

fn caps(limits: Limits) -> (Option<Cap>, Option<Cap>) {
    let cap = |counted, per_minute: Option<u64>| per_minute.map(|per_minute| Cap { counted, per_minute });
    (cap(Counted::Requests, limits.requests_per_minute), cap(Counted::Tokens, limits.tokens_per_minute))
}

impl Budget {
    /// `slots` bounds the attempts in flight where `limits` does not.
    pub(crate) fn new(limits: Limits, slots: usize, now: Instant) -> Self {
        let (requests, tokens) = caps(limits);
        Self {
            requests,
            tokens,
            sends: Sends::default(),
            doubt: Doubt::default(),
            groups: HashMap::new(),
            concurrency: Concurrency::new(limits.max_concurrent.unwrap_or(slots), now),
            in_flight: Rc::new(Cell::new(0)),
            held_until: None,
            refusals: Refusals::default(),
            troubles: 0,
            ramp: None,
            answered: Lately::new(now),
            rests: Rests::default(),
            reported: Reported::default(),
            said: Said::default(),
        }
    }

    /// Other limits from now on. What was used within the last minute stays used, what is in flight stays in flight, what
    /// was learned stays learned; a key that rests and a quota that is used up are tried again, since the operator may have
    /// mended them.
    pub(crate) fn reconfigure(&mut self, limits: Limits, slots: usize) {
        (self.requests, self.tokens) = caps(limits);
        for learned in self.groups.values_mut() {
            learned.forget_caps();
            learned.day = None;
        }
        self.concurrency.set_most(limits.max_concurrent.unwrap_or(slots));
        self.rests = Rests::default();
    }

    /// What was in flight belonged to a dispatcher that has died, and ends with it. What it used stays used.
    pub(crate) fn forget_in_flight(&mut self) {
        self.in_flight = Rc::default();
        self.doubt = Doubt::default();
        self.groups.values_mut().for_each(Learned::forget_unanswered);
    }

    /// How many may be in flight now, one that tries for more among them.
    pub(crate) fn max_in_flight(&self) -> usize {
        self.concurrency.at_most()
    }

    /// How many more may start now, as far as concurrency goes, and when that changes though nothing happens.
    pub(crate) fn room_in_flight(&mut self, now: Instant) -> (usize, Option<Instant>) {
        self.concurrency.settle_probe(now);
        (self.max_in_flight().saturating_sub(self.in_flight()), self.concurrency.probe_settles_at())
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.get()
    }

    /// How busy it is, to choose among accounts: its calls in flight, and those of late that the upstream was too busy for.
    pub(crate) fn crowd(&self) -> usize {
        self.in_flight() + self.troubles
    }

    fn cap_rates(&self) -> CapRates {
        let rate = |cap: &Option<Cap>| cap.as_ref().map_or(f64::INFINITY, Cap::rate);
        CapRates { requests: rate(&self.requests), tokens: rate(&self.tokens) }
    }

    fn group(&mut self, group: Group, now: Instant) -> &mut Learned {
        let caps = self.cap_rates();
        learned(&mut self.groups, group, caps, now)
    }

    /// May a call go now that asks for this, and if not, when? Where a call may not go, one that asks for more may not
    /// either; and without a change to the account the answer is no other before the time it names.
    pub(crate) fn ready(&mut self, now: Instant, ask: &Ask) -> Ready {
        let caps = self.cap_rates();
        let learned = learned(&mut self.groups, ask.group, caps, now);
        let capped = |tokens: u64, margin: u64| {
            let each = [(&self.requests, 1, 0), (&self.tokens, tokens, margin)].into_iter();
            each.filter_map(|(cap, cost, margin)| Some((cap.as_ref()?, cost, margin)))
        };
        if let Some((cap, ..)) = capped(ask.tokens.total(), 0).find(|(cap, cost, _)| *cost > cap.per_minute) {
            return Ready::Never(Beyond {
                counted: cap.counted,
                limit: cap.per_minute,
                is_configured: true,
                until: None,
            });
        }
        if let Some(beyond) = learned.never_fits(ask.tokens, now) {
            return Ready::Never(beyond);
        }
        if let Some((until, why)) = self.rests.at(now) {
            return Ready::Resting(until, why);
        }
        let mut last = (now, None);
        let mut later = |at: Instant, why: Wait| {
            if at > last.0 {
                last = (at, Some(why));
            }
        };
        if let Some(until) = self.held_until {
            later(until, Wait::Held);
        }
        if let Some((until, why)) = learned.day.as_ref().and_then(|day| day.ready_at(now)) {
            later(until, why);
        }
        if let (at, Some(why)) = last {
            return Ready::At(at, why);
        }
        let mut later = |at: Instant, why: Wait| {
            if at > last.0 {
                last = (at, Some(why));
            }
        };
        let (cost, unsure) = learned.capped(ask.tokens);
        for (cap, cost, margin) in capped(cost.of(Counted::Tokens), self.doubt.margin(unsure)) {
            let at = cap.ready_at(now, cost, margin, &self.sends);
            let left = cap.remaining(now, &self.sends).remaining;
            later(at, Wait::Cap { counted: cap.counted, per_minute: cap.per_minute, left });
        }
        if let (at, Some(why)) = learned.ready_at(now, ask.tokens, ask.priority, caps) {
            later(at, why);
        }
        if let Some(until) = self.refusals.scouted_until() {
            later(until, Wait::Ramp);
        }
        self.ramp.take_if(|ramp| ramp.is_over(now));
        if let Some(ramp) = &mut self.ramp {
            later(ramp.ready_at(now), Wait::Ramp);
        }
        let room = self.concurrency.ready(now, self.in_flight.get());
        if let Room::At(at) = room {
            later(at, Wait::Probe { at_once: self.concurrency.window() });
        }
        match (last, room) {
            ((at, Some(why)), _) => Ready::At(at, why),
            (_, Room::WhenOneEnds) => Ready::WhenOneEnds,
            _ => Ready::Now,
        }
    }

    /// Takes what was asked for, for an attempt that starts now.
    pub(crate) fn reserve(&mut self, now: Instant, ask: &Ask) -> Permit {
        let caps = self.cap_rates();
        self.sends.forget(now - MINUTE);
        self.doubt.forget(now - MINUTE);
        let capped = self.group(ask.group, now).capped(ask.tokens);
        let ticket = self.sends.push(now, capped.0);
        self.doubt.goes(ticket, now, capped.1);
        let entered = self.group(ask.group, now).enter(now, ask.tokens, ask.priority, caps);
        if let Some(ramp) = &mut self.ramp {
            ramp.take(now);
        }
        self.refusals.goes(now);
        self.in_flight.set(self.in_flight.get() + 1);
        let mark = self.concurrency.started(now, self.in_flight.get(), ask.group.0);
        Permit { in_flight: Rc::clone(&self.in_flight), group: ask.group, entered, ticket, capped, mark: Some(mark) }
    }

    /// The head of a good answer has come: what it says of the limits, and that the attempt was taken. A stream's comes
    /// long before its end.
    pub(crate) fn hear(&mut self, permit: &mut Permit, limits: &LimitReport, now: Instant) {
        self.reported.note(limits, permit.entered.at, now);
        let learned = self.group(permit.group, now);
        learned.hear(&permit.entered, limits, now);
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

    /// The attempt has ended: it cost what the upstream says, or else as much as it was estimated at most.
    fn settle_cap(&mut self, permit: &Permit, used: Option<Tokens>) {
        let (held, unsure) = permit.capped;
        let Tokens { input, output } = permit.entered.estimate;
        let used = used.unwrap_or(Tokens { input: input.max(held.input), output });
        // A count beyond the cap is taken for the cap: nonsense must not close the account for days.
        let most = self.tokens.map_or(u64::MAX, |cap| cap.per_minute.max(input.saturating_add(output)));
        let input_used = used.input.min(most);
        let cost = Cost { requests: 1, input: input_used, output: used.output.min(most - input_used) };
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
        let entered = permit.entered;
        self.settle_cap(&permit, None);
        let learned = self.group(permit.group, now);
        // A day's quota is not one of those that are counted down: it is used up, and that is all.
        if failure.answer.is_some() && failure.pushback != Some(Pushback::DailyQuota) {
            learned.hear(&entered, &failure.limits, now);
        }
        let is_rate = failure.kind == FailureKind::RateLimited;
        let end = match (failure.kind, failure.pushback) {
            (FailureKind::Unreachable | FailureKind::Cut, _) => {
                learned.not_admitted(&entered, false);
                End::Lost
            }
            (_, Some(Pushback::Overload)) => {
                learned.not_admitted(&entered, true);
                End::Overloaded
            }
            (_, Some(Pushback::SlowDown)) => {
                learned.not_admitted(&entered, true);
                learned.slow_down(&entered, now);
                End::Unrelated
            }
            (_, Some(Pushback::NeverFits)) => {
                learned.not_admitted(&entered, true);
                learned.too_large(&entered, &failure.limits, now);
                End::Unrelated
            }
            (_, Some(Pushback::NoMoney | Pushback::DailyQuota)) => {
                learned.not_admitted(&entered, true);
                End::Unrelated
            }
            (FailureKind::RateLimited, Some(Pushback::Rate)) => {
                learned.not_admitted(&entered, true);
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
            let pause = self.refusals.hear(entered.at, now);
            let learned = self.group(permit.group, now);
            learned.refused(&entered, &failure.limits, named, now);
            hold = match named {
                // A silent provider that refuses again and again is given more time than it asks for.
                Some(named) if !learned.is_told() && pause > PAUSE => Some(named.max(pause)),
                Some(named) => Some(named),
                None => Some(if learned.is_told() { PAUSE } else { pause }),
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

    /// The quota of a model's day is used up.
    fn use_up_day(&mut self, group: Group, failure: &Failure, now: Instant) -> Kept {
        let until = clock::after(now, day::used_up_for(failure));
        let learned = self.group(group, now);
        let known = learned.day.as_ref().map(|day| day.until).filter(|until| *until > now);
        if known.is_none_or(|known| known < until) {
            learned.day = Some(UsedUp::new(until));
        }
        Kept::Model { group, until: known.map_or(until, |known| known.max(until)), is_news: known.is_none() }
    }

    /// The upstream says: not before `until`. A shorter hold does not end a longer one.
    fn hold(&mut self, now: Instant, until: Instant) {
        if self.held_until.is_some_and(|held| held >= until) {
            return;
        }
        self.held_until = Some(until);
        if !self.groups.values().any(Learned::knows_a_rate) {
            // As fast as calls were answered before, at least one a second: the upstream has just said that more is too
            // much, but not how much would be right.
            self.ramp = Some(Ramp::new(self.answered.per_second(now).max(1.0), until));
        }
    }

    /// The key is to rest. Gives how long where its rest begins now.
    pub(crate) fn rest(&mut self, why: Rest, now: Instant) -> Option<Duration> {
        // Behind the rest one call shows whether it was long enough.
        self.refusals.want_scout();
        self.rests.begin(why, now)
    }

    /// A call was answered.
    pub(crate) fn answered(&mut self, now: Instant) {
        self.answered.count(now);
        self.wake(now);
    }

    /// The key was accepted.
    pub(crate) fn wake(&mut self, now: Instant) {
        self.rests.heard(now);
    }

    pub(crate) fn is_resting(&self, now: Instant) -> bool {
        self.rests.at(now).is_some()
    }

    /// Until when calls of a model are kept back whatever they ask for: by the upstream's word, a key that rests, a day's
    /// quota that is used up.
    pub(crate) fn kept_until(&self, now: Instant, group: Group) -> Option<Instant> {
        let rests = self.rests.at(now).map(|(until, _)| until);
        self.held_until(now).into_iter().chain(rests).chain(self.used_up_until(now, group)).max()
    }

    /// Until when the quota of a model's day is used up.
    pub(crate) fn used_up_until(&self, now: Instant, group: Group) -> Option<Instant> {
        self.groups.get(&group)?.day.as_ref().map(|day| day.until).filter(|until| *until > now)
    }

    /// The most requests and tokens of a model that can still start before `deadline`; no more than `u64::MAX / 1024` each, so that
    /// sums over accounts do not overflow. Caps and the upstream's word only: what is believed refuses nobody.
    pub(crate) fn room_until(&mut self, now: Instant, deadline: Instant, group: Group) -> (u64, u64) {
        const MOST: u64 = u64::MAX / 1024;
        if self.kept_until(now, group).is_some_and(|until| until > deadline) {
            return (0, 0);
        }
        // What a hold keeps back is not lost by the window, so both ask from `now`; the bound stays an upper one.
        let room =
            |cap: &Option<Cap>| cap.as_ref().map_or(MOST, |cap| cap.room_until(now, deadline, &self.sends).min(MOST));
        (room(&self.requests), room(&self.tokens))
    }

    /// Until when the upstream's word holds it.
    pub(crate) fn held_until(&self, now: Instant) -> Option<Instant> {
        self.held_until.filter(|until| *until > now)
    }

    pub(crate) fn remaining_requests(&self, now: Instant) -> Option<Remaining> {
        self.requests.as_ref().map(|cap| cap.remaining(now, &self.sends))
    }

    pub(crate) fn remaining_tokens(&self, now: Instant) -> Option<Remaining> {
        self.tokens.as_ref().map(|cap| cap.remaining(now, &self.sends))
    }
}

fn learned(groups: &mut HashMap<Group, Learned>, group: Group, caps: CapRates, now: Instant) -> &mut Learned {
    let learned = groups.entry(group).or_default();
    learned.guess_caps(caps, now);
    learned
}

#[cfg(test)]
mod pushed_back;

#[cfg(test)]
mod tests {
    mod refusals;

    use super::rest::REST;
    use super::*;
    use crate::clock;
    use crate::dispatcher::ask::Group;
    use crate::messages::Priority;

    fn asks(tokens: u64) -> Ask {
        Ask { group: Group(0), tokens: Tokens { input: tokens, output: 0 }, priority: Priority::Normal }
    }

    fn limits(requests: Option<u64>, tokens: Option<u64>, concurrent: Option<usize>) -> Limits {
        Limits { requests_per_minute: requests, tokens_per_minute: tokens, max_concurrent: concurrent }
    }

    #[test]
    fn a_permit_gives_its_place_back_however_it_ends() {
        let now = clock::now();
        let mut budget = Budget::new(limits(None, None, Some(1)), 512, now);
        let permit = budget.reserve(now, &asks(0));
        assert_eq!(budget.ready(now, &asks(0)), Ready::WhenOneEnds);
        drop(permit);
        assert_eq!(budget.ready(now, &asks(0)), Ready::Now);
        let permit = budget.reserve(now, &asks(0));
        budget.settle(permit, Some(Tokens { input: 7, output: 0 }), now);
        assert_eq!(budget.in_flight(), 0);
    }

    #[test]
    fn usage_replaces_the_estimate() {
        let now = clock::now();
        let mut budget = Budget::new(limits(None, Some(6_000), None), 512, now);
        let permit = budget.reserve(now, &asks(5_000));
        assert!(matches!(budget.ready(now, &asks(2_000)), Ready::At(_, Wait::Cap { .. })));
        budget.settle(permit, Some(Tokens { input: 10, output: 0 }), now);
        assert_eq!(budget.ready(now, &asks(2_000)), Ready::Now);
        assert_eq!(budget.remaining_tokens(now).map(|left| left.remaining), Some(5_990));
    }

    #[test]
    fn a_call_larger_than_the_cap_never_fits() {
        let now = clock::now();
        let mut budget = Budget::new(limits(None, Some(100), None), 512, now);
        let beyond = Beyond { counted: Counted::Tokens, limit: 100, is_configured: true, until: None };
        assert_eq!(budget.ready(now, &asks(101)), Ready::Never(beyond));
    }

    #[test]
    fn a_hold_keeps_the_account_and_releases_it_paced() {
        let now = clock::now();
        let mut budget = Budget::new(limits(None, None, None), 512, now);
        let until = now + Duration::from_secs(5);
        budget.hold(now, until);
        budget.hold(now, now + Duration::from_secs(1));
        assert_eq!(
            budget.ready(now, &asks(0)),
            Ready::At(until, Wait::Held),
            "a shorter hold does not end a longer one"
        );
        let permit = budget.reserve(until, &asks(0));
        assert!(matches!(budget.ready(until, &asks(0)), Ready::At(_, Wait::Ramp)));
        drop(permit);
        let later = until + Duration::from_secs(20);
        assert_eq!(budget.ready(later, &asks(0)), Ready::Now);
    }

    #[test]
    fn a_refused_key_rests_twice_as_long_each_time_up_to_an_hour() {
        let mut now = clock::now();
        let mut budget = Budget::new(Limits::default(), 512, now);
        let mut rests = Vec::new();
        for _ in 0..8 {
            assert!(budget.rest(Rest::Refused, now).is_some());
            assert_eq!(budget.rest(Rest::Refused, now), None, "what was under way when the rest began");
            let Ready::Resting(until, Rest::Refused) = budget.ready(now, &asks(0)) else { panic!("it rests") };
            rests.push((until - now).as_secs());
            now = until;
        }
        assert_eq!(rests, [60, 120, 240, 480, 960, 1_920, 3_600, 3_600]);
        budget.wake(now);
        budget.rest(Rest::Refused, now);
        assert_eq!(budget.ready(now, &asks(0)), Ready::Resting(now + REST, Rest::Refused));
    }

    #[test]
    fn a_first_cap_counts_the_minute_before_it() {
        let now = clock::now();
        let mut budget = Budget::new(limits(None, None, None), 512, now);
        for _ in 0..50 {
            drop(budget.reserve(now, &asks(0)));
        }
        budget.reconfigure(limits(Some(60), None, None), 512);
        assert_eq!(budget.remaining_requests(now).map(|left| left.remaining), Some(10));
        budget.reconfigure(limits(None, None, None), 512);
        budget.reconfigure(limits(Some(55), None, None), 512);
        assert_eq!(budget.remaining_requests(now).map(|left| left.remaining), Some(5));
    }

    #[test]
    fn a_new_limit_keeps_what_was_used() {
        let now = clock::now();
        let mut budget = Budget::new(limits(Some(600), None, None), 512, now);
        for _ in 0..5 {
            drop(budget.reserve(now, &asks(0)));
        }
        budget.reconfigure(limits(Some(6), None, None), 512);
        assert_eq!(budget.remaining_requests(now).map(|left| left.remaining), Some(1));
    }
}
