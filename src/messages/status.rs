//! How everything stands, as the dispatcher and the pool say themselves: what `GET /v1/status` prints. Names stay what
//! they are; more may come.

use actix::prelude::*;
use serde::Serialize;

use super::{Dimension, LearnedModel, Priority};

/// Asked through the mailbox: what is answered is true of one moment.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "Status")]
pub(crate) struct AskStatus;

/// How everything stands. Durations are in seconds.
#[derive(MessageResponse, Clone, PartialEq, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Status {
    /// forebay's own version.
    pub version: &'static str,
    /// No new calls are taken.
    pub is_draining: bool,
    /// Accepted calls that wait for a turn or a retry.
    pub waiting: usize,
    /// Attempts under way.
    pub in_flight: usize,
    /// Attempts repeated although the upstream may have seen, and billed, the one before.
    pub repeats_maybe_billed: u64,
    /// Bodies of accepted calls, in bytes.
    pub body_bytes: usize,
    /// The most of them (`[queue] max_bytes`).
    pub max_body_bytes: usize,
    /// The request actors.
    pub pool: PoolStatus,
    /// By name.
    pub upstreams: Vec<UpstreamStatus>,
    /// Durable jobs; `None` while no store is open.
    pub jobs: Option<JobsStatus>,
}

/// Durable jobs and their store.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct JobsStatus {
    /// Jobs by the model they ask for, those with the most first.
    pub queues: Vec<QueueStatus>,
    /// Queues that are not shown, for there are too many.
    pub queues_left_out: usize,
    /// Jobs whose attempt is under way.
    pub running: usize,
    /// Webhooks that are being told.
    pub webhooks_under_way: usize,
    /// When the next webhook is due; negative since then.
    pub next_webhook_in_s: Option<f64>,
    /// Why the store cannot be asked.
    pub store_failure: Option<String>,
}

/// Jobs of one model.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct QueueStatus {
    /// The model they ask for; empty where they name none.
    pub model: String,
    /// Jobs that wait on disk.
    pub ready: u64,
    /// Jobs that are with the dispatcher.
    pub claimed: usize,
}

/// The request actors.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct PoolStatus {
    /// Request actors there are.
    pub slots: usize,
    /// Those that have crashed and were replaced since the start.
    pub restarts: u64,
    /// They crash faster than the pool bears.
    pub is_unready: bool,
}

/// One upstream.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[non_exhaustive]
pub struct UpstreamStatus {
    /// Its name in the configuration.
    pub name: String,
    /// Models it serves, as configured.
    pub models: Vec<String>,
    /// Calls that wait for it.
    pub waiting: WaitingStatus,
    /// Whether it is taken for broken.
    pub breaker: BreakerStatus,
    /// What keeps the first call in line, in words; `None` when nobody stands in line.
    pub first_waits_for: Option<String>,
    /// What its retries may cost.
    pub retries: RetriesStatus,
    /// What calls have used and cost since the start, by model.
    pub used: Vec<UsedStatus>,
    /// One for each key.
    pub accounts: Vec<AccountStatus>,
    /// Models of its accounts that are not shown, for there are too many.
    pub models_left_out: usize,
}

/// An upstream's breaker: open when nothing was answered for long, and calls go there one a second only.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct BreakerStatus {
    /// Calls go to their next target, or end at once.
    pub is_open: bool,
    /// Attempts that have failed since one was answered.
    pub failed_in_a_row: u32,
    /// Since the first of them, or the answer before it.
    pub silent_for_s: Option<f64>,
    /// It is open for so long.
    pub open_for_s: Option<f64>,
    /// A call that comes then goes there all the same.
    pub next_probe_in_s: Option<f64>,
    /// The last of the failures, in words.
    pub last_failure: Option<String>,
}

/// Calls that wait for one upstream.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct WaitingStatus {
    /// The most that may wait (`[queue] capacity`).
    pub capacity: usize,
    /// In line, of high priority.
    pub high: u64,
    /// In line, of normal priority.
    pub normal: u64,
    /// In line, of low priority.
    pub low: u64,
    /// Between two attempts.
    pub backing_off: usize,
    /// Set aside until the retry budget allows them.
    pub parked: usize,
}

/// An upstream's retry budget.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
#[non_exhaustive]
pub struct RetriesStatus {
    /// The share of first attempts that retries may make up (`[retry] retry_budget`).
    pub share: f64,
    /// Retries that may start now.
    pub left: usize,
}

/// What calls to one model have used and cost since the start.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[non_exhaustive]
pub struct UsedStatus {
    /// The model by its name at the upstream; `None` for calls without one, `*` for all names beyond the first 256.
    pub model: Option<String>,
    /// Calls that were answered, streams that broke later among them.
    pub calls: u64,
    /// Those of them whose usage the upstream did not say: they are in no sum.
    pub calls_without_usage: u64,
    /// Those whose usage is in the sums of tokens but, for want of a price, not in `cost_usd`.
    pub calls_without_price: u64,
    /// Tokens read.
    pub input_tokens: u64,
    /// Those of them that came from the provider's cache.
    pub cached_input_tokens: u64,
    /// Tokens written.
    pub output_tokens: u64,
    /// In US$.
    pub cost_usd: f64,
    /// Of the last calls.
    pub latency: LatencyStatus,
}

/// How long the last calls took from the send of the attempt that was answered: to the whole answer, and of streams to the
/// first content.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct LatencyStatus {
    /// So many calls are looked at.
    pub calls: usize,
    /// The median, in seconds.
    pub p50_s: Option<f64>,
    /// 95 of 100 took no longer.
    pub p95_s: Option<f64>,
}

/// One account; never its key.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[non_exhaustive]
pub struct AccountStatus {
    /// The upstream's name and the key's place in `api_keys`, from 1: `openai#1`.
    pub account: String,
    /// Attempts under way.
    pub in_flight: usize,
    /// How many may be under way.
    pub at_once: AtOnceStatus,
    /// The upstream's word holds it for so long.
    pub held_for_s: Option<f64>,
    /// Its key rests for so long.
    pub rests_for_s: Option<f64>,
    /// Why it rests, in words: it was refused, or there is no money.
    pub rests_why: Option<String>,
    /// The configured caps.
    pub caps: Vec<CapStatus>,
    /// What was learned for each model that was called within the last hour, or whose quota of the day is used up.
    pub models: Vec<ModelStatus>,
}

/// How many attempts at once, and why.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[non_exhaustive]
pub struct AtOnceStatus {
    /// So many now.
    pub limit: usize,
    /// Never more: `max_concurrent`, or else `[pool] slots_per_account`.
    pub most: usize,
    /// Why so many, in words.
    pub why: String,
}

/// A configured cap.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
#[non_exhaustive]
pub struct CapStatus {
    /// What it counts.
    pub counts: Dimension,
    /// Per minute.
    pub limit_per_minute: u64,
    /// Of it within the last minute.
    pub used: u64,
    /// What may still be used now.
    pub left: u64,
    /// Until it is whole again.
    pub whole_in_s: f64,
}

/// One account's budgets for one model.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[non_exhaustive]
pub struct ModelStatus {
    /// What was learned.
    #[serde(flatten)]
    pub learned: LearnedModel,
    /// When the next call may go, of each priority.
    pub next: Vec<NextStatus>,
}

/// When the next call of a priority may go to an account.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[non_exhaustive]
pub struct NextStatus {
    /// The call's.
    pub priority: Priority,
    /// The tokens it may need: of the first that waits, or none where nobody does.
    pub tokens: u64,
    /// So soon; `None` when an attempt must end first, or never.
    pub in_s: Option<f64>,
    /// What keeps it until then, in words.
    pub why: Option<String>,
}
