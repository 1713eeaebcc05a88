//! A thread's own end of the pool: holds the thread's transport and starts request actors beside itself.

use std::collections::BTreeMap;
use std::rc::Rc;

use actix::prelude::*;

use super::request_actor::{Lines, RequestActor};
use super::transport::{Transport, TransportFactory};
use crate::messages::{SeatId, SlotId, Stop};

/// Supervisor to seat: start a request actor for this slot.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
pub(super) struct StartSlot(pub(super) SlotId);

/// Supervisor to seat: this slot is of no use any more.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
pub(super) struct EndSlot(pub(super) u32);

/// Supervisor to seat: is the thread still there? Answered with [`Alive`].
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
pub(super) struct Beat;

/// Seat to supervisor: it is.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
pub(super) struct Alive(pub(super) Incarnation);

/// Seat to supervisor, from its `Drop`: it has died, of a panic or with its thread.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
pub(super) struct SeatGone(pub(super) Incarnation);

/// Which of the seat actors that a seat has had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Incarnation {
    pub(super) seat: SeatId,
    pub(super) generation: u32,
}

/// Kept by the seat as a field, and there before its transport is made: a factory that panics is a death like any other.
/// Must never panic itself.
pub(super) struct SeatWatch {
    pub(super) incarnation: Incarnation,
    pub(super) gone: Recipient<SeatGone>,
}

impl Drop for SeatWatch {
    fn drop(&mut self) {
        self.gone.do_send(SeatGone(self.incarnation));
    }
}

/// The actor of one thread. Its request actors die with it.
pub(super) struct Seat {
    transport: Rc<dyn Transport>,
    lines: Rc<Lines>,
    alive: Recipient<Alive>,
    /// By index; a slot's next generation takes the place of the one before.
    slots: BTreeMap<u32, Addr<RequestActor>>,
    watch: SeatWatch,
}

impl Seat {
    pub(super) fn new(factory: &TransportFactory, lines: Lines, alive: Recipient<Alive>, watch: SeatWatch) -> Self {
        Self { watch, transport: factory(), lines: Rc::new(lines), alive, slots: BTreeMap::new() }
    }
}

impl Drop for Seat {
    /// However it ends: what its request actors work on has nobody to be told to any more.
    fn drop(&mut self) {
        for actor in self.slots.values() {
            actor.do_send(Stop);
        }
    }
}

impl Actor for Seat {
    type Context = Context<Self>;
}

impl Handler<StartSlot> for Seat {
    type Result = ();

    fn handle(&mut self, StartSlot(slot): StartSlot, _: &mut Context<Self>) {
        let seat = self.watch.incarnation.seat;
        let actor = RequestActor::new(slot, seat, Rc::clone(&self.transport), Rc::clone(&self.lines));
        self.slots.insert(slot.index, actor.start());
    }
}

impl Handler<EndSlot> for Seat {
    type Result = ();

    fn handle(&mut self, EndSlot(index): EndSlot, _: &mut Context<Self>) {
        if let Some(actor) = self.slots.remove(&index) {
            actor.do_send(Stop);
        }
    }
}

impl Handler<Beat> for Seat {
    type Result = ();

    fn handle(&mut self, _: Beat, _: &mut Context<Self>) {
        self.alive.do_send(Alive(self.watch.incarnation));
    }
}

impl Handler<Stop> for Seat {
    type Result = ();

    fn handle(&mut self, _: Stop, ctx: &mut Context<Self>) {
        ctx.stop();
    }
}

/// A test to supervisor and seat: end this slot's actor, whatever it does.
#[cfg(test)]
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
pub(crate) struct KillSlot(pub(crate) u32);

#[cfg(test)]
impl Handler<KillSlot> for Seat {
    type Result = ();

    fn handle(&mut self, KillSlot(index): KillSlot, _: &mut Context<Self>) {
        self.slots.get(&index).into_iter().for_each(|actor| actor.do_send(Stop));
    }
}
