//! The durable life of a request: from the moment it is on disk to its one result, through whatever ends the process on the
//! way.
//!
//! `registry` is what everybody may ask (submit, look, wait, cancel), `submission` what may be accepted, `waiters` who waits
//! for which end. `actor` has jobs run, a few of each queue at once (`window`): each is a `run` on the `way` to the dispatcher,
//! with a `record` of its attempts, and a `verdict` at its end. `upkeep` takes up what an earlier process left, ends what is
//! out of time and forgets; `outbox` tells them to whoever asked for a `webhook`. `view` is a job as it is shown.
//! [`batches`] are files whose lines are jobs.

mod actor;
#[cfg(feature = "gateway")]
pub(crate) mod batches;
mod outbox;
mod record;
#[cfg_attr(not(feature = "gateway"), allow(dead_code))] // the gateway asks for more than a program can
mod registry;
mod run;
mod submission;
mod upkeep;
mod verdict;
mod view;
mod waiters;
mod way;
mod webhook;
mod window;

#[cfg(test)]
pub(crate) use actor::CrashJobsIn;
pub(crate) use actor::{DrainJobs, Jobs};
pub(crate) use registry::{Registry, Whose, refusal};
#[cfg(feature = "gateway")]
pub(crate) use view::Shown;
pub(crate) use view::end_error;
pub(crate) use way::Way;
