//! What articles recommend: a semaphore, a token bucket on requests, and retries with jitter.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use forebay::clock::{self, Dice, Instant};
use forebay::transport::LocalFuture;
use tokio::sync::Semaphore;

use super::super::provider::Provider;
use super::super::scenario::Scenario;
use super::Way;
use super::naive::retried;

/// Calls at once.
const AT_ONCE: usize = 50;

/// How long a call waits for the bucket before it gives up, and how often it looks.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(100);

const RETRIES: i32 = 5;
const LONGEST_DELAY: f64 = 60.0;

pub(super) struct Throttled {
    provider: Arc<Provider>,
    parts: Rc<Parts>,
}

struct Parts {
    semaphore: Semaphore,
    /// Calls that may go, and since when that is so.
    bucket: RefCell<(f64, Instant)>,
    per_minute: f64,
    dice: RefCell<Dice>,
}

impl Parts {
    fn take(&self) -> bool {
        let mut bucket = self.bucket.borrow_mut();
        let (level, since) = *bucket;
        let now = clock::now();
        let level = (level + (now - since).as_secs_f64() * self.per_minute / 60.0).min(self.per_minute);
        *bucket = (if level >= 1.0 { level - 1.0 } else { level }, now);
        level >= 1.0
    }
}

impl Throttled {
    pub(super) fn new(scenario: &Scenario, provider: Arc<Provider>, dice: Dice) -> Self {
        let per_minute = scenario.provider.requests() * scenario.belief;
        let parts = Parts {
            semaphore: Semaphore::new(AT_ONCE),
            bucket: RefCell::new((per_minute, clock::now())),
            per_minute,
            dice: RefCell::new(dice),
        };
        Self { provider, parts: Rc::new(parts) }
    }
}

impl Way for Throttled {
    fn call(&self, job: usize) -> LocalFuture<Result<(), String>> {
        let (provider, parts) = (Arc::clone(&self.provider), Rc::clone(&self.parts));
        Box::pin(async move {
            let _place = parts.semaphore.acquire().await.map_err(|error| error.to_string())?;
            let began = clock::now();
            while !parts.take() {
                if clock::now() - began > PATIENCE {
                    return Err("no token in time".to_owned());
                }
                clock::until(clock::now() + LOOK_EVERY).await;
            }
            let delay = |tries, told: Option<f64>| {
                let own = f64::powi(2.0, tries).min(LONGEST_DELAY) + parts.dice.borrow_mut().fraction();
                told.map_or(own, f64::ceil)
            };
            retried(provider, job, RETRIES, delay).await
        })
    }
}
