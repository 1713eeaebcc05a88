//! Files and batches, on every kind.

use super::*;
use crate::messages::{BatchId, FileId};
use crate::store::batches::{BatchFilter, BatchStatus, Counts, Created, NewBatch};
use crate::store::files::{FileFilter, FileRecord, NewFile, PIECE_MAX_BYTES, Purpose, Seal};
use crate::store::jobs::{Line, Submitted};

async fn write<T: Send + 'static>(
    store: &Store,
    work: impl FnOnce(&mut dyn Changes) -> Result<T, StoreError> + Send + 'static,
) -> T {
    store.write(work).await.unwrap()
}

fn new_file(tenant: Option<&str>, owner: Option<Owner>) -> NewFile {
    NewFile { tenant: tenant.map(Into::into), purpose: Purpose::Batch, owner }
}

fn seal(file: FileId, expires_at: Option<Ms>) -> Seal {
    Seal { file, name: "a.jsonl".into(), created_at: 5, expires_at }
}

/// A sealed file with these bytes.
async fn file(store: &Store, tenant: Option<&'static str>, text: Vec<u8>, expires_at: Option<Ms>) -> FileId {
    let owner = store.owner();
    write(store, move |changes| {
        let id = changes.begin_file(&new_file(tenant, Some(owner)))?;
        assert!(changes.grow_file(id, 0, &text.into())?);
        assert!(changes.seal_file(&seal(id, expires_at))?);
        Ok(id)
    })
    .await
}

async fn listed(store: &Store, filter: FileFilter) -> Vec<FileId> {
    let files = store.read(move |records| records.files(&filter)).await.unwrap();
    files.iter().map(|file: &FileRecord| file.id).collect()
}

/// Prunes to the end; gives how many rows that took.
async fn prune(store: &Store, owner: Owner, now: Ms) -> usize {
    let mut rows = 0;
    loop {
        match write(store, move |changes| changes.prune_files(owner, now, 2)).await {
            0 => return rows,
            bite => {
                assert!(bite <= 2);
                rows += bite;
            }
        }
    }
}

#[test]
fn a_file_is_seen_by_its_tenant_when_it_is_sealed_and_grows_at_its_end_only() {
    on_every_kind(async |store: Store| {
        let owner = store.owner();
        let id = write(&store, move |changes| changes.begin_file(&new_file(Some("a"), Some(owner)))).await;
        let bytes: Bytes = (0..3 * PIECE_MAX_BYTES / 2).map(|n| (n / 3) as u8).collect::<Vec<_>>().into();
        let (first, second) = (bytes.slice(..9), bytes.slice(9..));
        let grown = write(&store, move |changes| {
            let at_nine = changes.grow_file(id, 9, &second)?;
            Ok([at_nine, changes.grow_file(id, 0, &first)?, changes.grow_file(id, 9, &second)?])
        });
        assert_eq!(grown.await, [false, true, true]);
        let of = |tenant: Option<&'static str>| store.read(move |records| records.file(id, tenant));
        assert_eq!(of(Some("a")).await.unwrap(), None, "it is not sealed");
        let twice = write(&store, move |changes| {
            Ok((
                changes.seal_file(&seal(id, Some(99)))?,
                changes.seal_file(&seal(id, None))?,
                changes.grow_file(id, bytes.len() as u64, &Bytes::from_static(b"x"))?,
            ))
        });
        assert_eq!(twice.await, (true, false, false));
        let record = of(Some("a")).await.unwrap().unwrap();
        assert_eq!((record.bytes, &*record.name, record.created_at), (3 * PIECE_MAX_BYTES as u64 / 2, "a.jsonl", 5));
        assert_eq!((record.expires_at, record.purpose), (Some(99), Purpose::Batch));
        assert_eq!((of(None).await.unwrap(), of(Some("b")).await.unwrap()), (None, None));
        let mut at = 0;
        for step in [1, 8, 100, usize::MAX] {
            let piece = store.read(move |records| records.piece(id, at)).await.unwrap().unwrap();
            let wanted = |n: usize| ((at as usize + n) / 3) as u8;
            assert!(piece.iter().enumerate().all(|(n, byte)| *byte == wanted(n)), "from {at}");
            at += piece.len().min(step) as u64;
        }
        assert!(store.read(move |records| records.piece(id, record.bytes)).await.unwrap().is_none());
    });
}

#[test]
fn files_are_listed_in_both_orders_from_anywhere() {
    on_every_kind(async |store: Store| {
        let mut ids = Vec::new();
        for _ in 0..5 {
            ids.push(file(&store, None, b"x".to_vec(), None).await);
        }
        file(&store, Some("a"), b"x".to_vec(), None).await;
        let all = || FileFilter { limit: 9, ..FileFilter::default() };
        assert_eq!(listed(&store, FileFilter { oldest_first: true, ..all() }).await, ids);
        assert_eq!(
            listed(&store, FileFilter { oldest_first: true, after: Some(ids[1]), limit: 2, ..all() }).await,
            ids[2..4]
        );
        let newest: Vec<_> = ids.iter().rev().copied().collect();
        assert_eq!(listed(&store, all()).await, newest);
        assert_eq!(listed(&store, FileFilter { after: Some(ids[3]), limit: 2, ..all() }).await, newest[2..4]);
        assert_eq!(listed(&store, FileFilter { purpose: Some(Purpose::BatchOutput), ..all() }).await, []);
        assert_eq!(listed(&store, FileFilter { purpose: Some(Purpose::Batch), ..all() }).await, newest);
    });
}

#[test]
fn what_is_removed_expired_or_left_by_a_process_that_is_gone_is_hidden_at_once_and_goes_in_bites() {
    on_every_kind(async |store: Store| {
        let owner = store.owner();
        let removed = file(&store, Some("a"), vec![b'x'; 2 * PIECE_MAX_BYTES], None).await;
        let expired = file(&store, None, b"x".to_vec(), Some(50)).await;
        let kept = file(&store, None, b"x".to_vec(), Some(51)).await;
        let begun = write(&store, move |changes| {
            let theirs = changes.begin_file(&new_file(None, Some(Owner(owner.0 - 1))))?;
            let ours = changes.begin_file(&new_file(None, Some(owner)))?;
            let a_batchs = changes.begin_file(&new_file(None, None))?;
            for id in [theirs, ours, a_batchs] {
                changes.grow_file(id, 0, &Bytes::from_static(b"x"))?;
            }
            Ok([theirs, ours, a_batchs])
        })
        .await;
        let remove = |tenant: Option<&'static str>| write(&store, move |changes| changes.remove_file(removed, tenant));
        assert_eq!([remove(None).await, remove(Some("a")).await, remove(Some("a")).await], [false, true, false]);
        assert_eq!(
            listed(&store, FileFilter { tenant: Some("a".into()), limit: 9, ..FileFilter::default() }).await,
            []
        );
        // Two pieces and a file; one of each, twice, and that they were hidden.
        assert_eq!(prune(&store, owner, 50).await, 3 + 2 * 3);
        let has_bytes = store.read(move |records| {
            let has = |id: FileId| Ok::<_, StoreError>(records.piece(id, 0)?.is_some());
            Ok([has(removed)?, has(expired)?, has(kept)?, has(begun[0])?, has(begun[1])?, has(begun[2])?])
        });
        assert_eq!(has_bytes.await.unwrap(), [false, false, true, false, true, true]);
    });
}

async fn batch(store: &Store, input: FileId) -> BatchId {
    let created = write(store, move |changes| {
        changes.create_batch(&NewBatch {
            tenant: Some("a".into()),
            key: None,
            digest: [0; 32],
            input,
            endpoint: Endpoint::Embeddings,
            metadata: Some(Bytes::from_static(b"{\"a\":\"b\"}")),
            created_at: 5,
            expires_at: 500,
            keep_files_for: Some(7),
        })
    });
    match created.await {
        Created::New(id) => id,
        other => panic!("{other:?}"),
    }
}

/// Jobs that are the lines of a batch.
async fn lines(store: &Store, batch: BatchId, count: u32) -> Vec<JobId> {
    write(store, move |changes| {
        let mut ids = Vec::new();
        for number in 0..count {
            let line = Some(Line { batch, number, custom_id: format!("line-{number}").into() });
            match changes.submit(&NewJob { line, ..job("x", 5) })? {
                Submitted::New(id) => ids.push(id),
                other => panic!("{other:?}"),
            }
        }
        Ok(ids)
    })
    .await
}

#[test]
fn a_batch_is_kept_as_it_was_last_written_and_its_counts_are_its_own_affair() {
    on_every_kind(async |store: Store| {
        let input = file(&store, Some("a"), b"x".to_vec(), None).await;
        let id = batch(&store, input).await;
        let mut record = store.read(move |records| records.batch(id)).await.unwrap().unwrap();
        assert_eq!(
            (record.status, record.keep_files_for, record.endpoint),
            (BatchStatus::Validating, Some(7), Endpoint::Embeddings)
        );
        assert_eq!(record.metadata.as_deref(), Some(&b"{\"a\":\"b\"}"[..]));
        record.status = BatchStatus::InProgress;
        record.times.in_progress = Some(6);
        (record.total, record.taken, record.taken_bytes, record.written) = (9, 8, 7_000_000_000, 6);
        (record.model, record.errors) = (Some("m".into()), Some(Bytes::from_static(b"[]")));
        (record.output, record.output_bytes, record.error, record.error_bytes) = (Some(input), 5, Some(input), 4);
        record.has_expired = true;
        let kept = record.clone();
        write(&store, move |changes| {
            changes.count_lines(id, &Counts { completed: 1, failed: 2, ..Counts::default() })?;
            changes.keep_batch(&kept)
        })
        .await;
        let found = store.read(move |records| records.batch(id)).await.unwrap().unwrap();
        record.counts = Counts { completed: 1, failed: 2, ..Counts::default() };
        assert_eq!(found, record);
        let listed = |filter: BatchFilter| store.read(move |records| records.batches(&filter));
        let of = |tenant: Option<Arc<str>>, after| BatchFilter { tenant, after, limit: 9 };
        assert_eq!(listed(of(Some("a".into()), None)).await.unwrap(), [record.clone()]);
        assert_eq!(listed(of(Some("a".into()), Some(id))).await.unwrap(), []);
        assert_eq!(listed(of(None, None)).await.unwrap(), []);
        assert_eq!(store.read(|records| records.open_batches()).await.unwrap(), [record]);
    });
}

#[test]
fn whatever_ends_a_line_counts_it_in_its_batch_and_in_the_same_transaction() {
    on_every_kind(async |store: Store| {
        let input = file(&store, Some("a"), b"x".to_vec(), None).await;
        let id = batch(&store, input).await;
        let jobs = lines(&store, id, 6).await;
        let owner = store.owner();
        let ids = jobs.clone();
        write(&store, move |changes| {
            claim(changes, owner, 10)?;
            for job in &ids[..3] {
                assert!(changes.start(&start(owner, *job, 1, 10))?);
            }
            let usage = Some(crate::messages::Usage { input_tokens: 3, output_tokens: 4, ..Default::default() });
            assert!(changes.finish(&Finish { usage, ..success(owner, ids[0], 1, 11) })?);
            assert!(changes.finish(&Finish { status: JobStatus::Failed, ..success(owner, ids[1], 1, 11) })?);
            changes.cancel(ids[3], None, 12)?;
            Ok(())
        })
        .await;
        let counts = || async { store.read(move |records| records.batch(id)).await.unwrap().unwrap().counts };
        let now = counts().await;
        assert_eq!((now.completed, now.failed, now.usage.input_tokens, now.usage.total_tokens), (1, 2, 3, 7));
        let fifth = jobs[4];
        let lost = store.write(move |changes| {
            changes.cancel(fifth, None, 13)?;
            Err::<(), _>(StoreError::Behind)
        });
        lost.await.unwrap_err();
        assert_eq!(counts().await, now, "what did not happen does not count");
        // Two wait, though claimed; the one that is being called is not among them.
        let waiting = write(&store, move |changes| changes.cancel_lines(id, 14, 9)).await;
        assert_eq!(waiting, [(jobs[4], true), (jobs[5], true)]);
        assert_eq!(counts().await.ended(), 5);
    });
}

#[test]
fn lines_are_taken_in_their_order_as_far_as_they_have_ends() {
    on_every_kind(async |store: Store| {
        let input = file(&store, Some("a"), b"x".to_vec(), None).await;
        let id = batch(&store, input).await;
        let jobs = lines(&store, id, 6).await;
        let owner = store.owner();
        let ids = jobs.clone();
        write(&store, move |changes| {
            claim(changes, owner, 10)?;
            for at in [0, 2, 1, 4, 5] {
                assert!(changes.start(&start(owner, ids[at], 1, 10))?);
                assert!(changes.finish(&success(owner, ids[at], 1, 11))?);
            }
            Ok(())
        })
        .await;
        let take = |limit, bytes| write(&store, move |changes| changes.take_lines(id, limit, bytes));
        let numbers =
            |lines: Vec<crate::store::batches::EndedLine>| lines.iter().map(|line| line.number).collect::<Vec<_>>();
        let first = take(2, 0).await;
        assert_eq!((&*first[0].custom_id, first[0].job, first[0].status), ("line-0", jobs[0], JobStatus::Succeeded));
        assert_eq!(first[0].end, Some(JobEnd::Result { status: 200, body: Bytes::from_static(b"{\"ok\":true}") }));
        assert_eq!(numbers(first), [0], "the bytes of all but the first are counted");
        assert_eq!(numbers(take(9, 1_000).await), [1, 2]);
        assert_eq!(numbers(take(9, 1_000).await), [0_u32; 0], "the next has no end");
        let gone = store.read(move |records| Ok((records.job(jobs[0], None)?.is_none(), records.body(jobs[1])?)));
        assert_eq!(gone.await.unwrap(), (true, None));
    });
}
