//! The supervised pool: slots with one request actor each, on the threads of the system.
//!
//! `supervisor` starts, watches and replaces the request actors by the policy of `restart`; a `seat` is a thread's own
//! end of it and holds that thread's transport, `seats` are all of them; `request_actor` makes one attempt at a time:
//! `exchange` runs it, `relay` passes a stream on. The pool never queues.

mod exchange;
#[cfg(test)]
mod planted;
mod relay;
mod request_actor;
mod restart;
mod seat;
mod seats;
mod supervisor;
pub mod transport;
mod vitals;

pub(crate) use request_actor::Lines;
#[cfg(test)]
pub(crate) use seat::KillSlot;
#[cfg(all(test, feature = "gateway"))] // the simulation alone
pub(crate) use supervisor::KillSeat;
pub(crate) use supervisor::Supervisor;
pub(crate) use vitals::Vitals;
