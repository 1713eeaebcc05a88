//! What the outside and the composition root say to the dispatcher.

use std::sync::Arc;

use actix::prelude::*;
use tokio::sync::oneshot;

use super::{CallId, Outcome, Request, SeatId};

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

/// Handle to dispatcher: a call whose body has been admitted already.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Submit {
    pub(crate) id: CallId,
    pub(crate) request: Arc<Request>,
    /// The thread the caller waits on, when it is one of the pool's.
    pub(crate) seat: Option<SeatId>,
    pub(crate) reply: oneshot::Sender<Outcome>,
}

/// Take no new calls; answered when the last accepted one has ended.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
pub(crate) struct Drain;

/// The time to drain is over: end what is left with 503.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
pub(crate) struct EndAll;

/// Asked through the mailbox, so that a dispatcher that does not get round to it is not called healthy.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "Health")]
pub(crate) struct AskHealth;

/// What the dispatcher says of itself.
#[derive(MessageResponse, Clone, Debug)]
pub(crate) struct Health {
    pub(crate) draining: bool,
    /// Upstreams that can take a call now or later without an operator's help.
    pub(crate) usable_upstreams: usize,
    /// Accepted calls that wait for a turn or a retry.
    pub(crate) waiting: usize,
    pub(crate) in_flight: usize,
    pub(crate) slots: usize,
}
