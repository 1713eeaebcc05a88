//! What must hold of the switchboard after every message, whatever has happened. Compiled for tests, and run where one
//! watches: the simulation does.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

use proptest::prelude::ProptestConfig;

use super::desks::{Desk, ROUNDING};
use super::ledger::State;
use super::line::Place;
use super::switchboard::Switchboard;
use super::timers::Due;
use super::turn::{Round, Turn};
use crate::clock::Instant;
use crate::messages::{AttemptId, CallId, SlotId};

type Tell = Box<dyn Fn(String)>;

struct Watch {
    tell: Tell,
    /// Calls that the ledger held after the message before.
    open: BTreeSet<CallId>,
    /// Calls that have left it: with an outcome, or because their caller had gone.
    left: BTreeSet<CallId>,
    /// What each account had in flight after the message before.
    in_flight: HashMap<String, usize>,
    steps: u64,
    /// Breakers that are open, and how often one has opened.
    broken: usize,
    opened: u64,
}

thread_local! {
    static WATCH: RefCell<Option<Watch>> = const { RefCell::new(None) };
}

/// A property of whole schedules is tried with so `few` of them; `PROPTEST_CASES` asks for more.
pub(crate) fn cases(few: u32) -> ProptestConfig {
    let asked = ProptestConfig::default();
    if std::env::var_os("PROPTEST_CASES").is_some() { asked } else { ProptestConfig { cases: few, ..asked } }
}

/// Checks every message of this thread's dispatchers from now on; `tell` hears what is wrong.
pub(crate) fn watch(tell: impl Fn(String) + 'static) {
    let watch = Watch {
        tell: Box::new(tell),
        open: BTreeSet::new(),
        left: BTreeSet::new(),
        in_flight: HashMap::new(),
        steps: 0,
        broken: 0,
        opened: 0,
    };
    WATCH.set(Some(watch));
}

/// Checks no more; gives the number of messages that were checked.
pub(crate) fn unwatch() -> u64 {
    WATCH.take().map_or(0, |watch| watch.steps)
}

/// Messages that were checked so far.
pub(crate) fn steps() -> u64 {
    WATCH.with_borrow(|watch| watch.as_ref().map_or(0, |watch| watch.steps))
}

/// How often a breaker has opened so far.
#[cfg_attr(not(feature = "gateway"), allow(dead_code))] // asked by the simulation alone
pub(crate) fn opened() -> u64 {
    WATCH.with_borrow(|watch| watch.as_ref().map_or(0, |watch| watch.opened))
}

fn with_watch(act: impl FnOnce(&mut Watch)) {
    WATCH.with_borrow_mut(|watch| watch.as_mut().map(act));
}

/// A fresh dispatcher has taken over: what the one before held went with it.
pub(super) fn fresh() {
    with_watch(|watch| {
        watch.open.clear();
        watch.in_flight.clear();
    });
}

/// A call has left the ledger.
pub(super) fn left(call: CallId) {
    with_watch(|watch| {
        if !watch.left.insert(call) {
            (watch.tell)("a call ended twice".into());
        }
    });
}

/// The end of a message.
pub(super) fn observe(board: &mut Switchboard, now: Instant, armed: Option<Instant>) {
    with_watch(|watch| {
        watch.steps += 1;
        let broken = board.lanes.iter().filter(|lane| lane.breaker.is_open()).count();
        watch.opened += broken.saturating_sub(watch.broken) as u64;
        watch.broken = broken;
        let problems = [
            board.check_calls(now),
            board.check_timers(now, armed),
            board.check_slots(),
            board.check_lanes(now),
            board.check_breakers(now),
            board.check_sums(now),
            watch.check_caps(board),
            watch.check_leavers(board),
        ];
        for problem in problems.into_iter().filter_map(Result::err) {
            (watch.tell)(problem);
        }
    });
}

type Checked = Result<(), String>;

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(what()) }
}

impl Switchboard {
    /// Every call stands where its entry says, and nowhere else.
    fn check_calls(&mut self, now: Instant) -> Checked {
        let mut waiting = vec![(0, 0); self.lanes.len()];
        let entries: Vec<_> = self.ledger.entries().collect();
        for entry in entries {
            let (lane, state) = (entry.lane(), &entry.state);
            let in_line = self.lanes[lane].line.get(entry.place(), entry.ask.group);
            ensure(entry.deadline > now, || format!("a call is still there past its deadline: {state:?}"))?;
            ensure(self.timers.due.get(&entry.deadline_due) == Some(&Due::DeadlineDue(entry.id)), || {
                format!("a call without its deadline: {state:?}")
            })?;
            match state {
                State::Waiting => {
                    waiting[lane].0 += 1;
                    let agrees = |at: &super::line::Waiting| at.ask == entry.ask && at.deadline == entry.deadline;
                    ensure(in_line.is_some_and(agrees), || "a waiting call is not in its line as it is".into())?;
                }
                State::BackingOff(key) => {
                    waiting[lane].1 += 1;
                    ensure(in_line.is_none(), || "a call that backs off is in a line".into())?;
                    ensure(self.timers.due.get(key) == Some(&Due::RetryDue(entry.id)), || {
                        "a call backs off and nothing will wake it".into()
                    })?;
                }
                State::Parked => {
                    waiting[lane].1 += 1;
                    ensure(in_line.is_none(), || "a parked call is in a line".into())?;
                    ensure(self.lanes[lane].parked.contains(&entry.place()), || "a parked call is not parked".into())?;
                }
                State::Running(slot) => {
                    ensure(in_line.is_none(), || "a running call is in a line".into())?;
                    let id = AttemptId { call: entry.id, number: entry.attempts };
                    let busy = self.slots.slots.get(&slot.index).filter(|known| known.generation == slot.generation);
                    let busy = busy.and_then(|known| known.busy.as_ref()).filter(|busy| busy.id == id);
                    ensure(busy.is_some_and(|busy| busy.stream.is_none() && busy.lane == lane), || {
                        format!("attempt {} of a call runs on a slot that knows nothing of it", id.number)
                    })?;
                }
            }
        }
        for (lane, (in_line, backing_off)) in self.lanes.iter().zip(waiting) {
            let name = &lane.upstream.name;
            ensure(lane.line.len() == in_line, || format!("the line of {name} holds calls that do not wait in it"))?;
            ensure(lane.waiting == in_line + backing_off, || {
                format!("{name} counts {} waiting, there are {in_line} and {backing_off}", lane.waiting)
            })?;
            let mut counts = [0; 3];
            let mut heads = BTreeMap::new();
            for ((priority, group), queue) in &lane.line.queues {
                counts[*priority as usize] += queue.len() as u64;
                let call = *queue.keys().next().ok_or_else(|| format!("{name} has a queue of nobody"))?;
                heads.insert(Place { priority: *priority, call }, *group);
            }
            ensure(lane.line.counts == counts, || format!("the counts of {name}'s line are wrong"))?;
            ensure(lane.line.heads == heads, || format!("{name} does not know who is first in its queues"))?;
            let parked = lane.parked.iter().filter_map(|place| self.ledger.get(place.call));
            let parked = parked.filter(|entry| matches!(entry.state, State::Parked)).count();
            ensure(parked == lane.parked.len(), || format!("{name} has parked calls that are elsewhere"))?;
            ensure(parked == 0 || lane.parked_due.is_some(), || format!("{name} has parked calls and will not look"))?;
        }
        Ok(())
    }

    /// Nothing is due that nobody waits for, and the armed timer is in time for the first.
    fn check_timers(&mut self, now: Instant, armed: Option<Instant>) -> Checked {
        let (mut deadlines, mut retries) = (0, 0);
        for (key, due) in &self.timers.due {
            match due {
                Due::SurplusDue => {
                    ensure(self.surplus_due == Some(*key), || "a surplus is due that nobody knows of".into())?
                }
                Due::BreakerDue(lane) => ensure(self.lanes[*lane].breaker_due == Some(*key), || {
                    format!("the breaker of {} is due and it knows nothing of it", self.lanes[*lane].upstream.name)
                })?,
                Due::DeadlineDue(_) => deadlines += 1,
                Due::RetryDue(_) => retries += 1,
                Due::RetryBudgetDue(lane) => ensure(self.lanes[*lane].parked_due == Some(*key), || {
                    format!("the retry budget of {} is due and it knows nothing of it", self.lanes[*lane].upstream.name)
                })?,
                Due::RefillDue(lane) => ensure(self.lanes[*lane].refill == Some(*key), || {
                    format!("a refill of {} is due that it knows nothing of", self.lanes[*lane].upstream.name)
                })?,
            }
        }
        let backing_off = self.ledger.entries().filter(|entry| matches!(entry.state, State::BackingOff(_))).count();
        ensure(deadlines == self.ledger.len(), || format!("{deadlines} deadlines for {} calls", self.ledger.len()))?;
        ensure(retries == backing_off, || format!("{retries} retries are due for {backing_off} calls that back off"))?;
        for lane in &self.lanes {
            ensure(lane.refill.is_none_or(|key| self.timers.due.contains_key(&key)), || "a refill is not due".into())?;
        }
        let Some(next) = self.next_due() else { return Ok(()) };
        let late = armed.is_none_or(|at| at > next);
        ensure(!late, || {
            format!("something is due in {:?} and the timer in {:?}", next - now, armed.map(|at| at - now))
        })
    }

    /// A slot is idle or busy, and what the busy ones hold is what the accounts have given out.
    fn check_slots(&mut self) -> Checked {
        let mut idle = BTreeSet::new();
        for (seat, indices) in &self.slots.idle {
            for index in indices {
                let known = self.slots.slots.get(index);
                ensure(known.is_some_and(|slot| slot.busy.is_none() && slot.seat == *seat), || {
                    format!("slot {index} is idle and is not")
                })?;
                ensure(idle.insert(*index), || format!("slot {index} is idle twice"))?;
            }
        }
        let mut given: Vec<(Rc<_>, usize)> = Vec::new();
        let mut running = BTreeMap::new();
        for (index, slot) in &self.slots.slots {
            let Some(busy) = &slot.busy else {
                ensure(idle.contains(index), || format!("slot {index} is lost: neither busy nor idle"))?;
                continue;
            };
            let id = SlotId { index: *index, generation: slot.generation };
            let before = if busy.stream.is_some() { None } else { running.insert(busy.id.call, id) };
            // One that was called off may still be on its slot while the call is gone, but not while it runs elsewhere.
            let both = before.filter(|_| self.ledger.contains(busy.id.call));
            ensure(both.is_none(), || "a call runs on two slots".into())?;
            match given.iter_mut().find(|(cell, _)| Rc::ptr_eq(cell, &busy.permit.in_flight)) {
                Some((_, count)) => *count += 1,
                None => given.push((Rc::clone(&busy.permit.in_flight), 1)),
            }
        }
        let busy = self.slots.slots.values().filter(|slot| slot.busy.is_some()).count();
        ensure(self.slots.busy() == busy, || format!("{} slots count as busy, {busy} are", self.slots.busy()))?;
        for desk in self.lanes.iter().flat_map(|lane| lane.desks.iter()) {
            if !given.iter().any(|(cell, _)| Rc::ptr_eq(cell, &desk.budget.in_flight)) {
                given.push((Rc::clone(&desk.budget.in_flight), 0));
            }
        }
        for (cell, held) in given {
            ensure(cell.get() == held, || {
                format!("an account counts {} in flight, {held} permits are held", cell.get())
            })?;
        }
        Ok(())
    }

    /// Whoever waits in a line waits for something that will come.
    fn check_lanes(&mut self, now: Instant) -> Checked {
        ensure(self.to_pump.is_empty(), || "a lane was woken and not pumped".into())?;
        let (idle, slots) = (self.slots.len() - self.slots.busy(), self.slots.len());
        let asked = self.asked_slots;
        for lane in self.lanes.iter_mut().filter(|lane| !lane.line.is_empty()) {
            lane.desks.asks_all = true;
            let turn = lane.next_turn(now, &mut Round::default());
            lane.desks.asks_all = false;
            let name = &lane.upstream.name;
            match turn {
                // Told times are rounded up.
                Turn::Goes { .. } if lane.refill.is_some_and(|key| key.at() <= now + ROUNDING) => {}
                Turn::Goes { .. } => {
                    ensure(idle == 0, || format!("a call waits for {name}, which is open, beside {idle} idle slots"))?;
                    ensure(asked > slots, || {
                        format!(
                            "a call waits for {name}, which is open, and for a slot that nobody brings: {slots} of {asked}"
                        )
                    })?;
                }
                Turn::Nobody(Some(at)) => ensure(lane.refill.is_some_and(|key| key.at() <= at + ROUNDING), || {
                    format!("a call waits for a refill of {name} and nothing will wake it")
                })?,
                Turn::Nobody(None) => ensure(lane.desks.iter().any(|desk| desk.budget.in_flight() > 0), || {
                    format!("a call waits for the end of an attempt of {name}, and there is none")
                })?,
                Turn::Resting(_) | Turn::Closed(_) => {
                    Err(format!("a call waits for {name}, where it never has its turn: {turn:?}"))?
                }
            }
        }
        Ok(())
    }
}

impl Switchboard {
    /// Nobody waits for an upstream that is taken for broken, but for a probe that lacks a slot; and what is silent for
    /// long enough is taken for broken.
    fn check_breakers(&mut self, now: Instant) -> Checked {
        let idle = self.slots.len() - self.slots.busy();
        for entry in self.ledger.entries() {
            let lane = &self.lanes[entry.lane()];
            let waits = match entry.state {
                State::Running(_) => false,
                State::Waiting => idle > 0,
                State::BackingOff(_) | State::Parked => true,
            };
            ensure(!(waits && lane.breaker.is_open()), || {
                format!("a call waits for {}, which is broken: {:?}", lane.upstream.name, entry.state)
            })?;
        }
        for lane in &self.lanes {
            let late = lane.breaker.opens_at().is_some_and(|at| at < now && lane.breaker_due.is_none());
            ensure(!late, || format!("nothing opens the breaker of {}", lane.upstream.name))?;
        }
        Ok(())
    }

    /// What is kept of all accounts together is what each of them says.
    fn check_sums(&mut self, now: Instant) -> Checked {
        for lane in &mut self.lanes {
            let (name, desks) = (&lane.upstream.name, &mut lane.desks);
            let room: usize = desks.each().map(|desk| desk.budget.room_in_flight(now).0).sum();
            ensure(desks.room_in_flight(now) == room, || format!("{name} does not know that it has room for {room}"))?;
            let usable = desks.iter().any(|desk| !desk.budget.is_resting(now));
            ensure(desks.is_usable(now) == usable, || format!("{name} is wrong about whether its keys rest"))?;
            let kept_back = |desk: &Desk| desk.budget.held_until(now).is_some() || desk.budget.is_resting(now);
            let kept_back = !desks.is_empty() && desks.iter().all(kept_back);
            let until = desks.iter().filter_map(|desk| desk.budget.held_until(now)).min();
            let held = desks.held_until(now);
            ensure(held.is_some() == kept_back && (until.is_none() || !kept_back || held == until), || {
                format!("{name} takes {held:?} for the end of its holds, it is {until:?}")
            })?;
        }
        Ok(())
    }
}

impl Watch {
    /// No account has more in flight than it may, save what was when its cap was lowered.
    fn check_caps(&mut self, board: &Switchboard) -> Checked {
        let mut seen = HashMap::new();
        for desk in board.lanes.iter().flat_map(|lane| lane.desks.iter()) {
            let key = desk.account.key.as_ref().map(|key| key.expose().to_owned()).unwrap_or_default();
            let name = format!("{}/{key}", desk.account.id.upstream);
            let (in_flight, cap) = (desk.budget.in_flight(), desk.budget.max_in_flight());
            let before = self.in_flight.get(&name).copied().unwrap_or_default();
            ensure(in_flight <= cap.max(before), || format!("{name} has {in_flight} in flight, {cap} may be"))?;
            seen.insert(name, in_flight);
        }
        self.in_flight = seen;
        Ok(())
    }

    /// A call leaves the ledger with its end, and does not come back.
    fn check_leavers(&mut self, board: &Switchboard) -> Checked {
        let open: BTreeSet<CallId> = board.ledger.calls().into_iter().collect();
        let lost = self.open.iter().filter(|call| !open.contains(call) && !self.left.contains(call)).count();
        let back = open.iter().filter(|call| self.left.contains(call)).count();
        self.open = open;
        ensure(lost == 0, || format!("{lost} calls were lost without an outcome"))?;
        ensure(back == 0, || format!("{back} calls are in the ledger behind their end"))
    }
}
