//! Every log event by name, and where log lines go. A key, a prompt or an answer is never part of one.

#[cfg(feature = "gateway")]
pub(crate) mod access;
#[cfg(feature = "gateway")]
pub(crate) mod batches;
pub(crate) mod events;
#[cfg(feature = "gateway")]
pub(crate) mod gateway;
pub(crate) mod jobs;
#[cfg(feature = "gateway")]
pub(crate) mod logging;
#[cfg(feature = "sqlite")]
pub(crate) mod store;
pub(crate) mod webhooks;
