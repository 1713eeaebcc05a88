//! Request actors that crash: nothing is lost, nothing is answered twice, neighbours notice nothing.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use forebay::AnswerBody;
use forebay::clock;
use forebay::transport::Scripted;
use futures_util::StreamExt;
use futures_util::future::join_all;
use support::{Scene, Script, chat, config, gives, good, in_virtual_time, s, streamed};

/// A scene that crashes the request actor before it has sent anything.
fn crash() -> Scene {
    Box::new(|_| panic!("a planted crash before the send"))
}

/// A scene that crashes it while the answer is waited for.
fn crash_while_waiting() -> Scene {
    Box::new(|_| {
        Box::pin(async {
            clock::until(clock::now() + s(0.2)).await;
            panic!("a planted crash while waiting")
        })
    })
}

/// A scene that crashes it while it reads the body behind `first`.
fn crash_in_body(content_type: &'static str, first: &'static str) -> Scene {
    Box::new(move |_| {
        Box::pin(async move {
            let mut response = match content_type {
                "text/event-stream" => Scripted::events(vec![]),
                _ => Scripted::json(200, ""),
            };
            let first = futures_util::stream::iter([Ok(Bytes::from_static(first.as_bytes()))]);
            let crash = futures_util::stream::once(async {
                clock::until(clock::now() + s(0.1)).await;
                panic!("a planted crash in the body")
            });
            response.body = Box::pin(first.chain(crash));
            Ok(response)
        })
    })
}

#[test]
fn a_crash_anywhere_in_an_attempt_is_tried_again() {
    type Kind = (&'static str, fn() -> Scene);
    let kinds: [Kind; 3] = [
        ("before the send", crash),
        ("while waiting", crash_while_waiting),
        ("in the body", || crash_in_body("application/json", "{\"id\":")),
    ];
    for (name, scene) in kinds {
        in_virtual_time(async move {
            let script = Script::new(vec![scene()], || gives(|| Ok(Scripted::json(200, good("ok")))));
            let forebay = script.start(config("")).await;
            let answer = forebay.call(chat("hello")).await.unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(answer.meta.attempts, 2, "{name}");
        });
    }
}

#[test]
fn a_call_whose_every_attempt_crashes_ends_as_worker_crashed() {
    in_virtual_time(async {
        let script = Script::new(vec![], crash);
        let forebay = script.start(config("")).await;
        let error = forebay.call(chat("hello")).await.expect_err("every attempt crashes");
        assert_eq!((error.status(), error.code(), error.meta().attempts), (500, "worker_crashed", 5));
        let fine = Script::new(vec![], || gives(|| Ok(Scripted::json(200, good("ok")))));
        fine.start(config("")).await.call(chat("another")).await.expect("another system is not touched");
    });
}

#[test]
fn a_stream_whose_actor_crashes_midway_ends_with_an_error_and_never_as_if_complete() {
    in_virtual_time(async {
        let word = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hi\"}}]}\n\n";
        let script = Script::new(vec![crash_in_body("text/event-stream", word)], || {
            gives(|| Ok(Scripted::json(200, good("ok"))))
        });
        let forebay = script.start(config("limits = { max_concurrent = 1 }")).await;
        let mut events = forebay.stream(streamed("hello")).await.expect("it opens");
        let first = events.next().await.expect("an event").expect("the word");
        assert!(first.data.contains("hi"));
        let end = events.next().await.expect("not a clean end").expect_err("an error");
        assert_eq!(end.code(), "worker_crashed");
        assert!(events.next().await.is_none());
        forebay.call(chat("next")).await.expect("the slot and its permit are back");
    });
}

#[test]
fn a_storm_of_crashes_loses_nothing_mixes_nothing_up_and_leaves_every_slot() {
    in_virtual_time(async {
        let count = Arc::new(AtomicUsize::new(0));
        let turns = Arc::clone(&count);
        let script = Script::new(vec![], move || {
            let turn = turns.fetch_add(1, Ordering::Relaxed);
            match turn % 20 {
                3 => crash(),
                11 => crash_while_waiting(),
                17 => crash_in_body("application/json", "{\"id\":"),
                _ => Box::new(|request| {
                    Box::pin(async move {
                        clock::until(clock::now() + s(0.05)).await;
                        Ok(Scripted::json(200, good(&String::from_utf8_lossy(&request.body))))
                    })
                }),
            }
        });
        let forebay = script.start(config("limits = { max_concurrent = 16 }\nretry = { max_attempts = 30 }")).await;
        let outcomes = join_all((0..2_000).map(|n| forebay.call(chat(&format!("prompt {n}"))))).await;
        for (n, outcome) in outcomes.into_iter().enumerate() {
            let answer = outcome.unwrap_or_else(|error| panic!("call {n}: {error}"));
            let AnswerBody::Whole(body) = answer.body else { panic!("a whole answer") };
            assert!(String::from_utf8_lossy(&body).contains(&format!("prompt {n}\\")), "call {n} has its own answer");
        }
        assert!(count.load(Ordering::Relaxed) > 2_250, "the storm has happened");
        // All sixteen places can be used at once again.
        let start = clock::now();
        let again = join_all((0..16).map(|n| forebay.call(chat(&n.to_string())))).await;
        assert!(again.iter().all(Result::is_ok));
        assert!(clock::now() - start < s(120.0));
    });
}
