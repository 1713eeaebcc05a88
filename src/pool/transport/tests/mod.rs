//! The transport, from its bytes to its peers.

mod strict;
