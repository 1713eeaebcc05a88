//! Webhooks that are still to be delivered: put here in the transaction that ends their job, gone when they are delivered or
//! given up.

use std::sync::Arc;

use super::{Ms, StoreError};
use crate::messages::JobId;

/// A delivery that is due.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Outgoing {
    /// Names it in the outbox.
    pub(crate) number: i64,
    pub(crate) job: JobId,
    pub(crate) url: Arc<str>,
    /// Deliveries tried so far.
    pub(crate) attempts: u32,
    pub(crate) due: Ms,
}

/// Reading the outbox.
pub(crate) trait OutboxRecords {
    /// At most `limit` deliveries that are due, the longest due first.
    fn outgoing(&self, now: Ms, limit: usize) -> Result<Vec<Outgoing>, StoreError>;

    /// When the next delivery is due.
    fn next_outgoing(&self) -> Result<Option<Ms>, StoreError>;
}

/// Changing the outbox.
pub(crate) trait OutboxChanges {
    /// It is delivered, or given up.
    fn outgoing_done(&mut self, number: i64) -> Result<(), StoreError>;

    /// It is tried again at `due`, with one more attempt on record.
    fn outgoing_again(&mut self, number: i64, due: Ms) -> Result<(), StoreError>;
}
