//! Who goes when: priorities, a bounded number out at once, and queues that do not wait for each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;

use super::stage::{Answer, Stage, chat, of_model};
use crate::clock::{self, in_virtual_time};
use crate::messages::{FailureKind, Job, JobStatus, Priority, Sent};

const OTHER: &str = "[upstreams.other]\nbase_url = \"http://o.test/v1\"\nmodels = [\"n\"]";

#[test]
fn calls_go_before_jobs_and_jobs_by_priority() {
    in_virtual_time(async {
        let stage = Stage::with("limits = { max_concurrent = 1 }", |_| Answer::good()).await;
        let first = stage.submit(Job::new(chat("first"))).await;
        stage.until_seen(1).await;
        let mut jobs = vec![first];
        for said in ["low 1", "low 2"] {
            jobs.push(stage.submit(Job::new(chat(said))).await);
        }
        jobs.push(stage.submit(Job::new(chat("high").with_priority(Priority::High))).await);
        stage.forebay.call(chat("call")).await.unwrap();
        join_all(jobs.into_iter().map(|id| stage.ended(id))).await;
        let said: Vec<String> = stage.seen().into_iter().map(|seen| seen.said).collect();
        assert_eq!(said, ["first", "high", "call", "low 1", "low 2"]);
    });
}

#[test]
fn few_jobs_of_a_queue_are_out_however_many_wait() {
    in_virtual_time(async {
        let stage = Stage::with("limits = { max_concurrent = 2 }", |_| Answer::good()).await;
        let mut jobs = Vec::new();
        for n in 0..1_000 {
            jobs.push(stage.submit(Job::new(chat(&format!("{n}")))).await);
        }
        let mut most = 0;
        while stage.job(jobs[999]).await.status != JobStatus::Succeeded {
            let queue = stage.forebay.status().await.unwrap().jobs.unwrap().queues.into_iter().next();
            most = most.max(queue.map_or(0, |queue| queue.claimed));
            clock::until(clock::now() + Duration::from_secs(1)).await;
        }
        assert!((100..=256).contains(&most), "{most}");
        let said: Vec<String> = stage.seen().into_iter().map(|seen| seen.said).collect();
        assert_eq!(said, (0..1_000).map(|n| n.to_string()).collect::<Vec<_>>(), "each once, in their order");
    });
}

#[test]
fn a_queue_that_is_held_delays_no_other() {
    in_virtual_time(async {
        let stage = Stage::with(OTHER, |seen| match &*seen.said {
            "held" => Answer::Status(429, vec![("retry-after", "3600".to_owned())]),
            _ => Answer::good(),
        })
        .await;
        let mut held = Vec::new();
        for _ in 0..600 {
            held.push(stage.submit(Job::new(chat("held"))).await);
        }
        stage.until_status(held[0], JobStatus::Retrying).await;
        let start = clock::now();
        let other = stage.submit(Job::new(of_model("n", "good"))).await;
        assert_eq!(stage.ended(other).await.status, JobStatus::Succeeded);
        assert!(clock::now() - start < Duration::from_secs(1));
    });
}

#[test]
fn jobs_of_a_broken_upstream_wait_for_it_and_are_all_answered_when_it_is_back() {
    in_virtual_time(async {
        let broken = Arc::new(AtomicBool::new(true));
        let is_broken = Arc::clone(&broken);
        let stage = Stage::with("[retry]\nmax_attempts = 100\njitter = \"none\"", move |_| {
            match is_broken.load(Ordering::Relaxed) {
                true => Answer::Fails(FailureKind::Unreachable, Sent::No),
                false => Answer::good(),
            }
        })
        .await;
        let mut jobs = Vec::new();
        for n in 0..300 {
            jobs.push(stage.submit(Job::new(chat(&format!("{n}")))).await);
        }
        clock::until(clock::now() + Duration::from_secs(3_600)).await;
        let before = stage.seen().len();
        assert!(before < 3_600 + 2_000, "one a second is let through, {before} were");
        for id in &jobs {
            assert!(!stage.job(*id).await.status.is_end());
        }
        broken.store(false, Ordering::Relaxed);
        let start = clock::now();
        for id in &jobs {
            assert_eq!(stage.ended(*id).await.status, JobStatus::Succeeded);
        }
        assert!(clock::now() - start < Duration::from_secs(120), "{:?}", clock::now() - start);
        let count = |n: usize| stage.seen()[before..].iter().filter(|seen| seen.said == n.to_string()).count();
        assert!((0..300).all(|n| count(n) == 1), "each is asked for once then");
    });
}

#[test]
fn jobs_take_no_place_in_the_waiting_room() {
    in_virtual_time(async {
        let more = "limits = { max_concurrent = 1 }\n[queue]\ncapacity = 1";
        let stage = Stage::with(more, |_| Answer::good()).await;
        let mut jobs = Vec::new();
        for n in 0..20 {
            jobs.push(stage.submit(Job::new(chat(&format!("{n}")))).await);
        }
        stage.until_seen(1).await;
        stage.forebay.call(chat("call")).await.unwrap();
        assert_eq!(stage.seen()[1].said, "call");
        for id in jobs {
            assert_eq!(stage.ended(id).await.status, JobStatus::Succeeded);
        }
    });
}
