//! The root: a tiny actor that puts the dispatcher and the pool together, and together again when one of them dies.
//!
//! Owns nothing of a call. Hears `PartGone` from a dying dispatcher or supervisor, and `Stop`. When the dispatcher
//! dies, every call in its ledger is gone with it: the callers' replies are dropped, which the handle turns into one
//! `restarting` error each. What the accounts have used lives on: the dispatcher leaves its budgets behind, so that no
//! cap is exceeded by a fresh start. Too many deaths within a minute are more than a restart can cure: the root gives up,
//! and says so.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::{oneshot, watch};
use tokio::task::AbortHandle;

use super::durable::Durable;
use super::remembering;
use crate::clock::{self, Dice, Instant};
use crate::config::Config;
use crate::dispatcher::{Admission, Dispatcher, Legacy, PoolLine, draining, restarting};
use crate::jobs::{Jobs, Way};
use crate::messages::{DeathWatch, Drain, Error, Part, PartGone, Recollection, Stop};
use crate::pool::transport::TransportFactory;
use crate::pool::{Lines, Supervisor, Vitals};
use crate::telemetry::events;

/// So many deaths within [`WINDOW`] end the system.
const DEATHS: usize = 3;
const WINDOW: Duration = Duration::from_secs(60);

/// The addresses of the two actors that hold the system together.
pub(super) struct Actors {
    pub(super) dispatcher: Addr<Dispatcher>,
    pub(super) supervisor: Addr<Supervisor>,
}

/// What the handle and the root share.
pub(super) struct Shared {
    pub(super) config: RwLock<Arc<Config>>,
    /// `None` until the root has started.
    pub(super) actors: RwLock<Option<Actors>>,
    /// What has jobs run; `None` while no store is open.
    pub(super) jobs: RwLock<Option<Addr<Jobs>>>,
    pub(super) durable: Durable,
    pub(super) admission: Arc<Admission>,
    /// How the pool is.
    pub(super) vitals: Arc<Vitals>,
    /// It is being shut down: no dispatcher takes new calls, not one that follows a crash either.
    pub(super) draining: AtomicBool,
    /// It was shut down: calls that find nobody are late, not unlucky.
    pub(super) stopped: AtomicBool,
}

impl Shared {
    /// What a call is told whose dispatcher is no more.
    pub(super) fn nobody_there(&self) -> Error {
        if self.stopped.load(Ordering::Relaxed) { draining() } else { restarting() }
    }

    /// The dispatcher of now.
    ///
    /// # Panics
    /// Never behind the start: the system is together before anybody asks.
    pub(super) fn dispatcher(&self) -> Addr<Dispatcher> {
        let actors = self.actors.read().unwrap_or_else(PoisonError::into_inner);
        actors.as_ref().expect("together before there is a handle").dispatcher.clone()
    }

    pub(super) fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The running system, from outside. It ends when this is dropped: the parts hold on to each other and to the root.
pub(super) struct Rooted(Addr<Root>);

impl Rooted {
    pub(super) fn new(root: Root) -> Self {
        Self(root.start())
    }

    /// Waits until the system is together.
    pub(super) async fn assembled(&self) -> bool {
        self.0.send(Hello).await.is_ok()
    }

    /// Has the jobs of the open store run.
    pub(super) fn keep_jobs(&self) {
        self.0.do_send(KeepJobs);
    }

    pub(super) fn stop(&self) {
        self.0.do_send(Stop);
    }
}

impl Drop for Rooted {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Handle to root: answered when the system is together.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
struct Hello;

/// Handle to root: a store is open, its jobs are to run.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
struct KeepJobs;

/// Puts the system together on the thread it lives on.
pub(super) struct Root {
    shared: Arc<Shared>,
    factory: TransportFactory,
    arbiters: Vec<actix_rt::ArbiterHandle>,
    dice: Dice,
    legacy: Legacy,
    assembly: u32,
    /// Which of the jobs' actors is the last.
    jobs: u32,
    /// What keeps what was learned of accounts.
    remembers: Option<AbortHandle>,
    deaths: VecDeque<Instant>,
    failed: watch::Sender<bool>,
}

impl Root {
    pub(super) fn new(
        shared: Arc<Shared>,
        factory: TransportFactory,
        arbiters: Vec<actix_rt::ArbiterHandle>,
        dice: Dice,
        failed: watch::Sender<bool>,
        recollections: Vec<Recollection>,
    ) -> Self {
        let legacy = Legacy::of_earlier(recollections);
        Self {
            shared,
            factory,
            arbiters,
            dice,
            legacy,
            assembly: 0,
            jobs: 0,
            remembers: None,
            deaths: VecDeque::new(),
            failed,
        }
    }

    /// Starts dispatcher and pool and draws the lines between them.
    fn assemble(&mut self, ctx: &mut Context<Self>) {
        self.assembly += 1;
        self.shared.vitals.set_unready(false);
        // Held until the new ones are there: a configuration that comes meanwhile is told to them.
        let shared = Arc::clone(&self.shared);
        let mut current = shared.actors.write().unwrap_or_else(PoisonError::into_inner);
        let config = self.shared.config();
        let pool = config.pool.clone();
        let watch = DeathWatch::new(ctx.address().recipient(), self.assembly, Part::Supervisor);
        let dispatcher = Dispatcher::new(
            config,
            Arc::clone(&self.shared.admission),
            Dice::seeded(self.dice.number()),
            self.legacy.clone(),
            watch.over(Part::Dispatcher),
        )
        .start();
        if self.shared.draining.load(Ordering::Relaxed) {
            // Whoever waits for the end waits for the end of the one before.
            dispatcher.do_send(Drain { done: oneshot::channel().0 });
        }
        let to = dispatcher.clone();
        let (arbiters, factory, vitals) = (&self.arbiters, &self.factory, Arc::clone(&self.shared.vitals));
        let supervisor = Supervisor::create(|ctx| {
            let lines = Lines {
                up: to.clone().recipient(),
                opened: to.clone().recipient(),
                attempted: to.clone().recipient(),
                gone: [to.recipient(), ctx.address().recipient()],
            };
            Supervisor::new(arbiters, factory, lines, pool, vitals, watch, ctx)
        });
        dispatcher.do_send(PoolLine(supervisor.clone().recipient()));
        let actors = Actors { dispatcher, supervisor };
        if let Some(old) = current.replace(actors) {
            old.stop();
        }
    }

    /// Starts what has jobs run, beside the dispatcher.
    fn start_jobs(&mut self, ctx: &mut Context<Self>) {
        let Some(registry) = self.shared.durable.get().cloned() else { return };
        self.jobs += 1;
        let (shared, of_config) = (Arc::clone(&self.shared), Arc::clone(&self.shared));
        let way = Way {
            admission: Arc::clone(&self.shared.admission),
            dispatcher: Arc::new(move || shared.dispatcher()),
            config: Arc::new(move || of_config.config()),
        };
        let dice = Dice::seeded(self.dice.number());
        let watch = DeathWatch::new(ctx.address().recipient(), self.jobs, Part::Jobs);
        let jobs = Jobs::new(registry, way, &self.factory, dice, watch).start();
        *self.shared.jobs.write().unwrap_or_else(PoisonError::into_inner) = Some(jobs);
    }

    /// Whether the system bears another death.
    fn bears_a_death(&mut self) -> bool {
        let now = clock::now();
        while self.deaths.front().is_some_and(|at| *at + WINDOW <= now) {
            self.deaths.pop_front();
        }
        self.deaths.push_back(now);
        self.deaths.len() < DEATHS
    }

    fn give_up(&mut self) {
        events::system_failed(DEATHS, WINDOW);
        self.assembly += 1;
        self.jobs += 1;
        self.stop_actors();
        self.failed.send_replace(true);
    }

    fn stop_actors(&self) {
        if let Some(jobs) = &*self.shared.jobs.read().unwrap_or_else(PoisonError::into_inner) {
            jobs.do_send(Stop);
        }
        self.stop_assembly();
    }

    fn stop_assembly(&self) {
        if let Some(actors) = &*self.shared.actors.read().unwrap_or_else(PoisonError::into_inner) {
            actors.stop();
        }
    }
}

impl Actors {
    /// The supervisor first: it would replace the request actors that go with the dispatcher.
    fn stop(&self) {
        self.supervisor.do_send(Stop);
        self.dispatcher.do_send(Stop);
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        if let Some(remembers) = &self.remembers {
            remembers.abort();
        }
    }
}

impl Actor for Root {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        self.assemble(ctx);
    }
}

impl Handler<Hello> for Root {
    type Result = ();

    fn handle(&mut self, _: Hello, _: &mut Context<Self>) {}
}

impl Handler<PartGone> for Root {
    type Result = ();

    fn handle(&mut self, gone: PartGone, ctx: &mut Context<Self>) {
        let is_last = if gone.part == Part::Jobs { gone.assembly == self.jobs } else { gone.assembly == self.assembly };
        if !is_last {
            return;
        }
        events::part_died(gone.part);
        if gone.part == Part::Jobs {
            // Everything is on disk: the next one takes it up there.
            return match self.bears_a_death() {
                true => self.start_jobs(ctx),
                false => self.give_up(),
            };
        }
        if gone.part != Part::Dispatcher {
            // The dispatcher goes with it, and leaves what its accounts have used; its own death is the one that counts.
            return self.stop_assembly();
        }
        if self.bears_a_death() {
            self.assemble(ctx);
        } else {
            self.give_up();
        }
    }
}

impl Handler<KeepJobs> for Root {
    type Result = ();

    fn handle(&mut self, _: KeepJobs, ctx: &mut Context<Self>) {
        if self.jobs == 0
            && let Some(registry) = self.shared.durable.get().cloned()
        {
            self.start_jobs(ctx);
            let remembers = remembering::remember(Arc::clone(&self.shared), registry);
            self.remembers = Some(actix_rt::spawn(remembers).abort_handle());
        }
    }
}

impl Handler<Stop> for Root {
    type Result = ();

    fn handle(&mut self, _: Stop, ctx: &mut Context<Self>) {
        // What dies from here on is meant to.
        self.assembly += 1;
        self.jobs += 1;
        self.stop_actors();
        ctx.stop();
    }
}
