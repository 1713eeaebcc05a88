//! A thread's own end of the pool: holds the thread's transport and starts request actors beside itself.

use std::collections::BTreeMap;
use std::rc::Rc;

use actix::prelude::*;

use super::request_actor::{Lines, RequestActor};
use super::transport::{Transport, TransportFactory};
use crate::messages::{DeathWatch, SeatId, SlotId, Stop};

/// Supervisor to seat: start a request actor for this slot.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
pub(super) struct StartSlot(pub(super) SlotId);

/// The actor of one thread. Dies with its thread only; its request actors die with it.
pub(super) struct Seat {
    id: SeatId,
    transport: Rc<dyn Transport>,
    lines: Rc<Lines>,
    /// By index; a slot's next generation takes the place of the one before.
    slots: BTreeMap<u32, Addr<RequestActor>>,
    _watch: DeathWatch,
}

impl Seat {
    /// The watch is there before the transport is made: a factory that panics is a death like any other.
    pub(super) fn new(id: SeatId, factory: &TransportFactory, lines: Lines, watch: DeathWatch) -> Self {
        Self { _watch: watch, id, transport: factory(), lines: Rc::new(lines), slots: BTreeMap::new() }
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
        let actor = RequestActor::new(slot, self.id, Rc::clone(&self.transport), Rc::clone(&self.lines));
        self.slots.insert(slot.index, actor.start());
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

impl Handler<Stop> for Seat {
    type Result = ();

    fn handle(&mut self, _: Stop, ctx: &mut Context<Self>) {
        ctx.stop();
    }
}
