//! What the program is told: one typed struct per section of the file.
//!
//! `load` layers defaults, files and the `environment` into one tree that remembers where each value came from. `schema`
//! and `upstreams` walk it once, a `section` at a time: types are `raw`, meanings are `values`, `units`, `trust` and `secret`.
//! Every problem goes to `check`, everything in force to `effective`. `serves` answers who serves a model.
//! Everything here is checked: a [`Config`] that exists is one that can be served.

mod check;
mod effective;
mod environment;
mod load;
mod presets;
mod prices;
mod raw;
mod schema;
mod secret;
mod section;
mod serves;
mod trust;
mod units;
mod upstreams;
mod values;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::messages::{Account, Secret, Upstream};

#[cfg(feature = "gateway")]
pub(crate) use check::did_you_mean;
pub use check::{Problem, Problems};
pub use load::Sources;
pub use prices::Prices;
pub use units::{parse_duration, parse_size};
pub(crate) use values::webhook_key;

/// Where a call may go: an upstream's name, and that upstream's name for the model.
pub type Target = (Arc<str>, Arc<str>);

/// A checked configuration. Debug shows no secrets.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// `[server]`
    pub server: Server,
    /// `[store]`
    pub store: Store,
    /// `[queue]`
    pub queue: Queue,
    /// `[pool]`
    pub pool: Pool,
    /// `[log]`
    pub log: Log,
    /// `[upstreams.NAME]`, by name.
    pub upstreams: BTreeMap<Arc<str>, UpstreamSection>,
    /// `[routes."NAME"]`: targets in order.
    pub routes: BTreeMap<String, Vec<Target>>,
    /// `[jobs]`
    pub jobs: Jobs,
    /// `[tenants.NAME]`, by name.
    pub tenants: BTreeMap<Arc<str>, Tenant>,
    /// What is allowed but worth a line: a section not in force yet, a variable that sets nothing.
    pub warnings: Vec<String>,
    /// Every key in force with its value as text, secrets masked; in the order of the file.
    pub effective: Vec<(String, String)>,
    /// The same as a TOML file, each value with the layer it comes from; secrets masked.
    pub effective_toml: String,
}

/// `[server]`
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Server {
    /// Where the gateway listens.
    pub listen: SocketAddr,
    /// Allows a non-loopback `listen` without tenants.
    pub allow_anonymous: bool,
    /// Browser origins that may call when there are no tenants.
    pub origins: Vec<String>,
    /// What the operator's endpoints ask for off loopback.
    pub admin_key: Option<Secret>,
    /// The largest request body, in bytes.
    pub max_body: usize,
    /// How long accepted calls may go on after SIGTERM.
    pub drain_timeout: Duration,
}

/// `[store]`
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Store {
    /// Where durable jobs live.
    pub url: StoreUrl,
    /// Whether anybody said so. A program that embeds forebay and says nothing gets its store with its first job.
    pub is_told: bool,
    /// How long ended jobs and files stay.
    pub keep_results_for: Duration,
}

/// Where a store is.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum StoreUrl {
    /// `sqlite::memory:`: nothing outlives the process.
    Memory,
    /// `sqlite:FILE`
    Sqlite(PathBuf),
}

/// `[queue]`
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Queue {
    /// Accepted calls not in flight, per upstream.
    pub capacity: usize,
    /// Bodies of all accepted calls together, in bytes.
    pub max_bytes: usize,
    /// A call's time limit where it names none.
    pub default_timeout: Duration,
}

/// `[pool]`: not part of the contract.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Pool {
    /// Threads that carry dispatcher, request actors and connections; 0 keeps all on the caller's thread (embedded only).
    pub threads: usize,
    /// Attempts in flight at once on an account that sets no `max_concurrent`.
    pub slots_per_account: usize,
    /// Crashes of request actors within `restart_window` that the pool bears before it reports itself unready.
    pub max_restarts: u32,
    /// The window of `max_restarts`.
    pub restart_window: Duration,
    /// A thread that does not answer for so long is replaced, and what ran on it is tried again. Not the first one, which
    /// carries the dispatcher.
    pub thread_timeout: Duration,
}

/// `[log]`: not part of the contract.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Log {
    /// A level, or directives as `tracing` takes them.
    pub level: String,
    /// How lines look.
    pub format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum LogFormat {
    /// Human on a terminal, JSON otherwise.
    Auto,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// `[upstreams.NAME]`
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct UpstreamSection {
    /// What a single attempt needs to know.
    pub upstream: Arc<Upstream>,
    /// One account per key, in their order; at least one (a keyless one where the upstream asks for no key).
    pub accounts: Vec<Arc<Account>>,
    /// Models it serves; an entry may end in `*`.
    pub models: Vec<String>,
    /// Caps of each account.
    pub limits: Limits,
    /// What its models cost.
    pub prices: Prices,
    /// `[retry]`, with what `[upstreams.NAME.retry]` says otherwise.
    pub retry: Retry,
}

/// `[upstreams.NAME.limits]`: caps of each account; `None` means no cap.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Limits {
    /// Attempts that start in any 60 s.
    pub requests_per_minute: Option<u64>,
    /// Tokens in any 60 s.
    pub tokens_per_minute: Option<u64>,
    /// Attempts in flight.
    pub max_concurrent: Option<usize>,
}

/// `[retry]`
#[derive(Clone, Copy, PartialEq, Debug)]
#[non_exhaustive]
pub struct Retry {
    /// Attempts a call may use, the first included.
    pub max_attempts: u32,
    /// The first backoff.
    pub base_delay: Duration,
    /// What each further backoff is multiplied with.
    pub multiplier: f64,
    /// The longest backoff.
    pub max_delay: Duration,
    /// How chance changes a backoff.
    pub jitter: Jitter,
    /// Share of first attempts that may be retried within any 10 s.
    pub retry_budget: f64,
}

/// How chance changes a backoff.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Jitter {
    /// Uniform in 0..delay.
    Full,
    /// Not at all.
    None,
}

/// `[jobs]`
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Jobs {
    /// What signs webhooks; without it no job may have one.
    pub webhook_secret: Option<Secret>,
    /// Lets webhooks go to loopback and private addresses.
    pub webhook_allow_private: bool,
    /// The largest file of batch lines, in bytes.
    pub max_file: usize,
}

/// `[tenants.NAME]`
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Tenant {
    /// What its callers send as their API key.
    pub key: Secret,
}

impl Config {
    /// What this process was given: the files the contract lists, then the environment.
    ///
    /// # Errors
    /// Every problem found, each naming file, key and fix.
    pub fn load() -> Result<Self, Problems> {
        Self::from_sources(&Sources::of_process(&[]))
    }

    /// A configuration from TOML text alone: no file is layered under it and no environment over it. `env:NAME` and
    /// `file:PATH` values are looked up, since the text names them.
    ///
    /// # Errors
    /// Every problem found.
    pub fn from_toml(text: &str) -> Result<Self, Problems> {
        Self::from_sources(&Sources::text(text))
    }

    /// Every secret there is, to be taken out of what upstreams say.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = Secret> + '_ {
        let sections = self.upstreams.values();
        let keys = sections.clone().flat_map(|section| &section.accounts).filter_map(|account| account.key.clone());
        let values =
            sections.flat_map(|section| section.upstream.headers.iter()).filter(|(_, value)| value.is_sensitive());
        let headers = values.filter_map(|(_, value)| value.to_str().ok().map(Secret::new));
        let tenants = self.tenants.values().map(|tenant| tenant.key.clone());
        let operators = [&self.server.admin_key, &self.jobs.webhook_secret];
        keys.chain(headers).chain(tenants).chain(operators.into_iter().flatten().cloned())
    }
}
