//! forebay: calls to AI APIs that wait their turn instead of failing.
//!
//! A *dispatcher* actor holds the rate-limit budget of every upstream account and routes calls to a supervised pool of
//! *request actors* that restart on failure; retry backoff is scheduled as delayed self-messages. Every clause of that
//! sentence is a file:
//!
//! | clause | where |
//! |---|---|
//! | dispatcher actor | `dispatcher/actor.rs`, a thin shell round `dispatcher/switchboard.rs` |
//! | rate-limit budget | `dispatcher/budget`: `cap.rs` (the user's), `told.rs` and `guess.rs` (the provider's, learned); `dispatcher/concurrency.rs` (how many at once) |
//! | routes calls | `dispatcher/lane.rs` (an upstream), `line.rs` (who waits), `turn.rs` (who is next), `desks.rs` (to which account), `config/serves.rs` |
//! | supervised pool | `pool/supervisor.rs`, `pool/seats.rs` (one a thread), `pool/restart.rs` |
//! | request actors | `pool/request_actor.rs`: one attempt at a time, run by `exchange.rs`, streams passed on by `relay.rs` |
//! | retry backoff | `dispatcher/retry.rs`, what is retried at all in `providers/classify.rs`; whether the upstream is there at all in `dispatcher/breaker.rs` |
//! | delayed self-messages | `dispatcher/timers.rs`: all of them in order, one timer armed |
//!
//! # The walk of one call
//!
//! ```text
//! caller -> gateway/calls     reads only what routing needs, keeps the bytes
//!   Submit                    handle -> dispatcher: ledger, line; refused at once when it cannot have its turn in time
//!          pump               while a slot is idle, the first in line that an account can take: budget.reserve
//!   RunAttempt                dispatcher -> request actor, one on the caller's own thread when there is a choice
//!          encode, transport, classify; a stream's bytes go straight to the caller
//!   Opened, Attempted         request actor -> dispatcher: budget.settle, retry.judge -> outcome | again | give up
//!   RetryDue                  dispatcher -> itself, later
//! outcome                     exactly one for each call
//! ```
//!
//! A job goes the same way from the store: `jobs/actor` claims a few of each model (`jobs/window`), every attempt is on record
//! before it is made (`messages/journal`, `jobs/record`), and its one end is written down with all it brought (`jobs/verdict`,
//! `jobs/run`).
//!
//! Imports run downwards only: `clock messages` < `config telemetry` < `providers store` < `dispatcher | pool` < `jobs` <
//! `system` < `gateway cli simulator`. The dispatcher and the pool never import each other: they meet in `messages` and are wired
//! in `system`. Policy is plain Rust that is told the time and handed the dice; actors are thin.
//!
//! # Embedding
//!
//! ```no_run
//! use forebay::{Config, Forebay, Request};
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let forebay = Forebay::start(Config::load()?).await?;
//! let messages = serde_json::json!([{"role": "user", "content": "hello"}]);
//! let answer = forebay.call(Request::chat("gpt-4o-mini", &messages)).await?;
//! let mut events = forebay.stream(Request::chat("gpt-4o-mini", &messages)).await?;
//! while let Some(event) = events.next().await {
//!     println!("{}", event?.data);
//! }
//! forebay.shutdown(std::time::Duration::from_secs(30)).await;
//! # Ok(())
//! # }
//! ```

#![cfg_attr(not(test), warn(clippy::unwrap_used))]

pub mod clock;
pub mod config;
mod dispatcher;
mod jobs;
mod messages;
mod pool;
mod providers;
#[cfg_attr(not(all(feature = "gateway", feature = "sqlite")), allow(dead_code))]
// each feature uses parts of the contract
mod store;
mod system;
mod telemetry;

#[cfg(feature = "gateway")]
#[doc(hidden)]
pub mod cli;
#[cfg(feature = "gateway")]
mod gateway;
#[cfg(all(test, feature = "gateway"))]
mod simulation;
#[cfg(feature = "gateway")]
pub mod simulator;

pub use config::Config;
pub use dispatcher::Dispatcher;
pub use messages::{
    Account, AccountId, AccountStatus, Answer, AnswerBody, AtOnceStatus, Authorities, BatchId, Body, BreakerStatus,
    BudgetView, Call, CallId, Cancel, CapStatus, Dimension, Droppable, Endpoint, Error, ErrorKind, Failure,
    FailureKind, FileId, GrowthBudget, GuessedBudget, Headers, Health, InspectedRefusals, Job, JobId, JobStatus,
    JobsStatus, KindSigns, LatencyStatus, LearnedBudget, LearnedModel, LimiterKind, LoneRefusal, Meta, ModelStatus,
    NextStatus, NoId, Outcome, Phase, PoolStatus, Price, Priority, QueueStatus, Remaining, Request, RetriesStatus,
    RetryHint, Scope, Secret, Sent, Status, StreamBody, Timeouts, ToldBudget, Upstream, UpstreamKind, UpstreamStatus,
    Usage, UsageAsk, UsedStatus, UsualFaults, WaitingStatus,
};
pub use pool::transport;
#[cfg(feature = "sqlite")]
#[doc(hidden)]
pub use store::Measured;
pub use system::{Builder, Event, Events, Forebay, Model};
