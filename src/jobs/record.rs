//! A job's record of its attempts: each is on disk before it is made, and each failure with the time of the next.

use std::future::ready;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::registry::Registry;
use super::verdict::{Tried, millis};
use crate::messages::{AccountId, Error, ErrorKind, Failure, JobId, Journal, Recorded};
use crate::providers::classify::{Fate, fate};
use crate::store::Ms;
use crate::store::jobs::{Again, AttemptRecord, ClaimedJob, Start};

/// The record of one job while it is in our hands.
pub(super) struct Record {
    registry: Registry,
    job: JobId,
    state: Mutex<State>,
    /// Hears when the job waits for its next attempt.
    waits: Box<dyn Fn(JobId) + Send + Sync>,
}

struct State {
    /// Attempts on record.
    attempts: u32,
    /// Those of them that count against `max_attempts`, as far as the dispatcher has said.
    counted: u32,
    /// The last of them, until its failure has been told to the store.
    tried: Option<Tried>,
    /// A failure that the store had no room for.
    unwritten: Option<Again>,
    /// It is in our hands no longer: no attempt may be made.
    is_closed: bool,
}

impl Record {
    pub(super) fn new(registry: Registry, job: &ClaimedJob, waits: Box<dyn Fn(JobId) + Send + Sync>) -> Arc<Self> {
        let state =
            State { attempts: job.attempts, counted: job.counted, tried: None, unwritten: None, is_closed: false };
        Arc::new(Self { registry, job: job.id, state: Mutex::new(state), waits })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The attempt that was made last, unless its failure has been told to the store.
    pub(super) fn tried(&self) -> Option<Tried> {
        self.state().tried.clone()
    }

    /// What is to be put on record of a job that goes again: the attempt that failed last, or one that was not written.
    pub(super) fn untold(&self, attempt: Option<(u32, AttemptRecord)>, due: Ms) -> Option<Again> {
        let mut state = self.state();
        let counted = state.counted + 1;
        let of = |(attempt, record)| Again {
            owner: self.registry.store().owner(),
            job: self.job,
            attempt,
            counted,
            record,
            due,
        };
        attempt.map(of).or_else(|| state.unwritten.take())
    }

    /// Lets no attempt be made from now on.
    pub(super) fn close(&self) {
        self.state().is_closed = true;
    }

    /// Whether an attempt is under way.
    pub(super) fn is_under_way(&self) -> bool {
        self.state().tried.as_ref().is_some_and(|tried| tried.end.is_none())
    }

    /// Lets no attempt be made from now on, unless one is under way. Gives whether it did.
    pub(super) fn close_if_idle(&self) -> bool {
        let mut state = self.state();
        let is_idle = state.tried.as_ref().is_none_or(|tried| tried.end.is_some());
        state.is_closed |= is_idle;
        is_idle
    }
}

/// What a call is told whose job is in our hands no longer; whoever held it does not listen any more.
fn let_go() -> Error {
    Error::new(ErrorKind::Draining, "the job was let go").asking_for_time()
}

/// An [`Arc`] of the record, as the dispatcher and the request actors see it.
pub(super) struct Keeper(pub(super) Arc<Record>);

impl Journal for Keeper {
    fn starting(&self, account: &AccountId) -> Recorded {
        let record = Arc::clone(&self.0);
        let number = {
            let mut state = record.state();
            if state.is_closed {
                return Box::pin(ready(Err(let_go())));
            }
            state.attempts += 1;
            // Under way from here on: if nobody waits to hear that it is on disk, nobody knows that it is not.
            state.tried = Some(Tried { number: state.attempts, end: None });
            state.attempts
        };
        let registry = &record.registry;
        let start = Start {
            owner: registry.store().owner(),
            job: record.job,
            attempt: number,
            upstream: Arc::clone(&account.upstream),
            key: u32::try_from(account.key).unwrap_or(u32::MAX),
            at: registry.now(),
        };
        let written = registry.store().write(move |changes| changes.start(&start));
        Box::pin(async move {
            let refusal = match written.await {
                Ok(true) => return Ok(()),
                Ok(false) => let_go(),
                Err(error) => super::registry::refusal(error),
            };
            let mut state = record.state();
            state.attempts = number - 1;
            state.tried = None;
            Err(refusal)
        })
    }

    fn failed(&self, failure: &Failure) {
        let now = self.0.registry.now();
        let mut state = self.0.state();
        if let Some(tried) = state.tried.as_mut().filter(|tried| tried.end.is_none()) {
            let fate = fate(failure);
            let record = AttemptRecord {
                ended_at: now,
                status: failure.status(),
                failure: Some(format!("{:?}", failure.kind)),
                maybe_billed: fate == Fate::Lost,
                ..AttemptRecord::default()
            };
            tried.end = Some((record, fate));
        }
    }

    fn again(&self, counted: u32, wait: Duration) {
        let record = Arc::clone(&self.0);
        let registry = &record.registry;
        let (number, attempt) = {
            let mut state = record.state();
            state.counted = counted;
            match state.tried.take() {
                Some(Tried { number, end: Some((attempt, _)) }) => (number, attempt),
                // Nothing was made: there is nothing to put on record.
                tried => return state.tried = tried,
            }
        };
        let again = Again {
            owner: registry.store().owner(),
            job: record.job,
            attempt: number,
            counted,
            record: attempt,
            due: registry.now().saturating_add(millis(wait)),
        };
        let untold = again.clone();
        let written = registry.store().write(move |changes| changes.again(&again));
        (record.waits)(record.job);
        actix_rt::spawn(async move {
            if written.await.is_err() {
                record.state().unwritten = Some(untold);
            }
        });
    }
}
