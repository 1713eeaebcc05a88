//! What a kind of store is to whoever drives it: transactions of many works, each of which is taken back alone when it fails.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use tokio::sync::oneshot;

use super::{Changes, StoreError};

/// A kind of store. Works run between `begin` and `commit`, each between `mark` and either `keep` or `undo`.
pub(super) trait Engine: Changes + 'static {
    fn begin(&mut self) -> Result<(), StoreError>;

    /// What follows can be taken back to here.
    fn mark(&mut self) -> Result<(), StoreError>;

    fn keep(&mut self) -> Result<(), StoreError>;

    fn undo(&mut self) -> Result<(), StoreError>;

    /// Returns when everything kept since `begin` will outlive whatever this kind outlives. After an error nothing of it is
    /// there, save for [`StoreError::Io`].
    fn commit(&mut self) -> Result<(), StoreError>;

    /// Gives up what was not committed.
    fn abandon(&mut self) {}

    /// How many bytes of bodies were brought since `begin`.
    fn brought(&self) -> usize {
        0
    }

    /// Why it can do nothing more, if so.
    fn broken(&self) -> Option<String> {
        None
    }

    /// Does a bite of what can wait for idle times. `true`: there is no more of it.
    fn tidy(&mut self) -> bool {
        true
    }

    /// Nothing more will be asked of it.
    fn close(&mut self) {}
}

/// What somebody wants done in a store, and who waits for it.
pub(super) trait Work<S: ?Sized>: Send {
    /// Does it. `false`: it failed, and what it changed is to be taken back.
    fn run(&mut self, store: &mut S) -> bool;

    /// Tells whoever waits how it went, or why it did not count.
    fn tell(self: Box<Self>, lost: Option<StoreError>);
}

/// How a work ended: with its panic, if it panicked, which goes on where the work came from.
pub(super) type Ended<T> = thread::Result<Result<T, StoreError>>;

struct Waiting<F, T> {
    work: Option<F>,
    ended: Option<Ended<T>>,
    waits: oneshot::Sender<Ended<T>>,
}

/// A work, and where it will be told how it went; that it was dropped unsaid means that there is no store any more.
pub(super) fn work<S, F, T>(work: F) -> (Box<dyn Work<S>>, oneshot::Receiver<Ended<T>>)
where
    S: ?Sized + 'static,
    F: FnOnce(&mut S) -> Result<T, StoreError> + Send + 'static,
    T: Send + 'static,
{
    let (waits, told) = oneshot::channel();
    (Box::new(Waiting { work: Some(work), ended: None, waits }), told)
}

impl<S, F, T> Work<S> for Waiting<F, T>
where
    S: ?Sized,
    F: FnOnce(&mut S) -> Result<T, StoreError> + Send,
    T: Send,
{
    fn run(&mut self, store: &mut S) -> bool {
        let Some(work) = self.work.take() else { return false };
        let ended = catch_unwind(AssertUnwindSafe(|| work(store)));
        let is_good = matches!(ended, Ok(Ok(_)));
        self.ended = Some(ended);
        is_good
    }

    fn tell(self: Box<Self>, lost: Option<StoreError>) {
        let Self { ended, waits, .. } = *self;
        let ended = match (ended, lost) {
            (None | Some(Ok(Ok(_))), Some(error)) => Ok(Err(error)),
            (Some(ended), _) => ended,
            (None, None) => return,
        };
        // Nobody may wait any more: what was done is done all the same.
        let _ = waits.send(ended);
    }
}

/// Does one work within a transaction, all of it or nothing. An error is the engine's own: the transaction cannot go on.
pub(super) fn run_one<E: Engine>(engine: &mut E, work: &mut dyn Work<dyn Changes>) -> Result<(), StoreError> {
    engine.mark()?;
    if work.run(engine) { engine.keep() } else { engine.undo() }
}
