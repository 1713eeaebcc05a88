//! Calls that wait for one upstream, in the order they go: by priority, then by arrival. A retry keeps its call's place.

use std::collections::{BTreeMap, BTreeSet};

use crate::clock::Instant;
use crate::messages::{CallId, Priority};

/// A call's place in the order of its line.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Place {
    pub(crate) priority: Priority,
    /// Later arrivals have greater ids.
    pub(crate) call: CallId,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) tokens: u64,
    pub(super) deadline: Instant,
}

/// The calls that wait for an upstream now; those in backoff are not here.
#[derive(Debug, Default)]
pub(crate) struct Line {
    pub(super) waiting: BTreeMap<Place, Waiting>,
    deadlines: BTreeSet<(Instant, Place)>,
    /// Calls by priority.
    pub(super) counts: [u64; 3],
}

impl Line {
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(crate) fn push(&mut self, place: Place, tokens: u64, deadline: Instant) {
        let before = self.waiting.insert(place, Waiting { tokens, deadline });
        debug_assert!(before.is_none(), "a call waits once");
        self.deadlines.insert((deadline, place));
        self.counts[place.priority as usize] += 1;
    }

    /// The call whose turn it is, and its tokens.
    pub(crate) fn head(&self) -> Option<(Place, u64)> {
        self.waiting.first_key_value().map(|(place, waiting)| (*place, waiting.tokens))
    }

    pub(crate) fn remove(&mut self, place: Place) {
        let Some(waiting) = self.waiting.remove(&place) else { return };
        self.deadlines.remove(&(waiting.deadline, place));
        self.counts[place.priority as usize] -= 1;
    }

    /// Calls that a new call of `priority` would stand behind.
    pub(crate) fn ahead_of(&self, priority: Priority) -> u64 {
        self.counts[..=priority as usize].iter().sum()
    }

    /// Calls that a call of `priority` stands behind wherever it stands among its own.
    pub(crate) fn above(&self, priority: Priority) -> u64 {
        self.counts[..priority as usize].iter().sum()
    }

    /// Calls whose deadline lies before `instant`.
    pub(crate) fn due_before(&self, instant: Instant) -> Vec<CallId> {
        self.deadlines.iter().take_while(|(deadline, _)| *deadline < instant).map(|(_, place)| place.call).collect()
    }

    /// Every call, in order.
    pub(crate) fn calls(&self) -> impl Iterator<Item = CallId> + '_ {
        self.waiting.keys().map(|place| place.call)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use std::time::Duration;

    #[test]
    fn calls_go_by_priority_then_by_arrival_and_a_retry_keeps_its_place() {
        let now = clock::now();
        let (a, b, c, d) = (CallId::new(), CallId::new(), CallId::new(), CallId::new());
        let mut line = Line::default();
        let place = |priority, call| Place { priority, call };
        line.push(place(Priority::Normal, b), 10, now + Duration::from_secs(1));
        line.push(place(Priority::Low, c), 1, now + Duration::from_secs(9));
        line.push(place(Priority::High, d), 5, now + Duration::from_secs(9));
        line.push(place(Priority::Normal, a), 10, now + Duration::from_secs(3));
        assert_eq!((line.ahead_of(Priority::Normal), line.above(Priority::Normal)), (3, 1));
        assert_eq!((line.ahead_of(Priority::High), line.above(Priority::High)), (1, 0));
        assert_eq!(line.due_before(now + Duration::from_secs(3)), [b]);
        let mut order = Vec::new();
        while let Some((head, _)) = line.head() {
            order.push(head.call);
            line.remove(head);
        }
        assert_eq!(order, [d, a, b, c]);
        assert_eq!(line.ahead_of(Priority::Low), 0);
        assert!(line.due_before(now + Duration::from_secs(99)).is_empty());
    }
}
