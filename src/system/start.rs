//! Starts the system: its threads, and on the first of them the root, which puts the rest together.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, RwLock};

use tokio::sync::{oneshot, watch};

use super::durable::Durable;
use super::handle::Forebay;
use super::root::{Root, Rooted, Shared};
use super::threads::Threads;
use crate::clock::Dice;
use crate::config::Config;
use crate::dispatcher::Admission;
use crate::messages::{Error, ErrorKind};
use crate::pool::transport::{self, Transport, TransportFactory};

/// Starts a system that differs from the ordinary one: another transport, dice that roll the same again.
pub struct Builder {
    config: Config,
    transport: Option<TransportFactory>,
    dice: Dice,
    opens_store: bool,
    #[cfg(test)]
    store: Option<(crate::store::Store, crate::clock::WallClock)>,
}

impl Builder {
    pub(super) fn new(config: Config) -> Self {
        Self {
            config,
            transport: None,
            dice: Dice::new(),
            opens_store: false,
            #[cfg(test)]
            store: None,
        }
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

    /// Opens the store with the start, whether the configuration names one or not.
    #[cfg(feature = "gateway")]
    pub(crate) fn opening_store(mut self) -> Self {
        self.opens_store = true;
        self
    }

    /// Keeps jobs in `store`, by what `wall` shows.
    #[cfg(test)]
    pub(crate) fn store(mut self, store: crate::store::Store, wall: crate::clock::WallClock) -> Self {
        self.store = Some((store, wall));
        self
    }

    /// Starts the system, and opens its store where `[store]` names one.
    ///
    /// # Errors
    /// `start_failed` when the program was built with `panic = "abort"` (supervision catches panics), no thread could be
    /// started, `threads = 0` is asked for on a thread without an actix System, or the store cannot be opened.
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
        #[cfg(test)]
        let durable = self.store.map_or_else(Durable::default, Durable::with);
        #[cfg(not(test))]
        let durable = Durable::default();
        let opens_store = self.opens_store || config.store.is_told || durable.get().is_some();
        let shared = Arc::new(Shared {
            jobs: RwLock::new(None),
            durable,
            admission: Admission::new(&config),
            config: RwLock::new(config),
            actors: RwLock::new(None),
            vitals: Arc::default(),
            draining: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
        });
        let recollections = match opens_store {
            true => shared.recollections().await?,
            false => Vec::new(),
        };
        let (failed, failure) = watch::channel(false);
        let (dice, arbiters) = (self.dice, threads.arbiters.clone());
        let (ready, started) = oneshot::channel();
        let of_root = Arc::clone(&shared);
        threads.arbiters[0].spawn_fn(move || {
            // Whoever asked may be gone: then what was started ends here.
            let _ = ready.send(Rooted::new(Root::new(of_root, factory, arbiters, dice, failed, recollections)));
        });
        let root = started.await.map_err(|_| Error::new(ErrorKind::Start, "the actors did not come up"))?;
        if !root.assembled().await {
            return Err(Error::new(ErrorKind::Start, "the actors did not come up"));
        }
        let forebay = Forebay::new(shared, root, threads, failure);
        if opens_store {
            forebay.root().keep_jobs();
        }
        Ok(forebay)
    }
}
