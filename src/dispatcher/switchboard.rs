//! The dispatcher without its actor: plain state that is told what happened and when, and says what to do.
//!
//! `intake` takes calls in and lets them go, `attempts` makes the tries and judges their ends. Both leave what is to be
//! done outside (an attempt to run, slots to ask for) in `orders`, which the actor carries out.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::actor::draining;
use super::lane::Lane;
use super::ledger::{Entry, Ledger, State, Target};
use super::legacy::Legacy;
use super::slots::Slots;
use super::timers::{Due, DueKey, Timers};
use crate::clock::{Dice, Instant};
use crate::config::Config;
use crate::messages::{
    Abort, AttemptId, CallId, Health, Meta, NeedSlots, Outcome, Redactor, Request, RunAttempt, SeatId, SlotId,
};
use crate::providers::dialect::speaks;
use crate::telemetry::events;

/// How long a slot must have been of no use before it is given back: calls come in waves.
const SURPLUS_AFTER: Duration = Duration::from_secs(60);

/// What the actor is to do for the switchboard.
#[derive(Debug)]
pub(crate) enum Order {
    Run(RunAttempt),
    Abort(Abort),
    NeedSlots(NeedSlots),
}

/// All of the dispatcher's state.
#[derive(Debug)]
pub(crate) struct Switchboard {
    pub(super) config: Arc<Config>,
    pub(super) redactor: Redactor,
    /// One per upstream ever configured; an index stays what it is.
    pub(super) lanes: Vec<Lane>,
    pub(super) lane_of: HashMap<Arc<str>, usize>,
    pub(super) ledger: Ledger,
    pub(super) slots: Slots,
    pub(super) timers: Timers,
    pub(super) dice: Dice,
    pub(super) draining: bool,
    /// Attempts repeated although the one before was maybe sent.
    pub(super) repeats_maybe_billed: u64,
    /// Told when the last call has ended.
    drained: Vec<oneshot::Sender<()>>,
    /// Told when the next attempt starts.
    pub(super) awaiting_attempt: Vec<oneshot::Sender<()>>,
    /// What the pool was last asked for.
    pub(super) asked_slots: usize,
    /// When it is looked whether there are more slots than are of use.
    pub(super) surplus_due: Option<DueKey>,
    /// Lanes where calls could go if there were idle slots, and how many.
    pub(super) wanting: BTreeMap<usize, usize>,
    /// Lanes where something has changed since they were last pumped.
    pub(super) to_pump: Vec<usize>,
    pub(super) orders: Vec<Order>,
}

impl Switchboard {
    pub(crate) fn new(config: Arc<Config>, dice: Dice, legacy: &Legacy, now: Instant) -> Self {
        let mut board = Self {
            redactor: Redactor::new(config.secrets()),
            config: Arc::clone(&config),
            lanes: Vec::new(),
            lane_of: HashMap::new(),
            ledger: Ledger::default(),
            slots: Slots::default(),
            timers: Timers::default(),
            dice,
            draining: false,
            repeats_maybe_billed: 0,
            drained: Vec::new(),
            awaiting_attempt: Vec::new(),
            asked_slots: 0,
            surplus_due: None,
            wanting: BTreeMap::new(),
            to_pump: Vec::new(),
            orders: Vec::new(),
        };
        board.lanes = legacy.take();
        for (index, lane) in board.lanes.iter().enumerate() {
            board.lane_of.insert(Arc::clone(&lane.upstream.name), index);
        }
        // What has changed meanwhile is a reload to them like any other.
        board.reconfigure(config, now);
        board.recall(legacy.recollections(), now);
        board
    }

    /// Leaves behind what must outlive it.
    pub(super) fn leave(&mut self, legacy: &Legacy) {
        legacy.leave(std::mem::take(&mut self.lanes));
    }

    /// Puts another configuration in force. Accepted calls stay; those whose upstream is gone go where the new
    /// configuration sends them.
    pub(crate) fn reconfigure(&mut self, config: Arc<Config>, now: Instant) {
        self.config = config;
        self.redactor = Redactor::new(self.config.secrets());
        let slots = self.config.pool.slots_per_account;
        let config = Arc::clone(&self.config);
        for (name, section) in &config.upstreams {
            match self.lane_of.get(name) {
                Some(&index) => self.lanes[index].reconfigure(section, slots, now),
                None => {
                    self.lane_of.insert(Arc::clone(name), self.lanes.len());
                    self.lanes.push(Lane::new(section, slots, now));
                }
            }
        }
        for index in 0..self.lanes.len() {
            if !config.upstreams.contains_key(&self.lanes[index].upstream.name) {
                self.lanes[index].retire(now);
                let parked = self.lanes[index].parked.iter().map(|place| place.call);
                let stranded: Vec<CallId> = self.lanes[index].line.calls().into_iter().chain(parked).collect();
                for call in stranded {
                    self.reroute(call, now);
                }
            }
            self.wake(index);
        }
    }

    /// Where `request` can go, in order. Empty when nobody serves its model, or none who does takes such calls.
    pub(super) fn targets(&self, request: &Request) -> Vec<Target> {
        let lane = |name: &Arc<str>| {
            let lane = self.lane_of.get(name).copied()?;
            speaks(self.lanes[lane].upstream.kind, request.endpoint()).then_some(lane)
        };
        match request.model() {
            Some(model) => {
                let targets = self.config.targets(model).into_iter();
                targets.filter_map(|(name, model)| Some(Target { lane: lane(&name)?, model: Some(model) })).collect()
            }
            None => {
                let first = self.config.upstreams.keys().find_map(lane);
                first.map(|lane| Target { lane, model: None }).into_iter().collect()
            }
        }
    }

    /// Does everything that is due.
    pub(crate) fn run_due(&mut self, now: Instant) {
        while let Some(due) = self.timers.pop(now) {
            match due {
                Due::RetryDue(call) => self.retry_due(call, now),
                Due::DeadlineDue(call) => self.deadline_due(call, now),
                Due::RetryBudgetDue(lane) => self.retry_budget_due(lane, now),
                Due::BreakerDue(lane) => self.breaker_due(lane, now),
                Due::SurplusDue => self.surplus_due(now),
                Due::RefillDue(lane) => {
                    self.lanes[lane].refill = None;
                    self.wake(lane);
                }
            }
        }
    }

    /// When something is due next.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.timers.next_at()
    }

    /// Notes that a lane may be able to go on. Pumping itself waits until what happened has been dealt with: it may end
    /// and move calls, which is no thing to do in the middle of ending or moving one.
    pub(super) fn wake(&mut self, lane: usize) {
        if !self.to_pump.contains(&lane) {
            self.to_pump.push(lane);
        }
    }

    /// Lets every lane go on that can, and gives what is to be done, in order.
    pub(crate) fn take_orders(&mut self, now: Instant) -> Vec<Order> {
        while let Some(lane) = self.to_pump.pop() {
            self.pump(lane, now);
        }
        self.tell_drained();
        std::mem::take(&mut self.orders)
    }

    /// Refuses new calls from now on; `done` is told when the last accepted one, streams included, has ended.
    pub(crate) fn drain(&mut self, done: oneshot::Sender<()>) {
        self.draining = true;
        self.drained.push(done);
    }

    /// Refuses new calls from now on, and ends those that are not at an upstream just now.
    pub(crate) fn end_waiting(&mut self, now: Instant) {
        self.draining = true;
        for call in self.ledger.calls() {
            if self.ledger.get(call).is_some_and(|entry| !matches!(entry.state, State::Running(_))) {
                self.end(call, Err(draining()), now);
            }
        }
    }

    /// Ends every call that is left: whole ones with 503, streams with an error event.
    pub(crate) fn end_all(&mut self, now: Instant) {
        self.draining = true;
        for call in self.ledger.calls() {
            self.end(call, Err(draining()), now);
        }
        for (slot, id) in self.slots.streaming() {
            let told = Some(draining());
            self.orders.push(Order::Abort(Abort { slot, id, told }));
        }
    }

    fn tell_drained(&mut self) {
        if self.draining && self.ledger.is_empty() && self.slots.busy() == 0 {
            for done in self.drained.drain(..) {
                // Nobody waits for it any more: nothing to tell.
                let _ = done.send(());
            }
        }
    }

    /// How things stand here; of the pool it knows nothing. An upstream whose breaker is open counts as usable:
    /// it may come back of itself, and only a call can find that out.
    pub(crate) fn health(&mut self, now: Instant) -> Health {
        Health {
            is_draining: self.draining,
            is_pool_unready: false,
            usable_upstreams: self.lanes.iter_mut().map(|lane| usize::from(lane.desks.is_usable(now))).sum(),
            waiting: self.lanes.iter().map(|lane| lane.waiting).sum(),
            in_flight: self.slots.busy(),
            slots: self.slots.len(),
            repeats_maybe_billed: self.repeats_maybe_billed,
        }
    }

    /// The call's one end: its place, timers and room are given back, its caller is told.
    pub(super) fn end(&mut self, call: CallId, outcome: Outcome, now: Instant) {
        let Some(entry) = self.ledger.remove(call) else { return };
        self.timers.remove(entry.deadline_due);
        self.take_out(&entry);
        let meta = self.meta(&entry, now);
        let outcome = match outcome {
            Ok(mut answer) => {
                let Meta { usage, cost_usd, .. } = answer.meta;
                answer.meta = Meta { usage, cost_usd, ..meta };
                Ok(answer)
            }
            Err(error) => Err(error.with_meta(meta)),
        };
        events::call_ended(call, &outcome);
        #[cfg(test)]
        super::check::left(call);
        #[cfg(test)]
        let entry = {
            let mut entry = entry;
            if super::planted::is(super::planted::Bug::SecondOutcome) && matches!(entry.state, State::Running(_)) {
                let reply = std::mem::replace(&mut entry.reply, oneshot::channel().0);
                let _ = reply.send(outcome);
                self.ledger.insert(entry);
                return;
            }
            entry
        };
        // A caller that has gone meanwhile gets nothing; its Cancel finds nothing either.
        let _ = entry.reply.send(outcome);
    }

    /// Takes a call out of where it stands: out of its line, out of backoff, off its slot.
    pub(super) fn take_out(&mut self, entry: &Entry) {
        let lane = &mut self.lanes[entry.lane()];
        match entry.state {
            State::Waiting => {
                lane.line.remove(entry.place(), entry.ask.group);
                lane.count_out(entry);
            }
            State::BackingOff(key) => {
                self.timers.remove(key);
                lane.count_out(entry);
            }
            State::Parked => {
                lane.parked.remove(&entry.place());
                lane.count_out(entry);
            }
            State::Running(slot) => {
                let id = AttemptId { call: entry.id, number: entry.attempts };
                // Still on its slot: nobody waits for it any more. The slot and its permit come back when the actor says so,
                // so that an upstream never sees more at once than it may.
                if self.slots.busy_with(slot, id).is_some_and(|busy| busy.stream.is_none()) {
                    self.orders.push(Order::Abort(Abort { slot, id, told: None }));
                }
            }
        }
    }

    pub(super) fn meta(&mut self, entry: &Entry, now: Instant) -> Meta {
        let running = matches!(entry.state, State::Running(_));
        let waiting = if running { Duration::ZERO } else { now.saturating_duration_since(entry.waiting_since) };
        let upstream = entry.asked.map(|lane| Arc::clone(&self.lanes[lane].upstream.name));
        let lane = &mut self.lanes[entry.lane()];
        Meta {
            upstream,
            attempts: entry.attempts - entry.unsent,
            queued: entry.waited + waiting,
            budget: lane.desks.budget_view(now),
            usage: None,
            cost_usd: None,
        }
    }

    /// A slot takes attempts from now on. That its generation before has died may still be on its way here, from another
    /// thread, or never come from one that is blocked. Such a thread says what it had to say when it is free again: that
    /// is nobody's slot any more, and about to die.
    pub(crate) fn slot_up(&mut self, slot: SlotId, seat: SeatId, now: Instant) {
        if self.slots.is_outlived(slot) {
            return;
        }
        if let Some(before) = self.slots.before(slot) {
            self.slot_gone(before, now);
        }
        self.slots.up(slot, seat);
        if self.surplus_due.is_none() && self.slots.may_shrink() {
            self.surplus_due = Some(self.timers.add(now + SURPLUS_AFTER, Due::SurplusDue));
        }
        self.offer_slots();
    }

    /// Gives back the slots that were not of use of late.
    fn surplus_due(&mut self, now: Instant) {
        let surplus = self.slots.take_surplus();
        if !surplus.is_empty() {
            self.asked_slots = self.asked_slots.saturating_sub(surplus.len());
            self.orders.push(Order::NeedSlots(NeedSlots { total: self.asked_slots, surplus }));
        }
        self.surplus_due = self.slots.may_shrink().then(|| self.timers.add(now + SURPLUS_AFTER, Due::SurplusDue));
    }
}
