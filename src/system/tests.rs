//! The dispatcher crashes: every caller has one end, a fresh dispatcher serves the next call, no cap is forgotten. Below:
//! floods of the mailbox, a storm of crashing request actors, chats in another protocol, and every fault of a wire.

mod floods;
mod gemini;
mod jobs;
mod storm;
mod translated;
mod wires;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use serde_json::json;

use crate::clock::{self, Instant, in_virtual_time};
use crate::dispatcher::CrashIn;
use crate::messages::{AnswerBody, CallId, Cancel, Request};
use crate::pool::transport::{HttpRequest, HttpResponse, MemoryTransport, Scripted};
use crate::{Config, Forebay};

pub(super) fn chat(text: &str) -> Request {
    Request::chat("m", json!([{"role": "user", "content": text}]))
}

pub(super) fn streamed(text: &str) -> Request {
    chat(text).into_stream().unwrap()
}

pub(super) type Times = Arc<Mutex<Vec<Instant>>>;

/// Echoes a prompt within a tenth of a second, where a stream is asked for in two pieces. `held` goes with the answer.
async fn echo<T: 'static>(request: &HttpRequest, prompt: &str, held: T) -> HttpResponse {
    let pause = || clock::until(clock::now() + Duration::from_millis(20));
    if !String::from_utf8_lossy(&request.body).contains("\"stream\":true") {
        clock::until(clock::now() + Duration::from_millis(80)).await;
        let body = json!({"choices": [{"message": {"content": prompt}, "finish_reason": "stop"}]});
        return Scripted::json(200, body.to_string());
    }
    let piece = |text: &str| format!("data: {}\n\n", json!({"choices": [{"index": 0, "delta": {"content": text}}]}));
    let pieces = [piece("first "), piece(prompt), "data: [DONE]\n\n".to_owned()].into_iter();
    let mut response = Scripted::events(vec![]);
    response.body = Box::pin(futures_util::stream::unfold((pieces, held), move |(mut pieces, held)| async move {
        let next = pieces.next()?;
        pause().await;
        Some((Ok(Bytes::from(next)), (pieces, held)))
    }));
    response
}

/// What the caller of `request` has said.
fn prompt_of(request: &HttpRequest) -> String {
    let body: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
    body["messages"][0]["content"].as_str().unwrap().to_owned()
}

/// One upstream with these `limits`, and what else is in the file.
fn config(limits: &str, more: &str) -> Config {
    let upstream = "[upstreams.up]\nbase_url = \"http://u.test/v1\"\nmodels = [\"m\"]";
    Config::from_toml(&format!("[pool]\nthreads = 0\n{upstream}\nlimits = {{ {limits} }}\n{more}")).unwrap()
}

/// A system whose upstream echoes prompts, and the times of its attempts.
pub(super) async fn system(limits: &str) -> (Forebay, Times) {
    let times = Times::default();
    let log = Arc::clone(&times);
    let open = move || {
        let log = Arc::clone(&log);
        MemoryTransport::new(move |request: HttpRequest| {
            log.lock().unwrap().push(clock::now());
            async move {
                clock::until(clock::now() + Duration::from_millis(100)).await;
                Ok(echo(&request, &prompt_of(&request), ()).await)
            }
        })
    };
    let forebay = Forebay::builder(config(limits, "")).transport(open).seed(1).start().await.unwrap();
    (forebay, times)
}

/// What one caller heard: all of its answer, or the code of its error.
async fn hear(forebay: &Forebay, request: Request) -> Result<String, &'static str> {
    if !request.is_stream() {
        let answer = forebay.call(request).await.map_err(|error| error.code())?;
        let AnswerBody::Whole(body) = answer.body else { panic!("a whole answer") };
        return Ok(String::from_utf8_lossy(&body).into_owned());
    }
    let mut events = forebay.stream(request).await.map_err(|error| error.code())?;
    let mut heard = String::new();
    while let Some(event) = events.next().await {
        heard.push_str(&event.map_err(|error| error.code())?.data);
    }
    Ok(heard)
}

fn is_own_answer(n: usize, heard: &Result<String, &'static str>) -> bool {
    heard.as_ref().is_ok_and(|heard| heard.contains(&format!("prompt {n}.")))
}

#[cfg(feature = "gateway")]
#[test]
fn calls_that_wait_can_be_ended_while_those_at_an_upstream_go_on() {
    in_virtual_time(async {
        let (forebay, times) = system("max_concurrent = 2").await;
        let calls = join_all((0..5).map(|n| hear(&forebay, chat(&format!("prompt {n}.")))));
        let told = async {
            clock::until(clock::now() + Duration::from_millis(50)).await;
            forebay.end_waiting();
        };
        let (heard, ()) = tokio::join!(calls, told);
        let answered = heard.iter().enumerate().filter(|(n, heard)| is_own_answer(*n, heard)).count();
        let ended = heard.iter().filter(|heard| **heard == Err("draining")).count();
        assert_eq!((answered, ended, times.lock().unwrap().len()), (2, 3, 2));
        assert_eq!(hear(&forebay, chat("late")).await, Err("draining"));
    });
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
                    let prompt = format!("prompt {n}.");
                    let request = if n % 2 == 0 { chat(&prompt) } else { streamed(&prompt) };
                    let heard = hear(&forebay, request).await;
                    if heard.is_err() {
                        crashed_at.borrow_mut().get_or_insert(clock::now());
                        let since = clock::now() - crashed_at.borrow().unwrap();
                        assert!(since < Duration::from_secs(1), "call {n} was told {since:?} after the first");
                    }
                    (n, heard)
                }
            });
            let heard = join_all(calls).await;
            for (n, heard) in &heard {
                let told = match heard {
                    Err("restarting") => true,
                    // A stream that was open lost its request actor with the rest.
                    Err("worker_crashed") => n % 2 == 1,
                    _ => is_own_answer(*n, heard),
                };
                assert!(told, "message {message}, call {n}: {heard:?}");
            }
            while first.connected() {
                // The crash is still to come.
                let _ = hear(&forebay, chat("bait")).await;
            }
            let next = hear(&forebay, chat("prompt 777.")).await;
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
        assert!(most_within_a_minute(&times) <= 60);
    });
}

fn most_within_a_minute(times: &Times) -> usize {
    let times = times.lock().unwrap();
    let within =
        |start: Instant| times.iter().filter(|at| **at >= start && **at - start < Duration::from_secs(60)).count();
    times.iter().map(|start| within(*start)).max().unwrap_or_default()
}

#[test]
fn an_account_that_is_taken_away_in_the_midst_of_a_crash_has_forgotten_nothing_when_it_comes_back_with_a_cap() {
    in_virtual_time(async {
        let (forebay, times) = system("").await;
        for n in 0..30 {
            forebay.call(chat(&format!("prompt {n}."))).await.unwrap();
        }
        let other = "[pool]\nthreads = 0\n[upstreams.other]\nbase_url = \"http://o.test/v1\"\nmodels = [\"o\"]";
        forebay.reconfigure(Config::from_toml(other).unwrap());
        forebay.dispatcher().do_send(CrashIn(1));
        forebay.call(chat("the last straw")).await.unwrap_err();
        forebay.reconfigure(config("requests_per_minute = 40", ""));
        for n in 0..60 {
            forebay.call(chat(&format!("prompt {n}."))).await.unwrap();
        }
        assert_eq!(most_within_a_minute(&times), 40);
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
fn slots_of_no_use_are_given_back_and_come_again_and_no_call_is_lost() {
    in_virtual_time(async {
        let (forebay, _) = system("max_concurrent = 100").await;
        let slots = async || forebay.health().await.unwrap().slots;
        let crowd = async |size: usize| {
            let start = clock::now();
            let calls = (0..size).map(|n| hear(&forebay, chat(&format!("prompt {n}."))));
            let heard = join_all(calls).await;
            assert!(heard.iter().enumerate().all(|(n, heard)| is_own_answer(n, heard)));
            assert_eq!(clock::now() - start, Duration::from_millis(180), "all at once");
        };
        // So many at once are not there from the start: one more for each that is answered.
        for _ in 0..2 {
            join_all((0..100).map(|n| hear(&forebay, chat(&format!("prompt {n}."))))).await;
        }
        for _ in 0..3 {
            crowd(100).await;
            assert!(slots().await >= 100);
            // A smaller crowd comes all the while, also when the others' slots are given back.
            for _ in 0..40 {
                crowd(10).await;
                clock::until(clock::now() + Duration::from_millis(3_217)).await;
            }
            assert_eq!(slots().await, 10);
        }
    });
}

#[test]
fn a_dispatcher_that_follows_a_crash_in_the_midst_of_a_shutdown_goes_on_draining() {
    in_virtual_time(async {
        let (forebay, _) = system("max_concurrent = 8").await;
        let mut shutdown = Box::pin(forebay.shutdown(Duration::from_secs(60)));
        let call = forebay.call(chat("x"));
        assert!(futures_util::FutureExt::now_or_never(&mut shutdown).is_none());
        drop((shutdown, call));
        forebay.dispatcher().do_send(CrashIn(1));
        forebay.call(chat("the last straw")).await.unwrap_err();
        assert_eq!(forebay.call(chat("x")).await.unwrap_err().code(), "draining");
        assert!(forebay.health().await.unwrap().is_draining);
        forebay.shutdown(Duration::from_secs(60)).await;
    });
}

#[test]
fn a_reload_that_a_crash_of_the_dispatcher_swallows_is_in_force_all_the_same() {
    in_virtual_time(async {
        let (forebay, _) = system("max_concurrent = 8").await;
        let dispatcher = forebay.dispatcher();
        dispatcher.do_send(CrashIn(1));
        dispatcher.do_send(Cancel(CallId::new())); // it crashes here
        forebay.reconfigure(config("max_concurrent = 8", "[queue]\nmax_bytes = \"1KiB\""));
        while dispatcher.connected() {
            tokio::task::yield_now().await;
        }
        let error = forebay.call(chat(&"x".repeat(2_000))).await.unwrap_err();
        assert_eq!(error.code(), "overloaded");
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
