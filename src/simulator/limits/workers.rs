//! A server that refuses nothing and only gets slower: so many calls are worked on at a time, the others wait in a line
//! without end, first come, first served.

use std::collections::VecDeque;

/// Workers and the line before them; `T` is how a waiting call is known.
#[derive(Clone, Debug)]
pub struct Workers<T> {
    workers: usize,
    busy: usize,
    line: VecDeque<T>,
}

impl<T> Workers<T> {
    /// So many, all idle; none at all would never do anything, so there is at least one.
    pub fn new(workers: u32) -> Self {
        let mut empty = Self { workers: 1, busy: 0, line: VecDeque::new() };
        empty.set(workers);
        empty
    }

    /// So many from now on: more find their calls by [`Workers::begin`], and where there are fewer, the calls begun go on.
    pub fn set(&mut self, workers: u32) {
        self.workers = usize::try_from(workers).unwrap_or(usize::MAX).max(1);
    }

    /// A call comes in: it is given back when a worker takes it at once, and kept in line otherwise.
    pub fn enter(&mut self, call: T) -> Option<T> {
        if self.line.is_empty() && self.busy < self.workers {
            self.busy += 1;
            return Some(call);
        }
        self.line.push_back(call);
        None
    }

    /// The first in line, if a worker is idle: it is worked on from now on.
    pub fn begin(&mut self) -> Option<T> {
        let next = if self.busy < self.workers { self.line.pop_front() } else { None };
        self.busy += usize::from(next.is_some());
        next
    }

    /// A worker has done with its call, and takes the one given back: the first in line, if any.
    pub fn leave(&mut self) -> Option<T> {
        self.busy = self.busy.saturating_sub(1);
        self.begin()
    }

    /// A call leaves the line before its turn; false when it is not in line.
    pub fn abandon(&mut self, is_it: impl FnMut(&T) -> bool) -> bool {
        let place = self.line.iter().position(is_it);
        place.is_some_and(|place| self.line.remove(place).is_some())
    }

    /// Calls worked on.
    pub fn busy(&self) -> usize {
        self.busy
    }

    /// Calls in line.
    pub fn waiting(&self) -> usize {
        self.line.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_take_calls_in_the_order_of_their_coming() {
        let mut workers = Workers::new(2);
        assert_eq!((workers.enter('a'), workers.enter('b')), (Some('a'), Some('b')));
        assert_eq!((workers.enter('c'), workers.enter('d')), (None, None));
        assert_eq!((workers.busy(), workers.waiting()), (2, 2));
        assert_eq!((workers.leave(), workers.leave(), workers.leave()), (Some('c'), Some('d'), None));
        assert_eq!((workers.busy(), workers.waiting()), (1, 0));
        assert_eq!((workers.enter('e'), workers.enter('f')), (Some('e'), None));
    }

    #[test]
    fn who_leaves_the_line_is_passed_over() {
        let mut workers = Workers::new(1);
        assert_eq!(workers.enter('a'), Some('a'));
        assert_eq!((workers.enter('b'), workers.enter('c')), (None, None));
        assert!(workers.abandon(|call| *call == 'b'));
        assert!(!workers.abandon(|call| *call == 'a'), "it is worked on already");
        assert_eq!((workers.leave(), workers.waiting()), (Some('c'), 0));
    }

    #[test]
    fn more_workers_begin_at_once_and_fewer_finish_what_they_have() {
        let mut workers = Workers::new(1);
        for call in 'a'..='f' {
            workers.enter(call);
        }
        workers.set(3);
        assert_eq!((workers.begin(), workers.begin(), workers.begin()), (Some('b'), Some('c'), None));
        workers.set(2);
        assert_eq!((workers.leave(), workers.busy()), (None, 2));
        assert_eq!((workers.leave(), workers.busy()), (Some('d'), 2));
    }
}
