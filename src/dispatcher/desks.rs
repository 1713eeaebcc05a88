//! A lane's accounts: where a call can go now.
//!
//! There may be hundreds, and each decision asks few of them: what is known of the others is kept (`view` for where calls
//! can go, `sums` for what is known of all together) and is true until the desk changes, which `touched` writes down, or
//! until a time that the desk itself has named. What decides in the end is always the desk's own budget, asked now.

mod sums;
mod touched;
mod view;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::ask::{Ask, Group};
use super::budget::{Budget, Crowd, Ready};
use super::remembering::Keeping;
use crate::clock::Instant;
use crate::messages::{Account, BudgetView, Priority, Secret, Tokens};
use sums::Sums;
use touched::Touched;
use view::View;

/// An account and what it may do.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) account: Arc<Account>,
    pub(crate) budget: Budget,
    pub(super) keeping: Keeping,
}

impl Desk {
    /// What it says to a call that asks for this. One that waits for an attempt to end says so, whatever else it lacks.
    fn says(&mut self, now: Instant, ask: &Ask) -> Ready {
        let nothing = Ask { tokens: Tokens::default(), ..*ask };
        let is_full = |budget: &mut Budget| budget.ready(now, &nothing) == Ready::WhenOneEnds;
        match self.budget.ready(now, ask) {
            Ready::At(..) if self.budget.in_flight() > 0 && is_full(&mut self.budget) => Ready::WhenOneEnds,
            ready => ready,
        }
    }
}

/// Where a call can go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    /// To this desk, now.
    Open(usize),
    /// Nowhere before then.
    Later(Instant),
    /// Nowhere until an attempt ends.
    Busy,
    /// Nowhere: every key rests.
    Resting,
    /// Nowhere ever: it needs more tokens than any cap allows, or no account is left.
    Closed,
}

/// The times that budgets tell are rounded up by less.
pub(super) const ROUNDING: Duration = Duration::from_micros(10);

/// The desks of a lane.
#[derive(Debug, Default)]
pub(crate) struct Desks {
    desks: Vec<Desk>,
    by_key: HashMap<Option<Secret>, usize>,
    touched: Touched,
    /// Made when the first call of their kind asks.
    views: HashMap<(Priority, Group), View>,
    sums: Sums,
    /// Each decision asks all of them: whoever checks what is decided trusts nothing that is kept.
    #[cfg(test)]
    pub(super) asks_all: bool,
}

impl Desks {
    pub(crate) fn new(desks: Vec<Desk>) -> Self {
        let mut by_key = HashMap::new();
        for (index, desk) in desks.iter().enumerate() {
            by_key.entry(desk.account.key.clone()).or_insert(index);
        }
        let (touched, sums) = (Touched::new(desks.len()), Sums::new(desks.len()));
        Self { desks, by_key, touched, sums, ..Self::default() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.desks.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.desks.len()
    }

    /// Takes all of them away.
    pub(super) fn take(&mut self) -> Vec<Desk> {
        std::mem::take(self).desks
    }

    #[cfg(test)]
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Desk> {
        self.desks.iter()
    }

    /// The desk at this place.
    pub(super) fn get(&self, desk: usize) -> &Desk {
        &self.desks[desk]
    }

    /// Each in turn, to be asked. Whoever changes one takes it by [`Desks::at`] or [`Desks::of`].
    pub(super) fn each(&mut self) -> impl Iterator<Item = &mut Desk> {
        self.desks.iter_mut()
    }

    /// The desk at this place, to be changed.
    pub(crate) fn at(&mut self, desk: usize) -> &mut Desk {
        self.touched.touch(desk);
        &mut self.desks[desk]
    }

    /// The desk of `account`, to be changed, if it is still there.
    pub(crate) fn of(&mut self, account: &Account) -> Option<&mut Desk> {
        let desk = *self.by_key.get(&account.key)?;
        Some(self.at(desk))
    }

    /// What one desk says to a call that asks for this.
    pub(super) fn ready(&mut self, desk: usize, now: Instant, ask: &Ask) -> Ready {
        self.desks[desk].budget.ready(now, ask)
    }

    /// Where a call that asks for this can go now, desks that are `kept` for others aside: of those that are ready the one
    /// with the least crowd. The time that is named may be too early, when it is that of a smaller call.
    pub(super) fn way(&mut self, now: Instant, ask: &Ask, kept: impl Fn(usize) -> bool) -> Way {
        #[cfg(test)]
        if self.asks_all {
            return self.way_of_all(now, ask, kept);
        }
        let count = self.desks.len();
        let view = self.views.entry((ask.priority, ask.group)).or_insert_with(|| View::new(count));
        let way = view.way(&mut self.desks, &self.touched, now, ask, &kept);
        debug_assert!(
            way.agrees_with(self.way_of_all(now, ask, &kept), now),
            "at {now:?} {way:?}, and {:?}",
            self.way_of_all(now, ask, &kept)
        );
        way
    }

    /// The same, of all desks asked one by one.
    fn way_of_all(&mut self, now: Instant, ask: &Ask, kept: impl Fn(usize) -> bool) -> Way {
        let mut open: Option<(Crowd, usize)> = None;
        let mut later: Option<Instant> = None;
        let (mut waits, mut rests_until) = (false, None::<Instant>);
        let sooner = |had: Option<Instant>, at: Instant| Some(had.map_or(at, |had| had.min(at)));
        for (index, desk) in self.desks.iter_mut().enumerate() {
            match desk.says(now, ask) {
                Ready::Now if kept(index) => waits = true,
                Ready::Now => open = open.into_iter().chain([(desk.budget.crowd(), index)]).min(),
                Ready::At(at, _) => later = sooner(later, at),
                Ready::WhenOneEnds => waits = true,
                Ready::Resting(until, _) => rests_until = sooner(rests_until, until),
                Ready::Never(_) => {}
            }
        }
        waits |= later.is_some();
        match (open, later.into_iter().chain(rests_until).min()) {
            (Some((_, index)), _) => Way::Open(index),
            (None, Some(at)) if waits => Way::Later(at),
            (None, None) if waits => Way::Busy,
            (None, Some(_)) => Way::Resting,
            (None, None) => Way::Closed,
        }
    }

    fn sums(&mut self, now: Instant) -> &Sums {
        self.sums.at(&mut self.desks, &self.touched, now)
    }

    /// Attempts that may start beside those in flight, as far as concurrency goes.
    pub(crate) fn room_in_flight(&mut self, now: Instant) -> usize {
        self.sums(now).room_in_flight()
    }

    /// Whether one can take a call now or later without an operator's help.
    pub(crate) fn is_usable(&mut self, now: Instant) -> bool {
        self.sums(now).is_usable()
    }

    /// Whether one could take calls of a model but for a hold: its key does not rest, and its quota of the day is not used up.
    pub(crate) fn is_open_to(&mut self, now: Instant, group: Group) -> bool {
        self.desks.iter().any(|desk| !desk.budget.is_resting(now) && desk.budget.used_up_until(now, group).is_none())
    }

    /// The first time at which one of them does not keep back all calls of a model; `None` when one does not now.
    pub(crate) fn kept_until(&self, now: Instant, group: Group) -> Option<Instant> {
        self.desks.iter().map(|desk| desk.budget.kept_until(now, group)).reduce(|one, other| Some(one?.min(other?)))?
    }

    /// Until when every one is kept back by the upstream's word or rests; `None` when one is not.
    pub(crate) fn held_until(&mut self, now: Instant) -> Option<Instant> {
        self.sums(now).held_until()
    }

    /// What is left of the caps, all together, as of a moment ago at most.
    pub(crate) fn budget_view(&mut self, now: Instant) -> BudgetView {
        self.sums.left(&mut self.desks, &self.touched, now)
    }
}

impl Way {
    /// Whether this, learned from what is kept, is as good as `exact`, learned from all.
    fn agrees_with(self, exact: Self, now: Instant) -> bool {
        match (self, exact) {
            (Way::Open(one), Way::Open(other)) => one == other,
            (Way::Later(at), Way::Open(_)) => at < now + ROUNDING,
            (Way::Open(_) | Way::Closed, _) | (_, Way::Open(_) | Way::Closed) => self == exact,
            (Way::Later(at), Way::Later(exact)) => at < exact + ROUNDING,
            _ => true,
        }
    }
}
