//! Jobs through the whole system, in virtual time: from the store through the dispatcher to their one result, whatever
//! crashes, ends or waits on the way.

mod crashes;
mod ends;
mod queues;
mod stage;
mod webhooks;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use self::stage::{Answer, Stage, chat};
use crate::clock::{self, in_virtual_time};
use crate::dispatcher::Submit;
use crate::messages::{
    AccountId, AnswerBody, CallId, Durable, Error, ErrorKind, Failure, Job, JobStatus, Journal, Recorded,
};

#[test]
fn a_submitted_job_runs_to_its_end_and_its_result_is_the_upstreams_body() {
    in_virtual_time(async {
        let stage = Stage::new(|_| Answer::good()).await;
        let id = stage.submit(Job::new(chat("hello"))).await;
        let answer = stage.forebay.result(id, Duration::from_secs(60)).await.unwrap();
        let AnswerBody::Whole(body) = answer.body else { panic!("a whole answer") };
        assert_eq!(body, Answer::BODY);
        assert_eq!((answer.meta.attempts, answer.meta.usage.map(|usage| usage.total())), (1, Some(5)));
        let job = stage.job(id).await;
        assert_eq!((job.status, job.attempts), (JobStatus::Succeeded, 1));
        assert!(job.started_at.is_some() && job.finished_at.is_some());
        let attempt = &stage.attempts(id).await[0];
        assert_eq!((attempt.number, &*attempt.upstream, attempt.key), (1, "up", 0));
        let record = attempt.record.as_ref().unwrap();
        assert_eq!((record.status, record.maybe_billed), (Some(200), false));
    });
}

#[test]
fn a_key_names_one_job_as_long_as_it_asks_for_the_same() {
    in_virtual_time(async {
        let stage = Stage::new(|_| Answer::good()).await;
        let first = stage.submit(Job::new(chat("hello")).key("mine")).await;
        assert_eq!(stage.submit(Job::new(chat("hello")).key("mine")).await, first);
        stage.ended(first).await;
        assert_eq!(stage.submit(Job::new(chat("hello")).key("mine")).await, first);
        let error = stage.forebay.submit(Job::new(chat("other")).key("mine")).await.unwrap_err();
        assert_eq!(error.code(), "idempotency_conflict");
        assert_ne!(stage.submit(Job::new(chat("hello")).key("another")).await, first);
        assert_ne!(stage.submit(Job::new(chat("hello"))).await, first);
    });
}

#[test]
fn a_result_that_is_not_there_in_time_says_so_and_comes_later() {
    in_virtual_time(async {
        let stage = Stage::new(|_| Answer::After(Duration::from_secs(100))).await;
        let id = stage.submit(Job::new(chat("hello"))).await;
        let error = stage.forebay.result(id, Duration::from_secs(10)).await.unwrap_err();
        assert_eq!(error.code(), "deadline_exceeded");
        assert!(error.message().contains("running"), "{}", error.message());
        assert!(stage.forebay.result(id, Duration::from_secs(100)).await.is_ok());
        let unknown = crate::JobId::of(1);
        assert_eq!(stage.forebay.result(unknown, Duration::ZERO).await.unwrap_err().code(), "not_found");
    });
}

#[test]
fn a_program_that_says_nothing_about_a_store_opens_none_before_its_first_job() {
    in_virtual_time(async {
        let text = "[pool]\nthreads = 0\n[upstreams.up]\nbase_url = \"http://u.test/v1\"\nmodels = [\"m\"]";
        let forebay = crate::Forebay::start(crate::Config::from_toml(text).unwrap()).await.unwrap();
        assert!(forebay.status().await.unwrap().jobs.is_none());
        let told = format!("{text}\n[store]\nurl = \"sqlite::memory:\"");
        let forebay = crate::Forebay::start(crate::Config::from_toml(&told).unwrap()).await.unwrap();
        assert!(forebay.status().await.unwrap().jobs.is_some());
    });
}

#[test]
fn what_has_ended_is_forgotten_by_age_bodies_after_a_day_and_results_as_configured() {
    in_virtual_time(async {
        let stage = Stage::with("[store]\nkeep_results_for = \"26h\"", |_| Answer::good()).await;
        let mut jobs = Vec::new();
        for n in 0..500 {
            jobs.push(stage.submit(Job::new(chat(&format!("{n}")))).await);
        }
        for id in &jobs {
            stage.ended(*id).await;
        }
        let id = jobs[250];
        let has_body = async || stage.store.read(move |records| records.body(id)).await.unwrap().is_some();
        let pass = async |hours: u64| clock::until(clock::now() + Duration::from_secs(hours * 3_600)).await;
        pass(23).await;
        assert!(has_body().await);
        pass(2).await;
        assert!(!has_body().await);
        assert!(stage.forebay.result(id, Duration::ZERO).await.is_ok());
        pass(2).await;
        assert_eq!(stage.forebay.result(id, Duration::ZERO).await.unwrap_err().code(), "not_found");
        assert_eq!(stage.attempts(id).await.len(), 1, "what was asked of the upstream stays on record");
    });
}

#[test]
fn an_attempt_that_cannot_be_put_on_record_is_not_made_and_its_place_is_free_again() {
    struct Refuses;

    impl Journal for Refuses {
        fn starting(&self, _: &AccountId) -> Recorded {
            Box::pin(async {
                clock::until(clock::now() + Duration::from_secs(1)).await;
                Err(Error::new(ErrorKind::Overloaded, "no room on record"))
            })
        }

        fn failed(&self, _: &Failure) {}

        fn again(&self, _: u32, _: Duration) {}
    }

    in_virtual_time(async {
        let stage = Stage::with("limits = { max_concurrent = 1 }", |_| Answer::good()).await;
        let (reply, outcome) = oneshot::channel();
        let durable = Durable { journal: Arc::new(Refuses), attempts: 0, counted: 0, at_most_once: false };
        stage.forebay.dispatcher().do_send(Submit {
            id: CallId::new(),
            request: Arc::new(chat("never")),
            admitted: stage.forebay.admit(10).unwrap(),
            seat: None,
            durable: Some(Arc::new(durable)),
            reply,
        });
        let error = outcome.await.unwrap().unwrap_err();
        assert_eq!((error.code(), error.meta().attempts), ("overloaded", 0));
        assert!(stage.seen().is_empty());
        assert!(stage.forebay.call(chat("call")).await.is_ok());
    });
}
