//! Every event of a job's life, by name. Ids, statuses and counts only.

use crate::messages::{CallId, JobId, JobStatus};

pub(crate) fn job_accepted(job: JobId, queue: &str) {
    tracing::debug!(%job, queue, "job accepted");
}

/// The job's attempts are those of this call.
pub(crate) fn job_runs(job: JobId, call: CallId) {
    tracing::debug!(%job, %call, "job runs");
}

pub(crate) fn job_ended(job: JobId, status: JobStatus) {
    tracing::info!(%job, %status, "job ended");
}

/// Its call ended and it has not.
pub(crate) fn job_goes_back(job: JobId) {
    tracing::debug!(%job, "job goes back to the store");
}

/// The store has not written what became of a job: it is asked again, unless it has failed for good.
pub(crate) fn job_not_written(job: JobId, error: &dyn std::fmt::Debug) {
    tracing::error!(%job, ?error, "the store has not written what became of a job");
}

pub(crate) fn store_failed(at: &'static str, error: &dyn std::fmt::Debug) {
    tracing::error!(at, ?error, "the store failed");
}

/// Webhooks are due that nothing can sign.
pub(crate) fn webhooks_wait(count: usize) {
    tracing::warn!(
        count,
        "webhooks wait: there is no [jobs] webhook_secret any more to sign them with; set it and reload"
    );
}

/// Jobs that an earlier process, or a crash, left in the middle.
pub(crate) fn jobs_rescued(count: usize) {
    tracing::info!(count, "jobs taken up that were left in the middle");
}

/// Rows of ended jobs that are kept no longer.
pub(crate) fn jobs_pruned(rows: usize) {
    tracing::debug!(rows, "ended jobs forgotten");
}
