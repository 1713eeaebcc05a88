//! What was sent of late: when, and what each send may have cost. Every budget is reckoned from such a log.
//!
//! Sends of one instant stay apart and in order: a provider that has seen the third of a volley has seen the first two.
//! Costs are corrected later (usage replaces an estimate), so sums over any stretch come from a tree, not from running
//! totals: entering, correcting and summing cost the logarithm of the log's length (P. Fenwick, "A new data structure for
//! cumulative frequency tables", 1994).

mod past;

use std::collections::VecDeque;
use std::time::Duration;

pub(crate) use self::past::Past;
use crate::clock::Instant;
use crate::messages::Dimension;

/// Names a send, to correct its cost; later sends have greater ones.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Ticket(u64);

/// A log longer than this takes sends within a [`GRAIN`] for one: nobody limits so many a minute one by one.
const FINE: usize = 8_192;
const GRAIN: Duration = Duration::from_millis(10);

/// What one send costs, in each dimension that is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Cost {
    pub(crate) requests: u64,
    pub(crate) input: u64,
    pub(crate) output: u64,
    /// The output as it was allowed to become, however long it turns out: what some providers charge.
    pub(crate) reserved: u64,
}

/// What a budget counts of a [`Cost`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Counted {
    Requests,
    /// Tokens in and out together.
    Tokens,
    Input,
    Output,
    /// Tokens in and out together, and tokens out, of a provider that charges what it has reserved for the answer.
    TokensReserved,
    OutputReserved,
}

impl Cost {
    pub(crate) fn of(self, counted: Counted) -> u64 {
        counted.columns().iter().map(|column| self.columns()[*column]).fold(0, u64::saturating_add)
    }

    fn columns(self) -> [u64; 4] {
        [self.requests, self.input, self.output, self.reserved]
    }
}

impl From<Dimension> for Counted {
    fn from(dimension: Dimension) -> Self {
        match dimension {
            Dimension::Requests => Counted::Requests,
            Dimension::Tokens => Counted::Tokens,
            Dimension::InputTokens => Counted::Input,
            Dimension::OutputTokens => Counted::Output,
        }
    }
}

impl Counted {
    pub(crate) fn dimension(self) -> Dimension {
        match self {
            Counted::Requests => Dimension::Requests,
            Counted::Tokens | Counted::TokensReserved => Dimension::Tokens,
            Counted::Input => Dimension::InputTokens,
            Counted::Output | Counted::OutputReserved => Dimension::OutputTokens,
        }
    }

    /// The same of a provider that charges answers as they were reserved, or as they turn out.
    pub(crate) fn charged(self, is_reserved: bool) -> Self {
        match (self, is_reserved) {
            (Counted::Tokens | Counted::TokensReserved, true) => Counted::TokensReserved,
            (Counted::Output | Counted::OutputReserved, true) => Counted::OutputReserved,
            _ => Counted::from(self.dimension()),
        }
    }

    /// Which of a cost's columns it adds up.
    fn columns(self) -> &'static [usize] {
        match self {
            Counted::Requests => &[0],
            Counted::Tokens => &[1, 2],
            Counted::Input => &[1],
            Counted::Output => &[2],
            Counted::TokensReserved => &[1, 3],
            Counted::OutputReserved => &[3],
        }
    }
}

#[derive(Debug)]
struct Sent {
    /// The latest of those it stands for.
    at: Instant,
    cost: Cost,
}

/// Sums by position over a row of numbers that change.
#[derive(Debug, Default)]
struct Sums(Vec<i64>);

impl Sums {
    fn of(numbers: impl ExactSizeIterator<Item = u64>) -> Self {
        // Room for as many again: the tree is rebuilt when it is full.
        let mut tree = vec![0; (2 * numbers.len()).next_power_of_two().max(64) + 1];
        for (at, number) in numbers.enumerate() {
            tree[at + 1] = whole(number);
        }
        for at in 1..tree.len() {
            let above = at + (at & at.wrapping_neg());
            if above < tree.len() {
                tree[above] += tree[at];
            }
        }
        Self(tree)
    }

    fn room(&self) -> usize {
        self.0.len().saturating_sub(1)
    }

    fn add(&mut self, at: usize, change: i64) {
        let mut node = at + 1;
        while node < self.0.len() {
            self.0[node] += change;
            node += node & node.wrapping_neg();
        }
    }

    /// The sum of the first `count`.
    fn first(&self, count: usize) -> i64 {
        let (mut node, mut sum) = (count, 0);
        while node > 0 {
            sum += self.0[node];
            node &= node - 1;
        }
        sum
    }
}

/// The fewest from the front whose sum over all `rows`, which are of one length, reaches `sum`.
fn reaching(rows: &[&Sums], sum: i64) -> usize {
    let room = rows.first().map_or(0, |row| row.room());
    let (mut node, mut left, mut step) = (0, sum, room.next_power_of_two());
    while step > 0 {
        if node + step <= room {
            let part: i64 = rows.iter().map(|row| row.0[node + step]).sum();
            if part < left {
                node += step;
                left -= part;
            }
        }
        step /= 2;
    }
    node + 1
}

/// Costs beyond what an `i64` sums over a log are nonsense from outside, and are taken for very much.
fn whole(cost: u64) -> i64 {
    const MOST: u64 = 1 << 40;
    cost.min(MOST) as i64
}

/// The log.
#[derive(Debug, Default)]
pub(crate) struct Sends {
    log: VecDeque<Sent>,
    /// The ticket of the log's first entry.
    first: u64,
    /// Entries at the front of `sums` that have left the log.
    gone: usize,
    /// A row for each column of [`Cost`].
    sums: [Sums; 4],
}

/// What is missing by less is there: sums of fractions are not exact. It must be the same for every amount, or a time that
/// was named turns out too late.
pub(super) const ENOUGH: f64 = 1e-6;

impl Sends {
    /// Enters a send.
    pub(crate) fn push(&mut self, at: Instant, cost: Cost) -> Ticket {
        if self.log.len() >= FINE
            && let Some(last) = self.log.back()
            && at <= last.at
        {
            let ticket = self.last();
            self.add(ticket, cost, 1);
            return ticket;
        }
        let place = self.gone + self.log.len();
        self.log.push_back(Sent { at: if self.log.len() >= FINE { at + GRAIN } else { at }, cost });
        if place >= self.sums[0].room() {
            self.rebuild();
        } else {
            self.sum(place, cost, 1);
        }
        self.last()
    }

    fn last(&self) -> Ticket {
        Ticket(self.first + (self.log.len() as u64).saturating_sub(1))
    }

    fn rebuild(&mut self) {
        self.gone = 0;
        let row = |column: usize| Sums::of(self.log.iter().map(|sent| sent.cost.columns()[column]));
        self.sums = [row(0), row(1), row(2), row(3)];
    }

    fn sum(&mut self, place: usize, cost: Cost, sign: i64) {
        for (row, cost) in self.sums.iter_mut().zip(cost.columns()) {
            if cost > 0 {
                row.add(place, sign * whole(cost));
            }
        }
    }

    fn index(&self, ticket: Ticket) -> Option<usize> {
        let index = usize::try_from(ticket.0.checked_sub(self.first)?).ok()?;
        (index < self.log.len()).then_some(index)
    }

    fn add(&mut self, ticket: Ticket, cost: Cost, sign: i64) {
        let Some(index) = self.index(ticket) else { return };
        let entry = &mut self.log[index].cost;
        let change = |had: u64, by: u64| if sign > 0 { had.saturating_add(by) } else { had.saturating_sub(by) };
        let new = Cost {
            requests: change(entry.requests, cost.requests),
            input: change(entry.input, cost.input),
            output: change(entry.output, cost.output),
            reserved: change(entry.reserved, cost.reserved),
        };
        let old = std::mem::replace(entry, new);
        self.sum(self.gone + index, old, -1);
        self.sum(self.gone + index, new, 1);
    }

    /// The send of `ticket` really cost `now`, not `before`. Nothing when it has left the log.
    pub(crate) fn settle(&mut self, ticket: Ticket, before: Cost, now: Cost) {
        self.add(ticket, before, -1);
        self.add(ticket, now, 1);
    }

    /// Forgets what was sent up to `until`.
    pub(crate) fn forget(&mut self, until: Instant) {
        while self.log.front().is_some_and(|sent| sent.at <= until) {
            self.log.pop_front();
            self.first += 1;
            self.gone += 1;
        }
        // Behind a flood the log goes back to what it needs, by and by.
        if self.gone > 64 && self.gone > 4 * self.log.len() {
            self.log.shrink_to(2 * self.log.len());
            self.rebuild();
        }
    }

    fn sum_of(&self, counted: Counted, range: std::ops::Range<usize>) -> u64 {
        if range.start >= range.end {
            return 0;
        }
        let over = |row: &Sums| row.first(self.gone + range.end) - row.first(self.gone + range.start);
        let sum: i64 = counted.columns().iter().map(|column| over(&self.sums[*column])).sum();
        u64::try_from(sum).unwrap_or_default()
    }

    /// How many of the log's entries lie at or before `at`.
    fn until(&self, at: Instant) -> usize {
        self.log.partition_point(|sent| sent.at <= at)
    }

    /// What was sent later than `after`.
    pub(crate) fn since(&self, after: Instant, counted: Counted) -> u64 {
        self.sum_of(counted, self.until(after)..self.log.len())
    }

    /// What was sent later than `after` and not later than `until`.
    pub(crate) fn between(&self, after: Instant, until: Instant, counted: Counted) -> u64 {
        self.sum_of(counted, self.until(after)..self.until(until))
    }

    /// What was sent later than `after`, up to the send of `ticket` and with it.
    pub(crate) fn up_to(&self, after: Instant, ticket: Ticket, counted: Counted) -> u64 {
        self.sum_of(counted, self.until(after)..self.place_behind(ticket))
    }

    /// What was sent behind the send of `ticket`, until `until`.
    pub(crate) fn behind(&self, ticket: Ticket, until: Instant, counted: Counted) -> u64 {
        self.sum_of(counted, self.place_behind(ticket)..self.until(until))
    }

    /// Each send behind that of `ticket`, up to that of `last` where it is given: when, and its cost.
    pub(crate) fn each_behind(
        &self,
        ticket: Ticket,
        last: Option<Ticket>,
        counted: Counted,
    ) -> impl Iterator<Item = (Instant, u64)> + '_ {
        let end = last.map_or(self.log.len(), |last| self.place_behind(last));
        let start = self.place_behind(ticket).min(end);
        self.log.range(start..end).map(move |sent| (sent.at, sent.cost.of(counted)))
    }

    /// Where in the log the sends behind that of `ticket` begin.
    fn place_behind(&self, ticket: Ticket) -> usize {
        let place = (ticket.0 + 1).saturating_sub(self.first);
        usize::try_from(place).unwrap_or(usize::MAX).min(self.log.len())
    }

    /// When so much of what was sent later than `after` was sent; `None` when it is less.
    pub(crate) fn reached(&self, after: Instant, amount: u64, counted: Counted) -> Option<Instant> {
        let rows: Vec<&Sums> = counted.columns().iter().map(|column| &self.sums[*column]).collect();
        let before: i64 = rows.iter().map(|row| row.first(self.gone + self.until(after))).sum();
        let index = reaching(&rows, before.saturating_add(whole(amount.max(1)))) - 1;
        self.log.get(index.checked_sub(self.gone)?).map(|sent| sent.at)
    }

    /// The same of an amount that is a sum of fractions, and as exact as those are.
    pub(super) fn reached_about(&self, after: Instant, amount: f64, counted: Counted) -> Option<Instant> {
        // The cast saturates.
        self.reached(after, (amount - ENOUGH).ceil() as u64, counted)
    }

    /// The last send's time.
    pub(crate) fn last_at(&self) -> Option<Instant> {
        self.log.back().map(|sent| sent.at)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.log.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use proptest::prelude::*;

    fn cost(requests: u64, input: u64, output: u64) -> Cost {
        Cost { requests, input, output, reserved: output + 7 * requests }
    }

    #[test]
    fn sends_of_one_instant_are_apart_and_in_order() {
        let now = clock::now();
        let mut sends = Sends::default();
        let tickets: Vec<Ticket> = (1..=3).map(|n| sends.push(now, cost(1, 10 * n, 1))).collect();
        assert_eq!(sends.behind(tickets[0], now, Counted::Input), 50);
        assert_eq!(sends.up_to(now - GRAIN, tickets[1], Counted::Tokens), 32);
        sends.settle(tickets[2], cost(1, 30, 1), cost(0, 0, 0));
        assert_eq!(sends.behind(tickets[0], now, Counted::Tokens), 21);
        assert_eq!(sends.since(now - GRAIN, Counted::Requests), 2);
        sends.forget(now);
        sends.settle(tickets[2], cost(0, 0, 0), cost(1, 99, 1));
        assert_eq!((sends.len(), sends.since(now - GRAIN, Counted::Tokens)), (0, 0));
    }

    #[test]
    fn very_many_sends_are_few_entries_and_none_after_they_are_forgotten() {
        let start = clock::now();
        let mut sends = Sends::default();
        for micros in 0..1_000_000 {
            sends.push(start + Duration::from_micros(micros), cost(1, 5, 0));
        }
        assert_eq!(sends.since(start - GRAIN, Counted::Requests), 1_000_000);
        assert!(sends.len() <= FINE + 110, "{} entries", sends.len());
        let end = start + Duration::from_secs(1);
        let half = sends.since(start + Duration::from_millis(500), Counted::Input);
        assert!((2_500_000..2_510_000).contains(&half), "counted a grain late at most: {half}");
        sends.forget(end + GRAIN);
        assert_eq!(sends.since(start - GRAIN, Counted::Requests), 0);
        assert!(sends.log.capacity() < 100, "room for {}", sends.log.capacity());
    }

    proptest! {
        #![proptest_config(crate::dispatcher::check::cases(64))]

        /// Against a plain list.
        #[test]
        fn sums_are_those_of_the_list(acts in prop::collection::vec((0u8..8, 0u64..40, 0u64..9, 0u64..9), 1..300)) {
            let start = clock::now();
            let (mut sends, mut list): (Sends, Vec<(Instant, Cost, Ticket)>) = Default::default();
            let mut now = start;
            for (act, n, input, output) in acts {
                match act {
                    0 => now += Duration::from_millis(n),
                    1 => {
                        let until = start + (now - start) * u32::try_from(n).unwrap() / 80;
                        sends.forget(until);
                        list.retain(|(at, ..)| *at > until);
                    }
                    2 if !list.is_empty() => {
                        let place = n as usize % list.len();
                        let (_, had, ticket) = list[place];
                        list[place].1 = cost(1, output, input);
                        sends.settle(ticket, had, list[place].1);
                    }
                    _ => {
                        let one = cost(1, input, output);
                        list.push((now, one, sends.push(now, one)));
                    }
                }
                let after = start + (now - start) * u32::try_from(n).unwrap() / 40;
                for counted in [Counted::Requests, Counted::Tokens, Counted::Input, Counted::OutputReserved] {
                    let sum = |keeps: &dyn Fn(&(Instant, Cost, Ticket)) -> bool| -> u64 {
                        list.iter().filter(|sent| keeps(sent)).map(|sent| sent.1.of(counted)).sum()
                    };
                    prop_assert_eq!(sends.since(after, counted), sum(&|sent| sent.0 > after));
                    if let Some(&(_, _, ticket)) = list.get(list.len() / 2) {
                        prop_assert_eq!(sends.behind(ticket, now, counted), sum(&|sent| sent.2 > ticket));
                        prop_assert_eq!(sends.up_to(after, ticket, counted), sum(&|sent| sent.0 > after && sent.2 <= ticket));
                    }
                    let mut total = 0;
                    let reached = list.iter().filter(|sent| sent.0 > after).find(|sent| {
                        total += sent.1.of(counted);
                        total >= n.max(1)
                    });
                    prop_assert_eq!(sends.reached(after, n, counted), reached.map(|sent| sent.0));
                }
            }
        }
    }
}
