//! What was learned of accounts, on its way to whoever keeps it over a restart, and back.

use std::time::Duration;

use actix::prelude::*;
use bytes::Bytes;

/// Asked of the dispatcher: what is worth keeping, of at most `most` accounts: those that were parked since they were last asked
/// for, then those that have been busy since, the longest ago first.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "Vec<Memory>")]
pub(crate) struct AskMemories {
    pub(crate) most: usize,
    /// Accounts that are only busy are not due again before this has passed.
    pub(crate) every: Duration,
}

/// Asked of the dispatcher: answered when the next attempt starts. Until then nothing is learned that is worth keeping.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
pub(crate) struct AwaitAttempt;

/// One account as it is kept: ages and waits, counted from when it was asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Memory {
    /// Names upstream and key, and tells nothing of the key.
    pub(crate) account: String,
    /// JSON.
    pub(crate) learned: Bytes,
}

/// A memory of an earlier process.
#[derive(Clone, Debug)]
pub(crate) struct Recollection {
    pub(crate) memory: Memory,
    /// How long ago it was kept.
    pub(crate) ago: Duration,
}
