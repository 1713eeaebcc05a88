//! Changing jobs.

use std::sync::Arc;

use bytes::Bytes;
use rusqlite::{Row, named_params, params};

use super::codes::{endpoint_of, id_of, priority, status_of, tenant, tenant_of, usage};
use super::{Sealed, Sqlite, limit};
use crate::messages::{BatchId, JobId, JobStatus, Priority, Usage};
use crate::store::batches::Counts;
use crate::store::jobs::{
    Again, AttemptRecord, Cancelled, Claim, Claimed, ClaimedJob, Finish, JobChanges, JobEnd, LOST, NewJob, PRIORITIES,
    PutBack, Retention, Start, Submitted,
};
use crate::store::planted::{self, Point};
use crate::store::{Ms, Owner, StoreError};
use crate::telemetry::store as events;

/// What a job's end is made of, whoever brings it.
struct Ending<'a> {
    job: JobId,
    /// In whose hands it must be; nothing where that does not matter.
    owner: Option<Owner>,
    status: JobStatus,
    at: Ms,
    end: Option<&'a JobEnd>,
    usage: Option<Usage>,
    cost_usd: Option<f64>,
}

impl Ending<'_> {
    /// An end that brings nothing, whoever has the job.
    fn told(job: JobId, status: JobStatus, at: Ms) -> Self {
        Self { job, owner: None, status, at, end: None, usage: None, cost_usd: None }
    }
}

impl Sqlite {
    /// The one way to an end. `false`: it has one, or is in other hands.
    fn end(&self, ending: &Ending<'_>) -> Result<bool, StoreError> {
        let Ending { job, owner, status, at, end, usage: used, cost_usd } = ending;
        debug_assert!(status.is_end());
        let [input, cached, output, total] = usage(*used);
        let ended = self.one(
            "UPDATE job SET owner = NULL, status = :status, finished_at = :at, input_tokens = :input,
                 cached_input_tokens = :cached, output_tokens = :output, total_tokens = :total, cost_usd = :cost_usd
             WHERE id = :id AND owner IS NOT NULL AND (:owner IS NULL OR owner = :owner)
             RETURNING webhook, batch",
            named_params! {
                ":id": job.number(), ":owner": owner.map(|owner| owner.0), ":status": status.name(), ":at": at,
                ":input": input, ":cached": cached, ":output": output, ":total": total, ":cost_usd": cost_usd,
            },
            |row| Ok((row.get::<_, Option<Arc<str>>>("webhook")?, row.get::<_, Option<i64>>("batch")?)),
        )?;
        let Some((webhook, batch)) = ended else { return Ok(false) };
        planted::reach(Point::InFinish);
        if let Some(url) = webhook {
            self.change("INSERT INTO outbox (job, url, due) VALUES (?1, ?2, ?3)", params![job.number(), url, at])?;
        }
        if let Some(batch) = batch {
            self.count(BatchId::of(batch.max(0)), &Counts::of_line(*status, used.as_ref()))?;
        }
        if let Some(end) = end {
            let (is_error, status, body) = match end {
                JobEnd::Result { status, body } => (false, *status, body),
                JobEnd::Error { status, error } => (true, *status, error),
            };
            let crc = self.seal(&Sealed { id: job.number(), parts: [&head_of_end(is_error, status), body] });
            self.change(
                "INSERT INTO result (job, is_error, status, crc, body) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![job.number(), is_error, status, crc, &body[..]],
            )?;
        }
        Ok(true)
    }

    /// Ends a job without an answer, whoever has it.
    pub(super) fn end_as(&self, job: JobId, status: JobStatus, at: Ms) -> Result<bool, StoreError> {
        self.end(&Ending::told(job, status, at))
    }

    /// Writes down what an attempt came to, if its record is still kept.
    fn write_down(&self, job: JobId, number: u32, record: &AttemptRecord) -> Result<(), StoreError> {
        let [input, cached, output, total] = usage(record.usage);
        let written = self.change(
            "UPDATE attempt SET ended_at = ?3, status = ?4, failure = ?5, maybe_billed = ?6, input_tokens = ?7,
                 cached_input_tokens = ?8, output_tokens = ?9, total_tokens = ?10, cost_usd = ?11
             WHERE job = ?1 AND number = ?2",
            params![
                job.number(),
                number,
                record.ended_at,
                record.status,
                record.failure,
                record.maybe_billed,
                input,
                cached,
                output,
                total,
                record.cost_usd
            ],
        );
        written.map(drop)
    }

    /// Takes ready jobs of a queue and priority that are due, with their bodies, until the claim has what it may have.
    fn take(&self, claim: &Claim, of: Priority, taken: &mut Taken) -> Result<(), StoreError> {
        let mut statement = self
            .statement(
                "SELECT id, tenant, endpoint, at_most_once, attempts, counted, due, expires_at, crc, body
                 FROM job LEFT JOIN payload ON payload.job = job.id
                 WHERE owner = 0 AND queue = ?1 AND priority = ?2 AND due <= ?3
                 ORDER BY due, id LIMIT ?4",
            )
            .map_err(|error| self.failed(error))?;
        let left = limit(claim.limit.saturating_sub(taken.jobs.len()));
        let mut rows =
            statement.query(params![claim.queue, priority(of), claim.now, left]).map_err(|error| self.failed(error))?;
        while let Some(row) = rows.next().map_err(|error| self.failed(error))? {
            let (job, is_whole) = due_job(row, of).map_err(|error| self.failed(error))?;
            taken.bytes += if taken.jobs.is_empty() { 0 } else { job.body.len() };
            if taken.bytes > claim.max_bytes {
                taken.is_full = true;
                break;
            }
            taken.jobs.push((job, is_whole));
        }
        Ok(())
    }

    /// When the next job of the queue is due.
    fn next_due(&self, queue: &str) -> Result<Option<Ms>, StoreError> {
        let mut next: Option<Ms> = None;
        for of in PRIORITIES {
            let first = self.one(
                "SELECT due FROM job WHERE owner = 0 AND queue = ?1 AND priority = ?2 ORDER BY due LIMIT 1",
                params![queue, priority(of)],
                |row| row.get(0),
            )?;
            next = next.into_iter().chain(first).min();
        }
        Ok(next)
    }

    /// Nothing can be made of a request that is damaged: it must not keep the others of its queue waiting.
    fn give_up(&self, job: JobId, at: Ms) -> Result<(), StoreError> {
        events::row_damaged("payload", job.number());
        let error = br#"{"message":"the stored request is damaged","type":"server_error","param":null,"code":null}"#;
        let end = JobEnd::Error { status: 500, error: Bytes::from_static(error) };
        let end = Some(&end);
        let failed = Ending { job, owner: None, status: JobStatus::Failed, at, end, usage: None, cost_usd: None };
        self.end(&failed).map(drop)
    }

    fn removed(&self, sql: &str, before: Ms, at_most: usize) -> Result<usize, StoreError> {
        let removed = self.all(sql, params![before, limit(at_most)], |row| row.get::<_, i64>(0))?;
        planted::reach(Point::InPrune);
        for job in &removed {
            self.change("DELETE FROM payload WHERE job = ?1", [job])?;
        }
        Ok(removed.len())
    }
}

/// What a claim has so far, and whether each body is whole.
#[derive(Default)]
struct Taken {
    jobs: Vec<(ClaimedJob, bool)>,
    /// Of all bodies but the first.
    bytes: usize,
    is_full: bool,
}

fn due_job(row: &Row<'_>, priority: Priority) -> rusqlite::Result<(ClaimedJob, bool)> {
    let id = id_of(row, "id")?;
    let body = row.get_ref("body")?.as_blob_or_null()?.unwrap_or_default();
    let is_whole = Some(Sealed { id: id.number(), parts: [body] }.crc()) == row.get("crc")?;
    let job = ClaimedJob {
        id,
        tenant: tenant_of(row, "tenant")?,
        endpoint: endpoint_of(row, "endpoint")?,
        priority,
        at_most_once: row.get("at_most_once")?,
        attempts: row.get("attempts")?,
        counted: row.get("counted")?,
        due: row.get("due")?,
        expires_at: row.get("expires_at")?,
        body: Bytes::copy_from_slice(body),
    };
    Ok((job, is_whole))
}

/// What is sealed with the body of a job's end.
pub(super) fn head_of_end(is_error: bool, status: u16) -> [u8; 3] {
    let [high, low] = status.to_be_bytes();
    [u8::from(is_error), high, low]
}

impl JobChanges for Sqlite {
    fn submit(&mut self, job: &NewJob) -> Result<Submitted, StoreError> {
        self.accepts()?;
        self.tell(job.created_at);
        if let Some(key) = &job.key {
            let known = self.one(
                "SELECT id, digest FROM job WHERE tenant = ?1 AND key = ?2 AND key IS NOT NULL",
                params![tenant(job.tenant.as_deref()), key],
                |row| Ok((id_of(row, "id")?, row.get_ref("digest")?.as_blob_or_null()? == Some(&job.digest))),
            )?;
            match known {
                Some((id, true)) => return Ok(Submitted::Same(id)),
                Some((id, false)) => return Ok(Submitted::Conflict(id)),
                None => {}
            }
        }
        let line = job.line.as_ref();
        self.change(
            "INSERT INTO job (queue, priority, due, at_most_once, endpoint, tenant, key, digest, webhook, created_at,
                 expires_at, batch, line, custom_id)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?3, ?10, ?11, ?12, ?13)",
            params![
                job.queue,
                priority(job.priority),
                job.created_at,
                job.at_most_once,
                job.endpoint.path(),
                tenant(job.tenant.as_deref()),
                job.key,
                job.key.as_ref().map(|_| &job.digest[..]),
                job.webhook,
                job.expires_at,
                line.map(|line| line.batch.number()),
                line.map(|line| line.number),
                line.map(|line| &*line.custom_id),
            ],
        )?;
        let id = self.db.last_insert_rowid();
        let crc = self.seal(&Sealed { id, parts: [&job.body] });
        self.change("INSERT INTO payload (job, crc, body) VALUES (?1, ?2, ?3)", params![id, crc, &job.body[..]])?;
        Ok(Submitted::New(JobId::of(id)))
    }

    fn claim(&mut self, claim: &Claim) -> Result<Claimed, StoreError> {
        self.tell(claim.now);
        let mut taken = Taken::default();
        for of in PRIORITIES {
            if !taken.is_full && taken.jobs.len() < claim.limit {
                self.take(claim, of, &mut taken)?;
            }
        }
        let mut claimed = Claimed::default();
        for (job, is_whole) in taken.jobs {
            if is_whole {
                self.change("UPDATE job SET owner = ?2 WHERE id = ?1", [job.id.number(), claim.owner.0])?;
                claimed.jobs.push(job);
            } else {
                self.give_up(job.id, claim.now)?;
            }
            planted::reach(Point::InClaim);
        }
        claimed.next_due = self.next_due(&claim.queue)?;
        Ok(claimed)
    }

    fn start(&mut self, start: &Start) -> Result<bool, StoreError> {
        self.tell(start.at);
        let started = self.change(
            "UPDATE job SET status = 'running', attempts = ?3, started_at = coalesce(started_at, ?4)
             WHERE id = ?1 AND owner = ?2 AND status <> 'running' AND attempts < ?3",
            params![start.job.number(), start.owner.0, start.attempt, start.at],
        )?;
        if started == 0 {
            return Ok(false);
        }
        self.change(
            "INSERT INTO attempt (job, number, upstream, key, started_at) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![start.job.number(), start.attempt, start.upstream, start.key, start.at],
        )?;
        Ok(true)
    }

    fn again(&mut self, again: &Again) -> Result<bool, StoreError> {
        self.tell(again.record.ended_at);
        self.write_down(again.job, again.attempt, &again.record)?;
        let changed = self.change(
            "UPDATE job SET status = 'retrying', counted = ?3, due = ?4
             WHERE id = ?1 AND owner = ?2 AND status = 'running'",
            params![again.job.number(), again.owner.0, again.counted, again.due],
        )?;
        Ok(changed > 0)
    }

    fn put_back(&mut self, back: &PutBack) -> Result<bool, StoreError> {
        let changed = self.change(
            "UPDATE job SET owner = 0, due = coalesce(?3, due) WHERE id = ?1 AND owner = ?2 AND status <> 'running'",
            params![back.job.number(), back.owner.0, back.due],
        )?;
        Ok(changed > 0)
    }

    fn finish(&mut self, finish: &Finish) -> Result<bool, StoreError> {
        let Finish { owner, job, attempt, status, at, end, usage, cost_usd } = finish;
        self.tell(*at);
        if let Some((number, record)) = attempt {
            self.write_down(*job, *number, record)?;
        }
        self.end(&Ending {
            job: *job,
            owner: Some(*owner),
            status: *status,
            at: *at,
            end: Some(end),
            usage: *usage,
            cost_usd: *cost_usd,
        })
    }

    fn cancel(&mut self, id: JobId, of: Option<&str>, at: Ms) -> Result<Cancelled, StoreError> {
        self.tell(at);
        let found = self.one(
            "SELECT owner, status FROM job WHERE id = ?1 AND tenant = ?2",
            params![id.number(), tenant(of)],
            |row| Ok((row.get::<_, Option<i64>>("owner")?, status_of(row, "status")?)),
        )?;
        let owner = match found {
            None => return Ok(Cancelled::NoSuch),
            Some((None, status)) => return Ok(Cancelled::Ended(status)),
            Some((Some(owner), _)) => owner,
        };
        self.end_as(id, JobStatus::Cancelled, at)?;
        Ok(Cancelled::Now { was_claimed: owner > 0 })
    }

    fn expire(&mut self, now: Ms, at_most: usize) -> Result<Vec<JobId>, StoreError> {
        self.tell(now);
        let expired = self.all(
            "SELECT id FROM job WHERE owner = 0 AND expires_at <= ?1 ORDER BY expires_at, id LIMIT ?2",
            params![now, limit(at_most)],
            |row| id_of(row, "id"),
        )?;
        for id in &expired {
            self.end_as(*id, JobStatus::Expired, now)?;
        }
        Ok(expired)
    }

    fn rescue(&mut self, owner: Owner, now: Ms, at_most: usize) -> Result<usize, StoreError> {
        self.tell(now);
        let held = self.all(
            "SELECT id, status = 'running' AS was_running, at_most_once, attempts FROM job
             WHERE owner > 0 AND owner < ?1 ORDER BY owner, id LIMIT ?2",
            params![owner.0, limit(at_most)],
            |row| Ok((id_of(row, "id")?, row.get("was_running")?, row.get("at_most_once")?, row.get("attempts")?)),
        )?;
        for &(id, was_running, at_most_once, attempts) in &held {
            if was_running {
                let failure = Some(LOST.into());
                let lost = AttemptRecord { ended_at: now, failure, maybe_billed: true, ..AttemptRecord::default() };
                self.write_down(id, attempts, &lost)?;
            }
            if was_running && at_most_once {
                self.end_as(id, JobStatus::Unknown, now)?;
            } else {
                let ready =
                    "UPDATE job SET owner = 0, status = iif(status = 'running', 'retrying', status) WHERE id = ?1";
                self.change(ready, [id.number()])?;
            }
            planted::reach(Point::InRescue);
        }
        Ok(held.len())
    }

    fn prune(&mut self, retention: &Retention, at_most: usize) -> Result<usize, StoreError> {
        let Retention { bodies_before, results_before, attempts_before } = *retention;
        let mut removed = self.removed(
            "UPDATE job SET has_body = 0 WHERE id IN (
                 SELECT id FROM job
                 WHERE owner IS NULL AND (has_body = 1 OR batch IS NULL) AND has_body = 1 AND finished_at < ?1
                 ORDER BY finished_at, id LIMIT ?2)
             RETURNING id",
            bodies_before.max(results_before),
            at_most,
        )?;
        let gone = self.all(
            "DELETE FROM job WHERE id IN (
                 SELECT id FROM job
                 WHERE owner IS NULL AND (has_body = 1 OR batch IS NULL) AND has_body = 0 AND finished_at < ?1
                 ORDER BY finished_at, id LIMIT ?2)
             RETURNING id",
            params![results_before, limit(at_most - removed)],
            |row| row.get::<_, i64>(0),
        )?;
        for job in &gone {
            self.change("DELETE FROM result WHERE job = ?1", [job])?;
            self.change("DELETE FROM outbox WHERE job = ?1", [job])?;
        }
        removed += gone.len();
        removed += self.change(
            "DELETE FROM attempt WHERE started_at < ?1
                 AND place IN (SELECT place FROM attempt ORDER BY place LIMIT ?2)",
            params![attempts_before, limit(at_most - removed)],
        )?;
        Ok(removed)
    }
}
