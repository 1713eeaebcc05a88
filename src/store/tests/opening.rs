//! Opening a file: what is refused, and what is found again.

use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::*;
use crate::store::jobs::Submitted;
use crate::store::sqlite::Options;
use crate::store::{OpenError, Owner};

fn file(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("store.db")
}

fn open(file: &Path) -> Result<Store, OpenError> {
    Store::open(&StoreUrl::Sqlite(file.into()))
}

fn refusal(file: &Path) -> OpenError {
    open(file).map(drop).unwrap_err()
}

/// A store with one job in it, closed.
async fn made(file: &Path) -> JobId {
    let store = open(file).unwrap();
    let Ok(Submitted::New(id)) = store.write(|changes| changes.submit(&job("ask", 1))).await else { panic!() };
    store.close().await;
    id
}

/// Changes a closed store behind its back.
fn meddle(file: &Path, sql: &str) {
    Connection::open(file).unwrap().execute_batch(sql).unwrap();
}

#[test]
fn what_was_written_is_there_when_it_is_opened_again() {
    in_virtual_time(async {
        let folder = tempfile::tempdir().unwrap();
        let file = file(&folder);
        let id = made(&file).await;
        let store = open(&file).unwrap();
        assert_eq!(store.owner(), Owner(2), "a greater one than before");
        assert_eq!(store.read(move |records| records.body(id)).await.unwrap().unwrap(), "ask");
        let Ok(Submitted::New(next)) = store.write(|changes| changes.submit(&job("b", 1))).await else { panic!() };
        assert_eq!(next.number(), id.number() + 1);
        store.close().await;
    });
}

#[test]
fn ids_of_two_stores_have_nothing_in_common() {
    in_virtual_time(async {
        let folder = tempfile::tempdir().unwrap();
        let one = made(&folder.path().join("one")).await;
        let other = made(&folder.path().join("other")).await;
        assert_ne!(one.number() >> 40, other.number() >> 40, "23 rolled bits; alike once in eight million runs");
        assert_eq!(one.number() & 0xff_ffff_ffff, 1);
    });
}

#[test]
fn a_store_that_is_open_is_refused_whatever_name_it_is_called_by() {
    in_virtual_time(async {
        let folder = tempfile::tempdir().unwrap();
        let file = file(&folder);
        let store = open(&file).unwrap();
        let locked = OpenError::Locked { file: file.canonicalize().unwrap(), pid: Some(std::process::id()) };
        assert_eq!(refusal(&file), locked);
        assert!(locked.to_string().contains(&format!("process {}", std::process::id())));
        #[cfg(unix)]
        {
            let other = folder.path().join("other.db");
            std::os::unix::fs::symlink(&file, &other).unwrap();
            assert_eq!(refusal(&other), locked);
        }
        store.close().await;
        open(&file).unwrap().close().await;
    });
}

#[cfg(unix)]
#[test]
fn nobody_else_may_read_what_is_in_it() {
    in_virtual_time(async {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&file(&folder)).unwrap();
        store.write(|changes| changes.submit(&job("a", 1))).await.unwrap();
        let mut seen = 0;
        for entry in fs::read_dir(folder.path()).unwrap() {
            let entry = entry.unwrap();
            let mode = std::os::unix::fs::PermissionsExt::mode(&entry.metadata().unwrap().permissions());
            assert_eq!(mode & 0o777, 0o600, "{entry:?}");
            seen += 1;
        }
        assert!(seen >= 4, "the file, its log, its index of that and its lock");
        store.close().await;
    });
}

#[test]
fn a_file_that_is_not_ours_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = file(&folder);
    let theirs = folder.path().join("theirs.db");
    meddle(&theirs, "CREATE TABLE t (x); INSERT INTO t VALUES (1)");
    for content in [fs::read(theirs).unwrap(), b"notes".to_vec(), vec![0; 8192]] {
        fs::write(&file, &content).unwrap();
        assert!(matches!(refusal(&file), OpenError::Foreign { .. }));
        assert_eq!(fs::read(&file).unwrap(), content);
    }
}

#[test]
fn a_later_format_is_refused_and_left_alone() {
    in_virtual_time(async {
        let folder = tempfile::tempdir().unwrap();
        let file = file(&folder);
        made(&file).await;
        meddle(&file, "PRAGMA user_version = 99");
        let before = fs::read(&file).unwrap();
        assert!(matches!(refusal(&file), OpenError::Newer { version: 99, .. }));
        assert_eq!(fs::read(&file).unwrap(), before);
    });
}

#[test]
fn a_damaged_file_is_refused_with_the_way_to_save_it_and_never_made_anew() {
    in_virtual_time(async {
        let folder = tempfile::tempdir().unwrap();
        let file = file(&folder);
        made(&file).await;
        let whole = fs::read(&file).unwrap();
        let mut garbled = whole.clone();
        garbled[4096..4096 + 2048].fill(0x5a);
        for damaged in [garbled, whole[..whole.len() / 2].to_vec()] {
            fs::write(&file, &damaged).unwrap();
            let refusal = refusal(&file);
            assert!(matches!(refusal, OpenError::Damaged { .. }), "{refusal}");
            assert!(refusal.to_string().contains(".recover"), "{refusal}");
            assert_eq!(fs::read(&file).unwrap(), damaged);
        }
    });
}

#[test]
fn a_log_without_its_store_is_not_taken_for_a_new_ones() {
    let folder = tempfile::tempdir().unwrap();
    let file = file(&folder);
    fs::write(folder.path().join("store.db-wal"), "paid results").unwrap();
    assert!(refusal(&file).to_string().contains("store.db-wal is there without it"));
    assert!(!file.exists());
}

#[test]
fn a_place_that_cannot_be_is_named() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(refusal(&folder.path().join("none/store.db")), OpenError::NoFolder { .. }));
    assert!(matches!(refusal(folder.path()), OpenError::System { .. }));
}

#[test]
fn a_clock_that_went_back_between_two_openings_makes_nothing_wait_longer() {
    const HOUR: Ms = 3_600_000;
    in_virtual_time(async {
        let folder = tempfile::tempdir().unwrap();
        let file = file(&folder);
        for (back, due) in [(HOUR, 10 * HOUR + 5_000 - HOUR), (30_000, 10 * HOUR + 5_000)] {
            let _ = fs::remove_file(&file);
            let store = Store::open_file(&file, Options::new(10 * HOUR)).unwrap();
            store.write(|changes| changes.submit(&job("past", 10 * HOUR - 7))).await.unwrap();
            store.write(|changes| changes.submit(&job("ahead", 10 * HOUR + 5_000))).await.unwrap();
            store.write(|changes| claim(changes, Owner(9), 10 * HOUR - 8)).await.unwrap();
            store.close().await;
            let store = Store::open_file(&file, Options::new(10 * HOUR + 5_000 - back)).unwrap();
            let queues = store.read(|records| records.queues()).await.unwrap();
            assert_eq!(queues[0].next_due, Some(due - 5_007));
            let at = due - 1;
            let claimed = store.write(move |changes| claim(changes, Owner(9), at)).await.unwrap();
            assert_eq!((bodies(&claimed), claimed.next_due), (vec!["past"], Some(due)));
            store.close().await;
        }
    });
}

#[test]
fn a_store_that_was_pruned_gives_its_room_back_in_bites() {
    use crate::store::engine::Engine as _;
    use crate::store::jobs::{JobChanges as _, Retention};
    let folder = tempfile::tempdir().unwrap();
    let file = file(&folder);
    let options = Options { synchronous: "OFF", ..Options::new(1) };
    let (mut store, _view) = crate::store::sqlite::open(&file, options).unwrap();
    store.begin().unwrap();
    for _ in 0..600 {
        store.submit(&job(&"x".repeat(4_000), 1)).unwrap();
    }
    store.expire(2_000_000, 600).unwrap();
    store.commit().unwrap();
    while !store.tidy() {}
    let full = fs::metadata(&file).unwrap().len();
    store.begin().unwrap();
    let all = Retention { bodies_before: Ms::MAX, results_before: Ms::MAX, attempts_before: Ms::MAX };
    while store.prune(&all, 200).unwrap() > 0 {}
    store.commit().unwrap();
    let mut bites = 1;
    while !store.tidy() {
        bites += 1;
    }
    let left = fs::metadata(&file).unwrap().len();
    assert!(left < full / 2 && bites > 2, "{full} bytes, then {left} after {bites} bites");
}
