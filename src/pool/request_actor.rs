//! The request actor: one slot, one attempt at a time.
//!
//! Owns nothing but its slot's id and, while it works, the attempt. Hears `RunAttempt` and `Abort`; says `SlotUp` when it
//! starts, `Opened` and `Attempted` about its attempt, and `SlotGone` when it dies, of whatever. The attempt runs as a
//! future of the actor's own context, so it dies with it and its connection is closed; the call itself is safe in the
//! dispatcher's ledger.

use std::rc::Rc;

use actix::prelude::*;
use tokio::sync::oneshot;

use super::exchange;
use super::transport::Transport;
use crate::messages::{Abort, AttemptId, Attempted, Error, Opened, RunAttempt, SeatId, SlotGone, SlotId, SlotUp, Stop};

/// The lines from a request actor to those who need to hear of it.
#[derive(Clone)]
pub(crate) struct Lines {
    pub(crate) up: Recipient<SlotUp>,
    pub(crate) opened: Recipient<Opened>,
    pub(crate) attempted: Recipient<Attempted>,
    /// The dispatcher, then the supervisor.
    pub(crate) gone: [Recipient<SlotGone>; 2],
}

/// Reports a death from its `Drop`: it covers a panic, a stop, and the end of the thread alike. Must never panic itself.
struct SlotWatch {
    slot: SlotId,
    gone: [Recipient<SlotGone>; 2],
}

impl Drop for SlotWatch {
    fn drop(&mut self) {
        for line in &self.gone {
            line.do_send(SlotGone { slot: self.slot, crashed: std::thread::panicking() });
        }
    }
}

/// Makes attempts.
pub(super) struct RequestActor {
    slot: SlotId,
    seat: SeatId,
    transport: Rc<dyn Transport>,
    lines: Rc<Lines>,
    running: Option<(AttemptId, oneshot::Sender<Option<Error>>)>,
    _watch: SlotWatch,
}

impl RequestActor {
    pub(super) fn new(slot: SlotId, seat: SeatId, transport: Rc<dyn Transport>, lines: Rc<Lines>) -> Self {
        let watch = SlotWatch { slot, gone: lines.gone.clone() };
        Self { slot, seat, transport, lines, running: None, _watch: watch }
    }
}

impl Actor for RequestActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        let address = ctx.address();
        let up =
            SlotUp { slot: self.slot, seat: self.seat, run: address.clone().recipient(), abort: address.recipient() };
        self.lines.up.do_send(up);
    }
}

impl Handler<RunAttempt> for RequestActor {
    type Result = ();

    fn handle(&mut self, attempt: RunAttempt, ctx: &mut Context<Self>) {
        if attempt.slot != self.slot {
            return; // meant for an earlier generation, whose death the dispatcher hears of
        }
        #[cfg(test)]
        super::planted::handling(&attempt, ctx);
        assert!(self.running.is_none(), "one attempt at a time");
        let (abort, aborted) = oneshot::channel();
        let id = attempt.id;
        self.running = Some((id, abort));
        let work = exchange::run(attempt, Rc::clone(&self.transport), Rc::clone(&self.lines), aborted);
        ctx.spawn(work.into_actor(self).map(move |end, actor, _| {
            actor.running = None;
            actor.lines.attempted.do_send(Attempted { slot: actor.slot, id, end });
        }));
    }
}

impl Handler<Stop> for RequestActor {
    type Result = ();

    fn handle(&mut self, _: Stop, ctx: &mut Context<Self>) {
        ctx.stop();
    }
}

impl Handler<Abort> for RequestActor {
    type Result = ();

    fn handle(&mut self, abort: Abort, _: &mut Context<Self>) {
        let is_current = abort.slot == self.slot && self.running.as_ref().is_some_and(|(id, _)| *id == abort.id);
        if is_current && let Some((_, line)) = self.running.take() {
            // Closed only when the attempt has just ended by itself.
            let _ = line.send(abort.told);
        }
    }
}
