//! `forebay batch`: a file in OpenAI's Batch format, run to its end in this process.
//!
//! `input` reads its lines, `plan` checks them all before the first is asked and remembers what each asks; `output` is OUT
//! and OUT.partial (their lines are `records`), behind a `sink` that may be stdout. `run` asks them: a `window` of lines at
//! once, each judged by `patience` when its call has ended, and `progress` in words.
//!
//! The lines' calls are of low priority and may take a day each, whatever `[queue] default_timeout` says: what is short of
//! budget waits. It has no part in `[store]` or a daemon's ports, so it runs beside one, and beside others like it.

mod input;
mod output;
mod patience;
mod plan;
mod progress;
mod records;
mod run;
mod sink;
mod window;

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio::sync::oneshot;

use super::screen::Screen;
use super::signals::Signals;
use super::{BAD_USAGE, Configuration};
use crate::clock;
use crate::config::{Config, Sources};
use crate::gateway::raise_descriptors;
use crate::system::Forebay;
use output::{Match, Output};
use plan::Key;
use progress::grouped;
use run::{Ended, Run, Stopped};
use sink::Sink;

/// It could not start or go on, or lines have failed.
const EXIT_FAILED: u8 = 1;
const EXIT_INTERRUPTED: u8 = 130;

/// How often progress is shown where no line can be rewritten.
const PLAIN: Duration = Duration::from_secs(15);

/// Nothing is in flight at the end: no time to drain is needed.
const END_WITHIN: Duration = Duration::from_secs(1);

const MORE: &str = "\
A line of IN is {\"custom_id\": …, \"method\": \"POST\", \"url\": \"/v1/chat/completions\",
\"body\": {…}}; url may also be /v1/completions, /v1/embeddings, /v1/responses,
/v1/moderations or /v1/messages. All lines of a file are checked before the first is asked.

OUT has one line for each, in the order of IN: {\"id\", \"custom_id\", \"response\", \"error\"};
those that failed have an error. Until all have ended they are in OUT.partial. The same
command goes on where the last one was ended, by Ctrl-C or by anything else: what is answered
is kept, what failed is tried again. With -o - lines come in the order of their ends, and
there is nothing to go on from.

A line's call may wait for its turn for a day, whatever [queue] default_timeout says. While an
upstream is out of reach its lines wait; where every key is refused or out of money they are
left, and so are those of a model that nobody answers.

Exit codes: 0 all lines are answered; 1 some have failed, or it could not go on; 2 bad usage,
configuration or input; 130 interrupted.";

/// Runs a batch file to its end.
#[derive(Args, Debug)]
#[command(after_help = MORE)]
pub(crate) struct BatchArgs {
    /// A file in OpenAI's Batch format; - is stdin
    #[arg(value_name = "IN.jsonl")]
    input: PathBuf,
    /// Where the answers go; - is stdout
    #[arg(short, long, value_name = "OUT.jsonl")]
    output: PathBuf,
    #[command(flatten)]
    configuration: Configuration,
}

/// Why it ends without a result of its own: its exit code, and a line for each problem.
struct Refusal {
    code: u8,
    problems: Vec<String>,
}

impl Refusal {
    fn cannot(problem: impl Into<String>) -> Self {
        Self { code: EXIT_FAILED, problems: vec![problem.into()] }
    }

    fn usage(problem: impl Into<String>) -> Self {
        Self { code: BAD_USAGE, problems: vec![problem.into()] }
    }

    fn interrupted() -> Self {
        Self { code: EXIT_INTERRUPTED, problems: vec!["interrupted before the first line was asked".to_owned()] }
    }
}

impl From<output::Refused> for Refusal {
    fn from(refused: output::Refused) -> Self {
        match refused {
            output::Refused::Foreign(problem) => Self::usage(problem),
            output::Refused::Locked(problem) | output::Refused::Failed(problem) => Self::cannot(problem),
        }
    }
}

/// Runs the batch; 0 when every line is answered.
pub(crate) fn run(args: &BatchArgs) -> ExitCode {
    let mut screen = Screen::new(PLAIN);
    match actix_rt::System::new().block_on(batch(args, &mut screen)) {
        Ok(code) => ExitCode::from(code),
        Err(Refusal { code, problems }) => {
            for problem in problems {
                screen.say(&format!("forebay: {problem}"));
            }
            ExitCode::from(code)
        }
    }
}

async fn batch(args: &BatchArgs, screen: &mut Screen) -> Result<u8, Refusal> {
    let config = Config::from_sources(&Sources::of_process(&args.configuration.files));
    let config = config.map_err(|problems| Refusal {
        code: BAD_USAGE,
        problems: problems.iter().map(ToString::to_string).collect(),
    })?;
    for warning in &config.warnings {
        screen.say(&format!("warning: {warning}"));
    }
    let mut signals = Signals::new().map_err(|error| Refusal::cannot(format!("cannot handle signals: {error}")))?;
    // Without it there are fewer connections, and it works all the same.
    let _ = raise_descriptors();

    let input = Input::open(&args.input)?;
    check_apart(&args.input, &args.output)?;
    let plan = match &input {
        Input::File(path) => Some(planned(path, &config, &mut signals).await?),
        Input::Stream(_) => None,
    };
    let mut sink = match is_dash(&args.output) {
        true => Sink::Stdout,
        false => Sink::Files(Box::new(Output::open(&args.output)?)),
    };
    let mut before = Match::default();
    if let (Sink::Files(output), Some(keys)) = (&sink, &plan) {
        before = output.compare(keys);
        if output.is_of_another(keys) {
            let problem = of_another(&args.output);
            return Err(close(sink).err().unwrap_or_else(|| Refusal::usage(problem)));
        }
        if output.is_done(keys) {
            screen.say(&format!("nothing to do: all {} lines are answered in {}", keys.len(), args.output.display()));
            close_done(sink)?;
            return Ok(0);
        }
        tell(screen, before, output.unreadable());
    }
    let source = input.source().map_err(|error| unreadable(&args.input, &error))?;
    let start = clock::now();
    let forebay = Forebay::start(config.clone()).await.map_err(|error| Refusal::cannot(error.to_string()))?;
    let lines = input::feed(source, plan::longest_line(&config))
        .map_err(|error| Refusal::cannot(format!("no thread could be started to read IN: {error}")))?;
    let run = Run::new(&forebay, &config, &mut sink, screen, plan, before.answered);
    let ended = run.until_over(lines, &mut signals).await;
    if ended.stopped == Some(Stopped::AtOnce) {
        // Whatever has ended is written, a line at a time.
        screen.say(&format!("ended at once: {}{}", ended.count(), go_on(&sink)));
        std::process::exit(i32::from(EXIT_INTERRUPTED));
    }
    forebay.shutdown(END_WITHIN).await;
    end(ended, sink, args, start.elapsed(), screen)
}

/// Says how it ended, and leaves or makes OUT.
fn end(ended: Ended, sink: Sink, args: &BatchArgs, took: Duration, screen: &mut Screen) -> Result<u8, Refusal> {
    let (sum, go_on) = (ended.tally.sum(took), go_on(&sink));
    if ended.unwritten > 0 {
        screen.say(&format!("answered, but not to be written: {}", grouped(ended.unwritten as u64)));
    }
    if let Some(stopped) = &ended.stopped {
        let (code, why) = match stopped {
            Stopped::Because(why) => (EXIT_FAILED, format!("forebay: {why}")),
            Stopped::Interrupted | Stopped::AtOnce => (EXIT_INTERRUPTED, "interrupted".to_owned()),
        };
        screen.say(&format!("{why}\n{}{go_on} ({sum})", ended.count()));
        close(sink)?;
        return Ok(code);
    }
    if !ended.closed.is_empty() {
        for closed in &ended.closed {
            screen.say(&format!("forebay: {closed}"));
        }
        screen.say(&format!("{}; mend that{go_on} ({sum})", ended.count()));
        close(sink)?;
        return Ok(EXIT_FAILED);
    }
    let (failed, again) = match sink {
        Sink::Stdout => (ended.tally.failed, ""),
        Sink::Files(output) if output.is_of_another(&ended.keys) => {
            output.leave()?;
            return Err(Refusal::cannot(format!("{}; nothing is lost", of_another(&args.output))));
        }
        Sink::Files(output) => {
            let (_, failed) = output.ends(&ended.keys);
            let whole = output.partial().display().to_string();
            output.finish(&ended.keys).map_err(|refused| {
                let Refusal { code, problems } = refused.into();
                let kept = format!("all lines are kept in {whole}; make room, and the same command goes on from here");
                Refusal { code, problems: problems.into_iter().chain([kept]).collect() }
            })?;
            (failed, "; the same command tries them again")
        }
    };
    screen.say(&sum);
    if failed > 0 {
        let lines = grouped(ended.keys.len() as u64);
        screen.say(&format!("failed: {} of {lines} lines, which have an `error`{again}", grouped(failed)));
        return Ok(EXIT_FAILED);
    }
    Ok(0)
}

/// What there is to do for the lines that are not answered.
fn go_on(sink: &Sink) -> &'static str {
    match sink {
        Sink::Files(_) => "; the same command goes on from here",
        Sink::Stdout => "; stdout leaves nothing to go on from",
    }
}

fn close(sink: Sink) -> Result<(), Refusal> {
    match sink {
        Sink::Files(output) => Ok(output.leave()?),
        Sink::Stdout => Ok(()),
    }
}

fn close_done(sink: Sink) -> Result<(), Refusal> {
    match sink {
        Sink::Files(output) => Ok(output.discard()?),
        Sink::Stdout => Ok(()),
    }
}

fn of_another(out: &Path) -> String {
    let out = out.display();
    format!(
        "{out} (with {out}.partial) answers no line of IN: it is of another batch; move it away or choose another OUT"
    )
}

/// What runs before have left, in words.
fn tell(screen: &mut Screen, before: Match, unreadable: u64) {
    let Match { answered, failed, changed, gone } = before;
    for (count, what) in [
        (answered, "answered already"),
        (failed, "failed before, tried again"),
        (changed, "changed since they were asked, asked again"),
        (gone, "in OUT, but not in IN any more (it will be without them)"),
        (unreadable, "unreadable in OUT.partial, asked again"),
    ] {
        if count > 0 {
            screen.say(&format!("{what}: {}", grouped(count)));
        }
    }
}

/// IN.
enum Input {
    /// Can be read twice.
    File(PathBuf),
    /// Stdin, a pipe: each line is checked as it comes.
    Stream(Box<dyn Read + Send>),
}

impl Input {
    fn open(path: &Path) -> Result<Self, Refusal> {
        if is_dash(path) {
            return Ok(Self::Stream(Box::new(io::stdin())));
        }
        let metadata = fs::metadata(path).map_err(|error| unreadable(path, &error))?;
        if metadata.is_dir() {
            return Err(Refusal::usage(format!("{} is a folder", path.display())));
        }
        match metadata.is_file() {
            true => Ok(Self::File(path.to_owned())),
            false => Ok(Self::Stream(Box::new(File::open(path).map_err(|error| unreadable(path, &error))?))),
        }
    }

    fn source(self) -> io::Result<Box<dyn Read + Send>> {
        match self {
            Self::File(path) => Ok(Box::new(File::open(path)?)),
            Self::Stream(stream) => Ok(stream),
        }
    }
}

fn is_dash(path: &Path) -> bool {
    path.as_os_str() == "-"
}

fn unreadable(path: &Path, error: &io::Error) -> Refusal {
    Refusal::usage(format!("cannot read {}: {error}", path.display()))
}

/// IN must be neither OUT nor its OUT.partial.
fn check_apart(input: &Path, output: &Path) -> Result<(), Refusal> {
    let real = |path: &Path| fs::canonicalize(path).ok();
    let mut partial = output.as_os_str().to_owned();
    partial.push(".partial");
    let same = [output, Path::new(&partial)].into_iter().any(|path| real(path).is_some() && real(path) == real(input));
    match same && !is_dash(input) && !is_dash(output) {
        true => Err(Refusal::usage(format!("{} would be written over: choose another OUT", input.display()))),
        false => Ok(()),
    }
}

/// Checks every line of a file, on a thread of its own: signals are heard meanwhile.
async fn planned(path: &Path, config: &Config, signals: &mut Signals) -> Result<Vec<Key>, Refusal> {
    let (send, plan) = oneshot::channel();
    let (owned, of) = (path.to_owned(), config.clone());
    let check = move || {
        let lines = File::open(&owned).map(|file| input::Lines::new(file, plan::longest_line(&of)));
        let plan = lines.map_err(plan::Refused::Unreadable);
        let _ = send.send(plan.and_then(|lines| plan::read(lines, &of, &owned.display().to_string())));
    };
    let started = std::thread::Builder::new().name("forebay-check".into()).spawn(check);
    started.map_err(|error| Refusal::cannot(format!("no thread could be started to read IN: {error}")))?;
    let plan = tokio::select! {
        biased;
        _ = signals.next() => return Err(Refusal::interrupted()),
        plan = plan => plan,
    };
    match plan {
        Ok(Ok(keys)) => Ok(keys),
        Ok(Err(plan::Refused::Unreadable(error))) => Err(unreadable(path, &error)),
        Ok(Err(plan::Refused::Lines(problems))) => Err(Refusal { code: BAD_USAGE, problems }),
        Err(_) => Err(Refusal::cannot("IN could not be checked: its reader crashed")),
    }
}
