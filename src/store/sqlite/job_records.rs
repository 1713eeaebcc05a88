//! Reading jobs.

use std::cmp::Reverse;

use bytes::Bytes;
use rusqlite::{Row, params};

use super::codes::{endpoint_of, id_of, priority_of, status_of, tenant, tenant_of, usage_of};
use super::jobs::head_of_end;
use super::{Sealed, Sqlite, limit};
use crate::messages::{JobId, JobStatus};
use crate::store::jobs::{AttemptRecord, JobEnd, JobFilter, JobRecord, JobRecords, KeptAttempt, QueueDepth};
use crate::store::{Ms, StoreError};

/// The columns of [`record`].
macro_rules! columns {
    () => {
        "id, tenant, key, endpoint, queue, priority, at_most_once, webhook, status, attempts, created_at, started_at,
         finished_at, expires_at, due, input_tokens, cached_input_tokens, output_tokens, total_tokens, cost_usd"
    };
}

fn record(row: &Row<'_>) -> rusqlite::Result<JobRecord> {
    Ok(JobRecord {
        id: id_of(row, "id")?,
        tenant: tenant_of(row, "tenant")?,
        key: row.get("key")?,
        endpoint: endpoint_of(row, "endpoint")?,
        queue: row.get("queue")?,
        priority: priority_of(row, "priority")?,
        at_most_once: row.get("at_most_once")?,
        webhook: row.get("webhook")?,
        status: status_of(row, "status")?,
        attempts: row.get("attempts")?,
        created_at: row.get("created_at")?,
        started_at: row.get("started_at")?,
        finished_at: row.get("finished_at")?,
        expires_at: row.get("expires_at")?,
        due: row.get("due")?,
        usage: usage_of(row)?,
        cost_usd: row.get("cost_usd")?,
        end: None,
    })
}

impl Sqlite {
    pub(super) fn end_of(&self, id: JobId) -> Result<Option<JobEnd>, StoreError> {
        let sql = "SELECT is_error, status, crc, body FROM result WHERE job = ?1";
        let found = self.one(sql, [id.number()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
        let Some((is_error, status, crc, body)): Option<(bool, u16, u32, Vec<u8>)> = found else { return Ok(None) };
        Sealed { id: id.number(), parts: [&head_of_end(is_error, status), &body] }.check(crc, "result")?;
        let body = Bytes::from(body);
        Ok(Some(if is_error { JobEnd::Error { status, error: body } } else { JobEnd::Result { status, body } }))
    }
}

impl JobRecords for Sqlite {
    fn job(&self, id: JobId, of: Option<&str>) -> Result<Option<JobRecord>, StoreError> {
        Ok(self.job_of_anyone(id)?.filter(|job| job.tenant.as_deref() == of))
    }

    fn job_of_anyone(&self, id: JobId) -> Result<Option<JobRecord>, StoreError> {
        let sql = concat!("SELECT ", columns!(), " FROM job WHERE id = ?1");
        let Some(mut job) = self.one(sql, params![id.number()], record)? else { return Ok(None) };
        if job.status.is_end() {
            job.end = self.end_of(id)?;
        }
        if matches!(job.status, JobStatus::Succeeded | JobStatus::Failed) && job.end.is_none() {
            return Err(StoreError::Corrupt(format!("the result of {id} is gone")));
        }
        Ok(Some(job))
    }

    fn jobs(&self, filter: &JobFilter) -> Result<Vec<JobRecord>, StoreError> {
        let before = filter.after.map_or(i64::MAX, JobId::number);
        let statuses = JobStatus::ALL.into_iter().filter(|one| filter.status.is_none_or(|wanted| wanted == *one));
        let mut found = Vec::new();
        for status in statuses {
            found.extend(self.all(
                concat!(
                    "SELECT ",
                    columns!(),
                    " FROM job WHERE batch IS NULL AND tenant = ?1 AND status = ?2 AND id < ?3 ORDER BY id DESC LIMIT ?4"
                ),
                params![tenant(filter.tenant.as_deref()), status.name(), before, limit(filter.limit)],
                record,
            )?);
        }
        found.sort_unstable_by_key(|job| Reverse(job.id));
        found.truncate(filter.limit);
        Ok(found)
    }

    fn body(&self, id: JobId) -> Result<Option<Bytes>, StoreError> {
        let sql = "SELECT crc, body FROM payload WHERE job = ?1";
        let found: Option<(u32, Vec<u8>)> = self.one(sql, [id.number()], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let Some((crc, body)) = found else { return Ok(None) };
        Sealed { id: id.number(), parts: [&body] }.check(crc, "payload")?;
        Ok(Some(body.into()))
    }

    fn attempts(&self, id: JobId) -> Result<Vec<KeptAttempt>, StoreError> {
        self.all("SELECT * FROM attempt WHERE job = ?1 ORDER BY number", [id.number()], attempt)
    }

    fn queues(&self) -> Result<Vec<QueueDepth>, StoreError> {
        self.all(
            "SELECT queue, count(*) AS ready, min(due) AS next_due FROM job WHERE owner = 0 GROUP BY queue ORDER BY queue",
            (),
            |row| {
                let ready: i64 = row.get("ready")?;
                Ok(QueueDepth { queue: row.get("queue")?, ready: ready.unsigned_abs(), next_due: row.get("next_due")? })
            },
        )
    }

    fn next_expiry(&self) -> Result<Option<Ms>, StoreError> {
        self.one("SELECT expires_at FROM job WHERE owner = 0 ORDER BY expires_at LIMIT 1", (), |row| row.get(0))
    }
}

fn attempt(row: &Row<'_>) -> rusqlite::Result<KeptAttempt> {
    let ended_at: Option<Ms> = row.get("ended_at")?;
    let record = match ended_at {
        None => None,
        Some(ended_at) => Some(AttemptRecord {
            ended_at,
            status: row.get("status")?,
            failure: row.get("failure")?,
            maybe_billed: row.get("maybe_billed")?,
            usage: usage_of(row)?,
            cost_usd: row.get("cost_usd")?,
        }),
    };
    Ok(KeptAttempt {
        number: row.get("number")?,
        upstream: row.get("upstream")?,
        key: row.get("key")?,
        started_at: row.get("started_at")?,
        record,
    })
}
