//! The threads that carry the actors: the caller's own, or some of the system's.

use std::thread;

use actix_rt::{Arbiter, ArbiterHandle, System};
use tokio::sync::oneshot;

use crate::messages::{Error, ErrorKind};

/// Threads that carry actors. Own ones end when this is dropped.
#[derive(Debug)]
pub(super) struct Threads {
    /// In the order of their seats: the dispatcher lives on the first.
    pub(super) arbiters: Vec<ArbiterHandle>,
    own: Option<System>,
}

impl Threads {
    /// The calling thread alone.
    pub(super) fn of_caller() -> Result<Self, Error> {
        let arbiter = Arbiter::try_current().ok_or_else(|| {
            Error::new(
                ErrorKind::Start,
                "[pool] threads = 0 keeps all actors on the caller's thread, which must run an actix System; set threads = 1 or more",
            )
        })?;
        Ok(Self { arbiters: vec![arbiter], own: None })
    }

    /// `count` threads of our own. They run an actix System of theirs, so it does not matter what the caller runs on.
    pub(super) async fn own(count: usize) -> Result<Self, Error> {
        let failed = |what: String| Error::new(ErrorKind::Start, format!("no thread could be started: {what}"));
        let (ready, started) = oneshot::channel();
        thread::Builder::new()
            .name("forebay-0".into())
            .spawn(move || {
                let runner = System::new();
                let system = System::current();
                let others: Result<Vec<Arbiter>, _> = (1..count).map(|_| Arbiter::try_new()).collect();
                let arbiters = others.map(|others| {
                    let first = system.arbiter().clone();
                    std::iter::once(first).chain(others.iter().map(Arbiter::handle)).collect::<Vec<_>>()
                });
                // Whoever asked may be gone: then the threads end at once.
                if ready.send(arbiters.map(|arbiters| (system.clone(), arbiters))).is_err() {
                    system.stop();
                }
                if let Err(error) = runner.run() {
                    tracing::error!(%error, "the threads' runtime ended badly");
                }
            })
            .map_err(|error| failed(error.to_string()))?;
        let (system, arbiters) = started
            .await
            .map_err(|_| failed("its runtime did not come up".into()))?
            .map_err(|error| failed(error.to_string()))?;
        Ok(Self { arbiters, own: Some(system) })
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(system) = &self.own {
            system.stop();
        }
    }
}
