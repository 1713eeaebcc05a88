//! Random lives of many jobs, on every kind, told step by step to the reference: after each step both know the same.

#[cfg(feature = "sqlite")]
use std::path::Path;

use proptest::prelude::*;

use super::reference::Reference;
use super::*;
use crate::store::jobs::{
    Again, AttemptRecord, JobFilter, JobRecord, KeptAttempt, PutBack, QueueDepth, Retention, Submitted,
};
use crate::store::outbox::Outgoing;

/// A step. Jobs are meant by their place among all that ever were; ages and waits are milliseconds.
#[derive(Clone, Debug)]
enum Step {
    Submit {
        tenant: bool,
        key: Option<u8>,
        digest: u8,
        priority: usize,
        queue: u8,
        once: bool,
        webhook: bool,
        body: usize,
        ttl: Ms,
    },
    Claim {
        queue: u8,
        limit: usize,
        max_bytes: usize,
    },
    Start {
        job: usize,
        stale: bool,
        skip: u32,
    },
    Again {
        job: usize,
        stale: bool,
        wait: Ms,
    },
    PutBack {
        job: usize,
        stale: bool,
        wait: Option<Ms>,
    },
    Finish {
        job: usize,
        stale: bool,
        good: bool,
    },
    Cancel {
        job: usize,
        tenant: bool,
    },
    Expire {
        limit: usize,
    },
    Rescue {
        bite: usize,
    },
    Prune {
        bodies: Ms,
        results: Ms,
        attempts: Ms,
        bite: usize,
    },
    Deliver {
        again: Option<Ms>,
    },
    Wait {
        ms: Ms,
    },
    /// The next opening: after closing, or after the process was gone.
    Reopen {
        crash: bool,
    },
    /// The step is done in a work that fails in the end.
    Undone(Box<Step>),
}

fn step() -> impl Strategy<Value = Step> {
    let job = || 0_usize..12;
    let stale = || prop::bool::weighted(0.1);
    let key = prop::option::weighted(0.4, 0_u8..3);
    let submit =
        (any::<bool>(), key, 0_u8..2, 0_usize..3, 0_u8..2, any::<bool>(), any::<bool>(), 0_usize..40, 1..300_i64);
    let submit = submit.prop_map(|(tenant, key, digest, priority, queue, once, webhook, body, ttl)| Step::Submit {
        tenant,
        key,
        digest,
        priority,
        queue,
        once,
        webhook,
        body,
        ttl,
    });
    let claim = (0_u8..2, 0_usize..4, 0_usize..60);
    let prune = (0..200_i64, 0..200_i64, 0..200_i64, 1_usize..5);
    let one = prop_oneof![
        6 => submit,
        6 => claim.prop_map(|(queue, limit, max_bytes)| Step::Claim { queue, limit, max_bytes }),
        8 => (job(), stale(), 0_u32..2).prop_map(|(job, stale, skip)| Step::Start { job, stale, skip }),
        3 => (job(), stale(), 0..100_i64).prop_map(|(job, stale, wait)| Step::Again { job, stale, wait }),
        2 => (job(), stale(), prop::option::of(0..100_i64)).prop_map(|(job, stale, wait)| Step::PutBack { job, stale, wait }),
        5 => (job(), stale(), any::<bool>()).prop_map(|(job, stale, good)| Step::Finish { job, stale, good }),
        2 => (job(), any::<bool>()).prop_map(|(job, tenant)| Step::Cancel { job, tenant }),
        1 => (1_usize..4).prop_map(|limit| Step::Expire { limit }),
        2 => (1_usize..4).prop_map(|bite| Step::Rescue { bite }),
        1 => prune.prop_map(|(bodies, results, attempts, bite)| Step::Prune { bodies, results, attempts, bite }),
        1 => prop::option::of(0..50_i64).prop_map(|again| Step::Deliver { again }),
        4 => (1..120_i64).prop_map(|ms| Step::Wait { ms }),
        1 => any::<bool>().prop_map(|crash| Step::Reopen { crash }),
    ];
    (one, prop::bool::weighted(0.1)).prop_map(|(step, undone)| match step {
        Step::Wait { .. } | Step::Reopen { .. } => step,
        step if undone => Step::Undone(Box::new(step)),
        step => step,
    })
}

/// A store of some kind and what it should know.
struct World {
    store: Store,
    me: Owner,
    now: Ms,
    /// Every id there was.
    ids: Vec<JobId>,
    reference: Reference,
}

/// What a store says of everything.
type Whole =
    (Vec<(Option<JobRecord>, Option<Bytes>, Vec<KeptAttempt>)>, Vec<QueueDepth>, Option<Ms>, Vec<Outgoing>, Vec<JobId>);

impl World {
    fn new(store: Store) -> Self {
        Self { me: store.owner(), store, now: 1_000_000, ids: Vec::new(), reference: Reference::default() }
    }

    /// Does a step here and there.
    async fn take(&mut self, step: &Step) {
        if let Step::Undone(step) = step {
            let mut undone = self.reference.clone();
            std::mem::swap(&mut undone, &mut self.reference);
            let ids = self.ids.len();
            self.step(step, true).await;
            self.reference = undone;
            self.ids.truncate(ids);
        } else {
            self.step(step, false).await;
        }
        self.compare().await;
    }

    /// Does `work`, or does it for nothing.
    async fn write<T: Send + 'static>(
        &self,
        is_undone: bool,
        work: impl FnOnce(&mut dyn Changes) -> Result<T, StoreError> + Send + 'static,
    ) -> T {
        let (sender, done) = tokio::sync::oneshot::channel();
        let written = self.store.write(move |changes| {
            let _ = sender.send(work(changes)?);
            if is_undone { Err(StoreError::Behind) } else { Ok(()) }
        });
        assert_eq!(written.await.is_err(), is_undone);
        done.await.unwrap()
    }

    async fn step(&mut self, step: &Step, is_undone: bool) {
        let (now, me) = (self.now, self.me);
        let id = |job: &usize| self.ids.get(*job).copied();
        let owner = |stale: &bool| if *stale { Owner(me.0 + 1_000) } else { me };
        let attempts = |id: JobId| self.reference.jobs.iter().find(|job| job.id == id).map_or(0, |job| job.attempts);
        match step {
            Step::Submit { tenant, key, digest, priority, queue, once, webhook, body, ttl } => {
                let new = NewJob {
                    tenant: tenant.then(|| "t".into()),
                    key: key.map(|key| key.to_string().into()),
                    digest: [*digest; 32],
                    queue: queue.to_string().into(),
                    priority: super::super::jobs::PRIORITIES[*priority],
                    at_most_once: *once,
                    webhook: webhook.then(|| "https://h".into()),
                    expires_at: now + ttl,
                    ..job(&"x".repeat(*body), now)
                };
                let submitted = new.clone();
                let given = self.write(is_undone, move |changes| changes.submit(&submitted)).await;
                assert_eq!(self.reference.submit(&new, given), given);
                if let Submitted::New(id) = given {
                    self.ids.push(id);
                }
            }
            Step::Claim { queue, limit, max_bytes } => {
                let queue = queue.to_string().into();
                let claim = Claim { owner: me, queue, now, limit: *limit, max_bytes: *max_bytes };
                let asked = claim.clone();
                let claimed = self.write(is_undone, move |changes| changes.claim(&asked)).await;
                let ids: Vec<JobId> = claimed.jobs.iter().map(|job| job.id).collect();
                assert_eq!(self.reference.claim(&claim), (ids, claimed.next_due));
                for job in claimed.jobs {
                    let known = self.reference.jobs.iter().find(|known| known.id == job.id).unwrap();
                    assert_eq!((job.attempts, job.counted, job.due), (known.attempts, known.counted, known.due));
                    assert_eq!((job.body, job.priority), (known.new.body.clone(), known.new.priority));
                }
            }
            Step::Start { job, stale, skip } => {
                let Some(job) = id(job) else { return };
                let start = start(owner(stale), job, attempts(job) + skip, now);
                let asked = start.clone();
                let started = self.write(is_undone, move |changes| changes.start(&asked)).await;
                assert_eq!(started, self.reference.start(&start));
            }
            Step::Again { job, stale, wait } => {
                let Some(job) = id(job) else { return };
                let attempt = attempts(job);
                let record = AttemptRecord { ended_at: now, failure: Some("f".into()), ..AttemptRecord::default() };
                let again = Again { owner: owner(stale), job, attempt, counted: attempt, record, due: now + wait };
                let asked = again.clone();
                let done = self.write(is_undone, move |changes| changes.again(&asked)).await;
                assert_eq!(done, self.reference.again(&again));
            }
            Step::PutBack { job, stale, wait } => {
                let Some(job) = id(job) else { return };
                let back = PutBack { owner: owner(stale), job, due: wait.map(|wait| now + wait) };
                let asked = back.clone();
                let done = self.write(is_undone, move |changes| changes.put_back(&asked)).await;
                assert_eq!(done, self.reference.put_back(&back));
            }
            Step::Finish { job, stale, good } => {
                let Some(job) = id(job) else { return };
                let mut finish = success(owner(stale), job, attempts(job), now);
                if !good {
                    finish.status = JobStatus::Failed;
                    finish.end = JobEnd::Error { status: 400, error: Bytes::from_static(b"{}") };
                }
                let asked = finish.clone();
                let done = self.write(is_undone, move |changes| changes.finish(&asked)).await;
                assert_eq!(done, self.reference.finish(&finish));
            }
            Step::Cancel { job, tenant } => {
                let Some(job) = id(job) else { return };
                let tenant = tenant.then_some("t");
                let done = self.write(is_undone, move |changes| changes.cancel(job, tenant, now)).await;
                assert_eq!(done, self.reference.cancel(job, tenant, now));
            }
            Step::Expire { limit } => {
                let limit = *limit;
                let expired = self.write(is_undone, move |changes| changes.expire(now, limit)).await;
                assert_eq!(expired, self.reference.expire(now, limit));
            }
            Step::Rescue { bite } => {
                let bite = *bite;
                let rescued = self.write(is_undone, move |changes| whole(bite, || changes.rescue(me, now, bite))).await;
                assert_eq!(rescued, self.reference.rescue(me, now));
            }
            Step::Prune { bodies, results, attempts, bite } => {
                let retention = Retention {
                    bodies_before: now - bodies,
                    results_before: now - results,
                    attempts_before: now - attempts,
                };
                let bite = *bite;
                let removed =
                    self.write(is_undone, move |changes| whole(bite, || changes.prune(&retention, bite))).await;
                assert_eq!(removed, self.reference.prune(&retention));
            }
            Step::Deliver { again } => {
                let again = again.map(|wait| now + wait);
                let delivered = self.write(is_undone, move |changes| {
                    let Some(first) = changes.outgoing(now, 1)?.pop() else { return Ok(None) };
                    match again {
                        Some(due) => changes.outgoing_again(first.number, due)?,
                        None => changes.outgoing_done(first.number)?,
                    }
                    Ok(Some(first))
                });
                let delivered = delivered.await.map(|first| (first.job, first.due));
                let due = self.reference.outbox.iter().enumerate().filter(|(_, (_, due))| *due <= now);
                let first = due.min_by_key(|(_, (_, due))| *due).map(|(place, _)| place);
                // Of those due at the same time, whichever was put in first, or tried again first.
                assert_eq!(delivered.map(|(_, due)| due), first.map(|place| self.reference.outbox[place].1));
                if let Some((job, _)) = delivered {
                    let place = self.reference.outbox.iter().position(|(id, _)| *id == job).expect("it was to be told");
                    match again {
                        Some(due) => self.reference.outbox[place].1 = due,
                        None => drop(self.reference.outbox.remove(place)),
                    }
                }
            }
            Step::Wait { ms } => self.now += ms,
            Step::Reopen { .. } | Step::Undone(_) => {}
        }
    }

    /// What the store says of everything is what it should.
    async fn compare(&self) {
        let ids = self.ids.clone();
        let read = self.store.read(move |records| {
            let mut jobs = Vec::new();
            for &id in &ids {
                let job = records.job(id, None)?.map_or_else(|| records.job(id, Some("t")), |job| Ok(Some(job)))?;
                jobs.push((job, records.body(id)?, records.attempts(id)?));
            }
            let mut listed = Vec::new();
            for tenant in [None, Some("t".into())] {
                let filter = JobFilter { tenant, limit: 1_000, ..JobFilter::default() };
                listed.extend(records.jobs(&filter)?.into_iter().map(|job| job.id));
            }
            Ok((jobs, records.queues()?, records.next_expiry()?, records.outgoing(Ms::MAX, 1_000)?, listed))
        });
        let (jobs, queues, next_expiry, outgoing, mut listed): Whole = read.await.unwrap();
        let known = &self.reference.jobs;
        for (id, (told, body, attempts)) in self.ids.iter().zip(jobs) {
            let job = known.iter().find(|job| job.id == *id);
            assert_eq!(told.is_some(), job.is_some(), "{id}");
            if let (Some(told), Some(job)) = (told, job) {
                assert_eq!((told.status, told.due, told.attempts), (job.status, job.due, job.attempts), "{id}");
                assert_eq!((told.started_at, told.finished_at), (job.started_at, job.finished_at), "{id}");
                assert_eq!(
                    (told.end, &told.tenant, &told.key),
                    (job.end.clone(), &job.new.tenant, &job.new.key),
                    "{id}"
                );
                assert_eq!(told.status.is_end(), told.finished_at.is_some(), "{id}");
            }
            assert_eq!(body, job.and_then(|job| job.body.clone()), "{id}");
            let attempts: Vec<_> =
                attempts.into_iter().map(|kept| (*id, kept.number, kept.started_at, kept.record)).collect();
            let known = self.reference.attempts.iter().filter(|attempt| attempt.0 == *id).cloned();
            assert_eq!(attempts, known.collect::<Vec<_>>());
        }
        for depth in queues {
            let ready = known.iter().filter(|job| job.is_ready() && job.new.queue == depth.queue);
            assert_eq!(depth.next_due, ready.clone().map(|job| job.due).min());
            assert_eq!(depth.ready, ready.count() as u64);
        }
        assert_eq!(next_expiry, known.iter().filter(|job| job.is_ready()).map(|job| job.new.expires_at).min());
        let mut outgoing: Vec<_> = outgoing.into_iter().map(|outgoing| (outgoing.job, outgoing.due)).collect();
        let mut to_tell = self.reference.outbox.clone();
        outgoing.sort_unstable();
        to_tell.sort_unstable();
        assert_eq!(outgoing, to_tell);
        listed.sort_unstable();
        assert_eq!(listed, known.iter().map(|job| job.id).collect::<Vec<_>>());
    }
}

/// Bite after bite, until there is nothing left; gives how much there was.
fn whole(bite: usize, mut take: impl FnMut() -> Result<usize, StoreError>) -> Result<usize, StoreError> {
    let mut sum = 0;
    loop {
        let taken = take()?;
        assert!(taken <= bite);
        sum += taken;
        if taken == 0 {
            return Ok(sum);
        }
    }
}

/// As many cases as the environment asks for, or `few`.
fn cases(few: u32) -> ProptestConfig {
    let asked = ProptestConfig::default();
    if std::env::var_os("PROPTEST_CASES").is_some() { asked } else { ProptestConfig { cases: few, ..asked } }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 1..80)
}

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn memory_knows_what_the_reference_knows(steps in steps()) {
        in_virtual_time(async {
            let mut world = World::new(Store::memory());
            for step in &steps {
                if let Step::Reopen { .. } = step {
                    world.me.0 += 1;
                }
                world.take(step).await;
            }
        });
    }
}

#[cfg(feature = "sqlite")]
mod sqlite {
    use super::*;
    use crate::store::sqlite::Options;

    /// Without waiting for the disk, which is for another test to look at.
    fn open(folder: &Path, now: Ms) -> Store {
        let options = Options { synchronous: "OFF", ..Options::new(now) };
        Store::open_file(&folder.join("store.db"), options).unwrap()
    }

    /// What a process that is gone leaves behind, in another place.
    fn copy(from: &Path, to: &Path) {
        for name in ["store.db", "store.db-wal"] {
            std::fs::copy(from.join(name), to.join(name)).unwrap();
        }
    }

    proptest! {
        #![proptest_config(cases(16))]

        #[test]
        fn sqlite_knows_what_the_reference_knows_through_closings_and_crashes(steps in steps()) {
            in_virtual_time(async {
                let mut folder = tempfile::tempdir().unwrap();
                let mut world = World::new(open(folder.path(), 0));
                for step in &steps {
                    if let Step::Reopen { crash } = step {
                        if *crash {
                            let next = tempfile::tempdir().unwrap();
                            copy(folder.path(), next.path());
                            world.store.close().await;
                            folder = next;
                        } else {
                            world.store.close().await;
                        }
                        world.store = open(folder.path(), world.now);
                        assert!(world.store.owner() > world.me);
                        world.me = world.store.owner();
                    }
                    world.take(step).await;
                }
                world.store.close().await;
            });
        }
    }
}
