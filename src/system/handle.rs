//! The handle: how a program, and the gateway, talk to the running system.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::{oneshot, watch};

use super::events::Events;
use super::remembering::remember_some;
use super::root::{Rooted, Shared};
use super::start::Builder;
use super::threads::Threads;
use crate::clock;
use crate::config::Config;
use crate::dispatcher::{Admitted, Dispatcher, Reconfigure, Submit, restarting};
use crate::messages::{
    Answer, AnswerBody, AskHealth, AskStatus, CallId, Cancel, Drain, EndAll, Error, ErrorKind, Health, Outcome,
    PoolStatus, Request, SeatId, Status,
};

/// How long the dispatcher may take to say how it is.
const PATIENCE: Duration = Duration::from_secs(1);

/// After the time to drain is over: how long the ends of calls may take to reach their callers.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The running system. Cheap to clone; the system ends when the last handle is dropped, or by [`Forebay::shutdown`].
#[derive(Clone)]
pub struct Forebay(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    root: Rooted,
    #[cfg_attr(not(feature = "gateway"), allow(dead_code))] // the threads end when it is dropped
    threads: Threads,
    failure: watch::Receiver<bool>,
}

/// A name that can be called.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Model {
    /// The name.
    pub id: String,
    /// The upstream's name, or `forebay` for a route.
    pub owned_by: String,
}

impl Forebay {
    pub(super) fn new(shared: Arc<Shared>, root: Rooted, threads: Threads, failure: watch::Receiver<bool>) -> Self {
        Self(Arc::new(Inner { shared, root, threads, failure }))
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.0.shared
    }

    pub(super) fn root(&self) -> &Rooted {
        &self.0.root
    }

    /// Starts the system on threads of its own, or with `[pool] threads = 0` on the caller's. Installs nothing
    /// process-wide. A future dropped before it resolves starts nothing that stays.
    ///
    /// # Errors
    /// See [`Builder::start`].
    pub async fn start(config: Config) -> Result<Self, Error> {
        Self::builder(config).start().await
    }

    /// Starts a system that differs from the ordinary one.
    pub fn builder(config: Config) -> Builder {
        Builder::new(config)
    }

    /// Makes a call and waits for its turn and its answer. Dropping the future cancels the call and closes its upstream
    /// connection.
    ///
    /// # Errors
    /// One row of the contract's table; an upstream's own final error is `upstream_error` with the upstream's status
    /// and body. `invalid_request` for a request that asks for a stream.
    pub async fn call(&self, request: Request) -> Outcome {
        if request.is_stream() {
            return Err(Error::new(ErrorKind::InvalidRequest, "this request asks for a stream: use stream()")
                .with_param("stream"));
        }
        let admitted = self.admit(request.body().bytes().len())?;
        self.begin(CallId::new(), request, admitted, None).await
    }

    /// Makes a streamed call; resolves with its first content. A request that does not say so itself is made to ask for
    /// a stream. Dropping the future, or the events, cancels the call.
    ///
    /// # Errors
    /// As [`Forebay::call`].
    pub async fn stream(&self, request: Request) -> Result<Events, Error> {
        let request = request.into_stream()?;
        let admitted = self.admit(request.body().bytes().len())?;
        let Answer { body, meta, .. } = self.begin(CallId::new(), request, admitted, None).await?;
        match body {
            AnswerBody::Stream(body) => Ok(Events::new(body, meta)),
            AnswerBody::Whole(_) => {
                let message = "the upstream answered a request for a stream with one whole answer";
                Err(Error::new(ErrorKind::UpstreamUnavailable, message).with_meta(meta))
            }
        }
    }

    /// The dispatcher itself, for programs that speak in messages: it takes [`Call`](crate::Call) and [`Cancel`].
    /// After a crash of the dispatcher this is another one: ask again when the address is dead.
    ///
    /// # Panics
    /// Never: the system is together before there is a handle.
    pub fn dispatcher(&self) -> Addr<Dispatcher> {
        self.0.shared.dispatcher()
    }

    /// The pool's supervisor, to kill parts of it.
    #[cfg(all(test, feature = "gateway"))] // by the simulation alone
    pub(crate) fn supervisor(&self) -> Addr<crate::pool::Supervisor> {
        let actors = self.0.shared.actors.read().unwrap_or_else(PoisonError::into_inner);
        actors.as_ref().expect("together before there is a handle").supervisor.clone()
    }

    /// Bytes of bodies held now.
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.0.shared.admission.held()
    }

    /// Calls on their way to the dispatcher now.
    #[cfg(test)]
    pub(crate) fn on_the_way(&self) -> usize {
        self.0.shared.admission.on_the_way()
    }

    /// Resolves when the system has failed for good: it has crashed three times within a minute and given up, its first
    /// thread has ended, or the disk of its store has failed. Every call ends as `restarting` from then on. Never resolves after a shutdown.
    pub async fn failed(&self) {
        let mut failure = self.0.failure.clone();
        let is_gone = tokio::select! {
            biased;
            failed = failure.wait_for(|failed| *failed) => failed.is_err(),
            _ = self.store_failed() => return,
        };
        // An error means that the root is gone: as it should be when it was told to, and with its thread otherwise.
        if is_gone && self.0.shared.stopped.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    }

    /// Drains: new calls get `draining`, accepted ones go on for at most `within`, then end with `draining`, streams with
    /// an error. Resolves when all is over. Dropping the future leaves the system draining.
    pub async fn shutdown(&self, within: Duration) {
        // Before it is asked who the dispatcher is: one that follows it knows.
        self.0.shared.draining.store(true, Ordering::Relaxed);
        let dispatcher = self.dispatcher();
        // Before the dispatcher, which would send new ones back.
        let jobs = self.0.shared.drain_jobs();
        let (done, drained) = oneshot::channel();
        dispatcher.do_send(Drain { done });
        let mut drained = std::pin::pin!(drained);
        let late = clock::until(clock::after(clock::now(), within));
        tokio::select! {
            biased;
            _ = &mut drained => {}
            () = late => {
                dispatcher.do_send(EndAll);
                let last = clock::until(clock::now() + LAST_WORDS);
                tokio::select! {
                    biased;
                    _ = &mut drained => {}
                    () = last => {}
                }
            }
        }
        if let Some(jobs) = jobs {
            tokio::select! {
                biased;
                _ = jobs => {}
                () = clock::until(clock::now() + LAST_WORDS) => {}
            }
        }
        if let Some(registry) = self.0.shared.durable.get() {
            remember_some(&self.0.shared, registry, usize::MAX).await;
            registry.store().close().await;
        }
        self.0.shared.stopped.store(true, Ordering::Relaxed);
        self.0.root.stop();
    }

    /// Takes no new calls from now on, and ends with `draining` those that wait for their turn or for another try. What is at
    /// an upstream goes on; when it fails and would be tried again, saying this once more ends it, too.
    #[cfg(feature = "gateway")]
    pub(crate) fn end_waiting(&self) {
        self.0.shared.draining.store(true, Ordering::Relaxed);
        self.dispatcher().do_send(crate::messages::EndWaiting);
    }

    /// Takes room for a body before it is read.
    pub(crate) fn admit(&self, bytes: usize) -> Result<Admitted, Error> {
        self.0.shared.admission.admit(bytes)
    }

    /// Makes the call; `seat` is the thread the caller waits on.
    pub(crate) fn begin(&self, id: CallId, request: Request, mut admitted: Admitted, seat: Option<SeatId>) -> Pending {
        let (reply, outcome) = oneshot::channel();
        if let Err(error) = admitted.set_out() {
            // The other end is right here.
            let _ = reply.send(Err(error));
            return Pending { id, outcome, handle: None };
        }
        self.dispatcher().do_send(Submit { id, request: Arc::new(request), admitted, seat, durable: None, reply });
        Pending { id, outcome, handle: Some(self.clone()) }
    }

    /// How the system is. Asks the dispatcher through its mailbox; `None` when it does not answer within a second.
    pub async fn health(&self) -> Option<Health> {
        let health = self.ask(AskHealth).await;
        let is_pool_unready = self.0.shared.vitals.is_unready();
        health.map(|health| Health { is_pool_unready, ..health })
    }

    /// How everything stands: queues, accounts and what was learned of their limits. Asks the dispatcher through its
    /// mailbox; `None` when it does not answer within a second. Costs the dispatcher milliseconds where hundreds of models
    /// are in use: for people and dashboards, not for every call.
    pub async fn status(&self) -> Option<Status> {
        let status = self.ask(AskStatus).await?;
        let vitals = &self.0.shared.vitals;
        let pool = PoolStatus { restarts: vitals.restarts(), is_unready: vitals.is_unready(), ..status.pool };
        let jobs = match self.0.shared.durable.get() {
            Some(registry) => Some(registry.status().await),
            None => None,
        };
        Some(Status { pool, body_bytes: self.0.shared.admission.held(), jobs, ..status })
    }

    /// Asks the dispatcher; `None` when it does not answer in time.
    async fn ask<M>(&self, question: M) -> Option<M::Result>
    where
        M: Message<Result: Send> + Send + 'static,
        Dispatcher: Handler<M>,
    {
        tokio::select! {
            biased;
            answer = self.dispatcher().send(question) => answer.ok(),
            () = clock::until(clock::now() + PATIENCE) => None,
        }
    }

    /// The configuration in force.
    pub fn config(&self) -> Arc<Config> {
        self.0.shared.config()
    }

    /// Every routable name: routes, then models of usable upstreams (patterns left out), sorted.
    pub fn models(&self) -> Vec<Model> {
        self.config().names().into_iter().map(|(id, owned_by)| Model { id, owned_by }).collect()
    }

    /// The threads of the system, each where its index is the seat's number; never empty.
    #[cfg(feature = "gateway")]
    pub(crate) fn arbiters(&self) -> &[actix_rt::ArbiterHandle] {
        &self.0.threads.arbiters
    }

    /// Puts another configuration in force; accepted calls stay. `[server] listen` and `[pool] threads` need a restart.
    pub fn reconfigure(&self, config: Config) {
        let config = Arc::new(config);
        // Both held until it is told: no dispatcher is replaced meanwhile, and of two configurations the same one comes last
        // everywhere.
        let actors = self.0.shared.actors.read().unwrap_or_else(PoisonError::into_inner);
        let mut current = self.0.shared.config.write().unwrap_or_else(PoisonError::into_inner);
        *current = Arc::clone(&config);
        if let Some(actors) = &*actors {
            actors.dispatcher.do_send(Reconfigure(config));
        }
    }
}

/// A call under way. Dropping it cancels the call.
pub(crate) struct Pending {
    id: CallId,
    outcome: oneshot::Receiver<Outcome>,
    /// Taken when the outcome is there: nothing is left to cancel then.
    handle: Option<Forebay>,
}

impl Future for Pending {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        Pin::new(&mut self.outcome).poll(cx).map(|outcome| {
            let handle = self.handle.take();
            outcome.unwrap_or_else(|_| Err(handle.map_or_else(restarting, |handle| handle.0.shared.nobody_there())))
        })
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(handle) = self.handle.take() {
            handle.dispatcher().do_send(Cancel(self.id));
        }
    }
}
