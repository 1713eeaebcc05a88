//! What the end of a job's call means for the job: its end, or more time. Pure: what was tried is told, and what is to be
//! written down comes out.

use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use serde_json::value::RawValue;

use crate::messages::{AnswerBody, Error, ErrorKind, JobStatus, Outcome, Usage, json as walk};
use crate::providers::classify::Fate;
use crate::store::Ms;
use crate::store::jobs::{AttemptRecord, JobEnd, LOST};

/// How long a job waits that would come too late as things stand: they may change.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// An attempt on record, and how it ended, where that is known.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Tried {
    pub(super) number: u32,
    /// Nothing while it is under way.
    pub(super) end: Option<(AttemptRecord, Fate)>,
}

/// What is to be known of a job to judge its call's end.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) at_most_once: bool,
    pub(super) expires_at: Ms,
    /// The attempt that was made last, unless its failure is on record already.
    pub(super) tried: Option<Tried>,
}

/// What becomes of a job.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Verdict {
    /// It has its end.
    Ends {
        status: JobStatus,
        end: JobEnd,
        attempt: Option<(u32, AttemptRecord)>,
        usage: Option<Usage>,
        cost_usd: Option<f64>,
    },
    /// It goes again.
    Waits {
        /// An attempt of it that is not on record as failed yet.
        attempt: Option<(u32, AttemptRecord)>,
        /// Not before then; when it was due anyway, where nothing is said.
        due: Option<Ms>,
        /// None of its queue can go before so much time has passed.
        queue_rests: Option<Duration>,
    },
    /// The process is about to end in the middle of an attempt. What becomes of the job is said at the next start.
    LeftOpen,
}

/// Judges the end of a job's call.
pub(super) fn judge(facts: &Facts, outcome: Outcome, now: Ms) -> Verdict {
    let error = match outcome {
        Ok(answer) => {
            let AnswerBody::Whole(body) = answer.body else {
                let error = Error::new(ErrorKind::UpstreamUnavailable, "the upstream answered with a stream");
                return ends(JobStatus::Failed, &error, recorded(facts, now));
            };
            let (usage, cost_usd) = (answer.meta.usage, answer.meta.cost_usd);
            let attempt = facts.tried.as_ref().map(|tried| {
                let status = Some(answer.status);
                (tried.number, AttemptRecord { ended_at: now, status, usage, cost_usd, ..AttemptRecord::default() })
            });
            let end = JobEnd::Result { status: answer.status, body };
            return Verdict::Ends { status: JobStatus::Succeeded, end, attempt, usage, cost_usd };
        }
        Err(error) => error,
    };
    let is_under_way = facts.tried.as_ref().is_some_and(|tried| tried.end.is_none());
    let is_lost = is_under_way
        || facts.tried.as_ref().is_some_and(|tried| tried.end.as_ref().is_some_and(|(_, fate)| *fate == Fate::Lost));
    if is_under_way && error.kind() == ErrorKind::Draining {
        return Verdict::LeftOpen;
    }
    let attempt = recorded(facts, now);
    if facts.at_most_once && is_lost {
        return ends(JobStatus::Unknown, &error, attempt);
    }
    // The dispatcher counts in finer grains than a millisecond.
    let is_late = now + 1 >= facts.expires_at;
    if error.kind() == ErrorKind::DeadlineExceeded && is_late {
        return ends(JobStatus::Expired, &error, attempt);
    }
    if !error.asks_for_time() {
        return ends(JobStatus::Failed, &error, attempt);
    }
    if error.kind() == ErrorKind::DeadlineExceeded {
        let due = now.saturating_add(millis(LOOK_AGAIN)).min(facts.expires_at);
        return Verdict::Waits { attempt, due: Some(due), queue_rests: None };
    }
    let rest = error.retry_after().unwrap_or_default().max(Duration::from_secs(1));
    Verdict::Waits { attempt, due: None, queue_rests: Some(rest) }
}

/// The attempt that is not on record as failed yet, as it is to be.
fn recorded(facts: &Facts, now: Ms) -> Option<(u32, AttemptRecord)> {
    let tried = facts.tried.as_ref()?;
    let record = match &tried.end {
        Some((record, _)) => record.clone(),
        None => AttemptRecord {
            ended_at: now,
            failure: Some(LOST.to_owned()),
            maybe_billed: true,
            ..AttemptRecord::default()
        },
    };
    Some((tried.number, record))
}

fn ends(status: JobStatus, error: &Error, attempt: Option<(u32, AttemptRecord)>) -> Verdict {
    let end = match error.answer() {
        Some((_, body)) => JobEnd::Result { status: error.status(), body: body.clone() },
        None => JobEnd::Error { status: error.status(), error: error_object(error) },
    };
    Verdict::Ends { status, end, attempt, usage: None, cost_usd: None }
}

/// A span of time in the store's measure.
pub(super) fn millis(span: Duration) -> Ms {
    Ms::try_from(span.as_millis()).unwrap_or(Ms::MAX)
}

/// What stands below `error` in the body of an error: the upstream's own words where it has spoken last.
pub(super) fn error_object(error: &Error) -> Bytes {
    if let Some((_, body)) = error.answer()
        && let Some(theirs) = their_error(body)
    {
        return theirs;
    }
    let kind = error.kind();
    let ours = json!({
        "message": error.message(), "type": kind.error_type(), "param": error.param(), "code": kind.code(),
    });
    Bytes::from(ours.to_string())
}

/// The object below `error` in an upstream's body, where there is one.
fn their_error(body: &Bytes) -> Option<Bytes> {
    let text = std::str::from_utf8(body).ok()?;
    let mut found: Option<&RawValue> = None;
    walk::each_field(text, |key, value| {
        if key == "error" {
            found = Some(value);
        }
    })
    .ok()?;
    found.filter(|value| walk::is_object(value)).map(|value| body.slice_ref(value.get().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::{Answer, Headers, Meta};

    const EXPIRES_AT: Ms = 1_000_000;

    fn record(failure: &str) -> AttemptRecord {
        AttemptRecord { ended_at: 5, failure: Some(failure.to_owned()), ..AttemptRecord::default() }
    }

    fn facts(at_most_once: bool, tried: Option<Option<Fate>>) -> Facts {
        let tried = tried.map(|end| Tried { number: 3, end: end.map(|fate| (record("Cut"), fate)) });
        Facts { at_most_once, expires_at: EXPIRES_AT, tried }
    }

    fn unavailable() -> Error {
        Error::new(ErrorKind::UpstreamUnavailable, "gone")
    }

    fn status(verdict: &Verdict) -> Option<JobStatus> {
        match verdict {
            Verdict::Ends { status, .. } => Some(*status),
            _ => None,
        }
    }

    #[test]
    fn an_answer_is_the_result_byte_for_byte_and_its_attempt_is_on_record() {
        let body = Bytes::from_static(b"{ \"a\" : 1.0 }");
        let usage = Usage { input_tokens: 1, ..Usage::default() };
        let answer = Answer {
            status: 200,
            headers: Headers::new(),
            body: AnswerBody::Whole(body.clone()),
            meta: Meta { usage: Some(usage), cost_usd: Some(0.5), ..Meta::default() },
        };
        let Verdict::Ends { status, end, attempt, usage: told, cost_usd } =
            judge(&facts(true, Some(None)), Ok(answer), 9)
        else {
            panic!("an end");
        };
        assert_eq!((status, end), (JobStatus::Succeeded, JobEnd::Result { status: 200, body }));
        assert_eq!((told, cost_usd), (Some(usage), Some(0.5)));
        let (number, record) = attempt.expect("an attempt");
        assert_eq!((number, record.ended_at, record.status, record.maybe_billed), (3, 9, Some(200), false));
    }

    #[test]
    fn at_most_once_what_may_have_been_worked_on_is_unknown_and_nothing_else_is() {
        for (tried, error, expected) in [
            (None, unavailable(), JobStatus::Failed),
            (Some(Some(Fate::Unworked)), unavailable(), JobStatus::Failed),
            (Some(Some(Fate::Answered)), unavailable(), JobStatus::Failed),
            (Some(Some(Fate::Lost)), unavailable(), JobStatus::Unknown),
            (Some(None), Error::new(ErrorKind::DeadlineExceeded, "late"), JobStatus::Unknown),
            (Some(None), Error::new(ErrorKind::Restarting, "crash").asking_for_time(), JobStatus::Unknown),
        ] {
            let judged = judge(&facts(true, tried), Err(error.clone()), EXPIRES_AT);
            assert_eq!(status(&judged), Some(expected), "{tried:?} {error:?}");
            let at_least_once = judge(&facts(false, tried), Err(error), EXPIRES_AT);
            assert_ne!(status(&at_least_once), Some(JobStatus::Unknown), "{tried:?}");
        }
    }

    #[test]
    fn a_job_waits_where_a_call_is_told_to_come_again() {
        let error = unavailable().with_retry_after(Duration::from_secs(7)).asking_for_time();
        let judged = judge(&facts(false, Some(Some(Fate::Lost))), Err(error), 10);
        let attempt = Some((3, record("Cut")));
        assert_eq!(judged, Verdict::Waits { attempt, due: None, queue_rests: Some(Duration::from_secs(7)) });
    }

    #[test]
    fn a_job_that_would_come_too_late_is_looked_at_again_until_its_time_is_up() {
        let error = || Error::new(ErrorKind::DeadlineExceeded, "late").asking_for_time();
        let judged = judge(&facts(false, None), Err(error()), EXPIRES_AT - 90_000);
        let due = Some(EXPIRES_AT - 60_000);
        assert_eq!(judged, Verdict::Waits { attempt: None, due, queue_rests: None });
        let judged = judge(&facts(false, None), Err(error()), EXPIRES_AT - 10_000);
        assert_eq!(judged, Verdict::Waits { attempt: None, due: Some(EXPIRES_AT), queue_rests: None });
        assert_eq!(status(&judge(&facts(false, None), Err(error()), EXPIRES_AT)), Some(JobStatus::Expired));
        let never_fits = Error::new(ErrorKind::DeadlineExceeded, "too large");
        assert_eq!(status(&judge(&facts(false, None), Err(never_fits), 10)), Some(JobStatus::Failed));
    }

    #[test]
    fn a_crash_in_mid_call_puts_the_attempt_on_record_as_maybe_billed() {
        let error = Error::new(ErrorKind::Restarting, "crash").asking_for_time();
        let Verdict::Waits { attempt: Some((3, record)), .. } = judge(&facts(false, Some(None)), Err(error), 10) else {
            panic!("it goes again");
        };
        assert!(record.maybe_billed);
        assert_eq!(record.failure.as_deref(), Some(LOST));
    }

    #[test]
    fn an_attempt_that_is_under_way_at_the_end_of_the_process_is_left_to_the_next_start() {
        let error = || Error::new(ErrorKind::Draining, "bye").asking_for_time();
        assert_eq!(judge(&facts(true, Some(None)), Err(error()), 10), Verdict::LeftOpen);
        assert!(matches!(judge(&facts(true, None), Err(error()), 10), Verdict::Waits { .. }));
    }

    #[test]
    fn an_upstreams_error_is_kept_byte_for_byte_and_one_of_ours_as_an_object() {
        let end = |error| match judge(&facts(false, Some(Some(Fate::Answered))), Err(error), 9) {
            Verdict::Ends { status: JobStatus::Failed, end, .. } => end,
            other => panic!("{other:?}"),
        };
        let body = Bytes::from_static(b"{ \"error\" : {\"a\":1.0} }");
        let theirs = Error::upstream(400, Headers::new(), body.clone());
        assert_eq!(end(theirs), JobEnd::Result { status: 400, body });
        assert!(matches!(end(unavailable()), JobEnd::Error { status: 502, .. }));
    }

    #[test]
    fn an_error_is_the_upstreams_own_object_where_it_has_spoken() {
        let answered = |body: &'static str| Error::upstream(400, Headers::new(), Bytes::from_static(body.as_bytes()));
        let theirs = error_object(&answered("{\"type\":\"error\",\"error\": {\"a\" :1}}"));
        assert_eq!(&*theirs, b"{\"a\" :1}");
        for body in ["", "<html>", "{\"error\":\"text\"}", "[]"] {
            let ours: serde_json::Value = serde_json::from_slice(&error_object(&answered(body))).expect("JSON");
            assert_eq!(ours["code"], "upstream_error", "{body}");
            assert!(ours["message"].as_str().is_some_and(|message| message.contains("400")), "{body}");
        }
    }
}
