//! Every way a job can end, and that it ends once.

use std::time::Duration;

use super::stage::{Answer, Stage, chat};
use crate::clock::{self, in_virtual_time};
use crate::messages::{FailureKind, Job, JobStatus, Phase, Priority, Sent};

#[test]
fn at_most_once_means_that_nothing_is_sent_again_which_may_have_been_worked_on() {
    use FailureKind::*;
    use JobStatus::*;
    let limited = || Answer::Status(429, vec![("retry-after", "5".to_owned())]);
    // What the first attempt comes to, how the job ends, and how often the upstream is asked.
    let cases: Vec<(Answer, JobStatus, usize)> = vec![
        (Answer::Fails(Unreachable, Sent::No), Succeeded, 2),
        (Answer::Fails(Timeout(Phase::Connect), Sent::No), Succeeded, 2),
        (limited(), Succeeded, 2),
        (Answer::status(429), Succeeded, 2),
        (Answer::status(503), Succeeded, 2),
        (Answer::status(529), Succeeded, 2),
        (Answer::Fails(Cut, Sent::Maybe), Unknown, 1),
        (Answer::Fails(Timeout(Phase::FirstByte), Sent::Maybe), Unknown, 1),
        (Answer::Fails(Malformed, Sent::Maybe), Unknown, 1),
        (Answer::status(408), Unknown, 1),
        (Answer::status(502), Unknown, 1),
        (Answer::status(504), Unknown, 1),
        (Answer::status(500), Failed, 1),
        (Answer::status(409), Failed, 1),
        (Answer::status(400), Failed, 1),
    ];
    for (answer, expected, asked) in cases {
        in_virtual_time(async move {
            let first = answer.clone();
            let script = move |seen: &super::stage::Seen| if seen.number == 0 { first.clone() } else { Answer::good() };
            let stage = Stage::new(script).await;
            let id = stage.submit(Job::new(chat("once")).at_most_once()).await;
            let job = stage.ended(id).await;
            assert_eq!((job.status, stage.seen().len()), (expected, asked), "{answer:?}");
            let first = stage.attempts(id).await.remove(0).record.expect("an end");
            assert_eq!(first.maybe_billed, expected == Unknown, "{answer:?}");
        });
    }
}

#[test]
fn a_job_that_may_be_repeated_is_and_fails_with_its_last_error_when_its_attempts_are_used_up() {
    in_virtual_time(async {
        let stage = Stage::new(|_| Answer::status(500)).await;
        let id = stage.submit(Job::new(chat("hello"))).await;
        let error = stage.forebay.result(id, Duration::from_secs(3_600)).await.unwrap_err();
        assert_eq!((error.status(), error.code(), error.meta().attempts), (500, "upstream_error", 5));
        assert_eq!(&error.to_body()[..], b"{\"error\":{\"message\":\"status 500\"}}");
        assert_eq!((stage.job(id).await.status, stage.seen().len()), (JobStatus::Failed, 5));
        assert_eq!(stage.attempts(id).await.len(), 5);
    });
}

#[test]
fn a_job_can_be_called_off_wherever_it_stands_and_nothing_is_sent_for_it_then() {
    in_virtual_time(async {
        let limits = "limits = { max_concurrent = 1 }";
        let stage = Stage::with(limits, |seen| match seen.number {
            0 => Answer::never(),
            1 => Answer::Status(429, vec![("retry-after", "3600".to_owned())]),
            _ => Answer::good(),
        })
        .await;
        let jobs = stage.forebay.jobs().await.unwrap();
        let running = stage.submit(Job::new(chat("running"))).await;
        stage.until_seen(1).await;
        let waiting = stage.submit(Job::new(chat("waiting"))).await;
        clock::until(clock::now() + Duration::from_secs(1)).await;
        assert_eq!(stage.forebay.health().await.unwrap().waiting, 1);
        assert_eq!(jobs.cancel(waiting, None).await.unwrap().status, JobStatus::Cancelled);
        clock::until(clock::now() + Duration::from_secs(1)).await;
        assert_eq!(stage.forebay.health().await.unwrap().waiting, 0);

        assert_eq!(stage.job(running).await.status, JobStatus::Running);
        assert_eq!(jobs.cancel(running, None).await.unwrap().status, JobStatus::Cancelled);
        clock::until(clock::now() + Duration::from_secs(1)).await;
        assert_eq!(stage.forebay.health().await.unwrap().in_flight, 0, "its connection is closed");

        let retrying = stage.submit(Job::new(chat("retrying"))).await;
        stage.until_status(retrying, JobStatus::Retrying).await;
        assert_eq!(jobs.cancel(retrying, None).await.unwrap().status, JobStatus::Cancelled);

        let last = stage.submit(Job::new(chat("last"))).await;
        assert_eq!(stage.ended(last).await.status, JobStatus::Succeeded);
        let asked: Vec<String> = stage.seen().into_iter().map(|seen| seen.said).collect();
        assert_eq!(asked, ["running", "retrying", "last"]);
        assert_eq!(jobs.cancel(last, None).await.unwrap().status, JobStatus::Succeeded, "an end stays");
        for id in [running, waiting, retrying] {
            assert_eq!(stage.job(id).await.status, JobStatus::Cancelled);
        }
        assert_eq!(jobs.cancel(last, Some("other".into())).await.unwrap_err().code(), "not_found");
    });
}

#[test]
fn a_job_whose_time_is_up_expires_wherever_it_stands() {
    in_virtual_time(async {
        let limits = "limits = { max_concurrent = 1 }";
        let stage = Stage::with(limits, |seen| match &*seen.said {
            "limited" => Answer::Status(429, vec![("retry-after", "7200".to_owned())]),
            _ => Answer::never(),
        })
        .await;
        let start = clock::now();
        let limited = stage.submit(Job::new(chat("limited")).timeout(Duration::from_secs(3_600))).await;
        stage.until_status(limited, JobStatus::Retrying).await;
        assert_eq!(stage.ended(limited).await.status, JobStatus::Expired);
        let took = clock::now() - start;
        assert!((3_600.0..3_602.0).contains(&took.as_secs_f64()), "{took:?}");

        let stage = Stage::with(limits, |_| Answer::never()).await;
        let running = stage.submit(Job::new(chat("running")).timeout(Duration::from_secs(60))).await;
        stage.until_status(running, JobStatus::Running).await;
        let waiting = stage.submit(Job::new(chat("waiting")).timeout(Duration::from_secs(30))).await;
        let once = Job::new(chat("once").with_priority(Priority::High)).timeout(Duration::from_secs(90));
        let once = stage.submit(once.at_most_once()).await;
        assert_eq!(stage.ended(waiting).await.status, JobStatus::Expired);
        assert_eq!(stage.ended(running).await.status, JobStatus::Expired);
        assert!(stage.attempts(running).await[0].record.as_ref().unwrap().maybe_billed);
        assert_eq!(stage.ended(once).await.status, JobStatus::Unknown, "it was sent, and its answer is lost");
        assert_eq!(stage.attempts(waiting).await.len(), 0);
    });
}

#[test]
fn a_job_too_large_for_every_account_fails_at_once() {
    in_virtual_time(async {
        let stage = Stage::with("limits = { tokens_per_minute = 10 }", |_| Answer::good()).await;
        let id = stage.submit(Job::new(chat(&"word ".repeat(1_000)))).await;
        let start = clock::now();
        assert_eq!(stage.ended(id).await.status, JobStatus::Failed);
        assert!(clock::now() - start < Duration::from_secs(5));
    });
}
