//! Batches from the upload to their files, in virtual time, with somebody else's hands for the jobs.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::driver::{Driver, Runner};
use super::intake::{Ask, Batches};
use crate::clock::in_virtual_time;
use crate::config::{Config, StoreUrl};
use crate::messages::{Endpoint, FileId, JobId, JobStatus, Usage};
use crate::store::batches::{BatchRecord, BatchStatus};
use crate::store::files::{FileFilter, FileRecord, Seal};
use crate::store::jobs::{Claim, ClaimedJob, Finish, JobEnd, Start};
use crate::store::{Ms, Store};

const DAY: Ms = 86_400_000;

/// Whom the jobs are told to.
struct Nobody;

impl Runner for Nobody {
    fn queued(&self, _: &BTreeSet<Arc<str>>, _: Ms) {}

    fn let_go(&self, _: &[JobId]) {}
}

/// A store, and a clock that is set by hand.
struct House {
    store: RefCell<Store>,
    /// Where it is, if it can be opened again.
    url: Option<StoreUrl>,
    now: Rc<Cell<Ms>>,
    config: Arc<Config>,
}

/// Runs `test` with a new store of every kind.
fn on_every_kind<F: Future<Output = ()>>(test: impl Fn(House) -> F) {
    in_virtual_time(test(House::new(Store::memory(), None)));
    #[cfg(feature = "sqlite")]
    in_virtual_time(async {
        let folder = tempfile::tempdir().unwrap();
        let url = StoreUrl::Sqlite(folder.path().join("store.db"));
        test(House::new(Store::open(&url).unwrap(), Some(url))).await;
    });
}

impl House {
    fn new(store: Store, url: Option<StoreUrl>) -> Self {
        let upstream = "[upstreams.up]\nbase_url = \"http://u.test/v1\"\nmodels = [\"m\"]";
        let config = Config::from_toml(&format!("[server]\nmax_body = \"1KiB\"\n{upstream}")).unwrap();
        Self { store: RefCell::new(store), url, now: Rc::new(Cell::new(1_000)), config: Arc::new(config) }
    }

    fn store(&self) -> Store {
        self.store.borrow().clone()
    }

    /// Ends the process, and begins another.
    async fn restart(&self) -> Driver<Nobody> {
        if let Some(url) = &self.url {
            self.store().close().await;
            self.store.replace(Store::open(url).unwrap());
        }
        self.driver()
    }

    fn batches(&self) -> Batches {
        Batches::new(self.store(), Arc::default())
    }

    /// What takes batches forward, as a process that has just begun does.
    fn driver(&self) -> Driver<Nobody> {
        let (config, now) = (Arc::clone(&self.config), Rc::clone(&self.now));
        Driver::new(self.store(), Nobody, move || Arc::clone(&config), move || now.get(), Arc::new(Notify::new()))
    }

    async fn upload(&self, tenant: Option<&str>, text: impl Into<Bytes>) -> FileRecord {
        let mut upload = self.batches().upload(tenant.map(Into::into)).await.unwrap();
        upload.add(text.into()).await.unwrap();
        let now = self.now.get();
        let seal = |file| Seal { file, name: "in.jsonl".into(), created_at: now, expires_at: Some(now + 30 * DAY) };
        upload.seal(seal).await.unwrap()
    }

    async fn create(&self, input: FileId) -> BatchRecord {
        self.batches().create(ask(input), self.now.get()).await.unwrap()
    }

    async fn batch(&self, batch: &BatchRecord) -> BatchRecord {
        self.batches().batch(batch.id, None).await.unwrap()
    }

    /// Takes batches forward, each time as another process, until `batch` stands there.
    async fn until(&self, batch: &BatchRecord, is_there: impl Fn(&BatchRecord) -> bool) -> BatchRecord {
        let mut driver = self.driver();
        for _ in 0..10_000 {
            let record = self.batch(batch).await;
            if is_there(&record) {
                return record;
            }
            driver.round().await.unwrap();
            if record.status != BatchStatus::Validating {
                driver = self.restart().await;
            }
        }
        panic!("it never comes to that: {:?}", self.batch(batch).await);
    }

    async fn claim(&self, limit: usize) -> Vec<ClaimedJob> {
        let claim =
            Claim { owner: self.store().owner(), queue: "m".into(), now: self.now.get(), limit, max_bytes: usize::MAX };
        self.store().write(move |changes| changes.claim(&claim)).await.unwrap().jobs
    }

    async fn start(&self, job: JobId) -> bool {
        let (owner, at) = (self.store().owner(), self.now.get());
        let start = Start { owner, job, attempt: 1, upstream: "up".into(), key: 0, at };
        self.store().write(move |changes| changes.start(&start)).await.unwrap()
    }

    async fn finish(&self, job: JobId, status: JobStatus, end: JobEnd) -> bool {
        let (owner, at) = (self.store().owner(), self.now.get());
        let usage = Some(Usage { input_tokens: 3, output_tokens: 2, ..Usage::default() });
        let finish = Finish { owner, job, attempt: None, status, at, end, usage, cost_usd: None };
        self.store().write(move |changes| changes.finish(&finish)).await.unwrap()
    }

    /// Answers a job with what it asks.
    async fn answer(&self, job: &ClaimedJob) {
        assert!(self.start(job.id).await);
        let end = JobEnd::Result { status: 200, body: job.body.clone() };
        assert!(self.finish(job.id, JobStatus::Succeeded, end).await);
    }

    async fn text(&self, file: Option<FileId>) -> String {
        let Some(file) = file else { return String::new() };
        let mut text = Vec::new();
        while let Some(piece) = self.batches().piece(file, text.len() as u64).await.unwrap() {
            text.extend_from_slice(&piece);
        }
        assert_eq!(text.len() as u64, self.batches().file(file, None).await.unwrap().bytes);
        String::from_utf8(text).unwrap()
    }

    async fn lines(&self, file: Option<FileId>) -> Vec<Value> {
        self.text(file).await.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn ask(input: FileId) -> Ask {
    let endpoint = Endpoint::ChatCompletions;
    Ask { tenant: None, key: None, digest: [0; 32], input, endpoint, metadata: None, keep_files_for: None }
}

fn line(n: usize) -> String {
    let body = json!({"model": "m", "messages": [{"role": "user", "content": format!("prompt {n}")}]});
    json!({"custom_id": format!("line-{n}"), "method": "POST", "url": "/v1/chat/completions", "body": body}).to_string()
}

fn file_of(lines: usize) -> String {
    (0..lines).map(|n| line(n) + "\n").collect()
}

fn custom_ids(lines: &[Value]) -> Vec<&str> {
    lines.iter().map(|line| line["custom_id"].as_str().unwrap()).collect()
}

fn names(numbers: impl IntoIterator<Item = usize>) -> Vec<String> {
    numbers.into_iter().map(|n| format!("line-{n}")).collect()
}

#[test]
fn lines_become_jobs_and_their_ends_the_files_in_the_order_of_the_lines_whoever_dies_on_the_way() {
    on_every_kind(async |house| {
        let input = house.upload(None, file_of(1_234)).await;
        let batch = house.create(input.id).await;
        assert_eq!(batch.status, BatchStatus::Validating);
        let loaded = house.until(&batch, |batch| batch.status == BatchStatus::InProgress && batch.taken == 1_234).await;
        assert_eq!((loaded.total, loaded.model.as_deref()), (1_234, Some("m")));
        let mut jobs = house.claim(usize::MAX).await;
        assert_eq!(jobs.len(), 1_234);
        jobs.reverse();
        for (n, job) in jobs.iter().enumerate() {
            match n % 10 {
                0 => {
                    let end =
                        JobEnd::Result { status: 400, body: Bytes::from_static(b"{\"error\":{\"code\":\"bad\"}}") };
                    assert!(house.finish(job.id, JobStatus::Failed, end).await);
                }
                1 => {
                    let error = Bytes::from_static(b"{\"message\":\"gone\",\"code\":\"upstream_unavailable\"}");
                    assert!(house.finish(job.id, JobStatus::Failed, JobEnd::Error { status: 502, error }).await);
                }
                _ => house.answer(job).await,
            }
        }
        let counts = house.batch(&batch).await.counts;
        assert_eq!((counts.completed, counts.failed), (986, 248), "live, before the files are written");
        assert_eq!((counts.usage.input_tokens, counts.usage.total_tokens), (3 * 1_234, 5 * 1_234));
        let ended = house.until(&batch, |batch| batch.status.is_end()).await;
        assert_eq!(ended.status, BatchStatus::Completed);
        let (output, error) = (house.lines(ended.output).await, house.lines(ended.error).await);
        let is_failed = |n: &usize| (1_233 - n) % 10 < 2;
        assert_eq!(custom_ids(&output), names((0..1_234).filter(|n| !is_failed(n))));
        assert_eq!(custom_ids(&error), names((0..1_234).filter(is_failed)));
        let first = &output[0];
        assert_eq!((&first["response"]["status_code"], &first["error"]), (&json!(200), &Value::Null));
        assert_eq!(first["response"]["body"]["messages"][0]["content"], "prompt 0");
        let said: BTreeSet<String> = error
            .iter()
            .map(|line| json!([line["response"]["status_code"], line["error"]["code"]]).to_string())
            .collect();
        assert_eq!(said, BTreeSet::from(["[400,null]".to_owned(), "[null,\"upstream_unavailable\"]".to_owned()]));
        let ids: BTreeSet<&str> = output.iter().chain(&error).map(|line| line["id"].as_str().unwrap()).collect();
        assert_eq!(ids.len(), 1_234);
        let gone = house.store().read(move |records| records.job(jobs[0].id, None)).await.unwrap();
        assert!(gone.is_none(), "what came of it is in the file");
    });
}

#[test]
fn an_answer_stands_in_the_output_byte_for_byte() {
    on_every_kind(async |house| {
        let batch = house.create(house.upload(None, file_of(1)).await.id).await;
        house.until(&batch, |batch| batch.taken == 1).await;
        let job = house.claim(1).await.remove(0);
        let body = Bytes::from_static(b"{ \"n\": 1.0, \"big\":12345678901234567890123 }");
        assert!(house.finish(job.id, JobStatus::Succeeded, JobEnd::Result { status: 200, body: body.clone() }).await);
        let ended = house.until(&batch, |batch| batch.status.is_end()).await;
        let text = house.text(ended.output).await;
        assert!(text.contains(std::str::from_utf8(&body).unwrap()), "{text}");
        assert_eq!(ended.error, None, "no file where there is nothing to write");
    });
}

#[test]
fn a_file_that_is_not_in_order_fails_its_batch_and_nothing_of_it_is_called() {
    on_every_kind(async |house| {
        let text = [line(0), "{".into(), line(0), line(1).replace("\"m\"", "\"nobody's\"")].join("\n");
        let batch = house.create(house.upload(None, text).await.id).await;
        let failed = house.until(&batch, |batch| batch.status.is_end()).await;
        assert_eq!((failed.status, failed.times.ended), (BatchStatus::Failed, Some(1_000)));
        let errors: Vec<Value> = serde_json::from_slice(&failed.errors.unwrap()).unwrap();
        let codes: Vec<_> = errors.iter().map(|error| (&error["line"], error["code"].as_str().unwrap())).collect();
        let expected =
            [(&json!(2), "invalid_json_line"), (&json!(3), "duplicate_custom_id"), (&json!(4), "model_not_found")];
        assert_eq!(codes, expected);
        assert!(house.claim(1).await.is_empty());
    });
}

#[test]
fn a_batch_that_is_called_off_lets_calls_under_way_end_and_names_every_other_line() {
    on_every_kind(async |house| {
        let batch = house.create(house.upload(None, file_of(1_200)).await.id).await;
        house.until(&batch, |batch| batch.taken == 500).await;
        let jobs = house.claim(3).await;
        house.answer(&jobs[0]).await;
        assert!(house.start(jobs[1].id).await);
        let cancelled = house.batches().cancel(batch.id, None, house.now.get()).await.unwrap();
        assert_eq!((cancelled.status, cancelled.taken), (BatchStatus::Cancelling, 500));
        let mut driver = house.driver();
        for _ in 0..10 {
            driver.round().await.unwrap();
        }
        assert!(!house.start(jobs[2].id).await, "it was claimed, and is not any more");
        let waits = house.batch(&batch).await;
        assert_eq!((waits.status, waits.counts.ended()), (BatchStatus::Cancelling, 499));
        let end = JobEnd::Result { status: 200, body: jobs[1].body.clone() };
        assert!(house.finish(jobs[1].id, JobStatus::Succeeded, end).await);
        let ended = house.until(&batch, |batch| batch.status.is_end()).await;
        assert_eq!(ended.status, BatchStatus::Cancelled);
        assert_eq!((ended.counts.completed, ended.counts.failed, ended.total), (2, 1_198, 1_200));
        assert_eq!(custom_ids(&house.lines(ended.output).await), names(0..2));
        let error = house.lines(ended.error).await;
        assert_eq!(custom_ids(&error), names(2..1_200));
        assert!(error.iter().all(|line| line["error"]["code"] == "batch_cancelled" && line["response"].is_null()));
        let again = house.batches().cancel(batch.id, None, 0).await.unwrap();
        assert_eq!(again.status, BatchStatus::Cancelled, "it stays so");
    });
}

#[test]
fn when_its_time_is_up_what_is_done_is_in_the_output_and_every_other_line_has_expired() {
    on_every_kind(async |house| {
        let batch = house.create(house.upload(None, file_of(700)).await.id).await;
        house.until(&batch, |batch| batch.taken == 500).await;
        for job in house.claim(100).await {
            house.answer(&job).await;
        }
        house.now.set(batch.expires_at);
        let now = house.now.get();
        house.store().write(move |changes| changes.expire(now, 1_000)).await.unwrap();
        let ended = house.until(&batch, |batch| batch.status.is_end()).await;
        assert_eq!((ended.status, ended.times.ended), (BatchStatus::Expired, Some(now)));
        assert_eq!((ended.counts.completed, ended.counts.failed), (100, 600));
        assert_eq!(custom_ids(&house.lines(ended.output).await), names(0..100));
        let error = house.lines(ended.error).await;
        assert_eq!(custom_ids(&error), names(100..700));
        assert!(error.iter().all(|line| line["error"]["code"] == "batch_expired"));
    });
}

#[test]
fn a_batch_that_is_called_off_before_it_was_looked_through_ends_without_files() {
    on_every_kind(async |house| {
        let batch = house.create(house.upload(None, file_of(3)).await.id).await;
        house.batches().cancel(batch.id, None, 5).await.unwrap();
        let ended = house.until(&batch, |batch| batch.status.is_end()).await;
        assert_eq!((ended.status, ended.output, ended.error), (BatchStatus::Cancelled, None, None));
    });
}

#[test]
fn batches_are_looked_through_one_after_the_other_and_none_waits_for_one_that_was_called_off() {
    on_every_kind(async |house| {
        let large = house.upload(None, file_of(20_000)).await;
        let first = house.create(large.id).await;
        let second = house.create(house.upload(None, file_of(2)).await.id).await;
        let mut driver = house.driver();
        driver.round().await.unwrap();
        assert_eq!(house.batch(&second).await.status, BatchStatus::Validating);
        house.batches().cancel(first.id, None, 0).await.unwrap();
        for _ in 0..4 {
            driver.round().await.unwrap();
        }
        assert_eq!(house.batch(&second).await.status, BatchStatus::InProgress);
    });
}

#[test]
fn files_and_batches_are_their_tenants_own() {
    on_every_kind(async |house| {
        let ours = house.upload(Some("ours"), file_of(1)).await;
        let batches = house.batches();
        let code = |error: crate::messages::Error| error.code();
        for other in [None, Some(Arc::from("theirs"))] {
            assert_eq!(batches.file(ours.id, other.clone()).await.map_err(code), Err("not_found"));
            assert_eq!(batches.remove_file(ours.id, other.clone()).await.map_err(code), Err("not_found"));
            let asked = Ask { tenant: other.clone(), ..ask(ours.id) };
            assert_eq!(batches.create(asked, 0).await.map_err(code), Err("not_found"));
            let filter = FileFilter { tenant: other, limit: 10, ..FileFilter::default() };
            assert_eq!(batches.files(filter).await.unwrap(), []);
        }
        let asked = Ask { tenant: Some("ours".into()), ..ask(ours.id) };
        let batch = batches.create(asked, 0).await.unwrap();
        assert_eq!(batches.batch(batch.id, None).await.map_err(code), Err("not_found"));
        assert_eq!(batches.cancel(batch.id, Some("theirs".into()), 0).await.map_err(code), Err("not_found"));
        assert_eq!(batches.batch(batch.id, Some("ours".into())).await.unwrap(), batch);
    });
}

#[test]
fn a_batch_asked_for_twice_with_one_key_is_one_and_another_request_of_that_key_is_refused() {
    on_every_kind(async |house| {
        let input = house.upload(None, file_of(1)).await.id;
        let ask = |digest| Ask { key: Some("k".into()), digest: [digest; 32], ..ask(input) };
        let batches = house.batches();
        let first = batches.create(ask(1), 0).await.unwrap();
        assert_eq!(batches.create(ask(1), 9).await.unwrap(), first);
        assert_eq!(batches.create(ask(2), 9).await.unwrap_err().code(), "idempotency_conflict");
    });
}

#[test]
fn an_upload_that_breaks_off_leaves_nothing_and_a_removed_file_stays_for_the_batch_that_reads_it() {
    on_every_kind(async |house| {
        let mut upload = house.batches().upload(None).await.unwrap();
        upload.add(vec![b'x'; 3_000_000].into()).await.unwrap();
        drop(upload);
        let prune = || async {
            let (owner, mut rows) = (house.store().owner(), 0);
            loop {
                match house.store().write(move |changes| changes.prune_files(owner, 0, 100)).await.unwrap() {
                    0 => return rows,
                    bite => rows += bite,
                }
            }
        };
        assert_eq!(prune().await, 5 + 1, "the pieces on disk, and the file itself");
        let input = house.upload(None, file_of(600)).await.id;
        let batch = house.create(input).await;
        house.batches().remove_file(input, None).await.unwrap();
        assert_eq!(house.batches().files(FileFilter { limit: 9, ..FileFilter::default() }).await.unwrap(), []);
        let is_loaded = |batch: &BatchRecord| batch.status == BatchStatus::InProgress && batch.taken == 600;
        house.until(&batch, is_loaded).await;
        assert_eq!(prune().await, 0);
        assert!(house.batches().piece(input, 0).await.unwrap().is_some());
        for job in house.claim(600).await {
            house.answer(&job).await;
        }
        house.until(&batch, |batch| batch.status.is_end()).await;
        assert_eq!(prune().await, 1 + 1);
        assert_eq!(house.batches().piece(input, 0).await.unwrap(), None);
    });
}

#[test]
fn files_go_when_they_expire_and_the_record_of_a_batch_behind_them() {
    on_every_kind(async |house| {
        let batch = house.create(house.upload(None, file_of(2)).await.id).await;
        house.until(&batch, |batch| batch.taken == 2).await;
        for job in house.claim(2).await {
            house.answer(&job).await;
        }
        let ended = house.until(&batch, |batch| batch.status.is_end()).await;
        let output = house.batches().file(ended.output.unwrap(), None).await.unwrap();
        assert_eq!(output.expires_at, Some(1_000 + 7 * DAY), "[store] keep_results_for");
        assert_eq!(&*output.name, format!("{}_output.jsonl", batch.id));
        house.now.set(1_000 + 7 * DAY);
        let mut driver = house.driver();
        for _ in 0..4 {
            driver.round().await.unwrap();
        }
        assert_eq!(house.batches().file(output.id, None).await.unwrap_err().code(), "not_found");
        house.now.set(house.now.get() + 1);
        let mut driver = house.driver();
        for _ in 0..4 {
            driver.round().await.unwrap();
        }
        assert_eq!(house.batches().batch(batch.id, None).await.unwrap_err().code(), "not_found");
    });
}
