//! What everybody may ask about jobs: submit one, look at it, wait for it, call it off. Goes to the store itself; the actor
//! only hears of what it has to do something about.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

#[cfg(feature = "gateway")]
use tokio::sync::Notify;

use super::actor::{Arrived, AskInHand, CalledOff, InHand, Line};
#[cfg(feature = "gateway")]
use super::batches::{Batches, Driver, Runner};
use super::submission;
use super::waiters::Waiters;
use crate::clock::{self, WallClock};
use crate::config::Config;
use crate::dispatcher::draining;
use crate::messages::{Error, ErrorKind, Job, JobId, JobStatus, JobsStatus, QueueStatus};
use crate::store::jobs::{Cancelled, JobFilter, JobRecord, QueueDepth, Submitted};
use crate::store::{Ms, Store, StoreError};
use crate::telemetry::jobs as events;

/// How long the actor may take to say what is in its hands.
const PATIENCE: Duration = Duration::from_secs(1);

/// Queues that are shown, at most.
const MOST_SHOWN: usize = 100;

/// The jobs of one store. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Registry(Arc<Inner>);

struct Inner {
    store: Store,
    wall: WallClock,
    waiters: Waiters,
    /// The actor; none before it has started, another one after it has crashed.
    actor: RwLock<Option<Line>>,
    /// Wakes what takes batches forward.
    #[cfg(feature = "gateway")]
    wake_batches: Arc<Notify>,
    /// Nothing new is accepted, and nobody waits any longer.
    draining: AtomicBool,
}

/// Whose job it must be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Whose {
    /// This tenant's; without tenants, nobody's.
    Tenants(Option<Arc<str>>),
    /// Whosever: for a program that has all tenants to itself.
    Anyones,
}

/// How a submission went.
#[derive(Clone, Debug)]
pub(crate) struct Accepted {
    pub(crate) record: JobRecord,
    /// Its key had it already.
    pub(crate) is_old: bool,
}

impl Registry {
    /// The jobs of `store`, by what `wall` shows.
    pub(crate) fn new(store: Store, wall: WallClock) -> Self {
        Self(Arc::new(Inner {
            store,
            wall,
            waiters: Waiters::default(),
            actor: RwLock::new(None),
            #[cfg(feature = "gateway")]
            wake_batches: Arc::default(),
            draining: AtomicBool::new(false),
        }))
    }

    pub(crate) fn store(&self) -> &Store {
        &self.0.store
    }

    /// Wall time in the store's measure. A jump of the system's clock moves nothing while we run.
    pub(crate) fn now(&self) -> Ms {
        self.0.wall.ms_at(clock::now())
    }

    /// The wall clock that [`Registry::now`] reads.
    pub(super) fn wall(&self) -> WallClock {
        self.0.wall
    }

    /// Files, and the batches made of them.
    #[cfg(feature = "gateway")]
    pub(crate) fn batches(&self) -> Batches {
        Batches::new(self.0.store.clone(), Arc::clone(&self.0.wake_batches))
    }

    /// What takes batches forward, by the configuration in force.
    #[cfg(feature = "gateway")]
    pub(super) fn batch_driver(&self, config: impl Fn() -> Arc<Config> + 'static) -> Driver<Self> {
        let (registry, wake) = (self.clone(), Arc::clone(&self.0.wake_batches));
        Driver::new(self.0.store.clone(), self.clone(), config, move || registry.now(), wake)
    }

    pub(super) fn waiters(&self) -> &Waiters {
        &self.0.waiters
    }

    /// The actor is reached there from now on.
    pub(super) fn reach(&self, actor: Line) {
        *self.0.actor.write().unwrap_or_else(PoisonError::into_inner) = Some(actor);
    }

    fn tell(&self, tell: impl FnOnce(&Line)) {
        // One that is gone is followed by one that looks at the disk itself.
        if let Some(actor) = &*self.0.actor.read().unwrap_or_else(PoisonError::into_inner) {
            tell(actor);
        }
    }

    /// Accepts nothing from now on; whoever waits is told how things stand.
    pub(crate) fn drain(&self) {
        self.0.draining.store(true, Ordering::Relaxed);
        self.0.waiters.wake_all();
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::Relaxed)
    }

    /// Accepts a job: when this resolves it is on disk. A future that is dropped may have submitted it all the same.
    ///
    /// # Errors
    /// `invalid_request`, `model_not_found`; `idempotency_conflict` when its key has another request; `overloaded` when the
    /// store cannot take it now, `draining`.
    pub(crate) async fn submit(&self, job: &Job, config: &Config) -> Result<Accepted, Error> {
        if self.is_draining() {
            return Err(draining());
        }
        let row = submission::row(job, None, config, self.now())?;
        let (queue, due, expires_at) = (Arc::clone(&row.queue), row.created_at, row.expires_at);
        let tenant = row.tenant.clone();
        let accepted = self.0.store.accept(row.body.len(), move |changes| {
            let submitted = changes.submit(&row)?;
            let (Submitted::New(id) | Submitted::Same(id) | Submitted::Conflict(id)) = submitted;
            Ok((submitted, changes.job(id, tenant.as_deref())?))
        });
        let (submitted, record) = accepted.await.map_err(refusal)?;
        if let Submitted::Conflict(id) = submitted {
            let message = format!("this `key` names {id} already, which asks for something else");
            return Err(Error::new(ErrorKind::IdempotencyConflict, message).with_param("key"));
        }
        let record = record.ok_or_else(|| Error::new(ErrorKind::NotFound, "the job is not there any more"))?;
        let is_old = matches!(submitted, Submitted::Same(_));
        if !is_old {
            events::job_accepted(record.id, &queue);
            self.arrived(&queue, due, expires_at);
        }
        Ok(Accepted { record, is_old })
    }

    /// Jobs of a queue were put into the store, the first of them due at `due`; the first to expire does so then.
    pub(crate) fn arrived(&self, queue: &Arc<str>, due: Ms, expires_at: Ms) {
        let arrived = Arrived { queue: Arc::clone(queue), due, expires_at };
        self.tell(|actor| actor.do_send(arrived));
    }

    /// How a job stands.
    ///
    /// # Errors
    /// `not_found` where the tenant has none of that id.
    pub(crate) async fn look(&self, id: JobId, whose: Whose) -> Result<JobRecord, Error> {
        let found = self.0.store.read(move |records| match whose {
            Whose::Tenants(tenant) => records.job(id, tenant.as_deref()),
            Whose::Anyones => records.job_of_anyone(id),
        });
        let found = found.await.map_err(refusal)?;
        found.ok_or_else(|| no_such(id))
    }

    /// The same, when the job has ended, or `within` is over.
    ///
    /// # Errors
    /// As [`Registry::look`].
    pub(crate) async fn wait(&self, id: JobId, whose: Whose, within: Duration) -> Result<JobRecord, Error> {
        let mut late = std::pin::pin!(clock::until(clock::after(clock::now(), within)));
        let wait = self.0.waiters.wait(id);
        loop {
            let mut woken = std::pin::pin!(wait.woken());
            // Counts as waiting from here on, before it is looked.
            woken.as_mut().enable();
            let record = self.look(id, whose.clone()).await?;
            if record.status.is_end() || self.is_draining() {
                return Ok(record);
            }
            tokio::select! {
                biased;
                () = woken => {}
                () = &mut late => return self.look(id, whose).await,
            }
        }
    }

    /// Jobs, newest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) async fn list(&self, filter: JobFilter) -> Result<Vec<JobRecord>, Error> {
        self.0.store.read(move |records| records.jobs(&filter)).await.map_err(refusal)
    }

    /// Calls a job off; gives how it stands then. One that has ended stays as it is.
    ///
    /// # Errors
    /// As [`Registry::look`].
    pub(crate) async fn cancel(&self, id: JobId, tenant: Option<Arc<str>>) -> Result<JobRecord, Error> {
        let at = self.now();
        let done = self.0.store.write(move |changes| {
            let cancelled = changes.cancel(id, tenant.as_deref(), at)?;
            Ok((cancelled, changes.job(id, tenant.as_deref())?))
        });
        let (cancelled, record) = done.await.map_err(refusal)?;
        if let Cancelled::Now { .. } = cancelled {
            events::job_ended(id, JobStatus::Cancelled);
            self.ended(id);
        }
        record.ok_or_else(|| no_such(id))
    }

    /// A job was ended by somebody else than the actor, which may have its call in hand.
    pub(crate) fn ended(&self, id: JobId) {
        self.0.waiters.wake(id);
        self.tell(|actor| actor.do_send(CalledOff { job: id }));
    }

    /// How jobs stand. Walks the queues: for people and dashboards.
    pub(crate) async fn status(&self) -> JobsStatus {
        let actor = self.0.actor.read().unwrap_or_else(PoisonError::into_inner).clone();
        let in_hand = match actor {
            Some(actor) => tokio::select! {
                biased;
                answer = actor.send(AskInHand) => answer.unwrap_or_default(),
                () = clock::until(clock::now() + PATIENCE) => InHand::default(),
            },
            None => InHand::default(),
        };
        let read = self.0.store.read(|records| Ok((records.queues()?, records.next_outgoing()?))).await;
        let store_failure = read.as_ref().err().map(|error| refusal(error.clone()).message().to_owned());
        let (depths, next_outgoing) = read.unwrap_or_default();
        let mut queues: BTreeMap<String, QueueStatus> = BTreeMap::new();
        for QueueDepth { queue, ready, .. } in depths {
            let shown = QueueStatus { model: queue.to_string(), ready, claimed: 0 };
            queues.insert(queue.to_string(), shown);
        }
        for (queue, claimed) in in_hand.queues {
            let model = queue.to_string();
            queues.entry(model.clone()).or_insert(QueueStatus { model, ..QueueStatus::default() }).claimed = claimed;
        }
        let mut queues: Vec<QueueStatus> = queues.into_values().collect();
        queues.sort_by_key(|queue| std::cmp::Reverse((queue.ready, queue.claimed)));
        let queues_left_out = queues.len().saturating_sub(MOST_SHOWN);
        queues.truncate(MOST_SHOWN);
        let next_webhook_in_s = next_outgoing.map(|at| at.saturating_sub(self.now()) as f64 / 1_000.0);
        JobsStatus {
            queues,
            queues_left_out,
            running: in_hand.running,
            webhooks_under_way: in_hand.delivering,
            next_webhook_in_s,
            store_failure,
        }
    }
}

#[cfg(feature = "gateway")]
impl Runner for Registry {
    fn queued(&self, queues: &std::collections::BTreeSet<Arc<str>>, expires_at: Ms) {
        let due = self.now();
        queues.iter().for_each(|queue| self.arrived(queue, due, expires_at));
    }

    fn let_go(&self, jobs: &[JobId]) {
        jobs.iter().for_each(|job| self.ended(*job));
    }
}

fn no_such(id: JobId) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no job {id}"))
}

/// What a caller is told when the store did not do what it was asked.
pub(crate) fn refusal(error: StoreError) -> Error {
    let overloaded = |message: String, wait| {
        Error::new(ErrorKind::Overloaded, message).with_retry_after(Duration::from_secs(wait)).asking_for_time()
    };
    match error {
        StoreError::Full(_) => overloaded("the store's disk is full: nothing can be accepted now".to_owned(), 30),
        StoreError::Behind => overloaded("more waits for the store's disk than it can write in time".to_owned(), 1),
        StoreError::Io(_) | StoreError::Corrupt(_) => {
            let message =
                "the store's disk has failed: what was asked may have been done or not; ask again by id or key";
            overloaded(message.to_owned(), 5)
        }
        StoreError::Closed => draining(),
    }
}
