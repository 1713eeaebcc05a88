//! A cap over any sixty seconds: a log of what was used, and when it may be used again.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Instant;

/// What "a minute" is kept as: half a second more than sixty, so that a cap also holds at the upstream's end of the
/// wire, where calls may arrive a little closer together than they left.
pub(crate) const MINUTE: Duration = Duration::from_millis(60_500);

/// Names an entry of a [`Window`], to correct it later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ticket(u64);

/// The span that [`Window::tally`] takes for one instant.
const GRAIN: Duration = Duration::from_millis(10);

/// A log with room for fewer entries is not worth making smaller.
const SMALL: usize = 1_024;

/// At most `cap` used within any [`MINUTE`].
#[derive(Debug)]
pub(crate) struct Window {
    cap: u64,
    /// When, and how much; oldest first.
    log: VecDeque<(Instant, u64)>,
    /// The ticket of the log's first entry.
    first: u64,
    used: u64,
}

impl Window {
    pub(crate) fn new(cap: u64) -> Self {
        Self { cap, log: VecDeque::new(), first: 0, used: 0 }
    }

    pub(crate) fn cap(&self) -> u64 {
        self.cap
    }

    /// Changes the cap; what was used stays used.
    pub(crate) fn set_cap(&mut self, cap: u64) {
        self.cap = cap;
    }

    /// Used within the minute that ends at `now`.
    pub(crate) fn used(&mut self, now: Instant) -> u64 {
        while let Some(&(at, cost)) = self.log.front() {
            if at + MINUTE > now {
                break;
            }
            self.log.pop_front();
            self.first += 1;
            self.used -= cost;
        }
        // Behind a flood the log goes back to what it needs, by and by.
        let room = self.log.capacity();
        if room > SMALL && self.log.len() < room / 8 {
            self.log.shrink_to(room / 2);
        }
        self.used
    }

    /// When `cost` more may be used; `None` when it is more than the cap and never may.
    pub(crate) fn ready_at(&mut self, now: Instant, cost: u64) -> Option<Instant> {
        let used = self.used(now);
        if cost > self.cap {
            return None;
        }
        let mut excess = (used + cost).saturating_sub(self.cap);
        let mut at = now;
        for &(when, freed) in &self.log {
            if excess == 0 {
                break;
            }
            at = when + MINUTE;
            excess = excess.saturating_sub(freed);
        }
        Some(at)
    }

    /// Enters `cost`, whether or not there is room.
    pub(crate) fn take(&mut self, now: Instant, cost: u64) -> Ticket {
        self.log.push_back((now, cost));
        self.used += cost;
        Ticket(self.first + self.log.len() as u64 - 1)
    }

    /// Enters 1 where nobody will settle it and nothing caps it: what comes within a [`GRAIN`] is one entry, that of its
    /// end. Calls without a cap may be very many.
    pub(crate) fn tally(&mut self, now: Instant) {
        self.used(now);
        match self.log.back_mut().filter(|(until, _)| now <= *until) {
            Some((_, count)) => {
                *count += 1;
                self.used += 1;
            }
            None => _ = self.take(now + GRAIN, 1),
        }
    }

    /// Replaces what was entered under `ticket` by what it really was; nothing when the entry has aged out.
    pub(crate) fn settle(&mut self, ticket: Ticket, cost: u64) {
        let entry = ticket.0.checked_sub(self.first).and_then(|index| self.log.get_mut(index as usize));
        if let Some((_, entered)) = entry {
            self.used = self.used - *entered + cost;
            *entered = cost;
        }
    }

    /// The most that can be used from `now` until `deadline`, if nothing else interferes.
    pub(crate) fn room_until(&mut self, now: Instant, deadline: Instant) -> u64 {
        let used = self.used(now);
        // Within a minute all of it comes back: no need to look at each.
        let back = if deadline >= now + MINUTE {
            used
        } else {
            self.log.iter().take_while(|(at, _)| *at + MINUTE <= deadline).map(|(_, cost)| cost).sum()
        };
        let whole_minutes = deadline.saturating_duration_since(now).as_nanos() / MINUTE.as_nanos();
        let renewed = self.cap.saturating_mul(u64::try_from(whole_minutes).unwrap_or(u64::MAX));
        (self.cap + back).saturating_sub(used).saturating_add(renewed)
    }

    /// How long until nothing of it is in use.
    pub(crate) fn whole_in(&mut self, now: Instant) -> Duration {
        self.used(now);
        self.log.back().map_or(Duration::ZERO, |(at, _)| (*at + MINUTE).saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use proptest::prelude::*;

    fn seconds(s: f64) -> Duration {
        Duration::from_secs_f64(s)
    }

    #[test]
    fn what_was_used_comes_back_after_a_minute() {
        let start = clock::now();
        let mut window = Window::new(2);
        window.take(start, 1);
        window.take(start + seconds(10.0), 1);
        let now = start + seconds(20.0);
        assert_eq!(window.ready_at(now, 1), Some(start + MINUTE));
        assert_eq!(window.ready_at(now, 2), Some(start + seconds(10.0) + MINUTE));
        assert_eq!(window.ready_at(now, 3), None, "more than the cap never fits");
        assert_eq!(window.used(start + MINUTE), 1);
    }

    #[test]
    fn a_settled_entry_counts_as_what_it_really_was() {
        let start = clock::now();
        let mut window = Window::new(100);
        let ticket = window.take(start, 90);
        assert!(window.ready_at(start, 20) > Some(start));
        window.settle(ticket, 30);
        assert_eq!(window.ready_at(start, 20), Some(start));
        window.used(start + MINUTE);
        window.settle(ticket, 1_000);
        assert_eq!(window.used(start + MINUTE), 0, "an entry that has aged out is not corrected");
    }

    #[test]
    fn very_many_uncapped_calls_are_few_entries_and_none_after_a_minute() {
        let start = clock::now();
        let mut window = Window::new(u64::MAX);
        for micros in 0..1_000_000 {
            window.tally(start + Duration::from_micros(micros));
        }
        let now = start + seconds(1.0);
        assert_eq!(window.used(now), 1_000_000);
        assert!(window.log.len() <= 101, "{} entries", window.log.len());
        assert_eq!(window.used(now + MINUTE + GRAIN), 0);

        (0..10_000).for_each(|_| _ = window.take(now, 1));
        assert_eq!(window.used(now + MINUTE), 0);
        for later in 1..=100 {
            window.used(now + MINUTE + seconds(f64::from(later)));
        }
        assert!(window.log.capacity() <= 2 * SMALL, "room for {} entries is kept", window.log.capacity());
    }

    proptest! {
        #[test]
        fn no_minute_ever_holds_more_than_the_cap(cap in 1u64..20, gaps in prop::collection::vec((0u64..9_000, 1u64..6), 1..200)) {
            let mut window = Window::new(cap);
            let mut now = clock::now();
            let mut sent: Vec<(Instant, u64)> = Vec::new();
            for (gap, cost) in gaps {
                now += Duration::from_millis(gap);
                let Some(at) = window.ready_at(now, cost) else { continue };
                now = at;
                window.take(now, cost);
                sent.push((now, cost));
                let within: u64 = sent.iter().filter(|(when, _)| now.duration_since(*when) < MINUTE).map(|(_, c)| c).sum();
                prop_assert!(within <= cap);
            }
        }

        #[test]
        fn room_until_a_deadline_is_never_less_than_what_really_fits(cap in 1u64..10, deadline in 0u64..400, spacing in 1u64..9) {
            let start = clock::now();
            let deadline = start + Duration::from_secs(deadline);
            let mut window = Window::new(cap);
            let mut now = start;
            for _ in 0..cap { window.take(now, 1); now += Duration::from_secs(spacing); }
            let promised = window.room_until(now, deadline);
            let mut fitted = 0;
            while let Some(at) = window.ready_at(now, 1) {
                if at > deadline || fitted > 1_000 { break }
                window.take(at, 1);
                now = now.max(at);
                fitted += 1;
            }
            prop_assert!(promised >= fitted, "promised {promised}, fitted {fitted}");
        }
    }
}
