//! Which desks have changed, in the order in which they last did: whoever keeps something of them catches up when asked.

use std::collections::BTreeSet;
use std::ops::Bound;

/// A point in the order of changes. What is kept of the desks is as of one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(super) struct AsOf(u64);

#[derive(Debug, Default)]
pub(super) struct Touched {
    last: AsOf,
    /// When each desk last changed.
    at: Vec<AsOf>,
    order: BTreeSet<(AsOf, usize)>,
}

impl Touched {
    /// All of `desks` have changed just now.
    pub(super) fn new(desks: usize) -> Self {
        let mut touched = Self { last: AsOf(0), at: vec![AsOf(0); desks], order: BTreeSet::new() };
        (0..desks).for_each(|desk| touched.touch(desk));
        touched
    }

    pub(super) fn touch(&mut self, desk: usize) {
        self.order.remove(&(self.at[desk], desk));
        self.last = AsOf(self.last.0 + 1);
        self.at[desk] = self.last;
        self.order.insert((self.last, desk));
    }

    /// The desks that have changed since `seen`, which is now from here on.
    pub(super) fn since(&self, seen: &mut AsOf) -> impl Iterator<Item = usize> + '_ {
        let from = std::mem::replace(seen, self.last);
        self.order.range((Bound::Excluded((from, usize::MAX)), Bound::Unbounded)).map(|(_, desk)| *desk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reader_hears_of_each_changed_desk_once() {
        let mut touched = Touched::new(3);
        let (mut one, mut other) = (AsOf::default(), AsOf::default());
        let since = |touched: &Touched, seen: &mut AsOf| touched.since(seen).collect::<Vec<_>>();
        assert_eq!(since(&touched, &mut one), [0, 1, 2]);
        touched.touch(1);
        touched.touch(0);
        touched.touch(1);
        assert_eq!(since(&touched, &mut one), [0, 1]);
        assert_eq!(since(&touched, &mut one), [0usize; 0]);
        assert_eq!(since(&touched, &mut other), [2, 0, 1]);
    }
}
