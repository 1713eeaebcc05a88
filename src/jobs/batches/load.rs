//! Makes jobs of a batch's lines, a bite at a time. How far it has come is written down in the same transaction as the jobs, so
//! that a process which is killed anywhere goes on with the very next line.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::lines::{self, Line};
use crate::messages::{BatchId, Priority};
use crate::providers::batch_line::BatchLine;
use crate::store::batches::{BatchRecord, BatchStatus};
use crate::store::jobs::{self, NewJob};
use crate::store::{Changes, Ms, StoreError};

/// Lines in one bite.
const BITE_LINES: usize = 500;

/// And their bytes, but for the last line's.
const BITE_BYTES: u64 = 1024 * 1024;

/// The queues that have more jobs now.
pub(super) type Queues = BTreeSet<Arc<str>>;

/// Makes jobs of the next lines of the batch `id`, if it still makes any.
pub(super) fn load(store: &mut dyn Changes, id: BatchId, now: Ms, max_line_bytes: usize) -> Result<Queues, StoreError> {
    let mut queues = Queues::new();
    let Some(mut batch) = store.batch(id)? else { return Ok(queues) };
    if batch.status != BatchStatus::InProgress || batch.taken >= batch.total {
        return Ok(queues);
    }
    let lines = lines::read(store, batch.input, batch.taken_bytes, BITE_LINES, BITE_BYTES, max_line_bytes)?;
    for line in &lines {
        let job = job_of(&batch, line, now);
        store.submit(&job)?;
        batch.taken += 1;
        batch.taken_bytes = line.end;
        queues.insert(job.queue);
    }
    if lines.is_empty() {
        // The file was whole when it was looked through, and is kept until the batch ends: this is not to be.
        batch.total = batch.taken;
    }
    store.keep_batch(&batch)?;
    Ok(queues)
}

/// The job that is the batch's next line.
fn job_of(batch: &BatchRecord, line: &Line, now: Ms) -> NewJob {
    let text = line.text.clone().unwrap_or_default();
    // It was in order when the file was looked through. Should a later release read it otherwise, it fails by itself.
    let (custom_id, queue, body) = match BatchLine::read(&text) {
        Ok(BatchLine { custom_id, request }) => {
            (custom_id, request.model().unwrap_or_default().into(), request.body().bytes().clone())
        }
        Err(fault) => (fault.custom_id.unwrap_or_default(), "".into(), text),
    };
    NewJob {
        tenant: batch.tenant.clone(),
        key: None,
        digest: [0; 32],
        endpoint: batch.endpoint,
        queue,
        priority: Priority::Low,
        at_most_once: false,
        webhook: None,
        created_at: now,
        expires_at: batch.expires_at,
        body,
        line: Some(jobs::Line { batch: batch.id, number: batch.taken, custom_id: custom_id.into() }),
    }
}
