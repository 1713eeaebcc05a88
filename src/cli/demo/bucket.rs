//! A token bucket, as one writes it: full at first, filled at a steady rate. Pure; time is a parameter.

use std::time::Duration;

use crate::clock::Instant;

/// So many at once, so many a second.
#[derive(Debug)]
pub(super) struct Bucket {
    rate: f64,
    capacity: f64,
    /// Below zero: tokens that are promised and not here yet.
    level: f64,
    at: Instant,
}

impl Bucket {
    /// `rate` tokens a second, a second's worth at once.
    pub(super) fn new(rate: u32, now: Instant) -> Self {
        let rate = f64::from(rate);
        Self { rate, capacity: rate, level: rate, at: now }
    }

    /// Takes the next token, and says how long to wait until it is there. Tokens go in the order they are asked for.
    pub(super) fn take(&mut self, now: Instant) -> Duration {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.level = (self.level + since * self.rate).min(self.capacity) - 1.0;
        self.at = now;
        Duration::from_secs_f64((-self.level / self.rate).max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn a_full_bucket_gives_its_burst_at_once_and_then_one_token_at_a_time() {
        let now = clock::now();
        let mut bucket = Bucket::new(50, now);
        let waits: Vec<u128> = (0..53).map(|_| bucket.take(now).as_millis()).collect();
        assert!(waits[..50].iter().all(|wait| *wait == 0));
        assert_eq!(waits[50..], [20, 40, 60]);
    }

    #[test]
    fn no_rest_fills_it_beyond_its_burst() {
        let start = clock::now();
        let mut bucket = Bucket::new(2, start);
        let later = start + Duration::from_secs(3_600);
        let waits: Vec<u128> = (0..4).map(|_| bucket.take(later).as_millis()).collect();
        assert_eq!(waits, [0, 0, 500, 1_000]);
    }
}
