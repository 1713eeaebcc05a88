//! The handle's own promises.

use super::*;
use crate::store::jobs::{JobFilter, Submitted};

fn all() -> JobFilter {
    JobFilter { limit: 100, ..JobFilter::default() }
}

#[test]
fn a_work_that_fails_leaves_nothing_behind() {
    on_every_kind(async |store| {
        let failed = store.write(|changes| {
            changes.submit(&job("a", 1))?;
            Err::<(), _>(StoreError::Behind)
        });
        assert_eq!(failed.await, Err(StoreError::Behind));
        assert_eq!(store.read(|records| Ok(records.jobs(&all())?.len())).await, Ok(0));
        let Ok(Submitted::New(first)) = store.write(|changes| changes.submit(&job("b", 1))).await else { panic!() };
        let Ok(Submitted::New(second)) = store.write(|changes| changes.submit(&job("c", 1))).await else { panic!() };
        assert!(second.number() > first.number());
    });
}

#[test]
fn a_work_that_panics_takes_nobody_with_it_but_whoever_awaits_it() {
    on_every_kind(async |store| {
        let before = store.write(|changes| changes.submit(&job("a", 1)));
        let panicking = store.write(|changes| -> Result<(), StoreError> {
            changes.submit(&job("b", 1))?;
            std::panic::panic_any("planted");
        });
        let after = store.write(|changes| changes.submit(&job("c", 1)));
        let panic = tokio::task::spawn(panicking).await.unwrap_err().into_panic();
        assert_eq!(panic.downcast_ref(), Some(&"planted"));
        assert!(before.await.is_ok() && after.await.is_ok());
        let claimed = store.write(|changes| claim(changes, Owner(1), 1)).await.unwrap();
        assert_eq!(bodies(&claimed), ["a", "c"]);
    });
}

#[test]
fn a_dropped_future_undoes_nothing_and_works_keep_the_order_of_their_calls() {
    on_every_kind(async |store| {
        for body in ["a", "b", "c"] {
            drop(store.write(move |changes| changes.submit(&job(body, 1))));
        }
        let claimed = store.write(|changes| claim(changes, Owner(1), 1)).await.unwrap();
        assert_eq!(bodies(&claimed), ["a", "b", "c"]);
    });
}

#[test]
fn closing_writes_what_was_handed_over_and_refuses_the_rest() {
    on_every_kind(async |store| {
        let handed_over = store.write(|changes| changes.submit(&job("a", 1)));
        let other = store.clone();
        store.close().await;
        assert!(handed_over.await.is_ok());
        assert_eq!(other.write(|changes| changes.submit(&job("b", 1))).await, Err(StoreError::Closed));
        assert_eq!(other.read(|records| records.next_expiry()).await, Err(StoreError::Closed));
        other.close().await;
    });
}

/// Commits in SQLite's log: frames that say how large the file is behind them.
#[cfg(feature = "sqlite")]
fn commits(log: &std::path::Path) -> usize {
    let log = std::fs::read(log).unwrap();
    log[32..].chunks_exact(24 + 4096).filter(|frame| frame[4..8] != [0; 4]).count()
}

#[cfg(feature = "sqlite")]
#[test]
fn what_gathers_while_the_disk_is_busy_is_written_together_in_groups_of_512() {
    in_virtual_time(async {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("store.db");
        let store = Store::open(&StoreUrl::Sqlite(file)).unwrap();
        store.write(|changes| changes.submit(&job("a", 1))).await.unwrap();
        let log = folder.path().join("store.db-wal");
        let before = commits(&log);
        let (go, gone) = std::sync::mpsc::channel::<()>();
        let busy = store.write(move |_| {
            let _ = gone.recv();
            Ok(())
        });
        let works: Vec<_> = (1..600).map(|_| store.write(|changes| changes.submit(&job("b", 1)))).collect();
        drop(go);
        busy.await.unwrap();
        for work in works {
            work.await.unwrap();
        }
        assert_eq!(commits(&log) - before, 2);
        store.close().await;
    });
}
