//! The life of a webhook, by name. Of its URL only the origin is told: path and query are passwords with some receivers.

use std::time::Duration;

use crate::messages::JobId;

/// The receiver has it.
pub(crate) fn webhook_delivered(job: JobId, origin: &str, attempt: u32, took: Duration) {
    tracing::info!(%job, origin, attempt, ms = millis(took), "webhook delivered");
}

/// An attempt failed; there will be another.
pub(crate) fn webhook_failed(job: JobId, origin: &str, attempt: u32, took: Duration, why: &str, again_in: Duration) {
    let again_s = again_in.as_secs();
    tracing::warn!(%job, origin, attempt, ms = millis(took), why, again_s, "webhook failed: it is tried again");
}

/// There will be no further attempt: its receiver has to ask for the result.
pub(crate) fn webhook_given_up(job: JobId, origin: &str, attempts: u32, why: &str) {
    tracing::error!(%job, origin, attempts, why, "webhook given up: its receiver was not told");
}

/// A receiver keeps still: for a while its webhooks fail untried, but for one at a time.
pub(crate) fn webhooks_held(origin: &str, silent: u32) {
    tracing::warn!(
        origin,
        silent,
        "a receiver of webhooks does not answer: until it does, one attempt at a time goes there"
    );
}

/// It answers again.
pub(crate) fn webhooks_resumed(origin: &str) {
    tracing::info!(origin, "a receiver of webhooks answers again");
}

fn millis(took: Duration) -> u64 {
    u64::try_from(took.as_millis()).unwrap_or(u64::MAX)
}
