//! What the gateway and the daemon around it have to say.

use std::fmt::Display;
use std::net::SocketAddr;

use crate::messages::{CallId, SeatId};

/// The daemon takes calls.
pub(crate) fn started(addr: SocketAddr, upstreams: usize, threads: usize) {
    tracing::info!(target: "forebay", %addr, upstreams, threads, version = env!("CARGO_PKG_VERSION"), "started");
}

/// How many file descriptors the process may have, and had been given before it took what it may.
pub(crate) fn descriptors(before: u64, now: u64) {
    tracing::info!(target: "forebay", before, now, "limit of file descriptors");
}

/// The limit of file descriptors stays as it was.
pub(crate) fn descriptors_not_raised(error: &std::io::Error) {
    tracing::warn!(target: "forebay", %error, "the limit of file descriptors could not be raised");
}

/// Something about the configuration that is allowed but worth a line.
pub(crate) fn config_warning(warning: &str) {
    tracing::warn!(target: "forebay", "{warning}");
}

/// SIGHUP brought a configuration that is now in force.
pub(crate) fn reloaded() {
    tracing::info!(target: "forebay", "configuration reloaded");
}

/// SIGHUP brought a configuration that was refused; called once for each problem.
pub(crate) fn reload_refused(problem: &dyn Display) {
    tracing::error!(target: "forebay", %problem, "configuration not reloaded; the old one stays in force");
}

/// SIGHUP came when it was too late.
pub(crate) fn reload_too_late() {
    tracing::warn!(target: "forebay", "configuration not reloaded: forebay is draining");
}

/// A reloaded configuration has a key that only a restart can change.
pub(crate) fn needs_restart(key: &str) {
    tracing::warn!(target: "forebay", key, "the new value takes a restart; everything else is in force");
}

/// A signal asked the daemon to end; accepted calls go on.
pub(crate) fn draining(within: std::time::Duration) {
    tracing::info!(target: "forebay", within_s = within.as_secs_f64(), "draining");
}

/// Every accepted call has had its end; what is left is to write the last answers and to close.
pub(crate) fn drained() {
    tracing::info!(target: "forebay", "all calls have ended");
}

/// Whoever connects from here on is refused.
pub(crate) fn door_shut() {
    tracing::info!(target: "forebay", "no more connections are taken");
}

/// A second signal does not want to wait for the drain.
pub(crate) fn interrupted() {
    tracing::warn!(target: "forebay", "a second signal: ended at once");
}

/// The daemon ends.
pub(crate) fn stopped() {
    tracing::info!(target: "forebay", "stopped");
}

/// Connections cannot be accepted, say for want of file descriptors. Said once until it works again.
pub(crate) fn accept_failing(seat: SeatId, why: &dyn Display) {
    tracing::error!(target: "forebay::gateway", seat = seat.0, %why, "cannot accept connections; trying again");
}

/// Connections can be accepted again.
pub(crate) fn accept_recovered(seat: SeatId) {
    tracing::info!(target: "forebay::gateway", seat = seat.0, "accepting connections again");
}

/// A thread of the system's cannot serve connections at all.
pub(crate) fn seat_lost(seat: SeatId, why: &dyn Display) {
    tracing::error!(target: "forebay::gateway", seat = seat.0, %why, "this thread serves no connections");
}

/// A caller did not do its part, and its connection was cut.
pub(crate) fn caller_cut(what: &str) {
    tracing::debug!(target: "forebay::gateway", what, "connection cut");
}

/// A handler panicked; its caller got a 500.
pub(crate) fn handler_panicked(id: CallId) {
    tracing::error!(target: "forebay::gateway", request_id = %id, "a handler panicked");
}

/// A call was refused before it was one: no key, foreign origin.
pub(crate) fn refused(id: CallId, code: &str) {
    tracing::debug!(target: "forebay::gateway", request_id = %id, code, "refused");
}

/// What is kept for an Idempotency-Key is not as this program writes it: the call is made.
pub(crate) fn kept_answer_unreadable() {
    tracing::warn!(target: "forebay", "an answer kept for an Idempotency-Key cannot be read; the call is made anew");
}

/// The store does not say what it keeps for an Idempotency-Key: the call is refused.
pub(crate) fn kept_answers_unreachable(error: &dyn std::fmt::Display) {
    tracing::error!(target: "forebay", %error, "the answers kept for Idempotency-Keys cannot be read");
}

/// An answer could not be kept on disk: a restart forgets it.
pub(crate) fn answer_not_kept(error: &dyn std::fmt::Display) {
    tracing::warn!(target: "forebay", %error, "an answer for an Idempotency-Key could not be kept on disk");
}
