//! Where calls go: which target takes a call when the one before cannot, which account of several, and what a breaker does
//! while an upstream is away. In virtual time; the daemon itself is in `outages`.

mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use forebay::clock::{self, Instant};
use forebay::transport::{HttpRequest, HttpResponse, LocalFuture, MemoryTransport, Scripted, TransportError};
use forebay::{Config, Endpoint, Error, FailureKind, Forebay, Outcome, Phase, Request, Sent};
use futures_util::future::join_all;
use futures_util::{StreamExt as _, stream};
use support::{good, in_virtual_time, s};

type Told = Result<HttpResponse, TransportError>;

/// Two upstreams, `first` and `second`, that serve `a` and `b`, on the route `smart` in this order; both serve `m`.
fn two(first: &str, second: &str) -> Config {
    let text = format!(
        r#"
        [pool]
        threads = 0
        [retry]
        jitter = "none"
        [upstreams.first]
        base_url = "http://first.test/v1"
        models = ["a", "m"]
        {first}
        [upstreams.second]
        base_url = "http://second.test/v1"
        models = ["b", "m"]
        {second}
        [routes.smart]
        targets = ["first/a", "second/b"]
        "#
    );
    Config::from_toml(&text).unwrap_or_else(|problems| panic!("{problems}"))
}

/// One exchange, as an upstream saw it.
#[derive(Clone)]
struct Seen {
    at: Instant,
    upstream: String,
    key: String,
    url: String,
    body: serde_json::Value,
}

/// The upstreams: they note what they are asked, and answer as the test says.
#[derive(Clone, Default)]
struct World(Arc<Mutex<Vec<Seen>>>);

impl World {
    /// A system in front of upstreams that answer each exchange with `answer`, which may take its time.
    async fn start<F>(&self, config: Config, answer: F) -> Forebay
    where
        F: Fn(Seen) -> LocalFuture<Told> + Send + Sync + 'static,
    {
        let (seen, answer) = (self.clone(), Arc::new(answer));
        let open = move || {
            let (seen, answer) = (seen.clone(), Arc::clone(&answer));
            MemoryTransport::new(move |request: HttpRequest| {
                let came = Seen::of(&request);
                seen.0.lock().expect("no panic while held").push(came.clone());
                answer(came)
            })
        };
        Forebay::builder(config).seed(1).transport(open).start().await.expect("the system starts")
    }

    fn seen(&self) -> Vec<Seen> {
        self.0.lock().expect("no panic while held").clone()
    }

    fn asked(&self, upstream: &str) -> usize {
        self.seen().iter().filter(|seen| seen.upstream == upstream).count()
    }

    fn by_key(&self) -> BTreeMap<String, usize> {
        self.seen().into_iter().fold(BTreeMap::new(), |mut counts, seen| {
            *counts.entry(seen.key).or_default() += 1;
            counts
        })
    }
}

impl Seen {
    fn of(request: &HttpRequest) -> Self {
        let key = request.headers.get("authorization").unwrap_or("Bearer none").trim_start_matches("Bearer ");
        Self {
            at: clock::now(),
            upstream: request.upstream.name.to_string(),
            key: key.to_owned(),
            url: request.url.clone(),
            body: serde_json::from_slice(&request.body).expect("JSON"),
        }
    }
}

/// At once.
fn told(answer: Told) -> LocalFuture<Told> {
    Box::pin(std::future::ready(answer))
}

/// After a while.
fn later(seconds: f64, answer: impl FnOnce() -> Told + 'static) -> LocalFuture<Told> {
    Box::pin(async move {
        clock::until(clock::now() + s(seconds)).await;
        answer()
    })
}

fn ok() -> Told {
    Ok(Scripted::json(200, good("ok")))
}

fn status(status: u16) -> Told {
    Ok(Scripted::json(status, format!(r#"{{"error":{{"message":"told {status}","code":null}}}}"#)))
}

fn fails(kind: FailureKind) -> Told {
    Err(TransportError::new(kind, Sent::Maybe, "scripted"))
}

fn call(model: &str) -> Request {
    Request::chat(model, [serde_json::json!({"role": "user", "content": "hello"})])
}

/// Status, code, attempts, and the upstream that was asked last.
fn ended(error: &Error) -> (u16, &str, u32, Option<&str>) {
    (error.status(), error.code(), error.meta().attempts, error.meta().upstream.as_deref())
}

/// Makes calls beside; gives how each ended, and when.
fn beside(forebay: &Forebay, count: usize, model: &'static str) -> tokio::task::JoinHandle<Vec<(Instant, Outcome)>> {
    let forebay = forebay.clone();
    tokio::task::spawn_local(async move {
        let each = |_| async { (forebay.call(call(model)).await, clock::now()) };
        join_all((0..count).map(each)).await.into_iter().map(|(outcome, at)| (at, outcome)).collect()
    })
}

async fn status_of(forebay: &Forebay, upstream: &str) -> serde_json::Value {
    let status = serde_json::to_value(forebay.status().await.expect("the dispatcher answers")).expect("JSON");
    let all = status["upstreams"].as_array().expect("upstreams").clone();
    all.into_iter().find(|one| one["name"] == upstream).expect("it is there")
}

/// Whether a call moved on to the second target, and how often the first was asked; or the status it ended with there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Moves(usize),
    /// The first answers it in the end.
    Waits(usize),
    Ends(u16),
}

#[test]
fn the_next_target_is_taken_for_what_another_may_do_and_for_nothing_else() {
    use Fate::*;
    const BROKE: &str = r#"{"error":{"message":"pay","type":"insufficient_quota","code":"insufficient_quota"}}"#;
    const DAY: &str = r#"{"error":{"message":"on requests per day (RPD): Limit 200, Used 200, Requested 1.","code":"rate_limit_exceeded"}}"#;
    let wait =
        |status_: u16, seconds: &'static str| move || Ok(Scripted::with(status(status_)?, "retry-after", seconds));
    type Row = (&'static str, Box<dyn Fn() -> Told + Send + Sync>, Fate);
    let row = |name, answer: Box<dyn Fn() -> Told + Send + Sync>, fate| -> Row { (name, answer, fate) };
    let rows = [
        // It has used its own max_attempts.
        row("unreachable", Box::new(|| fails(FailureKind::Unreachable)), Moves(5)),
        row("reset", Box::new(|| fails(FailureKind::Cut)), Moves(5)),
        row("connect timeout", Box::new(|| fails(FailureKind::Timeout(Phase::Connect))), Moves(5)),
        row("no HTTP", Box::new(|| fails(FailureKind::Malformed)), Moves(5)),
        row("broken JSON", Box::new(|| Ok(Scripted::json(200, "{\"id\":"))), Moves(5)),
        row("408", Box::new(|| status(408)), Moves(5)),
        row("409", Box::new(|| status(409)), Moves(5)),
        row("429 without a time", Box::new(|| status(429)), Moves(5)),
        row("500", Box::new(|| status(500)), Moves(5)),
        row("529", Box::new(|| status(529)), Moves(5)),
        row("503 that names a time", Box::new(wait(503, "2")), Moves(5)),
        // Held beyond the deadline, or for the day.
        row("429 that names a time too late", Box::new(wait(429, "1000")), Moves(1)),
        row("503 that names a time too late", Box::new(wait(503, "1000")), Moves(1)),
        row("quota of the day", Box::new(|| Ok(Scripted::json(429, DAY))), Moves(1)),
        // All keys rest.
        row("401", Box::new(|| status(401)), Moves(1)),
        row("no money", Box::new(|| Ok(Scripted::json(429, BROKE))), Moves(1)),
        // It lacks the model.
        row("404", Box::new(|| status(404)), Moves(1)),
        // It is not what it must be, whoever calls.
        row("a certificate that does not verify", Box::new(|| fails(FailureKind::Certificate)), Moves(1)),
        row("a redirect", Box::new(|| status(307)), Moves(1)),
        // It is the call itself that is at fault, or the upstream wants it so.
        row("400", Box::new(|| status(400)), Ends(400)),
        row("403", Box::new(|| status(403)), Ends(403)),
        row("413", Box::new(|| status(413)), Ends(413)),
        row("422", Box::new(|| status(422)), Ends(422)),
        row("418", Box::new(|| status(418)), Ends(418)),
        row(
            "500 that forbids a retry",
            Box::new(|| Ok(Scripted::with(status(500)?, "x-should-retry", "false"))),
            Ends(500),
        ),
        // A wait that ends in time.
        row(
            "429 that names a time",
            Box::new({
                let asked = AtomicU64::new(0);
                move || if asked.fetch_add(1, Relaxed) == 0 { wait(429, "5")() } else { ok() }
            }),
            Waits(2),
        ),
    ];
    for (name, answer, fate) in rows {
        in_virtual_time(async move {
            let world = World::default();
            let config = two("", "");
            let forebay =
                world.start(config, move |seen| told(if seen.upstream == "first" { answer() } else { ok() })).await;
            let outcome = forebay.call(call("smart").with_timeout(s(300.0))).await;
            let (first, second) = (world.asked("first"), world.asked("second"));
            match (fate, outcome) {
                (Moves(asked), Ok(answer)) => {
                    assert_eq!((first, second), (asked, 1), "{name}");
                    assert_eq!(answer.meta.attempts as usize, asked + 1, "{name}: all are counted");
                    assert_eq!(answer.meta.upstream.as_deref(), Some("second"), "{name}");
                    assert_eq!(world.seen().last().expect("asked").body["model"], "b", "{name}");
                }
                (Waits(asked), Ok(answer)) => {
                    assert_eq!((first, second, answer.meta.upstream.as_deref()), (asked, 0, Some("first")), "{name}");
                }
                (Ends(status), Err(error)) => {
                    assert_eq!((first, second), (1, 0), "{name}");
                    assert_eq!(ended(&error), (status, "upstream_error", 1, Some("first")), "{name}");
                }
                (fate, outcome) => panic!("{name}: {outcome:?}, not {fate:?}; asked {first} and {second} times"),
            }
        });
    }
}

#[test]
fn a_target_that_cannot_take_a_call_in_time_is_not_asked_at_all() {
    /// Brings the first target into the state, in which the call that follows finds it.
    type Before = fn(&Forebay) -> LocalFuture<()>;
    let nothing: Before = |_| Box::pin(async {});
    let one: Before = |forebay| {
        let forebay = forebay.clone();
        Box::pin(async move { drop(forebay.call(call("first/a").with_timeout(s(2.0))).await) })
    };
    let crowd: Before = |forebay| {
        // Until its slot comes, the first waits as well.
        let forebay = forebay.clone();
        Box::pin(async move {
            for count in [1, 2] {
                drop(beside(&forebay, count, "first/a"));
                clock::until(clock::now() + s(0.1)).await;
            }
        })
    };
    type Row = (&'static str, &'static str, Before, fn() -> LocalFuture<Told>);
    let rows: [Row; 5] = [
        ("held beyond the deadline", "", one, || {
            told(Ok(Scripted::with(status(429).expect("429"), "retry-after", "900")))
        }),
        ("every key rests", "", one, || told(status(401))),
        ("larger than its cap", "limits = { tokens_per_minute = 100 }", nothing, || told(ok())),
        ("its minute is used up", "limits = { requests_per_minute = 1 }", one, || told(ok())),
        ("its waiting room is full", "limits = { max_concurrent = 1 }", crowd, || Box::pin(std::future::pending())),
    ];
    for (name, limits, before, answer) in rows {
        in_virtual_time(async move {
            let world = World::default();
            let config = Config::from_toml(&format!(
                "[pool]\nthreads = 0\n[queue]\ncapacity = 2\n[upstreams.first]\nbase_url = \"http://first.test/v1\"\nmodels = [\"a\"]\n\
                 {limits}\n[upstreams.second]\nbase_url = \"http://second.test/v1\"\nmodels = [\"b\"]\n[routes.smart]\n\
                 targets = [\"first/a\", \"second/b\"]"
            ))
            .unwrap_or_else(|problems| panic!("{problems}"));
            let forebay =
                world.start(config, move |seen| if seen.upstream == "first" { answer() } else { told(ok()) }).await;
            before(&forebay).await;
            let (asked, start) = (world.asked("first"), clock::now());
            let answer = forebay.call(call("smart").with_timeout(s(20.0))).await.expect("the second takes it");
            assert_eq!((answer.meta.attempts, answer.meta.upstream.as_deref()), (1, Some("second")), "{name}");
            assert_eq!((world.asked("first"), clock::now()), (asked, start), "{name}: at once");
        });
    }
}

#[test]
fn of_a_call_that_nobody_takes_the_last_upstream_that_was_asked_has_the_last_word_and_the_first_where_none_was() {
    in_virtual_time(async {
        let world = World::default();
        let forebay =
            world.start(two("", ""), |seen| told(status(if seen.upstream == "first" { 404 } else { 500 }))).await;
        let error = forebay.call(call("smart")).await.expect_err("nobody takes it");
        assert_eq!(ended(&error), (500, "upstream_error", 6, Some("second")));
        assert_eq!((world.asked("first"), world.asked("second")), (1, 5), "what was left is not gone back to");

        // Both keys are refused: the second target rests when the first has failed, and the other way round.
        let world = World::default();
        let forebay =
            world.start(two("", ""), |seen| told(status(if seen.upstream == "first" { 500 } else { 401 }))).await;
        assert_eq!(forebay.call(call("second/b")).await.expect_err("refused").status(), 401);
        let error = forebay.call(call("smart")).await.expect_err("the first fails, the second rests");
        assert_eq!(ended(&error), (500, "upstream_error", 5, Some("first")));

        let world = World::default();
        let limits = |tokens: u64| format!("limits = {{ tokens_per_minute = {tokens} }}");
        let forebay = world.start(two(&limits(100), &limits(200)), |_| told(ok())).await;
        let error = forebay.call(call("smart")).await.expect_err("too large for both");
        assert_eq!(ended(&error), (504, "deadline_exceeded", 0, None));
        assert!(error.message().contains("first") && !error.message().contains("second"), "{error}");
        assert!(world.seen().is_empty());
    });
}

#[test]
fn a_fallback_spends_what_is_left_of_the_calls_own_time() {
    in_virtual_time(async {
        let world = World::default();
        let forebay = world
            .start(two("", ""), |seen| match &*seen.upstream {
                "first" => told(status(500)),
                _ => Box::pin(std::future::pending()),
            })
            .await;
        let start = clock::now();
        let error = forebay.call(call("smart").with_timeout(s(20.0))).await.expect_err("its time is up");
        assert_eq!(clock::now() - start, s(20.0));
        assert_eq!(ended(&error), (504, "deadline_exceeded", 6, Some("second")));
        assert_eq!(world.seen().last().expect("asked").at - start, s(15.0), "1, 2, 4 and 8 s were the first target's");
        // And where the next try at the first would come too late, the second has its turn before that.
        let start = clock::now();
        let error = forebay.call(call("smart").with_timeout(s(5.0))).await.expect_err("its time is up");
        assert_eq!((clock::now() - start, error.meta().attempts), (s(5.0), 4));
    });
}

#[test]
fn upstreams_that_serve_the_same_model_are_tried_in_alphabetical_order() {
    in_virtual_time(async {
        let world = World::default();
        let forebay =
            world.start(two("", ""), |seen| told(if seen.upstream == "first" { status(404) } else { ok() })).await;
        for _ in 0..3 {
            let answer = forebay.call(call("m")).await.expect("the second takes it");
            assert_eq!((answer.meta.attempts, answer.meta.upstream.as_deref()), (2, Some("second")));
        }
    });
}

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

/// An upstream `first` of two keys.
const TWO_KEYS: &str = "api_keys = [\"sk-test-one\", \"sk-test-two\"]";

#[test]
fn idle_accounts_share_what_comes_one_by_one_and_all_at_once() {
    in_virtual_time(async {
        let world = World::default();
        let forebay = world.start(two(TWO_KEYS, ""), |_| later(0.5, ok)).await;
        for _ in 0..40 {
            forebay.call(call("first/a")).await.expect("answered");
        }
        assert_eq!(world.by_key().into_values().collect::<Vec<_>>(), [20, 20], "one by one");
        for _ in 0..10 {
            beside(&forebay, 16, "first/a").await.expect("no panic");
        }
        assert_eq!(world.by_key().into_values().collect::<Vec<_>>(), [100, 100], "all at once");
    });
}

#[test]
fn a_call_goes_to_the_account_that_takes_it_first() {
    in_virtual_time(async {
        let (world, is_first) = (World::default(), AtomicBool::new(true));
        // The first that is asked of the first key is told to come again in five seconds.
        let forebay = world
            .start(two(TWO_KEYS, ""), move |seen| {
                let refuses = seen.key == "sk-test-one" && is_first.swap(false, Relaxed);
                later(0.1, move || if refuses { Ok(Scripted::with(status(429)?, "retry-after", "5")) } else { ok() })
            })
            .await;
        let start = clock::now();
        let answer = forebay.call(call("first/a")).await.expect("the other key takes it");
        assert_eq!((answer.meta.attempts, clock::now() - start), (2, s(0.2)), "it moves, and waits for nothing");
        while clock::now() < start + s(4.8) {
            forebay.call(call("first/a")).await.expect("answered");
        }
        assert_eq!(world.by_key()["sk-test-one"], 1, "the one that is held is not asked");
        clock::until(start + s(6.0)).await;
        for _ in 0..10 {
            forebay.call(call("first/a")).await.expect("answered");
        }
        assert!(world.by_key()["sk-test-one"] > 1, "it has its share again: {:?}", world.by_key());
    });
}

#[test]
fn an_account_that_is_slow_gets_fewer_calls_than_one_that_is_fast() {
    in_virtual_time(async {
        let world = World::default();
        let limits = format!("{TWO_KEYS}\nlimits = {{ max_concurrent = 8 }}");
        let forebay =
            world.start(two(&limits, ""), |seen| later(if seen.key == "sk-test-one" { 2.0 } else { 0.2 }, ok)).await;
        let start = clock::now();
        for (_, outcome) in beside(&forebay, 400, "first/a").await.expect("no panic") {
            outcome.expect("answered");
        }
        let by = world.by_key();
        assert!(by["sk-test-two"] > 5 * by["sk-test-one"], "{by:?}");
        assert!(clock::now() - start < s(15.0), "{:?}", clock::now() - start);
    });
}

/// Everybody who takes part says who asked, in a field that nobody but the upstream reads.
fn nonce(n: u64) -> Request {
    // Bodies are alike but for that: whoever takes two calls for one by model and messages mixes them up.
    let body =
        serde_json::json!({"model": "m", "messages": [{"role": "user", "content": "alike"}], "metadata": {"n": n}});
    Request::new(Endpoint::ChatCompletions, body.to_string()).expect("a good body").with_timeout(s(3_000.0))
}

#[test]
fn of_ten_thousand_calls_alike_through_two_upstreams_each_gets_its_own_answer() {
    in_virtual_time(async {
        let (world, asked) = (World::default(), AtomicU64::new(0));
        let limits = "limits = { max_concurrent = 200 }\nretry = { retry_budget = 1.0, base_delay = \"20ms\" }";
        let forebay = world
            .start(two(limits, limits), move |seen| {
                let turn = asked.fetch_add(1, Relaxed);
                let n = seen.body["metadata"]["n"].as_u64().expect("a nonce");
                // One in seven has its connection cut, one in five is not known to the first, and answers overtake each other.
                later(0.001 * (turn * 7_919 % 300) as f64, move || match turn {
                    _ if turn % 7 == 0 => fails(FailureKind::Cut),
                    _ if turn % 5 == 0 && seen.upstream == "first" => status(404),
                    _ => Ok(Scripted::json(200, good(&format!("{n} by {}", seen.upstream)))),
                })
            })
            .await;
        let answers = join_all((0..10_000).map(|n| forebay.call(nonce(n)))).await;
        let mut by = BTreeMap::new();
        for (n, outcome) in answers.into_iter().enumerate() {
            let answer = outcome.unwrap_or_else(|error| panic!("call {n}: {error:?}"));
            let upstream = answer.meta.upstream.clone().expect("asked").to_string();
            let forebay::AnswerBody::Whole(body) = answer.body else { panic!("a whole answer") };
            let body: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
            assert_eq!(body["choices"][0]["message"]["content"], format!("{n} by {upstream}"));
            *by.entry(upstream).or_insert(0) += 1;
        }
        println!("answers {by:?} of {} exchanges", world.seen().len());
        assert!(by["first"] > 1_000 && by["second"] > 1_000, "{by:?}");
    });
}

#[test]
fn nothing_in_a_body_says_where_a_call_goes_nor_with_which_key() {
    in_virtual_time(async {
        let world = World::default();
        let forebay = world.start(two("api_keys = [\"sk-configured\"]", ""), |_| told(ok())).await;
        let fields = serde_json::json!({
            "api_base": "http://evil.test/v1", "base_url": "http://evil.test/v1", "api_key": "sk-evil",
            "custom_llm_provider": "evil", "api_version": "x", "endpoint": "http://evil.test", "upstream": "second",
            "fallbacks": ["second/b"], "model_list": [{"litellm_params": {"api_base": "http://evil.test"}}],
            "extra_headers": {"authorization": "Bearer sk-evil"}, "organization": "evil",
        });
        for (field, value) in fields.as_object().expect("an object") {
            let body = serde_json::json!({"model": "a", "messages": [], field: value});
            let request = Request::new(Endpoint::ChatCompletions, body.to_string()).expect("a good body");
            forebay.call(request).await.expect("answered");
            let seen = world.seen().pop().expect("asked");
            let came = (&*seen.upstream, &*seen.url, &*seen.key);
            assert_eq!(came, ("first", "http://first.test/v1/chat/completions", "sk-configured"), "{field}");
            assert_eq!(seen.body, body, "{field}: it is the upstream's to judge");
        }
    });
}
