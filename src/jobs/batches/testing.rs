//! Batches for this room's tests.

use crate::messages::{BatchId, Endpoint, FileId};
use crate::store::batches::{BatchRecord, BatchStatus, BatchTimes, Counts};

/// A batch that has just been accepted.
pub(super) fn record() -> BatchRecord {
    BatchRecord {
        id: BatchId::of(1),
        tenant: None,
        input: FileId::of(1),
        endpoint: Endpoint::ChatCompletions,
        metadata: None,
        created_at: 0,
        expires_at: 86_400_000,
        keep_files_for: None,
        status: BatchStatus::Validating,
        times: BatchTimes::default(),
        model: None,
        errors: None,
        total: 0,
        taken: 0,
        taken_bytes: 0,
        written: 0,
        has_expired: false,
        output: None,
        output_bytes: 0,
        error: None,
        error_bytes: 0,
        counts: Counts::default(),
    }
}
