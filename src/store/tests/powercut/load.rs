//! The child's work, what it was told is done, and whether that is so.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::super::*;
use crate::store::OpenError;
use crate::store::jobs::{JobFilter, Retention, Submitted};
use crate::store::sqlite::Options;

/// What the child was told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Ack {
    /// The job with this number is accepted.
    Submitted(JobId, u32),
    Started(JobId, u32),
    Finished(JobId, u32),
    Cancelled(JobId, u32),
    /// The disk is full.
    Full,
    /// The store could not be opened.
    Refused,
    /// The store has failed for good.
    Failed,
}

impl Ack {
    pub(super) fn parse(line: &str) -> Self {
        let mut words = line.split(' ');
        let what = words.next().unwrap();
        let mut job = || (words.next().unwrap().parse().unwrap(), words.next().unwrap().parse().unwrap());
        match what {
            "full" => return Ack::Full,
            "refused" => return Ack::Refused,
            "failed" => return Ack::Failed,
            _ => {}
        }
        let (id, number) = job();
        match what {
            "submitted" => Ack::Submitted(id, number),
            "started" => Ack::Started(id, number),
            "finished" => Ack::Finished(id, number),
            "cancelled" => Ack::Cancelled(id, number),
            other => panic!("{other}"),
        }
    }

    /// The number of the job that was accepted, if that is what it says.
    pub(super) fn submitted(&self) -> Option<u32> {
        if let Ack::Submitted(_, number) = self { Some(*number) } else { None }
    }
}

/// What a child in `folder` was told, in order.
pub(super) fn acks(folder: &Path) -> Vec<Ack> {
    fs::read_to_string(folder.join("acks")).unwrap_or_default().lines().map(Ack::parse).collect()
}

/// What job `number` asks and is answered, of very different sizes.
fn text(what: &str, number: u32) -> String {
    format!("{what} {number} {}", "x".repeat((number as usize * 37 % 11) * 900))
}

fn open(folder: &Path, synchronous: &'static str) -> Result<Store, OpenError> {
    // Small enough for the log to be brought into the file often.
    let options = Options { synchronous, log_max_pages: 100, ..Options::new(1_000) };
    Store::open_file(&folder.join("store.db"), options)
}

/// Everything that must outlive the child is written to `acks` when it was told so, a line each.
#[derive(Clone)]
struct Told(Arc<Mutex<fs::File>>);

impl Told {
    fn say(&self, line: &str) {
        self.0.lock().unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}

#[test]
#[ignore = "is the child of other tests"]
fn works_in_a_child() {
    let Some(folder) = std::env::var_os("FOREBAY_TEST_FOLDER") else { return };
    let folder = Path::new(&folder);
    let is_blind = std::env::var_os("FOREBAY_TEST_BLIND").is_some();
    let synchronous = if is_blind { "NORMAL" } else { "FULL" };
    let file = OpenOptions::new().append(true).create(true).open(folder.join("acks")).unwrap();
    let told = Told(Arc::new(Mutex::new(file)));
    in_virtual_time(async {
        for round in 0..2 {
            let Ok(store) = open(folder, synchronous) else { return told.say("refused") };
            let me = store.owner();
            let tidied = store.write(move |changes| {
                while changes.rescue(me, 2_000, 5)? > 0 {}
                changes.prune(&Retention { bodies_before: 1_001, results_before: 0, attempts_before: 0 }, 20)
            });
            if matches!(tidied.await, Err(StoreError::Io(_))) {
                return told.say("failed");
            }
            let callers: Vec<_> = (0..8)
                .map(|caller| {
                    let (store, told) = (store.clone(), told.clone());
                    tokio::task::spawn_local(async move { call(&store, &told, round * 1_000 + caller * 100).await })
                })
                .collect();
            let mut ended = Ok(());
            for caller in callers {
                ended = ended.and(caller.await.unwrap());
            }
            match ended {
                Ok(()) => {}
                Err(StoreError::Io(_)) => {
                    store.failed().await;
                    return told.say("failed");
                }
                Err(other) => panic!("{other:?}"),
            }
            store.close().await;
        }
    });
}

/// One caller: 20 jobs, one after another, of a queue of its own; some are cancelled, some left as they are.
async fn call(store: &Store, told: &Told, first: u32) -> Result<(), StoreError> {
    let me = store.owner();
    let queue: Arc<str> = first.to_string().into();
    for number in first..first + 20 {
        let new =
            NewJob { queue: queue.clone(), webhook: Some("https://h".into()), ..job(&text("ask", number), 1_000) };
        let submitted = store.accept(new.body.len(), move |changes| changes.submit(&new)).await;
        let id = match submitted {
            Ok(Submitted::New(id)) => id,
            Err(StoreError::Full(_)) => {
                told.say("full");
                return Ok(());
            }
            Err(error) => return Err(error),
            other => panic!("{other:?}"),
        };
        told.say(&format!("submitted {id} {number}"));
        if number % 9 == 4 {
            persist(store, told, move |changes| changes.cancel(id, None, 1_001)).await?;
            told.say(&format!("cancelled {id} {number}"));
            continue;
        }
        let queue = queue.clone();
        let claim = Claim { owner: me, queue, now: 1_000, limit: 3, max_bytes: usize::MAX };
        persist(store, told, move |changes| changes.claim(&claim)).await?;
        persist(store, told, move |changes| changes.start(&start(me, id, 1, 1_000))).await?;
        told.say(&format!("started {id} {number}"));
        if number % 9 == 7 {
            continue;
        }
        let finish = Finish {
            end: JobEnd::Result { status: 200, body: text("answer", number).into() },
            ..success(me, id, 1, 1_000)
        };
        persist(store, told, move |changes| changes.finish(&finish)).await?;
        told.say(&format!("finished {id} {number}"));
    }
    Ok(())
}

/// Does what is not new, again when the disk was full: by then the ballast has been let go.
async fn persist<T: Send + 'static>(
    store: &Store,
    told: &Told,
    work: impl Fn(&mut dyn Changes) -> Result<T, StoreError> + Clone + Send + 'static,
) -> Result<T, StoreError> {
    let again = work.clone();
    match store.write(work).await {
        Err(StoreError::Full(_)) => {
            told.say("full");
            store.write(again).await
        }
        done => done,
    }
}

/// Opens what is left in `folder`: everything that was told is so, and nothing is half there.
pub(super) fn check(folder: &Path, acks: &[Ack]) -> Result<(), String> {
    in_virtual_time(async {
        let store = open(folder, "OFF").map_err(|error| error.to_string())?;
        let read = store.read(|records| {
            let mut known = BTreeMap::new();
            for job in records.jobs(&JobFilter { limit: 100_000, ..JobFilter::default() })? {
                let whole = records.job(job.id, None)?.expect("it is listed");
                known.insert(job.id, (whole, records.body(job.id)?, records.attempts(job.id)?));
            }
            Ok((known, records.outgoing(Ms::MAX, 100_000)?))
        });
        let (known, outgoing) = read.await.map_err(|error| format!("{error:?}"))?;
        for (id, (job, body, attempts)) in &known {
            let number = job.queue.parse::<u32>().unwrap();
            let is_told = outgoing.iter().filter(|outgoing| outgoing.job == *id).count();
            let is_whole = job.attempts as usize == attempts.len()
                && is_told == usize::from(job.status.is_end())
                && (job.status == JobStatus::Succeeded) == job.end.is_some()
                && (body.is_some() || job.status.is_end())
                && body.as_ref().is_none_or(|body| (number..number + 20).any(|number| *body == text("ask", number)));
            if !is_whole {
                return Err(format!("{id} is half there: {job:?}, {attempts:?}, told {is_told} times"));
            }
        }
        for ack in acks {
            let (Ack::Submitted(id, number)
            | Ack::Started(id, number)
            | Ack::Finished(id, number)
            | Ack::Cancelled(id, number)) = ack
            else {
                continue;
            };
            let Some((job, body, _)) = known.get(id) else { return Err(format!("{ack:?} is lost")) };
            let is_so = match ack {
                Ack::Submitted(..) => body.as_ref().is_none_or(|body| *body == text("ask", *number)),
                Ack::Started(..) => job.attempts == 1,
                Ack::Finished(..) => {
                    let body = text("answer", *number).into();
                    job.end == Some(JobEnd::Result { status: 200, body })
                }
                _ => job.status == JobStatus::Cancelled,
            };
            if !is_so {
                return Err(format!("{ack:?} is not so: {job:?}"));
            }
        }
        let last = known.keys().next_back().copied();
        let next = store.write(|changes| changes.submit(&job("next", 1_000))).await;
        store.close().await;
        match next {
            Ok(Submitted::New(id)) if last.is_none_or(|last| last < id) => Ok(()),
            other => Err(format!("nothing can be added: {other:?} after {last:?}")),
        }
    })
}
