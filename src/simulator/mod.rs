//! The fault-injecting provider.
