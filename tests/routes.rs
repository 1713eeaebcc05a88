//! Where calls go: which target takes a call when the one before cannot, which account of several, and that each call gets
//! its own answer. In virtual time.

mod support;
#[path = "support/two.rs"]
mod two;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use forebay::clock;
use forebay::transport::{LocalFuture, Scripted};
use forebay::{Config, Endpoint, FailureKind, Forebay, Phase, Request};
use futures_util::future::join_all;
use support::{good, in_virtual_time, s};
use two::{Told, World, beside, call, ended, fails, later, ok, status, told, two};

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
