//! Calls come in, wait, and leave before their turn.

use std::time::Duration;

use super::ask::Ask;
use super::lane::seconds;
use super::ledger::{Entry, State, Target};
use super::switchboard::Switchboard;
use super::timers::Due;
use super::{Submit, draining};
use crate::clock::{self, Instant};
use crate::config::Config;
use crate::messages::{CallId, Error, ErrorKind, Meta, Request};
use crate::providers::tokens;
use crate::telemetry::events;

/// How a call comes to a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Arrival {
    /// For the first time.
    Newcomer,
    /// For the first time, and kept elsewhere, too: it takes no place in the waiting room.
    Job,
    /// It has its place already.
    Return,
}

/// What the caller of a model is told that nobody serves, or none who takes such calls.
pub(crate) fn nobody_serves(config: &Config, request: &Request) -> Error {
    let model = request.model().unwrap_or_default();
    let message = match config.targets(model).first() {
        Some((upstream, _)) => {
            let path = request.endpoint().path();
            format!("the model {model:?} is served by {upstream}, which takes no calls to {path}")
        }
        None => format!("no upstream serves the model {model:?}; GET /v1/models lists the names that can be called"),
    };
    Error::new(ErrorKind::ModelNotFound, message).with_param("model")
}

impl Switchboard {
    /// Takes a call in, or tells its caller at once why not.
    pub(crate) fn accept(&mut self, mut submit: Submit, now: Instant) {
        submit.admitted.arrive();
        if self.ledger.contains(submit.id) {
            let message = "a call of this id is under way; make each call with a fresh id";
            let _ = submit.reply.send(Err(Error::new(ErrorKind::InvalidRequest, message)));
            return;
        }
        if self.draining {
            let _ = submit.reply.send(Err(draining()));
            return;
        }
        let request = &submit.request;
        let targets = self.targets(request);
        let deadline = clock::after(now, request.timeout().unwrap_or(self.config.queue.default_timeout));
        let arrival = if submit.durable.is_some() { Arrival::Job } else { Arrival::Newcomer };
        let (target, ask) = match self.first_open(&targets, 0, &submit.request, deadline, arrival, now) {
            Ok(open) => open,
            Err(error) => {
                let error = *error;
                let error = match targets.first() {
                    Some(target) => {
                        let budget = self.lanes[target.lane].desks.budget_view(now);
                        error.with_meta(Meta { budget, ..Meta::default() })
                    }
                    None => error,
                };
                let outcome = Err(error);
                events::call_ended(submit.id, &outcome);
                #[cfg(test)]
                super::check::left(submit.id);
                let _ = submit.reply.send(outcome);
                return;
            }
        };
        let lane = targets[target].lane;
        let (attempts, counted) = submit.durable.as_ref().map_or((0, 0), |had| (had.attempts, had.counted));
        let entry = Box::new(Entry {
            id: submit.id,
            request: submit.request,
            reply: submit.reply,
            seat: submit.seat,
            durable: submit.durable,
            _admitted: submit.admitted,
            state: State::Waiting,
            deadline,
            deadline_due: self.timers.add(deadline, Due::DeadlineDue(submit.id)),
            targets,
            target,
            ask,
            attempts,
            unsent: 0,
            asked: None,
            counted,
            waited: Duration::ZERO,
            waiting_since: now,
            last: None,
        });
        self.lanes[lane].line.push(entry.place(), ask, deadline);
        self.lanes[lane].count_in(&entry);
        self.note_probe(lane, entry.id, now);
        self.ledger.insert(entry);
        self.wake(lane);
    }

    /// The first target from `from` on that can take the call before its deadline, and what the call asks for there.
    /// The error is the first target's: it is the one the caller asked for.
    ///
    /// A call goes down its targets only, never up: one that it has left is not gone back to. Where none of the rest takes it,
    /// the upstream that was asked last has the last word.
    pub(super) fn first_open(
        &mut self,
        targets: &[Target],
        from: usize,
        request: &Request,
        deadline: Instant,
        arrival: Arrival,
        now: Instant,
    ) -> Result<(usize, Ask), Box<Error>> {
        let (mut refused, mut used_up) = (None::<Error>, None);
        for (index, target) in targets.iter().enumerate().skip(from) {
            let capacity = self.config.queue.capacity;
            let lane = &mut self.lanes[target.lane];
            let tokens = request.tokens(tokens::estimate);
            let ask = Ask { group: lane.group_of(target.model.as_deref()), tokens, priority: request.priority() };
            let is_full = arrival == Arrival::Newcomer && lane.waiting - lane.durable >= capacity;
            let refusal = if is_full {
                Some(
                    Error::new(
                        ErrorKind::Overloaded,
                        format!(
                            "{capacity} calls wait for {} already ([queue] capacity); come again later",
                            lane.upstream.name
                        ),
                    )
                    .with_retry_after(Duration::from_secs(1))
                    .asking_for_time(),
                )
            } else {
                lane.refusal(now, &ask, deadline, arrival != Arrival::Return)
            };
            match refusal {
                // Where the quota of its day is used up it may wait, but the next target may take it before that.
                None if lane.is_used_up(now, ask.group) => used_up = used_up.or(Some((index, ask))),
                None => return Ok((index, ask)),
                Some(error) => refused = refused.or(Some(error)),
            }
        }
        if let Some(open) = used_up {
            return Ok(open);
        }
        Err(Box::new(refused.unwrap_or_else(|| nobody_serves(&self.config, request))))
    }

    /// The caller is gone.
    pub(crate) fn cancel(&mut self, call: CallId) {
        let Some(entry) = self.ledger.remove(call) else { return };
        self.timers.remove(entry.deadline_due);
        let lane = entry.lane();
        self.take_out(&entry);
        events::call_cancelled(call, entry.attempts);
        #[cfg(test)]
        super::check::left(call);
        self.wake(lane);
    }

    /// The call's time is up.
    pub(super) fn deadline_due(&mut self, call: CallId, now: Instant) {
        let Some(entry) = self.ledger.get(call) else { return };
        let (lane, ask) = (entry.lane(), entry.ask);
        let name = self.lanes[lane].upstream.name.clone();
        let mut message = match entry.state {
            State::Running(_) => format!("the call's time was up while {name} worked on attempt {}", entry.attempts),
            State::Waiting => {
                let why = self.lanes[lane].explain(now, &ask);
                format!("the call's time was up while it waited for {name}: {why}")
            }
            State::BackingOff(again) => {
                let wait = seconds(again.at().saturating_duration_since(now));
                format!("the call's time was up while it waited to try {name} again, in {wait}")
            }
            State::Parked => {
                let share = self.lanes[lane].retry.retry_budget;
                format!(
                    "the call's time was up while it waited to try {name} again: its retries are more than \
                     [retry] retry_budget ({share} of first attempts) allows now"
                )
            }
        };
        if let Some(last) = self.ledger.get(call).and_then(|entry| entry.last.as_ref()) {
            message = format!("{message}; the attempt before failed: {}", last.message);
        }
        let error = Error::new(ErrorKind::DeadlineExceeded, message);
        self.end(call, Err(error), now);
        self.wake(lane);
    }

    /// The upstream of a waiting call is no longer configured: it goes where the configuration sends its model now.
    pub(super) fn reroute(&mut self, call: CallId, now: Instant) {
        let Some(entry) = self.ledger.get(call) else { return };
        let (request, deadline) = (entry.request.clone(), entry.deadline);
        let targets = self.targets(&request);
        match self.first_open(&targets, 0, &request, deadline, Arrival::Return, now) {
            Ok((target, ask)) => self.move_to(call, targets, target, ask, now),
            Err(error) => self.end(call, Err(*error), now),
        }
    }

    /// Puts a call that waits nowhere else any more into the line of a target, where its attempts are counted anew.
    pub(super) fn move_to(&mut self, call: CallId, targets: Vec<Target>, target: usize, ask: Ask, now: Instant) {
        let Some(mut entry) = self.ledger.remove(call) else { return };
        self.take_out(&entry);
        let (old, new) = (&entry.targets[entry.target], &targets[target]);
        if (old.lane, &old.model) != (new.lane, &new.model) {
            entry.counted = 0;
        }
        entry.targets = targets;
        entry.target = target;
        entry.ask = ask;
        self.ledger.insert(entry);
        self.stand_in_line(call, now);
    }

    /// Puts a call that waits nowhere into the line of its lane.
    pub(super) fn stand_in_line(&mut self, call: CallId, now: Instant) {
        let Some(entry) = self.ledger.get_mut(call) else { return };
        if matches!(entry.state, State::Running(_)) {
            entry.waiting_since = now;
        }
        entry.state = State::Waiting;
        let lane = entry.lane();
        self.lanes[lane].line.push(entry.place(), entry.ask, entry.deadline);
        self.lanes[lane].count_in(entry);
        self.note_probe(lane, call, now);
        self.wake(lane);
    }
}
