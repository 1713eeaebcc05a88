//! The limits as a caller meets them.
//!
//! Where a test is not about time itself its period is a day, so that nothing comes back meanwhile, however slow the machine.

use std::time::Duration;

use forebay::clock;
use forebay::simulator::limits::{Acceleration, Charge, HeaderStyle, Limits, RetryAfter, Scarce};
use forebay::simulator::{Beyond, Rate, Running};
use serde_json::json;

use crate::client::{Answer, Client, Lost, ask, chat, start};

const DAY: Duration = Duration::from_secs(86_400);
const CHAT: &str = "/v1/chat/completions";

/// A simulator with these limits.
fn limited(change: impl FnOnce(&mut Limits)) -> Running {
    start(|settings| change(&mut settings.limits))
}

/// So many calls, one after the other, on one connection.
async fn calls(simulator: &Running, calls: usize) -> Vec<Answer> {
    let mut client = Client::new(simulator.address()).await;
    let mut answers = Vec::new();
    for n in 0..calls {
        answers.push(client.post(CHAT, &chat(&format!("call {n}"), false)).await.unwrap());
    }
    answers
}

fn statuses(answers: &[Answer]) -> Vec<u16> {
    answers.iter().map(|answer| answer.status).collect()
}

/// What each answer's header of this name says; of those without it nothing.
fn told<'a>(answers: &'a [Answer], name: &str) -> Vec<&'a str> {
    answers.iter().filter_map(|answer| answer.headers.get(name).map(String::as_str)).collect()
}

#[tokio::test]
async fn a_call_beyond_the_limit_is_told_when_to_come_back_and_is_granted_then() {
    let simulator = start(|settings| settings.limits.requests_per_second = Some(Rate::per_second(4)));
    let mut client = Client::new(simulator.address()).await;
    let mut refused = None;
    let mut asked = clock::now();
    for n in 0..20 {
        asked = clock::now();
        let answer = client.post("/v1/chat/completions", &chat(&format!("{n}"), false)).await.unwrap();
        assert_eq!(answer.headers["x-ratelimit-limit-requests"], "4");
        if answer.status == 429 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("a refusal within twenty calls at once");
    assert_eq!(
        (refused.json()["error"]["code"].as_str(), refused.headers["retry-after"].as_str()),
        (Some("rate_limit_exceeded"), "1")
    );
    assert_eq!(refused.headers["x-ratelimit-remaining-requests"], "0");
    let wait = Duration::from_millis(refused.headers["retry-after-ms"].parse().unwrap());
    assert!(wait <= Duration::from_millis(250));
    client.send("/v1/chat/completions", "another key", &chat("x", false).to_string()).await;
    assert_eq!(client.answer().await.unwrap().status, 200, "limits are per key");
    // A refusal costs nothing here: who asks all the time is let in when the time has come, and not before.
    while client.post("/v1/chat/completions", &chat("again", false)).await.unwrap().status == 429 {}
    assert!(asked.elapsed() + Duration::from_millis(1) > wait, "the time is told in whole milliseconds, rounded up");
    assert_eq!(client.post("/v1/chat/completions", &chat("[[fault:rate-limited]]", false)).await.unwrap().status, 429);
    let ledger = simulator.ledger();
    assert!(ledger.limit_429s >= 1 && ledger.limit_429s == ledger.limited_by.requests);
    assert_eq!(ledger.requests, ledger.answered + ledger.faulted + ledger.limited);
    assert!((4..=8).contains(&ledger.busiest.granted_in_1s), "{}", ledger.busiest.granted_in_1s);
}

#[tokio::test]
async fn tokens_are_limited_and_a_call_that_can_never_fit_is_told_so() {
    let simulator = start(|settings| settings.limits.tokens_per_minute = Some(Rate::per_minute(100)));
    let long = ask(&simulator, &"x".repeat(1_000), false).await.unwrap();
    assert_eq!((long.status, long.headers.get("retry-after")), (429, None));
    assert!(long.json()["error"]["message"].as_str().unwrap().contains("Request too large"));
    let fits = ask(&simulator, &"x".repeat(100), false).await.unwrap();
    assert_eq!(fits.headers["x-ratelimit-limit-tokens"], "100");
    let total = fits.json()["usage"]["total_tokens"].as_u64().unwrap();
    assert_eq!(total, simulator.ledger().tokens.prompt + simulator.ledger().tokens.completion);
    let second = ask(&simulator, &"y".repeat(100), false).await.unwrap();
    assert!(second.status == 429 && second.headers.contains_key("retry-after"));
    assert_eq!(simulator.ledger().limited_by.tokens, 2);
}

#[tokio::test]
async fn a_call_beyond_the_concurrency_limit_is_refused_or_reset_until_a_place_is_free() {
    for (beyond, status) in [(Beyond::Refuse, Ok(429)), (Beyond::Reset, Err(Lost::Reset))] {
        let simulator = start(|settings| {
            settings.limits.max_concurrent = Some(1);
            settings.beyond_concurrency = beyond;
        });
        let mut client = Client::new(simulator.address()).await;
        client.send("/v1/chat/completions", "k", &chat("[[fault:stall]]", false).to_string()).await;
        simulator.until(|seen| seen.admitted == 1).await;
        assert_eq!(ask(&simulator, "x", false).await.map(|answer| answer.status), status);
        drop(client);
        simulator.until(|seen| seen.in_flight == 0).await;
        assert_eq!(ask(&simulator, "x", false).await.unwrap().status, 200);
        let ledger = simulator.ledger();
        assert_eq!((ledger.limited_by.concurrency, ledger.limit_429s), (1, u64::from(beyond == Beyond::Refuse)));
    }
}

#[tokio::test]
async fn every_way_of_counting_grants_its_limit_and_shows_where_it_stands() {
    let rate = Rate::new(4, DAY);
    for rate in [rate, rate.sliding(), rate.fixed(), Rate::new(8, DAY).in_windows(DAY / 2)] {
        let simulator = limited(|limits| limits.requests_per_minute = Some(rate));
        let answers = calls(&simulator, 5).await;
        assert_eq!(statuses(&answers), [200, 200, 200, 200, 429], "{rate:?}");
        assert_eq!(told(&answers, "x-ratelimit-limit-requests"), ["4"; 5], "{rate:?}");
        assert_eq!(told(&answers, "x-ratelimit-remaining-requests"), ["3", "2", "1", "0", "0"], "{rate:?}");
        let seconds: u64 = answers[4].headers["retry-after"].parse().unwrap();
        assert!((1..=86_400).contains(&seconds), "{seconds}");
        let ledger = simulator.stop().await;
        let key = &ledger.keys[0];
        assert_eq!((key.granted, key.refused, ledger.limited_by.requests), (4, 1, 1));
        assert_eq!((key.limits[0].limit, key.limits[0].granted, key.limits[0].rate), (Scarce::Requests, 4, rate));
    }
}

#[tokio::test]
async fn a_hidden_window_refuses_although_headers_show_room() {
    let simulator = limited(|limits| {
        limits.requests_per_minute = Some(Rate::new(60, DAY));
        limits.hidden_requests = Some(Rate::new(60, DAY).in_windows(DAY / 20));
    });
    let answers = calls(&simulator, 4).await;
    assert_eq!(statuses(&answers), [200, 200, 200, 429]);
    assert_eq!(told(&answers, "x-ratelimit-remaining-requests"), ["59", "58", "57", "57"]);
    let error = answers[3].json()["error"].clone();
    assert_eq!(error["code"], "rate_limit_exceeded");
    assert!(!error["message"].as_str().unwrap().contains("Limit"), "{error}");
    assert_eq!(simulator.ledger().limited_by.hidden_requests, 1);
}

#[tokio::test]
async fn a_refused_call_may_cost_a_request_all_the_same() {
    for (rejects_count, left) in [(false, "9"), (true, "7")] {
        let simulator = limited(|limits| {
            limits.requests_per_minute = Some(Rate::new(10, DAY).sliding());
            limits.tokens_per_minute = Some(Rate::new(15, DAY).sliding());
            limits.rejects_count = rejects_count;
        });
        let answers = calls(&simulator, 3).await;
        assert_eq!(statuses(&answers), [200, 429, 429]);
        assert_eq!(answers[2].headers["x-ratelimit-remaining-requests"], left);
    }
}

#[tokio::test]
async fn a_provider_may_tell_whole_seconds_or_nothing_at_all() {
    let styles = [
        (HeaderStyle::OpenAi, RetryAfter::Exact, 3, 2),
        (HeaderStyle::Azure, RetryAfter::Seconds, 3, 1),
        (HeaderStyle::None, RetryAfter::Absent, 0, 0),
    ];
    for (headers, retry_after, about_limits, about_time) in styles {
        let simulator = limited(|limits| {
            limits.requests_per_minute = Some(Rate::new(1, DAY));
            (limits.headers, limits.retry_after) = (headers, retry_after);
        });
        let answers = calls(&simulator, 2).await;
        assert_eq!(statuses(&answers), [200, 429]);
        let begin_with =
            |answer: &Answer, text: &str| answer.headers.keys().filter(|name| name.starts_with(text)).count();
        let counts = answers.iter().map(|answer| begin_with(answer, "x-ratelimit-")).collect::<Vec<_>>();
        assert_eq!(counts, [about_limits; 2], "{headers:?}");
        assert_eq!((begin_with(&answers[0], "retry-after"), begin_with(&answers[1], "retry-after")), (0, about_time));
        let message = answers[1].json()["error"]["message"].as_str().unwrap().to_owned();
        let names_a_time = message.contains("try again in ") || message.contains("retry after ");
        assert_eq!(names_a_time, about_time > 0, "{message}");
        if headers == HeaderStyle::Azure {
            let reset = &answers[1].headers["x-ratelimit-reset-requests"];
            assert!(reset.parse::<u64>().is_ok_and(|seconds| seconds <= 86_400), "{reset}");
        }
    }
}

#[tokio::test]
async fn a_reserved_call_is_charged_what_it_might_have_used() {
    let simulator = limited(|limits| {
        limits.tokens_per_minute = Some(Rate::new(10_000, DAY).sliding());
        limits.charge = Charge::Reserved;
    });
    let mut client = Client::new(simulator.address()).await;
    // One token of prompt, and what the answers may have, under each of the three names.
    let message = json!([{"role": "user", "content": "hi"}]);
    let asks = [
        (CHAT, json!({"model": "m", "messages": message, "max_tokens": 1_000}), 1_001),
        (CHAT, json!({"model": "m", "messages": message, "max_completion_tokens": 1_000, "n": 3}), 3_001),
        ("/v1/responses", json!({"model": "m", "input": "hi", "max_output_tokens": 2_000}), 2_001),
    ];
    let mut left = 10_000;
    for (path, ask, charge) in asks {
        left -= charge;
        let answer = client.post(path, &ask).await.unwrap();
        assert_eq!((answer.status, &answer.headers["x-ratelimit-remaining-tokens"]), (200, &left.to_string()), "{ask}");
    }
    let ledger = simulator.ledger();
    assert_eq!((ledger.keys[0].limits[0].granted, ledger.busiest.tokens_in_60s), (6_003, 6_003));
    assert!(ledger.tokens.prompt + ledger.tokens.completion < 100, "usage is what it is: {:?}", ledger.tokens);
}

#[tokio::test]
async fn traffic_that_grows_too_fast_is_told_to_slow_down() {
    let simulator = limited(|limits| {
        limits.requests_per_minute = Some(Rate::new(100, DAY));
        let rule = Acceleration::above(3);
        limits.acceleration = Some(Acceleration { minute: DAY, memory: DAY, ..rule });
    });
    let answers = calls(&simulator, 4).await;
    assert_eq!(statuses(&answers), [200, 200, 200, 429]);
    let error = answers[3].json()["error"].clone();
    assert_eq!((&error["code"], &error["type"]), (&json!("slow_down"), &json!("rate_limit_error")));
    assert_eq!(answers[3].headers["x-ratelimit-remaining-requests"], "97", "within the limits");
    assert!(!answers[3].headers.contains_key("retry-after"));
    assert_eq!(simulator.ledger().limited_by.acceleration, 1);
}

#[tokio::test]
async fn a_limit_may_be_halved_and_restored_while_it_runs() {
    let whole = Rate::new(8, DAY).sliding();
    let simulator = limited(|limits| limits.requests_per_minute = Some(whole));
    let limits = simulator.ledger().limits;
    let mut seen = statuses(&calls(&simulator, 3).await);
    simulator.set_limits(limits.scaled(0.5)).unwrap();
    let halved = calls(&simulator, 2).await;
    assert_eq!(told(&halved, "x-ratelimit-limit-requests"), ["4", "4"]);
    seen.extend(statuses(&halved));
    simulator.set_limits(limits).unwrap();
    seen.extend(statuses(&calls(&simulator, 5).await));
    assert_eq!(seen, [200, 200, 200, 200, 429, 200, 200, 200, 200, 429]);
    assert!(
        simulator.set_limits(limits.scaled(1e12).scaled(0.0)).is_ok(),
        "a factor never makes a limit that cannot be"
    );
    let mut none = limits;
    none.workers = Some(0);
    assert!(simulator.set_limits(none).is_err());
}

/// Sends a call, and waits until the limits have let it in as the nth; it is answered whenever a worker has time for it.
async fn enter(simulator: &Running, nth: u64, prompt: &str) -> Client {
    let mut client = Client::new(simulator.address()).await;
    client.send(CHAT, "k", &chat(prompt, false).to_string()).await;
    simulator.until(|seen| seen.admitted == nth).await;
    client
}

#[tokio::test]
async fn a_server_that_only_slows_down_answers_everyone_in_turn() {
    let simulator = limited(|limits| limits.workers = Some(1));
    let stalled = enter(&simulator, 1, "[[fault:stall]]").await;
    let mut second = enter(&simulator, 2, "second").await;
    let impatient = enter(&simulator, 3, "third").await;
    let mut last = enter(&simulator, 4, "last").await;
    let slots = simulator.ledger().keys[0].slots.unwrap();
    assert_eq!((slots.limit, slots.busy, slots.waiting, slots.peak_busy), (1, 1, 3, 1));
    drop(impatient);
    simulator.until(|seen| seen.abandoned == 1 && seen.in_flight == 3).await;
    assert_eq!(simulator.ledger().keys[0].slots.unwrap().waiting, 2, "who leaves the line takes no turn");
    drop(stalled);
    assert_eq!(second.answer().await.unwrap().content(), forebay::simulator::expected_echo("second"));
    assert_eq!(last.answer().await.unwrap().status, 200);
    let ledger = simulator.until(|seen| seen.in_flight == 0).await;
    let slots = ledger.keys[0].slots.unwrap();
    assert_eq!((slots.busy, slots.waiting, slots.peak_waiting, ledger.limited), (0, 0, 3, 0));
    assert!(slots.utilisation > 0.0 && slots.utilisation <= 1.0, "{slots:?}");
}

#[tokio::test]
async fn headers_tell_of_the_moment_at_which_a_call_was_let_in_however_late_its_answer() {
    let simulator = limited(|limits| {
        limits.requests_per_minute = Some(Rate::new(10, DAY));
        limits.workers = Some(1);
    });
    let stalled = enter(&simulator, 1, "[[fault:stall]]").await;
    let mut second = enter(&simulator, 2, "second").await;
    let _third = enter(&simulator, 3, "third").await;
    drop(stalled);
    assert_eq!(second.answer().await.unwrap().headers["x-ratelimit-remaining-requests"], "8");
}
