//! Attempts are made, end, and are judged.

use std::sync::Arc;

use super::budget::{Budget, Kept, Permit, Ready, Rest};
use super::lane::seconds;
use super::ledger::State;
#[cfg(test)]
use super::planted::{self, Bug};
use super::retry::{Allowance, Verdict, is_free, judge};
use super::slots::Busy;
use super::switchboard::{Order, Switchboard};
use super::timers::{Due, DueKey};
use super::turn::{Round, Turn};
use crate::clock::{self, Instant};
use crate::messages::{
    Answer, AnswerBody, AttemptEnd, AttemptId, Attempted, CallId, Error, ErrorKind, Failure, FailureKind, Meta,
    NeedSlots, Opened, Pushback, RunAttempt, Sent, SlotId,
};
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
                Turn::Closed(call) => self.reroute(call, now),
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
    fn back_off(&mut self, call: CallId, at: Instant) {
        let Some(entry) = self.ledger.get_mut(call) else { return };
        let lane = entry.targets[entry.target].lane;
        match entry.state {
            State::Waiting => self.lanes[lane].line.remove(entry.place(), entry.ask.group),
            State::Running(_) => self.lanes[lane].waiting += 1,
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
        way_out.waiting -= 1;
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
        self.slots.occupy(slot, Busy { id, lane, account: Arc::clone(&account), permit, stream: None });
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
        let (lane, account) = (busy.lane, Arc::clone(&busy.account));
        let is_waited_for = self.ledger.get(id.call).is_some_and(|entry| entry.is_at(id));
        busy.stream = is_waited_for.then(|| events.tether());
        events::limits_reported(&account.id, &limits);
        if let Some(desk) = self.lanes[lane].desks.of(&account) {
            desk.budget.hear(&mut busy.permit, &limits, now);
        }
        let group = busy.permit.group();
        self.lanes[lane].tell_news(&account, group, now);
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
        let Busy { id, lane, account, permit, .. } = busy;
        self.offer_slots();
        if let Some(limits) = end.limits() {
            events::limits_reported(&account.id, limits);
        }
        #[cfg(test)]
        if planted::is(Bug::LeakedPermit) && matches!(end, AttemptEnd::Aborted) {
            std::mem::forget(permit);
            return self.wake(lane);
        }
        let group = permit.group();
        let kept = match self.lanes[lane].desks.of(&account) {
            Some(desk) => settle(&mut desk.budget, permit, &end, now),
            None => None, // a reload took the account away: the permit gives itself back
        };
        self.lanes[lane].tell_news(&account, group, now);
        let mut stranded = Vec::new();
        match kept {
            Some(Kept::Account(until)) => events::account_held(&account.id, until - now),
            Some(Kept::Model { group, until, is_news }) => {
                let latest = self.lanes[lane].used_up.entry(group).or_insert(until);
                *latest = until.max(*latest);
                if is_news && self.lanes[lane].is_used_up(now, group) {
                    stranded = self.lanes[lane].line.due_before_of(clock::far(now), group);
                }
                if is_news {
                    let target = self.ledger.get(id.call).map(|entry| &entry.targets[entry.target]);
                    events::day_used_up(&account.id, target.and_then(|target| target.model.as_deref()), until - now);
                }
            }
            None => {}
        }
        if kept.is_some() {
            self.expire_hopeless(lane, stranded, now);
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

    /// The upstream has answered a call and accepted the key.
    fn answered(&mut self, lane: usize, account: &crate::messages::Account, now: Instant) {
        self.lanes[lane].retry_budget.answered(now);
        if let Some(desk) = self.lanes[lane].desks.of(account) {
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
        let is_unsaid = failure.kind == FailureKind::Untranslatable;
        if is_free(&failure) || is_unsaid {
            entry.counted -= 1;
        }
        entry.unsent += u32::from(is_unsaid);
        let counted = entry.counted;
        let verdict = judge(&failure, counted, &self.lanes[lane].retry, now, &mut self.dice);
        let error = final_error(&failure, &self.lanes[lane].upstream.name, entry.attempts);
        // Another key may do, whatever the policy of retries.
        let never_fits = failure.pushback == Some(Pushback::NeverFits);
        let is_out_of_quota = failure.kind == FailureKind::OutOfQuota;
        let is_of_key = match failure.pushback {
            Some(Pushback::DailyQuota) => is_out_of_quota,
            _ => rest_of(&failure).is_some(),
        };
        let lacks_what_another_has = is_of_key || is_out_of_quota || never_fits || failure.status() == Some(404);
        let next_may_take = is_retryable(&failure) || lacks_what_another_has || is_unsaid;
        let message = failure.message.clone();
        let (deadline, ask) = (entry.deadline, entry.ask);
        entry.last = Some(Box::new(failure));
        match verdict {
            // When none is left, its own answer is the call's end.
            Verdict::GiveUp if is_of_key && self.lanes[lane].desks.is_open_to(now, ask.group) => {
                entry.counted -= 1;
                self.again_or(call, error, now);
            }
            // Where it is known by now what it is too large for, it does not come back there.
            Verdict::AgainAt(_) | Verdict::AgainWhenReady if never_fits => {
                let desk = self.lanes[lane].desks.of(account);
                match desk.is_some_and(|desk| matches!(desk.budget.ready(now, &ask), Ready::Never(_))) {
                    true => self.again_or(call, error, now),
                    false => self.next_target_or(call, error, now),
                }
            }
            Verdict::GiveUp if next_may_take => self.next_target_or(call, error, now),
            Verdict::GiveUp => self.end(call, Err(error), now),
            Verdict::AgainWhenReady => self.again_or_move(call, None, now),
            Verdict::AgainAt(at) if at >= deadline => {
                let error = Error::new(
                    ErrorKind::DeadlineExceeded,
                    format!(
                        "the next try, in {}, would come after the call's time is up; the attempt before failed: {message}",
                        seconds(at - now)
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
        let Some(desk) = way_out.desks.of(account) else { return };
        if let Some(why) = rest_of(failure) {
            match desk.budget.rest(why, now) {
                Some(length) if why == Rest::Refused => events::key_rests(&account.id, length),
                Some(length) => events::out_of_money(&account.id, failure.status(), length),
                None => {} // it was under way when the rest began
            }
            way_out.last_refusal = Some(final_error(failure, &way_out.upstream.name, 1));
        } else if failure.status().is_some_and(|status| status < 500) {
            desk.budget.wake(now);
        }
    }

    /// Ends the waiting calls that the hold on every account, or a day's quota that is used up at each, has made certain to
    /// miss their deadline. Others that are `stranded` here may have another target.
    fn expire_hopeless(&mut self, lane: usize, stranded: Vec<CallId>, now: Instant) {
        let way_out = &mut self.lanes[lane];
        let mut hopeless = match way_out.desks.held_until(now) {
            Some(until) => way_out.line.due_before(until),
            None => Vec::new(),
        };
        way_out.used_up.retain(|_, until| *until > now);
        for group in way_out.used_up.keys() {
            if let Some(until) = way_out.desks.kept_until(now, *group) {
                hopeless.extend(way_out.line.due_before_of(until, *group));
            }
        }
        for call in hopeless.into_iter().chain(stranded) {
            self.again_or_move(call, None, now);
        }
    }

    /// Puts a call in line again where it was, or ends it with `error`, the upstream's own word, where it can never have its
    /// turn.
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
            Ok((open, ask)) => self.move_to(call, targets, open, ask, now),
            // The refusal names the hold.
            Err(refusal) => self.end(call, Err(error.unwrap_or(*refusal)), now),
        }
    }

    /// The call's target has nothing more to give: the next one takes it, or it ends with `error`.
    fn next_target_or(&mut self, call: CallId, error: Error, now: Instant) {
        let Some(entry) = self.ledger.get(call) else { return };
        let (targets, next) = (entry.targets.clone(), entry.target + 1);
        let (request, deadline) = (Arc::clone(&entry.request), entry.deadline);
        if next < targets.len()
            && let Ok((open, ask)) = self.first_open(&targets, next, &request, deadline, false, now)
        {
            self.move_to(call, targets, open, ask, now);
        } else {
            self.end(call, Err(error), now);
        }
    }

    /// A call's backoff is over, or the retry budget allows it: it stands in line again, at its old place.
    pub(super) fn retry_due(&mut self, call: CallId, now: Instant) {
        self.again_or_move(call, None, now);
    }
}

/// Gives an attempt's permit back, and has the account's budget learn from its end. Gives
/// what is kept back.
fn settle(budget: &mut Budget, mut permit: Permit, end: &AttemptEnd, now: Instant) -> Option<Kept> {
    match end {
        AttemptEnd::Answered { usage, limits, .. } => {
            budget.hear(&mut permit, limits, now);
            budget.settle(permit, usage.map(|usage| usage.tokens()), now);
            None
        }
        AttemptEnd::Streamed { usage, broken } => {
            let held = broken.as_ref().and_then(|failure| budget.held_by(&permit, failure, now));
            budget.settle(permit, usage.map(|usage| usage.tokens()), now);
            held
        }
        AttemptEnd::Failed(failure) => budget.failed(permit, failure, now),
        AttemptEnd::Aborted => {
            budget.settle(permit, None, now);
            None
        }
    }
}

/// Why the key rests behind this failure, if it does.
fn rest_of(failure: &Failure) -> Option<Rest> {
    match failure.pushback {
        _ if failure.kind == FailureKind::KeyRefused => Some(Rest::Refused),
        Some(Pushback::NoMoney) => Some(Rest::NoMoney),
        _ => None,
    }
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
