//! Jobs through the whole system, in virtual time: from the store through the dispatcher to their one result.

mod stage;

use std::time::Duration;

use self::stage::{Answer, Stage, chat};
use crate::clock::in_virtual_time;
use crate::messages::{AnswerBody, Job, JobStatus};

#[test]
fn a_submitted_job_runs_to_its_end_and_its_result_is_the_upstreams_body() {
    in_virtual_time(async {
        let stage = Stage::new(|_| Answer::good()).await;
        let id = stage.forebay.submit(Job::new(chat("hello"))).await.unwrap();
        let answer = stage.forebay.result(id, Duration::from_secs(60)).await.unwrap();
        let AnswerBody::Whole(body) = answer.body else { panic!("a whole answer") };
        assert_eq!(body, Answer::BODY);
        assert_eq!((answer.meta.attempts, answer.meta.usage.map(|usage| usage.total())), (1, Some(5)));
        let job = stage.job(id).await;
        assert_eq!((job.status, job.attempts), (JobStatus::Succeeded, 1));
        assert!(job.started_at.is_some() && job.finished_at.is_some());
    });
}
