//! How many jobs are with the dispatcher at once: few of each queue, so that a million of them cost disk and not memory, and
//! each queue by itself, so that one that is held or broken never delays another's.
//!
//! A queue is claimed from when less than half of its share is out and something of it is due. Where the dispatcher sent its
//! jobs back because nobody there can take them, the queue rests, and begins again with a single job.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::store::Ms;

/// Jobs of one queue that are out at once, at most.
const MOST_OF_ONE: usize = 256;

/// And their bodies, in bytes.
const MOST_BYTES_OF_ONE: usize = 32 << 20;

/// Jobs of all queues that are out, about: where there are very many queues, each has fewer.
const MOST_OF_ALL: usize = 8_192;

/// How many jobs of which queues are out.
#[derive(Debug, Default)]
pub(super) struct Window {
    queues: BTreeMap<Arc<str>, Queue>,
    /// Queues that may be claimed from, by when.
    open: BTreeSet<(Ms, Arc<str>)>,
}

#[derive(Debug, Default)]
struct Queue {
    /// Jobs that are out, and their bodies in bytes.
    out: usize,
    bytes: usize,
    /// When the next that waits on disk is due.
    next_due: Option<Ms>,
    /// A claim is under way; what is said to be due meanwhile comes on top of what it finds.
    is_asked: bool,
    due_meanwhile: Option<Ms>,
    /// Nothing is claimed before then.
    rests_until: Ms,
    /// Its jobs were sent back: one is claimed, to see whether it goes.
    is_tried: bool,
    /// Where it stands in `open`.
    open_at: Option<Ms>,
}

/// A claim to be made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Ask {
    pub(super) queue: Arc<str>,
    pub(super) limit: usize,
    pub(super) max_bytes: usize,
}

impl Queue {
    fn share(&self, most: usize) -> usize {
        if self.is_tried { 1 } else { most }
    }

    /// From when on it may be claimed from.
    fn opens_at(&self, most: usize) -> Option<Ms> {
        let has_room = self.out < self.share(most).div_ceil(2) && self.bytes < MOST_BYTES_OF_ONE / 2;
        self.next_due.filter(|_| has_room && !self.is_asked).map(|due| due.max(self.rests_until))
    }

    fn is_idle(&self) -> bool {
        self.out == 0 && self.next_due.is_none() && !self.is_asked
    }
}

impl Window {
    /// Something of the queue is due then.
    pub(super) fn is_due(&mut self, queue: &Arc<str>, due: Ms) {
        self.change(queue, |state| {
            let next = if state.is_asked { &mut state.due_meanwhile } else { &mut state.next_due };
            *next = Some(next.map_or(due, |known| known.min(due)));
        });
    }

    /// The next claim to be made; its end is told to [`Window::claimed`] or [`Window::failed`].
    pub(super) fn ask(&mut self, now: Ms) -> Option<Ask> {
        let (_, queue) = self.open.first().filter(|(at, _)| *at <= now)?.clone();
        let most = self.most();
        let mut ask = Ask { queue: Arc::clone(&queue), limit: 0, max_bytes: 0 };
        self.change(&queue, |state| {
            ask.limit = state.share(most).saturating_sub(state.out).max(1);
            ask.max_bytes = MOST_BYTES_OF_ONE.saturating_sub(state.bytes);
            state.is_asked = true;
        });
        Some(ask)
    }

    /// A claim brought jobs with bodies of these sizes; the next of the queue is due then.
    pub(super) fn claimed(&mut self, queue: &Arc<str>, sizes: impl Iterator<Item = usize>, next_due: Option<Ms>) {
        self.change(queue, |state| {
            for size in sizes {
                state.out += 1;
                state.bytes += size;
            }
            state.is_asked = false;
            state.next_due = next_due.into_iter().chain(state.due_meanwhile.take()).min();
        });
    }

    /// A claim failed: it is made again then.
    pub(super) fn failed(&mut self, queue: &Arc<str>, again: Ms) {
        self.change(queue, |state| {
            state.is_asked = false;
            state.due_meanwhile = None;
            state.next_due = Some(again);
        });
    }

    /// A job with a body of this size is out no longer.
    pub(super) fn is_back(&mut self, queue: &Arc<str>, size: usize) {
        self.change(queue, |state| {
            state.out = state.out.saturating_sub(1);
            state.bytes = state.bytes.saturating_sub(size);
        });
    }

    /// Jobs of the queue cannot go now: none is claimed before then.
    pub(super) fn rest(&mut self, queue: &Arc<str>, until: Ms) {
        self.change(queue, |state| {
            state.rests_until = state.rests_until.max(until);
            state.is_tried = true;
        });
    }

    /// A job of the queue has gone: it does not rest any more.
    pub(super) fn goes(&mut self, queue: &Arc<str>) {
        if self.queues.get(queue).is_some_and(|state| state.is_tried) {
            self.change(queue, |state| {
                state.is_tried = false;
                state.rests_until = Ms::MIN;
            });
        }
    }

    /// When there is something to be claimed.
    pub(super) fn next_at(&self) -> Option<Ms> {
        self.open.first().map(|(at, _)| *at)
    }

    /// As many jobs of one queue as may be out.
    fn most(&self) -> usize {
        (MOST_OF_ALL / self.queues.len().max(1)).clamp(1, MOST_OF_ONE)
    }

    fn change(&mut self, queue: &Arc<str>, change: impl FnOnce(&mut Queue)) {
        let most = self.most();
        let state = self.queues.entry(Arc::clone(queue)).or_default();
        change(state);
        let (before, after) = (state.open_at, state.opens_at(most));
        state.open_at = after;
        if state.is_idle() && !state.is_tried {
            self.queues.remove(queue);
        }
        if before == after {
            return;
        }
        if let Some(before) = before {
            self.open.remove(&(before, Arc::clone(queue)));
        }
        if let Some(after) = after {
            self.open.insert((after, Arc::clone(queue)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(queue: &str) -> Arc<str> {
        queue.into()
    }

    fn sizes(count: usize) -> impl Iterator<Item = usize> {
        std::iter::repeat_n(1_000, count)
    }

    /// A window with as many jobs of `m` out as may be, and a million more that are due.
    fn full() -> Window {
        let mut window = Window::default();
        window.is_due(&name("m"), 0);
        let ask = window.ask(0).expect("something is due");
        assert_eq!(ask.limit, MOST_OF_ONE);
        window.claimed(&name("m"), sizes(ask.limit), Some(0));
        window
    }

    #[test]
    fn a_queue_is_claimed_from_when_less_than_half_of_its_share_is_out() {
        let mut window = full();
        for left in (MOST_OF_ONE / 2..MOST_OF_ONE).rev() {
            assert_eq!(window.ask(0), None, "{} are out", left + 1);
            window.is_back(&name("m"), 1_000);
        }
        assert_eq!(window.ask(0), None);
        window.is_back(&name("m"), 1_000);
        assert_eq!(window.ask(0).expect("room").limit, MOST_OF_ONE - (MOST_OF_ONE / 2 - 1));
        assert_eq!(window.ask(0), None, "one claim of a queue at a time");
    }

    #[test]
    fn a_full_queue_keeps_no_other_waiting() {
        let mut window = full();
        window.is_due(&name("other"), 5);
        assert_eq!((window.ask(4), window.next_at()), (None, Some(5)));
        assert_eq!(window.ask(5).expect("room").queue, name("other"));
    }

    #[test]
    fn large_bodies_make_fewer_jobs() {
        let mut window = Window::default();
        window.is_due(&name("m"), 0);
        let ask = window.ask(0).expect("something is due");
        assert_eq!(ask.max_bytes, MOST_BYTES_OF_ONE);
        window.claimed(&name("m"), std::iter::repeat_n(MOST_BYTES_OF_ONE / 4, 3), Some(0));
        assert_eq!(window.ask(0), None);
        window.is_back(&name("m"), MOST_BYTES_OF_ONE / 4);
        assert_eq!(window.ask(0), None, "half is out");
        window.is_back(&name("m"), MOST_BYTES_OF_ONE / 4);
        assert_eq!(window.ask(0).expect("room").max_bytes, MOST_BYTES_OF_ONE / 4 * 3);
    }

    #[test]
    fn what_comes_due_while_a_claim_is_under_way_is_not_forgotten() {
        let mut window = Window::default();
        window.is_due(&name("m"), 0);
        assert!(window.ask(0).is_some());
        window.is_due(&name("m"), 3);
        window.claimed(&name("m"), sizes(0), None);
        assert_eq!((window.ask(2), window.next_at()), (None, Some(3)));
        assert!(window.ask(3).is_some());
    }

    #[test]
    fn a_queue_whose_jobs_are_sent_back_rests_and_is_tried_with_one() {
        let mut window = full();
        for _ in 0..MOST_OF_ONE {
            window.rest(&name("m"), 1_000);
            window.is_back(&name("m"), 1_000);
        }
        assert_eq!((window.ask(999), window.next_at()), (None, Some(1_000)));
        assert_eq!(window.ask(1_000).expect("its rest is over").limit, 1);
        window.claimed(&name("m"), sizes(1), Some(0));
        assert_eq!(window.ask(2_000), None, "the one is still out");
        window.goes(&name("m"));
        assert_eq!(window.ask(2_000).expect("it went").limit, MOST_OF_ONE - 1);
    }

    #[test]
    fn very_many_queues_share_what_there_is_and_each_has_something() {
        let mut window = Window::default();
        for n in 0..2 * MOST_OF_ALL {
            window.is_due(&name(&format!("m{n}")), 0);
        }
        let mut asked = 0;
        while let Some(ask) = window.ask(0) {
            assert_eq!(ask.limit, 1);
            asked += 1;
        }
        assert_eq!(asked, 2 * MOST_OF_ALL);
    }

    #[test]
    fn a_queue_with_nothing_left_costs_nothing() {
        let mut window = full();
        for _ in 0..MOST_OF_ONE {
            window.is_back(&name("m"), 1_000);
        }
        assert!(window.ask(0).is_some());
        window.claimed(&name("m"), sizes(0), None);
        assert!(window.queues.is_empty() && window.open.is_empty());
    }
}
