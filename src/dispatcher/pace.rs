//! How fast: a bucket that fills at a steady rate and holds at most a second's worth.
//!
//! A cap per minute alone would let a minute's worth go at once, and providers that enforce shorter windows refuse that.
//! The bucket may go into debt for one use that is larger than it: the use waits for a full bucket, the debt for its refill.

use std::time::Duration;

use crate::clock::Instant;

/// The part of a second's worth that may go at once. A tenth is left out: an upstream that counts a full second's worth
/// strictly would refuse a call whose wire was a little quicker than that of the call before.
const BURST_SECONDS: f64 = 0.9;

/// Smooths use to a rate.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Per second.
    rate: f64,
    /// The bucket's size; at least 1.
    burst: f64,
    /// What is in the bucket at `at`; negative is debt.
    level: f64,
    at: Instant,
    /// From this instant on the rate grows by half each second: an account of unknown limits that comes back after a hold.
    ramp: Option<Instant>,
}

/// What a ramp's rate is multiplied with each second.
const RAMP_GROWTH: f64 = 1.5;

/// A ramp that is faster than this, per second, is over.
const RAMP_END: f64 = 2_000.0;

impl Pace {
    /// `per_minute` uses a minute, from a full bucket.
    pub(crate) fn per_minute(per_minute: u64, now: Instant) -> Self {
        let rate = per_minute as f64 / 60.0;
        let burst = (rate * BURST_SECONDS).floor().max(1.0);
        Self { rate, burst, level: burst, at: now, ramp: None }
    }

    /// Starts at `start` with `rate` a second and raises it by half every second.
    pub(crate) fn ramp(rate: f64, start: Instant) -> Self {
        let burst = (rate * BURST_SECONDS).floor().max(1.0);
        Self { rate, burst, level: 1.0, at: start, ramp: Some(start) }
    }

    /// Whether a ramp has come so far that it limits nothing any more.
    pub(crate) fn is_over(&self, now: Instant) -> bool {
        self.ramp.is_some() && self.rate_at(now) > RAMP_END
    }

    fn rate_at(&self, now: Instant) -> f64 {
        match self.ramp {
            None => self.rate,
            Some(start) => {
                let seconds = now.saturating_duration_since(start).as_secs().min(60);
                self.rate * RAMP_GROWTH.powi(seconds as i32)
            }
        }
    }

    fn refill(&mut self, now: Instant) {
        let rate = self.rate_at(now);
        if self.ramp.is_some() {
            self.burst = (rate * BURST_SECONDS).floor().max(1.0);
        }
        if now > self.at {
            self.level = (self.level + rate * (now - self.at).as_secs_f64()).min(self.burst);
            self.at = now;
        }
    }

    /// When `cost` may be used.
    pub(crate) fn ready_at(&mut self, now: Instant, cost: f64) -> Instant {
        self.refill(now);
        let missing = cost.min(self.burst) - self.level;
        if missing <= 1e-9 {
            return now.max(self.at);
        }
        // A microsecond more than computed: rounding must not wake the pump too early, again and again.
        let at = self.at.max(now) + Duration::from_secs_f64(missing / self.rate_at(now)) + Duration::from_micros(1);
        match self.ramp {
            // Behind the next step it goes faster: worth another look then.
            Some(start) if now >= start => {
                let step = now.saturating_duration_since(start).as_secs() + 1;
                at.min(start + Duration::from_secs(step))
            }
            _ => at,
        }
    }

    /// Uses `cost`.
    pub(crate) fn take(&mut self, now: Instant, cost: f64) {
        self.refill(now);
        self.level -= cost;
    }

    /// Gives back `cost` that was not used after all; less than nothing takes more.
    pub(crate) fn give_back(&mut self, cost: f64) {
        self.level = (self.level + cost).min(self.burst);
    }

    /// The most that can be used from `now` until `deadline`.
    pub(crate) fn room_until(&mut self, now: Instant, deadline: Instant) -> f64 {
        self.refill(now);
        if self.ramp.is_some() {
            return f64::INFINITY;
        }
        let start = self.at.max(now);
        // One use may go into debt, so up to a bucket more than what has flowed in.
        self.level + self.burst + self.rate * deadline.saturating_duration_since(start).as_secs_f64()
    }
}

/// How often something happened within the last ten seconds, counted by the second.
#[derive(Debug)]
pub(crate) struct Lately {
    /// The second, from `start`, that each count is of.
    counts: [(u64, u64); Self::SECONDS],
    start: Instant,
    /// The second of the first count behind a lull.
    since: Option<u64>,
}

impl Lately {
    const SECONDS: usize = 10;

    pub(crate) fn new(now: Instant) -> Self {
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
    pub(crate) fn count(&mut self, now: Instant) {
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
    pub(crate) fn per_second(&self, now: Instant) -> f64 {
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
    fn at_most_a_second_s_worth_goes_at_once_and_the_rest_at_the_rate() {
        let start = clock::now();
        let mut pace = Pace::per_minute(1_200, start);
        let mut now = start;
        let mut sent = Vec::new();
        for _ in 0..100 {
            now = pace.ready_at(now, 1.0);
            pace.take(now, 1.0);
            sent.push(now);
        }
        let at_once = sent.iter().filter(|at| **at == start).count();
        assert_eq!(at_once, 18);
        let rest = (sent[99] - sent[18]).as_secs_f64();
        assert!((rest - 81.0 / 20.0).abs() < 0.01, "{rest}");
    }

    #[test]
    fn three_a_minute_are_twenty_seconds_apart() {
        let start = clock::now();
        let mut pace = Pace::per_minute(3, start);
        assert_eq!(pace.ready_at(start, 1.0), start);
        pace.take(start, 1.0);
        let next = pace.ready_at(start, 1.0) - start;
        assert!((next.as_secs_f64() - 20.0).abs() < 0.001, "{next:?}");
    }

    #[test]
    fn a_use_larger_than_the_bucket_goes_when_it_is_full_and_is_paid_for_afterwards() {
        let start = clock::now();
        let mut pace = Pace::per_minute(600, start);
        assert_eq!(pace.ready_at(start, 100.0), start);
        pace.take(start, 100.0);
        let next = pace.ready_at(start, 1.0) - start;
        assert!((next.as_secs_f64() - 9.2).abs() < 0.01, "100 - 9 + 1 at 10 a second, got {next:?}");
        pace.give_back(90.0);
        assert!(pace.ready_at(start, 1.0) - start < Duration::from_secs(1));
    }

    #[test]
    fn a_ramp_grows_every_second_until_it_limits_nothing() {
        let start = clock::now();
        let mut pace = Pace::ramp(2.0, start);
        let mut sent = [0; 4];
        let mut now = start;
        loop {
            now = pace.ready_at(now, 1.0);
            let second = (now - start).as_secs() as usize;
            if second >= sent.len() {
                break;
            }
            pace.take(now, 1.0);
            sent[second] += 1;
        }
        assert!(sent[0] >= 2 && sent[0] <= 4 && sent[3] > sent[2] && sent[2] > sent[1], "{sent:?}");
        assert!(!pace.is_over(start + Duration::from_secs(15)));
        assert!(pace.is_over(start + Duration::from_secs(20)));
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
