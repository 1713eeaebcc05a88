//! What the status says, checked against what happens then, in virtual time.

mod support;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use forebay::clock::{self, Instant};
use forebay::transport::{HttpResponse, Scripted};
use forebay::{Forebay, Outcome, Priority, Request};
use futures_util::StreamExt as _;
use serde_json::Value;
use support::{Scene, Script, chat, config, gives, good, in_virtual_time, s, streamed};

/// The status as its endpoint prints it.
async fn status(forebay: &Forebay) -> Value {
    let status = forebay.status().await.expect("the dispatcher answers");
    serde_json::to_value(&status).expect("it can be written")
}

fn account(status: &Value) -> &Value {
    &status["upstreams"][0]["accounts"][0]
}

/// When the next call of a priority may go, and what keeps it.
fn next<'a>(status: &'a Value, priority: &str) -> (Option<f64>, &'a str) {
    let model = &account(status)["models"][0];
    let all = model["next"].as_array().unwrap_or_else(|| panic!("nothing is known in {status:#}"));
    let next = all.iter().find(|next| next["priority"] == priority).expect("each priority is there");
    (next["in_s"].as_f64(), next["why"].as_str().unwrap_or_default())
}

fn number(of: &Value) -> f64 {
    of.as_f64().unwrap_or_else(|| panic!("{of} is no number"))
}

/// Lets what is under way go on for a while.
async fn pass(seconds: f64) {
    clock::until(clock::now() + s(seconds)).await;
}

/// Makes a call beside; gives when it ended, and how.
fn beside(forebay: &Forebay, request: Request) -> Rc<Cell<Option<(Instant, Outcome)>>> {
    let (ended, forebay) = (Rc::new(Cell::new(None)), forebay.clone());
    let end = Rc::clone(&ended);
    actix_rt::spawn(async move {
        let outcome = forebay.call(request.with_timeout(s(3_600.0))).await;
        end.set(Some((clock::now(), outcome)));
    });
    ended
}

fn assert_answered(call: &Rc<Cell<Option<(Instant, Outcome)>>>) {
    match call.take() {
        Some((_, outcome)) => assert!(outcome.is_ok(), "{outcome:?}"),
        None => panic!("it waits still"),
    }
}

fn with_limits(answer: HttpResponse, limit: u32, remaining: u32, reset: &'static str) -> HttpResponse {
    let answer = Scripted::with(answer, "x-ratelimit-limit-requests", &limit.to_string());
    let answer = Scripted::with(answer, "x-ratelimit-remaining-requests", &remaining.to_string());
    Scripted::with(answer, "x-ratelimit-reset-requests", reset)
}

#[test]
fn of_a_held_account_it_says_for_how_long_and_for_which_budget() {
    in_virtual_time(async {
        let limited = || {
            let body = r#"{"error":{"message":"too many","code":"rate_limit_exceeded"}}"#;
            let answer = with_limits(Scripted::json(429, body), 500, 0, "30s");
            Ok(Scripted::with(answer, "retry-after", "20"))
        };
        let script = Script::new(vec![gives(limited)], || gives(|| Ok(Scripted::json(200, good("ok")))));
        let forebay = script.start(config("")).await;
        let call = beside(&forebay, chat("held"));
        pass(5.0).await;
        let status = status(&forebay).await;
        assert_eq!(number(&account(&status)["held_for_s"]), 15.0);
        assert_eq!(status["upstreams"][0]["waiting"]["normal"], 1);
        let (wait, why) = next(&status, "normal");
        assert_eq!(wait, Some(15.0));
        let words =
            "held by the upstream's own word (Retry-After); of the provider's 500 requests per minute (learned) ";
        assert!(why.starts_with(words), "{why}");
        let first = status["upstreams"][0]["first_waits_for"].as_str().expect("somebody waits");
        assert_eq!(first, format!("{why}, the next call may go in 15.0 s"));
        let error = forebay.call(chat("no time").with_timeout(s(10.0))).await.expect_err("it is held for longer");
        assert!(error.message().contains(&format!("up#1: {first}")), "the caller is told the same: {error}");
        // By then what others have used of the minute is back, too.
        pass(60.0).await;
        assert_answered(&call);
    });
}

#[test]
fn of_a_learned_limit_it_says_what_is_left_and_a_call_goes_when_it_said() {
    in_virtual_time(async {
        let script =
            Script::new(vec![gives(|| Ok(with_limits(Scripted::json(200, good("ok")), 60, 12, "12s")))], || {
                gives(|| Ok(with_limits(Scripted::json(200, good("ok")), 60, 0, "60s")))
            });
        let forebay = script.start(config("")).await;
        forebay.call(chat("one")).await.expect("answered");
        let before = status(&forebay).await;
        let budget = &account(&before)["models"][0]["budgets"][0];
        assert_eq!(
            (&budget["whose"], &budget["counts"], &budget["scope"]),
            (&"told".into(), &"requests".into(), &"whole".into())
        );
        assert_eq!((number(&budget["limit"]), number(&budget["left"])), (60.0, 12.0));
        assert_eq!(next(&before, "normal"), (Some(0.0), ""));
        forebay.call(chat("two")).await.expect("answered");
        let after = status(&forebay).await;
        assert_eq!(number(&account(&after)["models"][0]["budgets"][0]["left"]), 0.0);
        let (wait, why) = next(&after, "normal");
        assert!(why.starts_with("of the provider's 60 requests per minute (learned) 0 are left"), "{why}");
        let (start, wait) = (clock::now(), s(wait.expect("it is known when")));
        assert!(wait > s(0.5), "{wait:?}");
        forebay.call(chat("three")).await.expect("answered");
        let took = clock::now() - start;
        assert!(took >= wait && took < wait + s(0.2), "it said {wait:?}, and it was {took:?}");
    });
}

#[test]
fn what_the_head_of_a_stream_says_is_known_while_the_stream_goes_on() {
    in_virtual_time(async {
        let script = Script::new(vec![], || {
            gives(|| {
                let chunk =
                    r#"{"id":"1","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"ok"}}]}"#;
                let events = Scripted::events(vec![Ok(format!("data: {chunk}\n\ndata: [DONE]\n\n").into())]);
                Ok(with_limits(events, 60, 0, "60s"))
            })
        });
        let forebay = script.start(config("")).await;
        let stream = forebay.stream(streamed("streamed")).await.expect("opened");
        let late = forebay.call(chat("no time").with_timeout(s(0.5))).await.expect_err("nothing is left");
        assert_eq!(late.code(), "deadline_exceeded");
        let words = "up#1: of the provider's 60 requests per minute (learned) 0 are left, the next call may go in ";
        assert!(late.message().contains(words), "{late}");
        drop(stream);
    });
}

#[test]
fn what_the_provider_says_by_halves_is_passed_on_as_it_was_said() {
    in_virtual_time(async {
        let by_halves = || Ok(Scripted::with(Scripted::json(200, good("ok")), "x-ratelimit-remaining-tokens", "700"));
        let script = Script::new(vec![], move || gives(by_halves));
        let forebay = script.start(config("limits = { requests_per_minute = 1 }")).await;
        forebay.call(chat("one")).await.expect("answered");
        let late = forebay.call(chat("two").with_timeout(s(10.0))).await.expect_err("its cap is used up");
        let words = "of its requests_per_minute of 1 (configured) 0 are left (the provider says: 700 tokens left)";
        assert!(late.message().contains(words), "{late}");
    });
}

#[test]
fn of_low_priority_it_says_that_its_pace_keeps_it_while_others_could_go() {
    in_virtual_time(async {
        let left = Arc::new(AtomicUsize::new(500));
        let script = Script::new(vec![], move || {
            let left = Arc::clone(&left);
            gives(move || {
                let left = left.fetch_sub(1, Relaxed) as u32 - 1;
                Ok(with_limits(Scripted::json(200, good("ok")), 500, left, "60s"))
            })
        });
        let forebay = script.start(config("")).await;
        forebay.call(chat("the first")).await.expect("answered");
        (0..200).for_each(|n| _ = beside(&forebay, chat(&n.to_string()).with_priority(Priority::Low)));
        pass(1.0).await;
        let status = status(&forebay).await;
        let waiting = &status["upstreams"][0]["waiting"];
        assert!(number(&waiting["low"]) > 100.0, "{waiting}");
        let (wait, why) = next(&status, "low");
        assert!(wait.is_some_and(|wait| wait > 0.0 && wait < 1.0) && why.contains("spread evenly"), "{wait:?} {why}");
        assert_eq!(next(&status, "high"), (Some(0.0), ""));
        let start = clock::now();
        forebay.call(chat("urgent").with_priority(Priority::High)).await.expect("answered");
        assert_eq!(clock::now(), start);
    });
}

/// A server that takes `most` at once, each for a second, and refuses more.
fn takes(most: usize) -> impl Fn() -> Scene + Send + Sync + 'static {
    let busy = Arc::new(AtomicUsize::new(0));
    move || {
        let busy = Arc::clone(&busy);
        Box::new(move |_| {
            Box::pin(async move {
                if busy.load(Relaxed) >= most {
                    return Ok(Scripted::json(429, r#"{"error":{"message":"too many at once"}}"#));
                }
                busy.fetch_add(1, Relaxed);
                pass(1.0).await;
                busy.fetch_sub(1, Relaxed);
                Ok(Scripted::json(200, good("ok")))
            })
        })
    }
}

#[test]
fn of_a_server_that_takes_so_many_at_once_it_says_how_many_were_found() {
    in_virtual_time(async {
        let forebay = Script::new(vec![], takes(5)).start(config("")).await;
        (0..300).for_each(|n| _ = beside(&forebay, chat(&n.to_string())));
        pass(30.0).await;
        let status = status(&forebay).await;
        let account = account(&status);
        assert_eq!(number(&account["at_once"]["limit"]), 5.0, "{account:#}");
        let why = account["at_once"]["why"].as_str().expect("it says why");
        assert!(why.starts_with("takes 5 at once (learned; the last refusal was at "), "{why}");
        assert_eq!(account["in_flight"], status["in_flight"]);
        assert!(number(&status["in_flight"]) >= 4.0 && number(&status["pool"]["slots"]) >= 5.0);
    });
}

#[test]
fn caps_and_what_waits_between_tries_are_told() {
    in_virtual_time(async {
        let ill = || gives(|| Ok(Scripted::json(500, r#"{"error":{"message":"ill"}}"#)));
        let script = Script::new(vec![ill(), ill()], || gives(|| Ok(Scripted::json(200, good("ok")))));
        let forebay = script.start(config("limits = { requests_per_minute = 100, tokens_per_minute = 90000 }")).await;
        let call = beside(&forebay, chat("ill at first"));
        pass(2.5).await;
        let status = status(&forebay).await;
        assert_eq!((&status["waiting"], &status["upstreams"][0]["waiting"]["backing_off"]), (&1.into(), &1.into()));
        assert_eq!(status["upstreams"][0]["first_waits_for"], Value::Null, "nobody stands in line");
        assert_eq!(status["upstreams"][0]["retries"]["left"], 29);
        let cap = &account(&status)["caps"][0];
        assert_eq!(
            (&cap["counts"], &cap["limit_per_minute"], &cap["used"], &cap["left"]),
            (&"requests".into(), &100.into(), &2.into(), &98.into())
        );
        assert_eq!(account(&status)["caps"][1]["counts"], "tokens");
        pass(2.0).await;
        assert_answered(&call);
    });
}

/// When attempts were made to a server that refuses a call every so often, with the status asked for `every` so often.
fn attempts(every: Option<Duration>) -> Vec<Duration> {
    in_virtual_time(async {
        let calls = Arc::new(AtomicUsize::new(0));
        let script = Script::new(vec![], move || {
            let n = calls.fetch_add(1, Relaxed);
            gives(move || match n % 60 {
                59 => Ok(Scripted::with(Scripted::json(429, r#"{"error":{"message":"slower"}}"#), "retry-after", "2")),
                _ => Ok(Scripted::json(200, good("ok"))),
            })
        });
        let forebay = script.start(config("limits = { requests_per_minute = 300 }")).await;
        let start = clock::now();
        for n in 0..200u32 {
            beside(
                &forebay,
                chat(&n.to_string()).with_priority(if n % 2 == 0 { Priority::Low } else { Priority::Normal }),
            );
        }
        let until = start + s(120.0);
        while let Some(every) = every.filter(|_| clock::now() < until) {
            status(&forebay).await;
            pass(every.as_secs_f64()).await;
        }
        clock::until(until).await;
        script.times().into_iter().map(|at| at - start).collect()
    })
}

#[test]
fn asking_changes_nothing() {
    let unasked = attempts(None);
    assert!(unasked.len() > 150, "{}", unasked.len());
    assert_eq!(unasked, attempts(Some(s(0.37))));
}

/// A streamed answer that says in its last chunk what it used.
fn stream_with_usage() -> HttpResponse {
    let chunk =
        |rest: &str| format!("data: {{\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"model\":\"m\",{rest}}}\n\n");
    let delta = chunk(r#""choices":[{"index":0,"delta":{"content":"ok"},"finish_reason":"stop"}]"#);
    let usage = chunk(
        r#""choices":[],"usage":{"prompt_tokens":100,"prompt_tokens_details":{"cached_tokens":40},"completion_tokens":10}"#,
    );
    Scripted::events(vec![Ok(delta.into()), Ok(usage.into()), Ok("data: [DONE]\n\n".into())])
}

#[test]
fn what_calls_have_used_and_cost_is_told_call_by_call_and_in_sum() {
    in_virtual_time(async {
        let dear = "[upstreams.up.prices.m]\ninput = 1000\ncached_input = 100\noutput = 10000";
        let slow: Scene = Box::new(|_| {
            Box::pin(async {
                pass(2.0).await;
                Ok(Scripted::json(200, good("ok")))
            })
        });
        let script = Script::new(vec![slow, gives(|| Ok(stream_with_usage()))], || {
            gives(|| Ok(Scripted::json(200, r#"{"id":"c","choices":[]}"#)))
        });
        let forebay = script.start(config(dear)).await;
        let answer = forebay.call(chat("whole")).await.expect("answered");
        // Three tokens in, four out.
        let cost = answer.meta.cost_usd.expect("it has a price");
        assert!((cost - 0.043).abs() < 1e-9, "{cost}");
        let events = forebay.stream(streamed("streamed")).await.expect("it begins");
        events.for_each(|event| async { drop(event.expect("it goes on")) }).await;
        forebay.call(chat("usage untold")).await.expect("answered");

        let status = status(&forebay).await;
        let used = &status["upstreams"][0]["used"];
        assert_eq!(used.as_array().map(Vec::len), Some(1), "{used:#}");
        let used = &used[0];
        assert_eq!((&used["model"], &used["calls"]), (&"m".into(), &3.into()));
        assert_eq!((&used["calls_without_usage"], &used["calls_without_price"]), (&1.into(), &0.into()));
        let tokens = ["input_tokens", "cached_input_tokens", "output_tokens"].map(|key| number(&used[key]));
        assert_eq!(tokens, [103.0, 40.0, 14.0]);
        // Of the stream sixty fresh, forty cached, ten written.
        assert!((number(&used["cost_usd"]) - (0.043 + 0.06 + 0.004 + 0.1)).abs() < 1e-9, "{used:#}");
        assert_eq!((number(&used["latency"]["p50_s"]), number(&used["latency"]["p95_s"])), (0.0, 2.0));
    });
}
