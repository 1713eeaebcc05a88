//! Writes what came of a batch's lines to its files, a bite at a time and in the lines' order. A line ceases to be a job in the
//! transaction that writes it, so that a process which is killed anywhere goes on with the very next one.

use bytes::Bytes;

use super::lines;
use crate::messages::{BatchId, FileId, JobStatus};
use crate::providers::batch_line::{self, BatchLine};
use crate::store::batches::{BatchRecord, BatchStatus, Counts, EndedLine};
use crate::store::files::{NewFile, Purpose, Seal};
use crate::store::jobs::JobEnd;
use crate::store::{Changes, Ms, StoreError};

/// Lines in one bite.
const BITE_LINES: usize = 500;

/// And the bytes of what came of them, but for the last one's.
const BITE_BYTES: usize = 1024 * 1024;

/// Writes what came of the next lines of the batch `id`, all of which have their ends or will have no chance any more; with the
/// last one the batch ends. `true` when it has.
pub(super) fn write(
    store: &mut dyn Changes,
    id: BatchId,
    now: Ms,
    keep_results_for: Ms,
    max_line_bytes: usize,
) -> Result<bool, StoreError> {
    let Some(mut batch) = store.batch(id)? else { return Ok(true) };
    if batch.status.is_end() {
        return Ok(true);
    }
    let mut bite = Bite::default();
    if batch.written < batch.taken {
        for line in store.take_lines(id, BITE_LINES, BITE_BYTES)? {
            bite.ended(&batch, line);
            batch.written += 1;
        }
    } else if batch.taken < batch.total {
        let (input, at) = (batch.input, batch.taken_bytes);
        let lines = match lines::read(store, input, at, BITE_LINES, BITE_BYTES as u64, max_line_bytes) {
            // Nobody can say any more which lines they were.
            Err(StoreError::Corrupt(_)) => Vec::new(),
            lines => lines?,
        };
        for line in &lines {
            bite.without_a_chance(&batch, line);
            (batch.taken, batch.written, batch.taken_bytes) = (batch.taken + 1, batch.written + 1, line.end);
        }
        store.count_lines(id, &Counts { failed: bite.without_a_chance, ..Counts::default() })?;
    }
    let is_stuck = bite.lines == 0;
    batch.has_expired |= bite.has_expired;
    bite.add(store, &mut batch)?;
    // What is not there cannot be written, and a batch that never ends would be worse.
    let is_over = batch.written >= batch.total || is_stuck;
    if is_over {
        end(store, &mut batch, now, keep_results_for)?;
    }
    store.keep_batch(&batch)?;
    Ok(is_over)
}

/// What is added to the two files in one transaction.
#[derive(Default)]
struct Bite {
    output: Vec<u8>,
    error: Vec<u8>,
    lines: u32,
    without_a_chance: u32,
    has_expired: bool,
}

impl Bite {
    /// A line that was a job.
    fn ended(&mut self, batch: &BatchRecord, line: EndedLine) {
        let EndedLine { job, number, custom_id, status, end } = line;
        let id = line_id(batch.id, number);
        self.lines += 1;
        match (status, end) {
            (JobStatus::Succeeded, Some(JobEnd::Result { status, body })) => {
                self.output.extend(batch_line::answered(&id, &custom_id, &job.to_string(), status, &body));
            }
            (JobStatus::Expired, _) => {
                self.has_expired = true;
                self.error.extend(EXPIRED.line(&id, Some(&custom_id)));
            }
            (JobStatus::Cancelled, _) => self.error.extend(CANCELLED.line(&id, Some(&custom_id))),
            (_, Some(JobEnd::Result { status, body })) => {
                self.error.extend(batch_line::answered(&id, &custom_id, &job.to_string(), status, &body));
            }
            (_, Some(JobEnd::Error { error, .. })) => {
                self.error.extend(batch_line::failed(&id, Some(&custom_id), &error));
            }
            (_, None) => self.error.extend(LOST.line(&id, Some(&custom_id))),
        }
    }

    /// A line that never was one.
    fn without_a_chance(&mut self, batch: &BatchRecord, line: &lines::Line) {
        let text = line.text.clone().unwrap_or_default();
        let custom_id = match BatchLine::read(&text) {
            Ok(line) => Some(line.custom_id),
            Err(fault) => fault.custom_id,
        };
        let said = if batch.times.cancelling.is_some() { &CANCELLED } else { &EXPIRED };
        self.error.extend(said.line(&line_id(batch.id, batch.taken), custom_id.as_deref()));
        self.lines += 1;
        self.without_a_chance += 1;
        self.has_expired |= batch.times.cancelling.is_none();
    }

    fn add(self, store: &mut dyn Changes, batch: &mut BatchRecord) -> Result<(), StoreError> {
        let tenant = &batch.tenant;
        let mut add = |file: &mut Option<FileId>, at: &mut u64, text: Vec<u8>| -> Result<(), StoreError> {
            if text.is_empty() {
                return Ok(());
            }
            let id = match *file {
                Some(id) => id,
                None => {
                    let new = NewFile { tenant: tenant.clone(), purpose: Purpose::BatchOutput, owner: None };
                    *file.insert(store.begin_file(&new)?)
                }
            };
            let length = text.len() as u64;
            if store.grow_file(id, *at, &Bytes::from(text))? {
                *at += length;
            }
            Ok(())
        };
        add(&mut batch.output, &mut batch.output_bytes, self.output)?;
        add(&mut batch.error, &mut batch.error_bytes, self.error)
    }
}

/// The end of a batch: its files are there for its tenant.
fn end(store: &mut dyn Changes, batch: &mut BatchRecord, now: Ms, keep_results_for: Ms) -> Result<(), StoreError> {
    let expires_at = Some(now.saturating_add(batch.keep_files_for.unwrap_or(keep_results_for)));
    for (file, what) in [(batch.output, "output"), (batch.error, "error")] {
        if let Some(file) = file {
            let name = format!("{}_{what}.jsonl", batch.id).into();
            store.seal_file(&Seal { file, name, created_at: now, expires_at })?;
        }
    }
    batch.times.ended = Some(now);
    batch.status = match batch.status {
        BatchStatus::Cancelling => BatchStatus::Cancelled,
        _ if batch.has_expired => BatchStatus::Expired,
        _ => BatchStatus::Completed,
    };
    Ok(())
}

/// What is said of a line that was not called to its end.
struct Said {
    code: &'static str,
    message: &'static str,
}

const EXPIRED: Said =
    Said { code: "batch_expired", message: "This request could not be executed before the completion window expired." };

const CANCELLED: Said =
    Said { code: "batch_cancelled", message: "This request was not executed: the batch was cancelled before." };

/// A job that ended without a word is not to be.
const LOST: Said = Said { code: "server_error", message: "What came of this request is not known." };

impl Said {
    fn line(&self, id: &str, custom_id: Option<&str>) -> Vec<u8> {
        let error = serde_json::json!({"code": self.code, "message": self.message}).to_string();
        batch_line::failed(id, custom_id, error.as_bytes())
    }
}

/// An output line's own name, the same however often it is written.
fn line_id(batch: BatchId, number: u32) -> String {
    batch_line::line_id(u128::from(batch.number().unsigned_abs()) << 64 | u128::from(number))
}
