//! The run itself: lines begin while the window has room, end as `patience` judges, and are written as they end.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;

use super::input::Line;
use super::patience::{Patience, Tries, Verdict, in_words};
use super::plan::{Checked, Checker, Key};
use super::progress::{Pace, Tally, grouped, time};
use super::sink::Sink;
use super::window::Window;
use crate::cli::screen::Screen;
use crate::cli::signals::Signals;
use crate::clock::{self, Instant};
use crate::config::Config;
use crate::messages::{CallId, Outcome, Priority, Request};
use crate::providers::batch_line::{self, BatchLine};
use crate::system::Forebay;

/// How long a line's call may take, waiting included: as long as a job's. What is short of budget waits; that takes hours
/// where a day's quota is used up.
const TIMEOUT: Duration = Duration::from_secs(24 * 3_600);

/// Between two times that calls which back off are told that there will be no other try.
const TELL_AGAIN: Duration = Duration::from_secs(1);

/// What is the matter is said no more often than that.
const NOTICE_EVERY: Duration = Duration::from_secs(60);

/// Why no line begins any more, before all have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Stopped {
    /// A signal asked for it.
    Interrupted,
    /// Another would not have wanted to wait for what is in flight.
    AtOnce,
    /// In these words.
    Because(String),
}

/// How a run has ended.
pub(super) struct Ended {
    pub(super) stopped: Option<Stopped>,
    /// The lines of IN, in order, as far as it was read.
    pub(super) keys: Vec<Key>,
    pub(super) tally: Tally,
    /// Lines that could not be asked: their models, and what those who serve them say.
    pub(super) closed: Vec<String>,
    /// Lines that have ended, and could not be written.
    pub(super) unwritten: usize,
}

/// A line under way.
struct Asked {
    key: Key,
    custom_id: String,
    request: Request,
    tries: Tries,
    begun: Instant,
}

type Calling = Pin<Box<dyn Future<Output = (Asked, CallId, Outcome)>>>;

/// The run while it lasts.
pub(super) struct Run<'a> {
    forebay: &'a Forebay,
    sink: &'a mut Sink,
    screen: &'a mut Screen,
    /// What IN must be, where it was read before.
    plan: Option<Vec<Key>>,
    checker: Checker<'a>,
    keys: Vec<Key>,
    window: Window,
    patience: Patience,
    tally: Tally,
    pace: Pace,
    calls: FuturesUnordered<Calling>,
    /// Lines that go again, by the time they do.
    later: BTreeMap<(Instant, u128), Asked>,
    stopped: Option<Stopped>,
    unwritten: Vec<(Key, bool, Vec<u8>)>,
    noticed: Option<Instant>,
}

impl<'a> Run<'a> {
    /// A run whose lines must be those of `plan`, where there is one, and of which `before` are answered.
    pub(super) fn new(
        forebay: &'a Forebay,
        config: &'a Config,
        sink: &'a mut Sink,
        screen: &'a mut Screen,
        plan: Option<Vec<Key>>,
        before: u64,
    ) -> Self {
        let now = clock::now();
        let lines = plan.as_ref().map(|keys| keys.len() as u64);
        Self {
            forebay,
            sink,
            screen,
            plan,
            checker: Checker::new(config),
            keys: Vec::new(),
            window: Window::new(config),
            patience: Patience::default(),
            tally: Tally::new(lines, before),
            pace: Pace::new(now),
            calls: FuturesUnordered::new(),
            later: BTreeMap::new(),
            stopped: None,
            unwritten: Vec::new(),
            noticed: None,
        }
    }

    /// Asks every line of `lines`, until all have ended or something stops it.
    pub(super) async fn until_over(
        mut self,
        mut lines: mpsc::Receiver<io::Result<Line>>,
        signals: &mut Signals,
    ) -> Ended {
        let forebay = self.forebay.clone();
        let mut failure = pin!(forebay.failed());
        let (mut is_read, mut told) = (false, clock::now());
        self.show();
        let mut shown = clock::now();
        while !(self.calls.is_empty() && (self.stopped.is_some() || (is_read && self.later.is_empty()))) {
            let again = self.later.keys().next().map_or_else(|| clock::far(shown), |(at, _)| *at);
            let takes_more = self.stopped.is_none() && !is_read && self.window.has_room();
            tokio::select! {
                biased;
                _ = signals.next() => {
                    if self.stopped.is_some() {
                        self.stopped = Some(Stopped::AtOnce);
                        break;
                    }
                    self.stop(Stopped::Interrupted);
                }
                () = &mut failure, if self.stopped.is_none() => {
                    self.stop(Stopped::Because("the system keeps crashing, or its first thread has ended".to_owned()));
                }
                () = clock::until(shown + self.screen.interval()) => {
                    self.show();
                    shown = clock::now();
                }
                () = clock::until(told + TELL_AGAIN), if self.stopped.is_some() => {
                    self.forebay.end_waiting();
                    told = clock::now();
                }
                Some((asked, id, outcome)) = self.calls.next(), if !self.calls.is_empty() => self.ended(asked, id, &outcome),
                () = clock::until(again), if self.stopped.is_none() => {
                    if let Some((_, asked)) = self.later.pop_first() {
                        self.ask_again(asked);
                    }
                }
                line = lines.recv(), if takes_more => match line {
                    Some(Ok(line)) => self.take(&line),
                    Some(Err(error)) => self.stop(Stopped::Because(format!("IN cannot be read on: {error}"))),
                    None => {
                        is_read = true;
                        if self.plan.as_ref().is_some_and(|plan| plan.len() != self.keys.len()) {
                            self.stop(has_changed());
                        }
                    }
                },
            }
        }
        self.end()
    }

    /// A line of IN begins, unless it need not or cannot.
    fn take(&mut self, line: &Line) {
        let Some(checked) = self.checked(line) else { return self.stop(has_changed()) };
        let (key, asked) = checked;
        self.keys.push(key);
        let BatchLine { custom_id, request } = match asked {
            Ok(asked) => asked,
            Err(fault) => {
                self.tally.failed += 1;
                return self.write(key, false, batch_line::unasked(&batch_line::line_id(key.id), &fault));
            }
        };
        if self.sink.is_answered(key.id) {
            // Those of a plan are counted already.
            self.tally.before += u64::from(self.plan.is_none());
        } else if self.patience.is_open(request.model()) {
            let request = request.with_priority(Priority::Low).with_timeout(TIMEOUT);
            self.window.begin(request.body().bytes().len());
            self.ask(Asked { key, custom_id, request, tries: Tries::default(), begun: clock::now() });
        }
    }

    /// Reads a line as it was checked before, or checks it now. `None` when it is not what it was.
    fn checked(&mut self, line: &Line) -> Option<Checked> {
        let Some(plan) = &self.plan else { return Some(self.checker.check(line)) };
        let asked = BatchLine::read(line.bytes.as_ref()?).ok()?;
        let key = Key::of(&asked);
        (plan.get(self.keys.len()) == Some(&key)).then_some((key, Ok(asked)))
    }

    /// A line has waited; it is left when nobody answers lines like it any more.
    fn ask_again(&mut self, asked: Asked) {
        match self.patience.is_open(asked.request.model()) {
            true => self.ask(asked),
            false => self.window.end(asked.request.body().bytes().len(), false),
        }
    }

    fn ask(&mut self, mut asked: Asked) {
        asked.begun = clock::now();
        let (forebay, id) = (self.forebay.clone(), CallId::new());
        self.calls.push(Box::pin(async move {
            let outcome = match forebay.admit(asked.request.body().bytes().len()) {
                Ok(admitted) => forebay.begin(id, asked.request.clone(), admitted, None).await,
                Err(error) => Err(error),
            };
            (asked, id, outcome)
        }));
    }

    /// A call has ended: its line has too, or goes again.
    fn ended(&mut self, mut asked: Asked, id: CallId, outcome: &Outcome) {
        let now = clock::now();
        let bytes = asked.request.body().bytes().len();
        let (model, others) = (asked.request.model(), self.calls.len());
        match self.patience.judge(outcome, model, &mut asked.tries, asked.begun, others, now) {
            Verdict::Ended => {
                let (Asked { key, custom_id, .. }, is_answer) = (asked, outcome.is_ok());
                match outcome {
                    Ok(answer) => self.tally.answer(&answer.meta),
                    Err(_) => self.tally.failed += 1,
                }
                self.window.end(bytes, is_answer);
                let line = batch_line::ended(&batch_line::line_id(key.id), &custom_id, &id.to_string(), outcome);
                self.write(key, is_answer, line);
            }
            Verdict::Again(wait) if self.stopped.is_none() => {
                self.notice(outcome, wait, now);
                self.later.insert((now + wait, asked.key.id), asked);
            }
            Verdict::Again(_) | Verdict::Left => self.window.end(bytes, false),
        }
    }

    /// Says now and then what is waited for, where it is more than a turn.
    fn notice(&mut self, outcome: &Outcome, wait: Duration, now: Instant) {
        let Err(error) = outcome else { return };
        let is_news = self.noticed.is_none_or(|at| at + NOTICE_EVERY <= now);
        if is_news && error.status() != 504 && !(error.status() == 503 && error.answer().is_none()) {
            self.noticed = Some(now);
            self.screen.say(&format!("waiting, next try in {}: {}", time(wait), in_words(error)));
        }
    }

    fn write(&mut self, key: Key, is_answer: bool, line: Vec<u8>) {
        if let Err(error) = self.sink.add(key, is_answer, &line) {
            self.unwritten.push((key, is_answer, line));
            if self.stopped.is_none() {
                self.stop(Stopped::Because(format!("cannot write {}: {error}", self.sink.name())));
            }
        }
    }

    /// No line begins any more. What is at an upstream has been paid for, and is waited for.
    fn stop(&mut self, why: Stopped) {
        let what = match &why {
            Stopped::Because(why) => why.as_str(),
            Stopped::Interrupted | Stopped::AtOnce => "interrupted",
        };
        // First: an answer that comes once it is said must find nobody waiting for its place.
        self.forebay.end_waiting();
        if !self.calls.is_empty() {
            self.screen.say(&format!("{what}: calls in flight are waited for; Ctrl-C ends at once"));
        }
        self.stopped = Some(why);
        self.later.clear();
    }

    fn show(&mut self) {
        let rate = self.pace.rate(&self.tally, clock::now());
        self.screen.show(&self.tally.line(rate));
    }

    fn end(mut self) -> Ended {
        self.screen.wipe();
        // There may be room by now for what there was none for.
        let unwritten = std::mem::take(&mut self.unwritten);
        let is_lost = |(key, is_answer, line): &(Key, bool, Vec<u8>)| self.sink.add(*key, *is_answer, line).is_err();
        let unwritten = unwritten.iter().map(is_lost).filter(|is_lost| *is_lost).count();
        let closed =
            self.patience.closed().into_iter().map(|(model, why)| format!("nobody answers for {model}: {why}"));
        Ended { stopped: self.stopped, keys: self.keys, tally: self.tally, closed: closed.collect(), unwritten }
    }
}

fn has_changed() -> Stopped {
    Stopped::Because("IN has changed while it was read".to_owned())
}

impl Ended {
    /// What has come of the lines.
    pub(super) fn count(&self) -> String {
        let answered = grouped(self.tally.before + self.tally.answered);
        match self.tally.lines {
            Some(lines) => format!("{answered} of {} lines are answered", grouped(lines)),
            None => format!("{answered} lines are answered"),
        }
    }
}

#[cfg(test)]
mod tests;
