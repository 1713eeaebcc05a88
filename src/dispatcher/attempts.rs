//! Attempts are made: the first in line goes where an account can take it, a retry where its budget allows it, and a call
//! whose target has nothing more to give moves on to the next. How they come back is in `ends`.

use std::sync::Arc;

use super::intake::Arrival;
use super::ledger::State;
use super::retry::{Allowance, is_free};
use super::slots::Busy;
use super::switchboard::{Order, Switchboard};
use super::timers::{Due, DueKey};
use super::turn::{Round, Turn};
use crate::clock::Instant;
use crate::messages::{AttemptId, CallId, Error, ErrorKind, Failure, FailureKind, NeedSlots, RunAttempt, Sent, SlotId};
use crate::providers::classify::is_retryable;
use crate::telemetry::events;

impl Switchboard {
    /// Starts every attempt of a lane that may start now, and arms the refill for the next.
    pub(super) fn pump(&mut self, lane: usize, now: Instant) {
        self.wanting.remove(&lane);
        let mut round = Round::default();
        let refill = loop {
            match self.lanes[lane].next_turn(now, &mut round) {
                Turn::Goes { place, group, desk } => {
                    let Some(entry) = self.ledger.get(place.call) else {
                        debug_assert!(false, "every call in a line is in the ledger");
                        self.lanes[lane].line.remove(place, group);
                        continue;
                    };
                    let seat = entry.seat;
                    let is_retry = entry.counted > 0 && !entry.last.as_deref().is_some_and(is_free);
                    if is_retry && !self.may_retry(place.call, lane, now) {
                        continue;
                    }
                    let Some(slot) = self.slots.claim(seat) else {
                        self.ask_for_slots(lane, now);
                        break None;
                    };
                    self.lanes[lane].goes_past(place, group, desk, now, &mut round);
                    self.start(place.call, lane, desk, slot, now);
                }
                Turn::Resting(call) => {
                    let error = self.lanes[lane].resting_error();
                    self.next_target_or(call, error, now);
                }
                Turn::Closed(call) => self.closed(call, lane, now),
                // A probe that cannot go after all.
                Turn::Nobody(_) if self.lanes[lane].breaker.is_open() && !self.lanes[lane].line.is_empty() => {
                    self.leave_broken(lane, now);
                }
                Turn::Nobody(at) => break at,
            }
        };
        self.arm_refill(lane, refill);
        self.lanes[lane].tell_why_it_waits(now);
    }

    /// Has a lane looked at again at `at`, or not before something happens.
    fn arm_refill(&mut self, lane: usize, at: Option<Instant>) {
        let way_out = &mut self.lanes[lane];
        if way_out.refill.map(DueKey::at) == at {
            return;
        }
        if let Some(armed) = way_out.refill.take() {
            self.timers.remove(armed);
        }
        way_out.refill = at.map(|at| self.timers.add(at, Due::RefillDue(lane)));
    }

    /// Whether the retry whose turn it is may start; when not, it is set aside until it may ask again, or ended.
    fn may_retry(&mut self, call: CallId, lane: usize, now: Instant) -> bool {
        match self.lanes[lane].retry_budget.ask(now) {
            Allowance::Go => true,
            // Nothing waits where nobody answers.
            Allowance::Wait(_) if self.lanes[lane].breaker.is_open() => {
                self.end_over_budget(call, lane, now);
                false
            }
            Allowance::Wait(at) => {
                self.park(call, lane, at);
                false
            }
            Allowance::End => {
                self.end_over_budget(call, lane, now);
                false
            }
        }
    }

    /// Ends a retry that the budget does not allow, with its last error.
    fn end_over_budget(&mut self, call: CallId, lane: usize, now: Instant) {
        let name = &self.lanes[lane].upstream.name;
        let last = self.ledger.get(call).and_then(|entry| Some((entry.last.as_deref()?, entry.attempts)));
        let error = match last {
            Some((failure, attempts)) => final_error(failure, name, attempts).asking_for_time(),
            None => Error::new(ErrorKind::UpstreamUnavailable, format!("the retry budget of {name} is used up"))
                .asking_for_time(),
        };
        self.next_target_or(call, error, now);
    }

    /// Sets the retry whose turn it is aside until `at`. All that are set aside share one timer: they are not woken
    /// one and all for the one that may go.
    fn park(&mut self, call: CallId, lane: usize, at: Instant) {
        let Some(entry) = self.ledger.get_mut(call) else { return };
        let way_out = &mut self.lanes[lane];
        way_out.line.remove(entry.place(), entry.ask.group);
        way_out.parked.insert(entry.place());
        entry.state = State::Parked;
        if way_out.parked_due.is_none() {
            way_out.parked_due = Some(self.timers.add(at, Due::RetryBudgetDue(lane)));
        }
    }

    /// Lets as many of the retries that are set aside go on as the budget allows now.
    pub(super) fn retry_budget_due(&mut self, lane: usize, now: Instant) {
        let way_out = &mut self.lanes[lane];
        way_out.parked_due = None;
        let allowance = way_out.retry_budget.ask(now);
        let count = match allowance {
            Allowance::Go => way_out.retry_budget.room(now),
            Allowance::End => usize::MAX,
            Allowance::Wait(_) => 0,
        };
        let calls: Vec<CallId> = way_out.parked.iter().take(count).map(|place| place.call).collect();
        for call in calls {
            match allowance {
                Allowance::End => self.end_over_budget(call, lane, now),
                _ => self.retry_due(call, now),
            }
        }
        let way_out = &mut self.lanes[lane];
        if !way_out.parked.is_empty() && way_out.parked_due.is_none() {
            let at = way_out.retry_budget.next_change(now);
            way_out.parked_due = Some(self.timers.add(at, Due::RetryBudgetDue(lane)));
        }
    }

    /// Moves a call from its line, or from its slot, into backoff until `at`.
    pub(super) fn back_off(&mut self, call: CallId, at: Instant) {
        let Some(entry) = self.ledger.get_mut(call) else { return };
        let lane = entry.targets[entry.target].lane;
        match entry.state {
            State::Waiting => self.lanes[lane].line.remove(entry.place(), entry.ask.group),
            State::Running(_) => self.lanes[lane].count_in(entry),
            State::BackingOff(key) => self.timers.remove(key),
            State::Parked => {
                self.lanes[lane].parked.remove(&entry.place());
            }
        }
        entry.state = State::BackingOff(self.timers.add(at, Due::RetryDue(call)));
    }

    /// Asks the pool for as many slots as could be of use now, one for a call of `lane` among them.
    fn ask_for_slots(&mut self, lane: usize, now: Instant) {
        let way_out = &mut self.lanes[lane];
        self.wanting.insert(lane, way_out.line.len().min(way_out.desks.room_in_flight(now)).max(1));
        let total = self.slots.busy() + self.wanting.values().sum::<usize>();
        if total > self.asked_slots {
            self.asked_slots = total;
            self.orders.push(Order::NeedSlots(NeedSlots { total, surplus: Vec::new() }));
        }
    }

    /// A slot is idle, or will be: whoever wanted one may try.
    pub(super) fn offer_slots(&mut self) {
        for lane in std::mem::take(&mut self.wanting).into_keys() {
            self.wake(lane);
        }
    }

    fn start(&mut self, call: CallId, lane: usize, desk: usize, slot: SlotId, now: Instant) {
        let Some(entry) = self.ledger.get_mut(call) else { return };
        let way_out = &mut self.lanes[lane];
        way_out.line.remove(entry.place(), entry.ask.group);
        way_out.count_out(entry);
        let price = entry.targets[entry.target].model.as_deref().and_then(|model| way_out.prices.of(model));
        let desk = way_out.desks.at(desk);
        let permit = desk.budget.reserve(now, &entry.ask);
        let account = Arc::clone(&desk.account);
        if entry.last.as_deref().is_some_and(is_free) {
            // The attempt before has been entered already, and a 429 that names its time costs nothing.
        } else if entry.counted == 0 {
            way_out.retry_budget.first(now);
        } else {
            way_out.retry_budget.retry(now);
        }
        entry.attempts += 1;
        entry.asked = Some(lane);
        entry.counted += 1;
        entry.waited += now.saturating_duration_since(entry.waiting_since);
        entry.state = State::Running(slot);
        if entry.last.as_ref().is_some_and(|last| last.sent == Sent::Maybe && last.answer.is_none()) {
            self.repeats_maybe_billed += 1;
        }
        let id = AttemptId { call, number: entry.attempts };
        events::attempt_started(id, &account.id);
        for awaiting in self.awaiting_attempt.drain(..) {
            // Whoever asked may have gone.
            let _ = awaiting.send(());
        }
        self.slots
            .occupy(slot, Busy { id, lane, account: Arc::clone(&account), permit, began: now, price, stream: None });
        self.orders.push(Order::Run(RunAttempt {
            slot,
            id,
            request: Arc::clone(&entry.request),
            account,
            model: entry.targets[entry.target].model.clone(),
            redactor: self.redactor.clone(),
            durable: entry.durable.clone(),
        }));
    }

    /// Puts a call in line again where it was, or ends it with `error`, the upstream's own word, where it can never have its
    /// turn.
    pub(super) fn again_or(&mut self, call: CallId, error: Error, now: Instant) {
        self.again_or_move(call, Some(error), now);
    }

    pub(super) fn again_or_move(&mut self, call: CallId, error: Option<Error>, now: Instant) {
        let Some(entry) = self.ledger.get(call) else { return };
        if self.lanes[entry.lane()].desks.is_empty() {
            return self.reroute(call, now);
        }
        let (targets, target) = (entry.targets.clone(), entry.target);
        let (request, deadline) = (Arc::clone(&entry.request), entry.deadline);
        let waiting = matches!(entry.state, State::Waiting);
        match self.first_open(&targets, target, &request, deadline, Arrival::Return, now) {
            Ok((open, _)) if open == target && waiting => {}
            Ok((open, ask)) => self.move_to(call, targets, open, ask, now),
            // The refusal names the hold.
            Err(refusal) => self.end(call, Err(error.unwrap_or(*refusal)), now),
        }
    }

    /// The call's target has nothing more to give: the next one takes it, or it ends with `error`.
    pub(super) fn next_target_or(&mut self, call: CallId, error: Error, now: Instant) {
        let Some(entry) = self.ledger.get(call) else { return };
        let (targets, next) = (entry.targets.clone(), entry.target + 1);
        let (request, deadline) = (Arc::clone(&entry.request), entry.deadline);
        if next < targets.len()
            && let Ok((open, ask)) = self.first_open(&targets, next, &request, deadline, Arrival::Return, now)
        {
            self.move_to(call, targets, open, ask, now);
        } else {
            self.end(call, Err(error), now);
        }
    }

    /// The call can never go here: its target is gone from the configuration, or takes none so large.
    fn closed(&mut self, call: CallId, lane: usize, now: Instant) {
        let Some(entry) = self.ledger.get(call) else { return };
        let ask = entry.ask;
        if self.lanes[lane].desks.is_empty() {
            return self.reroute(call, now);
        }
        let error = self.lanes[lane].closed_error(now, &ask);
        self.next_target_or(call, error, now);
    }

    /// A call's backoff is over, or the retry budget allows it: it stands in line again, at its old place.
    pub(super) fn retry_due(&mut self, call: CallId, now: Instant) {
        self.again_or_move(call, None, now);
    }
}

/// The error a call ends with when `failure` was its last.
pub(super) fn final_error(failure: &Failure, upstream: &str, attempts: u32) -> Error {
    let tries = if attempts == 1 { "1 attempt".into() } else { format!("{attempts} attempts") };
    let error = match (failure.kind, &failure.answer) {
        (FailureKind::Redirected, _) => Error::new(
            ErrorKind::UpstreamRedirected,
            format!(
                "{upstream} answered with a redirect, which is never followed; check base_url of [upstreams.{upstream}]"
            ),
        ),
        (FailureKind::Crashed, _) => {
            Error::new(ErrorKind::WorkerCrashed, format!("the request actor crashed; {tries} made to {upstream}"))
        }
        (_, Some((status, headers, body))) => Error::upstream(*status, headers.clone(), body.clone()),
        _ => Error::new(ErrorKind::UpstreamUnavailable, format!("{upstream}: {} ({tries} made)", failure.message)),
    };
    let error = match failure.answer.is_some() && !is_retryable(failure) {
        true => error.lasting(),
        false => error,
    };
    match failure.hint.after {
        Some(after) => error.with_retry_after(after),
        None => error,
    }
}
