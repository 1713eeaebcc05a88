//! A scenario: the provider's truth, what the user has configured, and what callers do.

use std::time::Duration;

use forebay::simulator::limits::{HeaderStyle, Limits, Rate};

use super::work::Work;

/// How a provider counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A bucket that refills all the time and holds a minute.
    Bucket,
    /// A log of the last minute.
    Sliding,
    /// Minutes that begin when nobody knows.
    Minute,
    /// Windows of ten seconds, with a sixth of the minute's limit each.
    Tens,
    /// Windows of one second.
    Ones,
}

impl Kind {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Bucket => "bucket",
            Kind::Sliding => "sliding",
            Kind::Minute => "minute",
            Kind::Tens => "tens",
            Kind::Ones => "ones",
        }
    }

    /// So much a minute, counted so.
    pub fn per_minute(self, amount: u64) -> Rate {
        let rate = Rate::per_minute(amount);
        match self {
            Kind::Bucket => rate,
            Kind::Sliding => rate.sliding(),
            Kind::Minute => rate.fixed(),
            Kind::Tens => rate.in_windows(Duration::from_secs(10)),
            Kind::Ones => rate.in_windows(Duration::from_secs(1)),
        }
    }
}

/// Everything that a run depends on besides its client and its seed.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Its name, the limiter's in it: `tpm/sliding`.
    pub name: String,
    /// What calls are like.
    pub work: Work,
    /// How long it lasts, in seconds.
    pub seconds: f64,
    /// What the provider does with calls.
    pub provider: Provider,
    /// Processes that share the account, each with callers of its own, unaware of each other.
    pub processes: usize,
    /// Callers in each process, each with one call after the other.
    pub backlog: usize,
    /// Whether somebody waits for the calls of the backlog; else they are of low priority.
    pub is_urgent: bool,
    /// What happens besides, in order of time.
    pub events: Vec<(f64, Event)>,
    /// Caps of the user's, in calls and tokens a minute.
    pub caps: (Option<u64>, Option<u64>),
    /// The limits that a client of fixed pace is configured with, as multiples of the true ones.
    pub belief: f64,
}

/// What the provider does with calls.
#[derive(Clone, Debug)]
pub struct Provider {
    /// How its limits count.
    pub kind: Kind,
    /// All of them.
    pub limits: Limits,
    /// What carries the calls that the limits let pass.
    pub service: Service,
    /// What goes wrong with those all the same.
    pub faults: Faults,
}

/// Shares of the calls that were let in, by chance.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub struct Faults {
    /// Their connection breaks somewhere on the way.
    pub broken: f64,
    /// They are answered as if they were beyond a limit: come again in a second.
    pub refused: f64,
}

/// What carries calls.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Service {
    /// As many at once as come.
    Endless,
    /// So many at once; one too many is sent away at once.
    Slots {
        /// How many.
        count: u32,
        /// How it is sent away.
        full: Full,
    },
    /// So many at once; the others stand in line, and their callers see nothing but that it takes longer.
    Queue {
        /// How many at once.
        slots: u32,
    },
}

/// How a call too many is sent away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Full {
    /// By a 429 that names no time.
    Refuse,
    /// By a reset of its connection.
    Reset,
}

/// What happens besides the backlog.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// So many calls of normal priority at once, from the callers of one process.
    Burst(usize, usize),
    /// One call of low priority with a prompt of so many tokens.
    Huge(f64),
    /// The provider's limits are this multiple of the original ones from now on.
    Limits(f64),
}

impl Provider {
    /// Calls a minute, as it is in the long run.
    pub fn requests(&self) -> f64 {
        self.limits.requests_per_minute.map_or(f64::INFINITY, |rate| 60.0 * rate.steady_per_second())
    }

    /// Tokens a minute, as it is in the long run.
    pub fn tokens(&self) -> f64 {
        self.limits.tokens_per_minute.map_or(f64::INFINITY, |rate| 60.0 * rate.steady_per_second())
    }

    /// The most tokens that one call can ever have.
    pub fn most_tokens_at_once(&self) -> f64 {
        self.limits.tokens_per_minute.map_or(f64::INFINITY, |rate| rate.capacity() as f64)
    }

    /// Whether answers say what is left.
    pub fn tells(&self) -> bool {
        self.limits.headers != HeaderStyle::None
    }
}

impl Scenario {
    /// The same, cut short.
    #[must_use]
    pub fn lasting(mut self, seconds: f64) -> Self {
        self.seconds = self.seconds.min(seconds);
        self.events.retain(|(at, _)| *at < seconds);
        self
    }

    /// The part of its name that says how the provider counts.
    pub fn limiter(&self) -> &str {
        self.name.split_once('/').map_or("", |(_, limiter)| limiter)
    }

    /// Its largest burst.
    pub fn bursts(&self) -> Option<usize> {
        let calls = |event: &Event| if let Event::Burst(_, calls) = event { Some(*calls) } else { None };
        self.events.iter().filter_map(|(_, event)| calls(event)).max()
    }

    /// The provider's limits, in force at `t`, as a multiple of the original ones.
    pub fn factor(&self, t: f64) -> f64 {
        let mut limits = self.events.iter().rev().filter_map(|(at, event)| match event {
            Event::Limits(factor) if *at <= t => Some(*factor),
            _ => None,
        });
        limits.next().unwrap_or(1.0)
    }
}
