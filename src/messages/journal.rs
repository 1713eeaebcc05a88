//! What makes a call durable: somebody keeps a record of its attempts, and no attempt is made that is not on record.
//!
//! Dispatcher and request actors know nothing of stores. The request actor waits for the record before the first byte
//! goes out; the dispatcher tells how the attempt failed and when the call goes again.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::{AccountId, Error, Failure};

/// Resolves when an attempt is on record and may be made.
pub(crate) type Recorded = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

/// The record of one call's attempts.
pub(crate) trait Journal: Send + Sync {
    /// The next attempt is about to be made, at `account`. An error means that it must not be made: the call ends with it.
    fn starting(&self, account: &AccountId) -> Recorded;

    /// The attempt that was started last has failed.
    fn failed(&self, failure: &Failure);

    /// The call goes again once `wait` has passed; `counted` of its attempts count against `max_attempts`.
    fn again(&self, counted: u32, wait: Duration);
}

/// A call that somebody keeps a record of.
#[derive(Clone)]
pub(crate) struct Durable {
    pub(crate) journal: Arc<dyn Journal>,
    /// Attempts made before the dispatcher got to know it.
    pub(crate) attempts: u32,
    /// Those of them that count against `max_attempts`.
    pub(crate) counted: u32,
    /// What the upstream may have worked on is not asked for again.
    pub(crate) at_most_once: bool,
}

impl fmt::Debug for Durable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { attempts, counted, at_most_once, .. } = self;
        write!(f, "Durable({attempts} attempts, {counted} counted, at most once: {at_most_once})")
    }
}
