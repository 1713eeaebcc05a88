//! The transport, from its bytes to its peers.

mod connections;
mod handshakes;
pub(crate) mod peer;
mod reach;
pub(crate) mod rig;
mod strict;
mod uploads;
