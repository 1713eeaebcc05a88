//! The transport, from its bytes to its peers.

mod connections;
mod handshakes;
pub(crate) mod peer;
pub(crate) mod rig;
mod strict;
mod uploads;
