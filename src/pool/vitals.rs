//! How the pool is, for whoever answers for it on another thread.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Written by the supervisor, read by the handle. Lives longer than either.
#[derive(Debug, Default)]
pub(crate) struct Vitals {
    unready: AtomicBool,
    restarts: AtomicU64,
}

impl Vitals {
    /// Whether request actors die faster than the pool bears.
    pub(crate) fn is_unready(&self) -> bool {
        self.unready.load(Ordering::Relaxed)
    }

    /// Says whether they do; gives whether they did.
    pub(crate) fn set_unready(&self, unready: bool) -> bool {
        self.unready.swap(unready, Ordering::Relaxed)
    }

    /// Request actors that have died and were replaced.
    pub(crate) fn restarts(&self) -> u64 {
        self.restarts.load(Ordering::Relaxed)
    }

    /// One more was.
    pub(super) fn count_restart(&self) {
        self.restarts.fetch_add(1, Ordering::Relaxed);
    }
}
