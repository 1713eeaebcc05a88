//! The dispatcher actor.
//!
//! Owns the [`Switchboard`]: every accepted call, every budget, every timer. Hears calls and their callers' departure
//! (`Submit`, `Call`, `Cancel`), the pool's slots and what becomes of attempts (`SlotUp`, `SlotGone`, `Opened`,
//! `Attempted`), the operator (`Drain`, `EndWaiting`, `EndAll`, `Reconfigure`, `AskHealth`, `AskStatus`, `AskMemories`, `AwaitAttempt`) and itself, later (`WakeDue`). Says
//! `RunAttempt` and `Abort` to slots and `NeedSlots` to the pool. When it dies, the ledger dies with it: every waiting
//! caller's reply is dropped, which the handle turns into one `restarting` error each.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::oneshot;

use super::admission::{Admission, Admitted};
use super::legacy::Legacy;
#[cfg(test)]
use super::planted;
use super::switchboard::{Order, Switchboard};
use crate::clock::{self, Dice, Instant};
use crate::config::Config;
use crate::messages::{
    Abort, AskHealth, AskMemories, AskStatus, Attempted, AwaitAttempt, Call, CallId, Cancel, DeathWatch, Drain,
    Durable, EndAll, EndWaiting, Error, ErrorKind, Health, Memory, NeedSlots, Opened, Outcome, Request, RunAttempt,
    SeatId, SlotGone, SlotUp, Status, Stop,
};

/// Handle to dispatcher: a call whose body has been admitted already.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Submit {
    pub(crate) id: CallId,
    pub(crate) request: Arc<Request>,
    pub(crate) admitted: Admitted,
    /// The thread the caller waits on, when it is one of the pool's.
    pub(crate) seat: Option<SeatId>,
    /// Who keeps a record of its attempts, when somebody does.
    pub(crate) durable: Option<Arc<Durable>>,
    pub(crate) reply: oneshot::Sender<Outcome>,
}

/// Go on with another configuration; accepted calls stay.
#[derive(Message, Clone, Debug)]
#[rtype(result = "()")]
pub(crate) struct Reconfigure(pub(crate) Arc<Config>);

/// Root to dispatcher: this is the pool.
#[derive(Message, Clone)]
#[rtype(result = "()")]
pub(crate) struct PoolLine(pub(crate) Recipient<NeedSlots>);

/// After so many messages the thread's other tasks have their turn: actix would deal with the whole mailbox first, and a
/// flood of it would keep connections and request actors waiting.
pub(crate) const MESSAGES_PER_TURN: u32 = 256;

/// Dispatcher to itself: the earliest of its timers is due.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
struct WakeDue;

/// Holds the budgets of every account and routes calls to the pool. Takes exactly [`Call`] and [`Cancel`] from outside.
pub struct Dispatcher {
    board: Switchboard,
    admission: Arc<Admission>,
    /// How to reach the slots, by index.
    slots: HashMap<u32, (Recipient<RunAttempt>, Recipient<Abort>)>,
    pool: Option<Recipient<NeedSlots>>,
    /// The one armed timer: when, and its handle.
    armed: Option<(Instant, SpawnHandle)>,
    /// Messages dealt with since the thread's other tasks were given a turn.
    in_turn: u32,
    legacy: Legacy,
    _watch: DeathWatch,
    /// Messages until a planted crash.
    #[cfg(test)]
    crash_in: Option<u32>,
}

/// A test to dispatcher: crash at the so-manieth message from now.
#[cfg(test)]
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
pub(crate) struct CrashIn(pub(crate) u32);

#[cfg(test)]
impl Handler<CrashIn> for Dispatcher {
    type Result = ();

    fn handle(&mut self, CrashIn(messages): CrashIn, _: &mut Context<Self>) {
        self.crash_in = Some(messages);
    }
}

impl Dispatcher {
    /// A dispatcher that takes over the budgets of the one before, and leaves its own to the next.
    pub(crate) fn new(
        config: Arc<Config>,
        admission: Arc<Admission>,
        dice: Dice,
        legacy: Legacy,
        watch: DeathWatch,
    ) -> Self {
        #[cfg(test)]
        super::check::fresh();
        // A reload that the one before did not live to hear of.
        admission.reconfigure(&config);
        Self {
            board: Switchboard::new(config, dice, &legacy, clock::now()),
            admission,
            slots: HashMap::new(),
            pool: None,
            armed: None,
            in_turn: 0,
            legacy,
            _watch: watch,
            #[cfg(test)]
            crash_in: None,
        }
    }

    /// Runs `act` on the state and carries out what follows: one message. Timers that are due come first, in each, and
    /// the thread's other tasks have their turn every so often: a flooded mailbox must not starve them.
    fn with_board<T>(&mut self, ctx: &mut Context<Self>, act: impl FnOnce(&mut Switchboard, Instant) -> T) -> T {
        let now = clock::now();
        self.board.run_due(now);
        let result = act(&mut self.board, now);
        #[cfg(test)]
        if let Some(left) = &mut self.crash_in {
            *left -= 1;
            assert!(*left > 0, "a planted crash of the dispatcher");
        }
        for order in self.board.take_orders(now) {
            self.carry_out(order);
        }
        self.arm(ctx, now);
        #[cfg(test)]
        super::check::observe(&mut self.board, now, self.armed.map(|(at, _)| at));
        self.give_way(ctx);
        result
    }

    /// Has the context leave the mailbox alone once, when it has been at it for long enough.
    fn give_way(&mut self, ctx: &mut Context<Self>) {
        self.in_turn += 1;
        if self.in_turn == MESSAGES_PER_TURN {
            self.in_turn = 0;
            ctx.wait(tokio::task::yield_now().into_actor(self));
        }
    }

    fn carry_out(&mut self, order: Order) {
        match order {
            // A slot that is gone says so itself: its attempt is judged then.
            Order::Run(attempt) => {
                if let Some((run, _)) = self.slots.get(&attempt.slot.index) {
                    run.do_send(attempt);
                }
            }
            Order::Abort(abort) => {
                if let Some((_, line)) = self.slots.get(&abort.slot.index) {
                    line.do_send(abort);
                }
            }
            Order::NeedSlots(need) => {
                for slot in &need.surplus {
                    self.slots.remove(&slot.index);
                }
                if let Some(pool) = &self.pool {
                    pool.do_send(need);
                }
            }
        }
    }

    /// Keeps exactly one timer armed, for the earliest that is due.
    fn arm(&mut self, ctx: &mut Context<Self>, now: Instant) {
        let Some(next) = self.board.next_due() else { return };
        if let Some((at, handle)) = self.armed {
            #[cfg(test)]
            if planted::is(planted::Bug::LateTimer) {
                return;
            }
            if at <= next {
                return; // wakes early at worst, finds nothing due and arms again
            }
            ctx.cancel_future(handle);
        }
        let handle = ctx.notify_later(WakeDue, next.saturating_duration_since(now));
        self.armed = Some((next, handle));
    }
}

impl Drop for Dispatcher {
    /// Runs while a panic unwinds, too, and before the watch tells the root.
    fn drop(&mut self) {
        self.board.leave(&self.legacy);
    }
}

impl Actor for Dispatcher {
    type Context = Context<Self>;
}

impl Handler<Submit> for Dispatcher {
    type Result = ();

    fn handle(&mut self, submit: Submit, ctx: &mut Context<Self>) {
        self.with_board(ctx, |board, now| board.accept(submit, now));
    }
}

impl Handler<Call> for Dispatcher {
    type Result = ResponseFuture<Outcome>;

    fn handle(&mut self, call: Call, ctx: &mut Context<Self>) -> Self::Result {
        let Call { id, request } = call;
        let (reply, outcome) = oneshot::channel();
        let admitted = self.admission.admit(request.body().bytes().len());
        self.with_board(ctx, |board, now| match admitted {
            Ok(admitted) => board.accept(Submit { id, request, admitted, seat: None, durable: None, reply }, now),
            Err(error) => _ = reply.send(Err(error)),
        });
        Box::pin(async move { outcome.await.unwrap_or_else(|_| Err(restarting())) })
    }
}

impl Handler<Cancel> for Dispatcher {
    type Result = ();

    fn handle(&mut self, Cancel(call): Cancel, ctx: &mut Context<Self>) {
        self.with_board(ctx, |board, _| board.cancel(call));
    }
}

impl Handler<PoolLine> for Dispatcher {
    type Result = ();

    fn handle(&mut self, PoolLine(pool): PoolLine, _: &mut Context<Self>) {
        self.pool = Some(pool);
    }
}

impl Handler<SlotUp> for Dispatcher {
    type Result = ();

    fn handle(&mut self, up: SlotUp, ctx: &mut Context<Self>) {
        if !self.board.slots.is_outlived(up.slot) {
            self.slots.insert(up.slot.index, (up.run, up.abort));
        }
        self.with_board(ctx, |board, now| board.slot_up(up.slot, up.seat, now));
    }
}

impl Handler<SlotGone> for Dispatcher {
    type Result = ();

    fn handle(&mut self, gone: SlotGone, ctx: &mut Context<Self>) {
        self.with_board(ctx, |board, now| board.slot_gone(gone.slot, now));
    }
}

impl Handler<Opened> for Dispatcher {
    type Result = ();

    fn handle(&mut self, opened: Opened, ctx: &mut Context<Self>) {
        self.with_board(ctx, |board, now| board.opened(opened, now));
    }
}

impl Handler<Attempted> for Dispatcher {
    type Result = ();

    fn handle(&mut self, attempted: Attempted, ctx: &mut Context<Self>) {
        self.with_board(ctx, |board, now| board.attempted(attempted, now));
    }
}

impl Handler<WakeDue> for Dispatcher {
    type Result = ();

    fn handle(&mut self, _: WakeDue, ctx: &mut Context<Self>) {
        self.armed = None;
        self.with_board(ctx, |_, _| ());
    }
}

impl Handler<Drain> for Dispatcher {
    type Result = ();

    fn handle(&mut self, drain: Drain, ctx: &mut Context<Self>) {
        self.with_board(ctx, |board, _| board.drain(drain.done));
    }
}

impl Handler<EndWaiting> for Dispatcher {
    type Result = ();

    fn handle(&mut self, _: EndWaiting, ctx: &mut Context<Self>) {
        self.with_board(ctx, |board, now| board.end_waiting(now));
    }
}

impl Handler<EndAll> for Dispatcher {
    type Result = ();

    fn handle(&mut self, _: EndAll, ctx: &mut Context<Self>) {
        self.with_board(ctx, |board, now| board.end_all(now));
    }
}

impl Handler<Stop> for Dispatcher {
    type Result = ();

    fn handle(&mut self, _: Stop, ctx: &mut Context<Self>) {
        ctx.stop();
    }
}

impl Handler<Reconfigure> for Dispatcher {
    type Result = ();

    fn handle(&mut self, Reconfigure(config): Reconfigure, ctx: &mut Context<Self>) {
        self.admission.reconfigure(&config);
        self.with_board(ctx, |board, now| board.reconfigure(config, now));
    }
}

impl Handler<AskHealth> for Dispatcher {
    type Result = Health;

    fn handle(&mut self, _: AskHealth, ctx: &mut Context<Self>) -> Health {
        self.with_board(ctx, |board, now| board.health(now))
    }
}

impl Handler<AskStatus> for Dispatcher {
    type Result = Status;

    fn handle(&mut self, _: AskStatus, ctx: &mut Context<Self>) -> Status {
        self.with_board(ctx, |board, now| board.status(now))
    }
}

impl Handler<AskMemories> for Dispatcher {
    type Result = Vec<Memory>;

    fn handle(&mut self, ask: AskMemories, ctx: &mut Context<Self>) -> Vec<Memory> {
        self.with_board(ctx, |board, now| board.memories(ask, now))
    }
}

impl Handler<AwaitAttempt> for Dispatcher {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: AwaitAttempt, ctx: &mut Context<Self>) -> Self::Result {
        let (started, is_started) = oneshot::channel();
        self.with_board(ctx, |board, _| board.awaiting_attempt.push(started));
        Box::pin(async move {
            // It is gone with its dispatcher otherwise, which is news as well.
            let _ = is_started.await;
        })
    }
}

/// What a caller is told whose dispatcher died.
pub(crate) fn restarting() -> Error {
    Error::new(ErrorKind::Restarting, "the dispatcher crashed and a fresh one is starting; come again in a moment")
        .with_retry_after(Duration::from_secs(1))
        .asking_for_time()
}

/// What a caller is told who comes too late.
pub(crate) fn draining() -> Error {
    Error::new(ErrorKind::Draining, "forebay is shutting down; come again in a moment")
        .with_retry_after(Duration::from_secs(5))
        .asking_for_time()
}
