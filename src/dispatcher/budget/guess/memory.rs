//! What is guessed of a budget, as it is shown and kept.

use std::time::Duration;

use super::{Curve, Guess, MINUTE};
use crate::clock::Instant;
use crate::dispatcher::budget::memory::{LONGEST_S, LONGEST_TURN_S, ago, ahead, away, sane, seconds};
use crate::dispatcher::budget::sends::{Counted, Sends};
use crate::messages::GuessedBudget;

/// How long a way back to a plateau may take, in seconds.
const WAYS_S: std::ops::RangeInclusive<f64> = 1.0..=3_600.0;

impl Guess {
    pub(in super::super) fn remember(&self, now: Instant, sends: &Sends) -> GuessedBudget {
        let Curve { plateau, from, flat_after, top } = self.curve;
        let limit = self.limit(now);
        let own = sends.since(now - self.window, self.counted) as f64;
        GuessedBudget {
            counts: self.counted.dimension(),
            limit_per_minute: limit,
            window_s: self.window.as_secs_f64(),
            left: (limit * self.window.as_secs_f64() / MINUTE - own).max(0.0),
            plateau_per_minute: plateau,
            plateau_in_s: away(now, from) + flat_after.as_secs_f64(),
            way_back_s: flat_after.as_secs_f64(),
            usual_way_back_s: self.flat_after.as_secs_f64(),
            top_per_minute: Some(top).filter(|top| top.is_finite()),
            refused_s_ago: self.cut_at.map(|at| away(at, now)),
            low_turn_in_s: away(now, self.turn).max(0.0),
        }
    }

    /// Takes up what was remembered; `None` where there is no such limit.
    pub(in super::super) fn recall(kept: &GuessedBudget, now: Instant) -> Option<Self> {
        /// No provider's limit is larger.
        const MOST: f64 = 1e15;
        let plateau = Some(kept.plateau_per_minute).filter(|plateau| (0.01..=MOST).contains(plateau))?;
        let way_back = sane(kept.way_back_s, WAYS_S, 60.0);
        // From the plateau on it grows with time, and so would it by an absurd one.
        let in_s = sane(kept.plateau_in_s, -LONGEST_S..=LONGEST_TURN_S + way_back, 0.0);
        let lies_ahead = in_s - way_back;
        let from = if lies_ahead < 0.0 { ago(now, -lies_ahead) } else { ahead(now, lies_ahead) };
        let top = kept.top_per_minute.map_or(f64::INFINITY, |top| sane(top, 0.01..=MOST, f64::INFINITY));
        let is_short = kept.window_s <= Self::SHORT.as_secs_f64();
        Some(Self {
            counted: Counted::from(kept.counts),
            curve: Curve { plateau, from, flat_after: seconds(way_back), top },
            flat_after: Duration::from_secs_f64(sane(kept.usual_way_back_s, WAYS_S, 60.0)),
            window: if is_short { Self::SHORT } else { Self::WINDOW },
            cut_at: kept.refused_s_ago.map(|refused| ago(now, refused)),
            turn: ahead(now, sane(kept.low_turn_in_s, 0.0..=LONGEST_TURN_S, 0.0)),
        })
    }

    /// Per minute, where it was refused last.
    pub(in super::super) fn plateau(&self) -> f64 {
        self.curve.plateau
    }

    pub(in super::super) fn window(&self) -> Duration {
        self.window
    }

    /// Whether it was refused itself, or stands for a cap of so much.
    pub(in super::super) fn stands_for(&self, per_minute: f64) -> bool {
        self.was_refused() || (self.curve.plateau / per_minute - 1.0).abs() < 1e-6
    }
}
