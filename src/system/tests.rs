//! The dispatcher crashes: every caller has one end, a fresh dispatcher serves the next call, no cap is forgotten.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;

use crate::clock::{self, Instant};
use crate::dispatcher::CrashIn;
use crate::messages::{AnswerBody, ErrorKind, Outcome, Request};
use crate::pool::transport::{HttpRequest, MemoryTransport, Scripted};
use crate::{Config, Forebay};

pub(super) fn in_virtual_time<T>(test: impl Future<Output = T>) -> T {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    actix_rt::System::with_tokio_rt(runtime).block_on(test)
}

pub(super) fn chat(text: &str) -> Request {
    Request::chat("m", json!([{"role": "user", "content": text}]))
}

pub(super) type Times = Arc<Mutex<Vec<Instant>>>;

/// A system whose upstream echoes bodies after a fifth of a second, and the times of its attempts.
pub(super) async fn system(limits: &str) -> (Forebay, Times) {
    let text = format!(
        "[pool]\nthreads = 0\n[upstreams.up]\nbase_url = \"http://u.test/v1\"\nmodels = [\"m\"]\nlimits = {{ {limits} }}"
    );
    let times = Times::default();
    let log = Arc::clone(&times);
    let open = move || {
        let log = Arc::clone(&log);
        MemoryTransport::new(move |request: HttpRequest| {
            log.lock().unwrap().push(clock::now());
            async move {
                clock::until(clock::now() + Duration::from_millis(200)).await;
                let body = json!({"said": String::from_utf8_lossy(&request.body)});
                Ok(Scripted::json(200, body.to_string()))
            }
        })
    };
    let forebay = Forebay::builder(Config::from_toml(&text).unwrap()).transport(open).seed(1).start().await.unwrap();
    (forebay, times)
}

fn is_own_answer(n: usize, outcome: &Outcome) -> bool {
    let Ok(answer) = outcome else { return false };
    let AnswerBody::Whole(body) = &answer.body else { return false };
    String::from_utf8_lossy(body).contains(&format!("prompt {n}."))
}

#[test]
fn a_crash_at_any_message_gives_every_caller_one_end_and_the_next_call_is_served() {
    for message in 1..=200 {
        in_virtual_time(async move {
            let (forebay, _) = system("max_concurrent = 8").await;
            let first = forebay.dispatcher();
            first.do_send(CrashIn(message));
            let crashed_at = Rc::new(RefCell::new(None));
            let calls = (0..60).map(|n| {
                let (forebay, crashed_at) = (forebay.clone(), Rc::clone(&crashed_at));
                async move {
                    let outcome = forebay.call(chat(&format!("prompt {n}."))).await;
                    if outcome.as_ref().is_err_and(|error| error.kind() == ErrorKind::Restarting) {
                        crashed_at.borrow_mut().get_or_insert(clock::now());
                        let since = clock::now() - crashed_at.borrow().unwrap();
                        assert!(since < Duration::from_secs(1), "call {n} was told {since:?} after the first");
                    }
                    (n, outcome)
                }
            });
            let outcomes = join_all(calls).await;
            for (n, outcome) in &outcomes {
                let restarting = outcome.as_ref().is_err_and(|error| error.kind() == ErrorKind::Restarting);
                assert!(restarting || is_own_answer(*n, outcome), "message {message}, call {n}: {outcome:?}");
            }
            while first.connected() {
                // The crash is still to come.
                let _ = forebay.call(chat("bait")).await;
            }
            let next = forebay.call(chat("prompt 777.")).await;
            assert!(is_own_answer(777, &next), "message {message}: {next:?}");
        });
    }
}

#[test]
fn a_fresh_dispatcher_remembers_what_the_minute_has_seen() {
    in_virtual_time(async {
        let (forebay, times) = system("requests_per_minute = 60").await;
        for n in 0..30 {
            forebay.call(chat(&format!("prompt {n}."))).await.unwrap();
        }
        forebay.dispatcher().do_send(CrashIn(1));
        forebay.call(chat("the last straw")).await.unwrap_err();
        for n in 0..60 {
            forebay.call(chat(&format!("prompt {n}."))).await.unwrap();
        }
        let times = times.lock().unwrap();
        for start in times.iter() {
            let within = times.iter().filter(|at| *at >= start && **at - *start < Duration::from_secs(60)).count();
            assert!(within <= 60, "{within}");
        }
    });
}

#[test]
fn three_crashes_within_a_minute_are_the_end_and_two_are_not() {
    in_virtual_time(async {
        let (forebay, _) = system("max_concurrent = 8").await;
        let crash = async || {
            forebay.dispatcher().do_send(CrashIn(1));
            let error = forebay.call(chat("x")).await.unwrap_err();
            assert_eq!((error.code(), error.retry_after()), ("restarting", Some(Duration::from_secs(1))));
        };
        crash().await;
        crash().await;
        tokio::time::advance(Duration::from_secs(61)).await;
        crash().await;
        forebay.call(chat("x")).await.expect("two within a minute are borne");
        crash().await;
        forebay.call(chat("x")).await.expect("two within a minute are borne");
        crash().await;
        forebay.failed().await;
        assert_eq!(forebay.call(chat("x")).await.unwrap_err().code(), "restarting");
        assert!(forebay.health().await.is_none());
    });
}

#[test]
fn a_call_after_the_shutdown_is_told_so() {
    in_virtual_time(async {
        let (forebay, _) = system("max_concurrent = 8").await;
        forebay.shutdown(Duration::from_secs(1)).await;
        assert_eq!(forebay.call(chat("x")).await.unwrap_err().code(), "draining");
    });
}
