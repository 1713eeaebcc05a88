//! Attempts are made, end, and are judged.

use std::sync::Arc;

use super::lane::Way;
use super::ledger::State;
#[cfg(test)]
use super::planted::{self, Bug};
use super::retry::{Allowance, Verdict, is_free, judge, named_wait};
use super::slots::Busy;
use super::switchboard::{Order, Switchboard};
use super::timers::Due;
use crate::clock::{self, Instant};
use crate::messages::{
    Answer, AnswerBody, AttemptEnd, AttemptId, Attempted, CallId, Error, ErrorKind, Failure, FailureKind, LimitReport,
    Meta, NeedSlots, Opened, RunAttempt, Sent, SlotId,
};
use crate::providers::classify::is_retryable;
use crate::telemetry::events;

impl Switchboard {
    /// Starts every attempt of a lane that may start now, and arms the refill for the next.
    pub(super) fn pump(&mut self, lane: usize, now: Instant) {
        loop {
            let way_out = &mut self.lanes[lane];
            let Some((head, tokens)) = way_out.line.head() else { break };
            let way = way_out.way(now, tokens);
            if !matches!(way, Way::Later(_))
                && let Some(armed) = way_out.refill.take()
            {
                self.timers.remove(armed);
            }
            match way {
                Way::Open(desk) => {
                    let Some(entry) = self.ledger.get(head.call) else {
                        debug_assert!(false, "every call in a line is in the ledger");
                        self.lanes[lane].line.remove(head);
                        continue;
                    };
                    let is_retry = entry.counted > 0 && !entry.last.as_deref().is_some_and(is_free);
                    if is_retry && !self.may_retry(head.call, lane, now) {
                        continue;
                    }
                    let seat = self.ledger.get(head.call).and_then(|entry| entry.seat);
                    let Some(slot) = self.slots.claim(seat) else {
                        self.lanes[lane].wants_slot = true;
                        self.ask_for_slots();
                        break;
                    };
                    self.start(head.call, lane, desk, slot, now);
                }
                Way::Later(at) => {
                    let way_out = &mut self.lanes[lane];
                    if way_out.refill.is_none_or(|armed| armed.at() != at) {
                        if let Some(armed) = way_out.refill.take() {
                            self.timers.remove(armed);
                        }
                        way_out.refill = Some(self.timers.add(at, Due::RefillDue(lane)));
                    }
                    break;
                }
                Way::Busy => break,
                Way::Resting => {
                    let error = self.lanes[lane].resting_error();
                    self.next_target_or(head.call, error, now);
                }
                Way::Closed => self.reroute(head.call, now),
            }
        }
    }

    /// Whether the retry at the head of a line may start; when not, it is set aside until it may ask again, or ended.
    fn may_retry(&mut self, call: CallId, lane: usize, now: Instant) -> bool {
        match self.lanes[lane].retry_budget.ask(now) {
            Allowance::Go => true,
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
            Some((failure, attempts)) => final_error(failure, name, attempts),
            None => Error::new(ErrorKind::UpstreamUnavailable, format!("the retry budget of {name} is used up")),
        };
        self.next_target_or(call, error, now);
    }

    /// Sets the retry at the head of a line aside until `at`. All that are set aside share one timer: they are not woken
    /// one and all for the one that may go.
    fn park(&mut self, call: CallId, lane: usize, at: Instant) {
        let Some(entry) = self.ledger.get_mut(call) else { return };
        let way_out = &mut self.lanes[lane];
        way_out.line.remove(entry.place());
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
    fn back_off(&mut self, call: CallId, at: Instant) {
        let Some(entry) = self.ledger.get_mut(call) else { return };
        let lane = entry.targets[entry.target].lane;
        match entry.state {
            State::Waiting => self.lanes[lane].line.remove(entry.place()),
            State::Running(_) => self.lanes[lane].waiting += 1,
            State::BackingOff(key) => self.timers.remove(key),
            State::Parked => {
                self.lanes[lane].parked.remove(&entry.place());
            }
        }
        entry.state = State::BackingOff(self.timers.add(at, Due::RetryDue(call)));
    }

    fn ask_for_slots(&mut self) {
        let could_run = |lane: &super::lane::Lane| lane.line.len().min(lane.room_in_flight());
        let waiting: usize = self.lanes.iter().map(could_run).sum();
        let total = self.slots.busy() + waiting;
        if total > self.asked_slots {
            self.asked_slots = total;
            self.orders.push(Order::NeedSlots(NeedSlots { total, surplus: Vec::new() }));
        }
    }

    /// A slot is idle, or will be: whoever wanted one may try.
    pub(super) fn offer_slots(&mut self) {
        for lane in 0..self.lanes.len() {
            if std::mem::take(&mut self.lanes[lane].wants_slot) {
                self.wake(lane);
            }
        }
    }

    fn start(&mut self, call: CallId, lane: usize, desk: usize, slot: SlotId, now: Instant) {
        let Some(entry) = self.ledger.get_mut(call) else { return };
        let way_out = &mut self.lanes[lane];
        way_out.line.remove(entry.place());
        way_out.waiting -= 1;
        let permit = way_out.desks[desk].budget.reserve(now, entry.tokens);
        let account = Arc::clone(&way_out.desks[desk].account);
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
        self.slots.occupy(slot, Busy { id, lane, account: Arc::clone(&account), permit, sent: now, stream: None });
        self.orders.push(Order::Run(RunAttempt {
            slot,
            id,
            request: Arc::clone(&entry.request),
            account,
            model: entry.targets[entry.target].model.clone(),
            redactor: self.redactor.clone(),
        }));
    }

    /// A stream has shown its first content: the caller gets it, and the call has had its end.
    pub(crate) fn opened(&mut self, opened: Opened, now: Instant) {
        let Opened { slot, id, status, headers, limits, mut events } = opened;
        let Some(busy) = self.slots.busy_with(slot, id) else { return };
        let (lane, account, sent) = (busy.lane, Arc::clone(&busy.account), busy.sent);
        let is_waited_for = self.ledger.get(id.call).is_some_and(|entry| entry.is_at(id));
        busy.stream = is_waited_for.then(|| events.tether());
        self.limits_reported(lane, &account, &limits, sent, now);
        if !is_waited_for {
            return; // cancelled; the stream's receiver is dropped here, and an abort is on its way
        }
        self.answered(lane, &account, now);
        // A key that rested may be awake again.
        self.wake(lane);
        let answer = Answer { status, headers, body: AnswerBody::Stream(events), meta: Meta::default() };
        self.end(id.call, Ok(answer), now);
    }

    /// An attempt has ended and its slot is free.
    pub(crate) fn attempted(&mut self, attempted: Attempted, now: Instant) {
        let Attempted { slot, id, end } = attempted;
        match self.slots.free(slot, id) {
            Some(busy) => self.ended(busy, end, now),
            None => events::stale_end(id, slot),
        }
    }

    /// A slot has died, and what it was busy with has ended with it.
    pub(crate) fn slot_gone(&mut self, slot: SlotId, now: Instant) {
        if let Some(busy) = self.slots.gone(slot) {
            let failure = Failure::new(
                FailureKind::Crashed,
                Sent::Maybe,
                "the request actor crashed",
                format!("slot {} died in generation {}", slot.index, slot.generation),
            );
            self.ended(busy, AttemptEnd::Failed(failure), now);
        }
    }

    fn ended(&mut self, busy: Busy, end: AttemptEnd, now: Instant) {
        let Busy { id, lane, account, permit, sent, .. } = busy;
        self.offer_slots();
        if let Some(limits) = end.limits() {
            self.limits_reported(lane, &account, limits, sent, now);
        }
        let used = match &end {
            AttemptEnd::Answered { usage, .. } | AttemptEnd::Streamed { usage, .. } => *usage,
            AttemptEnd::Failed(_) | AttemptEnd::Aborted => None,
        };
        #[cfg(test)]
        if planted::is(Bug::LeakedPermit) && matches!(end, AttemptEnd::Aborted) {
            std::mem::forget(permit);
            return self.wake(lane);
        }
        match self.lanes[lane].desk(&account) {
            Some(desk) => desk.budget.settle(permit, used.map(|usage| usage.total())),
            None => drop(permit),
        }
        match end {
            AttemptEnd::Answered { status, headers, body, usage, .. } => {
                self.answered(lane, &account, now);
                let meta = Meta { usage, ..Meta::default() };
                #[cfg(test)]
                let body = planted::mixed_up(body);
                let answer = Answer { status, headers, body: AnswerBody::Whole(body), meta };
                if self.ledger.get(id.call).is_some_and(|entry| entry.is_at(id)) {
                    self.end(id.call, Ok(answer), now);
                }
            }
            AttemptEnd::Streamed { broken, .. } => {
                if let Some(failure) = broken {
                    events::stream_broken(id, &account.id, &failure);
                    // The caller has its error; what it says of the account holds for the others.
                    self.learn(lane, &account, &failure, now);
                }
            }
            AttemptEnd::Failed(failure) => self.failed(id, lane, &account, failure, now),
            AttemptEnd::Aborted => {}
        }
        #[cfg(test)]
        if planted::is(Bug::LostWakeUp) {
            return;
        }
        self.wake(lane);
    }

    /// A response to an attempt that was `sent` then has said something of the account's limits.
    fn limits_reported(
        &mut self,
        lane: usize,
        account: &crate::messages::Account,
        limits: &LimitReport,
        sent: Instant,
        now: Instant,
    ) {
        if limits.is_empty() {
            return;
        }
        events::limits_reported(&account.id, limits);
        if let Some(desk) = self.lanes[lane].desk(account) {
            desk.budget.reported.note(limits, sent, now);
        }
    }

    /// The upstream has answered a call and accepted the key.
    fn answered(&mut self, lane: usize, account: &crate::messages::Account, now: Instant) {
        self.lanes[lane].retry_budget.answered(now);
        if let Some(desk) = self.lanes[lane].desk(account) {
            desk.budget.answered(now);
        }
    }

    fn failed(
        &mut self,
        id: AttemptId,
        lane: usize,
        account: &crate::messages::Account,
        failure: Failure,
        now: Instant,
    ) {
        events::attempt_failed(id, &account.id, &failure);
        self.learn(lane, account, &failure, now);
        let call = id.call;
        let Some(entry) = self.ledger.get_mut(call).filter(|entry| entry.is_at(id)) else { return };
        if is_free(&failure) {
            entry.counted -= 1;
        }
        let counted = entry.counted;
        let verdict = judge(&failure, counted, &self.lanes[lane].retry, now, &mut self.dice);
        let error = final_error(&failure, &self.lanes[lane].upstream.name, entry.attempts);
        let refused = failure.kind == FailureKind::KeyRefused;
        let next_may_take = is_retryable(&failure) || refused || lacks_what_another_has(&failure);
        let message = failure.message.clone();
        let deadline = entry.deadline;
        entry.last = Some(Box::new(failure));
        match verdict {
            // Another key may be accepted; when none is left, the pump hands out the 401.
            Verdict::GiveUp if refused && self.lanes[lane].is_usable(now) => {
                entry.counted -= 1;
                self.again_or(call, error, now);
            }
            Verdict::GiveUp if next_may_take => self.next_target_or(call, error, now),
            Verdict::GiveUp => self.end(call, Err(error), now),
            Verdict::AgainWhenReady => self.again_or(call, error, now),
            Verdict::AgainAt(at) if at >= deadline => {
                let said = self.lanes[lane].provider_says(now);
                let error = Error::new(
                    ErrorKind::DeadlineExceeded,
                    format!(
                        "the next try would come after the call's time is up; the attempt before failed: {message}{said}"
                    ),
                );
                self.next_target_or(call, error, now);
            }
            Verdict::AgainAt(at) => {
                entry.waiting_since = now;
                self.back_off(call, at);
            }
        }
    }

    /// What a failure says about the account, whoever's call it was.
    fn learn(&mut self, lane: usize, account: &crate::messages::Account, failure: &Failure, now: Instant) {
        let way_out = &mut self.lanes[lane];
        if failure.status().is_some_and(|status| status < 500) {
            way_out.retry_budget.answered(now);
        }
        let Some(desk) = way_out.desk(account) else { return };
        if failure.kind == FailureKind::KeyRefused {
            desk.budget.rest(now);
            let error = final_error(failure, &way_out.upstream.name, 1);
            way_out.last_refusal = Some(error);
            events::key_rests(&account.id);
        } else if failure.status().is_some_and(|status| status < 500) {
            desk.budget.wake();
        }
        let hold = named_wait(failure).filter(|_| failure.kind != FailureKind::OutOfQuota);
        if let (Some(after), Some(desk)) = (hold, way_out.desk(account)) {
            desk.budget.hold(now, clock::after(now, after));
            events::account_held(&account.id, after);
            self.expire_hopeless(lane, now);
        }
    }

    /// Ends the waiting calls that the hold on every account has made certain to miss their deadline.
    fn expire_hopeless(&mut self, lane: usize, now: Instant) {
        let Some(until) = self.lanes[lane].held_until(now) else { return };
        for call in self.lanes[lane].line.due_before(until) {
            self.again_or_move(call, None, now);
        }
    }

    /// Puts a call in line again where it was, unless it is certain to miss its deadline there.
    fn again_or(&mut self, call: CallId, error: Error, now: Instant) {
        self.again_or_move(call, Some(error), now);
    }

    fn again_or_move(&mut self, call: CallId, error: Option<Error>, now: Instant) {
        let Some(entry) = self.ledger.get(call) else { return };
        if self.lanes[entry.lane()].desks.is_empty() {
            return self.reroute(call, now);
        }
        let (targets, target) = (entry.targets.clone(), entry.target);
        let (request, deadline) = (Arc::clone(&entry.request), entry.deadline);
        let waiting = matches!(entry.state, State::Waiting);
        match self.first_open(&targets, target, &request, deadline, false, now) {
            Ok((open, _)) if open == target && waiting => {}
            Ok((open, tokens)) => self.move_to(call, targets, open, tokens, now),
            // The refusal names the hold; a key's refusal is the upstream's own word.
            Err(refusal) => {
                let own_word = error.filter(|error| error.status() == 401);
                self.end(call, Err(own_word.unwrap_or(*refusal)), now);
            }
        }
    }

    /// The call's target has nothing more to give: the next one takes it, or it ends with `error`.
    fn next_target_or(&mut self, call: CallId, error: Error, now: Instant) {
        let Some(entry) = self.ledger.get(call) else { return };
        let (targets, next) = (entry.targets.clone(), entry.target + 1);
        let (request, deadline) = (Arc::clone(&entry.request), entry.deadline);
        if next < targets.len()
            && let Ok((open, tokens)) = self.first_open(&targets, next, &request, deadline, false, now)
        {
            self.move_to(call, targets, open, tokens, now);
        } else {
            self.end(call, Err(error), now);
        }
    }

    /// A call's backoff is over, or the retry budget allows it: it stands in line again, at its old place.
    pub(super) fn retry_due(&mut self, call: CallId, now: Instant) {
        self.again_or_move(call, None, now);
    }
}

/// Whether another upstream may well answer where this one would not: it knows no such model, or its credit is used up.
fn lacks_what_another_has(failure: &Failure) -> bool {
    failure.kind == FailureKind::OutOfQuota || failure.status() == Some(404)
}

/// The error a call ends with when `failure` was its last.
fn final_error(failure: &Failure, upstream: &str, attempts: u32) -> Error {
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
    match failure.hint.after {
        Some(after) => error.with_retry_after(after),
        None => error,
    }
}
