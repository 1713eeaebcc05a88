//! A sorted map that can take back what was done to it.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::ops::RangeBounds;

/// A table, whatever it holds.
pub(super) trait Undo {
    /// What was done since the last time can no longer be taken back.
    fn keep(&mut self);

    /// Takes back what was done since the last time.
    fn undo(&mut self);
}

/// Rows by key.
#[derive(Debug)]
pub(super) struct Table<K, V> {
    rows: BTreeMap<K, V>,
    /// What stood under a key before each change of it.
    before: Vec<(K, Option<V>)>,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self { rows: BTreeMap::new(), before: Vec::new() }
    }
}

impl<K: Ord + Clone, V: Clone> Table<K, V> {
    pub(super) fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.rows.get(key)
    }

    /// Puts a row in place of the one under this key, if there is one.
    pub(super) fn put(&mut self, key: K, row: V) {
        let before = self.rows.insert(key.clone(), row);
        self.before.push((key, before));
    }

    pub(super) fn remove(&mut self, key: &K) -> bool {
        let before = self.rows.remove(key);
        let was_there = before.is_some();
        if was_there {
            self.before.push((key.clone(), before));
        }
        was_there
    }

    pub(super) fn range(&self, range: impl RangeBounds<K>) -> impl DoubleEndedIterator<Item = (&K, &V)> {
        self.rows.range(range)
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, &V)> {
        self.rows.iter()
    }

    #[cfg(test)]
    pub(super) fn last(&self) -> Option<&K> {
        self.rows.last_key_value().map(|(key, _)| key)
    }
}

impl<K: Ord + Clone, V: Clone> Undo for Table<K, V> {
    fn keep(&mut self) {
        self.before.clear();
    }

    fn undo(&mut self) {
        while let Some((key, before)) = self.before.pop() {
            match before {
                Some(row) => self.rows.insert(key, row),
                None => self.rows.remove(&key),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_since_it_was_last_kept_is_taken_back_in_order() {
        let mut table = Table::default();
        table.put(1, "one");
        table.put(2, "two");
        table.keep();
        table.put(1, "uno");
        table.put(1, "eins");
        table.remove(&2);
        table.put(2, "zwei");
        table.put(3, "drei");
        assert!(!table.remove(&4));
        table.undo();
        assert_eq!(table.iter().collect::<Vec<_>>(), [(&1, &"one"), (&2, &"two")]);
        table.undo();
        assert_eq!(table.last(), Some(&2), "there is nothing left to take back");
    }
}
