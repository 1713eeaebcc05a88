//! `forebay simulate`: the fault-injecting provider as a process of its own.

mod limits;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::signals::{Signals, Stop};
use crate::config::parse_duration;
use crate::simulator::{Fault, Running, Settings, Simulator, StartError};
use limits::LimitArgs;

/// What `--help` says after the flags.
const MORE: &str = "\
Every probability is 0 to 1, and together they are at most 1: at most one fault strikes a
request. The same --seed and the same order of arrival give the same faults and latencies.

Faults by request: the last user message (or the input) of a call may order its own faults, in
sequence, for the first attempts of that very body:
  [[fault:stall]]                 the first attempt stalls, the next is answered
  [[fault:status-500 x3]]         the first three attempts get a 500
  [[fault:rate-limited=0.5 x2]]   two 429 with `Retry-After: 0.5`, or any other text; with ms
                                  at its end it is a retry-after-ms
Such a call is not subject to chance. An attempt beyond a limit does not count.

Names, here and for --fault NAME=P:
  reset              the connection is reset (RST) after the request is read, unanswered
  reset-unread       reset once the head is read, before the body is
  reset-body         reset in the middle of the body; of a stream, after some of its content
  rate-limited       429 with Retry-After
  rate-limited-bare  429 without
  quota              429 insufficient_quota
  status-NNN         an error, 400 to 599; 502 and 504 with HTML, as proxies send it
  redirect           307 to another path here
  stall              no answer; the connection is held until the peer leaves
  stall-body         the same in the middle of the body
  cut-body           FIN in the middle: content-length not reached, or last chunk missing
  cut-opening        FIN after a stream's opening events, before content (whole: after the head)
  cut-unframed       FIN in the middle of a body that only the connection's end frames
  unfinished         a stream ends cleanly, but without finish reason and terminal marker
                     (whole: truncated-json)
  truncated-json     complete HTTP around broken JSON; of a stream, in one event
  garbage            bytes that are no HTTP
  informational      a 103 first, then the good answer: harmless to a client that knows HTTP
  hang-up            the good answer, then the end of a connection that was to be kept alive
  duplicate          the good answer twice: a trap for who uses the connection again
  error-first        an error event as a stream's first (whole, here and below: status-500)
  error-opening      an error event after a stream's opening events, before content
  error-midway       an error event amid a stream's content

It speaks OpenAI's protocol below /v1 and, at /v1/messages and /v1/messages/count_tokens,
Anthropic's: its streams, errors and headers (anthropic-ratelimit-*, 429 with Retry-After in
whole seconds), the same limits and faults. A client of Anthropic's takes the base URL without
/v1. As at Anthropic, max_tokens and the header anthropic-version are required there, and
x-api-key counts as the key.

Answers prove their prompt: the content is `echo HASH: TEXT`, TEXT being the prompt's first 200
characters and HASH the 64-bit FNV-1a of all of it. Chats and responses with tools are answered
by a call of the first one (of the one that tool_choice names; of all with parallel_tool_calls:
true) and, once a tool's result is the last message, by its echo; those that ask for JSON, by JSON.
Arguments and JSON fit their schema, every property has a value, and free texts are the echo; a
schema that needs more than that (a pattern) is a 400. GET /simulator/ledger says what the provider
saw, and so does the last line on stdout after SIGINT (exit code 130) or SIGTERM (0).";

/// Runs a fault-injecting provider that speaks OpenAI's protocol and Anthropic's.
#[derive(Args, Debug)]
#[command(after_help = MORE, next_line_help = false)]
pub(crate) struct SimulateArgs {
    /// Where to listen
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8788")]
    listen: SocketAddr,
    /// Allows an address that is not loopback: anyone who reaches it may call
    #[arg(long)]
    anywhere: bool,
    /// Decides faults and latencies
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Time before an answer, uniform between two ends, or one time [default: none]
    #[arg(long, value_name = "50ms-250ms", value_parser = span)]
    latency: Option<(Duration, Duration)>,
    /// Pieces in which the content of a stream comes [default: 5]
    #[arg(long, value_name = "N")]
    chunks: Option<usize>,
    /// Time between two pieces [default: 5ms]
    #[arg(long, value_name = "TIME", value_parser = time)]
    chunk_gap: Option<Duration>,
    /// A model that /v1/models lists; may be repeated; any model is answered
    #[arg(long = "model", value_name = "NAME")]
    models: Vec<String>,

    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    faults: FaultArgs,
}

/// A flag for each fault one asks for often; `--fault` reaches them all.
#[derive(Args, Debug)]
#[command(next_help_heading = "Faults")]
struct FaultArgs {
    /// Connection resets before an answer: half of them before the request's body is read, half after
    #[arg(long, value_name = "P")]
    reset: Option<f64>,
    /// Resets in the middle of a body
    #[arg(long, value_name = "P")]
    reset_body: Option<f64>,
    /// 429 with Retry-After
    #[arg(long, value_name = "P")]
    rate_limited: Option<f64>,
    /// What Retry-After says then [default: 1s; digits alone are seconds]
    #[arg(long, value_name = "TIME", value_parser = seconds_or_duration)]
    retry_after: Option<Duration>,
    /// 429 without Retry-After
    #[arg(long, value_name = "P")]
    rate_limited_bare: Option<f64>,
    /// 429 insufficient_quota
    #[arg(long, value_name = "P")]
    quota: Option<f64>,
    /// 400
    #[arg(long, value_name = "P")]
    status_400: Option<f64>,
    /// 401
    #[arg(long, value_name = "P")]
    status_401: Option<f64>,
    /// 500
    #[arg(long, value_name = "P")]
    status_500: Option<f64>,
    /// 502
    #[arg(long, value_name = "P")]
    status_502: Option<f64>,
    /// 503
    #[arg(long, value_name = "P")]
    status_503: Option<f64>,
    /// The Retry-After of those 503 [default: none]
    #[arg(long, value_name = "TIME", value_parser = seconds_or_duration)]
    retry_after_503: Option<Duration>,
    /// Redirects
    #[arg(long, value_name = "P")]
    redirect: Option<f64>,
    /// Calls that are never answered
    #[arg(long, value_name = "P")]
    stall: Option<f64>,
    /// Calls whose answer stalls in its middle
    #[arg(long, value_name = "P")]
    stall_body: Option<f64>,
    /// Bodies cut off in their middle
    #[arg(long, value_name = "P")]
    cut_body: Option<f64>,
    /// Streams without an end
    #[arg(long, value_name = "P")]
    unfinished: Option<f64>,
    /// Broken JSON in complete HTTP
    #[arg(long, value_name = "P")]
    truncated_json: Option<f64>,
    /// Answers that are no HTTP
    #[arg(long, value_name = "P")]
    garbage: Option<f64>,
    /// A 103 before the answer
    #[arg(long, value_name = "P")]
    informational: Option<f64>,
    /// Streams that open with an error event
    #[arg(long, value_name = "P")]
    error_first: Option<f64>,
    /// Streams with an error event in their middle
    #[arg(long, value_name = "P")]
    error_midway: Option<f64>,
    /// Any fault by its name, below; may be repeated
    #[arg(long = "fault", value_name = "NAME=P", value_parser = odd)]
    named: Vec<(Fault, f64)>,
}

fn span(text: &str) -> Result<(Duration, Duration), String> {
    match text.split_once('-') {
        Some((least, most)) => Ok((time(least)?, time(most)?)),
        None => time(text).map(|time| (time, time)),
    }
}

/// A time that may also be none at all.
fn time(text: &str) -> Result<Duration, String> {
    if matches!(text, "0" | "0ms" | "0s") { Ok(Duration::ZERO) } else { parse_duration(text) }
}

fn seconds_or_duration(text: &str) -> Result<Duration, String> {
    match text.parse::<u32>() {
        Ok(seconds) => Ok(Duration::from_secs(seconds.into())),
        Err(_) => parse_duration(text),
    }
}

fn odd(text: &str) -> Result<(Fault, f64), String> {
    let (name, probability) = text.split_once('=').ok_or("it must be NAME=PROBABILITY")?;
    let probability = probability.parse().map_err(|_| format!("`{probability}` is not a probability"))?;
    Ok((name.parse()?, probability))
}

impl SimulateArgs {
    fn settings(&self) -> Result<Settings, String> {
        let mut settings = Settings { seed: self.seed, ..Settings::default() };
        settings.latency = self.latency.unwrap_or(settings.latency);
        settings.chunks = self.chunks.unwrap_or(settings.chunks);
        settings.chunk_gap = self.chunk_gap.unwrap_or(settings.chunk_gap);
        if !self.models.is_empty() {
            settings.models = self.models.clone();
        }
        self.limits.apply(&mut settings)?;
        let faults = &self.faults;
        settings.retry_after = faults.retry_after.unwrap_or(settings.retry_after);
        settings.retry_after_503 = faults.retry_after_503;
        let half = faults.reset.map(|probability| probability / 2.0);
        let flags = [
            (Fault::Reset, half),
            (Fault::ResetUnread, half),
            (Fault::ResetBody, faults.reset_body),
            (Fault::RateLimited, faults.rate_limited),
            (Fault::RateLimitedBare, faults.rate_limited_bare),
            (Fault::Quota, faults.quota),
            (Fault::Status(400), faults.status_400),
            (Fault::Status(401), faults.status_401),
            (Fault::Status(500), faults.status_500),
            (Fault::Status(502), faults.status_502),
            (Fault::Status(503), faults.status_503),
            (Fault::Redirect, faults.redirect),
            (Fault::Stall, faults.stall),
            (Fault::StallBody, faults.stall_body),
            (Fault::CutBody, faults.cut_body),
            (Fault::Unfinished, faults.unfinished),
            (Fault::TruncatedJson, faults.truncated_json),
            (Fault::Garbage, faults.garbage),
            (Fault::Informational, faults.informational),
            (Fault::ErrorFirst, faults.error_first),
            (Fault::ErrorMidway, faults.error_midway),
        ];
        let flags = flags.into_iter().filter_map(|(fault, probability)| Some((fault, probability?)));
        for (fault, probability) in flags.chain(faults.named.iter().copied()) {
            settings.odds.set(fault, probability);
        }
        Ok(settings)
    }
}

/// Runs until SIGINT (exit code 130) or SIGTERM (0), then prints the ledger as one line of JSON.
pub(crate) fn run(args: SimulateArgs) -> ExitCode {
    if !args.anywhere && !args.listen.ip().is_loopback() {
        eprintln!(
            "forebay: --listen {}: not a loopback address; anyone could call. Add --anywhere if you mean it",
            args.listen
        );
        return ExitCode::from(2);
    }
    let bound = args.settings().map_err(StartError::Settings).and_then(|it| Simulator::bind(args.listen, it));
    let simulator = match bound {
        Ok(simulator) => simulator,
        Err(StartError::Settings(problem)) => {
            eprintln!("forebay: {problem}");
            return ExitCode::from(2);
        }
        Err(error) => {
            eprintln!("forebay: cannot listen on {}: {error}", args.listen);
            return ExitCode::from(1);
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    runtime.block_on(serve(simulator)).unwrap_or_else(|error| failed(&error))
}

fn failed(error: &io::Error) -> ExitCode {
    eprintln!("forebay: {error}");
    ExitCode::from(1)
}

async fn serve(simulator: Simulator) -> io::Result<ExitCode> {
    // Before the line that tells a script to go on: it may well go on to a signal.
    let mut signals = Signals::new()?;
    let running: Running = simulator.start()?;
    say(&format!("listening on {}", running.base_url()))?;
    let code = match signals.next().await {
        Stop::Interrupt => ExitCode::from(130),
        Stop::Terminate => ExitCode::SUCCESS,
    };
    let ledger = running.stop().await;
    say(&serde_json::to_string(&ledger)?)?;
    Ok(code)
}

/// A line on stdout, now. Whoever started us may have closed it: that ends nothing.
fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        said => said,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::simulator::Rate;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: SimulateArgs,
    }

    fn read(line: &str) -> Settings {
        Line::try_parse_from(["simulate"].into_iter().chain(line.split_whitespace())).unwrap().args.settings().unwrap()
    }

    #[test]
    fn the_flags_of_the_article_s_case_mean_what_they_say() {
        let settings = read(
            "--requests-per-second 20 --burst 1s --reset 0.02 --rate-limited 0.02 --retry-after 1 --status-500 0.02 --stall 0.02 --latency 50ms-250ms --seed 3",
        );
        assert_eq!(settings.check(), Ok(()));
        assert_eq!(settings.limits.requests_per_second, Some(Rate::per_second(20)));
        assert_eq!((settings.odds.of(Fault::Reset), settings.odds.of(Fault::ResetUnread)), (0.01, 0.01));
        assert_eq!(settings.odds.of(Fault::Status(500)), 0.02);
        assert_eq!(settings.retry_after, Duration::from_secs(1));
        assert_eq!(settings.latency, (Duration::from_millis(50), Duration::from_millis(250)));
        assert_eq!(settings.seed, 3);
    }

    #[test]
    fn any_fault_can_be_named_and_a_misspelt_one_is_an_error() {
        let settings = read("--fault cut-opening=0.1 --fault status-529=0.2");
        assert_eq!((settings.odds.of(Fault::CutOpening), settings.odds.of(Fault::Status(529))), (0.1, 0.2));
        assert!(Line::try_parse_from(["simulate", "--fault", "stal=0.1"]).is_err());
    }

    #[test]
    fn the_help_names_every_fault() {
        for fault in Fault::named() {
            assert!(MORE.contains(&fault.to_string()), "{fault}");
        }
    }
}
