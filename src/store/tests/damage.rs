//! Damage: what is not as it was written is given to nobody.

use std::fs;
use std::path::Path;

use rusqlite::Connection;

use super::*;
use crate::clock::Dice;
use crate::store::jobs::JobFilter;
use crate::store::sqlite::Options;

fn open(file: &Path) -> Store {
    Store::open(&StoreUrl::Sqlite(file.into())).unwrap()
}

/// Changes a closed store behind its back.
fn meddle(file: &Path, sql: &str) {
    Connection::open(file).unwrap().execute_batch(sql).unwrap();
}

#[test]
fn what_was_changed_behind_its_back_is_no_answer_and_keeps_no_other_waiting() {
    in_virtual_time(async {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("store.db");
        let store = open(&file);
        let owner = store.owner();
        let ids = store.write(move |changes| {
            for body in ["ended", "first", "second"] {
                changes.submit(&job(body, 1))?;
            }
            let ended = changes.claim(&Claim { owner, queue: "m".into(), now: 1, limit: 1, max_bytes: 0 })?.jobs[0].id;
            changes.start(&start(owner, ended, 1, 1))?;
            changes.finish(&success(owner, ended, 1, 1))?;
            let mut ids = changes.jobs(&JobFilter { limit: 9, ..JobFilter::default() })?;
            ids.reverse();
            Ok(ids.into_iter().map(|job| job.id).collect::<Vec<_>>())
        });
        let [ended, first, second] = ids.await.unwrap()[..] else { panic!() };
        store.close().await;
        let (a, b) = (ended.number(), first.number());
        meddle(
            &file,
            &format!(
                "UPDATE result SET status = 201 WHERE job = {a}; UPDATE payload SET body = x'6669727375' WHERE job = {b}"
            ),
        );
        let store = open(&file);
        let owner = store.owner();
        assert!(matches!(store.read(move |records| records.job(ended, None)).await, Err(StoreError::Corrupt(_))));
        assert!(matches!(store.read(move |records| records.body(first)).await, Err(StoreError::Corrupt(_))));
        let claimed = store.write(move |changes| claim(changes, owner, 2)).await.unwrap();
        assert_eq!(
            claimed.jobs.iter().map(|job| job.id).collect::<Vec<_>>(),
            [second],
            "the others are not kept waiting"
        );
        let given_up = store.read(move |records| records.job(first, None)).await.unwrap().unwrap();
        assert_eq!(given_up.status, JobStatus::Failed);
        assert!(matches!(given_up.end, Some(JobEnd::Error { status: 500, .. })));
        store.close().await;
    });
}

#[test]
fn a_flipped_bit_is_never_taken_for_an_answer() {
    in_virtual_time(async {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("store.db");
        let store = open(&file);
        let me = store.owner();
        let mut answers = Vec::new();
        for number in 0..40_usize {
            let body = format!("ask {number} {}", "x".repeat(number * 150));
            let answer = Bytes::from(format!("answer {number} {}", "y".repeat(number * 100)));
            let (new, end) = (job(&body, 1), JobEnd::Result { status: 200, body: answer });
            let told = end.clone();
            let id = store.write(move |changes| {
                changes.submit(&new)?;
                let id = claim(changes, me, 1)?.jobs[0].id;
                changes.start(&start(me, id, 1, 1))?;
                changes.finish(&Finish { end, ..success(me, id, 1, 1) })?;
                Ok(id)
            });
            answers.push((id.await.unwrap(), body, told));
        }
        // The log is still there: half of what is flipped is in it.
        let files = ["store.db", "store.db-wal"].map(|name| (name, fs::read(folder.path().join(name)).unwrap()));
        store.close().await;
        let mut dice = Dice::seeded(3);
        let mut found = [0; 3];
        for flip in 0..60 {
            let folder = tempfile::tempdir().unwrap();
            for (place, (name, content)) in files.iter().enumerate() {
                let mut content = content.clone();
                if flip % 2 == place {
                    let bit = usize::try_from(dice.number()).unwrap() % (content.len() * 8);
                    content[bit / 8] ^= 1 << (bit % 8);
                }
                fs::write(folder.path().join(name), content).unwrap();
            }
            let options = Options { synchronous: "OFF", ..Options::new(2) };
            let Ok(store) = Store::open_file(&folder.path().join("store.db"), options) else {
                found[0] += 1;
                continue;
            };
            for (id, body, end) in &answers {
                let id = *id;
                match store.read(move |records| records.job(id, None)).await {
                    Ok(Some(job)) if job.status == JobStatus::Succeeded => {
                        assert_eq!(job.end.as_ref(), Some(end), "flip {flip}");
                        found[1] += 1;
                    }
                    Ok(_) | Err(_) => found[2] += 1,
                }
                if let Ok(Some(told)) = store.read(move |records| records.body(id)).await {
                    assert_eq!(told, body, "flip {flip}");
                }
            }
            store.close().await;
        }
        let [refused, whole, withheld] = found;
        assert!(whole > 0 && withheld > 0, "{refused} files refused, {whole} answers given, {withheld} not");
    });
}

#[test]
fn a_log_that_is_gone_takes_its_last_works_with_it_and_leaves_the_rest_whole() {
    in_virtual_time(async {
        let (folder, left) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let store = open(&folder.path().join("store.db"));
        store.write(|changes| changes.submit(&job("a", 1))).await.unwrap();
        store.close().await;
        let store = open(&folder.path().join("store.db"));
        store.write(|changes| changes.submit(&job("b", 1))).await.unwrap();
        for name in ["store.db", "store.db-shm"] {
            fs::copy(folder.path().join(name), left.path().join(name)).unwrap();
        }
        store.close().await;
        let store = open(&left.path().join("store.db"));
        let me = store.owner();
        let claimed = store.write(move |changes| claim(changes, me, 1)).await.unwrap();
        assert_eq!(bodies(&claimed), ["a"]);
        store.close().await;
    });
}
