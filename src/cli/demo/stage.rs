//! What every strategy is played on: a provider of its own, and callers who all call at once.

use std::cell::RefCell;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use super::client::{Client, MODEL};
use super::strategies::Strategy;
use super::tally::Tally;
use crate::cli::screen::Screen;
use crate::clock;
use crate::config::Config;
use crate::messages::Account;
use crate::simulator::{Fault, Rate, Running, Settings, Simulator, Snapshot};

/// The probability of each of the four faults.
const ODDS: f64 = 0.02;
/// Time before a good answer.
const LATENCY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(250));
/// What the provider's injected 429s ask for.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How long callers, forebay among them, wait for an answer. Eight times the longest latency: what is given up on was
/// stalled, and not just slow on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(2);

/// How much is played.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    pub(super) seed: u64,
    pub(super) callers: u32,
    /// Of each caller.
    pub(super) calls: u32,
}

impl Scale {
    /// The provider's limit, in requests a second: as many as there are callers, so that the story is the same at any
    /// scale. They could make seven times as many.
    pub(super) fn limit(&self) -> u32 {
        self.callers
    }

    fn settings(&self) -> Settings {
        let mut settings = Settings { seed: self.seed, ..Settings::default() };
        settings.latency = LATENCY;
        settings.retry_after = RETRY_AFTER;
        settings.limits.requests_per_second = Some(Rate::per_second(self.limit().into()));
        settings.models = vec![MODEL.to_owned()];
        // Resets come as in `simulate --reset`: before a request's body is read, and after.
        for (fault, odds) in [
            (Fault::ResetUnread, ODDS / 2.0),
            (Fault::Reset, ODDS / 2.0),
            (Fault::Stall, ODDS),
            (Fault::RateLimited, ODDS),
            (Fault::Status(500), ODDS),
        ] {
            settings.odds.set(fault, odds);
        }
        settings
    }
}

impl fmt::Display for Scale {
    /// What is about to happen, in two lines.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, callers, calls } = self;
        let (limit, percent) = (self.limit(), ODDS * 100.0);
        write!(
            f,
            "{callers} callers make {calls} calls each to a provider that allows {limit} requests a second and answers in\n\
             50 to 250 ms. It resets, stalls, refuses (429, Retry-After: 1) and fails (500) {percent:.0} % each. Seed {seed}."
        )
    }
}

/// What the callers saw.
pub(super) struct Played {
    name: &'static str,
    tally: Tally,
    took: Duration,
}

/// One strategy's run, as both sides saw it.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) name: &'static str,
    pub(super) tally: Tally,
    /// The provider's side, after its last connection.
    pub(super) ledger: Snapshot,
    /// From the first call to the last end.
    pub(super) took: Duration,
}

/// A fresh provider, and those who are about to call it.
pub(super) struct Stage {
    provider: Running,
    config: Config,
    scale: Scale,
}

impl Stage {
    /// Starts a provider on a free port of loopback, on a thread of its own.
    pub(super) fn open(scale: Scale) -> Result<Self, String> {
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let provider = Simulator::bind(loopback, scale.settings())
            .map_err(|error| error.to_string())
            .and_then(|simulator| simulator.start_thread().map_err(|error| error.to_string()))
            .map_err(|error| format!("cannot start the flaky provider: {error}"))?;
        let config = Config::from_toml(&configuration(&provider.base_url(), scale.limit()));
        let config = config.map_err(|problems| problems.to_string())?;
        Ok(Self { provider, config, scale })
    }

    /// A client of the provider for strategies that bring none.
    pub(super) fn client(&self) -> Result<Client, String> {
        let account: Option<&Arc<Account>> = self.config.upstreams.values().flat_map(|up| &up.accounts).next();
        let account = account.ok_or("the demo's own configuration names no account")?;
        Ok(Client::new(account.clone(), TIMEOUT))
    }

    /// What forebay is told about the provider: its limit, and how long to wait. All else is as it comes.
    pub(super) fn config(&self) -> Config {
        self.config.clone()
    }

    /// All callers make all their calls by `strategy`. Dropping the future ends every call.
    pub(super) async fn play(&self, name: &'static str, strategy: &impl Strategy, screen: &mut Screen) -> Played {
        let tally = RefCell::new(Tally::default());
        let start = clock::now();
        let callers = (0..self.scale.callers).map(|caller| {
            let tally = &tally;
            async move {
                for call in 0..self.scale.calls {
                    let prompt = format!("caller {caller}, call {call}");
                    let fate = strategy.call(&prompt).await;
                    tally.borrow_mut().enter(prompt, fate);
                }
            }
        });
        let mut callers = pin!(join_all(callers));
        let line = || progress(name, &tally.borrow(), &self.provider.ledger(), start.elapsed());
        screen.show(&line());
        loop {
            let tick = clock::until(clock::now() + screen.interval());
            tokio::select! {
                biased;
                _ = &mut callers => break,
                () = tick => screen.show(&line()),
            }
        }
        screen.finish(&line());
        let took = start.elapsed();
        Played { name, tally: tally.take(), took }
    }

    /// Ends the provider, and adds its side to what was `played`.
    pub(super) async fn close(self, played: Played) -> Run {
        let ledger = self.provider.stop().await;
        let Played { name, tally, took } = played;
        Run { name, tally, ledger, took }
    }
}

fn configuration(base_url: &str, limit: u32) -> String {
    let (timeout, per_minute) = (TIMEOUT.as_secs(), u64::from(limit) * 60);
    format!(
        r#"
        [pool]
        threads = 1
        [upstreams.flaky]
        base_url = "{base_url}"
        models = ["{MODEL}"]
        answer_timeout = "{timeout}s"
        idle_timeout = "{timeout}s"
        limits = {{ requests_per_minute = {per_minute} }}
        "#
    )
}

/// A strategy's line while it runs.
fn progress(name: &str, tally: &Tally, ledger: &Snapshot, elapsed: Duration) -> String {
    let (answered, lost) = (tally.answered(), tally.lost());
    let (refused, seconds) = (ledger.limit_429s, elapsed.as_secs_f64());
    format!("{name:<24} {answered:>5} answered {lost:>5} lost {refused:>5} 429s caused {seconds:>6.1} s")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCALE: Scale = Scale { seed: 1, callers: 50, calls: 6 };

    #[test]
    fn the_provider_and_forebay_are_told_the_same_limit() {
        assert_eq!(SCALE.settings().check(), Ok(()));
        assert_eq!(SCALE.settings().limits.requests_per_second, Some(Rate::per_second(50)));
        let config = Config::from_toml(&configuration("http://127.0.0.1:1/v1", SCALE.limit())).unwrap();
        let upstream = config.upstreams.values().next().unwrap();
        assert_eq!(upstream.limits.requests_per_minute, Some(3_000));
        assert_eq!(upstream.upstream.timeouts.answer, TIMEOUT);
        assert_eq!(config.warnings, Vec::<String>::new());
    }

    #[test]
    fn a_line_of_progress_fits_a_terminal() {
        let ledger = Snapshot { limit_429s: 99_999, ..Snapshot::default() };
        let line = progress("semaphore + token bucket", &Tally::default(), &ledger, Duration::from_secs(3_600));
        assert!(line.len() < 80, "{line}");
    }
}
