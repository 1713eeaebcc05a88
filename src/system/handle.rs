//! The embedding face (stub: being written).

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::Admitted;
use crate::config::Config;
use crate::messages::{CallId, Error, Health, Outcome, Request, SeatId};

/// The running system.
#[derive(Clone)]
pub struct Forebay {
    config: Arc<Config>,
}

/// A thread of the system's that carries actors and, in the daemon, connections.
#[derive(Clone)]
pub(crate) struct Seat {
    pub(crate) id: SeatId,
    pub(crate) arbiter: actix_rt::ArbiterHandle,
}

/// A name that can be called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Model {
    pub(crate) id: String,
    /// The upstream's name, or `forebay` for a route.
    pub(crate) owned_by: String,
}

/// A call that runs. Dropping it cancels the call.
pub(crate) struct Pending {}

impl Future for Pending {
    type Output = Outcome;
    fn poll(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Outcome> {
        Poll::Pending
    }
}

impl Forebay {
    /// Starts the system.
    pub async fn start(config: Config) -> Result<Self, Error> {
        Ok(Self { config: Arc::new(config) })
    }
    /// Drains.
    pub async fn shutdown(&self, _within: Duration) {}
    /// Takes room for a body before it is read.
    pub(crate) fn admit(&self, _bytes: usize) -> Result<Admitted, Error> {
        unreachable!()
    }
    /// Makes the call; `seat` is the thread the caller waits on.
    pub(crate) fn begin(&self, _id: CallId, _request: Request, _admitted: Admitted, _seat: Option<SeatId>) -> Pending {
        Pending {}
    }
    /// Asks the dispatcher through its mailbox; `None` when it does not answer within a second.
    pub(crate) async fn health(&self) -> Option<Health> {
        None
    }
    /// The configuration in force.
    pub(crate) fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config)
    }
    /// Every routable name: routes, then models of usable upstreams (patterns left out), sorted.
    pub(crate) fn models(&self) -> Vec<Model> {
        Vec::new()
    }
    /// The threads of the system; never empty.
    pub(crate) fn seats(&self) -> Vec<Seat> {
        Vec::new()
    }
    /// Puts another configuration in force; accepted calls stay. `[server] listen` and `[pool] threads` need a restart.
    pub(crate) async fn reconfigure(&self, _config: Config) -> Result<(), Error> {
        Ok(())
    }
}
