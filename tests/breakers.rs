//! What a breaker does while an upstream is away, and how it comes back into use. In virtual time; the daemon itself is in
//! `outages`.

mod support;
#[path = "support/two.rs"]
mod two;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use bytes::Bytes;
use forebay::clock;
use forebay::transport::{HttpResponse, LocalFuture, Scripted, TransportError};
use forebay::{FailureKind, Sent};
use futures_util::future::join_all;
use futures_util::{StreamExt as _, stream};
use support::{in_virtual_time, s};
use two::{Seen, Told, World, beside, call, ended, fails, ok, status, status_of, told, two};

/// An upstream `first` that is away while `away` says so, and then resets every connection.
fn away(is_away: &Arc<AtomicBool>) -> impl Fn(Seen) -> LocalFuture<Told> + Send + Sync + 'static {
    let is_away = Arc::clone(is_away);
    move |seen| {
        let is_away = Arc::clone(&is_away);
        let is_first = seen.upstream == "first";
        told(if is_first && is_away.load(Relaxed) { fails(FailureKind::Cut) } else { ok() })
    }
}

#[test]
fn a_breaker_opens_after_ten_seconds_of_failures_and_whoever_waits_is_told_at_once() {
    in_virtual_time(async {
        let (world, is_away) = (World::default(), Arc::new(AtomicBool::new(true)));
        let forebay = world.start(two("", ""), away(&is_away)).await;
        let start = clock::now();
        let mut ends = vec![beside(&forebay, 60, "first/a")];
        clock::until(start + s(9.5)).await;
        ends.push(beside(&forebay, 5, "first/a"));
        clock::until(start + s(9.9)).await;
        let before = status_of(&forebay, "first").await;
        assert_eq!(before["breaker"]["is_open"], false, "{before:#}");
        assert!(before["waiting"]["parked"].as_u64() > Some(0), "some wait for the retry budget: {before:#}");
        assert!(before["waiting"]["backing_off"].as_u64() > Some(0), "and some for their time: {before:#}");
        let mut told_so = 0;
        let ends = join_all(ends).await.into_iter().flat_map(|ends| ends.expect("no panic"));
        for (at, outcome) in ends {
            let error = outcome.expect_err("the upstream is away");
            assert_eq!((error.status(), error.code(), at - start), (502, "upstream_unavailable", s(10.0)), "{error}");
            assert!(error.retry_after() >= Some(s(1.0)), "{error}");
            told_so += usize::from(error.message().contains("first is taken for broken"));
        }
        assert_eq!(told_so, 65);
        let open = status_of(&forebay, "first").await;
        assert_eq!((&open["breaker"]["is_open"], &open["waiting"]["parked"]), (&true.into(), &0.into()), "{open:#}");
        assert!(open["breaker"]["failed_in_a_row"].as_u64() >= Some(20), "{open:#}");
        // Nobody waits, and nobody is asked, until a second has gone by.
        let asked = world.asked("first");
        for _ in 0..5 {
            let error = forebay.call(call("first/a")).await.expect_err("it is broken");
            assert_eq!(ended(&error), (502, "upstream_unavailable", 0, None));
        }
        assert_eq!((world.asked("first"), clock::now() - start), (asked, s(10.0)));
    });
}

#[test]
fn one_call_a_second_probes_a_broken_upstream_and_its_answer_closes_the_breaker() {
    in_virtual_time(async {
        let (world, is_away) = (World::default(), Arc::new(AtomicBool::new(true)));
        let forebay = world.start(two("", ""), away(&is_away)).await;
        let start = clock::now();
        beside(&forebay, 60, "first/a").await.expect("no panic");
        let asked = world.asked("first");
        // Five seconds of callers, twenty a second.
        for n in 1..=100 {
            clock::until(start + s(10.0) + s(0.05) * n).await;
            forebay.call(call("first/a")).await.expect_err("it is broken");
        }
        assert_eq!(world.asked("first") - asked, 5, "one a second, whoever calls");
        is_away.store(false, Relaxed);
        let refused = forebay.call(call("first/a")).await.expect_err("not yet a second since the last");
        assert_eq!(refused.meta().attempts, 0);
        // A minute without callers: nothing is probed, and the first call is the probe.
        let asked = world.asked("first");
        clock::until(start + s(75.0)).await;
        assert_eq!(world.asked("first"), asked);
        forebay.call(call("first/a")).await.expect("it is back");
        assert_eq!(status_of(&forebay, "first").await["breaker"]["is_open"], false);
        for (_, outcome) in beside(&forebay, 50, "first/a").await.expect("no panic") {
            outcome.expect("it is back");
        }
    });
}

#[test]
fn calls_of_a_broken_upstream_move_on_and_a_probe_that_fails_does_as_well() {
    in_virtual_time(async {
        let (world, is_away) = (World::default(), Arc::new(AtomicBool::new(true)));
        let forebay = world.start(two("", ""), away(&is_away)).await;
        let start = clock::now();
        for (at, outcome) in beside(&forebay, 60, "smart").await.expect("no panic") {
            assert_eq!(outcome.expect("the second takes it").meta.upstream.as_deref(), Some("second"));
            assert!(at - start <= s(10.0), "{:?}", at - start);
        }
        let mut attempts = Vec::new();
        for n in 1..=40 {
            clock::until(start + s(10.0) + s(0.1) * n).await;
            attempts.push(forebay.call(call("smart")).await.expect("the second takes it").meta.attempts);
        }
        let probes = attempts.iter().filter(|attempts| **attempts == 2).count();
        assert_eq!((probes, attempts.len() - probes), (4, 36), "{attempts:?}");
        is_away.store(false, Relaxed);
        clock::until(clock::now() + s(1.0)).await;
        for _ in 0..3 {
            let answer = forebay.call(call("smart")).await.expect("it is back");
            assert_eq!((answer.meta.attempts, answer.meta.upstream.as_deref()), (1, Some("first")));
        }
    });
}

#[test]
fn neither_rate_limits_nor_refusals_of_calls_open_a_breaker_and_a_reload_closes_one() {
    for refusal in [400, 404, 429] {
        in_virtual_time(async move {
            let world = World::default();
            let forebay = world.start(two("", ""), move |_| told(status(refusal))).await;
            let start = clock::now();
            while clock::now() < start + s(30.0) {
                drop(beside(&forebay, 5, "first/a"));
                clock::until(clock::now() + s(0.5)).await;
            }
            assert_eq!(status_of(&forebay, "first").await["breaker"]["is_open"], false, "{refusal}");
        });
    }
    in_virtual_time(async {
        let (world, is_away) = (World::default(), Arc::new(AtomicBool::new(true)));
        let forebay = world.start(two("", ""), away(&is_away)).await;
        beside(&forebay, 60, "first/a").await.expect("no panic");
        assert_eq!(status_of(&forebay, "first").await["breaker"]["is_open"], true);
        is_away.store(false, Relaxed);
        forebay.reconfigure(two("", ""));
        forebay.call(call("first/a")).await.expect("the operator has mended it");
    });
}

/// Content every fifth of a second for ten seconds, or until the upstream goes away.
fn words(is_away: &Arc<AtomicBool>) -> HttpResponse {
    let is_away = Arc::clone(is_away);
    let pieces = stream::iter(0..=50).then(move |n| {
        let is_away = Arc::clone(&is_away);
        async move {
            clock::until(clock::now() + s(0.2)).await;
            let event = match n {
                50 => {
                    "{\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]".to_owned()
                }
                n => format!("{{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{n} \"}}}}]}}"),
            };
            match is_away.load(Relaxed) {
                true => Err(TransportError::new(FailureKind::Cut, Sent::Maybe, "away")),
                false => Ok(Bytes::from(format!("data: {event}\n\n"))),
            }
        }
    });
    let mut response = Scripted::events(vec![]);
    response.body = Box::pin(pieces);
    response
}

#[test]
fn a_kill_of_one_of_two_upstreams_under_load_costs_begun_streams_their_end_and_no_call_its_answer() {
    const TIMEOUT: f64 = 30.0;
    in_virtual_time(async {
        let (world, is_away) = (World::default(), Arc::new(AtomicBool::new(false)));
        let away = Arc::clone(&is_away);
        let forebay = world
            .start(two("", ""), move |seen| {
                let (first, away) = (seen.upstream == "first", Arc::clone(&away));
                let stays = Arc::new(AtomicBool::new(false));
                Box::pin(async move {
                    if first && away.load(Relaxed) {
                        return fails(FailureKind::Unreachable);
                    }
                    if seen.body["stream"] == true {
                        return Ok(words(if first { &away } else { &stays }));
                    }
                    clock::until(clock::now() + s(0.4)).await;
                    // What was sent whole loses its connection.
                    if first && away.load(Relaxed) { fails(FailureKind::Cut) } else { ok() }
                })
            })
            .await;
        let start = clock::now();
        let (mut calls, mut streams) = (Vec::new(), Vec::new());
        // Twenty calls and two streams a second for a minute; the first upstream is away from 10 s to 40 s.
        for tick in 0..600 {
            is_away.store((100..400).contains(&tick), Relaxed);
            for _ in 0..2 {
                let forebay = forebay.clone();
                calls.push(tokio::task::spawn_local(async move {
                    let began = clock::now();
                    let outcome = forebay.call(call("smart").with_timeout(s(TIMEOUT))).await;
                    (began, clock::now() - began, outcome)
                }));
            }
            if tick % 5 == 0 {
                let forebay = forebay.clone();
                streams.push(tokio::task::spawn_local(async move {
                    let request = call("smart").into_stream().expect("a chat").with_timeout(s(TIMEOUT));
                    let began = clock::now();
                    let mut events = forebay.stream(request).await.expect("it begins");
                    let opened = clock::now();
                    let (upstream, mut last) = (events.meta().upstream.clone(), None);
                    while let Some(event) = events.next().await {
                        last = Some(event);
                    }
                    (began, opened, upstream, last)
                }));
            }
            clock::until(start + s(0.1) * (tick + 1)).await;
        }
        let mut took = Vec::new();
        let mut by = BTreeMap::new();
        for call in calls {
            let (began, length, outcome) = call.await.expect("no panic");
            let answer = outcome.unwrap_or_else(|error| panic!("the call of {:?}: {error:?}", began - start));
            *by.entry(answer.meta.upstream.expect("asked").to_string()).or_insert(0) += 1;
            took.push(length);
        }
        took.sort();
        let p99 = took[took.len() * 99 / 100];
        let (mut whole, mut broken) = (0, 0);
        for one in streams {
            let (began, opened, upstream, last) = one.await.expect("no panic");
            match last.expect("something came") {
                Ok(event) => {
                    assert_eq!(event.data, "[DONE]", "{:?}", began - start);
                    whole += 1;
                }
                Err(error) => {
                    let was_begun = opened < start + s(10.0) && upstream.as_deref() == Some("first");
                    assert!(was_begun, "opened at {:?} by {upstream:?}: {error}", opened - start);
                    broken += 1;
                }
            }
        }
        println!(
            "{} calls, 0 errors, {by:?}, p99 {p99:?}, longest {:?}; streams: {whole} whole, {broken} broken with an error",
            took.len(),
            took[took.len() - 1]
        );
        assert_eq!(took.len(), 1_200);
        assert!(p99 < s(TIMEOUT), "{p99:?}");
        assert!(broken > 0 && whole + broken == 120, "{whole} whole, {broken} broken");
        // Once a second while it was broken, and taken into use again at once.
        let probes = world.seen().into_iter().filter(|seen| seen.upstream == "first");
        let probes = probes.filter(|seen| (s(21.0)..s(39.0)).contains(&(seen.at - start))).count();
        assert!((15..=18).contains(&probes), "{probes} probes in 18 s");
        assert!(by["first"] > 500 && by["second"] > 400, "{by:?}");
    });
}
