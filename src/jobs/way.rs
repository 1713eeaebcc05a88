//! The way from here to the dispatcher, whichever it is just now.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::config::Config;
use crate::dispatcher::{Admission, Admitted, Dispatcher, Submit};
use crate::messages::{CallId, Cancel, Durable, Error, Outcome, Request};

/// How calls get to the dispatcher. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Way {
    pub(crate) admission: Arc<Admission>,
    /// Where the dispatcher is now.
    pub(crate) dispatcher: Arc<dyn Fn() -> actix::Addr<Dispatcher> + Send + Sync>,
    /// The configuration in force.
    pub(crate) config: Arc<dyn Fn() -> Arc<Config> + Send + Sync>,
}

/// A call under way; dropped before it is over, it is called off.
pub(super) struct Underway<'a> {
    way: &'a Way,
    call: Option<CallId>,
}

impl Way {
    pub(super) fn config(&self) -> Arc<Config> {
        (self.config)()
    }

    /// Takes room for a body of so many bytes.
    pub(super) fn admit(&self, bytes: usize) -> Result<Admitted, Error> {
        self.admission.admit(bytes)
    }

    pub(super) fn set_out(
        &self,
        id: CallId,
        request: Request,
        mut admitted: Admitted,
        durable: Arc<Durable>,
        reply: oneshot::Sender<Outcome>,
    ) -> Underway<'_> {
        if let Err(error) = admitted.set_out() {
            // Whoever asked is right here.
            let _ = reply.send(Err(error));
            return Underway { way: self, call: None };
        }
        let request = Arc::new(request);
        (self.dispatcher)().do_send(Submit { id, request, admitted, seat: None, durable: Some(durable), reply });
        Underway { way: self, call: Some(id) }
    }
}

impl Underway<'_> {
    /// It has its outcome.
    pub(super) fn end(mut self) {
        self.call = None;
    }
}

impl Drop for Underway<'_> {
    fn drop(&mut self) {
        if let Some(call) = self.call {
            (self.way.dispatcher)().do_send(Cancel(call));
        }
    }
}
