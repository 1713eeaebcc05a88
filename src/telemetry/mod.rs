//! Every log event by name, and where log lines go.

pub(crate) mod events;
