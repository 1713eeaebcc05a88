//! The three strategies: naive threads, semaphore + token bucket, forebay.

use std::cell::RefCell;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::bucket::Bucket;
use super::client::{Client, Reply, chat, check};
use super::stage::Scale;
use super::tally::{Fate, Loss};
use crate::clock::{self, Dice};
use crate::config::Config;
use crate::messages::{AnswerBody, Error, ErrorKind};
use crate::system::Forebay;

/// Retries of the guarded strategy: the `openai` package's own default.
const RETRIES: u32 = 2;
/// Its first delay, and its longest.
const BASE_DELAY: Duration = Duration::from_millis(500);
const MAX_DELAY: Duration = Duration::from_secs(8);

/// Nothing is in flight at the end: no time to drain is needed.
const END_WITHIN: Duration = Duration::from_secs(1);

/// How one call is made.
pub(super) trait Strategy {
    /// Asks `prompt`, and says how that ended.
    async fn call(&self, prompt: &str) -> Fate;
}

/// Calls without a limit, without a retry, with a timeout.
pub(super) struct Naive(Client);

impl Naive {
    pub(super) fn new(client: Client) -> Self {
        Self(client)
    }
}

impl Strategy for Naive {
    async fn call(&self, prompt: &str) -> Fate {
        self.0.ask(prompt).await.fate
    }
}

/// What careful people build: a semaphore, a token bucket at the rate the provider states, and retries with exponential
/// backoff and jitter. A call honours the `Retry-After` it got. What nobody builds is the rest: that the other callers
/// honour it too.
pub(super) struct Guarded {
    client: Client,
    /// Held while a request waits for its token and while it is in flight, not while its call backs off.
    places: Semaphore,
    bucket: RefCell<Bucket>,
    dice: RefCell<Dice>,
}

impl Guarded {
    /// Half as many requests in flight as callers: three times what the rate needs at the usual latency.
    pub(super) fn new(client: Client, scale: Scale) -> Self {
        Self {
            client,
            places: Semaphore::new((scale.callers as usize).div_ceil(2)),
            bucket: RefCell::new(Bucket::new(scale.limit(), clock::now())),
            dice: RefCell::new(Dice::seeded(scale.seed)),
        }
    }

    async fn attempt(&self, prompt: &str) -> Reply {
        // It is never closed: an error cannot be.
        let _place = self.places.acquire().await;
        let wait = self.bucket.borrow_mut().take(clock::now());
        if !wait.is_zero() {
            clock::until(clock::now() + wait).await;
        }
        self.client.ask(prompt).await
    }
}

/// The wait behind the `failed`-th failure: what the provider asked for, or else uniform in a growing range.
fn backoff(failed: u32, asked: Option<Duration>, dice: &mut Dice) -> Duration {
    asked.unwrap_or_else(|| dice.up_to((BASE_DELAY * 2u32.saturating_pow(failed.saturating_sub(1))).min(MAX_DELAY)))
}

impl Strategy for Guarded {
    async fn call(&self, prompt: &str) -> Fate {
        let mut failed = 0;
        loop {
            let reply = self.attempt(prompt).await;
            failed += 1;
            if !matches!(reply.fate, Fate::Lost(_)) || failed > RETRIES {
                return reply.fate;
            }
            let wait = backoff(failed, reply.after, &mut self.dice.borrow_mut());
            clock::until(clock::now() + wait).await;
        }
    }
}

/// Calls and waits; the rest is forebay's.
pub(super) struct Through(Forebay);

impl Through {
    /// Starts forebay; `seed` decides its jitter.
    pub(super) async fn start(config: Config, seed: u64) -> Result<Self, String> {
        let started = Forebay::builder(config).seed(seed).start().await;
        started.map(Self).map_err(|error| error.to_string())
    }

    /// Ends it, its connections too.
    pub(super) async fn end(self) {
        self.0.shutdown(END_WITHIN).await;
    }
}

/// What a caller behind forebay would say its call was lost to.
fn loss(error: &Error) -> Loss {
    match error.kind() {
        ErrorKind::DeadlineExceeded => Loss::Timeout,
        ErrorKind::UpstreamUnavailable => Loss::Reset,
        ErrorKind::Upstream => Loss::of_status(error.status()),
        _ => Loss::Other,
    }
}

impl Strategy for Through {
    async fn call(&self, prompt: &str) -> Fate {
        match self.0.call(chat(prompt)).await {
            Ok(answer) => match answer.body {
                AnswerBody::Whole(body) => check(prompt, &body),
                AnswerBody::Stream(_) => Fate::Lost(Loss::Other),
            },
            Err(error) => Fate::Lost(loss(&error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_is_the_provider_s_word_or_grows_up_to_its_bound() {
        let mut dice = Dice::seeded(1);
        let asked = Duration::from_secs(1);
        assert_eq!(backoff(1, Some(asked), &mut dice), asked);
        for (failed, most) in [(1, 500), (2, 1_000), (3, 2_000), (5, 8_000), (31, 8_000)] {
            let longest = (0..500).map(|_| backoff(failed, None, &mut dice)).max().unwrap();
            let most = Duration::from_millis(most);
            assert!(longest <= most && longest > most * 9 / 10, "{failed}: {longest:?}");
        }
    }
}
