//! The ledger as others read it: in process, at `/simulator/ledger`, and on stdout at the end.

use std::collections::BTreeMap;

use serde::Serialize;

use super::limits::{Limits, Standing};

/// The ledger's state at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Snapshot {
    /// Connections accepted.
    pub connections: u64,
    /// Calls whose head was read, whatever became of them. `requests = answered + faulted + limited + refused + abandoned +` those in flight
    /// whose end is not decided yet.
    pub requests: u64,
    /// Calls by endpoint.
    pub endpoints: BTreeMap<&'static str, u64>,
    /// Calls that the limits let pass, faulty ones too.
    pub admitted: u64,
    /// Good answers that were sent to their last byte.
    pub answered: u64,
    /// Calls that a fault kept from their good answer.
    pub faulted: u64,
    /// Faults carried out, by name; the harmless ones too, whose calls are answered as well.
    pub injected: BTreeMap<String, u64>,
    /// Calls beyond a limit.
    pub limited: u64,
    /// Answers 429 that said so: the limits' own, never an injected one. Differs from `limited` only where concurrency is answered with a reset.
    pub limit_429s: u64,
    /// `limited`, by what ran out.
    pub limited_by: LimitedBy,
    /// Calls that were wrong in themselves: 400, 404, 405, 413.
    pub refused: u64,
    /// Calls whose peer left before the answer was complete.
    pub abandoned: u64,
    /// Calls now in flight, stalled ones too.
    pub in_flight: u64,
    /// The most calls ever in flight.
    pub peak_in_flight: u64,
    /// The busiest windows, each of any one API key, as limits are per key.
    pub busiest: Busiest,
    /// Calls that came before the time that a 429 or 503 had told their key to wait.
    pub too_early: u64,
    /// How many calls were the first attempt of their very body, the second, and so on.
    pub attempts: BTreeMap<u32, u64>,
    /// Tokens of admitted calls, as `usage` says them.
    pub tokens: Tokens,
    /// How many complete good answers each prompt got, by its hash.
    pub prompts: BTreeMap<String, u64>,
    /// Answers that `prompts` does not hold, because it was full.
    pub prompts_not_followed: u64,
    /// Requests that followed an injected redirect.
    pub redirects_followed: u64,
    /// The limits in force.
    pub limits: Limits,
    /// How far each API key has used them, in the order of their first calls; the first hundred.
    pub keys: Vec<KeyStanding>,
}

/// How far one API key has used its limits.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct KeyStanding {
    /// Calls that its limits let pass.
    pub granted: u64,
    /// Calls beyond them.
    pub refused: u64,
    /// Each of its rates, hidden ones too.
    pub limits: Vec<Standing>,
    /// Its places, where a limit says how many.
    pub slots: Option<Slots>,
}

/// Workers, or where there is no limit of those, places in flight.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Slots {
    /// How many there are.
    pub limit: u32,
    /// How many are in use.
    pub busy: usize,
    /// The most ever in use.
    pub peak_busy: usize,
    /// Calls in line for one.
    pub waiting: usize,
    /// The most ever in line.
    pub peak_waiting: usize,
    /// How much of their time, since the key's first call, they were in use.
    pub utilisation: f64,
}

/// Calls beyond a limit, by what ran out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LimitedBy {
    /// Requests per second or minute.
    pub requests: u64,
    /// Requests, by the counter of which no header speaks.
    pub hidden_requests: u64,
    /// Tokens per minute.
    pub tokens: u64,
    /// Traffic that grew too fast.
    pub acceleration: u64,
    /// Calls in flight.
    pub concurrency: u64,
}

/// The most calls of one API key in any window of this length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Busiest {
    /// Arrived in any second.
    pub arrived_in_1s: usize,
    /// Arrived in any minute.
    pub arrived_in_60s: usize,
    /// Admitted in any second.
    pub granted_in_1s: usize,
    /// Admitted in any minute.
    pub granted_in_60s: usize,
    /// Tokens that calls admitted in any minute were charged.
    pub tokens_in_60s: u64,
}

/// Tokens of admitted calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Tokens {
    /// Of prompts.
    pub prompt: u64,
    /// Of answers.
    pub completion: u64,
}
