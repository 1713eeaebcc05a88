//! The store as its bench reaches it, which cannot see into the room.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::jobs::{AttemptRecord, Claim, Finish, JobEnd, NewJob, Start};
use super::{Store, StoreError};
use crate::config::StoreUrl;
use crate::messages::{Endpoint, JobId, JobStatus, Priority};

/// A moment in the past: a store that was told a later one than it is would take the clock for turned back.
const NOW: i64 = 1_700_000_000_000;

/// An open store. What fails panics.
#[derive(Clone)]
pub struct Measured(Store);

#[allow(missing_docs)] // for the bench alone
impl Measured {
    pub fn open(file: &Path) -> Self {
        Self(Store::open(&StoreUrl::Sqlite(file.into())).unwrap_or_else(|error| panic!("{error}")))
    }

    pub async fn close(&self) {
        self.0.close().await;
    }

    /// One job with a body of `bytes`, on disk when it returns.
    pub async fn submit(&self, bytes: usize) {
        let new = job(bytes, 0);
        good(self.0.accept(bytes, move |changes| changes.submit(&new)).await);
    }

    /// The jobs of these numbers, many in a work.
    pub async fn fill(&self, numbers: Range<usize>, bytes: usize) {
        for first in numbers.clone().step_by(1_000) {
            let many = 1_000.min(numbers.end - first);
            let filled = self.0.write(move |changes| {
                (0..many).try_for_each(|more| changes.submit(&job(bytes, first + more)).map(drop))
            });
            good(filled.await);
        }
    }

    /// Claims as many jobs, as the dispatcher fills its window.
    pub async fn claim(&self, limit: usize) -> Vec<JobId> {
        let claim =
            Claim { owner: self.0.owner(), queue: "gpt-4o".into(), now: NOW + 100_000_000, limit, max_bytes: 64 << 20 };
        let claimed = good(self.0.write(move |changes| changes.claim(&claim)).await);
        claimed.jobs.into_iter().map(|job| job.id).collect()
    }

    /// Makes the one attempt of a claimed job, and ends it with an answer of `bytes`.
    pub async fn start_and_finish(&self, job: JobId, bytes: usize) {
        let owner = self.0.owner();
        let start = Start { owner, job, attempt: 1, upstream: Arc::from("openai"), key: 0, at: NOW };
        assert!(good(self.0.write(move |changes| changes.start(&start)).await), "it is ours");
        let finish = Finish {
            owner,
            job,
            attempt: Some((1, AttemptRecord { ended_at: NOW, status: Some(200), ..AttemptRecord::default() })),
            status: JobStatus::Succeeded,
            at: NOW,
            end: JobEnd::Result { status: 200, body: text(bytes) },
            usage: None,
            cost_usd: Some(0.001),
        };
        assert!(good(self.0.write(move |changes| changes.finish(&finish)).await), "it has no other end");
    }

    /// Every queue's depth, as it is counted at each start.
    pub async fn ready(&self) -> u64 {
        good(self.0.read(|records| records.queues()).await).iter().map(|depth| depth.ready).sum()
    }
}

fn good<T>(done: Result<T, StoreError>) -> T {
    done.unwrap_or_else(|error| panic!("{error:?}"))
}

fn text(bytes: usize) -> Bytes {
    vec![b'x'; bytes].into()
}

/// They become due as they came, but for every sixteenth, which is somewhere among the million after it.
fn job(bytes: usize, number: usize) -> NewJob {
    let later = if number % 16 == 15 { number.wrapping_mul(2_654_435_761) % 1_000_000 } else { 0 };
    let created_at = NOW + (number + later) as i64;
    NewJob {
        tenant: None,
        key: None,
        digest: [0; 32],
        endpoint: Endpoint::ChatCompletions,
        queue: "gpt-4o".into(),
        priority: [Priority::High, Priority::Normal, Priority::Low][number % 3],
        at_most_once: false,
        webhook: None,
        created_at,
        expires_at: created_at + 86_400_000,
        body: text(bytes),
        line: None,
    }
}
