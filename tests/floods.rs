//! Floods: more calls than there is room for are refused by name and number, those inside are all answered, and what a
//! flood took comes back. In virtual time.

mod support;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use forebay::clock;
use forebay::transport::{HttpRequest, Scripted};
use forebay::{Config, Error, Forebay, Outcome, Request};
use serde_json::json;
use support::{Scene, Script, gives, good, in_virtual_time, s};
use tokio::task::{JoinHandle, spawn_local};

/// A configuration of the upstreams `a`, which serves `m`, and `b`, which serves `n`; `both` tries one after the other.
fn two_upstreams(queue: &str, a: &str) -> Config {
    let text = format!(
        r#"
        [pool]
        threads = 0
        [queue]
        {queue}
        [upstreams.a]
        base_url = "http://a.test/v1"
        models = ["m"]
        limits = {{ {a} }}
        [upstreams.b]
        base_url = "http://b.test/v1"
        models = ["n"]
        [routes.both]
        targets = ["a/m", "b/n"]
        "#
    );
    Config::from_toml(&text).unwrap_or_else(|problems| panic!("{problems}"))
}

fn ask(model: &str, text: &str) -> Request {
    Request::chat(model, [json!({"role": "user", "content": text})])
}

/// Makes the call beside the test.
fn spawn(forebay: &Forebay, request: Request) -> JoinHandle<Outcome> {
    let forebay = forebay.clone();
    spawn_local(async move { forebay.call(request).await })
}

async fn answered(calls: Vec<JoinHandle<Outcome>>) {
    for call in calls {
        call.await.expect("no panic").expect("a call that was let in is answered");
    }
}

/// An upstream that takes `latency` for each answer.
fn takes(latency: Duration) -> impl Fn() -> Scene + Send + Sync + 'static {
    move || {
        Box::new(move |_| {
            Box::pin(async move {
                clock::until(clock::now() + latency).await;
                Ok(Scripted::json(200, good("ok")))
            })
        })
    }
}

/// An upstream that never answers at `a`, and at once everywhere else.
fn silent_a() -> Script {
    Script::new(vec![], || {
        Box::new(|request: HttpRequest| {
            Box::pin(async move {
                if request.url.contains("a.test") {
                    std::future::pending::<()>().await;
                }
                Ok(Scripted::json(200, good("ok")))
            })
        })
    })
}

/// Turns within which a flood of these tests has arrived.
const TURNS: usize = 10_000;

/// Waits until `count` calls wait and `in_flight` are under way.
async fn until_there_are(forebay: &Forebay, count: usize, in_flight: usize) {
    let mut seen = (0, 0);
    for _ in 0..TURNS {
        let health = forebay.health().await.expect("the dispatcher answers");
        seen = (health.waiting, health.in_flight);
        if seen == (count, in_flight) {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("{seen:?} calls wait and are in flight, not {:?}", (count, in_flight));
}

/// What a full room says: a 503 that names a time, the key and the numbers.
fn is_full(error: &Error, key: &str, numbers: &[&str]) {
    assert_eq!((error.status(), error.code(), error.retry_after()), (503, "overloaded", Some(s(1.0))));
    let message = error.message();
    assert!(message.contains(&format!("[queue] {key}")), "{message}");
    assert!(numbers.iter().all(|number| message.contains(number)), "{message}");
}

#[test]
fn the_call_behind_a_full_waiting_room_is_refused_at_once_and_all_inside_are_answered() {
    in_virtual_time(async {
        let script = Script::new(vec![gives(|| Ok(Scripted::json(200, good("starts the pool"))))], takes(s(1.0)));
        let forebay = script.start(two_upstreams("capacity = 100", "max_concurrent = 1")).await;
        forebay.call(ask("m", "starts the pool")).await.expect("answered");
        let start = clock::now();
        let running = spawn(&forebay, ask("m", "runs"));
        until_there_are(&forebay, 0, 1).await;
        let mut inside: Vec<_> = (0..100).map(|n| spawn(&forebay, ask("m", &n.to_string()))).collect();
        until_there_are(&forebay, 100, 1).await;

        let error = forebay.call(ask("m", "one too many")).await.expect_err("a hundred wait");
        is_full(&error, "capacity", &["100 ", "for a"]);
        assert_eq!(clock::now(), start, "at once");
        forebay.call(ask("n", "elsewhere")).await.expect("another upstream's room is not touched");
        assert_eq!(error.meta().attempts, 0);

        running.await.expect("no panic").expect("answered");
        inside.push(spawn(&forebay, ask("m", "takes the room that has come back")));
        until_there_are(&forebay, 100, 1).await;
        is_full(&forebay.call(ask("m", "one too many")).await.expect_err("full again"), "capacity", &["100 "]);
        answered(inside).await;
        assert_eq!(clock::now() - start, s(102.0), "one a second, and not one of them twice");
        until_there_are(&forebay, 0, 0).await;
    });
}

#[test]
fn a_call_that_finds_the_room_of_its_first_target_full_goes_to_the_next() {
    in_virtual_time(async {
        let script = silent_a();
        let forebay = script.start(two_upstreams("capacity = 2", "max_concurrent = 1")).await;
        let inside = spawn(&forebay, ask("m", "runs"));
        until_there_are(&forebay, 0, 1).await;
        let waiting: Vec<_> = (0..2).map(|n| spawn(&forebay, ask("m", &n.to_string()))).collect();
        until_there_are(&forebay, 2, 1).await;
        let answer = forebay.call(ask("both", "x")).await.expect("the next target has room");
        assert_eq!(answer.meta.upstream.as_deref(), Some("b"));
        assert_eq!(answer.meta.attempts, 1);
        drop((inside, waiting));
    });
}

#[test]
fn the_call_whose_body_is_a_byte_too_long_is_refused_at_once_and_room_that_comes_back_is_used_at_once() {
    in_virtual_time(async {
        let length = ask("m", &"x".repeat(1_000)).body().bytes().len();
        let room = 10 * length;
        let script = Script::new(vec![], takes(s(1.0)));
        let forebay = script.start(two_upstreams(&format!("max_bytes = {room}"), "max_concurrent = 1")).await;
        let start = clock::now();
        let mut inside: Vec<_> = (0..10).map(|_| spawn(&forebay, ask("m", &"x".repeat(1_000)))).collect();
        until_there_are(&forebay, 9, 1).await;
        let numbers = [room.to_string()];
        let full = |error: Error| is_full(&error, "max_bytes", &[&numbers[0]]);
        full(forebay.call(ask("m", "small")).await.expect_err("not a byte is left"));
        full(forebay.call(ask("n", "small")).await.expect_err("bodies of all upstreams share the room"));
        let by_message = forebay.dispatcher().send(forebay::Call::new(ask("m", "small"))).await;
        full(by_message.expect("the dispatcher lives").expect_err("by message, too"));
        assert_eq!(clock::now(), start, "at once");

        inside.remove(0).await.expect("no panic").expect("answered");
        let too_long = forebay.call(ask("m", &"x".repeat(1_001))).await.expect_err("a byte too long");
        full(too_long);
        inside.push(spawn(&forebay, ask("m", &"x".repeat(1_000))));
        answered(inside).await;
        assert_eq!(clock::now() - start, s(11.0), "it was let in while the others waited");
        forebay.call(ask("m", &"x".repeat(9_000))).await.expect("all of the room has come back");
    });
}

#[test]
fn ten_thousand_waiting_calls_are_all_answered_in_the_order_they_came() {
    in_virtual_time(async {
        let script = Script::new(vec![], takes(s(0.1)));
        let forebay = script.start(two_upstreams("default_timeout = \"1h\"", "max_concurrent = 16")).await;
        let calls: Vec<_> = (0..10_000).map(|n| spawn(&forebay, ask("m", &format!("<{n}>")))).collect();
        until_there_are(&forebay, 9_984, 16).await;
        answered(calls).await;
        let said: Vec<usize> = script.requests().iter().map(|request| number(&request.body)).collect();
        assert_eq!(said, (0..10_000).collect::<Vec<_>>(), "each once, in order");
        until_there_are(&forebay, 0, 0).await;
    });
}

/// The number in angle brackets in a body.
fn number(body: &[u8]) -> usize {
    let text = String::from_utf8_lossy(body);
    let number = text.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map(|(number, _)| number);
    number.and_then(|number| number.parse().ok()).expect("a number in the prompt")
}

#[test]
fn ten_thousand_callers_that_go_at_once_leave_nothing_behind() {
    in_virtual_time(async {
        let script = silent_a();
        let forebay = script.start(two_upstreams("max_bytes = \"11MB\"", "max_concurrent = 16")).await;
        let body = "x".repeat(1_000);
        let calls: Vec<_> = (0..10_000).map(|_| spawn(&forebay, ask("m", &body))).collect();
        until_there_are(&forebay, 9_984, 16).await;
        let full = forebay.call(ask("m", &"x".repeat(1_000_000))).await.expect_err("over 10 of 11 MB are held");
        is_full(&full, "max_bytes", &["11000000"]);
        calls.iter().for_each(JoinHandle::abort);
        until_there_are(&forebay, 0, 0).await;
        forebay.call(ask("n", &"x".repeat(10_900_000))).await.expect("every byte has come back");
    });
}

#[test]
fn five_thousand_calls_that_wait_for_a_silent_upstream_do_not_touch_another() {
    in_virtual_time(async {
        let script = silent_a();
        let forebay = script.start(two_upstreams("capacity = 5000", "max_concurrent = 16")).await;
        forebay.call(ask("n", "starts the pool")).await.expect("answered");
        for (count, waiting) in [(16, 0), (5_000, 5_000)] {
            for n in 0..count {
                spawn(&forebay, ask("m", &n.to_string()));
            }
            until_there_are(&forebay, waiting, 16).await;
        }
        let (before, start) = (script.times().len(), clock::now());
        let mut calls = Vec::with_capacity(10_000);
        for n in 0..10_000 {
            clock::until(start + Duration::from_millis(n)).await;
            calls.push(spawn(&forebay, ask("n", "x")));
        }
        for call in calls {
            let answer = call.await.expect("no panic").expect("none is refused");
            assert!(answer.meta.queued.is_zero(), "none waits: {:?}", answer.meta.queued);
        }
        let sent = script.times().split_off(before).into_iter().map(|at| at - start);
        assert!(sent.eq((0..10_000).map(Duration::from_millis)), "each goes the moment it comes");
        until_there_are(&forebay, 5_000, 16).await;
    });
}

#[test]
fn more_calls_than_all_upstreams_can_take_in_do_not_even_reach_the_dispatcher() {
    in_virtual_time(async {
        // The dispatcher has no turn while the test has its own.
        let config = two_upstreams("capacity = 100", "max_concurrent = 20");
        let forebay = Script::new(vec![], takes(s(1.0))).start(config).await;
        let most = 100 + 20 + 100 + 512;
        let ended = Rc::new(Cell::new(0));
        let calls: Vec<_> = (0..most + 50)
            .map(|_| {
                let mut call = Box::pin({
                    let (forebay, ended) = (forebay.clone(), Rc::clone(&ended));
                    async move {
                        let outcome = forebay.call(ask("n", "x")).await;
                        ended.set(ended.get() + 1);
                        outcome
                    }
                });
                let now = futures_util::FutureExt::now_or_never(call.as_mut());
                (now, call)
            })
            .collect();
        assert_eq!(ended.get(), 50, "refused before the dispatcher has had a turn");
        let mut let_in = 0;
        for (n, (now, call)) in calls.into_iter().enumerate() {
            match now {
                Some(outcome) => {
                    assert!(n >= most);
                    is_full(&outcome.expect_err("refused"), "capacity", &[&most.to_string()]);
                }
                None => let_in += usize::from(call.await.is_ok()),
            }
        }
        // A cold pool takes in what may wait; which of the rest it refuses is for the waiting room to say.
        assert!(let_in >= 100, "{let_in}");
        for _ in 0..20 {
            answered((0..100).map(|_| spawn(&forebay, ask("n", "x"))).collect()).await;
        }
    });
}
