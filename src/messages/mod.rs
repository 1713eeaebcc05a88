//! What actors say to each other, and the things they say it about.
//!
//! Nothing here decides anything. A request is immutable, its body is shared bytes, and an id ties every answer to
//! its request at every hop.

mod account;
mod attempt;
mod body;
mod control;
mod droppable;
pub(crate) mod envelope;
mod error;
mod failure;
mod headers;
mod ids;
mod job;
mod journal;
pub(crate) mod json;
mod learned;
mod limit_report;
mod memories;
mod outcome;
mod price;
mod redact;
mod request;
mod slot;
mod status;
mod stream;
mod tokens;
mod watch;

pub use account::{Account, AccountId, Authorities, Secret, Timeouts, Upstream, UpstreamKind};
pub(crate) use attempt::{Abort, AttemptEnd, Attempted, Opened, RunAttempt};
pub use body::{Body, UsageAsk};
pub(crate) use control::{AskHealth, Drain, EndAll, EndWaiting, Stop};
pub use control::{Call, Cancel, Health};
pub use droppable::Droppable;
pub(crate) use droppable::without_indices;
pub(crate) use envelope::Envelope;
pub use error::{Error, ErrorKind};
pub(crate) use failure::Pushback;
pub use failure::{Failure, FailureKind, Phase, RetryHint, Sent};
pub use headers::Headers;
pub use ids::CallId;
pub(crate) use ids::{AttemptId, SeatId, SlotId};
pub use job::{BatchId, FileId, Job, JobId, JobStatus, NoId};
pub(crate) use journal::{Durable, Journal, Recorded};
pub use learned::{
    GrowthBudget, GuessedBudget, InspectedRefusals, KindSigns, LearnedBudget, LearnedModel, LimiterKind, LoneRefusal,
    ToldBudget, UsualFaults,
};
pub(crate) use limit_report::{BudgetReading, LimitReport, Period, Reset};
pub use limit_report::{Dimension, Scope};
pub(crate) use memories::{AskMemories, AwaitAttempt, Memory, Recollection};
pub use outcome::{Answer, AnswerBody, BudgetView, Meta, Outcome, Remaining, Usage};
pub use price::Price;
pub(crate) use redact::Redactor;
pub use request::{Endpoint, Priority, Request};
pub(crate) use slot::{NeedSlots, SlotGone, SlotUp};
pub(crate) use status::AskStatus;
pub use status::{
    AccountStatus, AtOnceStatus, BreakerStatus, CapStatus, JobsStatus, LatencyStatus, ModelStatus, NextStatus,
    PoolStatus, QueueStatus, RetriesStatus, Status, UpstreamStatus, UsedStatus, WaitingStatus,
};
pub use stream::StreamBody;
pub(crate) use stream::{StreamSender, Tether, stream};
pub(crate) use tokens::Tokens;
pub(crate) use watch::{DeathWatch, Part, PartGone};
