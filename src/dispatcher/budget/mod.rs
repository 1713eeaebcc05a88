//! What one account may do now, and if not now, when and why.
//!
//! Everything that may keep a call back is a file of its own, and the strictest decides: `cap` (the user's limits, never
//! exceeded), `told` and `guess` (the provider's own, learned, one `learned` for each group of models), `concurrency` (how
//! many at once), and `kept` (the upstream's word: holds, keys that rest, a day's quota that is used up). All of it is
//! reckoned from `sends`, the log of what went when. Here is the way out of an attempt: it asks whether it may go
//! ([`Budget::ready`]) and takes a [`Permit`] along; the way back is `ends`. Policy only: time comes in as a parameter,
//! nothing here waits.

mod cap;
mod correction;
mod day;
mod doubt;
mod ends;
mod growth;
mod guess;
mod kept;
mod kind;
mod learned;
mod margin;
mod memory;
mod news;
mod permit;
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

use self::cap::Cap;
pub(crate) use self::cap::MINUTE;
use self::day::UsedUp;
use self::doubt::Doubt;
pub(crate) use self::kept::Kept;
use self::learned::{CapRates, Learned};
pub(crate) use self::memory::Memory;
use self::news::Said;
pub(crate) use self::news::{Fact, News, Whose};
pub(crate) use self::permit::Permit;
use self::ramp::{Lately, Ramp};
use self::refusals::Refusals;
use self::reported::Reported;
pub(crate) use self::rest::Rest;
use self::rest::Rests;
use self::sends::{Counted, Sends};
pub(crate) use self::view::Reason;
pub(crate) use self::wait::{Beyond, Ready, Wait};
use super::ask::{Ask, Group};
use super::concurrency::{Concurrency, Room};
use crate::clock::Instant;
use crate::config::Limits;
use crate::messages::Remaining;

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
    /// When its last attempt started.
    last_start: Option<Instant>,
    ramp: Option<Ramp>,
    /// Calls answered lately: how fast to come back after a hold where nothing else says.
    answered: Lately,
    rests: Rests,
    /// What the provider says of its own limits.
    reported: Reported,
    /// What the operator was told of it.
    said: Said,
}

/// How busy an account is. Of two alike the one that was asked longer ago is less so: idle accounts share what comes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Crowd {
    /// In flight, and those of late that the upstream was too busy for.
    calls: usize,
    last_start: Option<Instant>,
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
            last_start: None,
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

    /// How busy it is, to choose among accounts.
    pub(crate) fn crowd(&self) -> Crowd {
        Crowd { calls: self.in_flight() + self.troubles, last_start: self.last_start }
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
        let is_kept = last.1.is_some();
        let mut later = |at: Instant, why: Wait| {
            if at > last.0 {
                last = (at, Some(why));
            }
        };
        if let Some(until) = self.refusals.scouted_until() {
            later(until, Wait::Ramp);
        }
        self.ramp.take_if(|ramp| ramp.is_over(now));
        if let Some(ramp) = &mut self.ramp {
            later(ramp.ready_at(now), Wait::Ramp);
        }
        if is_kept {
            self.concurrency.kept_by_rate(now);
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
        self.last_start = Some(now);
        self.in_flight.set(self.in_flight.get() + 1);
        let mark = self.concurrency.started(now, self.in_flight.get(), ask.group.0);
        Permit { in_flight: Rc::clone(&self.in_flight), group: ask.group, entered, ticket, capped, mark: Some(mark) }
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
mod tests;
