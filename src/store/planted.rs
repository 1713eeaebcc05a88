//! Places where a test lets the process die, to see that what was promised before is kept after.

/// A step of the way to the disk, or back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Point {
    /// The store's file is there under a name that does not count yet.
    BeforeRename,
    /// It has its name, and the folder does not know that for certain yet.
    AfterRename,
    /// Some of a migration's statements have run.
    InMigration,
    /// Everything of a group has run.
    BeforeCommit,
    /// The group is on disk, and nobody has been told.
    AfterCommit,
    /// A job is claimed and the next one is not.
    InClaim,
    /// A job has its end, and what hangs on that has not.
    InFinish,
    /// Some of what was lost with its owner is ready again.
    InRescue,
    /// Some of what is old is gone.
    InPrune,
}

/// The process is here.
#[cfg(not(test))]
pub(super) fn reach(_: Point) {}

/// The process is here, and dies if the environment says so: `FOREBAY_TEST_DIE=POINT:COUNT`, the count from 1.
#[cfg(test)]
pub(super) fn reach(point: Point) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicUsize, Ordering};
    static AT: OnceLock<Option<(String, usize)>> = OnceLock::new();
    static REACHED: AtomicUsize = AtomicUsize::new(0);
    let at = AT.get_or_init(|| {
        let text = std::env::var("FOREBAY_TEST_DIE").ok()?;
        let (name, count) = text.split_once(':')?;
        Some((name.to_owned(), count.parse().ok()?))
    });
    let Some((name, count)) = at else { return };
    if *name == format!("{point:?}") && REACHED.fetch_add(1, Ordering::Relaxed) + 1 == *count {
        std::process::abort();
    }
}
