//! How many at once were taken of late.
//!
//! A server that counts takes every attempt up to its number and none beyond, so an attempt that is refused while more
//! were taken at once not long ago is not refused for the number: a limit on the *rate* refuses at any. Attempts that were
//! sent within a moment of each other may arrive in any order, so of what was taken only those count that were surely
//! there before.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Instant;

/// How long it is remembered.
const FOR: Duration = Duration::from_secs(30);

/// Attempts sent within this time may overtake each other.
const WIRE: Duration = Duration::from_millis(100);

/// The loads of attempts that were taken, each that no later one has reached.
#[derive(Debug, Default)]
pub(super) struct Loads {
    taken: VecDeque<(Instant, usize)>,
    /// When attempts were sent that may still be on the wire.
    sent: VecDeque<Instant>,
}

impl Loads {
    /// An attempt is sent. How many of those before it may not be there yet; the most that are kept of is plenty.
    pub(super) fn on_the_wire(&mut self, now: Instant) -> usize {
        const PLENTY: usize = 1_024;
        while self.sent.front().is_some_and(|sent| now.saturating_duration_since(*sent) > WIRE) {
            self.sent.pop_front();
        }
        let before = self.sent.len();
        if before < PLENTY {
            self.sent.push_back(now);
        }
        before
    }

    /// An attempt that was sent as one of `load` was taken.
    pub(super) fn note(&mut self, sent: Instant, load: usize, now: Instant) {
        while self.taken.back().is_some_and(|(_, before)| *before <= load) {
            self.taken.pop_back();
        }
        self.taken.push_back((sent, load));
        self.forget(now);
    }

    fn forget(&mut self, now: Instant) {
        while self.taken.front().is_some_and(|(sent, _)| now.saturating_duration_since(*sent) > FOR) {
            self.taken.pop_front();
        }
    }

    /// Whether what was taken speaks against a number below `load`; what is on the wire blurs that by a few.
    pub(super) fn contradict(&mut self, load: usize, now: Instant) -> bool {
        self.forget(now);
        let blur = (load / 10).max(2);
        self.taken.front().is_some_and(|(_, most)| *most >= load + blur)
    }
}
