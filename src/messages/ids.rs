//! Ids: what ties an answer to its request at every hop, so that a mix-up is a caught defect.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// One call, from the moment it is made to its one outcome. Shown as the call's `x-request-id`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CallId(u64);

impl CallId {
    /// An id no other call of this process has; later ones are greater.
    #[allow(clippy::new_without_default)] // a fresh id is not a default value
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// The call's number within the process.
    pub fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for CallId {
    /// `req_` and a number that is unlikely to repeat in another process.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        static PREFIX: OnceLock<String> = OnceLock::new();
        f.write_str(PREFIX.get_or_init(|| format!("req_{:016x}", crate::clock::Dice::new().number())))?;
        write!(f, "{:08x}", self.0)
    }
}

/// One try of one call. Numbers start at 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct AttemptId {
    pub(crate) call: CallId,
    pub(crate) number: u32,
}

/// A place for one attempt. A slot whose actor was replaced keeps its index and gets the next generation: what an
/// earlier generation still says is stale.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct SlotId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// A thread that carries actors; 0 is the one the dispatcher lives on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub(crate) struct SeatId(pub(crate) u16);
