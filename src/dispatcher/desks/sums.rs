//! What is known of all of a lane's desks together, kept up by what changes at one of them.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Desk;
use super::touched::{AsOf, Touched};
use crate::clock::{self, Instant};
use crate::dispatcher::ask::{Ask, Group};
use crate::dispatcher::budget::Ready;
use crate::messages::{BudgetView, Priority, Remaining, Tokens};

/// What is left of the caps comes back all the time, at every desk: it is summed up anew this often, if it is asked for.
const FRESH: Duration = Duration::from_millis(100);

/// What one desk adds.
#[derive(Clone, Copy, Debug, Default)]
struct Note {
    room: usize,
    /// When there is more room without anything that happens.
    room_at: Option<Instant>,
    /// The upstream's word keeps it back until then.
    held: Option<Instant>,
    /// Its key rests until then.
    rests: Option<Instant>,
    left: [Option<Left>; 2],
}

/// What is left of one cap.
#[derive(Clone, Copy, Debug)]
struct Left {
    limit: u64,
    remaining: u64,
    whole_at: Instant,
}

#[derive(Debug, Default)]
struct Total {
    caps: usize,
    limit: u128,
    remaining: u128,
    /// The latest so far.
    whole_at: Option<Instant>,
}

impl Total {
    fn add(&mut self, left: Left) {
        self.caps += 1;
        self.limit += u128::from(left.limit);
        self.remaining += u128::from(left.remaining);
        self.whole_at = self.whole_at.max(Some(left.whole_at));
    }

    fn take(&mut self, left: Left) {
        self.caps -= 1;
        self.limit -= u128::from(left.limit);
        self.remaining -= u128::from(left.remaining);
    }

    fn view(&self, now: Instant) -> Option<Remaining> {
        let number = |sum: u128| u64::try_from(sum).unwrap_or(u64::MAX);
        let reset = self.whole_at.filter(|_| self.caps > 0)?.saturating_duration_since(now);
        Some(Remaining { limit: number(self.limit), remaining: number(self.remaining), reset })
    }
}

#[derive(Debug, Default)]
pub(super) struct Sums {
    seen: AsOf,
    notes: Vec<Note>,
    room: usize,
    /// Desks whose room changes, and when.
    roomier: BTreeSet<(Instant, usize)>,
    /// Desks that the upstream's word or a refused key keeps back, and until when.
    kept_back: BTreeSet<(Instant, usize)>,
    resting: BTreeSet<(Instant, usize)>,
    /// Requests and tokens.
    left: [Total; 2],
    /// When what is left was last summed up anew.
    fresh: Option<Instant>,
}

fn replace(times: &mut BTreeSet<(Instant, usize)>, desk: usize, before: Option<Instant>, now: Option<Instant>) {
    if let Some(before) = before {
        times.remove(&(before, desk));
    }
    if let Some(now) = now {
        times.insert((now, desk));
    }
}

/// Any call: what a desk says of its key does not depend on it.
const ANY: Ask = Ask { group: Group(0), tokens: Tokens { input: 0, output: 0 }, priority: Priority::Normal };

impl Sums {
    pub(super) fn new(desks: usize) -> Self {
        Self { notes: vec![Note::default(); desks], ..Self::default() }
    }

    /// As of `now`.
    pub(super) fn at(&mut self, desks: &mut [Desk], touched: &Touched, now: Instant) -> &Self {
        for desk in touched.since(&mut self.seen) {
            self.note(desk, &mut desks[desk], now);
        }
        let over = |set: &BTreeSet<(Instant, usize)>| set.first().filter(|(at, _)| *at <= now).map(|(_, desk)| *desk);
        while let Some(desk) = over(&self.resting).or_else(|| over(&self.kept_back)).or_else(|| over(&self.roomier)) {
            self.note(desk, &mut desks[desk], now);
        }
        self
    }

    fn note(&mut self, desk: usize, of: &mut Desk, now: Instant) {
        let budget = &mut of.budget;
        let rests = budget.is_resting(now).then(|| match budget.ready(now, &ANY) {
            Ready::Resting(until, _) => until,
            _ => clock::far(now),
        });
        let left = |remaining: Remaining| Left {
            limit: remaining.limit,
            remaining: remaining.remaining,
            whole_at: clock::after(now, remaining.reset),
        };
        let (room, room_at) = budget.room_in_flight(now);
        let note = Note {
            room,
            room_at,
            held: budget.held_until(now).or(rests.map(|_| clock::far(now))),
            rests,
            left: [budget.remaining_requests(now).map(left), budget.remaining_tokens(now).map(left)],
        };
        let before = std::mem::replace(&mut self.notes[desk], note);
        self.room = self.room - before.room + note.room;
        replace(&mut self.roomier, desk, before.room_at, note.room_at);
        replace(&mut self.kept_back, desk, before.held, note.held);
        replace(&mut self.resting, desk, before.rests, note.rests);
        for ((total, before), left) in self.left.iter_mut().zip(before.left).zip(note.left) {
            if let Some(before) = before {
                total.take(before);
            }
            if let Some(left) = left {
                total.add(left);
            }
        }
    }

    /// Attempts that may start beside those in flight, as far as concurrency goes.
    pub(super) fn room_in_flight(&self) -> usize {
        self.room
    }

    pub(super) fn is_usable(&self) -> bool {
        self.resting.len() < self.notes.len()
    }

    /// Until when every desk is kept back; `None` when one is not.
    pub(super) fn held_until(&self) -> Option<Instant> {
        let (until, _) = self.kept_back.first()?;
        (self.kept_back.len() == self.notes.len()).then_some(*until)
    }

    /// What is left of the caps, as of a moment ago at most.
    pub(super) fn left(&mut self, desks: &mut [Desk], touched: &Touched, now: Instant) -> BudgetView {
        if self.fresh.is_none_or(|fresh| fresh + FRESH <= now) {
            *self = Self { fresh: Some(now), ..Self::new(desks.len()) };
        }
        self.at(desks, touched, now);
        let [requests, tokens] = [&self.left[0], &self.left[1]].map(|total| total.view(now));
        BudgetView { requests, tokens }
    }
}
