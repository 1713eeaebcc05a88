//! The pool's supervisor.
//!
//! Owns the list of slots: which generation each is in, on which seat, and how often it died. Hears `NeedSlots` from the
//! dispatcher, `SlotGone` from dying request actors, `RestartDue` from itself. Says `StartSlot` to seats. actix's own
//! `Supervisor` does not survive a panic, so the request actors report their deaths themselves, from `Drop`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix::prelude::*;

use super::request_actor::Lines;
use super::restart::{Intensity, Streak};
use super::seat::{Seat, StartSlot};
use super::transport::TransportFactory;
use crate::clock;
use crate::messages::{DeathWatch, NeedSlots, Part, SeatId, SlotGone, SlotId, Stop};
use crate::telemetry::events;

/// Supervisor to itself: the pause before a slot's restart is over.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
struct RestartDue {
    index: u32,
}

/// Supervisor to itself: look whether the pool has calmed down.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
struct CalmDue;

struct Slot {
    generation: u32,
    seat: usize,
    streak: Streak,
}

/// Starts, watches and replaces request actors.
pub(crate) struct Supervisor {
    seats: Vec<Addr<Seat>>,
    /// By index. A slot is never taken away: an idle one costs a kilobyte.
    slots: Vec<Slot>,
    intensity: Intensity,
    window: Duration,
    /// Set while more request actors die than the pool bears; whoever answers for readiness reads it.
    unready: Arc<AtomicBool>,
    _watch: DeathWatch,
}

impl Supervisor {
    /// A pool over the threads `seats`. `lines` lead to the dispatcher; the death of a slot is reported to it and here.
    pub(crate) fn new(
        seats: &[actix_rt::ArbiterHandle],
        factory: &TransportFactory,
        lines: &Lines,
        limits: &crate::config::Pool,
        unready: Arc<AtomicBool>,
        watch: DeathWatch,
    ) -> Self {
        let start = |(index, arbiter): (usize, &actix_rt::ArbiterHandle)| {
            let (factory, lines, watch) = (Arc::clone(factory), lines.clone(), watch.over(Part::Seat));
            let id = SeatId(index as u16);
            Seat::start_in_arbiter(arbiter, move |_| Seat::new(id, &factory, lines, watch))
        };
        Self {
            seats: seats.iter().enumerate().map(start).collect(),
            slots: Vec::new(),
            intensity: Intensity::new(limits.max_restarts, limits.restart_window),
            window: limits.restart_window,
            unready,
            _watch: watch,
        }
    }

    fn start(&mut self, index: u32) {
        let Some(slot) = self.slots.get_mut(index as usize) else { return };
        slot.streak.started(clock::now());
        self.seats[slot.seat].do_send(StartSlot(SlotId { index, generation: slot.generation }));
    }
}

impl Actor for Supervisor {
    type Context = Context<Self>;
}

impl Handler<NeedSlots> for Supervisor {
    type Result = ();

    fn handle(&mut self, need: NeedSlots, _: &mut Context<Self>) {
        for index in self.slots.len()..need.total {
            let seat = index % self.seats.len();
            self.slots.push(Slot { generation: 0, seat, streak: Streak::new(clock::now()) });
            self.start(index as u32);
        }
    }
}

impl Handler<SlotGone> for Supervisor {
    type Result = ();

    fn handle(&mut self, gone: SlotGone, ctx: &mut Context<Self>) {
        let now = clock::now();
        let Some(slot) = self.slots.get_mut(gone.slot.index as usize) else { return };
        if slot.generation != gone.slot.generation {
            return;
        }
        slot.generation += 1;
        let delay = slot.streak.died(now);
        events::slot_died(gone.slot, gone.crashed, delay);
        self.intensity.died(now);
        if self.intensity.is_exceeded(now) && !self.unready.swap(true, Ordering::Relaxed) {
            events::pool_unready(self.slots.len(), self.window);
            ctx.notify_later(CalmDue, self.window);
        }
        if delay.is_zero() {
            self.start(gone.slot.index);
        } else {
            ctx.notify_later(RestartDue { index: gone.slot.index }, delay);
        }
    }
}

#[cfg(test)]
impl Handler<super::KillSlot> for Supervisor {
    type Result = ();

    fn handle(&mut self, kill: super::KillSlot, _: &mut Context<Self>) {
        self.seats.iter().for_each(|seat| seat.do_send(kill));
    }
}

impl Handler<Stop> for Supervisor {
    type Result = ();

    fn handle(&mut self, _: Stop, ctx: &mut Context<Self>) {
        for seat in &self.seats {
            seat.do_send(Stop);
        }
        ctx.stop();
    }
}

impl Handler<RestartDue> for Supervisor {
    type Result = ();

    fn handle(&mut self, due: RestartDue, _: &mut Context<Self>) {
        self.start(due.index);
    }
}

impl Handler<CalmDue> for Supervisor {
    type Result = ();

    fn handle(&mut self, _: CalmDue, ctx: &mut Context<Self>) {
        if self.intensity.is_exceeded(clock::now()) {
            ctx.notify_later(CalmDue, self.window);
        } else {
            self.unready.store(false, Ordering::Relaxed);
        }
    }
}
