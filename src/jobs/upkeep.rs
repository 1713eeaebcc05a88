//! What is done in the store beside jobs that run, in bites, so that nobody waits behind it for long: taking up what an
//! earlier process left, ending what is out of time, and forgetting what is kept no longer.

use std::time::Duration;

use super::registry::Registry;
use super::verdict::millis;
use crate::clock;
use crate::messages::JobStatus;
use crate::store::jobs::{QueueDepth, Retention};
use crate::store::{Ms, Owner, StoreError};
use crate::telemetry::jobs as events;

/// Rows changed by one bite.
const BITE: usize = 200;

/// Between two bites of what is in no hurry.
const PAUSE: Duration = Duration::from_millis(20);

/// A request's body is kept for so long after its end, an attempt's record after its beginning.
const KEEP_BODIES: Duration = Duration::from_secs(86_400);
const KEEP_ATTEMPTS: Duration = Duration::from_secs(90 * 86_400);

/// How the store stands at the beginning.
#[derive(Debug, Default)]
pub(super) struct Standing {
    pub(super) queues: Vec<QueueDepth>,
    pub(super) next_expiry: Option<Ms>,
    pub(super) next_outgoing: Option<Ms>,
}

/// Takes every job out of the hands of whoever had them, ourselves before a crash included, and looks how things stand.
pub(super) async fn begin(registry: &Registry) -> Result<Standing, StoreError> {
    // Nothing of ours runs yet: what is in our name was claimed by the actor before.
    let (owner, now) = (Owner(registry.store().owner().0 + 1), registry.now());
    let mut rescued = 0;
    loop {
        let bite = registry.store().write(move |changes| changes.rescue(owner, now, BITE)).await?;
        rescued += bite;
        if bite < BITE {
            break;
        }
    }
    if rescued > 0 {
        events::jobs_rescued(rescued);
        registry.waiters().wake_all();
    }
    let read = registry.store().read(|records| {
        let (queues, next_expiry) = (records.queues()?, records.next_expiry()?);
        Ok(Standing { queues, next_expiry, next_outgoing: records.next_outgoing()? })
    });
    read.await
}

/// Ends the jobs that wait on disk and whose time is up; gives when the next one's is.
pub(super) async fn expire(registry: &Registry) -> Result<Option<Ms>, StoreError> {
    let now = registry.now();
    loop {
        let ended = registry.store().write(move |changes| changes.expire(now, BITE)).await?;
        for job in &ended {
            events::job_ended(*job, JobStatus::Expired);
            registry.waiters().wake(*job);
        }
        if ended.len() < BITE {
            break;
        }
    }
    registry.store().read(|records| records.next_expiry()).await
}

/// Forgets what is kept no longer: of jobs, results by `keep_results_for`, and answers for callers' keys.
pub(super) async fn prune(registry: &Registry, keep_results_for: Duration) -> Result<(), StoreError> {
    let now = registry.now();
    let retention = Retention {
        bodies_before: now.saturating_sub(millis(KEEP_BODIES)),
        results_before: now.saturating_sub(millis(keep_results_for)),
        attempts_before: now.saturating_sub(millis(KEEP_ATTEMPTS)),
    };
    let mut pruned = 0;
    loop {
        let bite = registry
            .store()
            .write(move |changes| Ok(changes.prune(&retention, BITE)? + changes.forget_answers(now, BITE)?));
        let bite = bite.await?;
        pruned += bite;
        if bite == 0 {
            break;
        }
        clock::until(clock::now() + PAUSE).await;
    }
    if pruned > 0 {
        events::jobs_pruned(pruned);
    }
    Ok(())
}
