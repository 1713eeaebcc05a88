//! Batches, and their lines among the jobs.

use bytes::Bytes;
use rusqlite::{Row, named_params, params};

use super::codes::{
    batch_id_of, batch_status_of, endpoint_of, file_id_of, id_of, status_of, tenant, tenant_of, usage, usage_of,
};
use super::{Sqlite, limit};
use crate::messages::{BatchId, FileId, JobId, JobStatus};
use crate::store::batches::{
    BatchChanges, BatchFilter, BatchRecord, BatchRecords, BatchTimes, Counts, Created, EndedLine, NewBatch,
};
use crate::store::{Ms, StoreError};

fn record(row: &Row<'_>) -> rusqlite::Result<BatchRecord> {
    let bytes = |at: &str| Ok::<_, rusqlite::Error>(row.get::<_, Option<Vec<u8>>>(at)?.map(Bytes::from));
    let length = |at: &str| Ok::<_, rusqlite::Error>(row.get::<_, i64>(at)?.unsigned_abs());
    let file = |at: &str| match row.get::<_, Option<i64>>(at)? {
        Some(_) => file_id_of(row, at).map(Some),
        None => Ok(None),
    };
    Ok(BatchRecord {
        id: batch_id_of(row, "id")?,
        tenant: tenant_of(row, "tenant")?,
        input: file_id_of(row, "input")?,
        endpoint: endpoint_of(row, "endpoint")?,
        metadata: bytes("metadata")?,
        created_at: row.get("created_at")?,
        expires_at: row.get("expires_at")?,
        keep_files_for: row.get("keep_files_for")?,
        status: batch_status_of(row, "status")?,
        times: BatchTimes {
            in_progress: row.get("in_progress_at")?,
            finalizing: row.get("finalizing_at")?,
            cancelling: row.get("cancelling_at")?,
            ended: row.get("ended_at")?,
        },
        model: row.get("model")?,
        errors: bytes("errors")?,
        total: row.get("total")?,
        taken: row.get("taken")?,
        taken_bytes: length("taken_bytes")?,
        written: row.get("written")?,
        has_expired: row.get("has_expired")?,
        output: file("output")?,
        output_bytes: length("output_bytes")?,
        error: file("error")?,
        error_bytes: length("error_bytes")?,
        counts: Counts {
            completed: row.get("completed")?,
            failed: row.get("failed")?,
            usage: usage_of(row)?.unwrap_or_default(),
        },
    })
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

impl BatchRecords for Sqlite {
    fn batch(&self, id: BatchId) -> Result<Option<BatchRecord>, StoreError> {
        self.one("SELECT * FROM batch WHERE id = ?1", [id.number()], record)
    }

    fn batches(&self, filter: &BatchFilter) -> Result<Vec<BatchRecord>, StoreError> {
        let before = filter.after.map_or(i64::MAX, BatchId::number);
        self.all(
            "SELECT * FROM batch WHERE tenant = ?1 AND id < ?2 ORDER BY id DESC LIMIT ?3",
            params![tenant(filter.tenant.as_deref()), before, limit(filter.limit)],
            record,
        )
    }

    fn open_batches(&self) -> Result<Vec<BatchRecord>, StoreError> {
        self.all("SELECT * FROM batch WHERE ended_at IS NULL ORDER BY id", (), record)
    }
}

impl BatchChanges for Sqlite {
    fn create_batch(&mut self, batch: &NewBatch) -> Result<Created, StoreError> {
        self.accepts()?;
        self.tell(batch.created_at);
        let of = tenant(batch.tenant.as_deref());
        if let Some(key) = &batch.key {
            let known = self.one(
                "SELECT id, digest FROM batch WHERE tenant = ?1 AND key = ?2 AND key IS NOT NULL",
                params![of, key],
                |row| Ok((batch_id_of(row, "id")?, row.get_ref("digest")?.as_blob_or_null()? == Some(&batch.digest))),
            )?;
            match known {
                Some((id, true)) => return Ok(Created::Same(id)),
                Some((id, false)) => return Ok(Created::Conflict(id)),
                None => {}
            }
        }
        self.change(
            "INSERT INTO batch (tenant, key, digest, input, endpoint, metadata, created_at, expires_at, keep_files_for)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            params![
                of,
                batch.key,
                batch.key.as_ref().map(|_| &batch.digest[..]),
                batch.input.number(),
                batch.endpoint.path(),
                batch.metadata.as_deref(),
                batch.created_at,
                batch.expires_at,
                batch.keep_files_for,
            ],
        )?;
        Ok(Created::New(BatchId::of(self.db.last_insert_rowid())))
    }

    fn keep_batch(&mut self, batch: &BatchRecord) -> Result<(), StoreError> {
        self.change(
            "UPDATE batch SET status = :status, in_progress_at = :in_progress, finalizing_at = :finalizing,
                 cancelling_at = :cancelling, ended_at = :ended, model = :model, errors = :errors, total = :total,
                 taken = :taken, taken_bytes = :taken_bytes, written = :written, has_expired = :has_expired,
                 output = :output, output_bytes = :output_bytes, error = :error, error_bytes = :error_bytes
             WHERE id = :id",
            named_params! {
                ":id": batch.id.number(), ":status": batch.status.name(), ":in_progress": batch.times.in_progress,
                ":finalizing": batch.times.finalizing, ":cancelling": batch.times.cancelling,
                ":ended": batch.times.ended, ":model": batch.model, ":errors": batch.errors.as_deref(),
                ":total": batch.total, ":taken": batch.taken, ":taken_bytes": signed(batch.taken_bytes),
                ":written": batch.written, ":has_expired": batch.has_expired,
                ":output": batch.output.map(FileId::number), ":output_bytes": signed(batch.output_bytes),
                ":error": batch.error.map(FileId::number), ":error_bytes": signed(batch.error_bytes),
            },
        )
        .map(drop)
    }

    fn count_lines(&mut self, id: BatchId, more: &Counts) -> Result<(), StoreError> {
        self.count(id, more)
    }

    fn take_lines(&mut self, id: BatchId, at_most: usize, max_bytes: usize) -> Result<Vec<EndedLine>, StoreError> {
        let lines = self.all(
            "SELECT id, line, custom_id, job.status AS status, length(result.body) AS bytes
             FROM job LEFT JOIN result ON result.job = job.id
             WHERE batch = ?1 AND batch IS NOT NULL ORDER BY line LIMIT ?2",
            params![id.number(), limit(at_most)],
            |row| {
                let line = EndedLine {
                    job: id_of(row, "id")?,
                    number: row.get("line")?,
                    custom_id: row.get("custom_id")?,
                    status: status_of(row, "status")?,
                    end: None,
                };
                Ok((line, row.get::<_, Option<i64>>("bytes")?.unwrap_or_default().unsigned_abs()))
            },
        )?;
        let (mut taken, mut bytes) = (Vec::new(), 0);
        for (line, length) in lines {
            bytes += if taken.is_empty() { 0 } else { length };
            if !line.status.is_end() || bytes > max_bytes as u64 {
                break;
            }
            taken.push(self.take_line(line)?);
        }
        Ok(taken)
    }

    fn cancel_lines(&mut self, id: BatchId, at: Ms, at_most: usize) -> Result<Vec<(JobId, bool)>, StoreError> {
        self.tell(at);
        let waiting = self.all(
            "SELECT id, owner > 0 AS is_claimed FROM job
             WHERE batch = ?1 AND batch IS NOT NULL AND owner IS NOT NULL AND status <> 'running'
             ORDER BY line LIMIT ?2",
            params![id.number(), limit(at_most)],
            |row| Ok((id_of(row, "id")?, row.get("is_claimed")?)),
        )?;
        for (job, _) in &waiting {
            self.end_as(*job, JobStatus::Cancelled, at)?;
        }
        Ok(waiting)
    }

    fn prune_batches(&mut self, ended_before: Ms, at_most: usize) -> Result<usize, StoreError> {
        self.change(
            "DELETE FROM batch WHERE id IN (
                 SELECT id FROM batch
                 WHERE ended_at < ?1
                     AND NOT EXISTS (SELECT 1 FROM file WHERE file.id = batch.output AND state <> 'hidden')
                     AND NOT EXISTS (SELECT 1 FROM file WHERE file.id = batch.error AND state <> 'hidden')
                 ORDER BY ended_at LIMIT ?2)",
            params![ended_before, limit(at_most)],
        )
    }
}

impl Sqlite {
    /// Counts lines that have ended.
    pub(super) fn count(&self, id: BatchId, more: &Counts) -> Result<(), StoreError> {
        let [input, cached, output, _] = usage(Some(more.usage));
        self.change(
            "UPDATE batch SET completed = completed + ?2, failed = failed + ?3, input_tokens = input_tokens + ?4,
                 cached_input_tokens = cached_input_tokens + ?5, output_tokens = output_tokens + ?6,
                 total_tokens = total_tokens + ?7
             WHERE id = ?1",
            params![id.number(), more.completed, more.failed, input, cached, output, signed(more.usage.total())],
        )
        .map(drop)
    }

    /// Removes a line that has ended, and reads what it ended with. A damaged end is an end without a word.
    fn take_line(&self, line: EndedLine) -> Result<EndedLine, StoreError> {
        let end = match self.end_of(line.job) {
            Err(StoreError::Corrupt(_)) => None,
            end => end?,
        };
        let job = line.job.number();
        self.change("DELETE FROM result WHERE job = ?1", [job])?;
        self.change("DELETE FROM payload WHERE job = ?1", [job])?;
        self.change("DELETE FROM job WHERE id = ?1", [job])?;
        Ok(EndedLine { end, ..line })
    }
}
