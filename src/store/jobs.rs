//! Jobs: accepted requests, from the moment they are on disk to their one result.
//!
//! ```text
//!           submit            claim             start              finish
//! (nothing) ------->  ready  ------->  claimed ------->  running  ------->  an end
//!                       ^  put_back       |  ^   retry      |
//!                       +------<----------+  +------<-------+
//! ```
//!
//! *Claimed* jobs are in the dispatcher's hands (a bounded window), all others cost disk only. An attempt is recorded before it is
//! made (`start`), so that after a crash it is known which calls may have been made. Each change is refused, by an answer that
//! says so, when the job is no longer the owner's or has ended.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::{Ms, Owner, StoreError};
use crate::messages::{BatchId, Endpoint, JobId, JobStatus, Priority, Usage};

/// A job to be accepted.
#[derive(Clone)]
pub(crate) struct NewJob {
    pub(crate) tenant: Option<Arc<str>>,
    /// The caller's own name for it, unique within the tenant while the job is kept.
    pub(crate) key: Option<Arc<str>>,
    /// SHA-256 of everything that was asked: another request of the same key is told apart by it.
    pub(crate) digest: [u8; 32],
    pub(crate) endpoint: Endpoint,
    /// Jobs of one queue wait for each other only: the model asked for, or nothing where none is named.
    pub(crate) queue: Arc<str>,
    pub(crate) priority: Priority,
    pub(crate) at_most_once: bool,
    /// Where its end is told.
    pub(crate) webhook: Option<Arc<str>>,
    pub(crate) created_at: Ms,
    pub(crate) expires_at: Ms,
    pub(crate) body: Bytes,
    /// The line of a batch that it is.
    pub(crate) line: Option<Line>,
}

/// A line of a batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Line {
    pub(crate) batch: BatchId,
    /// Counted from 0.
    pub(crate) number: u32,
    pub(crate) custom_id: Arc<str>,
}

/// How a submission went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Submitted {
    /// It is a job of its own.
    New(JobId),
    /// Its key has this job, with the same request.
    Same(JobId),
    /// Its key has this job, with another request.
    Conflict(JobId),
}

/// Which jobs are wanted.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    pub(crate) owner: Owner,
    pub(crate) queue: Arc<str>,
    /// Only jobs that are due by then.
    pub(crate) now: Ms,
    pub(crate) limit: usize,
    /// The bodies of all but the first together.
    pub(crate) max_bytes: usize,
}

/// What was claimed: by priority, then as they are due.
#[derive(Clone, Debug, Default)]
pub(crate) struct Claimed {
    pub(crate) jobs: Vec<ClaimedJob>,
    /// When the next job of the queue is due, which may be now when `limit` or `max_bytes` kept it back.
    pub(crate) next_due: Option<Ms>,
}

/// A job in its owner's hands.
#[derive(Clone)]
pub(crate) struct ClaimedJob {
    pub(crate) id: JobId,
    pub(crate) tenant: Option<Arc<str>>,
    pub(crate) endpoint: Endpoint,
    pub(crate) priority: Priority,
    pub(crate) at_most_once: bool,
    /// Attempts started so far.
    pub(crate) attempts: u32,
    /// Those of them that count against `max_attempts`.
    pub(crate) counted: u32,
    pub(crate) due: Ms,
    pub(crate) expires_at: Ms,
    pub(crate) body: Bytes,
}

/// An attempt that is about to be made.
#[derive(Clone, Debug)]
pub(crate) struct Start {
    pub(crate) owner: Owner,
    pub(crate) job: JobId,
    /// Counted from 1 over the job's life.
    pub(crate) attempt: u32,
    pub(crate) upstream: Arc<str>,
    /// The number of the upstream's key.
    pub(crate) key: u32,
    pub(crate) at: Ms,
}

/// How an attempt ended, for the record.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct AttemptRecord {
    pub(crate) ended_at: Ms,
    /// The upstream's status, if it gave one.
    pub(crate) status: Option<u16>,
    /// Its failure's kind; nothing for an answer.
    pub(crate) failure: Option<String>,
    /// Whether the upstream may have seen, and billed, it without an answer that says so.
    pub(crate) maybe_billed: bool,
    pub(crate) usage: Option<Usage>,
    pub(crate) cost_usd: Option<f64>,
}

/// An attempt has failed and the job goes again; it stays claimed.
#[derive(Clone, Debug)]
pub(crate) struct Again {
    pub(crate) owner: Owner,
    pub(crate) job: JobId,
    pub(crate) attempt: u32,
    /// Attempts that count against `max_attempts`.
    pub(crate) counted: u32,
    pub(crate) record: AttemptRecord,
    /// Not before then, after a restart as well.
    pub(crate) due: Ms,
}

/// Claimed jobs go back unstarted.
#[derive(Clone, Debug)]
pub(crate) struct PutBack {
    pub(crate) owner: Owner,
    pub(crate) job: JobId,
    /// Not before then; the due time it has, where nothing is said.
    pub(crate) due: Option<Ms>,
}

/// A job's end.
#[derive(Clone, Debug)]
pub(crate) struct Finish {
    pub(crate) owner: Owner,
    pub(crate) job: JobId,
    /// The attempt that brought it, if one did, and its record.
    pub(crate) attempt: Option<(u32, AttemptRecord)>,
    pub(crate) status: JobStatus,
    pub(crate) at: Ms,
    pub(crate) end: JobEnd,
    pub(crate) usage: Option<Usage>,
    pub(crate) cost_usd: Option<f64>,
}

/// What a job ends with.
#[derive(Clone, PartialEq)]
pub(crate) enum JobEnd {
    /// The upstream's status and body.
    Result { status: u16, body: Bytes },
    /// An error: its HTTP status, and the JSON object below `error`.
    Error { status: u16, error: Bytes },
}

impl JobEnd {
    /// The bytes of what it ends with.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Result { body, .. } => body.len(),
            Self::Error { error, .. } => error.len(),
        }
    }
}

/// How a cancellation went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cancelled {
    /// It is cancelled; whoever has claimed it is to let it go.
    Now { was_claimed: bool },
    /// It had ended before.
    Ended(JobStatus),
    /// There is no such job of this tenant.
    NoSuch,
}

/// Everything that is known of a job but its request's body.
#[derive(Clone)]
pub(crate) struct JobRecord {
    pub(crate) id: JobId,
    pub(crate) tenant: Option<Arc<str>>,
    pub(crate) key: Option<Arc<str>>,
    pub(crate) endpoint: Endpoint,
    pub(crate) queue: Arc<str>,
    pub(crate) priority: Priority,
    pub(crate) at_most_once: bool,
    pub(crate) webhook: Option<Arc<str>>,
    pub(crate) status: JobStatus,
    pub(crate) attempts: u32,
    pub(crate) created_at: Ms,
    /// When the first attempt began.
    pub(crate) started_at: Option<Ms>,
    pub(crate) finished_at: Option<Ms>,
    pub(crate) expires_at: Ms,
    /// When it goes (again), while it waits.
    #[cfg_attr(not(test), allow(dead_code))] // the tests of the stores look at it
    pub(crate) due: Ms,
    pub(crate) usage: Option<Usage>,
    pub(crate) cost_usd: Option<f64>,
    /// Nothing before its end, and in lists.
    pub(crate) end: Option<JobEnd>,
}

/// Which jobs are listed, newest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct JobFilter {
    pub(crate) tenant: Option<Arc<str>>,
    pub(crate) status: Option<JobStatus>,
    /// Only those before this one in the list.
    pub(crate) after: Option<JobId>,
    pub(crate) limit: usize,
}

/// How many jobs of a queue wait on disk, unclaimed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct QueueDepth {
    pub(crate) queue: Arc<str>,
    pub(crate) ready: u64,
    pub(crate) next_due: Option<Ms>,
}

/// An attempt on record.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct KeptAttempt {
    /// Counted from 1 over the job's life.
    pub(crate) number: u32,
    pub(crate) upstream: Arc<str>,
    /// The number of the upstream's key.
    pub(crate) key: u32,
    pub(crate) started_at: Ms,
    /// Nothing while it is under way. That of an ended job has nothing when its end was never heard of: it may be billed.
    pub(crate) record: Option<AttemptRecord>,
}

/// The failure on record of an attempt that was under way when its process went.
pub(crate) const LOST: &str = "lost";

/// All priorities, in the order of claims.
pub(super) const PRIORITIES: [Priority; 3] = [Priority::High, Priority::Normal, Priority::Low];

/// For how long what is kept of ended jobs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Retention {
    /// Requests' bodies of jobs that ended before then go; their results stay.
    pub(crate) bodies_before: Ms,
    /// Jobs that ended before then go with everything they have but their attempts.
    pub(crate) results_before: Ms,
    /// The record of attempts before then goes.
    pub(crate) attempts_before: Ms,
}

/// What callers ask and are answered is private, and so is where they are told of it: neither is shown.
impl fmt::Debug for NewJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &mut f.debug_struct("NewJob");
        shown.field("queue", &self.queue).field("key", &self.key).field("priority", &self.priority);
        shown.field("bytes", &self.body.len()).field("line", &self.line).finish_non_exhaustive()
    }
}

impl fmt::Debug for ClaimedJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &mut f.debug_struct("ClaimedJob");
        shown.field("id", &self.id).field("attempts", &self.attempts).field("counted", &self.counted);
        shown.field("due", &self.due).field("bytes", &self.body.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for JobRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &mut f.debug_struct("JobRecord");
        shown.field("id", &self.id).field("status", &self.status).field("attempts", &self.attempts);
        shown.field("due", &self.due).field("end", &self.end).finish_non_exhaustive()
    }
}

impl fmt::Debug for JobEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, status, bytes) = match self {
            JobEnd::Result { status, body } => ("result", status, body.len()),
            JobEnd::Error { status, error } => ("error", status, error.len()),
        };
        write!(f, "{what} {status} of {bytes} bytes")
    }
}

/// Reading jobs.
pub(crate) trait JobRecords {
    /// One job, with its end; `None` where `tenant` has none of that id.
    fn job(&self, id: JobId, tenant: Option<&str>) -> Result<Option<JobRecord>, StoreError>;

    /// The same, whosever it is: for what is told of it to whom it named.
    fn job_of_anyone(&self, id: JobId) -> Result<Option<JobRecord>, StoreError>;

    /// Jobs without their ends, newest first. Lines of batches are not among them.
    fn jobs(&self, filter: &JobFilter) -> Result<Vec<JobRecord>, StoreError>;

    /// The request of a job, while it is kept.
    #[cfg_attr(not(test), allow(dead_code))] // the tests of the stores look at it
    fn body(&self, id: JobId) -> Result<Option<Bytes>, StoreError>;

    /// The attempts of a job on record, in order; they outlive it.
    #[cfg_attr(not(test), allow(dead_code))] // the tests of the stores look at it, and people by sqlite3
    fn attempts(&self, id: JobId) -> Result<Vec<KeptAttempt>, StoreError>;

    /// Every queue that has ready jobs. Walks them all: for the start, not for every call.
    fn queues(&self) -> Result<Vec<QueueDepth>, StoreError>;

    /// When the next job that waits on disk expires.
    fn next_expiry(&self) -> Result<Option<Ms>, StoreError>;
}

/// Changing jobs. A webhook's delivery is put into the outbox by whatever ends the job, in the same transaction, and so are the
/// counts of its batch.
pub(crate) trait JobChanges {
    fn submit(&mut self, job: &NewJob) -> Result<Submitted, StoreError>;

    fn claim(&mut self, claim: &Claim) -> Result<Claimed, StoreError>;

    /// `false`: it is not the owner's any more, is running already or has had this attempt: it must not be made.
    fn start(&mut self, start: &Start) -> Result<bool, StoreError>;

    /// `false`: it is not the owner's any more; what the attempt used is on record all the same.
    fn again(&mut self, again: &Again) -> Result<bool, StoreError>;

    /// `false`: it is not the owner's any more, or is running.
    fn put_back(&mut self, back: &PutBack) -> Result<bool, StoreError>;

    /// `false`: it has its end already, or is not the owner's any more: the first end stays, what the attempt used is on
    /// record all the same.
    fn finish(&mut self, finish: &Finish) -> Result<bool, StoreError>;

    fn cancel(&mut self, id: JobId, tenant: Option<&str>, at: Ms) -> Result<Cancelled, StoreError>;

    /// Ends at most `limit` of the jobs that wait on disk and whose time is up; gives those.
    fn expire(&mut self, now: Ms, limit: usize) -> Result<Vec<JobId>, StoreError>;

    /// Takes at most `limit` jobs out of the hands of owners before `owner`: claimed ones are ready again; running ones too, with
    /// their attempt on record as maybe billed, save for those that may be made at most once: they end as unknown. Gives how many.
    fn rescue(&mut self, owner: Owner, now: Ms, limit: usize) -> Result<usize, StoreError>;

    /// Removes at most `limit` rows of what is kept no longer; gives how many. Lines of batches lose their bodies only: their
    /// results go with their batch.
    fn prune(&mut self, retention: &Retention, limit: usize) -> Result<usize, StoreError>;
}
