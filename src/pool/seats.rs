//! The seats of the pool: one a thread, started, watched and replaced. A thread that has ended, or that something on it
//! blocks for too long, is replaced by a fresh one.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use actix_rt::ArbiterHandle;

use super::request_actor::Lines;
use super::restart::Streak;
use super::seat::{Alive, Beat, Incarnation, Seat, SeatGone, SeatWatch, StartSlot};
use super::transport::TransportFactory;
use crate::clock::{self, Instant};
use crate::messages::{SeatId, SlotId, Stop};

/// So many beats in a row without an answer mean that a thread is blocked. Counted in beats and not in time, so that a
/// process that was itself halted for a while does not take all its threads for blocked.
pub(super) const BEATS_MISSED: u32 = 3;

/// How a seat talks to the supervisor.
#[derive(Clone)]
pub(super) struct SeatLines {
    pub(super) gone: Recipient<SeatGone>,
    pub(super) alive: Recipient<Alive>,
}

struct Place {
    arbiter: ArbiterHandle,
    /// Whether the thread took the place of another: then nobody else lives on it.
    is_stand_in: bool,
    seat: Addr<Seat>,
    generation: u32,
    streak: Streak,
    missed: u32,
}

impl Place {
    /// Ends a thread that is of no use any more.
    fn end_stand_in(&self) {
        if self.is_stand_in {
            self.arbiter.stop();
        }
    }
}

/// All seats, in the order of their numbers. The first is on the thread of the dispatcher and of the supervisor itself.
pub(super) struct Seats {
    places: Vec<Place>,
    factory: TransportFactory,
    /// What request actors need to know.
    slots: Lines,
    lines: SeatLines,
}

impl Seats {
    /// A seat on each of `threads`.
    pub(super) fn new(threads: &[ArbiterHandle], factory: &TransportFactory, slots: Lines, lines: SeatLines) -> Self {
        let mut seats = Self { places: Vec::new(), factory: Arc::clone(factory), slots, lines };
        for arbiter in threads {
            let incarnation = Incarnation { seat: SeatId(seats.places.len() as u16), generation: 0 };
            let seat = seats.start(arbiter, incarnation);
            let streak = Streak::new(clock::now());
            let arbiter = arbiter.clone();
            seats.places.push(Place { arbiter, is_stand_in: false, seat, generation: 0, streak, missed: 0 });
        }
        seats
    }

    fn start(&self, arbiter: &ArbiterHandle, incarnation: Incarnation) -> Addr<Seat> {
        let (factory, slots, lines) = (Arc::clone(&self.factory), self.slots.clone(), self.lines.clone());
        let watch = SeatWatch { incarnation, gone: lines.gone };
        // On a thread that has ended the closure is dropped, and the watch in it tells.
        Seat::start_in_arbiter(arbiter, move |_| Seat::new(&factory, slots, lines.alive, watch))
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// Has a slot started on a seat. What is sent to a seat that is gone is lost: its slots are started anew with it.
    pub(super) fn start_slot(&self, seat: SeatId, slot: SlotId) {
        self.to(seat, StartSlot(slot));
    }

    pub(super) fn to<M>(&self, seat: SeatId, message: M)
    where
        M: Message<Result = ()> + Send + 'static,
        Seat: Handler<M>,
    {
        if let Some(place) = self.places.get(usize::from(seat.0)) {
            place.seat.do_send(message);
        }
    }

    /// A seat has died: how long until it is replaced. `None` when it had been replaced already.
    pub(super) fn died(&mut self, gone: Incarnation, now: Instant) -> Option<Duration> {
        let place = self.current(gone)?;
        Some(place.streak.died(now))
    }

    /// Puts another seat in the place of `old`, on a fresh thread when its own has ended or is blocked. Gives `false` when
    /// that was done already.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(super) fn replace(&mut self, old: Incarnation, is_blocked: bool, now: Instant) -> io::Result<bool> {
        let Some(place) = self.current(old) else { return Ok(false) };
        let is_same = place.arbiter.alive() && !is_blocked;
        let arbiter = if is_same { place.arbiter.clone() } else { Arbiter::try_new()?.handle() };
        let fresh = Incarnation { generation: old.generation + 1, ..old };
        let seat = self.start(&arbiter, fresh);
        let place = &mut self.places[usize::from(old.seat.0)];
        // Heard when the thread is free again; what it then has to say is of an earlier generation.
        place.seat.do_send(Stop);
        if !is_same {
            // A blocked one ends when it is ever free again.
            place.end_stand_in();
            place.is_stand_in = true;
        }
        place.streak.started(now);
        (place.arbiter, place.seat, place.generation, place.missed) = (arbiter, seat, fresh.generation, 0);
        Ok(true)
    }

    fn current(&mut self, incarnation: Incarnation) -> Option<&mut Place> {
        let place = self.places.get_mut(usize::from(incarnation.seat.0))?;
        (place.generation == incarnation.generation).then_some(place)
    }

    /// Asks every other thread whether it is still there, and gives the seats that have missed too many beats.
    pub(super) fn beat(&mut self) -> Vec<Incarnation> {
        let mut blocked = Vec::new();
        for (index, place) in self.places.iter_mut().enumerate().skip(1) {
            if place.missed >= BEATS_MISSED {
                blocked.push(Incarnation { seat: SeatId(index as u16), generation: place.generation });
            } else {
                place.missed += 1;
                place.seat.do_send(Beat);
            }
        }
        blocked
    }

    /// A seat has answered.
    pub(super) fn answered(&mut self, incarnation: Incarnation) {
        if let Some(place) = self.current(incarnation) {
            place.missed = 0;
        }
    }

    /// Ends them all.
    pub(super) fn stop(&self) {
        for place in &self.places {
            place.seat.do_send(Stop);
        }
    }

    /// A test's message to every seat.
    #[cfg(test)]
    pub(super) fn to_all<M>(&self, message: M)
    where
        M: Message<Result = ()> + Send + Clone + 'static,
        Seat: Handler<M>,
    {
        self.places.iter().for_each(|place| place.seat.do_send(message.clone()));
    }
}

impl Drop for Seats {
    /// However the pool ends: another finds the threads that were there from the start.
    fn drop(&mut self) {
        self.places.iter().for_each(Place::end_stand_in);
    }
}
