//! Wires that break, seen by callers: the whole system, over TCP and over TLS, before a scripted peer.

mod crowds;
mod fault;
mod faults;
mod own;
mod races;
mod stage;
mod stalls;
mod table;
mod trust;
