//! The reference: a store as one would write it down on a page, with no index, no bound and no care for speed.

use bytes::Bytes;

use crate::messages::{JobId, JobStatus};
use crate::store::jobs::{
    Again, AttemptRecord, Cancelled, Claim, Finish, JobEnd, LOST, NewJob, PutBack, Retention, Start, Submitted,
};
use crate::store::{Ms, Owner};

#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) id: JobId,
    pub(super) new: NewJob,
    pub(super) status: JobStatus,
    pub(super) owner: Option<Owner>,
    pub(super) due: Ms,
    pub(super) attempts: u32,
    pub(super) counted: u32,
    pub(super) started_at: Option<Ms>,
    pub(super) finished_at: Option<Ms>,
    pub(super) body: Option<Bytes>,
    pub(super) end: Option<JobEnd>,
}

impl Job {
    pub(super) fn is_ready(&self) -> bool {
        self.owner.is_none() && !self.status.is_end()
    }
}

#[derive(Clone, Default, Debug)]
pub(super) struct Reference {
    pub(super) jobs: Vec<Job>,
    /// In the order they began.
    pub(super) attempts: Vec<(JobId, u32, Ms, Option<AttemptRecord>)>,
    /// Whose end is to be told, and when.
    pub(super) outbox: Vec<(JobId, Ms)>,
}

impl Reference {
    fn find(&mut self, id: JobId) -> Option<&mut Job> {
        self.jobs.iter_mut().find(|job| job.id == id)
    }

    fn held(&mut self, id: JobId, owner: Owner) -> Option<&mut Job> {
        self.find(id).filter(|job| job.owner == Some(owner))
    }

    fn write_down(&mut self, id: JobId, number: u32, record: &AttemptRecord) {
        if let Some(attempt) = self.attempts.iter_mut().find(|attempt| (attempt.0, attempt.1) == (id, number)) {
            attempt.3 = Some(record.clone());
        }
    }

    fn end(&mut self, id: JobId, status: JobStatus, at: Ms, end: Option<JobEnd>) {
        let Some(job) = self.find(id) else { return };
        assert!(!job.status.is_end(), "a second end");
        (job.status, job.owner, job.finished_at, job.end) = (status, None, Some(at), end);
        if job.new.webhook.is_some() {
            self.outbox.push((id, at));
        }
    }

    /// What a submission comes to, where the store gives the id of a new one.
    pub(super) fn submit(&mut self, new: &NewJob, given: Submitted) -> Submitted {
        let same = |job: &&Job| new.key.is_some() && (&job.new.key, &job.new.tenant) == (&new.key, &new.tenant);
        if let Some(job) = self.jobs.iter().find(same) {
            return if job.new.digest == new.digest { Submitted::Same(job.id) } else { Submitted::Conflict(job.id) };
        }
        let Submitted::New(id) = given else { panic!("{given:?} of a new job") };
        assert!(self.jobs.last().is_none_or(|last| last.id < id), "ids grow");
        self.jobs.push(Job {
            id,
            new: new.clone(),
            status: JobStatus::Queued,
            owner: None,
            due: new.created_at,
            attempts: 0,
            counted: 0,
            started_at: None,
            finished_at: None,
            body: Some(new.body.clone()),
            end: None,
        });
        given
    }

    pub(super) fn claim(&mut self, claim: &Claim) -> (Vec<JobId>, Option<Ms>) {
        let ready = |job: &&mut Job| job.is_ready() && job.new.queue == claim.queue;
        let mut due: Vec<&mut Job> = self.jobs.iter_mut().filter(ready).filter(|job| job.due <= claim.now).collect();
        due.sort_by_key(|job| (job.new.priority, job.due, job.id));
        let mut claimed = Vec::new();
        let mut bytes = 0;
        for job in due.into_iter().take(claim.limit) {
            bytes += if claimed.is_empty() { 0 } else { job.new.body.len() };
            if bytes > claim.max_bytes {
                break;
            }
            job.owner = Some(claim.owner);
            claimed.push(job.id);
        }
        (claimed, self.jobs.iter_mut().filter(ready).map(|job| job.due).min())
    }

    pub(super) fn start(&mut self, start: &Start) -> bool {
        let Some(job) = self.held(start.job, start.owner) else { return false };
        if job.status == JobStatus::Running || start.attempt <= job.attempts {
            return false;
        }
        (job.status, job.attempts) = (JobStatus::Running, start.attempt);
        job.started_at.get_or_insert(start.at);
        self.attempts.push((start.job, start.attempt, start.at, None));
        true
    }

    pub(super) fn again(&mut self, again: &Again) -> bool {
        self.write_down(again.job, again.attempt, &again.record);
        let Some(job) = self.held(again.job, again.owner).filter(|job| job.status == JobStatus::Running) else {
            return false;
        };
        (job.status, job.counted, job.due) = (JobStatus::Retrying, again.counted, again.due);
        true
    }

    pub(super) fn put_back(&mut self, back: &PutBack) -> bool {
        let Some(job) = self.held(back.job, back.owner).filter(|job| job.status != JobStatus::Running) else {
            return false;
        };
        (job.owner, job.due) = (None, back.due.unwrap_or(job.due));
        true
    }

    pub(super) fn finish(&mut self, finish: &Finish) -> bool {
        if let Some((number, record)) = &finish.attempt {
            self.write_down(finish.job, *number, record);
        }
        if self.held(finish.job, finish.owner).is_none() {
            return false;
        }
        self.end(finish.job, finish.status, finish.at, Some(finish.end.clone()));
        true
    }

    pub(super) fn cancel(&mut self, id: JobId, tenant: Option<&str>, at: Ms) -> Cancelled {
        let Some(job) = self.find(id).filter(|job| job.new.tenant.as_deref() == tenant) else {
            return Cancelled::NoSuch;
        };
        if job.status.is_end() {
            return Cancelled::Ended(job.status);
        }
        let was_claimed = job.owner.is_some();
        self.end(id, JobStatus::Cancelled, at, None);
        Cancelled::Now { was_claimed }
    }

    pub(super) fn expire(&mut self, now: Ms, limit: usize) -> Vec<JobId> {
        let mut expired: Vec<&Job> =
            self.jobs.iter().filter(|job| job.is_ready() && job.new.expires_at <= now).collect();
        expired.sort_by_key(|job| (job.new.expires_at, job.id));
        let expired: Vec<JobId> = expired.into_iter().take(limit).map(|job| job.id).collect();
        expired.iter().for_each(|id| self.end(*id, JobStatus::Expired, now, None));
        expired
    }

    /// Of all that are to be rescued, whatever the bite.
    pub(super) fn rescue(&mut self, owner: Owner, now: Ms) -> usize {
        let held: Vec<Job> =
            self.jobs.iter().filter(|job| job.owner.is_some_and(|held| held < owner)).cloned().collect();
        for job in &held {
            let was_running = job.status == JobStatus::Running;
            if was_running {
                let failure = Some(LOST.to_owned());
                let lost = AttemptRecord { ended_at: now, failure, maybe_billed: true, ..AttemptRecord::default() };
                self.write_down(job.id, job.attempts, &lost);
            }
            if was_running && job.new.at_most_once {
                self.end(job.id, JobStatus::Unknown, now, None);
            } else if let Some(job) = self.find(job.id) {
                job.owner = None;
                job.status = if was_running { JobStatus::Retrying } else { job.status };
            }
        }
        held.len()
    }

    /// Of all that is to be removed, whatever the bite.
    pub(super) fn prune(&mut self, retention: &Retention) -> usize {
        let is_before = |job: &Job, before: Ms| job.finished_at.is_some_and(|at| at < before);
        let mut removed = 0;
        for job in &mut self.jobs {
            if is_before(job, retention.bodies_before.max(retention.results_before)) && job.body.take().is_some() {
                removed += 1;
            }
        }
        let rows = self.jobs.len() + self.attempts.len();
        self.jobs.retain(|job| !is_before(job, retention.results_before));
        self.attempts.retain(|attempt| attempt.2 >= retention.attempts_before);
        let kept: Vec<JobId> = self.jobs.iter().map(|job| job.id).collect();
        self.outbox.retain(|(id, _)| kept.contains(id));
        removed + rows - self.jobs.len() - self.attempts.len()
    }
}
