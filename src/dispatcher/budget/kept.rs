//! What keeps calls back whatever they ask for: the upstream's word, a key that rests, a day's quota that is used up.
//!
//! These are *known*, not believed, and so they alone, beside the user's caps, may refuse a call that would miss its
//! deadline. A hold and a key's rest are the account's; a day's quota is a model's.

use std::time::Duration;

use super::cap::Cap;
use super::ramp::Ramp;
use super::{Budget, Group, Learned, Rest, UsedUp, day};
use crate::clock::{self, Instant};
use crate::messages::Failure;

/// What a failure keeps back, and until when.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kept {
    /// All calls to the account.
    Account(Instant),
    /// Those of a model whose quota of the day is used up; whether that was not known before.
    Model { group: Group, until: Instant, is_news: bool },
}

impl Budget {
    /// The quota of a model's day is used up.
    pub(super) fn use_up_day(&mut self, group: Group, failure: &Failure, now: Instant) -> Kept {
        let until = clock::after(now, day::used_up_for(failure));
        let learned = self.group(group, now);
        let known = learned.day.as_ref().map(|day| day.until).filter(|until| *until > now);
        if known.is_none_or(|known| known < until) {
            learned.day = Some(UsedUp::new(until));
        }
        Kept::Model { group, until: known.map_or(until, |known| known.max(until)), is_news: known.is_none() }
    }

    /// The upstream says: not before `until`. A shorter hold does not end a longer one.
    pub(super) fn hold(&mut self, now: Instant, until: Instant) {
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
}
