//! Batches: files whose lines are jobs.
//!
//! ```text
//! validating ---> in_progress ---> finalizing ---> completed, expired
//!     |                |
//!     +--> failed      +---> cancelling ---> cancelled
//! ```
//!
//! A batch's lines become jobs in its order, so many that how far it has come is two numbers; and they cease to be jobs in the
//! same order, when what came of them is written to its files. Both happen in one transaction with those numbers. In between
//! they are jobs like all others, but for their counts: whatever ends one counts it in its batch, in the same transaction.

use std::sync::Arc;

use bytes::Bytes;

use super::jobs::JobEnd;
use super::{Ms, StoreError};
use crate::messages::{BatchId, Endpoint, FileId, JobId, JobStatus, Usage};

/// A batch to be accepted.
#[derive(Clone, Debug)]
pub(crate) struct NewBatch {
    pub(crate) tenant: Option<Arc<str>>,
    /// The caller's own name for this acceptance, unique within the tenant while the batch is kept.
    pub(crate) key: Option<Arc<str>>,
    /// SHA-256 of everything that was asked: another request of the same key is told apart by it.
    pub(crate) digest: [u8; 32],
    pub(crate) input: FileId,
    pub(crate) endpoint: Endpoint,
    /// What the caller wants to be told of it later: a JSON object.
    pub(crate) metadata: Option<Bytes>,
    pub(crate) created_at: Ms,
    pub(crate) expires_at: Ms,
    /// How long its files are kept, where the caller has said so.
    pub(crate) keep_files_for: Option<Ms>,
}

/// How the acceptance of a batch went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Created {
    /// It is a batch of its own.
    New(BatchId),
    /// Its key has this batch, with the same request.
    Same(BatchId),
    /// Its key has this batch, with another request.
    Conflict(BatchId),
}

/// Where a batch stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum BatchStatus {
    /// Its file is looked through.
    Validating,
    /// Its file was not in order: nothing of it was called.
    Failed,
    /// Its lines become jobs, and these have their ends.
    InProgress,
    /// All lines have their ends, which are written to its files.
    Finalizing,
    /// Every line had its chance.
    Completed,
    /// Its time was up before every line had its chance.
    Expired,
    /// It was called off: calls under way end, and what came of them is written to its files.
    Cancelling,
    /// It is called off.
    Cancelled,
}

impl BatchStatus {
    /// Every status.
    pub(crate) const ALL: [BatchStatus; 8] = [
        BatchStatus::Validating,
        BatchStatus::Failed,
        BatchStatus::InProgress,
        BatchStatus::Finalizing,
        BatchStatus::Completed,
        BatchStatus::Expired,
        BatchStatus::Cancelling,
        BatchStatus::Cancelled,
    ];

    /// Its name in OpenAI's API.
    pub(crate) fn name(self) -> &'static str {
        match self {
            BatchStatus::Validating => "validating",
            BatchStatus::Failed => "failed",
            BatchStatus::InProgress => "in_progress",
            BatchStatus::Finalizing => "finalizing",
            BatchStatus::Completed => "completed",
            BatchStatus::Expired => "expired",
            BatchStatus::Cancelling => "cancelling",
            BatchStatus::Cancelled => "cancelled",
        }
    }

    /// Whether it stays so.
    pub(crate) fn is_end(self) -> bool {
        use BatchStatus::*;
        matches!(self, Failed | Completed | Expired | Cancelled)
    }
}

/// When a batch came to where it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct BatchTimes {
    pub(crate) in_progress: Option<Ms>,
    pub(crate) finalizing: Option<Ms>,
    pub(crate) cancelling: Option<Ms>,
    /// When it ended, however it did.
    pub(crate) ended: Option<Ms>,
}

/// What came of a batch's lines so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Counts {
    /// Lines with an answer.
    pub(crate) completed: u32,
    /// Lines with another end.
    pub(crate) failed: u32,
    pub(crate) usage: Usage,
}

impl Counts {
    /// One line's end.
    pub(crate) fn of_line(status: JobStatus, usage: Option<&Usage>) -> Self {
        let is_answer = status == JobStatus::Succeeded;
        Self { completed: is_answer.into(), failed: (!is_answer).into(), usage: usage.copied().unwrap_or_default() }
    }

    pub(crate) fn add(&mut self, more: &Self) {
        self.completed += more.completed;
        self.failed += more.failed;
        let (usage, more) = (&mut self.usage, &more.usage);
        usage.input_tokens = usage.input_tokens.saturating_add(more.input_tokens);
        usage.cached_input_tokens = usage.cached_input_tokens.saturating_add(more.cached_input_tokens);
        usage.output_tokens = usage.output_tokens.saturating_add(more.output_tokens);
        usage.total_tokens = usage.total_tokens.saturating_add(more.total());
    }

    /// Lines with any end.
    pub(crate) fn ended(&self) -> u32 {
        self.completed + self.failed
    }
}

/// Everything that is known of a batch.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct BatchRecord {
    pub(crate) id: BatchId,
    pub(crate) tenant: Option<Arc<str>>,
    pub(crate) input: FileId,
    pub(crate) endpoint: Endpoint,
    pub(crate) metadata: Option<Bytes>,
    pub(crate) created_at: Ms,
    pub(crate) expires_at: Ms,
    pub(crate) keep_files_for: Option<Ms>,
    pub(crate) status: BatchStatus,
    pub(crate) times: BatchTimes,
    /// The model that all lines ask for, once they are known, if it is one.
    pub(crate) model: Option<Arc<str>>,
    /// What is wrong with its file: a JSON list of OpenAI's errors.
    pub(crate) errors: Option<Bytes>,
    /// Lines that ask something, once they are known.
    pub(crate) total: u32,
    /// How many of them have become jobs, or never will.
    pub(crate) taken: u32,
    /// Where in the input the first line stands that has not.
    pub(crate) taken_bytes: u64,
    /// How many lines have been written to its files.
    pub(crate) written: u32,
    /// Whether one of those had no chance because the time was up.
    pub(crate) has_expired: bool,
    /// Where answers are written; sealed when the batch ends. And how far.
    pub(crate) output: Option<FileId>,
    pub(crate) output_bytes: u64,
    /// Where all other ends are written, likewise.
    pub(crate) error: Option<FileId>,
    pub(crate) error_bytes: u64,
    pub(crate) counts: Counts,
}

/// Which batches are listed, newest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct BatchFilter {
    pub(crate) tenant: Option<Arc<str>>,
    /// Only those behind this one in the list.
    pub(crate) after: Option<BatchId>,
    pub(crate) limit: usize,
}

/// A line that has its end.
#[derive(Clone, Debug)]
pub(crate) struct EndedLine {
    pub(crate) job: JobId,
    pub(crate) number: u32,
    pub(crate) custom_id: Arc<str>,
    pub(crate) status: JobStatus,
    pub(crate) end: Option<JobEnd>,
}

/// Reading batches.
pub(crate) trait BatchRecords {
    /// A batch of any tenant.
    fn batch(&self, id: BatchId) -> Result<Option<BatchRecord>, StoreError>;

    fn batches(&self, filter: &BatchFilter) -> Result<Vec<BatchRecord>, StoreError>;

    /// Every batch that has not ended, of all tenants, oldest first.
    fn open_batches(&self) -> Result<Vec<BatchRecord>, StoreError>;
}

/// Changing batches.
pub(crate) trait BatchChanges {
    fn create_batch(&mut self, batch: &NewBatch) -> Result<Created, StoreError>;

    /// Writes down how far a batch has come, as a change of what was read in the same transaction. Its counts are not touched.
    fn keep_batch(&mut self, batch: &BatchRecord) -> Result<(), StoreError>;

    /// Counts lines that have ended. Whatever ends a job that is a line calls it.
    fn count_lines(&mut self, id: BatchId, more: &Counts) -> Result<(), StoreError>;

    /// Removes a batch's first lines, as many as have their ends in a row but at most `limit`, with the ends of all but the
    /// first at most `max_bytes` together; gives them.
    fn take_lines(&mut self, id: BatchId, limit: usize, max_bytes: usize) -> Result<Vec<EndedLine>, StoreError>;

    /// Calls off at most `limit` of a batch's lines that are not being called; gives those, and which of them were claimed.
    fn cancel_lines(&mut self, id: BatchId, at: Ms, limit: usize) -> Result<Vec<(JobId, bool)>, StoreError>;

    /// Removes at most `limit` batches that ended before then and whose files are gone; gives how many.
    fn prune_batches(&mut self, ended_before: Ms, limit: usize) -> Result<usize, StoreError>;
}
