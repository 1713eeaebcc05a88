//! The pool's supervisor.
//!
//! Owns the list of slots (which generation each is in, on which seat, how often it died) and the [`Seats`] they are on.
//! Hears `NeedSlots` from the dispatcher, `SlotGone` and `SeatGone` from the dying, `Alive` from the living, and
//! `RestartDue`, `SeatDue`, `BeatDue` and `CalmDue` from itself. Says `StartSlot`, `EndSlot` and `Beat` to seats. actix's
//! own `Supervisor` does not survive a panic, so the actors report their deaths themselves, from `Drop`. When the
//! supervisor dies, the root puts the system together anew.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;

use super::request_actor::Lines;
use super::restart::{Intensity, Streak};
use super::seat::{Alive, EndSlot, Incarnation, SeatGone};
use super::seats::{BEATS_MISSED, SeatLines, Seats};
use super::transport::TransportFactory;
use super::vitals::Vitals;
use crate::clock;
use crate::messages::{DeathWatch, NeedSlots, SeatId, SlotGone, SlotId, Stop};
use crate::telemetry::events;

/// So many deaths of seats within [`SEATS_WINDOW`] are borne; one more and the whole system is put together anew, which
/// the root counts in its turn.
const SEAT_DEATHS: u32 = 3;
const SEATS_WINDOW: Duration = Duration::from_secs(60);

/// Supervisor to itself: the pause before a slot's restart is over.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
struct RestartDue(SlotId);

/// Supervisor to itself: the pause before a seat's replacement is over.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
struct SeatDue(Incarnation);

/// Supervisor to itself: see whether every thread is still there.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
struct BeatDue;

/// Supervisor to itself: look whether the pool has calmed down.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
struct CalmDue;

struct Slot {
    generation: u32,
    seat: SeatId,
    streak: Streak,
    /// Not of use at the moment: no actor stands for it.
    retired: bool,
}

/// Starts, watches and replaces request actors and the seats they are on.
pub(crate) struct Supervisor {
    seats: Seats,
    /// By index, retired ones included.
    slots: Vec<Slot>,
    intensity: Intensity,
    seat_deaths: Intensity,
    limits: crate::config::Pool,
    /// Read by whoever answers for readiness and status.
    vitals: Arc<Vitals>,
    _watch: DeathWatch,
}

impl Supervisor {
    /// A pool over `threads`, to live at the context it is given. `lines` lead to the dispatcher; the death of a slot is
    /// reported to it and here.
    pub(crate) fn new(
        threads: &[actix_rt::ArbiterHandle],
        factory: &TransportFactory,
        lines: Lines,
        limits: crate::config::Pool,
        vitals: Arc<Vitals>,
        watch: DeathWatch,
        ctx: &Context<Self>,
    ) -> Self {
        let own = SeatLines { gone: ctx.address().recipient(), alive: ctx.address().recipient() };
        Self {
            seats: Seats::new(threads, factory, lines, own),
            slots: Vec::new(),
            intensity: Intensity::new(limits.max_restarts, limits.restart_window),
            seat_deaths: Intensity::new(SEAT_DEATHS, SEATS_WINDOW),
            limits,
            vitals,
            _watch: watch,
        }
    }

    fn start(&mut self, index: usize) {
        let Some(slot) = self.slots.get_mut(index) else { return };
        slot.streak.started(clock::now());
        self.seats.start_slot(slot.seat, SlotId { index: index as u32, generation: slot.generation });
    }

    /// The slot whose actor `id` names; `None` when that was of an earlier generation.
    fn current(&mut self, id: SlotId) -> Option<&mut Slot> {
        self.slots.get_mut(id.index as usize).filter(|slot| slot.generation == id.generation)
    }

    /// Replaces a seat that has died or is blocked, and starts its slots anew. What their actors worked on is lost; the
    /// dispatcher hears of it from their deaths, or from the coming of the next generation.
    fn replace(&mut self, old: Incarnation, is_blocked: bool, ctx: &mut Context<Self>) {
        match self.seats.replace(old, is_blocked, clock::now()) {
            Ok(false) => {}
            Ok(true) => {
                for index in 0..self.slots.len() {
                    let slot = &mut self.slots[index];
                    if slot.seat == old.seat && !slot.retired {
                        slot.generation += 1;
                        self.start(index);
                    }
                }
            }
            Err(error) => {
                events::no_thread(&error);
                // One that is blocked is found again at the next beat.
                if !is_blocked {
                    ctx.notify_later(SeatDue(old), SEATS_WINDOW / 10);
                }
            }
        }
    }

    fn beat_later(&self, ctx: &mut Context<Self>) {
        // With one thread there is nobody else to ask.
        if self.seats.len() > 1 {
            ctx.notify_later(BeatDue, self.limits.thread_timeout / BEATS_MISSED);
        }
    }
}

impl Actor for Supervisor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        self.beat_later(ctx);
    }
}

impl Handler<NeedSlots> for Supervisor {
    type Result = ();

    fn handle(&mut self, need: NeedSlots, _: &mut Context<Self>) {
        for id in need.surplus {
            // One that has died meanwhile comes back, and is of use again.
            if let Some(slot) = self.current(id) {
                slot.retired = true;
                slot.generation += 1;
                let seat = slot.seat;
                self.seats.to(seat, EndSlot(id.index));
            }
        }
        let mut missing = need.total.saturating_sub(self.slots.iter().filter(|slot| !slot.retired).count());
        for index in 0..self.slots.len() {
            if missing > 0 && std::mem::take(&mut self.slots[index].retired) {
                missing -= 1;
                self.start(index);
            }
        }
        for _ in 0..missing {
            let seat = SeatId((self.slots.len() % self.seats.len()) as u16);
            self.slots.push(Slot { generation: 0, seat, streak: Streak::new(clock::now()), retired: false });
            self.start(self.slots.len() - 1);
        }
    }
}

impl Handler<SlotGone> for Supervisor {
    type Result = ();

    fn handle(&mut self, gone: SlotGone, ctx: &mut Context<Self>) {
        let now = clock::now();
        let Some(slot) = self.current(gone.slot) else { return };
        slot.generation += 1;
        let next = SlotId { generation: slot.generation, ..gone.slot };
        let delay = slot.streak.died(now);
        events::slot_died(gone.slot, gone.crashed, delay);
        self.vitals.count_restart();
        self.intensity.died(now);
        if self.intensity.is_exceeded(now) && !self.vitals.set_unready(true) {
            events::pool_unready(self.slots.len(), self.limits.restart_window);
            ctx.notify_later(CalmDue, self.limits.restart_window);
        }
        if delay.is_zero() {
            self.start(next.index as usize);
        } else {
            ctx.notify_later(RestartDue(next), delay);
        }
    }
}

impl Handler<RestartDue> for Supervisor {
    type Result = ();

    fn handle(&mut self, RestartDue(slot): RestartDue, _: &mut Context<Self>) {
        // Of another generation when its seat was replaced meanwhile: then it is there already.
        if self.current(slot).is_some_and(|slot| !slot.retired) {
            self.start(slot.index as usize);
        }
    }
}

impl Handler<CalmDue> for Supervisor {
    type Result = ();

    fn handle(&mut self, _: CalmDue, ctx: &mut Context<Self>) {
        if self.intensity.is_exceeded(clock::now()) {
            ctx.notify_later(CalmDue, self.limits.restart_window);
        } else {
            self.vitals.set_unready(false);
        }
    }
}

impl Handler<SeatGone> for Supervisor {
    type Result = ();

    fn handle(&mut self, SeatGone(gone): SeatGone, ctx: &mut Context<Self>) {
        let now = clock::now();
        let Some(delay) = self.seats.died(gone, now) else { return };
        events::seat_died(gone.seat, delay);
        self.seat_deaths.died(now);
        if self.seat_deaths.is_exceeded(now) {
            self.seats.stop();
            ctx.stop();
        } else if delay.is_zero() {
            self.replace(gone, false, ctx);
        } else {
            ctx.notify_later(SeatDue(gone), delay);
        }
    }
}

impl Handler<SeatDue> for Supervisor {
    type Result = ();

    fn handle(&mut self, SeatDue(old): SeatDue, ctx: &mut Context<Self>) {
        self.replace(old, false, ctx);
    }
}

impl Handler<BeatDue> for Supervisor {
    type Result = ();

    fn handle(&mut self, _: BeatDue, ctx: &mut Context<Self>) {
        for blocked in self.seats.beat() {
            events::thread_blocked(blocked.seat, self.limits.thread_timeout);
            self.replace(blocked, true, ctx);
        }
        self.beat_later(ctx);
    }
}

impl Handler<Alive> for Supervisor {
    type Result = ();

    fn handle(&mut self, Alive(incarnation): Alive, _: &mut Context<Self>) {
        self.seats.answered(incarnation);
    }
}

impl Handler<Stop> for Supervisor {
    type Result = ();

    fn handle(&mut self, _: Stop, ctx: &mut Context<Self>) {
        self.seats.stop();
        ctx.stop();
    }
}

#[cfg(test)]
impl Handler<super::KillSlot> for Supervisor {
    type Result = ();

    fn handle(&mut self, kill: super::KillSlot, _: &mut Context<Self>) {
        self.seats.to_all(kill);
    }
}

/// A test to supervisor: end this seat's actor, and every request actor on it.
#[cfg(test)]
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
pub(crate) struct KillSeat(pub(crate) SeatId);

#[cfg(test)]
impl Handler<KillSeat> for Supervisor {
    type Result = ();

    fn handle(&mut self, KillSeat(seat): KillSeat, _: &mut Context<Self>) {
        self.seats.to(seat, Stop);
    }
}
