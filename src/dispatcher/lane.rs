//! A budgeted way out: an upstream with its accounts, the calls that wait for it, and what its retries may cost.
//!
//! All of an upstream's models share their accounts' budgets today; a lane per model group is the seam for providers
//! that limit groups of models apart.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::budget::{Budget, Ready, Wait};
use super::line::{Line, Place};
use super::retry::RetryBudget;
use super::timers::DueKey;
use super::window::MINUTE;
use crate::clock::Instant;
use crate::config::{Retry, UpstreamSection};
use crate::messages::{Account, BudgetView, Error, ErrorKind, Priority, Remaining, Upstream};

/// An account and what it may do.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) account: Arc<Account>,
    pub(crate) budget: Budget,
}

/// An upstream as the dispatcher sees it.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) upstream: Arc<Upstream>,
    /// Empty when a new configuration has taken the upstream away.
    pub(crate) desks: Vec<Desk>,
    /// Accounts that a reload took away, and when: one that comes back has not forgotten what it has in flight.
    retired: Vec<(Instant, Desk)>,
    pub(crate) line: Line,
    /// Retries over the retry budget, in the order they go.
    pub(crate) parked: BTreeSet<Place>,
    /// When the retry budget is asked for them again.
    pub(crate) parked_due: Option<DueKey>,
    /// Calls in `line`, parked or in backoff: what the waiting room's capacity bounds.
    pub(crate) waiting: usize,
    pub(crate) retry: Retry,
    pub(crate) retry_budget: RetryBudget,
    /// Its head could have gone, had there been an idle slot.
    pub(crate) wants_slot: bool,
    /// The armed refill, when the head of the line waits for one.
    pub(crate) refill: Option<DueKey>,
    /// What the last refused key was answered; given out while all keys rest.
    pub(crate) last_refusal: Option<Error>,
}

/// Where the head of a line can go.
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

impl Lane {
    pub(crate) fn new(section: &UpstreamSection, slots: usize, now: Instant) -> Self {
        let desk = |account: &Arc<Account>| Desk {
            account: Arc::clone(account),
            budget: Budget::new(section.limits, slots, now),
        };
        Self {
            upstream: Arc::clone(&section.upstream),
            desks: section.accounts.iter().map(desk).collect(),
            retired: Vec::new(),
            line: Line::default(),
            parked: BTreeSet::new(),
            parked_due: None,
            waiting: 0,
            retry: section.retry,
            retry_budget: RetryBudget::new(section.retry.retry_budget, now),
            wants_slot: false,
            refill: None,
            last_refusal: None,
        }
    }

    /// Puts another section in force. An account whose key stays keeps what it has used and is held by.
    pub(crate) fn reconfigure(&mut self, section: &UpstreamSection, slots: usize, now: Instant) {
        self.retire(now);
        let fresh = Lane::new(section, slots, now);
        self.upstream = fresh.upstream;
        self.retry = fresh.retry;
        self.retry_budget.set_share(section.retry.retry_budget);
        self.desks = fresh.desks;
        for desk in &mut self.desks {
            if let Some(place) = self.retired.iter().position(|(_, had)| had.account.key == desk.account.key) {
                desk.budget = self.retired.swap_remove(place).1.budget;
                desk.budget.reconfigure(section.limits, slots, now);
            }
        }
    }

    /// Takes every account away. They are remembered for as long as what they did still counts.
    pub(crate) fn retire(&mut self, now: Instant) {
        self.retired.retain(|(since, desk)| desk.budget.in_flight() > 0 || *since + MINUTE > now);
        self.retired.extend(self.desks.drain(..).map(|desk| (now, desk)));
    }

    /// What is left of a lane when its dispatcher has died, and its calls with it.
    pub(crate) fn without_calls(mut self) -> Self {
        for desk in self.desks.iter_mut().chain(self.retired.iter_mut().map(|(_, desk)| desk)) {
            desk.budget.forget_in_flight();
        }
        Self {
            line: Line::default(),
            parked: BTreeSet::new(),
            parked_due: None,
            waiting: 0,
            wants_slot: false,
            refill: None,
            ..self
        }
    }

    /// The desk of `account`, if it is still there.
    pub(crate) fn desk(&mut self, account: &Account) -> Option<&mut Desk> {
        self.desks.iter_mut().find(|desk| desk.account.key == account.key)
    }

    /// Where a call of `tokens` can go now: of the desks that are ready the one with the fewest in flight.
    pub(crate) fn way(&mut self, now: Instant, tokens: u64) -> Way {
        let mut open: Option<(usize, usize)> = None;
        let mut later: Option<Instant> = None;
        let (mut busy, mut rests_until) = (false, None::<Instant>);
        for (index, desk) in self.desks.iter_mut().enumerate() {
            match desk.budget.ready(now, tokens) {
                Ready::Now => {
                    let in_flight = desk.budget.in_flight();
                    if open.is_none_or(|(_, least)| in_flight < least) {
                        open = Some((index, in_flight));
                    }
                }
                Ready::At(at, _) => later = Some(later.map_or(at, |earliest| earliest.min(at))),
                Ready::WhenOneEnds => busy = true,
                Ready::Resting(until) => rests_until = Some(rests_until.map_or(until, |earliest| earliest.min(until))),
                Ready::Never => {}
            }
        }
        // A key that will have rested is a way, too, while another keeps the call waiting.
        let rested = rests_until.filter(|_| busy || later.is_some());
        match (open, later.into_iter().chain(rested).min()) {
            (Some((index, _)), _) => Way::Open(index),
            (None, Some(at)) => Way::Later(at),
            _ if busy => Way::Busy,
            _ if rests_until.is_some() => Way::Resting,
            _ => Way::Closed,
        }
    }

    /// Why a call that is not in the line yet can never have its turn here: the error it ends with, unless another
    /// upstream takes it. `None` when it may wait. A newcomer stands behind all of its priority; a call that comes back
    /// has its old place. What others may need in tokens does not count: estimates err high and are given back.
    pub(crate) fn refusal(
        &mut self,
        now: Instant,
        priority: Priority,
        tokens: u64,
        deadline: Instant,
        is_newcomer: bool,
    ) -> Option<Error> {
        match self.way(now, tokens) {
            Way::Open(_) if self.line.is_empty() => return None,
            Way::Resting => return Some(self.resting_error()),
            Way::Closed => return Some(self.closed_error(tokens)),
            _ => {}
        }
        let ahead = if is_newcomer { self.line.ahead_of(priority) } else { self.line.above(priority) };
        let (mut requests, mut room) = (0u64, 0u64);
        for desk in &mut self.desks {
            let (more_requests, more_tokens) = desk.budget.room_until(now, deadline);
            requests += more_requests;
            room += more_tokens;
        }
        if requests > ahead && room >= tokens {
            return None;
        }
        Some(self.deadline_error(now, tokens, ahead, deadline))
    }

    /// Until when every account is kept back by the upstream's word or rests; `None` when one is not.
    pub(crate) fn held_until(&self, now: Instant) -> Option<Instant> {
        let until = |desk: &Desk| match desk.budget.held_until(now) {
            Some(until) => Some(until),
            None if desk.budget.is_resting(now) => Some(crate::clock::far(now)),
            None => None,
        };
        let held: Option<Vec<Instant>> = self.desks.iter().map(until).collect();
        held?.into_iter().min()
    }

    /// The last 401, for a call all of whose keys rest.
    pub(crate) fn resting_error(&self) -> Error {
        self.last_refusal.clone().unwrap_or_else(|| {
            Error::new(
                ErrorKind::UpstreamUnavailable,
                format!("every key of {} was refused and rests", self.upstream.name),
            )
        })
    }

    fn closed_error(&self, tokens: u64) -> Error {
        let name = &self.upstream.name;
        if self.desks.is_empty() {
            return Error::new(ErrorKind::ModelNotFound, format!("{name} is no longer configured")).with_param("model");
        }
        Error::new(
            ErrorKind::DeadlineExceeded,
            format!(
                "this call may need {tokens} tokens, more than tokens_per_minute of {name} ever allows; raise it or ask for less"
            ),
        )
    }

    fn deadline_error(&mut self, now: Instant, tokens: u64, ahead: u64, deadline: Instant) -> Error {
        let left = deadline.saturating_duration_since(now);
        let why = self.explain(now, tokens);
        let name = &self.upstream.name;
        let line = if ahead == 0 { String::new() } else { format!(", {ahead} calls stand before it") };
        let error = Error::new(
            ErrorKind::DeadlineExceeded,
            format!("the call's time ({}) cannot be kept: {name}: {why}{line}", seconds(left)),
        );
        match self.held_until(now) {
            Some(until) => error.with_retry_after(until - now),
            None => error,
        }
    }

    /// What keeps a call of `tokens` waiting here, in words.
    pub(crate) fn explain(&mut self, now: Instant, tokens: u64) -> String {
        let mut reasons: Vec<String> = Vec::new();
        for desk in &mut self.desks {
            let id = desk.account.id.clone();
            let reason = match desk.budget.ready(now, tokens) {
                Ready::Now => continue,
                Ready::At(at, Wait::Held) => format!("{id} is {}, for {} more", Wait::Held, seconds(at - now)),
                Ready::At(at, why) => format!("{id}: {why}, the next call may go in {}", seconds(at - now)),
                Ready::WhenOneEnds => format!("{id} has its {} calls in flight", desk.budget.max_in_flight()),
                Ready::Resting(until) => format!("the key of {id} was refused and rests {} more", seconds(until - now)),
                Ready::Never => format!("{id} never allows {tokens} tokens in a minute"),
            };
            reasons.push(match desk.budget.reported.in_words(now) {
                Some(words) => format!("{reason} (the provider says: {words})"),
                None => reason,
            });
        }
        if reasons.is_empty() { "its budget allows too few calls in that time".into() } else { reasons.join("; ") }
    }

    /// What the provider says of its accounts' limits, as the end of a sentence; empty when it says nothing that holds now.
    pub(crate) fn provider_says(&self, now: Instant) -> String {
        let said = |desk: &Desk| Some(format!("{}: {}", desk.account.id, desk.budget.reported.in_words(now)?));
        let said: Vec<String> = self.desks.iter().filter_map(said).collect();
        if said.is_empty() { String::new() } else { format!(" (the provider says of {})", said.join("; of ")) }
    }

    /// What is left of the caps, all accounts together.
    pub(crate) fn budget_view(&mut self, now: Instant) -> BudgetView {
        fn add(sum: Option<Remaining>, one: Option<Remaining>) -> Option<Remaining> {
            let (Some(sum), Some(one)) = (sum, one) else { return sum.or(one) };
            Some(Remaining {
                limit: sum.limit.saturating_add(one.limit),
                remaining: sum.remaining.saturating_add(one.remaining),
                reset: sum.reset.max(one.reset),
            })
        }
        self.desks.iter_mut().fold(BudgetView::default(), |view, desk| BudgetView {
            requests: add(view.requests, desk.budget.remaining_requests(now)),
            tokens: add(view.tokens, desk.budget.remaining_tokens(now)),
        })
    }

    /// Whether a cap on tokens makes estimates worth their while.
    pub(crate) fn counts_tokens(&self) -> bool {
        self.desks.iter().any(|desk| desk.budget.counts_tokens())
    }

    /// Attempts that may start beside those in flight, as far as concurrency goes.
    pub(crate) fn room_in_flight(&self) -> usize {
        let room = |desk: &Desk| desk.budget.max_in_flight().saturating_sub(desk.budget.in_flight());
        self.desks.iter().map(room).sum()
    }

    /// Whether it can take a call now or later without an operator's help.
    pub(crate) fn is_usable(&self, now: Instant) -> bool {
        self.desks.iter().any(|desk| !desk.budget.is_resting(now))
    }
}

/// A duration for people.
pub(super) fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
