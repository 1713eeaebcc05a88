//! What batches have to say.

use std::fmt::Debug;

use crate::messages::BatchId;

/// A batch's file was not in order.
pub(crate) fn refused(batch: BatchId, errors: usize) {
    tracing::info!(target: "forebay", %batch, errors, "batch refused: its file is not in order");
}

/// A batch has its end.
pub(crate) fn ended(batch: BatchId, status: &str, completed: u32, failed: u32) {
    tracing::info!(target: "forebay", %batch, status, completed, failed, "batch ended");
}

/// The store refused what a batch, or all of them, need to go on; it is tried again.
pub(crate) fn held_up(batch: Option<BatchId>, error: &dyn Debug) {
    let batch = batch.map(tracing::field::display);
    tracing::warn!(target: "forebay", batch, ?error, "held up");
}
