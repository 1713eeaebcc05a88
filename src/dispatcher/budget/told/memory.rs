//! What is told of a budget, as it is shown and kept.

use super::{GUARD, Snapshot, Told, seconds};
use crate::clock::Instant;
use crate::dispatcher::budget::kind::Kind;
use crate::dispatcher::budget::margin::Margin;
use crate::dispatcher::budget::memory::{self, LONGEST_S, LONGEST_TURN_S, ago, ahead, away, sane};
use crate::dispatcher::budget::sends::{Counted, Sends};
use crate::messages::{Reset, Scope, ToldBudget};

impl Told {
    pub(in super::super) fn remember(&self, scope: Scope, now: Instant, sends: &Sends) -> ToldBudget {
        ToldBudget {
            counts: self.counted.dimension(),
            scope,
            kind: self.kind.name(),
            limit: self.newest.limit as u64,
            period_s: self.kind.period.as_secs_f64(),
            left: self.level(now, sends),
            margin: self.margin.get(),
            others: self.others,
            whole_in_s: self.kind.ends_whole().then(|| away(now, self.whole_at())),
            heard_s_ago: seconds(self.newest.sent, now),
            low_turn_in_s: seconds(now, self.turn),
            high_s_ago: self.high_at.map(|at| seconds(at, now)),
            signs: self.kind.signs(now),
        }
    }

    /// Takes up what was remembered: as if the provider had just said what was believed. `sends` is the log as it was.
    /// `None` where there is no such limit.
    pub(in super::super) fn recall(kept: &ToldBudget, now: Instant, sends: &Sends) -> Option<Self> {
        /// No provider's limit is larger.
        const MOST: u64 = 1 << 50;
        let limit = Some(kept.limit).filter(|limit| (1..=MOST).contains(limit))? as f64;
        let kind = Kind::recall(kept, now);
        let rate = limit / kind.period.as_secs_f64();
        // What may be a bucket has filled for so long before it counts.
        let age = if kind.is_open() { GUARD.as_secs_f64() } else { sane(kept.heard_s_ago, 0.0..=LONGEST_S, 0.0) };
        let left = sane(kept.left, -limit..=limit, 0.0);
        let others = sane(kept.others, if kind.is_bucket { -rate..=rate } else { 0.0..=limit }, 0.0);
        let drift = others / kind.period.as_secs_f64() * age;
        let remaining = if kind.is_bucket || kind.ends_whole() { left } else { left + drift };
        // One that had come back since, and was used again, is taken to come back a period from now.
        let period = kind.likely_period().as_secs_f64();
        let whole_in = sane(kept.whole_in_s.unwrap_or_default(), -LONGEST_S..=period, 0.0);
        let whole_in = if whole_in < 0.0 { period } else { whole_in };
        let after = if kind.is_long() { whole_in } else { whole_in + age - GUARD.as_secs_f64() };
        let first = Snapshot {
            ticket: sends.newest(),
            sent: ago(now, age),
            limit,
            remaining,
            reset: Some(Reset { after: memory::seconds(after), grain: std::time::Duration::ZERO }),
            heard: now,
            promise: None,
        };
        let told = Self::new(Counted::from(kept.counts), None, first, sends, &super::Unanswered::new());
        let turn = ahead(now, sane(kept.low_turn_in_s, 0.0..=LONGEST_TURN_S, 0.0));
        let mut told = Self {
            kind,
            others,
            level: left,
            at: now,
            unseen: 0.0,
            margin: Margin::known(sane(kept.margin, 0.0..=limit / 2.0, 0.0)),
            turn,
            high_at: kept.high_s_ago.map(|high| ago(now, high)),
            ..told
        };
        if told.kind.is_bucket {
            // What others will have used is taken from the level again whenever it is asked for.
            told.level = (2.0 * left - told.level(now, sends)).min(limit);
            told.newest.remaining = told.level - rate * age;
        }
        Some(told)
    }
}
