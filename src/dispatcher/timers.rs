//! Everything the dispatcher has promised itself to do later, by time. One timer is armed for the earliest; a retry is a
//! message from here to the dispatcher itself.

use std::collections::BTreeMap;

use crate::clock::Instant;
use crate::messages::CallId;

/// What is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(clippy::enum_variant_names)] // `grep Due` shows every timer of the program
pub(crate) enum Due {
    /// A call's backoff is over, or its wait for the retry budget.
    RetryDue(CallId),
    /// A call's time is up.
    DeadlineDue(CallId),
    /// An upstream's retry budget may allow some of those that are set aside for it.
    RetryBudgetDue(usize),
    /// An upstream was silent for long enough to be taken for broken, if it still is.
    BreakerDue(usize),
    /// There may be more slots than are of use.
    SurplusDue,
    /// An upstream's budget allows its next call.
    RefillDue(usize),
}

/// Names an entry, to take it back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct DueKey(Instant, u64);

impl DueKey {
    pub(crate) fn at(self) -> Instant {
        self.0
    }
}

/// Due messages in order of time, those of one time in order of entry.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    pub(super) due: BTreeMap<DueKey, Due>,
    next: u64,
}

impl Timers {
    pub(crate) fn add(&mut self, at: Instant, due: Due) -> DueKey {
        let key = DueKey(at, self.next);
        self.next += 1;
        self.due.insert(key, due);
        key
    }

    pub(crate) fn remove(&mut self, key: DueKey) {
        self.due.remove(&key);
    }

    /// When the next is due.
    pub(crate) fn next_at(&self) -> Option<Instant> {
        self.due.first_key_value().map(|(key, _)| key.0)
    }

    /// Takes the next that is due by `now`.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<Due> {
        let entry = self.due.first_entry().filter(|entry| entry.key().0 <= now)?;
        Some(entry.remove())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use std::time::Duration;

    #[test]
    fn what_is_due_comes_in_order_of_time_then_of_entry() {
        let now = clock::now();
        let mut timers = Timers::default();
        let late = timers.add(now + Duration::from_secs(2), Due::RefillDue(0));
        timers.add(now + Duration::from_secs(1), Due::RefillDue(1));
        timers.add(now + Duration::from_secs(1), Due::RefillDue(2));
        assert_eq!(timers.pop(now), None);
        assert_eq!(timers.next_at(), Some(now + Duration::from_secs(1)));
        let then = now + Duration::from_secs(9);
        assert_eq!(timers.pop(then), Some(Due::RefillDue(1)));
        assert_eq!(timers.pop(then), Some(Due::RefillDue(2)));
        timers.remove(late);
        assert_eq!(timers.pop(then), None);
    }
}
