//! The embedding face: from any runtime, on threads of its own; what is dropped is cancelled, what is shut down drains.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use forebay::transport::{HttpRequest, MemoryTransport, Scripted};
use forebay::{AnswerBody, Config, Forebay};
use support::{Script, chat, config, gives, good, in_virtual_time, s, silence, streamed};
use tokio::sync::Notify;

/// A configuration for threads of its own.
fn threaded(threads: usize) -> Config {
    let text = format!(
        "[pool]\nthreads = {threads}\n[upstreams.up]\nbase_url = \"http://127.0.0.1:9/v1\"\nmodels = [\"m\"]\nlimits = {{ max_concurrent = 8 }}"
    );
    Config::from_toml(&text).unwrap_or_else(|problems| panic!("{problems}"))
}

fn echo() -> impl forebay::transport::Transport {
    MemoryTransport::new(|request: HttpRequest| async move {
        tokio::task::yield_now().await;
        Ok(Scripted::json(200, good(&String::from_utf8_lossy(&request.body))))
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_from_a_multi_thread_runtime_each_get_their_own_answer() {
    for threads in [1, 2, 3] {
        let forebay = Forebay::builder(threaded(threads)).transport(echo).start().await.expect("it starts");
        let calls: Vec<_> = (0..300)
            .map(|n| {
                let forebay = forebay.clone();
                tokio::spawn(async move { (n, forebay.call(chat(&format!("prompt {n}"))).await) })
            })
            .collect();
        for call in calls {
            let (n, outcome) = call.await.expect("no panic");
            let AnswerBody::Whole(body) = outcome.expect("answered").body else { panic!("a whole answer") };
            assert!(String::from_utf8_lossy(&body).contains(&format!("prompt {n}\\")));
        }
        forebay.shutdown(Duration::from_secs(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transport_that_panics_harms_no_other_call() {
    let count = Arc::new(AtomicUsize::new(0));
    let turns = Arc::clone(&count);
    let forebay = Forebay::builder(threaded(2))
        .transport(move || {
            let turns = Arc::clone(&turns);
            MemoryTransport::new(move |request: HttpRequest| {
                let turn = turns.fetch_add(1, Ordering::Relaxed);
                async move {
                    assert!(turn % 10 != 3, "a planted panic");
                    Ok(Scripted::json(200, good(&String::from_utf8_lossy(&request.body))))
                }
            })
        })
        .start()
        .await
        .expect("it starts");
    let calls: Vec<_> = (0..100)
        .map(|n| {
            tokio::spawn({
                let forebay = forebay.clone();
                async move { forebay.call(chat(&n.to_string())).await }
            })
        })
        .collect();
    for call in calls {
        call.await.expect("no panic here").expect("answered");
    }
    assert!(count.load(Ordering::Relaxed) > 105);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_a_call_or_a_stream_ends_its_exchange() {
    struct Held(Arc<Notify>);
    impl Drop for Held {
        fn drop(&mut self) {
            self.0.notify_one();
        }
    }
    let (begun, ended) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (tell_begun, tell_ended) = (Arc::clone(&begun), Arc::clone(&ended));
    let forebay = Forebay::builder(threaded(1))
        .transport(move || {
            let (begun, ended) = (Arc::clone(&tell_begun), Arc::clone(&tell_ended));
            MemoryTransport::new(move |request: HttpRequest| {
                let held = Held(Arc::clone(&ended));
                let begun = Arc::clone(&begun);
                async move {
                    if !String::from_utf8_lossy(&request.body).contains("\"stream\":true") {
                        begun.notify_one();
                        let _held = held;
                        return std::future::pending().await;
                    }
                    let word = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hi\"}}]}\n\n";
                    let mut response = Scripted::events(vec![]);
                    let mut first = Some(word);
                    response.body = Box::pin(futures_util::stream::poll_fn(move |_| {
                        let _held = &held;
                        match first.take() {
                            Some(word) => std::task::Poll::Ready(Some(Ok(word.into()))),
                            None => std::task::Poll::Pending,
                        }
                    }));
                    Ok(response)
                }
            })
        })
        .start()
        .await
        .expect("it starts");
    let call = tokio::spawn({
        let forebay = forebay.clone();
        async move { forebay.call(chat("x")).await }
    });
    begun.notified().await;
    call.abort();
    ended.notified().await;
    let mut events = forebay.stream(streamed("x")).await.expect("it opens");
    assert!(events.next().await.expect("an event").is_ok());
    drop(events);
    ended.notified().await;
}

#[test]
fn shutdown_lets_accepted_calls_finish_and_refuses_new_ones() {
    in_virtual_time(async {
        let script = Script::new(vec![], || {
            Box::new(|_| {
                Box::pin(async {
                    forebay::clock::until(forebay::clock::now() + s(2.0)).await;
                    Ok(Scripted::json(200, good("ok")))
                })
            })
        });
        let forebay = script.start(config("limits = { max_concurrent = 1 }")).await;
        let accepted: Vec<_> = (0..3)
            .map(|n| {
                tokio::task::spawn_local({
                    let forebay = forebay.clone();
                    async move { forebay.call(chat(&n.to_string())).await }
                })
            })
            .collect();
        tokio::task::yield_now().await;
        let start = forebay::clock::now();
        let shutdown = tokio::task::spawn_local({
            let forebay = forebay.clone();
            async move { forebay.shutdown(s(30.0)).await }
        });
        tokio::task::yield_now().await;
        assert_eq!(forebay.call(chat("late")).await.expect_err("too late").code(), "draining");
        for call in accepted {
            call.await.expect("no panic").expect("an accepted call is answered");
        }
        shutdown.await.expect("no panic");
        assert_eq!(forebay::clock::now() - start, s(6.0), "no longer than the last call");
    });
}

#[test]
fn when_the_time_to_drain_is_over_calls_and_streams_get_their_error() {
    in_virtual_time(async {
        let word = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hi\"}}]}\n\n";
        let script = Script::new(
            vec![Box::new(move |_| {
                Box::pin(async move {
                    let mut response = Scripted::events(vec![]);
                    let first = futures_util::stream::iter([Ok(word.into())]);
                    response.body = Box::pin(futures_util::StreamExt::chain(first, futures_util::stream::pending()));
                    Ok(response)
                })
            })],
            silence,
        );
        let forebay = script.start(config("limits = { max_concurrent = 2 }")).await;
        let mut events = forebay.stream(streamed("x")).await.expect("it opens");
        assert!(events.next().await.expect("an event").is_ok());
        let calls: Vec<_> = (0..2)
            .map(|n| {
                tokio::task::spawn_local({
                    let forebay = forebay.clone();
                    async move { forebay.call(chat(&n.to_string())).await }
                })
            })
            .collect();
        tokio::task::yield_now().await;
        let start = forebay::clock::now();
        forebay.shutdown(s(3.0)).await;
        assert!(forebay::clock::now() - start <= s(4.0));
        for call in calls {
            assert_eq!(call.await.expect("no panic").expect_err("its time is over").code(), "draining");
        }
        let end = events.next().await.expect("not a clean end").expect_err("an error");
        assert_eq!(end.code(), "draining");
    });
}

#[test]
fn no_threads_of_its_own_need_an_actix_system() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let error = runtime.block_on(Forebay::start(threaded(0))).err().expect("there is no System");
    assert_eq!(error.code(), "start_failed");
    assert!(error.message().contains("threads"), "{error}");
}

#[test]
fn a_stream_can_be_asked_for_by_a_request_that_does_not_say_so() {
    in_virtual_time(async {
        let events = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hi\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
        let script = Script::new(vec![], move || gives(move || Ok(Scripted::events(vec![Ok(events.into())]))));
        let forebay = script.start(config("ask_usage = false")).await;
        let mut events = forebay.stream(chat("x")).await.expect("it opens");
        while let Some(event) = events.next().await {
            event.expect("no error");
        }
        assert!(script.requests()[0].body.starts_with(b"{\"stream\":true,\"model\":\"m\""));
        let refused = forebay.call(streamed("x")).await.expect_err("call() has no streams");
        assert_eq!(refused.code(), "invalid_request");
    });
}

#[test]
fn the_handle_can_be_shared_and_its_futures_sent() {
    fn is_shareable<T: Clone + Send + Sync + 'static>() {}
    fn is_sendable<T: Send>(_: T) {}
    is_shareable::<Forebay>();
    let calls = |forebay: Forebay| {
        is_sendable(forebay.call(chat("x")));
        is_sendable(forebay.stream(chat("x")));
        is_sendable(forebay.shutdown(s(1.0)));
        is_sendable(forebay.health());
    };
    let _ = calls;
    is_sendable(Forebay::start(threaded(1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_process_wide_is_installed() {
    let forebay = Forebay::start(threaded(1)).await.expect("it starts");
    let error = forebay.call(chat("x").with_timeout(Duration::from_millis(200))).await.expect_err("nobody is there");
    assert!(error.status() >= 500);
    assert!(rustls::crypto::CryptoProvider::get_default().is_none());
    assert!(!tracing::dispatcher::has_been_set());
}

#[test]
fn panics_unwind_since_supervision_catches_them() {
    const { assert!(cfg!(panic = "unwind")) };
    let manifest = include_str!("../Cargo.toml");
    assert!(!manifest.contains("panic = \"abort\""));
    assert!(manifest.contains("panic = \"unwind\""));
}
