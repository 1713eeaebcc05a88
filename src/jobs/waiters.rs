//! Who waits for which job to end. Nobody asks the disk again and again: whoever ends a job wakes those.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::messages::JobId;

/// Those who wait, by job.
#[derive(Default)]
pub(super) struct Waiters(Mutex<HashMap<JobId, Arc<Notify>>>);

/// Somebody's wait for a job.
pub(super) struct Wait<'a> {
    waiters: &'a Waiters,
    job: JobId,
    woken: Arc<Notify>,
}

impl Waiters {
    fn waiting(&self) -> MutexGuard<'_, HashMap<JobId, Arc<Notify>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to wait: whatever wakes the job from now on is heard, provided that [`Wait::woken`] was asked for before it was
    /// looked whether the job has ended already.
    pub(super) fn wait(&self, job: JobId) -> Wait<'_> {
        let woken = Arc::clone(self.waiting().entry(job).or_default());
        Wait { waiters: self, job, woken }
    }

    /// The job has ended, or may have.
    pub(super) fn wake(&self, job: JobId) {
        if let Some(woken) = self.waiting().get(&job) {
            woken.notify_waiters();
        }
    }

    /// Any job may have ended.
    pub(super) fn wake_all(&self) {
        self.waiting().values().for_each(|woken| woken.notify_waiters());
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.waiting().len()
    }
}

impl Wait<'_> {
    /// Resolves when the job has, or may have, ended after this was called.
    pub(super) fn woken(&self) -> Notified<'_> {
        self.woken.notified()
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let mut waiting = self.waiters.waiting();
        // The table's own and this one.
        if Arc::strong_count(&self.woken) == 2 {
            waiting.remove(&self.job);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_waits_is_woken_and_leaves_nothing_behind() {
        let waiters = Waiters::default();
        let (job, other) = (JobId::of(1), JobId::of(2));
        {
            let (first, second, third) = (waiters.wait(job), waiters.wait(job), waiters.wait(other));
            let (one, two) = (first.woken(), second.woken());
            waiters.wake(job);
            one.await;
            two.await;
            let mut rest = std::pin::pin!(third.woken());
            assert!(!rest.as_mut().enable(), "another job was woken");
            waiters.wake_all();
            rest.await;
            drop(first);
            assert_eq!(waiters.len(), 2);
        }
        assert_eq!(waiters.len(), 0);
    }
}
