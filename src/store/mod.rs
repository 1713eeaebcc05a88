//! What must survive: the contract every kind of store keeps, and the way to one.
//!
//! [`Store`] is how the rest of the program reaches it: work is handed over as a closure and resolves when what it changed is
//! durable. `writer` runs what has gathered in one transaction (group commit, without timers), on a thread of its own; reads
//! run beside it. A kind is an `Engine`: `memory` keeps nothing beyond the process, `sqlite` is one file.
//!
//! The contract is one trait a noun, reads apart from changes: [`jobs`], [`batches`], [`files`], [`outbox`], [`memories`]. It is
//! written so that PostgreSQL can be another kind: every change names its owner (one opening of the store) and is refused when the
//! row is another's by now, claims are taken in batches, and nothing is asked that needs the store to be alone. `tests` is one body for all kinds.

#[cfg_attr(not(feature = "gateway"), allow(dead_code))] // only the gateway asks for them
pub(crate) mod batches;
mod engine;
#[cfg_attr(not(feature = "gateway"), allow(dead_code))] // only the gateway asks for them
pub(crate) mod files;
mod handle;
pub(crate) mod jobs;
#[cfg(feature = "sqlite")]
mod measured;
pub(crate) mod memories;
mod memory;
mod open_error;
pub(crate) mod outbox;
#[cfg(feature = "sqlite")]
mod planted;
#[cfg(feature = "sqlite")]
mod sqlite;
#[cfg(test)]
mod tests;
#[cfg(feature = "sqlite")]
mod writer;

use std::fmt;

use batches::{BatchChanges, BatchRecords};
use files::{FileChanges, FileRecords};
pub(crate) use handle::Store;

use jobs::{JobChanges, JobRecords};
#[cfg(feature = "sqlite")]
pub use measured::Measured;
use memories::{MemoryChanges, MemoryRecords};
pub(crate) use open_error::OpenError;
use outbox::{OutboxChanges, OutboxRecords};

use crate::clock::Dice;
#[cfg(feature = "sqlite")]
use crate::clock::{self, WallClock};

/// Milliseconds of wall time since 1970.
pub(crate) type Ms = i64;

/// One opening of a store by one process. What it claimed is its own until it lets go or is gone; a later opening has a
/// greater number; the first has 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Owner(pub(crate) i64);

/// Everything that can be read.
pub(crate) trait Records: JobRecords + BatchRecords + FileRecords + OutboxRecords + MemoryRecords {}

impl<T: JobRecords + BatchRecords + FileRecords + OutboxRecords + MemoryRecords> Records for T {}

/// Everything that can be changed, and read, within a transaction.
pub(crate) trait Changes:
    Records + JobChanges + BatchChanges + FileChanges + OutboxChanges + MemoryChanges
{
}

impl<T: Records + JobChanges + BatchChanges + FileChanges + OutboxChanges + MemoryChanges> Changes for T {}

/// Why a store could not do what it was asked. Whatever was asked of it in that transaction has not happened, save for
/// [`StoreError::Io`]: then it may have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum StoreError {
    /// There is no room on the disk.
    Full(String),
    /// The disk or the database failed in a way that leaves open what is on it: nothing more may be asked of this opening.
    Io(String),
    /// What is on the disk is damaged.
    Corrupt(String),
    /// More waits than can be written in a useful time.
    Behind,
    /// It is closed.
    Closed,
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::Full(why) => write!(f, "there is no room on the store's disk: {why}"),
            StoreError::Io(why) => write!(f, "the store's disk has failed: {why}"),
            StoreError::Corrupt(why) => write!(f, "the store is damaged: {why}"),
            StoreError::Behind => f.write_str("more waits than the store can write in a useful time"),
            StoreError::Closed => f.write_str("the store is closed"),
        }
    }
}

/// The wall time now, for an opening: whatever is asked of an open store brings its own.
#[cfg(feature = "sqlite")]
fn wall_now() -> Ms {
    WallClock::new().ms_at(clock::now())
}

/// The number that a new store's ids begin with: 23 rolled bits above the 40 that count.
fn first_id(dice: &mut Dice) -> i64 {
    i64::try_from(dice.number() >> 41).unwrap_or_default() << 40
}
