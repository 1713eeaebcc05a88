//! Attempts end: what each end says of its account, and what its call does next.
//!
//! An attempt ends once, whoever tells of it: the request actor, or its death. Its permit goes back first, and the account's
//! budget learns from the end ([`settle`]); then calls that can no longer have their turn in time are ended; last comes the
//! call itself, if the attempt is still its own: it has its answer, or goes again, moves on, or is given up, as `retry` judges.

use std::sync::Arc;
use std::time::Duration;

use super::attempts::final_error;
use super::breaker::Sign;
use super::budget::{Budget, Kept, Permit, Ready, Rest};
use super::lane::seconds;
use super::ledger::State;
#[cfg(test)]
use super::planted::{self, Bug};
use super::retry::{Verdict, is_free, judge, named_wait};
use super::slots::Busy;
use super::switchboard::Switchboard;
use crate::clock::{self, Instant};
use crate::messages::{
    Account, Answer, AnswerBody, AttemptEnd, AttemptId, Attempted, CallId, Error, ErrorKind, Failure, FailureKind,
    Meta, Opened, Pushback, Sent, SlotId,
};
use crate::providers::classify::{Fate, fate, is_retryable};
use crate::telemetry::events;

/// A shorter hold is over before the next process could run into it.
const WORTH_KEEPING: Duration = Duration::from_secs(5);

impl Switchboard {
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
        let (group, latency) = (busy.permit.group(), now.saturating_duration_since(busy.began));
        self.lanes[lane].tell_news(&account, group, now);
        self.lanes[lane].tallies.entry(group).or_default().answered(latency);
        self.hear(lane, Sign::Life, now, now);
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
        let Busy { id, lane, account, permit, began, price, stream } = busy;
        self.offer_slots();
        if let Some(limits) = end.limits() {
            events::limits_reported(&account.id, limits);
        }
        #[cfg(test)]
        if planted::is(Bug::LeakedPermit) && matches!(end, AttemptEnd::Aborted) {
            std::mem::forget(permit);
            return self.wake(lane);
        }
        let (group, asked) = (permit.group(), permit.asked());
        let kept = match self.lanes[lane].desks.of(&account) {
            Some(desk) => settle(&mut desk.budget, permit, &end, now),
            None => None, // a reload took the account away: the permit gives itself back
        };
        self.lanes[lane].tell_news(&account, group, now);
        self.hear(lane, Sign::of(&end), asked, now);
        let mut stranded = Vec::new();
        match kept {
            Some(Kept::Account(until)) => {
                events::account_held(&account.id, until - now);
                if until > now + WORTH_KEEPING {
                    self.lanes[lane].keep(&account);
                }
            }
            Some(Kept::Model { group, until, is_news }) => {
                let latest = self.lanes[lane].used_up.entry(group).or_insert(until);
                *latest = until.max(*latest);
                if is_news && self.lanes[lane].is_used_up(now, group) {
                    stranded = self.lanes[lane].line.due_before_of(clock::far(now), group);
                }
                if is_news {
                    self.lanes[lane].keep(&account);
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
                let tally = self.lanes[lane].tallies.entry(group).or_default();
                tally.answered(now.saturating_duration_since(began));
                let meta = Meta { usage, cost_usd: tally.settled(usage, price), ..Meta::default() };
                #[cfg(test)]
                let body = planted::mixed_up(body);
                let answer = Answer { status, headers, body: AnswerBody::Whole(body), meta };
                if self.ledger.get(id.call).is_some_and(|entry| entry.is_at(id)) {
                    self.end(id.call, Ok(answer), now);
                }
            }
            AttemptEnd::Streamed { usage, broken } => {
                let cost_usd = self.lanes[lane].tallies.entry(group).or_default().settled(usage, price);
                events::stream_ended(id, usage, cost_usd);
                if let Some(failure) = broken {
                    events::stream_broken(id, &account.id, &failure);
                    // The caller has its error; what it says of the account holds for the others.
                    self.learn(lane, &account, &failure, now);
                }
            }
            AttemptEnd::Failed(failure) => self.failed(id, lane, &account, failure, now),
            // A stream that was called off midway has used what nobody says.
            AttemptEnd::Aborted if stream.is_some() => {
                self.lanes[lane].tallies.entry(group).or_default().settled(None, price);
            }
            AttemptEnd::Aborted => {}
            AttemptEnd::Withheld(error) => {
                if let Some(entry) = self.ledger.get_mut(id.call).filter(|entry| entry.is_at(id)) {
                    entry.unsent += 1;
                    self.end(id.call, Err(error), now);
                }
            }
        }
        #[cfg(test)]
        if planted::is(Bug::LostWakeUp) {
            return;
        }
        self.wake(lane);
    }

    /// The upstream has answered a call and accepted the key.
    fn answered(&mut self, lane: usize, account: &Account, now: Instant) {
        self.lanes[lane].retry_budget.answered(now);
        if let Some(desk) = self.lanes[lane].desks.of(account) {
            desk.budget.answered(now);
        }
    }

    fn failed(&mut self, id: AttemptId, lane: usize, account: &Account, failure: Failure, now: Instant) {
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
        if let Some(durable) = &entry.durable {
            durable.journal.failed(&failure);
            if durable.at_most_once && fate(&failure) != Fate::Unworked {
                return self.end(call, Err(error), now);
            }
        }
        // Another key may do, whatever the policy of retries.
        let never_fits = failure.pushback == Some(Pushback::NeverFits);
        let is_out_of_quota = failure.kind == FailureKind::OutOfQuota;
        let is_of_key = match failure.pushback {
            Some(Pushback::DailyQuota) => is_out_of_quota,
            _ => rest_of(&failure).is_some(),
        };
        let lacks_what_another_has = is_of_key || is_out_of_quota || never_fits || failure.status() == Some(404);
        // No attempt at this target can succeed, whatever is asked of it: it is not set up as it must be.
        let is_misplaced = matches!(failure.kind, FailureKind::Certificate | FailureKind::Redirected);
        let next_may_take = is_retryable(&failure) || lacks_what_another_has || is_unsaid || is_misplaced;
        let message = failure.message.clone();
        let named = named_wait(&failure);
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
            // Nothing waits where nobody answers.
            Verdict::AgainAt(_) | Verdict::AgainWhenReady if self.lanes[lane].breaker.is_open() => {
                let error = self.lanes[lane].broken_error(now);
                self.next_target_or(call, error, now);
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
                )
                .asking_for_time();
                self.next_target_or(call, error, now);
            }
            Verdict::AgainAt(at) => {
                entry.waiting_since = now;
                self.back_off(call, at);
            }
        }
        self.record_again(call, lane, named, now);
    }

    /// A call that has failed at `lane` and goes again has that put on record; `named` is how long the upstream wants to be
    /// left alone.
    fn record_again(&self, call: CallId, lane: usize, named: Option<Duration>, now: Instant) {
        let Some((entry, durable)) = self.ledger.get(call).and_then(|entry| Some((entry, entry.durable.as_ref()?)))
        else {
            return;
        };
        let wait = match entry.state {
            State::BackingOff(again) => again.at().saturating_duration_since(now),
            _ if entry.lane() == lane => named.unwrap_or_default(),
            _ => Duration::ZERO,
        };
        durable.journal.again(entry.counted, wait);
    }

    /// What a failure says about the account, whoever's call it was.
    fn learn(&mut self, lane: usize, account: &Account, failure: &Failure, now: Instant) {
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
            desk.keeping.is_urgent = true;
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
        AttemptEnd::Withheld(_) => {
            budget.withheld(permit, now);
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
