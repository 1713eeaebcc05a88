//! Refusals that no limit explains: a provider's own faults, which must not be taken for a limit that it hides.
//!
//! *Known* is when it refused although by its own word there was room, and what was sent. A few of many calls are refused
//! by accident; a volley within a second is *believed* to show a limit. Whether it does shows behind the cut: of a limit that
//! is kept hardly anything is refused far below the level that was refused before. Faults go on as they were, however slowly
//! calls go, and then it was no limit: their share is remembered, and only much more than that makes one believe in a limit
//! again.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Instant;
use crate::dispatcher::budget::memory::{ago, away, sane};
use crate::messages::UsualFaults;

/// Fewer refusals than this share of the calls of a while are taken for faults; fewer than the fewest in any case, and
/// many in none.
const FEW: f64 = 0.1;
pub(super) const FEWEST: f64 = 2.0;
pub(super) const MANY: f64 = 4.0;
/// A limit is given up when so many calls far below it were refused, and such a share of them.
const UNEXPLAINED: u32 = 4;
const SHARE: f64 = 0.03;
/// No more than this is ever taken for faults: who believes that all is sees no limit.
const MOST: f64 = 0.5;
/// By so many deviations more than are usual make one believe in a limit again.
const DEVIATIONS: f64 = 3.0;
/// How long faults are thought to go on.
const FRESH: Duration = Duration::from_secs(600);

/// What is usually refused by accident, of all.
#[derive(Clone, Copy, Debug)]
struct Usual {
    share: f64,
    at: Instant,
}

#[derive(Debug, Default)]
pub(super) struct Accidents {
    /// Refusals of late.
    refused_at: VecDeque<Instant>,
    /// Calls far below a limit since it is believed in, and how many of them were refused.
    went: u32,
    unexplained: u32,
    usual: Option<Usual>,
}

impl Accidents {
    /// A call goes, far below the limit.
    pub(super) fn goes(&mut self) {
        self.went = self.went.saturating_add(1);
    }

    /// A limit is believed in from now on.
    pub(super) fn believe(&mut self) {
        (self.went, self.unexplained) = (0, 0);
    }

    /// One was refused far below the limit. Whether it is the limit that must be wrong.
    pub(super) fn contradict(&mut self, now: Instant) -> bool {
        self.unexplained += 1;
        let share = f64::from(self.unexplained) / f64::from(self.went.max(1));
        let is_wrong = self.unexplained >= UNEXPLAINED && share >= SHARE;
        if is_wrong {
            self.expect(share, now);
        }
        is_wrong
    }

    /// The share that is usually refused by accident, where that is known.
    pub(super) fn usual(&self, now: Instant) -> Option<f64> {
        self.usual.filter(|usual| now < usual.at + FRESH).map(|usual| usual.share)
    }

    pub(super) fn remember(&self, now: Instant) -> Option<UsualFaults> {
        Some(UsualFaults { share: self.usual(now)?, s_ago: away(self.usual?.at, now) })
    }

    /// Takes up what was remembered, bounded.
    pub(super) fn recall(kept: UsualFaults, now: Instant) -> Self {
        let usual = Usual { share: sane(kept.share, 0.0..=MOST, 0.0), at: ago(now, kept.s_ago) };
        Self { usual: Some(usual).filter(|usual| usual.share > 0.0), ..Self::default() }
    }

    /// Such a share of all is usually refused by accident, as far as is known now.
    pub(super) fn expect(&mut self, share: f64, now: Instant) {
        self.usual = Some(Usual { share: share.min(MOST), at: now });
    }

    /// One was refused, of `sent` within this time. Whether so many were, `fewest` at least, that it is hardly faults.
    pub(super) fn exceeded(&mut self, window: Duration, fewest: f64, sent: u64, now: Instant) -> bool {
        self.refused_at.push_back(now);
        while self.refused_at.front().is_some_and(|at| *at < now - window) {
            self.refused_at.pop_front();
        }
        let sent = sent.max(1) as f64;
        let most = self.usual(now).map_or(0.0, |share| share * sent + DEVIATIONS * (share * sent).sqrt() + 1.0);
        self.refused_at.len() as f64 >= (FEW * sent).clamp(fewest, MANY).max(most)
    }
}
