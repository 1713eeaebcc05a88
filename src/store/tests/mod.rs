//! One body of tests for every kind of store.

#[cfg(feature = "sqlite")]
mod damage;
mod handle;
mod life;
mod model;
#[cfg(feature = "sqlite")]
mod opening;
#[cfg(all(feature = "sqlite", target_os = "linux"))]
mod powercut;
mod reference;

use std::sync::Arc;

use bytes::Bytes;

use super::Ms;
use super::jobs::{Claim, Claimed, Finish, JobEnd, NewJob, Start};
use super::{Changes, Owner, Store, StoreError};
use crate::clock::in_virtual_time;
#[cfg(feature = "sqlite")]
use crate::config::StoreUrl;
use crate::messages::{Endpoint, JobId, JobStatus, Priority};

/// Runs `test` on a new store of every kind.
fn on_every_kind<F: Future<Output = ()>>(test: impl Fn(Store) -> F) {
    in_virtual_time(test(Store::memory()));
    #[cfg(feature = "sqlite")]
    in_virtual_time(async {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&StoreUrl::Sqlite(folder.path().join("store.db"))).unwrap();
        test(store.clone()).await;
        store.close().await;
    });
}

/// A job of queue `m`, told apart by its body.
fn job(body: &str, created_at: Ms) -> NewJob {
    NewJob {
        tenant: None,
        key: None,
        digest: [7; 32],
        endpoint: Endpoint::ChatCompletions,
        queue: "m".into(),
        priority: Priority::Low,
        at_most_once: false,
        webhook: None,
        created_at,
        expires_at: created_at + 1_000_000,
        body: Bytes::copy_from_slice(body.as_bytes()),
        line: None,
    }
}

fn start(owner: Owner, job: JobId, attempt: u32, at: Ms) -> Start {
    Start { owner, job, attempt, upstream: Arc::from("u"), key: 0, at }
}

fn success(owner: Owner, job: JobId, attempt: u32, at: Ms) -> Finish {
    Finish {
        owner,
        job,
        attempt: Some((attempt, super::jobs::AttemptRecord { ended_at: at, status: Some(200), ..Default::default() })),
        status: JobStatus::Succeeded,
        at,
        end: JobEnd::Result { status: 200, body: Bytes::from_static(b"{\"ok\":true}") },
        usage: None,
        cost_usd: Some(0.25),
    }
}

fn claim(changes: &mut dyn Changes, owner: Owner, now: Ms) -> Result<Claimed, StoreError> {
    changes.claim(&Claim { owner, queue: "m".into(), now, limit: 100, max_bytes: usize::MAX })
}

fn bodies(claimed: &Claimed) -> Vec<&str> {
    claimed.jobs.iter().map(|job| std::str::from_utf8(&job.body).unwrap()).collect()
}
