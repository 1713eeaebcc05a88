//! Bugs planted on purpose, to prove that the simulation finds their kind. Each is one line where a slip might happen.

use std::cell::Cell;

use bytes::Bytes;

/// A bug that can be switched on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Bug {
    /// The permit of an attempt that was called off never comes back.
    LeakedPermit,
    /// The end of an attempt does not wake the calls that wait for it.
    LostWakeUp,
    /// A timer that is due before the armed one does not move it.
    LateTimer,
    /// A call that has ended while it ran stays in the ledger.
    SecondOutcome,
    /// Calls that wait for an upstream stay there when its breaker opens.
    LeftBehind,
    /// An answer goes to the call whose answer comes next.
    MixedUpAnswers,
}

thread_local! {
    static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    static BEFORE: Cell<Option<Bytes>> = const { Cell::new(None) };
}

/// Plants `bug` on this thread, or weeds it out.
#[cfg(feature = "gateway")] // by the simulation alone
pub(crate) fn set(bug: Option<Bug>) {
    PLANTED.set(bug);
    BEFORE.set(None);
}

pub(super) fn is(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// What the caller gets in place of `body`.
pub(super) fn mixed_up(body: Bytes) -> Bytes {
    if !is(Bug::MixedUpAnswers) {
        return body;
    }
    BEFORE.replace(Some(body.clone())).unwrap_or(body)
}
