//! Budgets, order and deadlines over the whole system in virtual time.

mod support;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use forebay::clock::{self, Dice, Instant};
use forebay::transport::{HttpRequest, HttpResponse, Scripted, TransportError};
use forebay::{Call, Cancel, Config, FailureKind, Forebay, Outcome, Priority, Sent};
use futures_util::future::join_all;
use support::{Scene, Script, chat, config, gives, good, in_virtual_time, s, silence};

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

fn most_within(times: &[Instant], window: Duration) -> usize {
    (0..times.len())
        .map(|first| times[first..].iter().filter(|at| **at - times[first] < window).count())
        .max()
        .unwrap_or(0)
}

#[test]
fn no_sixty_seconds_see_more_attempts_than_the_cap_and_it_is_used_in_full() {
    in_virtual_time(async {
        let script = Script::new(vec![], takes(s(0.1)));
        let forebay = script.start(config("limits = { requests_per_minute = 300 }")).await;
        let start = clock::now();
        let outcomes = join_all((0..900).map(|n| forebay.call(chat(&n.to_string()).with_timeout(s(900.0))))).await;
        assert!(outcomes.iter().all(Result::is_ok));
        let times = script.times();
        assert!(most_within(&times, s(60.0)) <= 300);
        let early = times.iter().filter(|at| **at - times[0] < s(10.0)).count();
        assert!((50..=51).contains(&early), "nobody says how the provider counts: a sixth in ten seconds, not {early}");
        assert!(times[49] - times[0] < s(1.0), "what a cap allows goes at once");
        let took = clock::now() - start;
        assert!(took < s(900.0 / 5.0 * 1.02 + 1.0), "{took:?}");
    });
}

#[test]
fn attempts_in_flight_never_exceed_the_cap_and_slots_follow_it() {
    in_virtual_time(async {
        let busy = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let peak = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let (now_busy, now_peak) = (busy.clone(), peak.clone());
        let script = Script::new(vec![], move || {
            let (busy, peak) = (now_busy.clone(), now_peak.clone());
            Box::new(move |_| {
                Box::pin(async move {
                    use std::sync::atomic::Ordering::Relaxed;
                    peak.fetch_max(busy.fetch_add(1, Relaxed) + 1, Relaxed);
                    clock::until(clock::now() + s(1.0)).await;
                    busy.fetch_sub(1, Relaxed);
                    Ok(Scripted::json(200, good("ok")))
                })
            })
        });
        let forebay = script.start(config("limits = { max_concurrent = 7 }")).await;
        let start = clock::now();
        let outcomes = join_all((0..70).map(|n| forebay.call(chat(&n.to_string())))).await;
        assert!(outcomes.iter().all(Result::is_ok));
        assert_eq!(peak.load(std::sync::atomic::Ordering::Relaxed), 7);
        assert_eq!(clock::now() - start, s(10.0), "ten rounds of seven");
    });
}

#[test]
fn usage_corrects_the_estimate_of_tokens() {
    in_virtual_time(async {
        // Each call is estimated at some 1,060 tokens and really uses 7.
        let script = Script::new(vec![], takes(s(0.01)));
        let forebay = script.start(config("limits = { tokens_per_minute = 12000 }")).await;
        let start = clock::now();
        for n in 0..50 {
            forebay.call(chat(&n.to_string())).await.expect("answered");
        }
        assert!(clock::now() - start < s(30.0), "estimates alone would take over four minutes");
    });
}

#[test]
fn a_call_that_can_never_fit_is_refused_at_once_and_says_why() {
    in_virtual_time(async {
        let script = Script::new(vec![], takes(s(0.01)));
        let forebay = script.start(config("limits = { tokens_per_minute = 100 }")).await;
        let error = forebay.call(chat("hello")).await.expect_err("it needs more than the cap");
        assert_eq!(error.code(), "deadline_exceeded");
        assert!(error.message().contains("tokens_per_minute"), "{error}");
        assert!(script.times().is_empty());
    });
}

#[test]
fn a_call_certain_to_miss_its_deadline_behind_the_others_fails_at_once() {
    in_virtual_time(async {
        let script = Script::new(vec![], takes(s(0.1)));
        let forebay = script.start(config("limits = { requests_per_minute = 60 }")).await;
        let start = clock::now();
        let waiting: Vec<_> = (0..70)
            .map(|n| {
                tokio::task::spawn_local({
                    let forebay = forebay.clone();
                    async move { forebay.call(chat(&n.to_string())).await }
                })
            })
            .collect();
        tokio::task::yield_now().await;
        let error =
            forebay.call(chat("late").with_timeout(s(5.0))).await.expect_err("a minute's worth stands before it");
        assert_eq!((error.code(), clock::now() - start), ("deadline_exceeded", s(0.0)));
        assert!(error.message().contains("too few calls") && error.message().contains("stand before it"), "{error}");
        let soon = forebay.call(chat("urgent").with_timeout(s(11.0)).with_priority(Priority::High)).await;
        assert!(soon.is_ok(), "a call of high priority stands before them: {soon:?}");
        for call in waiting {
            assert!(call.await.expect("no panic").is_ok());
        }
    });
}

#[test]
fn calls_go_in_order_of_arrival_within_a_priority() {
    in_virtual_time(async {
        let script = Script::new(vec![], takes(s(1.0)));
        let forebay = script.start(config("limits = { max_concurrent = 1 }")).await;
        forebay.call(chat("starts the pool")).await.expect("answered");
        let order = Rc::new(RefCell::new(Vec::new()));
        let calls = [
            ("a", Priority::Normal),
            ("b", Priority::Low),
            ("c", Priority::Normal),
            ("d", Priority::High),
            ("e", Priority::Low),
        ];
        join_all(calls.map(|(name, priority)| {
            let (forebay, order) = (forebay.clone(), order.clone());
            async move {
                forebay.call(chat(name).with_priority(priority)).await.expect("answered");
                order.borrow_mut().push(name);
            }
        }))
        .await;
        assert_eq!(*order.borrow(), ["a", "d", "c", "b", "e"], "the first had its turn before the others came");
    });
}

#[test]
fn the_waiting_room_is_bounded_and_a_place_is_freed_by_whoever_leaves() {
    in_virtual_time(async {
        let script = Script::new(vec![gives(|| Ok(Scripted::json(200, good("starts the pool"))))], silence);
        let text = "[queue]\ncapacity = 3\n[pool]\nthreads = 0\n[upstreams.up]\nbase_url = \"http://u.test/v1\"\nmodels = [\"m\"]\nlimits = { max_concurrent = 1 }";
        let forebay = script.start(Config::from_toml(text).unwrap_or_else(|problems| panic!("{problems}"))).await;
        forebay.call(chat("starts the pool")).await.expect("answered");
        let calls: Vec<_> = (0..4)
            .map(|n| {
                tokio::task::spawn_local({
                    let forebay = forebay.clone();
                    async move { forebay.call(chat(&n.to_string())).await }
                })
            })
            .collect();
        tokio::task::yield_now().await;
        let full = forebay.call(chat("one too many")).await.expect_err("one runs and three wait");
        assert_eq!((full.code(), full.retry_after()), ("overloaded", Some(s(1.0))));
        calls[2].abort();
        tokio::task::yield_now().await;
        let outcome = forebay.call(chat("now").with_timeout(s(2.0))).await.expect_err("nothing is ever answered");
        assert_eq!(outcome.code(), "deadline_exceeded", "it was let in");
    });
}

#[test]
fn bodies_of_all_accepted_calls_are_bounded_in_bytes() {
    in_virtual_time(async {
        let script = Script::new(vec![], silence);
        let text = "[queue]\nmax_bytes = \"10KiB\"\n[pool]\nthreads = 0\n[upstreams.up]\nbase_url = \"http://u.test/v1\"\nmodels = [\"m\"]";
        let forebay = script.start(Config::from_toml(text).unwrap_or_else(|problems| panic!("{problems}"))).await;
        let big = "x".repeat(6_000);
        let first = tokio::task::spawn_local({
            let (forebay, big) = (forebay.clone(), big.clone());
            async move { forebay.call(chat(&big)).await }
        });
        tokio::task::yield_now().await;
        assert_eq!(forebay.call(chat(&big)).await.expect_err("no room").code(), "overloaded");
        first.abort();
        tokio::task::yield_now().await;
        let error = forebay.call(chat(&big).with_timeout(s(1.0))).await.expect_err("nothing is ever answered");
        assert_eq!(error.code(), "deadline_exceeded", "the room came back");
    });
}

#[test]
fn a_silent_or_held_upstream_delays_no_other() {
    in_virtual_time(async {
        let text = r#"
            [pool]
            threads = 0
            [upstreams.silent]
            base_url = "http://silent.test/v1"
            models = ["s"]
            limits = { max_concurrent = 20 }
            [upstreams.quick]
            base_url = "http://quick.test/v1"
            models = ["m"]
            "#;
        let config = Config::from_toml(text).unwrap_or_else(|problems| panic!("{problems}"));
        let script = Script::new(vec![], || {
            Box::new(|request: HttpRequest| {
                Box::pin(async move {
                    if request.url.contains("silent") {
                        std::future::pending::<()>().await;
                    }
                    Ok(Scripted::json(200, good("ok")))
                })
            })
        });
        let forebay = script.start(config).await;
        let stuck: Vec<_> = (0..2_000)
            .map(|n| {
                let forebay = forebay.clone();
                tokio::task::spawn_local(async move {
                    let request = forebay::Request::chat("s", [serde_json::json!({"role": "user", "content": n})]);
                    forebay.call(request).await
                })
            })
            .collect();
        tokio::task::yield_now().await;
        let start = clock::now();
        for n in 0..50 {
            forebay.call(chat(&n.to_string())).await.expect("answered");
        }
        assert_eq!(clock::now() - start, s(0.0));
        drop(stuck);
    });
}

#[test]
fn a_dropped_call_frees_its_place_and_its_upstream_connection() {
    in_virtual_time(async {
        struct Dropped(std::sync::Arc<std::sync::atomic::AtomicUsize>);
        impl Drop for Dropped {
            fn drop(&mut self) {
                self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        }
        let dropped = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let count = dropped.clone();
        let script = Script::new(vec![], move || {
            let guard = Dropped(count.clone());
            Box::new(move |_| {
                Box::pin(async move {
                    let _guard = guard;
                    std::future::pending().await
                })
            })
        });
        let forebay = script.start(config("limits = { max_concurrent = 1 }")).await;
        for round in 1..=3 {
            let call = tokio::task::spawn_local({
                let forebay = forebay.clone();
                async move { forebay.call(chat("x")).await }
            });
            while script.times().len() < round {
                tokio::task::yield_now().await;
            }
            call.abort();
        }
        while dropped.load(std::sync::atomic::Ordering::Relaxed) < 3 {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn the_dispatcher_takes_calls_and_cancels_as_messages() {
    in_virtual_time(async {
        let script = Script::new(vec![gives(|| Ok(Scripted::json(200, good("by message"))))], silence);
        let forebay = script.start(config("")).await;
        let answer = forebay.dispatcher().send(Call::new(chat("one"))).await.expect("the dispatcher lives");
        assert!(answer.is_ok());
        let call = Call::new(chat("two"));
        let id = call.id;
        let pending = forebay.dispatcher().send(call);
        forebay.dispatcher().do_send(Cancel(id));
        let outcome: Outcome = pending.await.expect("the dispatcher lives");
        assert!(outcome.is_err(), "a cancelled call has no answer");
    });
}

#[test]
fn retries_over_the_retry_budget_wait_and_end_when_the_upstream_answers_nothing() {
    in_virtual_time(async {
        let script =
            Script::new(vec![], || gives(|| Err(TransportError::new(FailureKind::Cut, Sent::Maybe, "scripted"))));
        let forebay = script.start(config("")).await;
        let outcomes = join_all((0..200).map(|n| forebay.call(chat(&n.to_string())))).await;
        assert!(
            outcomes.iter().all(|outcome| outcome.as_ref().is_err_and(|error| error.code() == "upstream_unavailable"))
        );
        let times = script.times();
        let first = times[0];
        let retries = times.iter().filter(|at| **at > first).count();
        assert!(retries >= 70, "a share of 200 and thirty more may be retried: {retries}");
        let early = times.iter().filter(|at| **at > first && **at - first < s(10.0)).count();
        assert_eq!(early, 70);
    });
}

#[test]
fn repeats_of_what_was_maybe_sent_are_counted_apart_from_those_that_surely_were_not() {
    in_virtual_time(async {
        let fails = |kind, sent| gives(move || Err(TransportError::new(kind, sent, "scripted")));
        let scenes = vec![
            fails(FailureKind::Unreachable, Sent::No),
            fails(FailureKind::Cut, Sent::Maybe),
            fails(FailureKind::Unreachable, Sent::No),
            gives(|| Ok(Scripted::json(500, "{}"))),
        ];
        let script = Script::new(scenes, || gives(|| Ok(Scripted::json(200, good("ok")))));
        let forebay = script.start(config("")).await;
        forebay.call(chat("hello")).await.expect("answered");
        let health = forebay.health().await.expect("it answers");
        assert_eq!((health.repeats_maybe_billed, health.waiting, health.in_flight), (1, 0, 0));
    });
}

/// Two hundred calls at once, the first of which is told to come again in ten seconds: when each was made, from then on.
async fn behind_a_hold(limits: &str) -> Vec<f64> {
    let refuse = gives(|| Ok(Scripted::with(Scripted::json(429, "{}"), "retry-after", "10")));
    let script = Script::new(vec![refuse], takes(s(0.1)));
    let forebay = script.start(config(limits)).await;
    let outcomes = join_all((0..200).map(|n| forebay.call(chat(&n.to_string())))).await;
    assert!(outcomes.iter().all(Result::is_ok));
    let times = script.times();
    let released = times[0] + s(10.0);
    let held = times.iter().filter(|at| **at > times[0] && **at < released).count();
    assert_eq!(held, 0, "nothing goes while the hold lasts");
    times.iter().filter(|at| **at >= released).map(|at| (*at - released).as_secs_f64()).collect()
}

fn until(times: &[f64], seconds: f64) -> usize {
    times.iter().filter(|at| **at < seconds).count()
}

#[test]
fn after_a_hold_an_account_of_unknown_limits_is_released_slowly() {
    in_virtual_time(async {
        let times = behind_a_hold("").await;
        assert!(until(&times, 1.0) <= 2 && until(&times, 3.0) <= 7, "{times:?}");
        assert!(*times.last().expect("many") < 15.0, "faster each second: {times:?}");
    });
}

#[test]
fn after_a_hold_an_account_whose_limit_is_known_goes_on_near_it_at_once_and_keeps_it() {
    in_virtual_time(async {
        let times = behind_a_hold("limits = { requests_per_minute = 600 }").await;
        // Its silent upstream has refused: from then on calls come evenly, half a second's worth at once.
        assert!(until(&times, 1.0) >= 12 && until(&times, 10.0) >= 85, "{times:?}");
        assert!((1..=20).all(|n| until(&times, f64::from(n)) <= 100 * (1 + n as usize / 10)), "{times:?}");
    });
}

#[test]
fn a_limit_that_nobody_configured_costs_time_and_a_few_refusals_but_no_call() {
    in_virtual_time(async {
        // Twenty a second, a second's worth at once; refused calls are told when to come again.
        let bucket = std::sync::Arc::new(std::sync::Mutex::new((20.0_f64, clock::now())));
        let refused = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let count = refused.clone();
        let script = Script::new(vec![], move || {
            let (bucket, count) = (bucket.clone(), count.clone());
            Box::new(move |_| {
                Box::pin(async move {
                    {
                        let mut bucket = bucket.lock().expect("no panic while held");
                        let now = clock::now();
                        bucket.0 = (bucket.0 + 20.0 * (now - bucket.1).as_secs_f64()).min(20.0);
                        bucket.1 = now;
                        if bucket.0 < 1.0 {
                            count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                            return Ok(Scripted::with(Scripted::json(429, "{}"), "retry-after", "1"));
                        }
                        bucket.0 -= 1.0;
                    }
                    clock::until(clock::now() + s(0.15)).await;
                    Ok(Scripted::json(200, good("ok")))
                })
            })
        });
        let forebay = script.start(config("")).await;
        let start = clock::now();
        let callers = (0..50).map(|_| {
            let forebay = forebay.clone();
            async move {
                for n in 0..20 {
                    forebay.call(chat(&n.to_string())).await.expect("nothing is lost");
                }
            }
        });
        join_all(callers).await;
        let took = (clock::now() - start).as_secs_f64();
        let refused = refused.load(std::sync::atomic::Ordering::Relaxed);
        // Whole seconds of waiting hide the true rate, 50 s for all of them: it is approached from below, slowly.
        assert!(took < 150.0, "{took} s, {refused} refused");
        assert!(refused < 50, "{took} s, {refused} refused");
    });
}

#[test]
fn a_retry_is_not_refused_for_the_calls_that_stand_behind_it() {
    in_virtual_time(async {
        let script = Script::new(vec![gives(|| Ok(Scripted::json(500, "{}")))], takes(s(0.1)));
        let forebay = script.start(config("limits = { requests_per_minute = 60 }")).await;
        let call = |n: usize, timeout: f64| {
            let forebay = forebay.clone();
            tokio::task::spawn_local(async move { forebay.call(chat(&n.to_string()).with_timeout(s(timeout))).await })
        };
        let first = call(0, 60.0);
        tokio::task::yield_now().await;
        let behind: Vec<_> = (1..=200).map(|n| call(n, 600.0)).collect();
        let answer = first.await.expect("no panic").expect("it keeps its place");
        assert_eq!(answer.meta.attempts, 2);
        for call in behind {
            call.await.expect("no panic").expect("answered");
        }
    });
}

#[test]
fn a_429_that_says_at_once_is_no_reason_to_hurry() {
    in_virtual_time(async {
        let script =
            Script::new(vec![], || gives(|| Ok(Scripted::with(Scripted::json(429, "{}"), "retry-after", "0"))));
        let forebay = script.start(config("")).await;
        let error = forebay.call(chat("hello")).await.expect_err("never answered");
        assert_eq!((error.status(), script.waits()), (429, vec![1.0, 2.0, 4.0, 8.0]));
    });
}

#[test]
fn a_key_that_has_rested_takes_calls_while_another_is_busy() {
    in_virtual_time(async {
        let text = "[pool]\nthreads = 0\n[upstreams.up]\nbase_url = \"http://u.test/v1\"\napi_keys = [\"sk-test-000001\", \"sk-test-000002\"]\nmodels = [\"m\"]\nlimits = { max_concurrent = 1 }";
        let script = Script::new(vec![gives(|| Ok(Scripted::json(401, "{}"))), silence()], || {
            gives(|| Ok(Scripted::json(200, good("ok"))))
        });
        let forebay = script.start(Config::from_toml(text).unwrap_or_else(|problems| panic!("{problems}"))).await;
        let start = clock::now();
        let stuck = tokio::task::spawn_local({
            let forebay = forebay.clone();
            async move { forebay.call(chat("stuck on the second key")).await }
        });
        while script.times().len() < 2 {
            tokio::task::yield_now().await;
        }
        forebay.call(chat("waits for the first key")).await.expect("answered");
        assert_eq!(clock::now() - start, s(60.0));
        stuck.abort();
    });
}

#[test]
fn a_call_id_is_good_for_one_call_at_a_time() {
    in_virtual_time(async {
        let script = Script::new(vec![], takes(s(1.0)));
        let forebay = script.start(config("")).await;
        let call = Call::new(chat("one"));
        let first = forebay.dispatcher().send(call.clone());
        let second = forebay.dispatcher().send(call);
        let (first, second) = futures_util::future::join(first, second).await;
        assert!(first.expect("the dispatcher lives").is_ok());
        assert_eq!(second.expect("the dispatcher lives").expect_err("refused").code(), "invalid_request");
    });
}

#[test]
fn an_endless_timeout_and_a_senseless_usage_harm_nobody() {
    in_virtual_time(async {
        let senseless = r#"{"choices":[],"usage":{"total_tokens":18446744073709551615}}"#;
        let script = Script::new(vec![gives(move || Ok(Scripted::json(200, senseless)))], takes(s(0.1)));
        let forebay = script.start(config("limits = { tokens_per_minute = 6000 }")).await;
        forebay.call(chat("one").with_timeout(Duration::MAX)).await.expect("answered");
        let start = clock::now();
        forebay.call(chat("two")).await.expect("answered");
        assert!(clock::now() - start < s(130.0), "a minute's cap is the most that one answer can cost");
    });
}

/// Five hundred calls against an upstream that fails by the dice; gives everything that can be seen from outside.
fn run_of(seed: u64) -> Vec<(u128, String)> {
    in_virtual_time(async move {
        let dice = std::sync::Arc::new(std::sync::Mutex::new(Dice::seeded(seed)));
        let log = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let start = clock::now();
        let (rolls, entries) = (dice.clone(), log.clone());
        let script = Script::new(vec![], move || {
            let (rolls, entries) = (rolls.clone(), entries.clone());
            Box::new(move |request: HttpRequest| {
                Box::pin(async move {
                    let (roll, latency) = {
                        let mut dice = rolls.lock().expect("no panic while held");
                        (dice.fraction(), dice.up_to(s(0.5)))
                    };
                    entries.lock().expect("no panic while held").push((
                        (clock::now() - start).as_micros(),
                        String::from_utf8_lossy(&request.body).into_owned(),
                    ));
                    clock::until(clock::now() + latency).await;
                    let answer: Result<HttpResponse, TransportError> = match (roll * 100.0) as u32 {
                        0..5 => Err(TransportError::new(FailureKind::Cut, Sent::Maybe, "scripted")),
                        5..10 => Ok(Scripted::json(500, "{}")),
                        10..15 => Ok(Scripted::with(Scripted::json(429, "{}"), "retry-after", "1")),
                        _ => Ok(Scripted::json(200, good(&String::from_utf8_lossy(&request.body)))),
                    };
                    answer
                })
            })
        });
        let text = "[pool]\nthreads = 0\n[upstreams.up]\nbase_url = \"http://u.test/v1\"\nmodels = [\"m\"]\nlimits = { requests_per_minute = 3000 }";
        let config = Config::from_toml(text).unwrap_or_else(|problems| panic!("{problems}"));
        let scripted = script.clone();
        let forebay: Forebay = scripted.start(config).await;
        let outcomes = join_all((0..500).map(|n| forebay.call(chat(&format!("prompt {n}"))))).await;
        for (n, outcome) in outcomes.into_iter().enumerate() {
            let answer = outcome.expect("nothing is lost");
            let forebay::AnswerBody::Whole(body) = answer.body else { panic!("a whole answer") };
            assert!(String::from_utf8_lossy(&body).contains(&format!("prompt {n}\\")), "each gets its own answer");
        }
        log.lock().expect("no panic while held").clone()
    })
}

#[test]
fn the_same_seed_gives_the_same_run_to_the_last_event() {
    let (first, second, other) = (run_of(11), run_of(11), run_of(12));
    assert!(first.len() > 500);
    assert_eq!(first, second);
    assert_ne!(first, other);
}
