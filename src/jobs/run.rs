//! One claimed job, from our hands to its end, or back to where it waits.

use std::future::{Future as _, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::oneshot;

use super::record::{Keeper, Record};
use super::registry::Registry;
use super::verdict::{self, Facts, Verdict};
use super::way::Way;
use crate::clock;
use crate::dispatcher::restarting;
use crate::messages::{CallId, Durable, Error, ErrorKind, JobId, Outcome, Request};
use crate::store::jobs::{ClaimedJob, Finish, PutBack};
use crate::store::{Changes, Ms, StoreError};
use crate::telemetry::jobs as events;

/// How long it is waited before a store that had no room is asked again, at first and at most.
const ROOM_AFTER: Duration = Duration::from_secs(1);
const ROOM_AFTER_MOST: Duration = Duration::from_secs(30);

/// A claimed job on its way.
pub(super) struct Run {
    pub(super) job: ClaimedJob,
    pub(super) record: Arc<Record>,
    pub(super) registry: Registry,
    pub(super) way: Way,
    /// It sets out so much later.
    pub(super) delay: Duration,
}

/// What became of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ended {
    /// The job has its end.
    Over,
    /// It waits on disk again, until then.
    Waits { due: Ms, queue_rests: Option<Duration> },
    /// It is still in our name on disk: whoever opens the store next takes it up.
    LeftOpen,
}

impl Run {
    /// Makes the call and writes down what comes of it. Dropping the future calls the call off; what was handed to the store
    /// is written all the same.
    pub(super) async fn make(self) -> Ended {
        let mut carried = pin!(self.outcome());
        // Polled no more behind a panic.
        let outcome = poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| carried.as_mut().poll(cx))) {
            Ok(poll) => poll,
            Err(_) => Poll::Ready(Err(Error::new(ErrorKind::WorkerCrashed, "what carried the job crashed"))),
        })
        .await;
        let (job, now) = (&self.job, self.registry.now());
        let facts = Facts { at_most_once: job.at_most_once, expires_at: job.expires_at, tried: self.record.tried() };
        let verdict = verdict::judge(&facts, outcome, now);
        if let Verdict::Waits { .. } = verdict {
            events::job_goes_back(job.id);
        }
        self.write_down(verdict, now).await
    }

    async fn outcome(&self) -> Outcome {
        let job = &self.job;
        let left = job.expires_at.saturating_sub(self.registry.now());
        let left = Duration::from_millis(u64::try_from(left).unwrap_or(0));
        if !self.delay.is_zero() {
            clock::until(clock::now() + self.delay.min(left)).await;
        }
        let left = job.expires_at.saturating_sub(self.registry.now());
        let Some(left) = u64::try_from(left).ok().filter(|left| *left > 0).map(Duration::from_millis) else {
            return Err(Error::new(ErrorKind::DeadlineExceeded, "the job's time was up before it had its turn"));
        };
        let request = Request::new(job.endpoint, job.body.clone())?
            .with_priority(job.priority)
            .with_timeout(left)
            .with_tenant(job.tenant.clone());
        let admitted = self.way.admit(job.body.len())?;
        let durable = Arc::new(Durable {
            journal: Arc::new(Keeper(Arc::clone(&self.record))),
            attempts: job.attempts,
            counted: job.counted,
            at_most_once: job.at_most_once,
        });
        let (reply, outcome) = oneshot::channel();
        let id = CallId::new();
        events::job_runs(job.id, id);
        let underway = self.way.set_out(id, request, admitted, durable, reply);
        let outcome = outcome.await;
        // What has its outcome is not to be called off.
        underway.end();
        outcome.unwrap_or_else(|_| Err(restarting()))
    }

    async fn write_down(&self, verdict: Verdict, now: Ms) -> Ended {
        let (owner, job) = (self.registry.store().owner(), self.job.id);
        match verdict {
            Verdict::Ends { status, end, attempt, usage, cost_usd } => {
                let finish = Arc::new(Finish { owner, job, attempt, status, at: now, end, usage, cost_usd });
                let written = self.until_written(move || {
                    let finish = Arc::clone(&finish);
                    move |changes: &mut dyn Changes| changes.finish(&finish)
                });
                match written.await {
                    Ok(is_first) => {
                        if is_first {
                            events::job_ended(job, status);
                        }
                        self.registry.waiters().wake(job);
                        Ended::Over
                    }
                    Err(_) => Ended::LeftOpen,
                }
            }
            Verdict::Waits { attempt, due, queue_rests } => {
                let again = self.record.untold(attempt, due.unwrap_or(now)).map(Arc::new);
                let written = self.until_written(move || {
                    let again = again.clone();
                    move |changes: &mut dyn Changes| {
                        if let Some(again) = again {
                            changes.again(&again)?;
                        }
                        changes.put_back(&PutBack { owner, job, due })
                    }
                });
                match written.await {
                    Ok(_) => Ended::Waits { due: due.unwrap_or(now), queue_rests },
                    Err(_) => Ended::LeftOpen,
                }
            }
            Verdict::LeftOpen => Ended::LeftOpen,
        }
    }

    /// Has the store do what `work` makes, again and again while it has no room: what was paid for is kept.
    async fn until_written<T, W>(&self, work: impl Fn() -> W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnOnce(&mut dyn Changes) -> Result<T, StoreError> + Send + 'static,
    {
        let mut wait = ROOM_AFTER;
        loop {
            match self.registry.store().write(work()).await {
                Err(error @ (StoreError::Full(_) | StoreError::Behind)) => {
                    events::job_not_written(self.job.id, &error);
                    clock::until(clock::now() + wait).await;
                    wait = (wait * 2).min(ROOM_AFTER_MOST);
                }
                Err(error) => {
                    events::job_not_written(self.job.id, &error);
                    return Err(error);
                }
                done => return done,
            }
        }
    }
}

/// A job that is in our hands; dropped, it is not any more: its call is called off and no attempt of it is made.
pub(super) struct Held {
    pub(super) record: Arc<Record>,
    pub(super) queue: Arc<str>,
    pub(super) size: usize,
    pub(super) expires_at: Ms,
    pub(super) task: tokio::task::AbortHandle,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.record.close();
        self.task.abort();
    }
}

/// Starts `run` on this thread; `ended` hears of its end.
pub(super) fn hold(run: Run, queue: Arc<str>, ended: impl FnOnce(JobId, Ended) + 'static) -> Held {
    let (record, size, job) = (Arc::clone(&run.record), run.job.body.len(), run.job.id);
    let expires_at = run.job.expires_at;
    let task = actix_rt::spawn(async move { ended(job, run.make().await) });
    Held { record, queue, size, expires_at, task: task.abort_handle() }
}
