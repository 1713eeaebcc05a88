//! Every log event by name. A key, a prompt or an answer is never part of one.

pub(crate) mod events;

#[cfg(feature = "gateway")]
pub(crate) mod access;
#[cfg(feature = "gateway")]
pub(crate) mod gateway;
#[cfg(feature = "gateway")]
pub(crate) mod logging;
