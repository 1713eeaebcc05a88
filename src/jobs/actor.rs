//! The actor that has jobs run: a thin shell round the [`Window`].
//!
//! Owns which jobs are in our hands, and when something is to be done next. Hears of jobs that came (`Arrived`) or were
//! called off (`CalledOff`), of what its own tasks came to (`Begun`, `Claims`, `RunOver`, `Expired`), of jobs that wait for a
//! retry (`Retrying`), of the end (`Drain`, `Stop`) and itself, later (`WakeDue`). Says `Submit` and `Cancel` to the dispatcher.
//! When it dies, its tasks end and their calls are called off; everything is on disk, and the one that follows takes it up
//! from there like after a crash of the process.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use super::outbox::{Outbox, Sent};
use super::record::Record;
use super::registry::Registry;
use super::run::{self, Ended, Held, Run};
use super::upkeep::{self, Standing};
use super::verdict::millis;
use super::way::Way;
use super::window::{Ask, Window};
use crate::clock::Dice;
use crate::dispatcher::longest_backoff;
use crate::messages::{DeathWatch, JobId, Stop};
use crate::pool::transport::TransportFactory;
use crate::store::jobs::{Claim, Claimed, ClaimedJob, PutBack};
use crate::store::{Ms, StoreError};
use crate::telemetry::jobs as events;

/// Between two rounds of forgetting.
const PRUNE_EVERY: Duration = Duration::from_secs(600);

/// How soon a store that failed to do something is asked again.
const STORE_AGAIN: Duration = Duration::from_secs(1);

/// How the rest of the room reaches the actor.
pub(super) type Line = Addr<Jobs>;

/// Registry to actor: jobs of a queue were put into the store.
#[derive(Message, Clone, Debug)]
#[rtype(result = "()")]
pub(super) struct Arrived {
    pub(super) queue: Arc<str>,
    /// When the first of them is due, and when the first is out of time.
    pub(super) due: Ms,
    pub(super) expires_at: Ms,
}

/// Registry to actor: a job was ended, and there may be a webhook to tell.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
pub(super) struct CalledOff {
    pub(super) job: JobId,
}

/// A job's record to actor: it waits for its next attempt.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
struct Retrying(JobId);

/// What the actor's own tasks come to.
#[derive(Message)]
#[rtype(result = "()")]
enum Came {
    Begun(Result<Standing, StoreError>),
    Claims(Arc<str>, Result<Claimed, StoreError>),
    RunOver(JobId, Ended),
    Expired(Result<Option<Ms>, StoreError>),
    Pruned,
    Sent(Sent),
}

/// Actor to itself: something is to be done.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
struct WakeDue;

/// Take up nothing new and put back what is not under way; `done` is told when nothing is in our hands any more.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub(crate) struct DrainJobs {
    pub(crate) done: oneshot::Sender<()>,
}

/// What is in our hands?
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "InHand")]
pub(super) struct AskInHand;

/// What is in our hands.
#[derive(MessageResponse, Clone, Debug, Default)]
pub(super) struct InHand {
    /// Jobs with the dispatcher, by queue.
    pub(super) queues: HashMap<Arc<str>, usize>,
    /// Those whose attempt is under way.
    pub(super) running: usize,
    /// Deliveries under way.
    pub(super) delivering: usize,
}

/// Has jobs run.
pub(crate) struct Jobs {
    registry: Registry,
    way: Way,
    dice: Dice,
    window: Window,
    held: HashMap<JobId, Held>,
    outbox: Outbox,
    /// When the actor began: what was due before is spread.
    began: Ms,
    has_begun: bool,
    next_expiry: Option<Ms>,
    next_prune: Ms,
    /// Tasks of the actor's own that are under way.
    tasks: Tasks,
    /// Told when nothing is in our hands any more.
    drained: Vec<oneshot::Sender<()>>,
    is_draining: bool,
    /// The one armed timer: when, and its handle.
    armed: Option<(Ms, SpawnHandle)>,
    _watch: DeathWatch,
    #[cfg(test)]
    crash_in: Option<u32>,
}

/// The upkeep under way; it ends with the actor.
#[derive(Default)]
struct Tasks {
    begin: Option<AbortHandle>,
    expire: Option<AbortHandle>,
    prune: Option<AbortHandle>,
}

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in [&self.begin, &self.expire, &self.prune].into_iter().flatten() {
            task.abort();
        }
    }
}

impl Jobs {
    pub(crate) fn new(
        registry: Registry,
        way: Way,
        factory: &TransportFactory,
        mut dice: Dice,
        watch: DeathWatch,
    ) -> Self {
        let began = registry.now();
        Self {
            outbox: Outbox::new(registry.clone(), way.clone(), factory(), Dice::seeded(dice.number())),
            registry,
            way,
            dice,
            window: Window::default(),
            held: HashMap::new(),
            began,
            has_begun: false,
            next_expiry: None,
            next_prune: began.saturating_add(millis(PRUNE_EVERY)),
            tasks: Tasks::default(),
            drained: Vec::new(),
            is_draining: false,
            armed: None,
            _watch: watch,
            #[cfg(test)]
            crash_in: None,
        }
    }

    /// Starts `work` on this thread; what it comes to is told to us.
    fn spawn(&self, ctx: &mut Context<Self>, work: impl Future<Output = Came> + 'static) -> AbortHandle {
        let to = ctx.address();
        actix_rt::spawn(async move { to.do_send(work.await) }).abort_handle()
    }

    fn begin(&mut self, ctx: &mut Context<Self>) {
        let registry = self.registry.clone();
        self.tasks.begin = Some(self.spawn(ctx, async move { Came::Begun(upkeep::begin(&registry).await) }));
    }

    /// Does whatever is to be done now, and arms the timer for what is to be done next.
    fn go_on(&mut self, ctx: &mut Context<Self>) {
        #[cfg(test)]
        if let Some(left) = &mut self.crash_in {
            *left = left.saturating_sub(1);
            assert!(*left > 0, "a planted crash of the jobs' actor");
        }
        if !self.has_begun || self.is_draining {
            return self.tell_drained();
        }
        let now = self.registry.now();
        while let Some(ask) = self.window.ask(now) {
            self.claim(ask, now, ctx);
        }
        if self.next_expiry.is_some_and(|at| at <= now) && self.tasks.expire.is_none() {
            let registry = self.registry.clone();
            self.next_expiry = None; // what is said meanwhile comes on top of what it finds
            self.tasks.expire = Some(self.spawn(ctx, async move { Came::Expired(upkeep::expire(&registry).await) }));
        }
        if self.next_prune <= now && self.tasks.prune.is_none() {
            let (registry, keep) = (self.registry.clone(), self.way.config().store.keep_results_for);
            self.tasks.prune = Some(self.spawn(ctx, async move {
                // What could not be forgotten now is forgotten later.
                drop(upkeep::prune(&registry, keep).await);
                Came::Pruned
            }));
        }
        let to = ctx.address();
        self.outbox.go_on(now, move |sent| to.do_send(Came::Sent(sent)));
        let expiry = self.next_expiry.filter(|_| self.tasks.expire.is_none());
        let prune = Some(self.next_prune).filter(|_| self.tasks.prune.is_none());
        let next = [self.window.next_at(), expiry, prune, self.outbox.next_at()].into_iter().flatten().min();
        self.arm(next, now, ctx);
    }

    /// Keeps exactly one timer armed.
    fn arm(&mut self, next: Option<Ms>, now: Ms, ctx: &mut Context<Self>) {
        let Some(next) = next else { return };
        if let Some((at, handle)) = self.armed {
            if at <= next {
                return; // wakes early at worst, and arms again
            }
            ctx.cancel_future(handle);
        }
        let wait = u64::try_from(next.saturating_sub(now)).unwrap_or(0).max(1);
        self.armed = Some((next, ctx.notify_later(WakeDue, Duration::from_millis(wait))));
    }

    fn claim(&mut self, ask: Ask, now: Ms, ctx: &mut Context<Self>) {
        let Ask { queue, limit, max_bytes } = ask;
        let claim = Claim { owner: self.registry.store().owner(), queue: Arc::clone(&queue), now, limit, max_bytes };
        let claimed = self.registry.store().write(move |changes| changes.claim(&claim));
        self.spawn(ctx, async move { Came::Claims(queue, claimed.await) });
    }

    /// Takes a claimed job in hand and sends it on its way.
    fn take(&mut self, job: ClaimedJob, queue: &Arc<str>, ctx: &mut Context<Self>) {
        let to = ctx.address();
        let waits = to.clone();
        let record = Record::new(self.registry.clone(), &job, Box::new(move |job| waits.do_send(Retrying(job))));
        let id = job.id;
        let delay = self.delay(&job, queue);
        let run = Run { job, record, registry: self.registry.clone(), way: self.way.clone(), delay };
        let held = run::hold(run, Arc::clone(queue), move |job, ended| to.do_send(Came::RunOver(job, ended)));
        self.held.insert(id, held);
    }

    /// How much later a job sets out: retries that came due while nobody was there do not go all at once.
    fn delay(&mut self, job: &ClaimedJob, queue: &str) -> Duration {
        if job.attempts == 0 || job.due > self.began {
            return Duration::ZERO;
        }
        // As they were spread at first: by the backoff behind their attempts.
        let config = self.way.config();
        let upstream = config.targets(queue).into_iter().find_map(|(name, _)| config.upstreams.get(&name));
        let backoff = upstream.map(|section| longest_backoff(&section.retry, job.attempts));
        self.dice.up_to(backoff.unwrap_or_default())
    }

    /// Puts a job back on disk that has no attempt under way.
    fn put_back(&mut self, job: JobId) {
        let Some(held) = self.held.get(&job).filter(|held| held.record.close_if_idle()) else { return };
        let back = PutBack { owner: self.registry.store().owner(), job, due: None };
        let again = held.record.untold(None, self.registry.now());
        // Handed over by the call: the store writes it before it is closed.
        drop(self.registry.store().write(move |changes| {
            if let Some(again) = again {
                changes.again(&again)?;
            }
            changes.put_back(&back)
        }));
        self.let_go(job);
    }

    /// A job is in our hands no longer.
    fn let_go(&mut self, job: JobId) {
        if let Some(held) = self.held.remove(&job) {
            self.window.is_back(&held.queue, held.size);
        }
    }

    /// A job that waits on disk is out of time then.
    fn expires(&mut self, at: Option<Ms>) {
        self.next_expiry = self.next_expiry.into_iter().chain(at).min();
    }

    fn tell_drained(&mut self) {
        if self.is_draining && self.held.is_empty() {
            for done in self.drained.drain(..) {
                // Nobody waits for it any more: nothing to tell.
                let _ = done.send(());
            }
        }
    }
}

#[cfg(feature = "gateway")]
impl Jobs {
    /// Within the actor: should what does it crash, the actor does, and the next one has another.
    fn take_batches_forward(&self, ctx: &mut Context<Self>) {
        let way = self.way.clone();
        ctx.spawn(self.registry.batch_driver(move || way.config()).run().into_actor(self));
    }
}

impl Actor for Jobs {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        self.registry.reach(ctx.address());
        self.is_draining = self.registry.is_draining();
        self.begin(ctx);
        #[cfg(feature = "gateway")]
        self.take_batches_forward(ctx);
    }
}

impl Handler<Arrived> for Jobs {
    type Result = ();

    fn handle(&mut self, arrived: Arrived, ctx: &mut Context<Self>) {
        let Arrived { queue, due, expires_at } = arrived;
        self.window.is_due(&queue, due);
        self.expires(Some(expires_at));
        self.go_on(ctx);
    }
}

impl Handler<CalledOff> for Jobs {
    type Result = ();

    fn handle(&mut self, CalledOff { job }: CalledOff, ctx: &mut Context<Self>) {
        self.let_go(job);
        self.outbox.is_due(self.registry.now());
        self.go_on(ctx);
    }
}

impl Handler<Retrying> for Jobs {
    type Result = ();

    fn handle(&mut self, Retrying(job): Retrying, ctx: &mut Context<Self>) {
        if self.is_draining {
            self.put_back(job);
            self.go_on(ctx);
        } else if let Some(queue) = self.held.get(&job).map(|held| Arc::clone(&held.queue)) {
            self.window.goes(&queue);
        }
    }
}

impl Handler<Came> for Jobs {
    type Result = ();

    fn handle(&mut self, came: Came, ctx: &mut Context<Self>) {
        let now = self.registry.now();
        match came {
            Came::Begun(Ok(standing)) => {
                self.tasks.begin = None;
                self.has_begun = true;
                for depth in standing.queues {
                    self.window.is_due(&depth.queue, depth.next_due.unwrap_or(now));
                }
                self.expires(standing.next_expiry);
                standing.next_outgoing.into_iter().for_each(|at| self.outbox.is_due(at));
            }
            Came::Begun(Err(error)) => {
                events::store_failed("taking up jobs", &error);
                ctx.run_later(STORE_AGAIN, |actor, ctx| actor.begin(ctx));
            }
            Came::Claims(queue, Ok(Claimed { jobs, next_due })) => {
                self.window.claimed(&queue, jobs.iter().map(|job| job.body.len()), next_due);
                for job in jobs {
                    let id = job.id;
                    self.take(job, &queue, ctx);
                    if self.is_draining {
                        self.put_back(id);
                    }
                }
            }
            Came::Claims(queue, Err(error)) => {
                events::store_failed("claiming jobs", &error);
                self.window.failed(&queue, now.saturating_add(millis(STORE_AGAIN)));
            }
            Came::RunOver(job, ended) => self.run_over(job, ended, now),
            Came::Expired(next) => {
                self.tasks.expire = None;
                self.outbox.is_due(now);
                match next {
                    Ok(next) => self.expires(next),
                    Err(error) => {
                        events::store_failed("ending jobs whose time is up", &error);
                        self.expires(Some(now.saturating_add(millis(STORE_AGAIN))));
                    }
                }
            }
            Came::Pruned => {
                self.tasks.prune = None;
                self.next_prune = now.saturating_add(millis(PRUNE_EVERY));
            }
            Came::Sent(sent) => {
                let to = ctx.address();
                self.outbox.hear(sent, now, move |sent| to.do_send(Came::Sent(sent)));
            }
        }
        self.go_on(ctx);
    }
}

impl Jobs {
    fn run_over(&mut self, job: JobId, ended: Ended, now: Ms) {
        let Some((queue, expires_at)) = self.held.get(&job).map(|held| (Arc::clone(&held.queue), held.expires_at))
        else {
            return; // let go meanwhile
        };
        self.let_go(job);
        match ended {
            Ended::Over => {
                self.window.goes(&queue);
                self.outbox.is_due(now);
            }
            Ended::Waits { due, queue_rests } => {
                if let Some(rest) = queue_rests {
                    self.window.rest(&queue, now.saturating_add(millis(rest)));
                }
                self.window.is_due(&queue, due);
                self.expires(Some(expires_at));
            }
            Ended::LeftOpen => {}
        }
    }
}

impl Handler<WakeDue> for Jobs {
    type Result = ();

    fn handle(&mut self, _: WakeDue, ctx: &mut Context<Self>) {
        self.armed = None;
        self.go_on(ctx);
    }
}

impl Handler<DrainJobs> for Jobs {
    type Result = ();

    fn handle(&mut self, DrainJobs { done }: DrainJobs, ctx: &mut Context<Self>) {
        self.is_draining = true;
        self.drained.push(done);
        let jobs: Vec<JobId> = self.held.keys().copied().collect();
        for job in jobs {
            self.put_back(job);
        }
        self.go_on(ctx);
    }
}

impl Handler<AskInHand> for Jobs {
    type Result = InHand;

    fn handle(&mut self, _: AskInHand, _: &mut Context<Self>) -> InHand {
        let mut in_hand = InHand { delivering: self.outbox.under_way(), ..InHand::default() };
        for held in self.held.values() {
            *in_hand.queues.entry(Arc::clone(&held.queue)).or_default() += 1;
            in_hand.running += usize::from(held.record.is_under_way());
        }
        in_hand
    }
}

impl Handler<Stop> for Jobs {
    type Result = ();

    fn handle(&mut self, _: Stop, ctx: &mut Context<Self>) {
        ctx.stop();
    }
}

/// A test to actor: crash at the so-manieth message from now.
#[cfg(test)]
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
pub(crate) struct CrashJobsIn(pub(crate) u32);

#[cfg(test)]
impl Handler<CrashJobsIn> for Jobs {
    type Result = ();

    fn handle(&mut self, CrashJobsIn(messages): CrashJobsIn, _: &mut Context<Self>) {
        self.crash_in = Some(messages);
    }
}
