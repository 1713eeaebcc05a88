//! Whatever dies, and whenever: every job ends once, and what was under way is on record.

use std::time::Duration;

use super::stage::{Answer, Stage, chat};
use crate::clock::{self, in_virtual_time};
use crate::dispatcher::CrashIn;
use crate::jobs::CrashJobsIn;
use crate::messages::{Job, JobId, JobStatus};

#[test]
fn a_retry_keeps_its_time_over_a_restart() {
    in_virtual_time(async {
        // Nothing but the job's own record says when: a hold would be remembered with its account.
        let hourly = "[retry]\nbase_delay = \"1h\"\nmax_delay = \"1h\"\njitter = \"none\"";
        let stage =
            Stage::with(hourly, |seen| if seen.number == 0 { Answer::status(500) } else { Answer::good() }).await;
        let start = clock::now();
        let id = stage.submit(Job::new(chat("hello"))).await;
        stage.until_status(id, JobStatus::Retrying).await;
        clock::until(start + Duration::from_secs(600)).await;
        let stage = stage.crash().await;
        let job = stage.ended(id).await;
        assert_eq!((job.status, job.attempts), (JobStatus::Succeeded, 2));
        let took = (stage.seen()[1].at - start).as_secs_f64();
        assert!((3_600.0..3_602.0).contains(&took), "{took}");
    });
}

#[test]
fn retries_that_came_due_while_nobody_was_there_do_not_go_all_at_once() {
    in_virtual_time(async {
        let stage = Stage::new(|seen| if seen.number < 20 { Answer::status(500) } else { Answer::good() }).await;
        let mut jobs = Vec::new();
        for n in 0..20 {
            jobs.push(stage.submit(Job::new(chat(&format!("{n}")))).await);
        }
        stage.until_seen(20).await;
        for id in &jobs {
            stage.until_status(*id, JobStatus::Retrying).await;
        }
        let stage = stage.crash_for(Duration::from_secs(3_600)).await;
        for id in jobs {
            assert_eq!(stage.ended(id).await.status, JobStatus::Succeeded);
        }
        let times: Vec<_> = stage.seen()[20..].iter().map(|seen| seen.at).collect();
        let spread = *times.iter().max().unwrap() - *times.iter().min().unwrap();
        assert!(spread > Duration::from_millis(500), "{spread:?}");
    });
}

#[test]
fn a_parked_account_stays_parked_over_a_restart_for_whoever_comes_then() {
    in_virtual_time(async {
        let stage = Stage::new(|seen| match seen.number {
            0 => Answer::Status(429, vec![("retry-after", "3600".to_owned())]),
            _ => Answer::good(),
        })
        .await;
        let start = clock::now();
        let held = stage.submit(Job::new(chat("held"))).await;
        stage.until_status(held, JobStatus::Retrying).await;
        clock::until(start + Duration::from_secs(60)).await;
        let stage = stage.crash().await;
        let other = stage.submit(Job::new(chat("other"))).await;
        assert_eq!(stage.ended(other).await.status, JobStatus::Succeeded);
        let took = (stage.seen()[1].at - start).as_secs_f64();
        assert!((3_599.0..3_602.0).contains(&took), "{took}");
    });
}

#[test]
fn a_crash_in_mid_call_repeats_the_call_or_leaves_it_unknown_as_was_asked() {
    in_virtual_time(async {
        let stage = Stage::new(|seen| if seen.number < 2 { Answer::never() } else { Answer::good() }).await;
        let again = stage.submit(Job::new(chat("again"))).await;
        let once = stage.submit(Job::new(chat("once")).at_most_once()).await;
        stage.until_seen(2).await;
        let stage = stage.crash().await;
        let (again, once) = (stage.ended(again).await, stage.ended(once).await);
        assert_eq!((again.status, again.attempts), (JobStatus::Succeeded, 2));
        assert_eq!((once.status, once.attempts), (JobStatus::Unknown, 1));
        let said: Vec<_> = stage.seen().into_iter().map(|seen| seen.said).collect();
        assert_eq!(said, ["again", "once", "again"]);
        for id in [again.id, once.id] {
            assert!(stage.attempts(id).await[0].record.as_ref().unwrap().maybe_billed);
        }
    });
}

/// Submits jobs, some to be made at most once, and crashes by `crash` on the way; every one must end once.
async fn survives(stage: &Stage, crash: impl Fn(usize)) {
    let mut jobs: Vec<(JobId, bool)> = Vec::new();
    for n in 0..60 {
        let (job, once) = (Job::new(chat(&format!("{n}"))), n % 3 == 0);
        jobs.push((stage.submit(if once { job.at_most_once() } else { job }).await, once));
        crash(n);
        clock::until(clock::now() + Duration::from_millis(37)).await;
    }
    for (n, (id, once)) in jobs.into_iter().enumerate() {
        let job = stage.ended(id).await;
        let asked = stage.seen().iter().filter(|seen| seen.said == n.to_string()).count();
        match job.status {
            JobStatus::Succeeded => assert!(asked >= 1 && (!once || asked == 1), "{n} was asked for {asked} times"),
            JobStatus::Unknown => assert!(once && asked <= 1, "{n} was asked for {asked} times"),
            status => panic!("{n} is {status}: {:?}", job.end),
        }
        assert_eq!(job.attempts as usize, stage.attempts(id).await.len());
    }
}

#[test]
fn a_crash_of_the_dispatcher_at_any_message_loses_no_job() {
    for message in (1..120).step_by(7) {
        in_virtual_time(async move {
            let stage = Stage::with("limits = { max_concurrent = 8 }", |_| Answer::good()).await;
            let forebay = stage.forebay.clone();
            survives(&stage, move |n| {
                if n == 10 {
                    forebay.dispatcher().do_send(CrashIn(message));
                }
            })
            .await;
        });
    }
}

#[test]
fn a_crash_of_the_jobs_own_actor_at_any_message_loses_no_job() {
    for message in (1..120).step_by(7) {
        in_virtual_time(async move {
            let stage = Stage::with("limits = { max_concurrent = 8 }", |_| Answer::good()).await;
            let forebay = stage.forebay.clone();
            survives(&stage, move |n| {
                if n == 10 {
                    forebay.jobs_actor().do_send(CrashJobsIn(message));
                }
            })
            .await;
        });
    }
}

#[test]
fn a_shutdown_lets_running_jobs_end_and_puts_the_others_back_at_once() {
    in_virtual_time(async {
        let stage = Stage::with("limits = { max_concurrent = 1 }", |_| Answer::After(Duration::from_secs(10))).await;
        let mut jobs = Vec::new();
        for n in 0..5 {
            jobs.push(stage.submit(Job::new(chat(&format!("{n}")))).await);
        }
        stage.until_seen(1).await;
        let start = clock::now();
        let stage = stage.restart(Duration::from_secs(3_600)).await;
        assert!(clock::now() - start < Duration::from_secs(11), "{:?}", clock::now() - start);
        assert_eq!(stage.job(jobs[0]).await.status, JobStatus::Succeeded);
        for id in &jobs {
            let job = stage.ended(*id).await;
            assert_eq!((job.status, job.attempts), (JobStatus::Succeeded, 1));
        }
        assert_eq!(stage.seen().len(), 5);
    });
}

#[test]
fn jobs_that_run_longer_than_the_drain_are_taken_up_by_the_next_start() {
    in_virtual_time(async {
        let stage = Stage::new(|seen| if seen.number < 2 { Answer::never() } else { Answer::good() }).await;
        let again = stage.submit(Job::new(chat("again"))).await;
        let once = stage.submit(Job::new(chat("once")).at_most_once()).await;
        stage.until_seen(2).await;
        let start = clock::now();
        let stage = stage.restart(Duration::from_secs(30)).await;
        assert!((30..=33).contains(&(clock::now() - start).as_secs()));
        assert_eq!(stage.ended(again).await.status, JobStatus::Succeeded);
        assert_eq!(stage.ended(once).await.status, JobStatus::Unknown);
        assert_eq!(stage.seen().len(), 3);
    });
}

#[test]
fn a_job_that_waits_is_told_to_nobody_as_ended_when_the_process_ends() {
    in_virtual_time(async {
        let stage = Stage::with("limits = { max_concurrent = 1 }", |_| Answer::never()).await;
        stage.submit(Job::new(chat("first"))).await;
        let id = stage.submit(Job::new(chat("second"))).await;
        stage.until_seen(1).await;
        let forebay = stage.forebay.clone();
        let waits = actix_rt::spawn(async move { forebay.result(id, Duration::from_secs(3_600)).await });
        clock::until(clock::now() + Duration::from_secs(1)).await;
        let start = clock::now();
        let stage = stage.restart(Duration::from_secs(5)).await;
        let error = waits.await.unwrap().unwrap_err();
        assert_eq!(error.code(), "deadline_exceeded");
        assert!(clock::now() - start < Duration::from_secs(8));
        assert!(!stage.job(id).await.status.is_end());
        let error = stage.forebay.submit(Job::new(chat("more"))).await;
        assert!(error.is_ok());
    });
}
