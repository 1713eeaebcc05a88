//! Lives of single jobs, told one by one; `model` has all of them at once.

use super::*;
use crate::store::jobs::{Again, AttemptRecord, Cancelled, JobFilter, LOST, PutBack, Retention, Submitted};

fn submit(changes: &mut dyn Changes, job: &NewJob) -> JobId {
    match changes.submit(job) {
        Ok(Submitted::New(id)) => id,
        other => panic!("{other:?}"),
    }
}

/// Runs `life` within one transaction of a new store of every kind.
fn lives(life: fn(&mut dyn Changes, Owner)) {
    on_every_kind(async |store| {
        let owner = store.owner();
        let lived = store.write(move |changes| {
            life(changes, owner);
            Ok(())
        });
        lived.await.unwrap();
    });
}

#[test]
fn a_job_goes_from_submission_to_its_one_result() {
    lives(|store, me| {
        let id = submit(store, &NewJob { webhook: Some("https://h".into()), ..job("ask", 10) });
        assert_eq!(store.job(id, None).unwrap().unwrap().status, JobStatus::Queued);
        assert_eq!(store.body(id).unwrap().unwrap(), "ask");
        let claimed = claim(store, me, 10).unwrap();
        assert_eq!((bodies(&claimed), claimed.next_due), (vec!["ask"], None));
        assert!(claim(store, me, 10).unwrap().jobs.is_empty(), "it is in somebody's hands");
        assert_eq!(store.start(&start(me, id, 1, 11)), Ok(true));
        assert_eq!(store.start(&start(me, id, 2, 11)), Ok(false), "it runs already");
        assert_eq!(store.job(id, None).unwrap().unwrap().status, JobStatus::Running);
        assert_eq!(store.next_outgoing(), Ok(None));
        assert_eq!(store.finish(&success(me, id, 1, 12)), Ok(true));
        assert_eq!(store.finish(&success(me, id, 1, 13)), Ok(false), "the first end stays");
        let record = store.job(id, None).unwrap().unwrap();
        assert_eq!((record.status, record.attempts, record.cost_usd), (JobStatus::Succeeded, 1, Some(0.25)));
        assert_eq!((record.created_at, record.started_at, record.finished_at), (10, Some(11), Some(12)));
        assert_eq!(record.end, Some(success(me, id, 1, 12).end));
        assert_eq!(store.attempts(id).unwrap()[0].record.as_ref().unwrap().status, Some(200));
        let [told] = &store.outgoing(12, 9).unwrap()[..] else { panic!() };
        assert_eq!((told.job, &*told.url, told.due), (id, "https://h", 12));
    });
}

#[test]
fn a_retry_keeps_its_due_time_in_its_owners_hands_and_back_on_disk() {
    lives(|store, me| {
        let id = submit(store, &job("a", 1));
        claim(store, me, 1).unwrap();
        store.start(&start(me, id, 1, 2)).unwrap();
        let record = AttemptRecord { ended_at: 3, failure: Some("timeout".into()), ..AttemptRecord::default() };
        let again = Again { owner: me, job: id, attempt: 1, counted: 1, record, due: 500 };
        assert_eq!(store.put_back(&PutBack { owner: me, job: id, due: None }), Ok(false), "it runs");
        assert_eq!(store.again(&again), Ok(true));
        assert_eq!(store.job(id, None).unwrap().unwrap().status, JobStatus::Retrying);
        assert_eq!(store.put_back(&PutBack { owner: me, job: id, due: None }), Ok(true));
        let early = claim(store, me, 499).unwrap();
        assert_eq!((early.jobs.len(), early.next_due), (0, Some(500)));
        let late = claim(store, me, 500).unwrap();
        assert_eq!((late.jobs[0].attempts, late.jobs[0].counted, late.jobs[0].due), (1, 1, 500));
        assert_eq!(store.start(&start(me, id, 1, 501)), Ok(false), "that attempt has been made");
        assert_eq!(store.start(&start(me, id, 2, 501)), Ok(true));
    });
}

#[test]
fn claims_go_by_priority_then_by_due_time_and_keep_to_their_bounds() {
    lives(|store, me| {
        for (body, priority, at) in [
            ("low", Priority::Low, 1),
            ("late", Priority::Normal, 9),
            ("normal", Priority::Normal, 2),
            ("high", Priority::High, 3),
        ] {
            submit(store, &NewJob { priority, ..job(body, at) });
        }
        submit(store, &NewJob { queue: "other".into(), ..job("other", 1) });
        let ask = Claim { owner: me, queue: "m".into(), now: 5, limit: 2, max_bytes: usize::MAX };
        let first = store.claim(&ask).unwrap();
        assert_eq!((bodies(&first), first.next_due), (vec!["high", "normal"], Some(1)));
        let rest = store.claim(&ask).unwrap();
        assert_eq!((bodies(&rest), rest.next_due), (vec!["low"], Some(9)));
        for body in ["0123456789", "0123", "4567", "8"] {
            submit(store, &NewJob { queue: "sizes".into(), ..job(body, 1) });
        }
        let ask = Claim { queue: "sizes".into(), limit: 9, max_bytes: 7, ..ask };
        assert_eq!(bodies(&store.claim(&ask).unwrap()), ["0123456789", "0123"], "the first counts for nothing");
        assert_eq!(
            store.queues().unwrap().iter().map(|depth| (&*depth.queue, depth.ready)).collect::<Vec<_>>(),
            [("m", 1), ("other", 1), ("sizes", 2)]
        );
    });
}

#[test]
fn a_key_names_one_job_of_its_tenant_while_that_is_kept() {
    lives(|store, me| {
        let keyed = |tenant: Option<&str>, digest| NewJob {
            tenant: tenant.map(Into::into),
            key: Some("k".into()),
            digest: [digest; 32],
            ..job("a", 1)
        };
        let id = submit(store, &keyed(Some("t"), 1));
        assert_eq!(store.submit(&keyed(Some("t"), 1)), Ok(Submitted::Same(id)));
        assert_eq!(store.submit(&keyed(Some("t"), 2)), Ok(Submitted::Conflict(id)));
        let others = submit(store, &keyed(None, 2));
        assert_eq!(store.submit(&keyed(None, 2)), Ok(Submitted::Same(others)));
        assert!(store.job(id, None).unwrap().is_none() && store.job(id, Some("t")).unwrap().is_some());
        claim(store, me, 1).unwrap();
        store.finish(&success(me, id, 1, 2)).unwrap();
        let old = Retention { bodies_before: 3, results_before: 3, attempts_before: 0 };
        assert_eq!(store.prune(&old, 100), Ok(2), "its body, then the rest of it");
        assert_eq!(store.prune(&old, 100), Ok(0));
        assert!(store.job(id, Some("t")).unwrap().is_none());
        assert!(submit(store, &keyed(Some("t"), 2)).number() > others.number());
    });
}

#[test]
fn a_cancelled_job_has_no_other_end_whoever_has_it() {
    lives(|store, me| {
        let waiting = submit(store, &job("a", 1));
        assert_eq!(store.cancel(waiting, Some("t"), 2), Ok(Cancelled::NoSuch));
        assert_eq!(store.cancel(waiting, None, 2), Ok(Cancelled::Now { was_claimed: false }));
        assert_eq!(store.cancel(waiting, None, 3), Ok(Cancelled::Ended(JobStatus::Cancelled)));
        assert!(claim(store, me, 9).unwrap().jobs.is_empty());
        let running = submit(store, &job("b", 1));
        claim(store, me, 9).unwrap();
        store.start(&start(me, running, 1, 9)).unwrap();
        assert_eq!(store.cancel(running, None, 10), Ok(Cancelled::Now { was_claimed: true }));
        assert_eq!(store.attempts(running).unwrap()[0].record, None);
        assert_eq!(store.finish(&success(me, running, 1, 11)), Ok(false));
        assert_eq!(store.attempts(running).unwrap()[0].record.as_ref().unwrap().status, Some(200), "it was used");
        let record = store.job(running, None).unwrap().unwrap();
        assert_eq!((record.status, record.finished_at, record.end), (JobStatus::Cancelled, Some(10), None));
    });
}

#[test]
fn only_jobs_on_disk_expire() {
    lives(|store, me| {
        let claimed = submit(store, &NewJob { expires_at: 5, ..job("claimed", 1) });
        claim(store, me, 1).unwrap();
        let first = submit(store, &NewJob { expires_at: 6, ..job("first", 1) });
        let second = submit(store, &NewJob { expires_at: 7, webhook: Some("https://h".into()), ..job("second", 1) });
        assert_eq!(store.next_expiry(), Ok(Some(6)));
        assert_eq!(store.expire(5, 9), Ok(vec![]));
        assert_eq!(store.expire(7, 1), Ok(vec![first]));
        assert_eq!(store.expire(7, 9), Ok(vec![second]));
        assert_eq!(store.outgoing(7, 9).unwrap().len(), 1);
        store.put_back(&PutBack { owner: me, job: claimed, due: None }).unwrap();
        assert_eq!(store.expire(7, 9), Ok(vec![claimed]));
    });
}

#[test]
fn what_a_gone_owner_held_is_ready_again_and_unknown_where_it_may_be_made_at_most_once() {
    lives(|store, _| {
        let gone = Owner(1);
        let ids = ["claimed", "running", "once"]
            .map(|body| submit(store, &NewJob { at_most_once: body == "once", ..job(body, 1) }));
        let [held, running, once] = ids;
        claim(store, gone, 1).unwrap();
        store.start(&start(gone, running, 1, 2)).unwrap();
        store.start(&start(gone, once, 1, 2)).unwrap();
        assert_eq!(store.rescue(gone, 9, 9), Ok(0), "nobody before it");
        let me = Owner(2);
        assert_eq!(store.rescue(me, 9, 2), Ok(2));
        assert_eq!(store.rescue(me, 9, 9), Ok(1));
        let statuses = ids.map(|id| store.job(id, None).unwrap().unwrap().status);
        assert_eq!(statuses, [JobStatus::Queued, JobStatus::Retrying, JobStatus::Unknown]);
        for (id, lost) in [(held, vec![]), (running, vec![Some(LOST)]), (once, vec![Some(LOST)])] {
            let records: Vec<_> = store.attempts(id).unwrap().into_iter().map(|kept| kept.record.unwrap()).collect();
            assert_eq!(records.iter().map(|record| record.failure.as_deref()).collect::<Vec<_>>(), lost);
            assert!(records.iter().all(|record| record.maybe_billed && record.ended_at == 9));
        }
        assert_eq!(store.start(&start(gone, held, 1, 10)), Ok(false));
        assert_eq!(store.finish(&success(gone, running, 1, 10)), Ok(false));
        assert_eq!(bodies(&claim(store, me, 10).unwrap()), ["claimed", "running"]);
    });
}

#[test]
fn lists_are_newest_first_by_tenant_and_status_and_without_lines() {
    lives(|store, me| {
        let ids = ["a", "b", "c"].map(|body| submit(store, &job(body, 1)));
        submit(store, &NewJob { tenant: Some("t".into()), ..job("d", 1) });
        let batch = crate::messages::BatchId::of(4);
        let line = crate::store::jobs::Line { batch, number: 0, custom_id: "x".into() };
        submit(store, &NewJob { line: Some(line), ..job("e", 1) });
        store.cancel(ids[1], None, 2).unwrap();
        let list = |store: &dyn Changes, status, after, limit| -> Vec<JobId> {
            let filter = JobFilter { tenant: None, status, after, limit };
            store.jobs(&filter).unwrap().into_iter().map(|job| job.id).collect()
        };
        assert_eq!(list(store, None, None, 9), [ids[2], ids[1], ids[0]]);
        assert_eq!(list(store, None, None, 2), [ids[2], ids[1]]);
        assert_eq!(list(store, None, Some(ids[1]), 9), [ids[0]]);
        assert_eq!(list(store, Some(JobStatus::Queued), None, 9), [ids[2], ids[0]]);
        assert_eq!(list(store, Some(JobStatus::Cancelled), None, 9), [ids[1]]);
        let _ = me;
    });
}

#[test]
fn age_takes_bodies_then_results_then_attempts_and_lines_only_their_bodies() {
    lives(|store, me| {
        let batch = crate::messages::BatchId::of(4);
        let line = crate::store::jobs::Line { batch, number: 0, custom_id: "x".into() };
        let ids = [
            submit(store, &NewJob { webhook: Some("https://h".into()), ..job("a", 1) }),
            submit(store, &NewJob { line: Some(line), ..job("b", 1) }),
        ];
        claim(store, me, 1).unwrap();
        for id in ids {
            store.start(&start(me, id, 1, 2)).unwrap();
            store.finish(&success(me, id, 1, 5)).unwrap();
        }
        let young = Retention { bodies_before: 5, results_before: 5, attempts_before: 2 };
        assert_eq!(store.prune(&young, 100), Ok(0));
        assert_eq!(store.prune(&Retention { bodies_before: 6, ..young }, 1), Ok(1));
        assert_eq!(store.prune(&Retention { bodies_before: 6, ..young }, 100), Ok(1));
        assert!(ids.iter().all(|id| store.body(*id).unwrap().is_none()));
        assert!(ids.iter().all(|id| store.job(*id, None).unwrap().unwrap().end.is_some()));
        assert_eq!(store.prune(&Retention { bodies_before: 6, results_before: 6, ..young }, 100), Ok(1));
        assert!(store.job(ids[0], None).unwrap().is_none() && store.job(ids[1], None).unwrap().is_some());
        assert_eq!(store.next_outgoing(), Ok(None), "there is nothing left to tell");
        assert_eq!(store.attempts(ids[0]).unwrap().len(), 1, "what was paid for stays on record");
        assert_eq!(store.prune(&Retention { bodies_before: 6, results_before: 6, attempts_before: 3 }, 100), Ok(2));
        assert!(store.attempts(ids[0]).unwrap().is_empty());
    });
}

#[test]
fn a_delivery_stays_until_it_is_done_and_waits_for_its_next_try() {
    lives(|store, _| {
        let id = submit(store, &NewJob { webhook: Some("https://h".into()), ..job("a", 1) });
        store.cancel(id, None, 5).unwrap();
        assert_eq!((store.next_outgoing(), store.outgoing(4, 9)), (Ok(Some(5)), Ok(vec![])));
        let number = store.outgoing(5, 9).unwrap()[0].number;
        store.outgoing_again(number, 50).unwrap();
        assert_eq!(store.outgoing(49, 9), Ok(vec![]));
        assert_eq!(store.outgoing(50, 9).unwrap()[0].attempts, 1);
        store.outgoing_done(number).unwrap();
        store.outgoing_again(number, 60).unwrap();
        assert_eq!(store.next_outgoing(), Ok(None));
    });
}

#[test]
fn kept_answers_go_when_their_time_is_up_and_memories_are_replaced() {
    use crate::store::memories::KeptAnswer;
    lives(|store, _| {
        let answer = |tenant: Option<&str>, status, expires_at| KeptAnswer {
            tenant: tenant.map(Into::into),
            key: "k".into(),
            digest: [1; 32],
            status,
            headers: Bytes::from_static(b"h"),
            body: Bytes::from_static(b"b"),
            expires_at,
        };
        store.keep_answer(&answer(None, 200, 10)).unwrap();
        store.keep_answer(&answer(Some("t"), 201, 20)).unwrap();
        store.keep_answer(&answer(None, 202, 30)).unwrap();
        assert_eq!(store.kept_answer(None, "k", 29), Ok(Some(answer(None, 202, 30))));
        assert_eq!(store.kept_answer(None, "k", 30), Ok(None));
        assert_eq!(store.kept_answer(Some("u"), "k", 0), Ok(None));
        assert_eq!(store.forget_answers(20, 9), Ok(1));
        assert_eq!(store.forget_answers(30, 9), Ok(1));
        store.remember("a", &Bytes::from_static(b"1")).unwrap();
        store.remember("b", &Bytes::from_static(b"2")).unwrap();
        store.remember("a", &Bytes::from_static(b"3")).unwrap();
        let kept = [("a".to_owned(), Bytes::from_static(b"3")), ("b".to_owned(), Bytes::from_static(b"2"))];
        assert_eq!(store.remembered(), Ok(kept.into()));
    });
}
