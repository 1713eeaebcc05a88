//! Every accepted call until its one end. What is in here has not been answered; what leaves is.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::admission::Admitted;
use super::ask::Ask;
use super::line::Place;
use super::timers::DueKey;
use crate::clock::Instant;
use crate::messages::{AttemptId, CallId, Durable, Failure, Outcome, Request, SeatId, SlotId};

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
    /// Who keeps a record of its attempts, when somebody does.
    pub(crate) durable: Option<Arc<Durable>>,
    /// Room for the body; given back with the entry.
    pub(crate) _admitted: Admitted,
    pub(crate) state: State,
    pub(crate) deadline: Instant,
    pub(crate) deadline_due: DueKey,
    pub(crate) targets: Vec<Target>,
    /// The target in use.
    pub(crate) target: usize,
    /// What it asks of the lane in use.
    pub(crate) ask: Ask,
    /// Every request made.
    pub(crate) attempts: u32,
    /// Attempts that ended before anything was sent, because the upstream's protocol has no words for the request.
    pub(crate) unsent: u32,
    /// The lane of the last of them.
    pub(crate) asked: Option<usize>,
    /// Requests that count against the target's `max_attempts`.
    pub(crate) counted: u32,
    /// Time spent waiting until `waiting_since`.
    pub(crate) waited: Duration,
    pub(crate) waiting_since: Instant,
    /// Why the attempt before failed.
    pub(crate) last: Option<Box<Failure>>,
}

/// The accepted calls by id. Entries are boxed: a table that grows in a flood moves pointers, not calls.
#[derive(Debug, Default)]
pub(crate) struct Ledger(HashMap<CallId, Box<Entry>>);

/// A table with room for fewer calls is not worth making smaller.
const SMALL: usize = 1_024;

impl Ledger {
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn contains(&self, call: CallId) -> bool {
        self.0.contains_key(&call)
    }

    pub(crate) fn get(&self, call: CallId) -> Option<&Entry> {
        self.0.get(&call).map(|entry| &**entry)
    }

    pub(crate) fn get_mut(&mut self, call: CallId) -> Option<&mut Entry> {
        self.0.get_mut(&call).map(|entry| &mut **entry)
    }

    pub(crate) fn insert(&mut self, entry: Box<Entry>) {
        self.0.insert(entry.id, entry);
    }

    /// Takes a call out. Behind a flood the table goes back to what it needs, by and by: halved at an eighth, so that
    /// what is moved was paid for by the calls that left.
    pub(crate) fn remove(&mut self, call: CallId) -> Option<Box<Entry>> {
        let entry = self.0.remove(&call)?;
        let room = self.0.capacity();
        if room > SMALL && self.0.len() < room / 8 {
            self.0.shrink_to(room / 2);
        }
        Some(entry)
    }

    /// The ids of all, oldest first.
    pub(crate) fn calls(&self) -> Vec<CallId> {
        let mut calls: Vec<CallId> = self.0.keys().copied().collect();
        calls.sort_unstable();
        calls
    }

    /// All entries, in no order.
    #[cfg(test)]
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.0.values().map(|entry| &**entry)
    }

    /// Calls that there is room for without growing.
    #[cfg(test)]
    pub(super) fn room(&self) -> usize {
        self.0.capacity()
    }
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

#[cfg(test)]
mod tests {
    use super::super::switchboard::Switchboard;
    use super::super::{Admission, Legacy, Submit};
    use super::SMALL;
    use crate::clock::{self, Dice};
    use crate::config::Config;
    use crate::messages::{CallId, Request};
    use std::sync::Arc;

    #[test]
    fn behind_a_flood_nothing_is_held_and_the_table_is_small_again() {
        let text = "[queue]\nmax_bytes = \"2GiB\"\n[upstreams.up]\nbase_url = \"http://u.test\"\nmodels = [\"m\"]";
        let config = Arc::new(Config::from_toml(text).expect("a good configuration"));
        let (admission, now) = (Admission::new(&config), clock::now());
        let mut board = Switchboard::new(config, Dice::seeded(1), &Legacy::default(), now);
        let request = Arc::new(Request::chat("m", ["x".repeat(100_000)]));
        let calls: Vec<CallId> = (0..10_000).map(|_| CallId::new()).collect();
        for id in &calls {
            let admitted = admission.admit(request.body().bytes().len()).expect("there is room");
            let (reply, _) = tokio::sync::oneshot::channel();
            board.accept(
                Submit { id: *id, request: Arc::clone(&request), admitted, seat: None, durable: None, reply },
                now,
            );
        }
        assert_eq!(board.ledger.len(), 10_000);
        assert!(admission.held() > 1_000_000_000 && board.ledger.room() >= 10_000);
        for id in &calls {
            board.cancel(*id);
        }
        board.take_orders(now);
        assert!(board.ledger.is_empty() && board.next_due().is_none());
        assert_eq!((admission.held(), Arc::strong_count(&request)), (0, 1));
        assert!(board.ledger.room() <= 2 * SMALL, "room for {} calls is kept", board.ledger.room());
    }
}
