//! Calls that wait for one upstream: a queue for each priority and model group, in order of arrival. A retry keeps its
//! call's place. Which of them goes is said in `turn`.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::ask::{Ask, Group};
use crate::clock::Instant;
use crate::messages::{CallId, Priority};

/// A call's place in the order of its line: by priority, then by arrival.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Place {
    pub(crate) priority: Priority,
    /// Later arrivals have greater ids.
    pub(crate) call: CallId,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) ask: Ask,
    pub(super) deadline: Instant,
    /// Calls that have gone past it, while it was the first of its queue, with what it waits for.
    pub(super) passed: u32,
    /// The desk that is left to gather for it, and when it fits there.
    pub(super) gathers: Option<(usize, Instant)>,
}

/// The calls that wait for an upstream now; those in backoff are not here.
#[derive(Debug, Default)]
pub(crate) struct Line {
    /// None of them is empty.
    pub(super) queues: BTreeMap<(Priority, Group), BTreeMap<CallId, Waiting>>,
    /// The first of each queue.
    pub(super) heads: BTreeMap<Place, Group>,
    deadlines: BTreeSet<(Instant, Place)>,
    /// Calls by priority.
    pub(super) counts: [u64; 3],
}

impl Line {
    pub(crate) fn len(&self) -> usize {
        self.counts.iter().sum::<u64>() as usize
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }

    pub(crate) fn push(&mut self, place: Place, ask: Ask, deadline: Instant) {
        let queue = self.queues.entry((place.priority, ask.group)).or_default();
        let head = queue.first_key_value().map(|(call, _)| *call);
        let before = queue.insert(place.call, Waiting { ask, deadline, passed: 0, gathers: None });
        debug_assert!(before.is_none(), "a call waits once");
        if head.is_none_or(|head| place.call < head) {
            if let Some(call) = head {
                self.heads.remove(&Place { call, ..place });
            }
            self.heads.insert(place, ask.group);
        }
        self.deadlines.insert((deadline, place));
        self.counts[place.priority as usize] += 1;
    }

    pub(crate) fn remove(&mut self, place: Place, group: Group) {
        let Some(queue) = self.queues.get_mut(&(place.priority, group)) else { return };
        let Some(waiting) = queue.remove(&place.call) else { return };
        if self.heads.remove(&place).is_some()
            && let Some((call, _)) = queue.first_key_value()
        {
            self.heads.insert(Place { call: *call, ..place }, group);
        }
        if queue.is_empty() {
            self.queues.remove(&(place.priority, group));
        }
        self.deadlines.remove(&(waiting.deadline, place));
        self.counts[place.priority as usize] -= 1;
    }

    /// Of the calls that are first in their queue the first one behind `place`.
    pub(super) fn head_behind(&self, place: Option<Place>) -> Option<(Place, Group)> {
        let from = place.map_or(Bound::Unbounded, Bound::Excluded);
        self.heads.range((from, Bound::Unbounded)).next().map(|(place, group)| (*place, *group))
    }

    /// The queue of a priority and group, in order.
    pub(super) fn queue(&self, priority: Priority, group: Group) -> impl Iterator<Item = (CallId, Waiting)> + '_ {
        self.queues.get(&(priority, group)).into_iter().flatten().map(|(call, waiting)| (*call, *waiting))
    }

    pub(super) fn get(&self, place: Place, group: Group) -> Option<&Waiting> {
        self.queues.get(&(place.priority, group))?.get(&place.call)
    }

    fn get_mut(&mut self, place: Place, group: Group) -> Option<&mut Waiting> {
        self.queues.get_mut(&(place.priority, group))?.get_mut(&place.call)
    }

    /// Another call goes past this one; gives how many have.
    pub(super) fn pass(&mut self, place: Place, group: Group) -> u32 {
        let Some(waiting) = self.get_mut(place, group) else { return 0 };
        waiting.passed += 1;
        waiting.passed
    }

    /// A desk is left to gather for this call, which fits there then.
    pub(super) fn gather(&mut self, place: Place, group: Group, desk: usize, at: Instant) {
        if let Some(waiting) = self.get_mut(place, group) {
            waiting.gathers = Some((desk, at));
        }
    }

    /// The desks are others from now on.
    pub(super) fn forget_desks(&mut self) {
        self.queues.values_mut().flat_map(BTreeMap::values_mut).for_each(|waiting| waiting.gathers = None);
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

    /// Those of a group.
    pub(crate) fn due_before_of(&self, instant: Instant, group: Group) -> Vec<CallId> {
        let places = self.deadlines.iter().take_while(|(deadline, _)| *deadline < instant).map(|(_, place)| place);
        places.filter(|place| self.get(**place, group).is_some()).map(|place| place.call).collect()
    }

    /// Every call, in order.
    pub(crate) fn calls(&self) -> Vec<CallId> {
        let mut places: Vec<Place> = self.deadlines.iter().map(|(_, place)| *place).collect();
        places.sort_unstable();
        places.into_iter().map(|place| place.call).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::messages::Tokens;
    use std::time::Duration;

    fn asks(priority: Priority, group: u32) -> Ask {
        Ask { group: Group(group), tokens: Tokens::default(), priority }
    }

    #[test]
    fn calls_stand_by_priority_then_by_arrival_and_a_retry_keeps_its_place() {
        let now = clock::now();
        let (a, b, c, d) = (CallId::new(), CallId::new(), CallId::new(), CallId::new());
        let mut line = Line::default();
        let place = |priority, call| Place { priority, call };
        line.push(place(Priority::Normal, b), asks(Priority::Normal, 0), now + Duration::from_secs(1));
        line.push(place(Priority::Low, c), asks(Priority::Low, 0), now + Duration::from_secs(9));
        line.push(place(Priority::High, d), asks(Priority::High, 0), now + Duration::from_secs(9));
        line.push(place(Priority::Normal, a), asks(Priority::Normal, 0), now + Duration::from_secs(3));
        assert_eq!((line.ahead_of(Priority::Normal), line.above(Priority::Normal)), (3, 1));
        assert_eq!((line.ahead_of(Priority::High), line.above(Priority::High)), (1, 0));
        assert_eq!(line.due_before(now + Duration::from_secs(3)), [b]);
        assert_eq!(line.calls(), [d, a, b, c]);
        let mut order = Vec::new();
        while let Some((head, group)) = line.head_behind(None) {
            order.push(head.call);
            line.remove(head, group);
        }
        assert_eq!(order, [d, a, b, c]);
        assert_eq!(line.ahead_of(Priority::Low), 0);
        assert!(line.is_empty() && line.due_before(now + Duration::from_secs(99)).is_empty());
    }

    #[test]
    fn the_first_of_each_queue_is_known_whoever_comes_and_goes() {
        let deadline = clock::now();
        let calls: Vec<CallId> = (0..6).map(|_| CallId::new()).collect();
        let place = |n: usize| Place { priority: Priority::Normal, call: calls[n] };
        let mut line = Line::default();
        let heads = |line: &Line| line.heads.keys().map(|place| place.call).collect::<Vec<_>>();
        for n in [3, 2, 5, 1, 4] {
            line.push(place(n), asks(Priority::Normal, n as u32 % 2), deadline);
        }
        assert_eq!(heads(&line), [calls[1], calls[2]]);
        line.push(place(0), asks(Priority::Normal, 0), deadline);
        assert_eq!(heads(&line), [calls[0], calls[1]]);
        line.remove(place(1), Group(1));
        line.remove(place(4), Group(0));
        assert_eq!(heads(&line), [calls[0], calls[3]]);
        assert_eq!(line.head_behind(Some(place(0))), Some((place(3), Group(1))));
        assert_eq!(line.head_behind(Some(place(3))), None);
        line.remove(place(0), Group(0));
        line.remove(place(2), Group(0));
        line.remove(place(3), Group(1));
        assert_eq!((heads(&line), line.len()), (vec![calls[5]], 1));
    }
}
