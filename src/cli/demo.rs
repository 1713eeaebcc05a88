//! `forebay demo`: the whole story in one command. Three strategies, one after the other, each against a fresh flaky
//! provider of the same seed on loopback; then a table of what each of them lost, checked against the provider's ledger.
//!
//! `stage` is provider and callers, `strategies` (with a `bucket`) are what is compared, `client` is the HTTP of those that
//! are not forebay. `tally` is what the callers saw, `verdict` holds it against the ledger, `table` shows it.

mod bucket;
mod client;
mod stage;
mod strategies;
mod table;
mod tally;
mod verdict;

use std::future::{Future as _, poll_fn};
use std::io::{self, IsTerminal, Write as _};
use std::pin::pin;
use std::process::ExitCode;
use std::task::Poll;
use std::time::Duration;

use clap::{Args, value_parser};

use super::screen::Screen;
use stage::{Run, Scale, Stage};
use strategies::{Guarded, Naive, Through};
use verdict::Verdict;

/// A strategy lost what it must not, or callers and ledger tell two stories.
const EXIT_FAILED: u8 = 1;
const EXIT_INTERRUPTED: u8 = 130;

/// How often progress is shown where no line can be rewritten.
const PLAIN: Duration = Duration::from_secs(2);

/// Shows what a flaky provider does to naive callers, to careful ones, and to those behind forebay.
#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    /// Decides the provider's faults and latencies
    #[arg(long, default_value_t = 1)]
    seed: u64,
    // Every caller has a connection, both ends of it in this process: 200 stay below the usual limit of open files.
    /// How many call at once; the provider allows as many requests a second
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = value_parser!(u16).range(1..=200))]
    callers: u16,
    /// Calls that each of them makes, one after the other
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = value_parser!(u16).range(1..=1000))]
    calls: u16,
}

/// Tells the story; 0 when it ends well, 1 when forebay lost a call or the books do not balance, 130 on Ctrl-C.
pub(crate) fn run(args: &DemoArgs) -> ExitCode {
    let scale = Scale { seed: args.seed, callers: args.callers.into(), calls: args.calls.into() };
    ExitCode::from(actix_rt::System::new().block_on(until_interrupted(scale)))
}

async fn until_interrupted(scale: Scale) -> u8 {
    let mut interrupted = pin!(tokio::signal::ctrl_c());
    // Polled once before anything is said: the handler stands from here on.
    if let Poll::Ready(Err(error)) = poll_fn(|cx| Poll::Ready(interrupted.as_mut().poll(cx))).await {
        return fail(&format!("cannot handle signals: {error}"));
    }
    say(&scale.to_string());
    let mut screen = Screen::new(PLAIN);
    let told = {
        let mut story = pin!(story(scale, &mut screen));
        tokio::select! {
            biased;
            _ = &mut interrupted => None,
            told = &mut story => Some(told),
        }
    };
    match told {
        None => {
            screen.wipe();
            let _ = writeln!(io::stderr(), "interrupted");
            EXIT_INTERRUPTED
        }
        Some(Err(problem)) => fail(&problem),
        Some(Ok(runs)) => close(&runs),
    }
}

/// The three runs, in order. Each has a provider of its own, so that none meets what another has used up.
async fn story(scale: Scale, screen: &mut Screen) -> Result<[Run; 3], String> {
    let stage = Stage::open(scale)?;
    let naive = Naive::new(stage.client()?);
    let played = stage.play("naive threads", &naive, screen).await;
    drop(naive);
    let naive = stage.close(played).await;

    let stage = Stage::open(scale)?;
    let guarded = Guarded::new(stage.client()?, scale);
    let played = stage.play("semaphore + token bucket", &guarded, screen).await;
    drop(guarded);
    let guarded = stage.close(played).await;

    let stage = Stage::open(scale)?;
    let forebay = Through::start(stage.config(), scale.seed).await?;
    let played = stage.play("forebay", &forebay, screen).await;
    forebay.end().await;
    Ok([naive, guarded, stage.close(played).await])
}

/// The table and what it says.
fn close(runs: &[Run; 3]) -> u8 {
    let colours = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let Verdict { sentences, problems } = verdict::judge(runs);
    say(&format!("\n{}\n{}", table::render(runs, colours), sentences.join("\n")));
    let codes = problems.iter().map(|problem| fail(problem));
    codes.max().unwrap_or(0)
}

/// Words for stdout. Whoever started us may have closed it: that ends nothing.
fn say(words: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{words}").and_then(|()| out.flush());
}

fn fail(problem: &str) -> u8 {
    let _ = writeln!(io::stderr(), "forebay: {problem}");
    EXIT_FAILED
}
