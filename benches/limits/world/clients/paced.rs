//! Fixed pacing by the `governor` crate, told the provider's true limits: what can be had without learning anything.
//! Attempts go one by one, in order, a retry behind those that wait already.

use std::cell::RefCell;
use std::num::NonZeroU32;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use forebay::clock::{self, Dice, Instant};
use forebay::transport::LocalFuture;
use governor::clock::Clock;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use tokio::sync::Mutex;

use super::super::provider::Provider;
use super::super::scenario::Scenario;
use super::Way;
use super::naive::attempt;

/// The usual rule of thumb for what cannot be known before.
const BYTES_PER_TOKEN: usize = 4;

/// What may go at once: one call, and tokens for the largest of them.
const CALLS_AT_ONCE: u32 = 1;
const TOKENS_AT_ONCE: u32 = 20_000;

const TRIES: i32 = 8;
const FIRST_DELAY: f64 = 0.5;
const LONGEST_DELAY: f64 = 60.0;

/// The world's clock, as governor wants it.
#[derive(Clone)]
struct Virtual(Instant);

impl Clock for Virtual {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        (clock::now() - self.0).into()
    }
}

type Limiter = RateLimiter<NotKeyed, InMemoryState, Virtual>;

pub(super) struct Paced {
    provider: Arc<Provider>,
    parts: Rc<Parts>,
}

struct Parts {
    clock: Virtual,
    calls: Limiter,
    tokens: Limiter,
    /// Whose turn it is; held while waiting, so that nobody is overtaken.
    turn: Mutex<()>,
    dice: RefCell<Dice>,
}

impl Paced {
    pub(super) fn new(scenario: &Scenario, provider: Arc<Provider>, dice: Dice) -> Self {
        let clock = Virtual(clock::now());
        let limiter = |per_minute: f64, at_once: u32| {
            let some = |number: u32| NonZeroU32::new(number).expect("more than none");
            let quota = Quota::per_minute(some((per_minute * scenario.belief) as u32)).allow_burst(some(at_once));
            RateLimiter::direct_with_clock(quota, clock.clone())
        };
        let parts = Parts {
            calls: limiter(scenario.provider.requests(), CALLS_AT_ONCE),
            tokens: limiter(scenario.provider.tokens(), TOKENS_AT_ONCE),
            clock,
            turn: Mutex::new(()),
            dice: RefCell::new(dice),
        };
        Self { provider, parts: Rc::new(parts) }
    }
}

impl Parts {
    async fn turn(&self, tokens: u32) {
        let _turn = self.turn.lock().await;
        for (limiter, cost) in [(&self.calls, 1), (&self.tokens, tokens.clamp(1, TOKENS_AT_ONCE))] {
            let cost = NonZeroU32::new(cost).expect("at least one");
            while let Err(later) = limiter.check_n(cost).expect("no more than may go at once") {
                clock::until(clock::now() + later.wait_time_from(self.clock.now())).await;
            }
        }
    }
}

impl Way for Paced {
    fn call(&self, job: usize) -> LocalFuture<Result<(), String>> {
        let (provider, parts) = (Arc::clone(&self.provider), Rc::clone(&self.parts));
        Box::pin(async move {
            let ask = provider.ask(job);
            let tokens = u32::try_from(ask.bytes / BYTES_PER_TOKEN).unwrap_or(u32::MAX) + ask.answer as u32;
            for tries in 1..=TRIES {
                parts.turn(tokens).await;
                match attempt(Arc::clone(&provider).exchange(job).await).await {
                    Ok(()) => return Ok(()),
                    Err(failed) if tries == TRIES => return Err(failed.what),
                    Err(failed) => {
                        let longest = (FIRST_DELAY * f64::powi(2.0, tries)).min(LONGEST_DELAY);
                        let own = longest * parts.dice.borrow_mut().fraction();
                        let seconds = failed.told.map_or(own, f64::ceil);
                        clock::until(clock::now() + Duration::from_secs_f64(seconds)).await;
                    }
                }
            }
            unreachable!("the last try returns")
        })
    }
}
