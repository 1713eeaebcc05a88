//! The supervised pool of request actors.

pub mod transport;
