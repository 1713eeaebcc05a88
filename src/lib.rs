//! forebay: calls to AI APIs that wait their turn instead of failing.

#![cfg_attr(not(test), warn(clippy::unwrap_used))]

pub mod clock;
pub mod config;
mod dispatcher;
mod messages;
mod pool;
mod providers;
mod system;
mod telemetry;

#[cfg(feature = "gateway")]
#[doc(hidden)]
pub mod cli;
#[cfg(feature = "gateway")]
mod gateway;
#[cfg(feature = "gateway")]
pub mod simulator;

pub use config::Config;
pub use dispatcher::Dispatcher;
pub use messages::{
    Account, AccountId, Answer, AnswerBody, Body, BudgetView, Call, CallId, Cancel, Endpoint, Error, ErrorKind,
    Failure, FailureKind, Headers, Meta, Outcome, Phase, Priority, Remaining, Request, RetryHint, Secret, Sent,
    StreamBody, Timeouts, Upstream, UpstreamKind, Usage, UsageAsk,
};
pub use pool::transport;
pub use system::{Builder, Event, Events, Forebay};
