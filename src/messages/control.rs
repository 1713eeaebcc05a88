//! What the outside and the composition root say to the dispatcher.

use std::sync::Arc;

use actix::prelude::*;
use tokio::sync::oneshot;

use super::{CallId, Outcome, Request};

/// Make this call. The answer comes when the call has had its turn.
#[derive(Message, Clone, Debug)]
#[rtype(result = "Outcome")]
pub struct Call {
    /// Names the call for [`Cancel`].
    pub id: CallId,
    /// What to ask.
    pub request: Arc<Request>,
}

impl Call {
    /// A call of a fresh id.
    pub fn new(request: Request) -> Self {
        Self { id: CallId::new(), request: Arc::new(request) }
    }
}

/// The caller is gone: give back the place, the budget and the upstream connection. An unknown id is ignored.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
pub struct Cancel(pub CallId);

/// Take no new calls; `done` is told when the last accepted one, streams included, has ended.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub(crate) struct Drain {
    pub(crate) done: oneshot::Sender<()>,
}

/// The time to drain is over: end what is left with 503.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
pub(crate) struct EndAll;

/// Take no new calls, and end with 503 those that are not at an upstream just now; the others go on.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
#[cfg_attr(not(feature = "gateway"), allow(dead_code))] // said by commands alone
pub(crate) struct EndWaiting;

/// Composition root to dispatcher and supervisor: end. What they hold ends with them.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
pub(crate) struct Stop;

/// Asked through the mailbox, so that a dispatcher that does not get round to it is not called healthy.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "Health")]
pub(crate) struct AskHealth;

/// How the system is, as the dispatcher and the pool say themselves.
#[derive(MessageResponse, Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Health {
    /// No new calls are taken.
    pub is_draining: bool,
    /// Request actors crash faster than the pool bears.
    pub is_pool_unready: bool,
    /// Upstreams that can take a call now or later without an operator's help.
    pub usable_upstreams: usize,
    /// Accepted calls that wait for a turn or a retry.
    pub waiting: usize,
    /// Attempts under way.
    pub in_flight: usize,
    /// Request actors there are.
    pub slots: usize,
    /// Attempts repeated although the upstream may have seen, and billed, the one before: nothing came back to tell.
    pub repeats_maybe_billed: u64,
}
