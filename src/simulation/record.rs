//! What happened in a run, line by line, and what went wrong in it. Two runs of one seed write the same lines: ids and
//! addresses, which differ, are not in them.

use std::cell::RefCell;
use std::fmt::Display;
use std::panic;
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::Duration;

use crate::clock::{self, Dice, Instant};

/// Panics that a run causes itself begin with this.
pub(super) const PLANTED: &str = "a planted ";

/// The log of one run.
#[derive(Clone)]
pub(super) struct Record(Arc<Mutex<Inner>>);

struct Inner {
    start: Instant,
    lines: Vec<String>,
    /// What must not be, and the line it was found at.
    violations: Vec<(usize, String)>,
    /// When anything was last killed or panicked.
    killed: Option<Instant>,
    /// When parts were that hold the system together.
    died: Vec<Instant>,
}

impl Record {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Inner {
            start: clock::now(),
            lines: Vec::new(),
            violations: Vec::new(),
            killed: None,
            died: Vec::new(),
        })))
    }

    fn with<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn note(&self, text: impl Display) {
        self.with(|inner| {
            let at = (clock::now() - inner.start).as_secs_f64();
            inner.lines.push(format!("{at:9.3} {text}"));
        });
    }

    pub(super) fn violate(&self, text: impl Display) {
        self.note(format_args!("VIOLATION {text}"));
        self.with(|inner| inner.violations.push((inner.lines.len(), text.to_string())));
    }

    pub(super) fn ensure(&self, holds: bool, text: impl FnOnce() -> String) {
        if !holds {
            self.violate(text());
        }
    }

    pub(super) fn lines(&self) -> Vec<String> {
        self.with(|inner| inner.lines.clone())
    }

    pub(super) fn violations(&self) -> Vec<String> {
        self.with(|inner| inner.violations.iter().map(|(_, text)| text.clone()).collect())
    }

    /// Something is killed now; `vital` when it holds the system together.
    pub(super) fn kill(&self, what: &str, vital: bool) {
        self.note(format_args!("killed: {what}"));
        self.with(|inner| {
            inner.killed = Some(clock::now());
            inner.died.extend(inner.killed.filter(|_| vital));
        });
    }

    pub(super) fn killed_within(&self, time: Duration) -> bool {
        self.with(|inner| inner.killed.is_some_and(|at| clock::now() <= at + time))
    }

    pub(super) fn has_killed(&self) -> bool {
        self.with(|inner| inner.killed.is_some())
    }

    /// Whether a vital part died within the second before `at`.
    pub(super) fn died_before(&self, at: Instant) -> bool {
        self.with(|inner| inner.died.iter().any(|died| *died <= at && at <= *died + Duration::from_secs(1)))
    }

    /// The lines up to a little behind the first violation.
    pub(super) fn tail(&self) -> String {
        self.with(|inner| {
            let end = inner.violations.first().map_or(inner.lines.len(), |(line, _)| line + 10);
            let end = end.min(inner.lines.len());
            inner.lines[end.saturating_sub(60)..end].join("\n")
        })
    }
}

thread_local! {
    static HEARS: RefCell<Option<Record>> = const { RefCell::new(None) };
}

/// Has panics of this thread written into `record`; one that was not planted is a violation. `None`: no more.
pub(super) fn hear_panics(record: Option<Record>) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let Some(record) = HEARS.with_borrow(Clone::clone) else { return before(info) };
            let payload = info.payload();
            let text = payload.downcast_ref::<&str>().copied();
            let message = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("something");
            match message.starts_with(PLANTED) {
                true => record.kill(message, message.contains("dispatcher")),
                false => {
                    record.violate(format_args!("panic: {message} at {:?}", info.location().map(ToString::to_string)))
                }
            }
        }));
    });
    HEARS.set(record);
}

/// Draws of all kinds from one seed.
pub(super) struct Draw(Dice);

impl Draw {
    pub(super) fn new(seed: u64) -> Self {
        Self(Dice::seeded(seed))
    }

    /// A draw of its own, so that what one part draws does not shift what the others do.
    pub(super) fn branch(&mut self) -> Self {
        Self::new(self.0.number())
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.0.number() % end
    }

    pub(super) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True once in so many times.
    pub(super) fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    pub(super) fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize].clone()
    }

    pub(super) fn millis(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_millis(self.between(low, high))
    }
}
