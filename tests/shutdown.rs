//! The end of the embedded face: by `shutdown`, by dropping the last handle, or because a thread or a runtime goes away.

mod support;

use std::sync::Arc;
use std::time::Duration;

use forebay::clock;
use forebay::transport::{HttpRequest, MemoryTransport, Scripted, TransportError};
use forebay::{AnswerBody, Call, Config, Error, Forebay, Outcome};
use support::{Scene, Script, chat, config, gives, good, in_virtual_time, s, silence, streamed};
use tokio::sync::Notify;

/// Something that never comes would hang the test: an error instead.
const PATIENCE: Duration = Duration::from_secs(60);

/// A scene that answers after `seconds`, with what it was asked.
fn answers_after(seconds: f64) -> Scene {
    Box::new(move |request: HttpRequest| {
        Box::pin(async move {
            clock::until(clock::now() + s(seconds)).await;
            Ok(Scripted::json(200, good(&String::from_utf8_lossy(&request.body))))
        })
    })
}

/// A scene that streams a word, waits for `seconds`, and ends properly.
fn streams_for(seconds: f64) -> Scene {
    Box::new(move |_| {
        Box::pin(async move {
            let word = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hi\"}}]}\n\n";
            let last =
                "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
            let first = futures_util::stream::iter([Ok::<_, TransportError>(word.into())]);
            let rest = futures_util::stream::once(async move {
                clock::until(clock::now() + s(seconds)).await;
                Ok(last.into())
            });
            let mut response = Scripted::events(vec![]);
            response.body = Box::pin(futures_util::StreamExt::chain(first, rest));
            Ok(response)
        })
    })
}

/// Makes a call beside the test.
fn calls(forebay: &Forebay, text: &str) -> tokio::task::JoinHandle<Outcome> {
    let (forebay, request) = (forebay.clone(), chat(text));
    tokio::task::spawn_local(async move { forebay.call(request).await })
}

/// Shuts down beside the test.
fn shuts_down(forebay: &Forebay, seconds: f64) -> tokio::task::JoinHandle<()> {
    let forebay = forebay.clone();
    tokio::task::spawn_local(async move { forebay.shutdown(s(seconds)).await })
}

fn is_answer_to(outcome: &Outcome, text: &str) -> bool {
    let Ok(answer) = outcome else { return false };
    let AnswerBody::Whole(body) = &answer.body else { return false };
    String::from_utf8_lossy(body).contains(text)
}

fn code(outcome: Outcome) -> &'static str {
    outcome.expect_err("an error").code()
}

/// Lets what is under way come to where it waits.
async fn settle() {
    clock::until(clock::now() + Duration::from_millis(1)).await;
}

#[test]
fn calls_that_wait_run_back_off_and_stream_are_answered_before_the_end() {
    in_virtual_time(async {
        let fails = gives(|| Ok(Scripted::json(500, "{\"error\":{\"message\":\"planted\"}}")));
        let scenes = vec![fails, streams_for(9.0), answers_after(3.0)];
        let script = Script::new(scenes, || answers_after(1.0));
        let forebay = script.start(config("limits = { max_concurrent = 2 }")).await;
        let backing_off = calls(&forebay, "backing off");
        settle().await;
        let mut events = forebay.stream(streamed("streaming")).await.expect("it opens");
        let running = calls(&forebay, "running");
        let queued = [calls(&forebay, "queued 0"), calls(&forebay, "queued 1")];
        settle().await;
        let health = forebay.health().await.expect("it answers");
        assert_eq!((health.waiting, health.in_flight), (3, 2));
        let start = clock::now();
        let shutdown = shuts_down(&forebay, 60.0);
        settle().await;
        assert!(forebay.health().await.expect("it answers").is_draining);
        assert_eq!(code(forebay.call(chat("late")).await), "draining");
        assert_eq!(forebay.stream(streamed("late")).await.err().expect("too late").code(), "draining");
        assert!(is_answer_to(&running.await.expect("no panic"), "running"));
        for (n, call) in queued.into_iter().enumerate() {
            assert!(is_answer_to(&call.await.expect("no panic"), &format!("queued {n}")));
        }
        assert!(is_answer_to(&backing_off.await.expect("no panic"), "backing off"));
        let mut data = Vec::new();
        while let Some(event) = events.next().await {
            data.push(event.expect("a stream is let finish").data);
        }
        assert!(data[0].contains("hi") && data.last().expect("an end").contains("[DONE]"));
        shutdown.await.expect("no panic");
        let took = clock::now() - start;
        assert!(took >= s(8.9) && took < s(10.0), "as long as the stream, not as long as it might: {took:?}");
    });
}

#[test]
fn what_is_left_when_the_time_is_over_ends_as_draining_wherever_it_stands() {
    in_virtual_time(async {
        let fails = gives(|| Ok(Scripted::json(500, "{\"error\":{\"message\":\"planted\"}}")));
        let script = Script::new(vec![fails, streams_for(900.0)], silence);
        let more = "limits = { max_concurrent = 2 }\nretry = { base_delay = \"30s\" }";
        let forebay = script.start(config(more)).await;
        let mut left = vec![calls(&forebay, "backing off")];
        settle().await;
        let mut events = forebay.stream(streamed("streaming")).await.expect("it opens");
        left.extend(["running", "queued"].map(|text| calls(&forebay, text)));
        settle().await;
        let start = clock::now();
        forebay.shutdown(s(3.0)).await;
        assert!(clock::now() - start <= s(4.0));
        for call in left {
            assert_eq!(code(call.await.expect("no panic")), "draining");
        }
        assert!(events.next().await.expect("an event").is_ok());
        assert_eq!(events.next().await.expect("no clean end").expect_err("an error").code(), "draining");
    });
}

#[test]
fn shutting_down_twice_and_at_once_ends_when_the_first_has_ended_it() {
    in_virtual_time(async {
        let script = Script::new(vec![], || answers_after(5.0));
        let forebay = script.start(config("")).await;
        let call = calls(&forebay, "running");
        settle().await;
        let start = clock::now();
        let both = [shuts_down(&forebay, 60.0), shuts_down(&forebay, 600.0)];
        for shutdown in both {
            shutdown.await.expect("no panic");
        }
        assert!(is_answer_to(&call.await.expect("no panic"), "running"));
        assert!(clock::now() - start < s(5.1));
        let again = clock::now();
        forebay.shutdown(s(60.0)).await;
        assert_eq!(clock::now(), again, "there is nothing left to wait for");
    });
}

#[test]
fn of_two_shutdowns_the_more_impatient_one_counts() {
    in_virtual_time(async {
        let forebay = Script::new(vec![], silence).start(config("")).await;
        let call = calls(&forebay, "running");
        settle().await;
        let start = clock::now();
        let patient = shuts_down(&forebay, 600.0);
        settle().await;
        forebay.shutdown(s(2.0)).await;
        patient.await.expect("no panic");
        assert_eq!(code(call.await.expect("no panic")), "draining");
        assert!(clock::now() - start < s(3.1));
    });
}

#[test]
fn a_shutdown_dropped_half_way_leaves_it_draining_and_can_be_taken_up_again() {
    in_virtual_time(async {
        let script = Script::new(vec![], || answers_after(5.0));
        let forebay = script.start(config("")).await;
        let call = calls(&forebay, "running");
        settle().await;
        let dropped = tokio::time::timeout(s(1.0), forebay.shutdown(s(60.0))).await;
        assert!(dropped.is_err());
        assert_eq!(code(forebay.call(chat("late")).await), "draining");
        forebay.shutdown(s(60.0)).await;
        assert!(is_answer_to(&call.await.expect("no panic"), "running"));
    });
}

#[test]
fn a_handle_kept_after_the_shutdown_says_so_and_never_calls_it_a_failure() {
    in_virtual_time(async {
        let forebay = Script::new(vec![], || answers_after(1.0)).start(config("")).await;
        let kept = forebay.clone();
        forebay.shutdown(s(1.0)).await;
        drop(forebay);
        assert_eq!(code(kept.call(chat("late")).await), "draining");
        assert_eq!(kept.stream(streamed("late")).await.err().expect("too late").code(), "draining");
        assert!(kept.health().await.is_none());
        kept.reconfigure(config(""));
        assert!(!kept.models().is_empty());
        assert!(tokio::time::timeout(s(3_600.0), kept.failed()).await.is_err());
    });
}

#[test]
fn when_the_last_handle_is_dropped_what_is_pending_ends_with_an_error() {
    in_virtual_time(async {
        let script = Script::new(vec![streams_for(900.0)], silence);
        let forebay = script.start(config("limits = { max_concurrent = 2 }")).await;
        let mut events = forebay.stream(streamed("streaming")).await.expect("it opens");
        let dispatcher = forebay.dispatcher();
        let sent: Vec<_> = ["running", "queued"].map(|text| dispatcher.send(Call::new(chat(text)))).into();
        let sent: Vec<_> = sent.into_iter().map(tokio::task::spawn_local).collect();
        settle().await;
        assert_eq!(forebay.health().await.expect("it answers").in_flight, 2);
        drop(forebay);
        for call in sent {
            match call.await.expect("no panic") {
                Ok(outcome) => assert_eq!(code(outcome), "restarting"),
                Err(closed) => assert_eq!(closed, actix::MailboxError::Closed),
            }
        }
        assert!(events.next().await.expect("an event").is_ok());
        assert_eq!(events.next().await.expect("no clean end").expect_err("an error").code(), "worker_crashed");
    });
}

#[test]
fn a_call_under_way_keeps_the_system_alive_without_any_other_handle() {
    in_virtual_time(async {
        let forebay = Script::new(vec![], || answers_after(5.0)).start(config("")).await;
        let call = calls(&forebay, "running");
        settle().await;
        drop(forebay);
        assert!(is_answer_to(&call.await.expect("no panic"), "running"));
    });
}

/// Systems with threads of their own.
mod threaded {
    use super::*;
    use std::sync::{Mutex, MutexGuard, PoisonError};

    /// One such test at a time: threads are told by their names, and all systems name theirs alike.
    fn alone() -> MutexGuard<'static, ()> {
        static ALONE: Mutex<()> = Mutex::new(());
        ALONE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The names of the threads that systems have here.
    #[cfg(target_os = "linux")]
    fn threads() -> Vec<String> {
        let tasks = std::fs::read_dir("/proc/self/task").expect("Linux tells");
        let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
        names.filter(|name| name.starts_with("forebay") || name.starts_with("actix")).collect()
    }

    /// Waits until no system has a thread any more.
    fn until_no_thread_is_left() {
        #[cfg(target_os = "linux")]
        while !threads().is_empty() {
            std::thread::yield_now();
        }
    }

    fn threaded(threads: usize) -> Config {
        let text = format!(
            "[pool]\nthreads = {threads}\n[upstreams.up]\nbase_url = \"http://127.0.0.1:9/v1\"\nmodels = [\"m\"]"
        );
        Config::from_toml(&text).unwrap_or_else(|problems| panic!("{problems}"))
    }

    async fn echoing(threads: usize) -> Forebay {
        let open = || {
            MemoryTransport::new(|request: HttpRequest| async move {
                Ok(Scripted::json(200, good(&String::from_utf8_lossy(&request.body))))
            })
        };
        Forebay::builder(threaded(threads)).transport(open).start().await.expect("it starts")
    }

    /// A system that holds its calls, and what tells that one is held.
    async fn silent(threads: usize) -> (Forebay, Arc<Notify>) {
        let begun = Arc::new(Notify::new());
        let tell = Arc::clone(&begun);
        let open = move || {
            let tell = Arc::clone(&tell);
            MemoryTransport::new(move |_| {
                tell.notify_one();
                std::future::pending()
            })
        };
        (Forebay::builder(threaded(threads)).transport(open).start().await.expect("it starts"), begun)
    }

    fn on_tokio<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work)
    }

    #[test]
    fn dropping_the_last_handle_ends_the_threads_and_every_call_with_an_error() {
        let _alone = alone();
        for threads in [1, 3] {
            on_tokio(async {
                let (forebay, begun) = silent(threads).await;
                let sent = tokio::spawn(forebay.dispatcher().send(Call::new(chat("running"))));
                begun.notified().await;
                drop(forebay);
                match tokio::time::timeout(PATIENCE, sent).await.expect("an end in time").expect("no panic") {
                    Ok(outcome) => assert_eq!(code(outcome), "restarting"),
                    Err(closed) => assert_eq!(closed, actix::MailboxError::Closed),
                }
            });
            until_no_thread_is_left();
        }
    }

    #[test]
    fn it_starts_on_any_runtime_and_again_and_again_and_leaves_no_thread_behind() {
        let _alone = alone();
        let work = async || {
            for threads in [1, 2] {
                let forebay = echoing(threads).await;
                let other = echoing(threads).await;
                assert!(is_answer_to(&forebay.call(chat("one")).await, "one"));
                forebay.shutdown(s(5.0)).await;
                assert_eq!(code(forebay.call(chat("late")).await), "draining");
                assert!(is_answer_to(&other.call(chat("two")).await, "two"), "the other one is not touched");
            }
        };
        on_tokio(work());
        until_no_thread_is_left();
        let many = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        many.expect("a runtime").block_on(work());
        until_no_thread_is_left();
        actix_rt::System::new().block_on(work());
        // An actix System of the caller's own has no thread of its own.
        until_no_thread_is_left();
    }

    #[test]
    fn a_runtime_that_goes_away_takes_its_calls_along_and_nothing_else() {
        let _alone = alone();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let (forebay, begun) = runtime.block_on(silent(1));
        let call = runtime.spawn({
            let forebay = forebay.clone();
            async move { forebay.call(chat("running")).await }
        });
        runtime.block_on(begun.notified());
        runtime.shutdown_background();
        on_tokio(async {
            assert!(call.await.expect_err("gone with its runtime").is_cancelled());
            // Its place is free again: the pool has begun another call only if the one before was given up.
            loop {
                let health = forebay.health().await.expect("it answers");
                if (health.waiting, health.in_flight) == (0, 0) {
                    break;
                }
            }
            let another = tokio::time::timeout(PATIENCE, async {
                tokio::select! {
                    outcome = forebay.call(chat("another")) => panic!("{outcome:?}"),
                    () = begun.notified() => {}
                }
            });
            another.await.expect("it is taken up");
            forebay.shutdown(s(5.0)).await;
        });
        drop(forebay);
        until_no_thread_is_left();
    }

    #[test]
    fn a_first_thread_that_ends_is_a_failure_and_calls_end_as_restarting() {
        let _alone = alone();
        for threads in [1, 2] {
            on_tokio(async {
                let open = || {
                    MemoryTransport::new(|_| {
                        // Not what a transport should do.
                        actix_rt::System::current().stop();
                        std::future::pending()
                    })
                };
                let forebay = Forebay::builder(threaded(threads)).transport(open).start().await.expect("it starts");
                let ended = async {
                    assert_eq!(code(forebay.call(chat("x")).await), "restarting");
                    forebay.failed().await;
                    let late: Error = forebay.call(chat("x")).await.expect_err("nobody is there");
                    assert_eq!(late.code(), "restarting");
                    assert!(forebay.health().await.is_none());
                    forebay.shutdown(s(5.0)).await;
                };
                tokio::time::timeout(PATIENCE, ended).await.expect("all of it in time");
            });
            until_no_thread_is_left();
        }
    }

    #[test]
    fn a_system_of_the_callers_that_ends_is_a_failure_too() {
        let forebay = actix_rt::System::new().block_on(async { echoing(0).await });
        on_tokio(async {
            tokio::time::timeout(PATIENCE, forebay.failed()).await.expect("it is told");
            assert_eq!(code(forebay.call(chat("x")).await), "restarting");
        });
    }

    #[test]
    fn a_start_that_is_given_up_leaves_no_thread_behind() {
        let _alone = alone();
        on_tokio(async {
            for _ in 0..20 {
                let mut start = std::pin::pin!(Forebay::start(threaded(2)));
                std::future::poll_fn(|cx| {
                    let _ = start.as_mut().poll(cx);
                    std::task::Poll::Ready(())
                })
                .await;
            }
        });
        until_no_thread_is_left();
    }
}
