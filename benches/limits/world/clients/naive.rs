//! Threads that call the provider directly, with the retries of the `openai` package: two, behind half a second and one,
//! up to a quarter less by chance, or behind what the answer names when that is at most a minute.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use forebay::clock::{self, Dice};
use forebay::transport::{HttpResponse, LocalFuture, TransportError};

use super::super::provider::Provider;
use super::Way;

/// The package's figures.
const RETRIES: i32 = 2;
const FIRST_DELAY: f64 = 0.5;
const LONGEST_DELAY: f64 = 8.0;
const LONGEST_TOLD: f64 = 60.0;

pub(super) struct Naive {
    provider: Arc<Provider>,
    dice: Rc<RefCell<Dice>>,
}

impl Naive {
    pub(super) fn new(provider: Arc<Provider>, dice: Dice) -> Self {
        Self { provider, dice: Rc::new(RefCell::new(dice)) }
    }
}

impl Way for Naive {
    fn call(&self, job: usize) -> LocalFuture<Result<(), String>> {
        let (provider, dice) = (Arc::clone(&self.provider), Rc::clone(&self.dice));
        Box::pin(retried(provider, job, RETRIES, move |tries, told| {
            let own = (FIRST_DELAY * f64::powi(2.0, tries)).min(LONGEST_DELAY);
            told.filter(|told| *told <= LONGEST_TOLD)
                .unwrap_or_else(|| own * (1.0 - 0.25 * dice.borrow_mut().fraction()))
        }))
    }
}

/// Tries, and up to `retries` times again, each behind the seconds that `delay` makes of the number of retries so far and
/// what the answer said.
pub(super) async fn retried(
    provider: Arc<Provider>,
    job: usize,
    retries: i32,
    delay: impl Fn(i32, Option<f64>) -> f64,
) -> Result<(), String> {
    for tries in 0.. {
        let answer = Arc::clone(&provider).exchange(job).await;
        let told = match attempt(answer).await {
            Ok(()) => return Ok(()),
            Err(failed) if tries == retries => return Err(failed.what),
            Err(failed) => failed.told,
        };
        clock::until(clock::now() + Duration::from_secs_f64(delay(tries, told))).await;
    }
    unreachable!("the last try returns")
}

/// A failed attempt, and the seconds that it says to wait.
pub(super) struct Failed {
    pub(super) what: String,
    pub(super) told: Option<f64>,
}

/// Reads one answer to its end.
pub(super) async fn attempt(answer: Result<HttpResponse, TransportError>) -> Result<(), Failed> {
    use futures_util::TryStreamExt as _;
    let broken = |error: TransportError| Failed { what: error.detail, told: None };
    let mut answer = answer.map_err(broken)?;
    while answer.body.try_next().await.map_err(broken)?.is_some() {}
    match answer.status {
        200 => Ok(()),
        status => {
            let number = |name| answer.headers.get(name).and_then(|value| value.parse::<f64>().ok());
            let told = number("retry-after-ms").map(|ms| ms / 1_000.0).or_else(|| number("retry-after"));
            Err(Failed { what: status.to_string(), told: told.filter(|told| *told > 0.0) })
        }
    }
}
