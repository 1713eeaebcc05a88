//! A log of the last period: what was taken comes back exactly one period later.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Instant;

#[derive(Clone, Debug)]
pub(super) struct Log {
    limit: u64,
    span: Duration,
    /// When something was taken, and how much has been taken in all since the log began, that included. The sums find the
    /// entry one has to wait for without adding up those before it.
    entries: VecDeque<(Instant, u64)>,
    /// What has been taken in all before the first entry.
    before: u64,
}

impl Log {
    pub(super) fn new(limit: u64, span: Duration) -> Self {
        Self { limit, span, entries: VecDeque::new(), before: 0 }
    }

    /// How many entries have left. A window is half open: an entry exactly one span ago is out.
    fn left(&self, now: Instant) -> usize {
        self.entries.partition_point(|(at, _)| now.saturating_duration_since(*at) >= self.span)
    }

    /// What has been taken in all up to the entry before this one.
    fn sum_before(&self, entry: usize) -> u64 {
        entry.checked_sub(1).and_then(|last| self.entries.get(last)).map_or(self.before, |(_, sum)| *sum)
    }

    fn used(&self, now: Instant) -> u64 {
        self.sum_before(self.entries.len()) - self.sum_before(self.left(now))
    }

    /// How long until `cost` fits; zero is now, `None` never.
    pub(super) fn wait(&self, cost: u64, now: Instant) -> Option<Duration> {
        if cost > self.limit {
            return None;
        }
        let excess = (self.used(now) + cost).saturating_sub(self.limit);
        if excess == 0 {
            return Some(Duration::ZERO);
        }
        let enough = self.sum_before(self.left(now)) + excess;
        // What must leave is not more than what is there, as the cost alone would fit.
        let last = self.entries.partition_point(|(_, sum)| *sum < enough);
        self.entries.get(last).map(|(at, _)| (*at + self.span).saturating_duration_since(now))
    }

    pub(super) fn take(&mut self, cost: u64, now: Instant) {
        let left = self.left(now);
        self.before = self.sum_before(left);
        self.entries.drain(..left);
        if cost > 0 {
            let sum = self.sum_before(self.entries.len()) + cost;
            // Several at one moment leave at one moment.
            match self.entries.back_mut() {
                Some(last) if last.0 >= now => last.1 = sum,
                _ => self.entries.push_back((now, sum)),
            }
        }
    }

    pub(super) fn remaining(&self, now: Instant) -> u64 {
        self.limit.saturating_sub(self.used(now))
    }

    /// Until the oldest entry leaves.
    pub(super) fn reset(&self, now: Instant) -> Duration {
        let oldest = self.entries.get(self.left(now));
        oldest.map_or(Duration::ZERO, |(at, _)| (*at + self.span).saturating_duration_since(now))
    }

    /// Another limit, from now on. What was taken stays taken.
    pub(super) fn set(&mut self, limit: u64, span: Duration) {
        (self.limit, self.span) = (limit, span);
    }
}
