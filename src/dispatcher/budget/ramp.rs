//! How fast to come back after a hold where nothing is known of the limit: slowly, and faster every second.

use std::time::Duration;

use crate::clock::Instant;

/// The part of a second's worth that may go at once. A tenth is left out: an upstream that counts a full second's worth
/// strictly would refuse a call whose wire was a little quicker than that of the call before.
const BURST_SECONDS: f64 = 0.9;

/// What the rate is multiplied with each second.
const GROWTH: f64 = 1.5;

/// A ramp that is faster than this, per second, is over.
const END: f64 = 2_000.0;

/// Smooths calls to a rate that grows.
#[derive(Debug)]
pub(super) struct Ramp {
    /// Per second, in its first second.
    rate: f64,
    start: Instant,
    /// Calls that may go `at` once.
    level: f64,
    at: Instant,
}

impl Ramp {
    /// Starts at `start` with `rate` a second and raises it by half every second.
    pub(super) fn new(rate: f64, start: Instant) -> Self {
        Self { rate, start, level: 1.0, at: start }
    }

    /// Whether it has come so far that it limits nothing any more.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.rate_at(now) > END
    }

    fn rate_at(&self, now: Instant) -> f64 {
        let seconds = now.saturating_duration_since(self.start).as_secs().min(60);
        self.rate * GROWTH.powi(seconds as i32)
    }

    fn refill(&mut self, now: Instant) {
        if now > self.at {
            let rate = self.rate_at(now);
            let burst = (rate * BURST_SECONDS).floor().max(1.0);
            self.level = (self.level + rate * (now - self.at).as_secs_f64()).min(burst);
            self.at = now;
        }
    }

    /// When a call may go.
    pub(super) fn ready_at(&mut self, now: Instant) -> Instant {
        self.refill(now);
        let missing = 1.0 - self.level;
        if missing <= 1e-9 {
            return now.max(self.at);
        }
        // A microsecond more than computed: rounding must not wake the pump too early, again and again.
        let at = self.at.max(now) + Duration::from_secs_f64(missing / self.rate_at(now)) + Duration::from_micros(1);
        // Behind the next step it goes faster: worth another look then.
        let step = now.saturating_duration_since(self.start).as_secs() + 1;
        if now >= self.start { at.min(self.start + Duration::from_secs(step)) } else { at }
    }

    /// A call goes.
    pub(super) fn take(&mut self, now: Instant) {
        self.refill(now);
        self.level -= 1.0;
    }
}

/// How often something happened within the last ten seconds, counted by the second.
#[derive(Debug)]
pub(super) struct Lately {
    /// The second, from `start`, that each count is of.
    counts: [(u64, u64); Self::SECONDS],
    start: Instant,
    /// The second of the first count behind a lull.
    since: Option<u64>,
}

impl Lately {
    const SECONDS: usize = 10;

    pub(super) fn new(now: Instant) -> Self {
        Self { counts: [(0, 0); Self::SECONDS], start: now, since: None }
    }

    fn second(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_secs()
    }

    fn within(&self, second: u64) -> u64 {
        let is_recent = |(of, _): &&(u64, u64)| of + Self::SECONDS as u64 > second;
        self.counts.iter().filter(is_recent).map(|(_, count)| count).sum()
    }

    /// It has happened.
    pub(super) fn count(&mut self, now: Instant) {
        let second = self.second(now);
        if self.within(second) == 0 {
            self.since = Some(second);
        }
        let slot = &mut self.counts[(second % Self::SECONDS as u64) as usize];
        if slot.0 != second {
            *slot = (second, 0);
        }
        slot.1 += 1;
    }

    /// How often a second; what has happened for less than a second counts as one.
    pub(super) fn per_second(&self, now: Instant) -> f64 {
        let second = self.second(now);
        let elapsed = second - self.since.unwrap_or(second).min(second) + 1;
        self.within(second) as f64 / elapsed.min(Self::SECONDS as u64) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn a_ramp_grows_every_second_until_it_limits_nothing() {
        let start = clock::now();
        let mut ramp = Ramp::new(2.0, start);
        let mut sent = [0; 4];
        let mut now = start;
        loop {
            now = ramp.ready_at(now);
            let second = (now - start).as_secs() as usize;
            if second >= sent.len() {
                break;
            }
            ramp.take(now);
            sent[second] += 1;
        }
        assert!(sent[0] >= 2 && sent[0] <= 4 && sent[3] > sent[2] && sent[2] > sent[1], "{sent:?}");
        assert!(!ramp.is_over(start + Duration::from_secs(15)));
        assert!(ramp.is_over(start + Duration::from_secs(20)));
    }

    #[test]
    fn what_happened_lately_is_a_rate_over_ten_seconds_at_most() {
        let start = clock::now();
        let mut lately = Lately::new(start);
        assert_eq!(lately.per_second(start), 0.0);
        for _ in 0..20 {
            lately.count(start);
        }
        assert_eq!(lately.per_second(start), 20.0, "a burst is taken as a second's");
        for second in 1..=30 {
            for _ in 0..5 {
                lately.count(start + Duration::from_secs(second));
            }
        }
        let rate = lately.per_second(start + Duration::from_secs(30));
        assert!((4.5..=5.5).contains(&rate), "{rate}");
        assert_eq!(lately.per_second(start + Duration::from_secs(60)), 0.0);
    }
}
