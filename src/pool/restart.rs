//! When a request actor that died is replaced: at once the first time, then later and later, and loudly when too many die.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Instant;

/// The wait before the second restart in a row; doubled for each further one.
const FIRST_DELAY: Duration = Duration::from_millis(10);
const LONGEST_DELAY: Duration = Duration::from_secs(5);

/// A slot that lived this long has proved itself: its next death is its first again.
const PROVED: Duration = Duration::from_secs(10);

/// The restarts of one slot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Streak {
    deaths: u32,
    started: Instant,
}

impl Streak {
    pub(crate) fn new(now: Instant) -> Self {
        Self { deaths: 0, started: now }
    }

    /// The slot has died: how long until it is replaced.
    pub(crate) fn died(&mut self, now: Instant) -> Duration {
        if now.saturating_duration_since(self.started) >= PROVED {
            self.deaths = 0;
        }
        let delay = match self.deaths {
            0 => Duration::ZERO,
            n => FIRST_DELAY.saturating_mul(1 << (n - 1).min(16)).min(LONGEST_DELAY),
        };
        self.deaths = self.deaths.saturating_add(1);
        delay
    }

    /// The slot has been replaced.
    pub(crate) fn started(&mut self, now: Instant) {
        self.started = now;
    }
}

/// Counts the deaths of all slots within a window.
#[derive(Debug)]
pub(crate) struct Intensity {
    most: usize,
    window: Duration,
    deaths: VecDeque<Instant>,
}

impl Intensity {
    pub(crate) fn new(most: u32, window: Duration) -> Self {
        Self { most: most as usize, window, deaths: VecDeque::new() }
    }

    /// A slot has died.
    pub(crate) fn died(&mut self, now: Instant) {
        self.deaths.push_back(now);
        // One more than the limit tells all there is to know.
        if self.deaths.len() > self.most + 1 {
            self.deaths.pop_front();
        }
    }

    /// Whether more have died within the window than the pool bears.
    pub(crate) fn is_exceeded(&mut self, now: Instant) -> bool {
        while self.deaths.front().is_some_and(|at| *at + self.window <= now) {
            self.deaths.pop_front();
        }
        self.deaths.len() > self.most
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn the_first_restart_is_immediate_then_each_waits_twice_as_long() {
        let now = clock::now();
        let mut streak = Streak::new(now);
        let delays: Vec<u128> = (0..12).map(|_| streak.died(now).as_millis()).collect();
        assert_eq!(delays, [0, 10, 20, 40, 80, 160, 320, 640, 1_280, 2_560, 5_000, 5_000]);
        streak.started(now);
        assert_eq!(streak.died(now + PROVED), Duration::ZERO, "a slot that has proved itself starts anew");
    }

    #[test]
    fn too_many_deaths_within_the_window_are_noticed_and_forgotten_after_it() {
        let now = clock::now();
        let mut intensity = Intensity::new(3, Duration::from_secs(60));
        for _ in 0..3 {
            intensity.died(now);
        }
        assert!(!intensity.is_exceeded(now));
        intensity.died(now);
        assert!(intensity.is_exceeded(now));
        assert!(!intensity.is_exceeded(now + Duration::from_secs(60)));
    }
}
