//! The end of a job is told to whoever asked for it, also by the next process.

use std::time::Duration;

use super::stage::{Answer, Stage, chat};
use crate::clock::{self, in_virtual_time};
use crate::messages::{Job, JobStatus};

const SECRET: &str = "[jobs]\nwebhook_secret = \"whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz\"";
const HOOK: &str = "https://hooks.test/forebay";

#[test]
fn an_end_is_told_until_its_receiver_has_it() {
    in_virtual_time(async {
        let stage = Stage::with(SECRET, |seen| match (&*seen.said, seen.number) {
            ("(webhook)", 0..3) => Answer::status(500),
            _ => Answer::good(),
        })
        .await;
        let id = stage.submit(Job::new(chat("hello")).webhook(HOOK)).await;
        stage.ended(id).await;
        stage.until_seen(4).await;
        clock::until(clock::now() + Duration::from_secs(86_400)).await;
        let told: Vec<_> = stage.seen().into_iter().filter(|seen| seen.said == "(webhook)").collect();
        assert_eq!(told.len(), 3, "twice in vain, and not again when it has it");
        let event: serde_json::Value = serde_json::from_str(&told[2].body).unwrap();
        assert_eq!((&event["type"], &event["data"]["id"]), (&"job.succeeded".into(), &id.to_string().into()));
        assert_eq!(event["data"]["result"]["choices"][0]["message"]["content"], "hi");
        assert!(told.iter().all(|seen| seen.body == told[0].body), "the same each time");
    });
}

#[test]
fn what_was_not_told_is_told_by_the_next_process() {
    in_virtual_time(async {
        let stage = Stage::with(SECRET, |seen| match (&*seen.said, seen.number) {
            ("(webhook)", 0..2) => Answer::never(),
            _ => Answer::good(),
        })
        .await;
        let id = stage.submit(Job::new(chat("hello")).webhook(HOOK)).await;
        stage.until_seen(2).await;
        let stage = stage.crash().await;
        stage.until_seen(3).await;
        assert_eq!(stage.seen()[2].said, "(webhook)");
        assert_eq!(stage.job(id).await.status, JobStatus::Succeeded);
    });
}

#[test]
fn cancelled_and_expired_jobs_are_told_too() {
    in_virtual_time(async {
        let stage = Stage::with(SECRET, |seen| match &*seen.said {
            "(webhook)" => Answer::good(),
            _ => Answer::never(),
        })
        .await;
        let cancelled = stage.submit(Job::new(chat("hello")).webhook(HOOK)).await;
        stage.until_seen(1).await;
        stage.forebay.jobs().await.unwrap().cancel(cancelled, None).await.unwrap();
        stage.until_seen(2).await;
        let expired = Job::new(chat("hello")).webhook(HOOK).timeout(Duration::from_secs(5));
        stage.submit(expired).await;
        stage.until_seen(4).await;
        let told: Vec<_> = stage.seen().into_iter().filter(|seen| seen.said == "(webhook)").collect();
        assert!(told[0].body.contains("\"job.cancelled\""), "{}", told[0].body);
        assert!(told[1].body.contains("\"job.expired\""), "{}", told[1].body);
    });
}
