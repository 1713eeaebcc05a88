//! Every accepted call until its one end. What is in here has not been answered; what leaves is.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::admission::Admitted;
use super::line::Place;
use super::timers::DueKey;
use crate::clock::Instant;
use crate::messages::{AttemptId, CallId, Failure, Outcome, Request, SeatId, SlotId};

/// Where a call stands.
#[derive(Debug)]
pub(crate) enum State {
    /// In its lane's line.
    Waiting,
    /// Until a retry is due.
    BackingOff(DueKey),
    /// Set aside until its lane's retry budget allows it.
    Parked,
    /// On this slot.
    Running(SlotId),
}

/// One way a call may be served: a lane, and the model's name there.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) lane: usize,
    pub(crate) model: Option<Arc<str>>,
}

/// An accepted call.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) id: CallId,
    pub(crate) request: Arc<Request>,
    pub(crate) reply: oneshot::Sender<Outcome>,
    /// The caller's thread, where a slot is best.
    pub(crate) seat: Option<SeatId>,
    /// Room for the body; given back with the entry.
    pub(crate) _admitted: Admitted,
    pub(crate) state: State,
    pub(crate) deadline: Instant,
    pub(crate) deadline_due: DueKey,
    pub(crate) targets: Vec<Target>,
    /// The target in use.
    pub(crate) target: usize,
    /// Estimated for the lane in use; 0 where no cap asks for it.
    pub(crate) tokens: u64,
    /// Every request made.
    pub(crate) attempts: u32,
    /// The lane of the last of them.
    pub(crate) asked: Option<usize>,
    /// Requests that count against the target's `max_attempts`.
    pub(crate) counted: u32,
    /// Time spent waiting until `waiting_since`.
    pub(crate) waited: Duration,
    pub(crate) waiting_since: Instant,
    /// Why the attempt before failed.
    pub(crate) last: Option<Failure>,
}

impl Entry {
    pub(crate) fn lane(&self) -> usize {
        self.targets[self.target].lane
    }

    /// Whether `id` is the attempt it is at: what another says is not its own.
    pub(crate) fn is_at(&self, id: AttemptId) -> bool {
        matches!(self.state, State::Running(_)) && self.attempts == id.number
    }

    pub(crate) fn place(&self) -> Place {
        Place { priority: self.request.priority(), call: self.id }
    }
}
