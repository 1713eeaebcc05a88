//! The slots the pool has announced: which are idle, and what the busy ones hold.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::budget::Permit;
use crate::clock::Instant;
use crate::messages::{Account, AttemptId, Price, SeatId, SlotId, Tether};

/// What a slot is busy with.
#[derive(Debug)]
pub(crate) struct Busy {
    pub(crate) id: AttemptId,
    pub(crate) lane: usize,
    pub(crate) account: Arc<Account>,
    pub(crate) permit: Permit,
    /// When it was sent.
    pub(crate) began: Instant,
    /// What its tokens cost.
    pub(crate) price: Option<Price>,
    /// Its stream has gone to the caller, and ends with this at the latest: the call is out of the ledger.
    pub(crate) stream: Option<Tether>,
}

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) generation: u32,
    pub(super) seat: SeatId,
    pub(super) busy: Option<Busy>,
}

/// All slots by index.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    pub(super) slots: BTreeMap<u32, Slot>,
    /// Idle slots of each seat, the most recently used last: a warm connection is a thread's, not a slot's, but a warm
    /// stack is a slot's.
    pub(super) idle: BTreeMap<SeatId, Vec<u32>>,
    busy: usize,
    /// The most that were busy at once since the last look for a surplus.
    peak: usize,
}

/// So many slots are kept even if they are of no use: fewer are not worth the coming and going.
const KEPT: usize = if cfg!(test) { 3 } else { 32 }; // so that the simulation sees them come and go

impl Slots {
    /// A slot takes attempts from now on.
    pub(crate) fn up(&mut self, slot: SlotId, seat: SeatId) {
        self.slots.insert(slot.index, Slot { generation: slot.generation, seat, busy: None });
        self.idle.entry(seat).or_default().push(slot.index);
    }

    /// Whether a later generation of the same slot is known.
    pub(crate) fn is_outlived(&self, slot: SlotId) -> bool {
        self.slots.get(&slot.index).is_some_and(|known| known.generation > slot.generation)
    }

    /// The earlier generation of the same slot that is known.
    pub(crate) fn before(&self, slot: SlotId) -> Option<SlotId> {
        let known = self.slots.get(&slot.index)?;
        (known.generation < slot.generation).then_some(SlotId { generation: known.generation, ..slot })
    }

    /// Whether there is anything to give back, now or later.
    pub(crate) fn may_shrink(&self) -> bool {
        self.slots.len() > KEPT
    }

    /// Takes away the idle slots that were not of use since the last look, longest idle first.
    pub(crate) fn take_surplus(&mut self) -> Vec<SlotId> {
        let needed = std::mem::replace(&mut self.peak, self.busy).max(KEPT);
        let mut over = self.slots.len().saturating_sub(needed);
        // Every seat gives its share, as far as it has idle ones.
        let share = over.div_ceil(self.idle.len().max(1));
        let mut surplus = Vec::new();
        for idle in self.idle.values_mut() {
            let count = share.min(over).min(idle.len());
            over -= count;
            for index in idle.drain(..count) {
                surplus.extend(self.slots.remove(&index).map(|slot| SlotId { index, generation: slot.generation }));
            }
        }
        surplus
    }

    /// A slot has died. Gives what it was busy with; `None` also when the notice is stale.
    pub(crate) fn gone(&mut self, slot: SlotId) -> Option<Busy> {
        let known = self.slots.get(&slot.index)?;
        if known.generation != slot.generation {
            return None;
        }
        let dead = self.slots.remove(&slot.index)?;
        match dead.busy {
            Some(busy) => {
                self.busy -= 1;
                Some(busy)
            }
            None => {
                if let Some(idle) = self.idle.get_mut(&dead.seat) {
                    idle.retain(|index| *index != slot.index);
                }
                None
            }
        }
    }

    /// Takes an idle slot, on `seat` when there is a choice.
    pub(crate) fn claim(&mut self, seat: Option<SeatId>) -> Option<SlotId> {
        let own = seat.and_then(|seat| self.idle.get_mut(&seat)).and_then(Vec::pop);
        let index = own.or_else(|| self.idle.values_mut().max_by_key(|idle| idle.len()).and_then(Vec::pop))?;
        Some(SlotId { index, generation: self.slots[&index].generation })
    }

    /// Makes a claimed slot busy.
    pub(crate) fn occupy(&mut self, slot: SlotId, busy: Busy) {
        if let Some(known) = self.slots.get_mut(&slot.index) {
            debug_assert!(known.busy.is_none(), "one attempt at a time");
            known.busy = Some(busy);
            self.busy += 1;
            self.peak = self.peak.max(self.busy);
        }
    }

    /// The attempt on `slot` has ended. `None` when the notice is stale: of a dead generation, or of another attempt.
    pub(crate) fn free(&mut self, slot: SlotId, id: AttemptId) -> Option<Busy> {
        let known = self.known(slot)?;
        let busy = known.busy.take_if(|busy| busy.id == id)?;
        let seat = known.seat;
        self.busy -= 1;
        self.idle.entry(seat).or_default().push(slot.index);
        Some(busy)
    }

    /// What `slot` is busy with, when it is that attempt.
    pub(crate) fn busy_with(&mut self, slot: SlotId, id: AttemptId) -> Option<&mut Busy> {
        self.known(slot)?.busy.as_mut().filter(|busy| busy.id == id)
    }

    fn known(&mut self, slot: SlotId) -> Option<&mut Slot> {
        self.slots.get_mut(&slot.index).filter(|known| known.generation == slot.generation)
    }

    /// Slots there are.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Attempts under way.
    pub(crate) fn busy(&self) -> usize {
        self.busy
    }

    /// Attempts whose stream has gone to the caller.
    pub(crate) fn streaming(&self) -> Vec<(SlotId, AttemptId)> {
        let open = |(index, slot): (&u32, &Slot)| {
            let busy = slot.busy.as_ref().filter(|busy| busy.stream.is_some())?;
            Some((SlotId { index: *index, generation: slot.generation }, busy.id))
        };
        self.slots.iter().filter_map(open).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::switchboard::Switchboard;
    use super::super::{Admission, Legacy, Submit};
    use super::*;
    use crate::clock::{self, Dice};
    use crate::config::Config;
    use crate::messages::{CallId, Request};

    #[test]
    fn a_slot_that_comes_late_from_a_thread_that_was_blocked_does_not_end_its_successor() {
        let text = "[upstreams.up]\nbase_url = \"http://u.test\"\nmodels = [\"m\"]";
        let config = Arc::new(Config::from_toml(text).expect("a good configuration"));
        let (admission, now) = (Admission::new(&config), clock::now());
        let mut board = Switchboard::new(config, Dice::seeded(1), &Legacy::default(), now);
        let (id, request) = (CallId::new(), Arc::new(Request::chat("m", ["hello"])));
        let admitted = admission.admit(1).expect("there is room");
        let (reply, _outcome) = tokio::sync::oneshot::channel();
        board.accept(Submit { id, request, admitted, seat: None, durable: None, reply }, now);
        let [early, late] = [0, 1].map(|generation| SlotId { index: 0, generation });
        board.slot_up(late, SeatId(1), now);
        board.take_orders(now);
        let attempt = AttemptId { call: id, number: 1 };
        assert!(board.slots.busy_with(late, attempt).is_some(), "it runs");
        board.slot_up(early, SeatId(1), now);
        board.slot_gone(early, now);
        board.take_orders(now);
        assert!(board.slots.busy_with(late, attempt).is_some(), "it still does");
        assert_eq!(board.slots.len(), 1);
    }
}
