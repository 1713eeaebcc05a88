//! Request actors that crash: nothing is lost, nothing is answered twice, neighbours notice nothing. The storm of a
//! thousand crashes, which needs to plant them inside, is in `src/system/tests/storm.rs`.

mod support;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use forebay::transport::{HttpRequest, MemoryTransport, Scripted};
use forebay::{AnswerBody, Config, Forebay, clock};
use futures_util::StreamExt;
use futures_util::future::join_all;
use support::{Scene, Script, chat, config, gives, good, in_virtual_time, s, streamed};
use tokio::sync::mpsc::error::TryRecvError;

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

/// What happens, once, to the first attempt that comes to a thread other than the first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// Something on it ends its Arbiter.
    Ends,
    /// Something on it blocks it.
    Blocks,
}

/// Two threads, one of which meets its `fate` while both are full of calls: all are answered, by threads that live.
fn a_thread_meets(fate: Fate) {
    let first = |name: &str| name == "forebay-0";
    // Every attempt waits until the fate has come about, so that it finds the thread full. Slots are shared out among the
    // threads by turns: some of forty are on the other.
    let (met, wait) = tokio::sync::watch::channel(false);
    let (release, blocked) = std::sync::mpsc::channel::<()>();
    let (met, blocked) = (Arc::new(met), Arc::new(Mutex::new(Some(blocked))));
    let names = Arc::new(Mutex::new(BTreeMap::<String, usize>::new()));
    let log = Arc::clone(&names);
    let open = move || {
        let (met, wait, blocked, log) = (Arc::clone(&met), wait.clone(), Arc::clone(&blocked), Arc::clone(&log));
        MemoryTransport::new(move |request: HttpRequest| {
            let name = std::thread::current().name().unwrap_or_default().to_owned();
            *log.lock().unwrap().entry(name.clone()).or_default() += 1;
            let (met, mut wait, blocked) = (Arc::clone(&met), wait.clone(), Arc::clone(&blocked));
            async move {
                let doomed = if first(&name) { None } else { blocked.lock().unwrap().take() };
                if let Some(blocked) = doomed {
                    match fate {
                        Fate::Ends => actix_rt::Arbiter::current().stop(),
                        // Until the test is over, as far as anyone can tell.
                        Fate::Blocks => {
                            met.send_replace(true);
                            blocked.recv().is_ok()
                        }
                    };
                    met.send_replace(true);
                    std::future::pending::<()>().await;
                }
                wait.wait_for(|met| *met).await.expect("the transport holds the other end");
                Ok(Scripted::json(200, good(&String::from_utf8_lossy(&request.body))))
            }
        })
    };
    let text = "[pool]\nthreads = 2\nthread_timeout = \"600ms\"\n[retry]\nbase_delay = \"1ms\"\n\
                [upstreams.up]\nbase_url = \"http://upstream.test/v1\"\nmodels = [\"m\"]";
    let test = async {
        let forebay = Forebay::builder(Config::from_toml(text).unwrap()).transport(open).start().await.unwrap();
        let is_own = |n: usize, outcome: &forebay::Outcome| {
            let Ok(answer) = outcome else { return false };
            let AnswerBody::Whole(body) = &answer.body else { return false };
            String::from_utf8_lossy(body).contains(&format!("prompt {n}\\"))
        };
        let outcomes = join_all((0..40).map(|n| forebay.call(chat(&format!("prompt {n}"))))).await;
        for (n, outcome) in outcomes.iter().enumerate() {
            assert!(is_own(n, outcome), "{fate:?}, call {n}: {outcome:?}");
        }
        let again = outcomes.iter().flatten().filter(|answer| answer.meta.attempts > 1).count();
        assert!((1..=39).contains(&again), "{fate:?}: {again} were on the thread");
        // Both threads are there again.
        names.lock().unwrap().clear();
        while names.lock().unwrap().len() < 2 {
            let outcomes = join_all((0..8).map(|n| forebay.call(chat(&format!("prompt {n}"))))).await;
            assert!(outcomes.iter().enumerate().all(|(n, outcome)| is_own(n, outcome)));
        }
        // What the blocked thread has to say when it is free again is nobody's any more.
        drop(release);
        let outcomes = join_all((0..40).map(|n| forebay.call(chat(&format!("prompt {n}"))))).await;
        assert!(outcomes.iter().enumerate().all(|(n, outcome)| is_own(n, outcome)));
        let health = forebay.health().await.expect("it answers");
        assert_eq!((health.in_flight, health.waiting), (0, 0));
        forebay.shutdown(s(5.0)).await;
    };
    actix_rt::System::new().block_on(async { tokio::time::timeout(s(60.0), test).await.expect("no call is lost") });
}

#[test]
fn a_thread_that_ends_is_replaced_and_its_calls_are_tried_again() {
    a_thread_meets(Fate::Ends);
}

#[test]
fn a_thread_that_is_blocked_is_replaced_and_its_calls_are_tried_again() {
    a_thread_meets(Fate::Blocks);
}

#[test]
fn a_stream_whose_thread_is_blocked_ends_with_an_error_when_the_thread_is_replaced() {
    const WORD: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hi\"}}]}\n\n";
    let (go_on, wait) = tokio::sync::watch::channel(false);
    let (release, blocked) = std::sync::mpsc::channel::<()>();
    let blocked = Arc::new(Mutex::new(blocked));
    let open = move || {
        let (wait, blocked) = (wait.clone(), Arc::clone(&blocked));
        let first = std::thread::current().name() == Some("forebay-0");
        MemoryTransport::new(move |_| {
            let (mut wait, blocked) = (wait.clone(), Arc::clone(&blocked));
            async move {
                let mut response = Scripted::events(vec![]);
                let rest = futures_util::stream::once(async move {
                    wait.wait_for(|open| *open).await.expect("the test holds the other end");
                    // Until the test is over, as far as anyone can tell.
                    let _ = !first && blocked.lock().unwrap().recv().is_ok();
                    Ok(Bytes::from_static(b"data: [DONE]\n\n"))
                });
                response.body =
                    Box::pin(futures_util::stream::iter([Ok(Bytes::from_static(WORD.as_bytes()))]).chain(rest));
                Ok(response)
            }
        })
    };
    let text = "[pool]\nthreads = 2\nthread_timeout = \"300ms\"\n\
                [upstreams.up]\nbase_url = \"http://upstream.test/v1\"\nmodels = [\"m\"]";
    let test = async {
        let forebay = Forebay::builder(Config::from_toml(text).unwrap()).transport(open).start().await.unwrap();
        let streams = join_all((0..8).map(|_| forebay.stream(streamed("hello")))).await;
        go_on.send_replace(true);
        let ends = join_all(streams.into_iter().map(|stream| async {
            let mut events = stream.expect("it has opened");
            assert!(events.next().await.expect("an event").expect("the word").data.contains("hi"));
            while let Some(event) = events.next().await {
                match event {
                    Ok(event) => assert_eq!(event.data, "[DONE]"),
                    Err(error) => return Some(error.code()),
                }
            }
            None
        }));
        let ends = ends.await;
        assert!(ends.contains(&None) && ends.contains(&Some("worker_crashed")), "{ends:?}");
        assert!(ends.iter().all(|end| end.is_none_or(|code| code == "worker_crashed")), "{ends:?}");
        drop(release);
        forebay.shutdown(s(5.0)).await;
    };
    actix_rt::System::new().block_on(async { tokio::time::timeout(s(20.0), test).await.expect("no stream hangs") });
}

thread_local! {
    /// Dropped with its thread.
    static WITH_THREAD: Cell<Option<tokio::sync::mpsc::UnboundedSender<()>>> = const { Cell::new(None) };
}

#[test]
fn a_thread_that_took_the_place_of_another_ends_with_the_pool() {
    let (alive, mut ended) = tokio::sync::mpsc::unbounded_channel();
    let (alive, was_there) = (Mutex::new(Some(alive)), AtomicBool::new(false));
    let open = move || {
        let first = std::thread::current().name() == Some("forebay-0");
        let is_original = !first && !was_there.swap(true, Ordering::SeqCst);
        if !first && !is_original {
            WITH_THREAD.set(alive.lock().unwrap().take());
        }
        MemoryTransport::new(move |_| async move {
            if is_original {
                actix_rt::Arbiter::current().stop();
            }
            Ok(Scripted::json(200, good("ok")))
        })
    };
    let text = "[pool]\nthreads = 2\n[retry]\nbase_delay = \"1ms\"\n\
                [upstreams.up]\nbase_url = \"http://upstream.test/v1\"\nmodels = [\"m\"]";
    let test = async {
        let forebay = Forebay::builder(Config::from_toml(text).unwrap()).transport(open).start().await.unwrap();
        for _ in 0..20 {
            let outcomes = join_all((0..8).map(|_| forebay.call(chat("hello")))).await;
            assert!(outcomes.iter().all(Result::is_ok));
        }
        assert!(ended.try_recv().is_err_and(|error| error == TryRecvError::Empty), "it works");
        forebay.shutdown(s(5.0)).await;
        assert_eq!(ended.recv().await, None);
    };
    actix_rt::System::new().block_on(async { tokio::time::timeout(s(20.0), test).await.expect("the thread ends") });
}

/// Tells that all of a seat is gone, when it is dropped with the seat's transport.
struct Last(std::sync::mpsc::Sender<()>);

impl Drop for Last {
    fn drop(&mut self) {
        let _ = self.0.send(()); // heard or not, this is the end
    }
}

#[test]
fn slots_that_a_blocked_thread_starts_when_it_is_free_again_cost_no_other_its_place() {
    let (release, blocked) = std::sync::mpsc::channel::<()>();
    let (last, gone) = std::sync::mpsc::channel();
    let doomed = Mutex::new(Some((blocked, Last(last))));
    // Answers nobody before all are there: each needs a slot of its own. Three accounts take so many from the start.
    let barrier = Arc::new(tokio::sync::Barrier::new(40));
    let open = move || {
        let first = std::thread::current().name() == Some("forebay-0");
        // The other thread is blocked before its seat is there; what is said to it waits in its mailbox.
        let last = if first { None } else { doomed.lock().unwrap().take() };
        let last = last.map(|(blocked, last)| (blocked.recv().is_ok(), last));
        let barrier = Arc::clone(&barrier);
        MemoryTransport::new(move |_| {
            let (_, barrier) = (&last, Arc::clone(&barrier));
            async move {
                barrier.wait().await;
                Ok(Scripted::json(200, good("ok")))
            }
        })
    };
    let text = "[pool]\nthreads = 2\nthread_timeout = \"300ms\"\n\
                [upstreams.up]\nbase_url = \"http://upstream.test/v1\"\nmodels = [\"m\"]\n\
                api_keys = [\"sk-test-000001\", \"sk-test-000002\", \"sk-test-000003\"]";
    let test = async {
        let forebay = Forebay::builder(Config::from_toml(text).unwrap()).transport(open).start().await.unwrap();
        let crowd = async || {
            let outcomes = join_all((0..40).map(|_| forebay.call(chat("hello")))).await;
            assert!(outcomes.iter().flatten().all(|answer| answer.meta.attempts == 1), "{outcomes:?}");
            assert_eq!(outcomes.iter().flatten().count(), 40);
        };
        crowd().await;
        drop(release);
        gone.recv().expect("the blocked seat says its last");
        crowd().await;
        assert_eq!(forebay.health().await.expect("it answers").slots, 40);
        forebay.shutdown(s(5.0)).await;
    };
    actix_rt::System::new().block_on(async { tokio::time::timeout(s(60.0), test).await.expect("no slot is lost") });
}

#[test]
fn a_transport_that_cannot_be_made_ends_the_system_loudly_and_not_in_a_hot_loop() {
    in_virtual_time(async {
        let made = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&made);
        let open = move || -> MemoryTransport<fn(HttpRequest) -> std::future::Ready<_>> {
            log.lock().unwrap().push(clock::now());
            panic!("a planted panic in a factory")
        };
        let forebay = Forebay::builder(config("")).transport(open).start().await.unwrap();
        forebay.failed().await;
        assert_eq!(forebay.call(chat("hello")).await.unwrap_err().code(), "restarting");
        // Three lives of the system, each with a first seat and three more.
        let made = made.lock().unwrap();
        assert_eq!(made.len(), 12);
        assert!(*made.last().unwrap() - made[0] >= 3 * s(0.03), "they come later and later");
    });
}
