//! Jobs. Every index is a function of the row, and is brought in line by the one place that changes rows.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::Memory;
use super::table::{Table, Undo};
use crate::messages::{BatchId, Endpoint, JobId, JobStatus, Priority, Usage};
use crate::store::batches::{Counts, EndedLine};
use crate::store::jobs::{
    Again, AttemptRecord, Cancelled, Claim, Claimed, ClaimedJob, Finish, JobChanges, JobEnd, JobFilter, JobRecord,
    JobRecords, KeptAttempt, LOST, Line, NewJob, PRIORITIES, PutBack, QueueDepth, Retention, Start, Submitted,
};
use crate::store::{Ms, Owner, StoreError};

type Name = Option<Arc<str>>;

#[derive(Clone)]
struct Row {
    tenant: Name,
    key: Name,
    digest: [u8; 32],
    endpoint: Endpoint,
    queue: Arc<str>,
    priority: Priority,
    at_most_once: bool,
    webhook: Name,
    line: Option<Line>,
    created_at: Ms,
    expires_at: Ms,
    started_at: Option<Ms>,
    finished_at: Option<Ms>,
    due: Ms,
    status: JobStatus,
    /// In whose hands it is.
    owner: Option<Owner>,
    attempts: u32,
    counted: u32,
    usage: Option<Usage>,
    cost_usd: Option<f64>,
    body: Option<Bytes>,
    end: Option<JobEnd>,
}

/// Where a row stands in the indexes.
impl Row {
    fn is_ready(&self) -> bool {
        self.owner.is_none() && !self.status.is_end()
    }

    fn ready(&self, id: JobId) -> Option<(Arc<str>, Priority, Ms, JobId)> {
        self.is_ready().then(|| (self.queue.clone(), self.priority, self.due, id))
    }

    fn expiring(&self, id: JobId) -> Option<(Ms, JobId)> {
        self.is_ready().then_some((self.expires_at, id))
    }

    fn held(&self, id: JobId) -> Option<(Owner, JobId)> {
        self.owner.map(|owner| (owner, id))
    }

    /// What of it age alone will remove next: its body, or all of it. A line stays with its batch.
    fn ended(&self, id: JobId) -> Option<(bool, Ms, JobId)> {
        let has_body = self.body.is_some();
        self.finished_at.filter(|_| has_body || self.line.is_none()).map(|at| (has_body, at, id))
    }

    fn key(&self) -> Option<(Name, Arc<str>)> {
        self.key.clone().map(|key| (self.tenant.clone(), key))
    }

    fn listed(&self, id: JobId) -> Option<(Name, u8, JobId)> {
        self.line.is_none().then(|| (self.tenant.clone(), self.status as u8, id))
    }

    fn line(&self) -> Option<(BatchId, u32)> {
        self.line.as_ref().map(|line| (line.batch, line.number))
    }

    /// A line that has neither its end nor a call under way.
    fn waiting(&self) -> Option<(BatchId, u32)> {
        self.line().filter(|_| !self.status.is_end() && self.status != JobStatus::Running)
    }

    fn is_of(&self, tenant: Option<&str>) -> bool {
        self.tenant.as_deref() == tenant
    }

    fn record(&self, id: JobId, end: Option<JobEnd>) -> JobRecord {
        JobRecord {
            id,
            tenant: self.tenant.clone(),
            key: self.key.clone(),
            endpoint: self.endpoint,
            queue: self.queue.clone(),
            priority: self.priority,
            at_most_once: self.at_most_once,
            webhook: self.webhook.clone(),
            status: self.status,
            attempts: self.attempts,
            created_at: self.created_at,
            started_at: self.started_at,
            finished_at: self.finished_at,
            expires_at: self.expires_at,
            due: self.due,
            usage: self.usage,
            cost_usd: self.cost_usd,
            end,
        }
    }
}

pub(super) struct Jobs {
    rows: Table<JobId, Row>,
    ready: Table<(Arc<str>, Priority, Ms, JobId), ()>,
    expiring: Table<(Ms, JobId), ()>,
    held: Table<(Owner, JobId), ()>,
    ended: Table<(bool, Ms, JobId), ()>,
    keys: Table<(Name, Arc<str>), JobId>,
    listed: Table<(Name, u8, JobId), ()>,
    lines: Table<(BatchId, u32), JobId>,
    waiting: Table<(BatchId, u32), JobId>,
    /// In the order they began.
    attempts: Table<u64, (JobId, KeptAttempt)>,
    attempt_of: Table<(JobId, u32), u64>,
    /// The number of the next job.
    next: i64,
    next_attempt: u64,
}

impl Jobs {
    pub(super) fn new(first: i64) -> Self {
        Self {
            rows: Table::default(),
            ready: Table::default(),
            expiring: Table::default(),
            held: Table::default(),
            ended: Table::default(),
            keys: Table::default(),
            listed: Table::default(),
            lines: Table::default(),
            waiting: Table::default(),
            attempts: Table::default(),
            attempt_of: Table::default(),
            next: first,
            next_attempt: 0,
        }
    }

    pub(super) fn tables(&mut self) -> [&mut dyn Undo; 11] {
        [
            &mut self.rows,
            &mut self.ready,
            &mut self.expiring,
            &mut self.held,
            &mut self.ended,
            &mut self.keys,
            &mut self.listed,
            &mut self.lines,
            &mut self.waiting,
            &mut self.attempts,
            &mut self.attempt_of,
        ]
    }

    /// Puts `row` in the place of what is there, in every index; `None` removes it.
    fn put(&mut self, id: JobId, row: Option<Row>) {
        if let Some(old) = self.rows.get(&id) {
            old.ready(id).map(|key| self.ready.remove(&key));
            old.expiring(id).map(|key| self.expiring.remove(&key));
            old.held(id).map(|key| self.held.remove(&key));
            old.ended(id).map(|key| self.ended.remove(&key));
            old.key().map(|key| self.keys.remove(&key));
            old.listed(id).map(|key| self.listed.remove(&key));
            old.line().map(|key| self.lines.remove(&key));
            old.waiting().map(|key| self.waiting.remove(&key));
        }
        let Some(row) = row else {
            self.rows.remove(&id);
            return;
        };
        if let Some(key) = row.ready(id) {
            self.ready.put(key, ());
        }
        if let Some(key) = row.expiring(id) {
            self.expiring.put(key, ());
        }
        if let Some(key) = row.held(id) {
            self.held.put(key, ());
        }
        if let Some(key) = row.ended(id) {
            self.ended.put(key, ());
        }
        if let Some(key) = row.key() {
            self.keys.put(key, id);
        }
        if let Some(key) = row.listed(id) {
            self.listed.put(key, ());
        }
        if let Some(key) = row.line() {
            self.lines.put(key, id);
        }
        if let Some(key) = row.waiting() {
            self.waiting.put(key, id);
        }
        self.rows.put(id, row);
    }

    /// The first line of a batch that is still here, and on from there.
    pub(super) fn lines(&self, batch: BatchId) -> impl Iterator<Item = JobId> + '_ {
        self.lines.range((batch, 0)..=(batch, u32::MAX)).map(|(_, id)| *id)
    }

    /// Lines of a batch that are not being called, and whether they are in anybody's hands.
    pub(super) fn waiting_lines(&self, batch: BatchId) -> impl Iterator<Item = (JobId, bool)> + '_ {
        let waiting = self.waiting.range((batch, 0)..=(batch, u32::MAX));
        waiting.map(|(_, id)| (*id, self.rows.get(id).is_some_and(|row| row.owner.is_some())))
    }

    /// A line that has its end.
    pub(super) fn ended_line(&self, job: JobId) -> Option<EndedLine> {
        let row = self.rows.get(&job).filter(|row| row.status.is_end())?;
        let Line { number, ref custom_id, .. } = *row.line.as_ref()?;
        Some(EndedLine { job, number, custom_id: custom_id.clone(), status: row.status, end: row.end.clone() })
    }

    pub(super) fn remove(&mut self, id: JobId) {
        self.put(id, None);
    }

    /// A copy of the row, if `owner` has the job in its hands.
    fn held_by(&self, owner: Owner, id: JobId) -> Option<Row> {
        self.rows.get(&id).filter(|row| row.owner == Some(owner)).cloned()
    }

    /// Ready jobs of a queue and priority, in order.
    fn queue(&self, queue: &Arc<str>, priority: Priority) -> impl Iterator<Item = (Ms, JobId)> + '_ {
        let first = (queue.clone(), priority, Ms::MIN, JobId::of(0));
        let last = (queue.clone(), priority, Ms::MAX, JobId::of(i64::MAX));
        self.ready.range(first..=last).map(|((_, _, due, id), ())| (*due, *id))
    }

    /// At most `limit` of the jobs that ended before then and have, or have not, their bodies.
    fn ended(&self, with_body: bool, before: Ms, limit: usize) -> Vec<(JobId, Row)> {
        let range = (with_body, Ms::MIN, JobId::of(0))..(with_body, before, JobId::of(0));
        let ended = self.ended.range(range).take(limit).map(|((_, _, id), ())| *id);
        ended.filter_map(|id| Some((id, self.rows.get(&id)?.clone()))).collect()
    }

    /// Writes down what an attempt came to, if its record is still kept.
    fn write_down(&mut self, job: JobId, number: u32, record: AttemptRecord) {
        if let Some(&place) = self.attempt_of.get(&(job, number))
            && let Some((_, kept)) = self.attempts.get(&place).cloned()
        {
            self.attempts.put(place, (job, KeptAttempt { record: Some(record), ..kept }));
        }
    }

    /// Ready, in the hands of nobody.
    fn let_go(&mut self, id: JobId, mut row: Row) {
        row.owner = None;
        if row.status == JobStatus::Running {
            row.status = JobStatus::Retrying;
        }
        self.put(id, Some(row));
    }
}

impl Memory {
    /// A job that does not come to its own end.
    pub(super) fn end_as(&mut self, id: JobId, status: JobStatus, at: Ms) {
        if let Some(row) = self.jobs.rows.get(&id).cloned() {
            self.end(id, row, status, at, None);
        }
    }

    /// The one way to an end: whoever brings it, the webhook is told of it, and the batch counts it.
    fn end(&mut self, id: JobId, mut row: Row, status: JobStatus, at: Ms, end: Option<JobEnd>) {
        debug_assert!(status.is_end() && !row.status.is_end());
        row.status = status;
        row.owner = None;
        row.finished_at = Some(at);
        row.end = end;
        if let Some(url) = row.webhook.clone() {
            self.outbox.post(id, url, at);
        }
        if let Some(line) = &row.line {
            self.batches.count(line.batch, &Counts::of_line(status, row.usage.as_ref()));
        }
        self.jobs.put(id, Some(row));
    }
}

impl JobRecords for Memory {
    fn job(&self, id: JobId, tenant: Option<&str>) -> Result<Option<JobRecord>, StoreError> {
        let row = self.jobs.rows.get(&id).filter(|row| row.is_of(tenant));
        Ok(row.map(|row| row.record(id, row.end.clone())))
    }

    fn job_of_anyone(&self, id: JobId) -> Result<Option<JobRecord>, StoreError> {
        Ok(self.jobs.rows.get(&id).map(|row| row.record(id, row.end.clone())))
    }

    fn jobs(&self, filter: &JobFilter) -> Result<Vec<JobRecord>, StoreError> {
        let JobFilter { tenant, status, after, limit } = filter;
        let end = after.unwrap_or(JobId::of(i64::MAX));
        let statuses = JobStatus::ALL.into_iter().filter(|one| status.is_none_or(|wanted| wanted == *one));
        let mut found: Vec<JobId> = Vec::new();
        for status in statuses {
            let first = (tenant.clone(), status as u8, JobId::of(0));
            let end = (tenant.clone(), status as u8, end);
            found.extend(self.jobs.listed.range(first..end).rev().take(*limit).map(|((_, _, id), ())| *id));
        }
        found.sort_unstable_by_key(|id| Reverse(*id));
        let rows = found.into_iter().take(*limit);
        Ok(rows.filter_map(|id| self.jobs.rows.get(&id).map(|row| row.record(id, None))).collect())
    }

    fn body(&self, id: JobId) -> Result<Option<Bytes>, StoreError> {
        Ok(self.jobs.rows.get(&id).and_then(|row| row.body.clone()))
    }

    fn attempts(&self, id: JobId) -> Result<Vec<KeptAttempt>, StoreError> {
        let places = self.jobs.attempt_of.range((id, 0)..=(id, u32::MAX)).map(|(_, place)| place);
        Ok(places.filter_map(|place| self.jobs.attempts.get(place).map(|(_, kept)| kept.clone())).collect())
    }

    fn queues(&self) -> Result<Vec<QueueDepth>, StoreError> {
        let mut queues: BTreeMap<&Arc<str>, (u64, Ms)> = BTreeMap::new();
        for ((queue, _, due, _), ()) in self.jobs.ready.iter() {
            let (ready, next_due) = queues.entry(queue).or_insert((0, *due));
            *ready += 1;
            *next_due = (*next_due).min(*due);
        }
        let depth =
            |(queue, (ready, due)): (&Arc<str>, _)| QueueDepth { queue: queue.clone(), ready, next_due: Some(due) };
        Ok(queues.into_iter().map(depth).collect())
    }

    fn next_expiry(&self) -> Result<Option<Ms>, StoreError> {
        Ok(self.jobs.expiring.iter().next().map(|((at, _), ())| *at))
    }
}

impl JobChanges for Memory {
    fn submit(&mut self, job: &NewJob) -> Result<Submitted, StoreError> {
        let jobs = &mut self.jobs;
        let known = job.key.as_ref().and_then(|key| jobs.keys.get(&(job.tenant.clone(), key.clone())));
        if let Some((&id, row)) = known.and_then(|id| Some((id, jobs.rows.get(id)?))) {
            return Ok(if row.digest == job.digest { Submitted::Same(id) } else { Submitted::Conflict(id) });
        }
        let id = JobId::of(jobs.next);
        jobs.next += 1;
        let row = Row {
            tenant: job.tenant.clone(),
            key: job.key.clone(),
            digest: job.digest,
            endpoint: job.endpoint,
            queue: job.queue.clone(),
            priority: job.priority,
            at_most_once: job.at_most_once,
            webhook: job.webhook.clone(),
            line: job.line.clone(),
            created_at: job.created_at,
            expires_at: job.expires_at,
            started_at: None,
            finished_at: None,
            due: job.created_at,
            status: JobStatus::Queued,
            owner: None,
            attempts: 0,
            counted: 0,
            usage: None,
            cost_usd: None,
            body: Some(job.body.clone()),
            end: None,
        };
        jobs.put(id, Some(row));
        Ok(Submitted::New(id))
    }

    fn claim(&mut self, claim: &Claim) -> Result<Claimed, StoreError> {
        let jobs = &mut self.jobs;
        let mut claimed = Claimed::default();
        let mut bytes = 0;
        'full: for priority in PRIORITIES {
            let due = jobs.queue(&claim.queue, priority).take_while(|(due, _)| *due <= claim.now);
            let due: Vec<JobId> = due.take(claim.limit - claimed.jobs.len()).map(|(_, id)| id).collect();
            for id in due {
                let Some(mut row) = jobs.rows.get(&id).cloned() else { continue };
                let body = row.body.clone().unwrap_or_default();
                bytes += if claimed.jobs.is_empty() { 0 } else { body.len() };
                if bytes > claim.max_bytes {
                    break 'full;
                }
                claimed.jobs.push(ClaimedJob {
                    id,
                    tenant: row.tenant.clone(),
                    endpoint: row.endpoint,
                    priority: row.priority,
                    at_most_once: row.at_most_once,
                    attempts: row.attempts,
                    counted: row.counted,
                    due: row.due,
                    expires_at: row.expires_at,
                    body,
                });
                row.owner = Some(claim.owner);
                jobs.put(id, Some(row));
            }
        }
        let next = PRIORITIES.into_iter().filter_map(|priority| jobs.queue(&claim.queue, priority).next());
        claimed.next_due = next.map(|(due, _)| due).min();
        Ok(claimed)
    }

    fn start(&mut self, start: &Start) -> Result<bool, StoreError> {
        let jobs = &mut self.jobs;
        let held = jobs.held_by(start.owner, start.job);
        let Some(mut row) = held.filter(|row| row.status != JobStatus::Running && start.attempt > row.attempts) else {
            return Ok(false);
        };
        row.status = JobStatus::Running;
        row.attempts = start.attempt;
        row.started_at.get_or_insert(start.at);
        jobs.put(start.job, Some(row));
        let kept = KeptAttempt {
            number: start.attempt,
            upstream: start.upstream.clone(),
            key: start.key,
            started_at: start.at,
            record: None,
        };
        jobs.attempts.put(jobs.next_attempt, (start.job, kept));
        jobs.attempt_of.put((start.job, start.attempt), jobs.next_attempt);
        jobs.next_attempt += 1;
        Ok(true)
    }

    fn again(&mut self, again: &Again) -> Result<bool, StoreError> {
        self.jobs.write_down(again.job, again.attempt, again.record.clone());
        let held = self.jobs.held_by(again.owner, again.job);
        let Some(mut row) = held.filter(|row| row.status == JobStatus::Running) else { return Ok(false) };
        row.status = JobStatus::Retrying;
        row.counted = again.counted;
        row.due = again.due;
        self.jobs.put(again.job, Some(row));
        Ok(true)
    }

    fn put_back(&mut self, back: &PutBack) -> Result<bool, StoreError> {
        let held = self.jobs.held_by(back.owner, back.job);
        let Some(mut row) = held.filter(|row| row.status != JobStatus::Running) else { return Ok(false) };
        row.due = back.due.unwrap_or(row.due);
        self.jobs.let_go(back.job, row);
        Ok(true)
    }

    fn finish(&mut self, finish: &Finish) -> Result<bool, StoreError> {
        if let Some((number, record)) = &finish.attempt {
            self.jobs.write_down(finish.job, *number, record.clone());
        }
        let Some(mut row) = self.jobs.held_by(finish.owner, finish.job) else { return Ok(false) };
        row.usage = finish.usage;
        row.cost_usd = finish.cost_usd;
        self.end(finish.job, row, finish.status, finish.at, Some(finish.end.clone()));
        Ok(true)
    }

    fn cancel(&mut self, id: JobId, tenant: Option<&str>, at: Ms) -> Result<Cancelled, StoreError> {
        let Some(row) = self.jobs.rows.get(&id).filter(|row| row.is_of(tenant)).cloned() else {
            return Ok(Cancelled::NoSuch);
        };
        if row.status.is_end() {
            return Ok(Cancelled::Ended(row.status));
        }
        let was_claimed = row.owner.is_some();
        self.end(id, row, JobStatus::Cancelled, at, None);
        Ok(Cancelled::Now { was_claimed })
    }

    fn expire(&mut self, now: Ms, limit: usize) -> Result<Vec<JobId>, StoreError> {
        let expired = self.jobs.expiring.range(..=(now, JobId::of(i64::MAX))).take(limit);
        let expired: Vec<JobId> = expired.map(|((_, id), ())| *id).collect();
        for id in &expired {
            self.end_as(*id, JobStatus::Expired, now);
        }
        Ok(expired)
    }

    fn rescue(&mut self, owner: Owner, now: Ms, limit: usize) -> Result<usize, StoreError> {
        let held = self.jobs.held.range(..(owner, JobId::of(0))).take(limit);
        let held: Vec<JobId> = held.map(|((_, id), ())| *id).collect();
        for id in &held {
            let Some(row) = self.jobs.rows.get(id).cloned() else { continue };
            let was_running = row.status == JobStatus::Running;
            if was_running {
                let lost = AttemptRecord {
                    ended_at: now,
                    failure: Some(LOST.into()),
                    maybe_billed: true,
                    ..AttemptRecord::default()
                };
                self.jobs.write_down(*id, row.attempts, lost);
            }
            if was_running && row.at_most_once {
                self.end(*id, row, JobStatus::Unknown, now, None);
            } else {
                self.jobs.let_go(*id, row);
            }
        }
        Ok(held.len())
    }

    fn prune(&mut self, retention: &Retention, limit: usize) -> Result<usize, StoreError> {
        let mut removed = 0;
        let bodies_before = retention.bodies_before.max(retention.results_before);
        for (id, row) in self.jobs.ended(true, bodies_before, limit) {
            self.jobs.put(id, Some(Row { body: None, ..row }));
            removed += 1;
        }
        for (id, _) in self.jobs.ended(false, retention.results_before, limit - removed) {
            self.jobs.put(id, None);
            self.outbox.forget(id);
            removed += 1;
        }
        let old = self.jobs.attempts.iter().take(limit - removed);
        let old = old.take_while(|(_, (_, kept))| kept.started_at < retention.attempts_before);
        let old: Vec<_> = old.map(|(place, (job, kept))| (*place, (*job, kept.number))).collect();
        for (place, number) in old {
            self.jobs.attempts.remove(&place);
            self.jobs.attempt_of.remove(&number);
            removed += 1;
        }
        Ok(removed)
    }
}
