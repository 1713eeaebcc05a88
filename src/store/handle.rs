//! How the program reaches its store.

use std::panic::resume_unwind;
#[cfg(feature = "sqlite")]
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
#[cfg(feature = "sqlite")]
use std::thread;

use tokio::sync::{oneshot, watch};

use super::engine::{Ended, Engine as _, Work, run_one, work};
use super::memory::Memory;
#[cfg(feature = "sqlite")]
use super::sqlite;
#[cfg(feature = "sqlite")]
use super::writer::{self, Line};
use super::{Changes, OpenError, Owner, Records, StoreError};
use crate::config::StoreUrl;

/// The handle everybody uses: cheap to clone, and the store stays open while there is one.
///
/// Work is handed over by the call itself, in the order of the calls, whether or not its future is awaited; the future only
/// tells how it went. A work that fails or panics leaves nothing behind; its panic goes on in whoever awaits it.
#[derive(Clone)]
pub(crate) struct Store {
    kind: Kind,
    owner: Owner,
}

#[derive(Clone)]
enum Kind {
    /// On the caller's own thread: a test in virtual time must not wait for another one, or its clock jumps.
    Memory(Arc<Mutex<Inline>>),
    #[cfg(feature = "sqlite")]
    Threads(Arc<Threads>),
}

/// The ways to the thread that writes and the one that reads. Both end with them.
#[cfg(feature = "sqlite")]
struct Threads {
    write: Line<dyn Changes>,
    read: Line<dyn Records>,
    failed: watch::Receiver<Option<String>>,
}

/// A memory store, and whether it is still open.
struct Inline {
    memory: Memory,
    is_open: bool,
}

impl Store {
    /// A store that keeps nothing beyond the process.
    pub(crate) fn memory() -> Self {
        let inline = Inline { memory: Memory::new(), is_open: true };
        Self { kind: Kind::Memory(Arc::new(Mutex::new(inline))), owner: Owner(1) }
    }

    /// Opens the store at `url`, and creates it if it is not there. Blocks: it may wait for the disk, and bring an older format
    /// up to date.
    pub(crate) fn open(url: &StoreUrl) -> Result<Self, OpenError> {
        match url {
            StoreUrl::Memory => Ok(Self::memory()),
            #[cfg(feature = "sqlite")]
            StoreUrl::Sqlite(file) => Self::open_file(file, sqlite::Options::new(super::wall_now())),
            #[cfg(not(feature = "sqlite"))]
            StoreUrl::Sqlite(_) => Err(OpenError::NotBuiltIn),
        }
    }

    /// What another process finds that opens this store in memory after ours is gone: everything, while whatever we still ask is
    /// refused.
    #[cfg(test)]
    pub(crate) fn reopened(&self) -> Self {
        #[allow(irrefutable_let_patterns)] // without sqlite there is no other kind
        let Kind::Memory(inline) = &self.kind else { panic!("a file is opened again by its name") };
        let mut gone = inline.lock().unwrap_or_else(PoisonError::into_inner);
        gone.is_open = false;
        let memory = std::mem::replace(&mut gone.memory, Memory::new());
        let inline = Inline { memory, is_open: true };
        Self { kind: Kind::Memory(Arc::new(Mutex::new(inline))), owner: Owner(self.owner.0 + 1) }
    }

    #[cfg(feature = "sqlite")]
    pub(super) fn open_file(file: &Path, options: sqlite::Options) -> Result<Self, OpenError> {
        let system = |error: std::io::Error| OpenError::System { file: file.to_owned(), detail: error.to_string() };
        let (engine, view) = sqlite::open(file, options)?;
        let owner = engine.owner();
        let (write, works) = writer::line();
        let (read, looks) = writer::line();
        let (fail, failed) = watch::channel(None);
        let thread = |name: &str| thread::Builder::new().name(name.to_owned());
        thread("store-read").spawn(move || writer::read(view, &looks)).map_err(system)?;
        thread("store-write").spawn(move || writer::write(engine, &works, &fail)).map_err(system)?;
        Ok(Self { kind: Kind::Threads(Arc::new(Threads { write, read, failed })), owner })
    }

    /// This opening: what is claimed in its name is its own.
    pub(crate) fn owner(&self) -> Owner {
        self.owner
    }

    /// Does `work` in the store: all of it, or nothing when it gives an error. Resolves when it is durable; dropping the future
    /// does not undo it. It is never refused for being too much while no more than 16,384 works wait, so keep it for what is
    /// bounded otherwise, like the ends of calls; whatever callers bring goes through [`accept`](Self::accept).
    pub(crate) fn write<T, F>(&self, work: F) -> impl Future<Output = Result<T, StoreError>> + Send + use<T, F>
    where
        T: Send + 'static,
        F: FnOnce(&mut dyn Changes) -> Result<T, StoreError> + Send + 'static,
    {
        self.hand_over(None, work)
    }

    /// As [`write`](Self::write), for what callers bring, like submissions and lines of files: it is refused as
    /// [`StoreError::Behind`] while too much waits, so that ends and starts never are. `bytes` is about what `work` holds in memory.
    pub(crate) fn accept<T, F>(
        &self,
        bytes: usize,
        work: F,
    ) -> impl Future<Output = Result<T, StoreError>> + Send + use<T, F>
    where
        T: Send + 'static,
        F: FnOnce(&mut dyn Changes) -> Result<T, StoreError> + Send + 'static,
    {
        self.hand_over(Some(bytes), work)
    }

    fn hand_over<T, F>(
        &self,
        #[cfg_attr(not(feature = "sqlite"), allow(unused_variables))] brought: Option<usize>,
        change: F,
    ) -> impl Future<Output = Result<T, StoreError>> + Send + use<T, F>
    where
        T: Send + 'static,
        F: FnOnce(&mut dyn Changes) -> Result<T, StoreError> + Send + 'static,
    {
        let (work, told) = work::<dyn Changes, _, T>(move |changes: &mut (dyn Changes + 'static)| change(changes));
        match &self.kind {
            // Its memory is bounded by whoever asked for a store that is nothing else.
            Kind::Memory(inline) => inline.lock().unwrap_or_else(PoisonError::into_inner).write(work),
            #[cfg(feature = "sqlite")]
            Kind::Threads(threads) => threads.write.hand_over(work, brought),
        }
        settled(told)
    }

    /// Reads beside whatever is written: it sees everything that was durable when it was asked for, and waits for no disk but
    /// for its own pages.
    pub(crate) fn read<T, F>(&self, read: F) -> impl Future<Output = Result<T, StoreError>> + Send + use<T, F>
    where
        T: Send + 'static,
        F: FnOnce(&dyn Records) -> Result<T, StoreError> + Send + 'static,
    {
        let (work, told) = work::<dyn Records, _, T>(move |records: &mut (dyn Records + 'static)| read(records));
        match &self.kind {
            Kind::Memory(inline) => inline.lock().unwrap_or_else(PoisonError::into_inner).read(work),
            #[cfg(feature = "sqlite")]
            Kind::Threads(threads) => threads.read.hand_over(work, None),
        }
        settled(told)
    }

    /// Closes it, for every clone of the handle: what was handed over is still written, everything later is refused.
    pub(crate) async fn close(&self) {
        match &self.kind {
            Kind::Memory(inline) => inline.lock().unwrap_or_else(PoisonError::into_inner).is_open = false,
            #[cfg(feature = "sqlite")]
            Kind::Threads(threads) => {
                // The reader first: what the writer tidies up at its end must not be in use.
                threads.read.close().await;
                threads.write.close().await;
            }
        }
    }

    /// Resolves, with the reason, when the store has failed for good: nothing that is asked of it any more will happen.
    pub(crate) fn failed(&self) -> impl Future<Output = String> + Send + use<> {
        let watched: Option<watch::Receiver<Option<String>>> = match &self.kind {
            Kind::Memory(_) => None,
            #[cfg(feature = "sqlite")]
            Kind::Threads(threads) => Some(threads.failed.clone()),
        };
        async move {
            if let Some(mut watched) = watched
                && let Ok(reason) = watched.wait_for(Option::is_some).await
                && let Some(reason) = reason.clone()
            {
                return reason;
            }
            std::future::pending().await
        }
    }
}

impl Inline {
    fn write(&mut self, mut work: Box<dyn Work<dyn Changes>>) {
        let done = if self.is_open { run_one(&mut self.memory, &mut *work) } else { Err(StoreError::Closed) };
        work.tell(done.and_then(|()| self.memory.commit()).err());
    }

    fn read(&mut self, mut work: Box<dyn Work<dyn Records>>) {
        if self.is_open {
            work.run(&mut self.memory);
        }
        work.tell((!self.is_open).then_some(StoreError::Closed));
    }
}

async fn settled<T>(told: oneshot::Receiver<Ended<T>>) -> Result<T, StoreError> {
    match told.await {
        Ok(Ok(done)) => done,
        Ok(Err(panic)) => resume_unwind(panic),
        Err(_) => Err(StoreError::Closed),
    }
}
