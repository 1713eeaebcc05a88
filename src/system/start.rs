//! Starts the system: threads, dispatcher, pool, and the lines between them.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use actix::prelude::*;
use tokio::sync::oneshot;

use super::handle::{Actors, Forebay};
use super::threads::Threads;
use crate::clock::Dice;
use crate::config::Config;
use crate::dispatcher::{Admission, Dispatcher, PoolLine};
use crate::messages::{Error, ErrorKind};
use crate::pool::transport::{self, Transport, TransportFactory};
use crate::pool::{Lines, Supervisor};

/// Starts a system that differs from the ordinary one: another transport, dice that roll the same again.
pub struct Builder {
    config: Config,
    transport: Option<TransportFactory>,
    dice: Dice,
}

impl Builder {
    pub(super) fn new(config: Config) -> Self {
        Self { config, transport: None, dice: Dice::new() }
    }

    /// Carries exchanges by what `open` makes, called once on each thread of the pool, instead of by HTTP.
    #[must_use]
    pub fn transport<T: Transport>(mut self, open: impl Fn() -> T + Send + Sync + 'static) -> Self {
        self.transport = Some(Arc::new(move || std::rc::Rc::new(open())));
        self
    }

    /// Rolls the same dice for the same seed.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.dice = Dice::seeded(seed);
        self
    }

    /// Starts the system.
    ///
    /// # Errors
    /// `start_failed` when the program was built with `panic = "abort"` (supervision catches panics), no thread could be
    /// started, a trust file could not be read, or `threads = 0` is asked for on a thread without an actix System.
    pub async fn start(self) -> Result<Forebay, Error> {
        if cfg!(panic = "abort") {
            return Err(Error::new(
                ErrorKind::Start,
                "this program was built with panic = \"abort\": one crash would end it whole; build it with panic = \"unwind\"",
            ));
        }
        let config = Arc::new(self.config);
        let factory = match self.transport {
            Some(factory) => factory,
            None => transport::http(),
        };
        let threads = match config.pool.threads {
            0 => Threads::of_caller()?,
            count => Threads::own(count).await?,
        };
        let admission = Admission::new(config.queue.max_bytes);
        let unready = Arc::new(AtomicBool::new(false));
        let parts = Parts {
            config: Arc::clone(&config),
            factory,
            dice: self.dice,
            admission: Arc::clone(&admission),
            unready: Arc::clone(&unready),
            arbiters: threads.arbiters.clone(),
        };
        let (ready, started) = oneshot::channel();
        let first = &threads.arbiters[0];
        first.spawn(async move {
            // Whoever asked may be gone: then the actors go with their addresses.
            let _ = ready.send(parts.assemble());
        });
        let actors = started.await.map_err(|_| Error::new(ErrorKind::Start, "the actors did not come up"))?;
        Ok(Forebay::new(config, actors, threads, admission, unready))
    }
}

/// What the first thread needs to put the system together.
struct Parts {
    config: Arc<Config>,
    factory: TransportFactory,
    dice: Dice,
    admission: Arc<Admission>,
    unready: Arc<AtomicBool>,
    arbiters: Vec<actix_rt::ArbiterHandle>,
}

impl Parts {
    /// Starts the actors on the current thread and draws the lines between them.
    fn assemble(self) -> Actors {
        let Self { config, factory, dice, admission, unready, arbiters } = self;
        let pool = config.pool.clone();
        let dispatcher = Dispatcher::new(config, admission, dice).start();
        let to = dispatcher.clone();
        let supervisor = Supervisor::create(move |ctx| {
            let lines = Lines {
                up: to.clone().recipient(),
                opened: to.clone().recipient(),
                attempted: to.clone().recipient(),
                gone: [to.recipient(), ctx.address().recipient()],
            };
            Supervisor::new(&arbiters, &factory, &lines, pool.max_restarts, pool.restart_window, unready)
        });
        dispatcher.do_send(PoolLine(supervisor.clone().recipient()));
        Actors { dispatcher, supervisor }
    }
}
