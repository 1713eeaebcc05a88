//! Who goes when: one actor that holds every budget and routes calls to slots.
//!
//! `actor` is a thin shell round `switchboard`, which is plain state; its directions are `intake` (calls in, calls out),
//! `attempts` (tries go out) and `ends` (they come back). Below them one policy a file: `lane` (an upstream), `line` (who waits for
//! it), `groups` (for which model), `turn` (who is next, and where), `desks` (its accounts, of which few are asked each
//! time), `budget` (may it go; what was learned of its limits), `concurrency` and `knee` (how many at once), `retry` (may it
//! go again, and when), `breaker` (is the upstream there at all; `outage`: what follows for its calls), `slots`, `timers`,
//! `ledger`, `admission`; `explain` says why calls wait, `tally` what they have used and cost, `status` how everything
//! stands, `remembering` what of it outlives the process.

mod actor;
mod admission;
mod ask;
mod attempts;
mod breaker;
mod budget;
#[cfg(test)]
pub(crate) mod check;
mod concurrency;
mod desks;
mod ends;
mod explain;
mod groups;
mod intake;
mod knee;
mod lane;
mod ledger;
mod legacy;
mod line;
mod outage;
#[cfg(test)]
pub(crate) mod planted;
mod remembering;
mod retry;
mod slots;
mod status;
mod switchboard;
mod tally;
mod timers;
mod turn;

pub use actor::Dispatcher;
#[cfg(test)]
pub(crate) use actor::{CrashIn, MESSAGES_PER_TURN};
pub(crate) use actor::{PoolLine, Reconfigure, Submit, draining, restarting};
pub(crate) use admission::{Admission, Admitted};
pub(crate) use intake::nobody_serves;
pub(crate) use legacy::Legacy;
pub(crate) use retry::longest_backoff;
