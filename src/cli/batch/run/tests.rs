//! Whole runs against a scripted upstream, in virtual time: hours of outages and of waiting for budgets.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use serde_json::json;

use super::super::output::Output;
use super::*;
use crate::clock::in_virtual_time;
use crate::messages::{FailureKind, Sent};
use crate::pool::transport::{HttpRequest, HttpResponse, MemoryTransport, Scripted, TransportError};

/// What the upstream does with the request of a line, by its model and number, that comes so long after the start.
type Upstream = fn(&str, usize, Duration) -> Result<HttpResponse, TransportError>;

/// How a run has ended, and what it has left.
struct Story {
    ended: Ended,
    answered: u64,
    failed: u64,
    took: Duration,
    /// Requests that came to the upstream, and the most at once.
    asked: usize,
    peak: usize,
}

fn good() -> Result<HttpResponse, TransportError> {
    Ok(Scripted::json(200, json!({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}).to_string()))
}

fn down() -> Result<HttpResponse, TransportError> {
    Err(TransportError::new(FailureKind::Unreachable, Sent::No, "connection refused"))
}

fn refused() -> Result<HttpResponse, TransportError> {
    Ok(Scripted::json(401, json!({"error": {"message": "Incorrect API key", "code": "invalid_api_key"}}).to_string()))
}

/// A configuration of two upstreams; `more` stands in front.
fn config(limits: &str, more: &str) -> Config {
    let upstream = |name: &str, model: &str| {
        format!(
            "[upstreams.{name}]\nbase_url = \"http://{name}.test/v1\"\napi_keys = [\"sk-{name}-0123456789\"]\n\
             models = [\"{model}\"]\nlimits = {{ {limits} }}\nprices.{model} = {{ input = 1.0, output = 1.0 }}\n"
        )
    };
    let text = format!("[pool]\nthreads = 0\n{more}\n{}{}", upstream("up", "m"), upstream("other", "n"));
    Config::from_toml(&text).unwrap_or_else(|problems| panic!("{problems}"))
}

fn line(number: usize, model: &str) -> Line {
    let body = json!({"model": model, "messages": [], "user": number.to_string()});
    let line = json!({"custom_id": format!("line {number}"), "url": "/v1/chat/completions", "body": body});
    Line { number: number as u64 + 1, bytes: Some(line.to_string().into()) }
}

/// Runs `lines` chats, the `n`-th to the model that `model` says, against `upstream`, which takes 100 ms for each.
fn run(config: Config, lines: usize, model: fn(usize) -> &'static str, upstream: Upstream) -> Story {
    in_virtual_time(async move {
        let start = clock::now();
        let seen = Arc::new(Mutex::new((0, 0, 0)));
        let log = Arc::clone(&seen);
        let open = move || {
            let log = Arc::clone(&log);
            MemoryTransport::new(move |request: HttpRequest| {
                let log = Arc::clone(&log);
                async move {
                    let body: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
                    {
                        let (asked, now, peak) = &mut *log.lock().unwrap();
                        (*asked, *now) = (*asked + 1, *now + 1);
                        *peak = (*peak).max(*now);
                    }
                    clock::until(clock::now() + Duration::from_millis(100)).await;
                    log.lock().unwrap().1 -= 1;
                    let number = body["user"].as_str().unwrap().parse().unwrap();
                    upstream(body["model"].as_str().unwrap(), number, start.elapsed())
                }
            })
        };
        let forebay = Forebay::builder(config.clone()).transport(open).seed(1).start().await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let out: PathBuf = folder.path().join("out.jsonl");
        let mut sink = Sink::Files(Box::new(Output::open(&out).unwrap()));
        let (send, source) = mpsc::channel(lines.max(1));
        let mut plan = Vec::new();
        for number in 0..lines {
            let line = line(number, model(number));
            plan.push(Key::of(&BatchLine::read(line.bytes.as_ref().unwrap()).unwrap()));
            send.try_send(Ok(line)).unwrap();
        }
        drop(send);
        let (mut screen, mut signals) = (Screen::new(Duration::from_secs(86_400)), Signals::new().unwrap());
        let run = Run::new(&forebay, &config, &mut sink, &mut screen, Some(plan.clone()), 0);
        let ended = run.until_over(source, &mut signals).await;
        let took = start.elapsed();
        let Sink::Files(output) = sink else { unreachable!() };
        let (answered, failed) = output.ends(&plan);
        let (asked, _, peak) = *seen.lock().unwrap();
        Story { ended, answered, failed, took, asked, peak }
    })
}

fn all_m(_: usize) -> &'static str {
    "m"
}

#[test]
fn every_line_is_asked_once_and_what_it_used_is_summed() {
    let story = run(config("max_concurrent = 50", ""), 1_000, all_m, |_, _, _| good());
    assert_eq!((story.answered, story.failed, story.asked), (1_000, 0, 1_000));
    assert!((33..=50).contains(&story.peak), "the window has grown, within what may be in flight: {}", story.peak);
    assert_eq!(story.ended.stopped, None);
    let sum = story.ended.tally.sum(Duration::ZERO);
    assert_eq!(sum, "1,000 answered; 7,000 tokens, US$ 0.0070; 0s");
}

#[test]
fn a_budget_that_is_tight_lets_lines_wait_for_hours_and_fails_none() {
    let more = "[queue]\ndefault_timeout = \"1m\"\ncapacity = 10";
    let story = run(config("requests_per_minute = 1", more), 200, all_m, |_, _, _| good());
    assert_eq!((story.answered, story.failed), (200, 0));
    assert!(story.took > Duration::from_secs(190 * 60), "{:?}", story.took);
}

#[test]
fn an_outage_of_ten_minutes_fails_no_line() {
    let story = run(config("max_concurrent = 20", ""), 2_000, all_m, |_, _, at| {
        if (3..603).contains(&at.as_secs()) { down() } else { good() }
    });
    assert_eq!((story.answered, story.failed, story.ended.stopped), (2_000, 0, None));
    assert!(story.took < Duration::from_secs(700), "it is noticed soon that it is over: {:?}", story.took);
}

#[test]
fn where_nobody_ever_answers_it_stops_in_minutes_and_fails_no_line() {
    let story = run(config("max_concurrent = 20", ""), 2_000, all_m, |_, _, _| down());
    assert_eq!((story.answered, story.failed), (0, 0));
    let [why] = &story.ended.closed[..] else { panic!("{:?}", story.ended.closed) };
    assert!(why.starts_with("nobody answers for m: nothing was answered for 2m"), "{why}");
    assert!(story.took < Duration::from_secs(300), "{:?}", story.took);
}

#[test]
fn a_refused_key_stops_the_lines_of_its_models_at_once_and_no_others() {
    let half = |number: usize| if number.is_multiple_of(2) { "m" } else { "n" };
    let upstream: Upstream = |model, _, _| if model == "m" { refused() } else { good() };
    let story = run(config("max_concurrent = 4", ""), 1_000, half, upstream);
    assert_eq!((story.answered, story.failed), (500, 0));
    assert_eq!(story.ended.closed, ["nobody answers for m: up answered 401: Incorrect API key"]);
    assert!(story.asked <= 500 + 4, "{}", story.asked);
    assert_eq!(story.ended.stopped, None);
}

#[test]
fn a_line_that_its_upstream_cannot_bear_fails_and_the_others_do_not() {
    let upstream: Upstream = |_, number, _| if number % 100 == 50 { down() } else { good() };
    let story = run(config("max_concurrent = 4", ""), 500, all_m, upstream);
    assert_eq!((story.answered, story.failed, story.ended.stopped), (495, 5, None));
}

#[test]
fn in_that_is_not_what_it_was_stops_the_run() {
    let story = in_virtual_time(async {
        let config = config("", "");
        let open = || MemoryTransport::new(|_| async { good() });
        let forebay = Forebay::builder(config.clone()).transport(open).seed(1).start().await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut sink = Sink::Files(Box::new(Output::open(&folder.path().join("out.jsonl")).unwrap()));
        let (send, source) = mpsc::channel(2);
        send.try_send(Ok(line(0, "m"))).unwrap();
        send.try_send(Ok(line(2, "m"))).unwrap();
        drop(send);
        let key = |number| Key::of(&BatchLine::read(&line(number, "m").bytes.unwrap()).unwrap());
        let plan = vec![key(0), key(1)];
        let (mut screen, mut signals) = (Screen::new(Duration::from_secs(86_400)), Signals::new().unwrap());
        let run = Run::new(&forebay, &config, &mut sink, &mut screen, Some(plan), 0);
        run.until_over(source, &mut signals).await
    });
    assert_eq!(story.stopped, Some(Stopped::Because("IN has changed while it was read".to_owned())));
}
