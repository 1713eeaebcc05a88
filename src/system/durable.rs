//! Durable jobs from outside: the store is opened when it is needed, and the root has its jobs run.

use std::sync::{OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

use super::handle::Forebay;
use super::remembering;
use super::root::Shared;
use crate::clock::WallClock;
use crate::config::StoreUrl;
use crate::jobs::{DrainJobs, Registry, Whose, end_error, refusal};
use crate::messages::{
    Answer, AnswerBody, Error, ErrorKind, Headers, Job, JobId, JobStatus, Meta, Outcome, Recollection,
};
use crate::store::Store;
use crate::store::jobs::{JobEnd, JobRecord};

/// The store of a system, once it is open.
#[derive(Default)]
pub(super) struct Durable {
    opened: OnceLock<Registry>,
    /// Held while the store is opened, so that it is opened once.
    opening: tokio::sync::Mutex<()>,
    /// Told when it is open.
    is_open: Notify,
}

impl Durable {
    /// What may be asked about jobs, if the store is open.
    pub(super) fn get(&self) -> Option<&Registry> {
        self.opened.get()
    }

    /// The same; opens the store at `url` where it is not open yet.
    ///
    /// # Errors
    /// `start_failed`, with the reason and the cure.
    pub(super) async fn get_or_open(&self, url: &StoreUrl) -> Result<(&Registry, bool), Error> {
        if let Some(registry) = self.opened.get() {
            return Ok((registry, false));
        }
        let _alone = self.opening.lock().await;
        if let Some(registry) = self.opened.get() {
            return Ok((registry, false));
        }
        let store = match url {
            StoreUrl::Memory => Store::memory(),
            url => open(url.clone()).await?,
        };
        let registry = self.opened.get_or_init(|| Registry::new(store, WallClock::new()));
        self.is_open.notify_waiters();
        Ok((registry, true))
    }

    /// Takes `store` for its own; `wall` is the time there.
    #[cfg(test)]
    pub(super) fn with((store, wall): (Store, WallClock)) -> Self {
        let durable = Self::default();
        durable.opened.get_or_init(|| Registry::new(store, wall));
        durable
    }
}

/// Opens the store on a thread of its own: it may have to wait for the disk.
async fn open(url: StoreUrl) -> Result<Store, Error> {
    let failed = |problem: String| Error::new(ErrorKind::Start, problem);
    let (send, opened) = oneshot::channel();
    let opener = move || drop(send.send(Store::open(&url)));
    let started = std::thread::Builder::new().name("forebay-open".into()).spawn(opener);
    started.map_err(|error| failed(format!("no thread could be started to open the store: {error}")))?;
    let opened = opened.await.map_err(|_| failed("the store could not be opened: its opener crashed".to_owned()))?;
    opened.map_err(|problem| failed(problem.to_string()))
}

impl Forebay {
    /// Accepts a job: when this resolves it is on disk, and will end with exactly one result, whatever ends this process when.
    /// Dropping the future may leave it submitted; a job with a key can be submitted again.
    ///
    /// The store (`[store] url`, a file `forebay.db` in the working directory where nothing is said) is opened with the start
    /// where the configuration names it, and otherwise here.
    ///
    /// # Errors
    /// `invalid_request` when the job is not what one must be, `model_not_found`, `idempotency_conflict` when its key names
    /// another, `overloaded` when the store can take no more now, `draining`; `start_failed` when the store cannot be opened.
    pub async fn submit(&self, job: Job) -> Result<JobId, Error> {
        let registry = self.jobs().await?;
        Ok(registry.submit(&job, &self.config()).await?.record.id)
    }

    /// The result of a job, when it has ended: the upstream's answer, or the error it ended with. Waits for it `within` so
    /// much time; dropping the future changes nothing.
    ///
    /// # Errors
    /// `not_found`; the job's own error; `deadline_exceeded` when it has not ended in time, which says nothing of the job, or
    /// when its own time was up; `cancelled` and `unknown` ends are `not_found` and `upstream_unavailable`, and say so.
    pub async fn result(&self, id: JobId, within: Duration) -> Outcome {
        // The program is everybody's: it asks for whomever it likes.
        let record = self.jobs().await?.wait(id, Whose::Anyones, within).await?;
        outcome(record)
    }

    /// What may be asked about jobs; opens the store where it is not open yet.
    pub(crate) async fn jobs(&self) -> Result<&Registry, Error> {
        let shared = self.shared();
        let config = shared.config();
        let (registry, is_new) = shared.durable.get_or_open(&config.store.url).await?;
        if is_new {
            self.root().keep_jobs();
        }
        Ok(registry)
    }

    /// What has jobs run, to crash it.
    #[cfg(test)]
    pub(crate) fn jobs_actor(&self) -> actix::Addr<crate::jobs::Jobs> {
        self.shared().jobs.read().unwrap_or_else(PoisonError::into_inner).clone().expect("a store is open")
    }

    /// Resolves, with the reason, when the store has failed for good. Never without a store.
    pub(super) async fn store_failed(&self) -> String {
        let durable = &self.shared().durable;
        loop {
            let opened = durable.is_open.notified();
            match durable.get() {
                Some(registry) => return registry.store().failed().await,
                None => opened.await,
            }
        }
    }
}

impl Shared {
    /// Opens the store where it is not open yet; gives what earlier processes learned of accounts.
    ///
    /// # Errors
    /// As [`Durable::get_or_open`].
    pub(super) async fn recollections(&self) -> Result<Vec<Recollection>, Error> {
        let (registry, _) = self.durable.get_or_open(&self.config().store.url).await?;
        remembering::recollections(registry).await.map_err(|error| {
            Error::new(ErrorKind::Start, format!("the store cannot be read: {}", refusal(error).message()))
        })
    }

    /// Has the jobs' actor put back what it holds; resolves when nothing is in its hands any more.
    pub(super) fn drain_jobs(&self) -> Option<oneshot::Receiver<()>> {
        let registry = self.durable.get()?;
        registry.drain();
        let (done, drained) = oneshot::channel();
        let jobs = self.jobs.read().unwrap_or_else(PoisonError::into_inner);
        jobs.as_ref()?.do_send(DrainJobs { done });
        Some(drained)
    }
}

/// What a job ended with, as a call would have.
fn outcome(record: JobRecord) -> Outcome {
    let ended = end_error(&record);
    let JobRecord { id, status, attempts, usage, cost_usd, end, .. } = record;
    let meta = Meta { attempts, usage, cost_usd, ..Meta::default() };
    if let Some(error) = ended {
        return Err(error.with_meta(meta));
    }
    let error = match (status, end) {
        (JobStatus::Succeeded, Some(JobEnd::Result { status, body })) => {
            return Ok(Answer { status, headers: Headers::new(), body: AnswerBody::Whole(body), meta });
        }
        (_, Some(JobEnd::Result { status, body })) => Error::upstream(status, Headers::new(), body),
        (_, Some(JobEnd::Error { status, error })) => Error::upstream(status, Headers::new(), in_envelope(&error)),
        (status, None) => {
            Error::new(ErrorKind::DeadlineExceeded, format!("{id} has not ended yet: it is {status}; ask again later"))
        }
    };
    Err(error.with_meta(meta))
}

/// The body of an error of which this stands below `error`.
fn in_envelope(error: &[u8]) -> bytes::Bytes {
    [b"{\"error\":", error, b"}"].concat().into()
}
