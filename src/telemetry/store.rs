//! What the store says of itself.

use std::io;

pub(crate) fn row_damaged(what: &str, id: i64) {
    tracing::error!(what, id, "a row of the store is damaged: it is given to nobody");
}

pub(crate) fn clock_went_back(by_ms: i64) {
    tracing::warn!(by_ms, "the system's clock is behind what the store was told last: what waits goes back with it");
}

pub(crate) fn is_short_of_room(is_short: bool, free: Option<u64>) {
    if is_short {
        tracing::error!(free, "the store's disk is nearly full: new jobs are refused until there is room");
    } else {
        tracing::info!(free, "the store's disk has room again: jobs are accepted");
    }
}

pub(crate) fn ballast_let_go() {
    tracing::warn!("the store let its ballast go, so that what was paid for can still be stored");
}

pub(crate) fn ballast_failed(error: &io::Error) {
    tracing::warn!(%error, "the store's ballast cannot be written now");
}
