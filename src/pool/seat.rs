//! A thread's own end of the pool: holds the thread's transport and starts request actors beside itself.

use std::rc::Rc;

use actix::prelude::*;

use super::request_actor::{Lines, RequestActor};
use super::transport::{Transport, TransportFactory};
use crate::messages::{SeatId, SlotId};

/// Supervisor to seat: start a request actor for this slot.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
pub(super) struct StartSlot(pub(super) SlotId);

/// The actor of one thread. Dies with its thread only; its request actors die with it.
pub(super) struct Seat {
    id: SeatId,
    transport: Rc<dyn Transport>,
    lines: Rc<Lines>,
}

impl Seat {
    pub(super) fn new(id: SeatId, factory: &TransportFactory, lines: Lines) -> Self {
        Self { id, transport: factory(), lines: Rc::new(lines) }
    }
}

impl Actor for Seat {
    type Context = Context<Self>;
}

impl Handler<StartSlot> for Seat {
    type Result = ();

    fn handle(&mut self, StartSlot(slot): StartSlot, _: &mut Context<Self>) {
        RequestActor::new(slot, self.id, Rc::clone(&self.transport), Rc::clone(&self.lines)).start();
    }
}
