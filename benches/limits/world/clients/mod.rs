//! Who calls the provider: forebay, and what people do without it.

mod forebay;
mod naive;
mod paced;
mod throttled;

use std::rc::Rc;
use std::sync::Arc;

use ::forebay::clock::Dice;
use ::forebay::transport::LocalFuture;

use super::provider::Provider;
use super::scenario::Scenario;

/// What an operator could put between callers and provider.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Client {
    /// Threads with the `openai` package's own retries.
    Naive,
    /// A semaphore and a token bucket before that, as articles have it.
    Throttled,
    /// Fixed pacing by the `governor` crate on exactly configured limits.
    Paced,
    /// This program.
    Forebay,
}

impl Client {
    /// All of them.
    pub const ALL: [Client; 4] = [Client::Naive, Client::Throttled, Client::Paced, Client::Forebay];

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Client::Naive => "naive",
            Client::Throttled => "throttled",
            Client::Paced => "paced",
            Client::Forebay => "forebay",
        }
    }
}

/// One process's way to the provider.
pub trait Way {
    /// Makes the call of `job` and sees it to its end; an error is one that the caller gets.
    fn call(&self, job: usize) -> LocalFuture<Result<(), String>>;

    /// Ends what runs besides calls.
    fn close(&self) -> LocalFuture<()> {
        Box::pin(std::future::ready(()))
    }
}

/// Opens `client` in one process.
pub async fn open(client: Client, scenario: &Scenario, provider: &Arc<Provider>, dice: Dice) -> Rc<dyn Way> {
    let provider = Arc::clone(provider);
    match client {
        Client::Naive => Rc::new(naive::Naive::new(provider, dice)),
        Client::Throttled => Rc::new(throttled::Throttled::new(scenario, provider, dice)),
        Client::Paced => Rc::new(paced::Paced::new(scenario, provider, dice)),
        Client::Forebay => Rc::new(forebay::Through::start(scenario, provider, dice).await),
    }
}
