//! Refusals of late: how long to pause where the upstream names no time, and who goes first behind the pause.

use std::time::Duration;

use crate::clock::Instant;

/// Refusals that name no time hold the account for so long, the second in a row twice as long, and so on up to the most.
pub(super) const PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
/// Refusals further apart than this are not in a row.
pub(super) const IN_A_ROW: Duration = Duration::from_secs(20);
/// How long the others wait for word of the first.
pub(super) const SCOUTS_FOR: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Refusals {
    last: Option<Instant>,
    in_a_row: u32,
    scout: Scout,
}

/// Behind refusals in a row, and behind a rest, one call goes ahead and the others see how it fares.
#[derive(Clone, Copy, Debug, Default)]
enum Scout {
    #[default]
    None,
    /// The next call is it.
    Wanted,
    /// Under way: a refusal would have come by then.
    Until(Instant),
}

impl Refusals {
    /// An attempt that was `sent` then was refused. How long to pause where the upstream names no time: those that were
    /// under way at the refusal before are of its volley.
    pub(super) fn hear(&mut self, sent: Instant, now: Instant) -> Duration {
        match self.last {
            Some(last) if sent <= last => {}
            Some(last) if now < last + IN_A_ROW => self.in_a_row += 1,
            _ => self.in_a_row = 0,
        }
        self.last = Some(now);
        self.scout = if self.in_a_row > 0 { Scout::Wanted } else { Scout::None };
        (PAUSE * 2u32.pow(self.in_a_row.min(8))).min(LONGEST_PAUSE)
    }

    /// One is to go ahead when calls may go again.
    pub(super) fn want_scout(&mut self) {
        self.scout = Scout::Wanted;
    }

    /// A call goes.
    pub(super) fn goes(&mut self, now: Instant) {
        if let Scout::Wanted = self.scout {
            self.scout = Scout::Until(now + SCOUTS_FOR);
        }
    }

    /// The upstream takes calls again.
    pub(super) fn are_over(&mut self) {
        self.scout = Scout::None;
    }

    /// Until when the others wait for word of the first, if one is ahead.
    pub(super) fn scouted_until(&self) -> Option<Instant> {
        match self.scout {
            Scout::Until(until) => Some(until),
            Scout::None | Scout::Wanted => None,
        }
    }
}
