//! Wires that break, seen by callers: the whole system, over TCP and over TLS, before a scripted peer.

mod faults;
mod own;
mod stage;
mod table;
