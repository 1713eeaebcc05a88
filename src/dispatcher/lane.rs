//! A budgeted way out: an upstream with its accounts, the calls that wait for it, and what its retries may cost.
//!
//! Its calls are kept apart by model (`groups`), whose limits a provider may keep apart; whose turn it is is said in `turn`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::ask::{Ask, Group};
use super::breaker::Breaker;
use super::budget::{Budget, MINUTE, Ready};
use super::desks::{Desk, Desks, Way};
use super::groups::Groups;
use super::ledger::Entry;
use super::line::{Line, Place};
use super::remembering::Keeping;
use super::retry::RetryBudget;
use super::tally::Tally;
use super::timers::DueKey;
use crate::clock::Instant;
use crate::config::{Prices, Retry, UpstreamSection};
use crate::messages::{Account, Error, ErrorKind, Upstream};
use crate::telemetry::events;

/// An upstream as the dispatcher sees it.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) upstream: Arc<Upstream>,
    /// Empty when a new configuration has taken the upstream away.
    pub(crate) desks: Desks,
    pub(super) groups: Groups,
    /// Accounts that a reload took away, and when: one that comes back has not forgotten what it has in flight.
    retired: Vec<(Instant, Desk)>,
    pub(crate) line: Line,
    /// Retries over the retry budget, in the order they go.
    pub(crate) parked: BTreeSet<Place>,
    /// When the retry budget is asked for them again.
    pub(crate) parked_due: Option<DueKey>,
    /// Calls in `line`, parked or in backoff.
    pub(crate) waiting: usize,
    /// Those of them that are kept elsewhere, too, and take no place in the waiting room.
    pub(super) durable: usize,
    pub(crate) retry: Retry,
    pub(crate) retry_budget: RetryBudget,
    pub(crate) breaker: Breaker,
    /// When it is looked whether the breaker opens.
    pub(crate) breaker_due: Option<DueKey>,
    /// The armed refill, when nobody can go before it.
    pub(crate) refill: Option<DueKey>,
    /// Models whose quota of the day is used up at an account, and until when at the latest.
    pub(crate) used_up: BTreeMap<Group, Instant>,
    pub(super) prices: Prices,
    /// What answered calls have used and cost.
    pub(super) tallies: BTreeMap<Group, Tally>,
    /// What the first in line waited for when it was last said, and when that was.
    pub(super) said: Option<(&'static str, Instant)>,
    /// What the last key that went to rest was answered; given out while all keys rest.
    pub(crate) last_refusal: Option<Error>,
}

impl Lane {
    pub(crate) fn new(section: &UpstreamSection, slots: usize, now: Instant) -> Self {
        let desk = |account: &Arc<Account>| Desk {
            account: Arc::clone(account),
            budget: Budget::new(section.limits, slots, now),
            keeping: Keeping::default(),
        };
        Self {
            upstream: Arc::clone(&section.upstream),
            desks: Desks::new(section.accounts.iter().map(desk).collect()),
            groups: Groups::default(),
            retired: Vec::new(),
            line: Line::default(),
            parked: BTreeSet::new(),
            parked_due: None,
            waiting: 0,
            durable: 0,
            retry: section.retry,
            retry_budget: RetryBudget::new(section.retry.retry_budget, now),
            breaker: Breaker::default(),
            breaker_due: None,
            refill: None,
            used_up: BTreeMap::new(),
            prices: section.prices.clone(),
            tallies: BTreeMap::new(),
            said: None,
            last_refusal: None,
        }
    }

    /// Puts another section in force. An account whose key stays keeps what it has used and is held by.
    pub(crate) fn reconfigure(&mut self, section: &UpstreamSection, slots: usize, now: Instant) {
        self.retire(now);
        let fresh = Lane::new(section, slots, now);
        self.upstream = fresh.upstream;
        self.retry = fresh.retry;
        self.prices = fresh.prices;
        self.retry_budget.set_share(section.retry.retry_budget);
        self.desks = fresh.desks;
        for desk in self.desks.each() {
            if let Some(place) = self.retired.iter().position(|(_, had)| had.account.key == desk.account.key) {
                desk.budget = self.retired.swap_remove(place).1.budget;
                desk.budget.reconfigure(section.limits, slots);
            }
        }
    }

    /// Takes every account away. They are remembered for as long as what they did still counts. The breaker is closed: the
    /// operator may have mended what it opened for.
    pub(crate) fn retire(&mut self, now: Instant) {
        if let Some(open) = std::mem::take(&mut self.breaker).answered(now) {
            events::breaker_closed(&self.upstream.name, open, "the configuration was read again");
        }
        self.retired.retain(|(since, desk)| desk.budget.in_flight() > 0 || *since + MINUTE > now);
        self.retired.extend(self.desks.take().into_iter().map(|desk| (now, desk)));
        self.line.forget_desks();
    }

    /// What is left of a lane when its dispatcher has died, and its calls with it.
    pub(crate) fn without_calls(mut self) -> Self {
        self.desks = Desks::new(self.desks.take());
        for desk in self.desks.each().chain(self.retired.iter_mut().map(|(_, desk)| desk)) {
            desk.budget.forget_in_flight();
        }
        Self {
            line: Line::default(),
            parked: BTreeSet::new(),
            parked_due: None,
            breaker_due: None,
            waiting: 0,
            durable: 0,
            refill: None,
            ..self
        }
    }

    /// `entry` waits here from now on.
    pub(super) fn count_in(&mut self, entry: &Entry) {
        self.waiting += 1;
        self.durable += usize::from(entry.durable.is_some());
    }

    /// `entry` waits here no longer.
    pub(super) fn count_out(&mut self, entry: &Entry) {
        self.waiting -= 1;
        self.durable -= usize::from(entry.durable.is_some());
    }

    /// The group of calls to `model`, by its name at the upstream.
    pub(crate) fn group_of(&mut self, model: Option<&str>) -> Group {
        self.groups.of(model)
    }

    /// Why a call that is not in the line yet can never have its turn here: the error it ends with, unless another
    /// upstream takes it. `None` when it may wait. A newcomer stands behind all of its priority; a call that comes back
    /// has its old place. What others may need in tokens does not count: estimates err high and are given back.
    pub(crate) fn refusal(&mut self, now: Instant, ask: &Ask, deadline: Instant, is_newcomer: bool) -> Option<Error> {
        match self.desks.way(now, ask, |_| false) {
            Way::Resting => return Some(self.resting_error()),
            Way::Closed => return Some(self.closed_error(now, ask)),
            way if self.is_broken(way, now) => return Some(self.broken_error(now)),
            Way::Open(_) if self.line.is_empty() => return None,
            _ => {}
        }
        let ahead = if is_newcomer { self.line.ahead_of(ask.priority) } else { self.line.above(ask.priority) };
        let (mut requests, mut room) = (0u64, 0u64);
        for desk in self.desks.each() {
            if matches!(desk.budget.ready(now, ask), Ready::Never(_)) {
                continue;
            }
            let (more_requests, more_tokens) = desk.budget.room_until(now, deadline, ask.group);
            requests += more_requests;
            room += more_tokens;
            if requests > ahead && room >= ask.tokens.total() {
                return None;
            }
        }
        Some(self.deadline_error(now, ask, ahead, deadline))
    }

    /// Whether the quota of a model's day is used up at every account whose key does not rest.
    pub(crate) fn is_used_up(&mut self, now: Instant, group: Group) -> bool {
        self.used_up.contains_key(&group) && !self.desks.is_open_to(now, group)
    }

    /// The upstream's last word on a key that rests, for a call all of whose keys do.
    pub(crate) fn resting_error(&self) -> Error {
        self.last_refusal.clone().unwrap_or_else(|| {
            Error::new(
                ErrorKind::UpstreamUnavailable,
                format!("every key of {} was refused or is out of credit, and rests", self.upstream.name),
            )
        })
    }

    pub(super) fn closed_error(&mut self, now: Instant, ask: &Ask) -> Error {
        let name = &self.upstream.name;
        if self.desks.is_empty() {
            return Error::new(ErrorKind::ModelNotFound, format!("{name} is no longer configured")).with_param("model");
        }
        let beyond = self.desks.each().find_map(|desk| match desk.budget.ready(now, ask) {
            Ready::Never(beyond) => Some(beyond),
            _ => None,
        });
        let beyond = beyond.map_or_else(|| "more than its accounts allow".to_owned(), |beyond| beyond.to_string());
        let tokens = ask.tokens.total();
        Error::new(
            ErrorKind::DeadlineExceeded,
            format!("this call may need {tokens} tokens, for {name} {beyond}; ask for less"),
        )
    }

    fn deadline_error(&mut self, now: Instant, ask: &Ask, ahead: u64, deadline: Instant) -> Error {
        let left = deadline.saturating_duration_since(now);
        let why = self.explain(now, ask);
        let name = &self.upstream.name;
        let line = match ahead {
            0 => String::new(),
            1 => "; one call stands before it".to_owned(),
            ahead => format!("; {ahead} calls stand before it"),
        };
        let error = Error::new(
            ErrorKind::DeadlineExceeded,
            format!("the call's time ({}) cannot be kept: {name}: {why}{line}", seconds(left)),
        )
        .asking_for_time();
        match self.desks.kept_until(now, ask.group) {
            Some(until) => error.with_retry_after(until - now),
            None => error,
        }
    }
}

/// A duration for people.
pub(super) fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
