//! How slots come and go between the pool and the dispatcher.

use actix::prelude::*;

use super::{Abort, RunAttempt, SeatId, SlotId};

/// Pool to dispatcher: this slot takes attempts.
#[derive(Message, Clone)]
#[rtype(result = "()")]
pub(crate) struct SlotUp {
    pub(crate) slot: SlotId,
    pub(crate) seat: SeatId,
    pub(crate) run: Recipient<RunAttempt>,
    pub(crate) abort: Recipient<Abort>,
}

/// A dying request actor to dispatcher and supervisor, sent from its `Drop`: it covers a panic, a stop and the end of its thread alike.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
pub(crate) struct SlotGone {
    pub(crate) slot: SlotId,
    /// Whether it died of a panic.
    pub(crate) crashed: bool,
}

/// Dispatcher to pool: so many slots are of use now. The accounts' own limits bound the number.
#[derive(Message, Clone, Debug)]
#[rtype(result = "()")]
pub(crate) struct NeedSlots {
    pub(crate) total: usize,
    /// Idle ones that are of no use any more: they get no attempt from here on.
    pub(crate) surplus: Vec<SlotId>,
}
