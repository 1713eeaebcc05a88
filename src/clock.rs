//! The one place that reads time and rolls dice.
//!
//! Policy takes an [`Instant`] and a [`Dice`] as parameters. The instant is tokio's, so that a test (or a
//! simulation) that pauses tokio's clock owns all of the program's time, the wall clock included.

use std::time::{Duration, SystemTime};

pub use tokio::time::Instant;

/// The present moment, on tokio's clock.
pub fn now() -> Instant {
    Instant::now()
}

/// Waits until `deadline`. Nothing is lost when the future is dropped.
pub async fn until(deadline: Instant) {
    tokio::time::sleep_until(deadline).await;
}

/// An instant so far away that nothing waits for it: some thirty years.
pub fn far(now: Instant) -> Instant {
    now + Duration::from_secs(30 * 365 * 86_400)
}

/// `now` and `wait` more; [`far`] away when that is beyond what can be told.
pub fn after(now: Instant, wait: Duration) -> Instant {
    now.checked_add(wait).unwrap_or_else(|| far(now))
}

/// `now` and `ago` before it; `now` where that is further back than can be told.
pub fn before(now: Instant, ago: Duration) -> Instant {
    now.checked_sub(ago).unwrap_or(now)
}

/// Reads the wall clock once and follows the monotonic one from there: a jump of the system's clock moves nothing.
#[derive(Clone, Copy, Debug)]
pub struct WallClock {
    start: SystemTime,
    at: Instant,
}

impl WallClock {
    /// A wall clock that shows the system's time now.
    pub fn new() -> Self {
        Self { start: SystemTime::now(), at: now() }
    }

    /// The wall time at `instant`.
    pub fn at(&self, instant: Instant) -> SystemTime {
        self.start + instant.saturating_duration_since(self.at)
    }

    /// The same in milliseconds since 1970; 0 before then.
    pub(crate) fn ms_at(&self, instant: Instant) -> i64 {
        let since = self.at(instant).duration_since(SystemTime::UNIX_EPOCH);
        since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }
}

impl Default for WallClock {
    fn default() -> Self {
        Self::new()
    }
}

/// Runs `test` on a whole actix System of one thread, whose clock stands still until nothing else is to be done.
#[cfg(test)]
pub(crate) fn in_virtual_time<T>(test: impl Future<Output = T>) -> T {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    actix_rt::System::with_tokio_rt(runtime).block_on(test)
}

/// A source of chance. Two dice of one seed roll the same.
#[derive(Clone, Debug)]
pub struct Dice(fastrand::Rng);

impl Dice {
    /// Dice that roll differently in every process.
    pub fn new() -> Self {
        Self(fastrand::Rng::new())
    }

    /// Dice that roll the same for the same `seed`.
    pub fn seeded(seed: u64) -> Self {
        Self(fastrand::Rng::with_seed(seed))
    }

    /// A number uniform in `0.0..1.0`.
    pub fn fraction(&mut self) -> f64 {
        self.0.f64()
    }

    /// A duration uniform in `0..=limit`.
    pub fn up_to(&mut self, limit: Duration) -> Duration {
        Duration::from_nanos(self.0.u64(0..=u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0.u64(..)
    }
}

impl Default for Dice {
    fn default() -> Self {
        Self::new()
    }
}
