//! The durable life of a request.

pub(crate) mod batches;
