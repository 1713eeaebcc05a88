//! forebay: calls to AI APIs that wait their turn instead of failing.

pub mod clock;
pub mod config;
mod messages;
mod pool;
mod providers;
mod system;

#[cfg(feature = "gateway")]
#[doc(hidden)]
pub mod cli;
#[cfg(feature = "gateway")]
mod gateway;
#[cfg(feature = "gateway")]
pub mod simulator;

pub use config::Config;
pub use messages::{
    Account, AccountId, Answer, AnswerBody, Body, BudgetView, Call, CallId, Cancel, Endpoint, Error, ErrorKind,
    Failure, FailureKind, Headers, Meta, Outcome, Phase, Priority, Remaining, Request, RetryHint, Secret, Sent, Timeouts,
    Upstream, UpstreamKind, Usage, UsageAsk,
};
pub use pool::transport;
pub use system::Forebay;
