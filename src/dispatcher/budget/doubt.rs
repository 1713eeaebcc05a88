//! By how much the calls under way may turn out to cost more than a user's cap counts them with.
//!
//! *Known* are their estimates, which err high: what they say is the most. *Believed* is what such calls cost on average,
//! and how far single ones are off that. Some are dearer and some cheaper, so that together they are off by the root of the
//! sum of squares, not by the sum: ten calls that are off by a tenth each are, together, off by a thirtieth. The average
//! itself is off a little, too, as it was heard from few calls, and that is the same for all of them.

use std::collections::BTreeMap;

use super::correction::MEAN_SQUARE;
use super::sends::Ticket;
use crate::clock::Instant;

/// So many deviations of the sum are kept free: less than that is exceeded once in thirty thousand times.
const DEVIATIONS: f64 = 4.0;

/// What is not known of a call.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Unsure {
    /// How far it is off, and the square of that.
    deviation: f64,
    square: f64,
    /// Never more than this.
    most: f64,
}

impl Unsure {
    /// A call that is off by `deviation`, and by no more than `most` where that is the larger.
    pub(super) fn new(deviation: f64, most: f64) -> Self {
        Self {
            deviation,
            square: deviation * deviation,
            most: most.max(DEVIATIONS * deviation * (1.0 + MEAN_SQUARE).sqrt()),
        }
    }

    fn change(&mut self, by: Self, sign: f64) {
        self.deviation += sign * by.deviation;
        self.square += sign * by.square;
        self.most += sign * by.most;
    }

    /// What is kept free for it.
    fn margin(self) -> u64 {
        let square = self.square.max(0.0) + MEAN_SQUARE * self.deviation * self.deviation;
        // The cast saturates, and takes what rounding has left below nothing for nothing.
        (DEVIATIONS * square.sqrt()).min(self.most).ceil() as u64
    }
}

/// The calls under way that a cap still counts.
#[derive(Debug, Default)]
pub(super) struct Doubt {
    calls: BTreeMap<Ticket, (Instant, Unsure)>,
    sum: Unsure,
}

impl Doubt {
    /// What is kept free for them, and for one more.
    pub(super) fn margin(&self, one_more: Unsure) -> u64 {
        let mut sum = self.sum;
        sum.change(one_more, 1.0);
        sum.margin()
    }

    pub(super) fn goes(&mut self, ticket: Ticket, at: Instant, call: Unsure) {
        if call.square > 0.0 {
            // Sends of a flood share a ticket.
            let (_, of_ticket) = self.calls.entry(ticket).or_insert((at, Unsure::default()));
            of_ticket.change(call, 1.0);
            self.sum.change(call, 1.0);
        }
    }

    /// What that call costs is known.
    pub(super) fn settle(&mut self, ticket: Ticket, call: Unsure) {
        let Some((_, of_ticket)) = self.calls.get_mut(&ticket) else { return };
        of_ticket.change(call, -1.0);
        self.sum.change(call, -1.0);
        if of_ticket.square <= 1e-9 {
            self.calls.remove(&ticket);
        }
        self.tidy();
    }

    /// What was sent up to `until` is counted no more.
    pub(super) fn forget(&mut self, until: Instant) {
        while let Some(first) = self.calls.first_entry().filter(|first| first.get().0 <= until) {
            self.sum.change(first.remove().1, -1.0);
        }
        self.tidy();
    }

    /// Sums of fractions are not exact: of nothing nothing is left.
    fn tidy(&mut self) {
        if self.calls.is_empty() {
            self.sum = Unsure::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::dispatcher::budget::sends::{Cost, Sends};
    use std::time::Duration;

    #[test]
    fn many_calls_are_off_by_less_than_each_of_them_and_never_by_more_than_their_most() {
        let (now, mut sends, mut doubt) = (clock::now(), Sends::default(), Doubt::default());
        let unsure = Unsure::new(10.0, 200.0);
        assert_eq!(doubt.margin(Unsure::default()), 0);
        assert_eq!(doubt.margin(unsure), 41);
        let tickets: Vec<Ticket> = (0..100).map(|_| sends.push(now, Cost::default())).collect();
        tickets.iter().for_each(|ticket| doubt.goes(*ticket, now, unsure));
        assert_eq!(doubt.margin(Unsure::default()), 756, "not 4,000");
        tickets.iter().for_each(|ticket| doubt.settle(*ticket, unsure));
        assert_eq!(doubt.margin(Unsure::default()), 0);
        doubt.goes(tickets[0], now, Unsure::new(1.0, 0.0));
        doubt.forget(now + Duration::from_secs(1));
        assert_eq!(doubt.margin(Unsure::default()), 0);
    }
}
