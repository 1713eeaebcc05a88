//! What kind of limiter a provider runs, told from what its headers say: a bucket that fills all the time, or a window
//! that comes back as a whole or bit by bit.
//!
//! A bucket's reset is the time until it is full, which is proportional to what is used: `reset * limit / used` is its
//! period, the same in every response. Nothing else keeps that ratio. Windows, fixed or sliding, are not told apart: a log
//! of our own sends over the period keeps within both.

use std::time::Duration;

use super::memory::{LONGEST_S, ago, sane, seconds};
use crate::clock::Instant;
use crate::messages::{KindSigns, LimiterKind, Reset, ToldBudget};

/// Periods that providers use.
const PERIODS: [f64; 5] = [1.0, 10.0, 60.0, 3_600.0, 86_400.0];

/// How far a ratio may be off and still speak for a period.
const CLOSE: f64 = 0.03;

/// Responses within this time are one volley, and have one vote: a window at its start shows a bucket's ratio many times.
pub(super) const VOLLEY: Duration = Duration::from_millis(100);

/// A reset told more coarsely than this share of itself says nothing of the ratio.
const COARSE: f64 = 0.1;

/// What remains is told in whole numbers: where no more was used than this, the ratio may be any of several.
const FEW: f64 = 3.0;

/// What is believed of a limiter.
#[derive(Debug)]
pub(super) struct Kind {
    pub(super) is_bucket: bool,
    /// Over what the limit counts.
    pub(super) period: Duration,
    /// The provider has named the period itself.
    is_named: bool,
    /// Between -1 (no bucket) and 1.
    vote: f64,
    voted: Option<Instant>,
    /// The first response's send.
    since: Instant,
    longest_reset: Duration,
    /// The period of the bucket that the last vote spoke for.
    seems: Option<Duration>,
    /// The shorter window that it may be, while it was not watched for long enough to tell.
    open: Option<Duration>,
}

impl Kind {
    pub(super) fn new(named: Option<Duration>, since: Instant) -> Self {
        Self {
            is_bucket: false,
            period: named.unwrap_or(Duration::from_secs(60)),
            is_named: named.is_some(),
            vote: 0.0,
            voted: None,
            since,
            longest_reset: Duration::ZERO,
            seems: None,
            open: None,
        }
    }

    /// One that has shown itself beyond doubt.
    #[cfg(test)]
    pub(super) fn proven(is_bucket: bool, period: Duration, since: Instant) -> Self {
        let vote = if is_bucket { 1.0 } else { 0.0 };
        Self { is_bucket, period, vote, longest_reset: period, ..Self::new(None, since) }
    }

    /// As it was remembered `at`.
    pub(super) fn recall(kept: &ToldBudget, at: Instant) -> Self {
        let (signs, is_bucket) = (kept.signs, kept.kind == LimiterKind::Bucket);
        // No bucket is recognised that takes longer than a day.
        let longest = if is_bucket { PERIODS[PERIODS.len() - 1] } else { LONGEST_S };
        Self {
            is_bucket,
            period: seconds(sane(kept.period_s, 0.5..=longest, 60.0)),
            is_named: signs.is_named,
            vote: sane(signs.vote, -1.0..=1.0, 0.0),
            voted: None,
            since: ago(at, signs.watched_s),
            longest_reset: seconds(signs.longest_reset_s),
            seems: None,
            open: signs.perhaps_s.filter(|perhaps| (0.5..60.0).contains(perhaps)).map(seconds),
        }
    }

    /// What it was told from.
    pub(super) fn signs(&self, now: Instant) -> KindSigns {
        KindSigns {
            is_named: self.is_named,
            vote: self.vote,
            watched_s: now.saturating_duration_since(self.since).as_secs_f64(),
            longest_reset_s: self.longest_reset.as_secs_f64(),
            perhaps_s: self.open.map(|open| open.as_secs_f64()),
        }
    }

    /// What it is, in a word.
    pub(super) fn name(&self) -> LimiterKind {
        match self.is_bucket {
            true => LimiterKind::Bucket,
            false if self.is_long() => LimiterKind::Quota,
            false => LimiterKind::Window,
        }
    }

    /// A response to what was `sent` then: of `limit`, `used` was gone. Says whether the belief has changed.
    pub(super) fn hear(&mut self, sent: Instant, limit: f64, used: f64, reset: Option<Reset>) -> bool {
        let was = self.is_bucket;
        let Some(Reset { after, grain }) = reset else { return false };
        let tells = used > FEW;
        let is_fine = grain.as_secs_f64() <= COARSE * after.as_secs_f64();
        if tells && is_fine && self.voted.is_none_or(|voted| sent > voted + VOLLEY) {
            self.voted = Some(sent);
            let period = after.as_secs_f64() * limit / used;
            let off = |candidate: &f64| (candidate / period.max(1e-6)).ln().abs();
            let nearest = PERIODS.into_iter().min_by(|one, other| off(one).total_cmp(&off(other))).unwrap_or(60.0);
            // What remains is told in whole numbers: a little less may be used, and of few that is much.
            let longest = after.as_secs_f64() * limit / (used - 1.0).max(0.5);
            let close = CLOSE.max(grain.as_secs_f64() / after.as_secs_f64().max(1e-9));
            let agrees = period <= nearest * (1.0 + close) && longest >= nearest * (1.0 - close);
            self.vote = 0.8 * self.vote + if agrees { 0.2 } else { -0.2 };
            self.seems = agrees.then(|| Duration::from_secs_f64(nearest));
            if agrees && self.vote > 0.35 {
                self.is_bucket = true;
                self.period = Duration::from_secs_f64(nearest);
            } else if self.vote < 0.0 {
                self.is_bucket = false;
            }
        }
        self.longest_reset = self.longest_reset.max(after);
        if !self.is_bucket && !self.is_named {
            let longest = self.longest_reset.as_secs_f64();
            let window = PERIODS[..3].iter().find(|period| longest <= *period * 1.02).copied().unwrap_or(longest);
            // A window is believed to be short once it was watched for longer than it lasts.
            let watched = sent.saturating_duration_since(self.since).as_secs_f64();
            let believed = window >= 60.0 || watched > 1.2 * window;
            self.period = Duration::from_secs_f64(if believed { window } else { 60.0 });
            self.open = (!believed).then(|| Duration::from_secs_f64(window));
        }
        was != self.is_bucket
    }

    /// What it seems to be: good enough for a pace, not for a budget.
    pub(super) fn likely_period(&self) -> Duration {
        self.open.filter(|_| !self.is_bucket).map_or(self.period, |open| open.max(Duration::from_secs(10)))
    }

    /// Over what the limit seems to count, where nothing surer is known by a single vote; `None` while there was none.
    pub(super) fn seeming_period(&self) -> Option<Duration> {
        if self.is_open() { self.seems } else { Some(self.period) }
    }

    /// The shortest that it may be.
    pub(super) fn shortest_period(&self) -> Duration {
        self.open.filter(|_| !self.is_bucket).unwrap_or(self.period)
    }

    /// Whether it may be shorter than is believed.
    pub(super) fn is_open(&self) -> bool {
        !self.is_bucket && self.open.is_some()
    }

    /// Whether its end is waited for, not its return bit by bit: it counts over very long, or over nobody knows how long,
    /// and a short reset is all there is to go by.
    pub(super) fn ends_whole(&self) -> bool {
        self.is_open() || self.is_long()
    }

    /// Whether it counts over so long that nobody would want it spread.
    pub(super) fn is_long(&self) -> bool {
        !self.is_bucket && self.period > Duration::from_secs(90)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn s(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    fn reset(after: f64, grain: f64) -> Option<Reset> {
        Some(Reset { after: s(after), grain: s(grain) })
    }

    #[test]
    fn a_bucket_shows_itself_by_the_ratio_of_its_reset() {
        let start = clock::now();
        let mut kind = Kind::new(None, start);
        for n in 1..=4u32 {
            let used = f64::from(n) * 20.0;
            kind.hear(start + s(f64::from(n)), 500.0, used, reset(used * 60.0 / 500.0, 0.001));
        }
        assert!(kind.is_bucket);
        assert_eq!(kind.period, s(60.0));
    }

    #[test]
    fn a_volley_has_one_vote_and_coarse_resets_have_none() {
        let start = clock::now();
        let mut kind = Kind::new(None, start);
        for n in 1..=50u32 {
            kind.hear(start + s(0.001 * f64::from(n)), 500.0, 250.0, reset(30.0, 0.001));
            kind.hear(start + s(f64::from(n)), 500.0, 25.0, reset(3.0, 1.0));
        }
        assert!(!kind.is_bucket);
    }

    #[test]
    fn a_short_window_is_believed_once_it_was_watched_for_longer_than_it_lasts() {
        let start = clock::now();
        let mut kind = Kind::new(None, start);
        for n in 0..60u32 {
            let at = f64::from(n) * 0.5;
            kind.hear(start + s(at), 20.0, 5.0 + f64::from(n % 7), reset(10.0 - at % 10.0, 0.001));
            if at < 12.0 {
                assert_eq!(kind.period, s(60.0), "at {at}");
            }
        }
        assert!(!kind.is_bucket);
        assert_eq!(kind.period, s(10.0));
    }

    #[test]
    fn a_window_of_few_calls_is_not_taken_for_a_bucket() {
        let start = clock::now();
        let mut kind = Kind::new(None, start);
        // Eight a second, of which one is used, early in the second: such a reset would fit a bucket of ten.
        for n in 0..50u32 {
            kind.hear(start + s(f64::from(n)), 8.0, 1.0, reset(0.8, 0.001));
            assert!(!kind.is_bucket, "behind {n}");
        }
        assert_eq!(kind.period, s(1.0));
    }

    #[test]
    fn a_named_period_is_kept() {
        let start = clock::now();
        let mut kind = Kind::new(Some(s(86_400.0)), start);
        kind.hear(start, 1_000.0, 10.0, reset(40_000.0, 1.0));
        assert!(kind.is_long());
        assert_eq!(kind.period, s(86_400.0));
    }
}
