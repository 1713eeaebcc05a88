//! Who goes when: one actor that holds every budget and routes calls to slots.
//!
//! `actor` is a thin shell round `switchboard`, which is plain state; its two directions are `intake` (calls in, calls
//! out) and `attempts` (tries and their ends). Below them one policy a file: `lane` (an upstream with its accounts),
//! `line` (who is next), `budget` with `pace` and `window` (may it go), `reported` (what the provider says of it), `retry` (may it go again, and when), `slots`,
//! `timers`, `ledger`, `admission`.

mod actor;
mod admission;
mod attempts;
mod budget;
#[cfg(test)]
pub(crate) mod check;
mod intake;
mod lane;
mod ledger;
mod legacy;
mod line;
mod pace;
#[cfg(test)]
pub(crate) mod planted;
mod reported;
mod retry;
mod slots;
mod switchboard;
mod timers;
mod window;

pub use actor::Dispatcher;
#[cfg(test)]
pub(crate) use actor::{CrashIn, MESSAGES_PER_TURN};
pub(crate) use actor::{PoolLine, Reconfigure, Submit, draining, restarting};
pub(crate) use admission::{Admission, Admitted};
pub(crate) use legacy::Legacy;
