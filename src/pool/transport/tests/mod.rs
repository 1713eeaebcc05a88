//! The transport, from its bytes to its peers.

mod answers;
mod connections;
mod handshakes;
mod peer;
mod rig;
mod strict;
mod uploads;
