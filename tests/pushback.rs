//! What an upstream means that sends calls away, each meaning by its own cure; per key, while other keys go on. In virtual
//! time.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use forebay::clock;
use forebay::transport::{HttpRequest, HttpResponse, Scripted};
use forebay::{Config, Forebay, Outcome, Request};
use futures_util::future::{join, join_all};
use support::{Script, config_of, good, in_virtual_time, s};

const FIRST: &str = "sk-test-first";
const SECOND: &str = "sk-test-second";

/// An upstream `up` of two keys that serves `m` and `n`, and on the route `either` another behind it.
fn two_keys(more: &str) -> Config {
    config_of(&format!(
        r#"
        [upstreams.up]
        base_url = "http://up.test/v1"
        api_keys = ["{FIRST}", "{SECOND}"]
        models = ["m", "n"]
        {more}
        [upstreams.other]
        base_url = "http://other.test/v1"
        models = ["o"]
        [routes.either]
        targets = ["up/m", "other/o"]
        "#
    ))
}

/// What an attempt came with.
struct Came {
    key: String,
    model: String,
    text: String,
}

impl Came {
    fn with(request: &HttpRequest) -> Self {
        let key = request.headers.get("authorization").unwrap_or("Bearer none").trim_start_matches("Bearer ");
        let text = String::from_utf8_lossy(&request.body).into_owned();
        let body: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        Self { key: key.to_owned(), model: body["model"].as_str().unwrap_or_default().to_owned(), text }
    }
}

/// An upstream that answers as `answer` says, `None` standing for a good answer.
fn provider(answer: impl Fn(&Came) -> Option<HttpResponse> + Send + Sync + 'static) -> Script {
    let answer = Arc::new(answer);
    Script::new(vec![], move || {
        let answer = Arc::clone(&answer);
        Box::new(move |request| {
            let came = Came::with(&request);
            Box::pin(async move {
                clock::until(clock::now() + s(0.1)).await;
                Ok(answer(&came).unwrap_or_else(|| Scripted::json(200, good(&came.key))))
            })
        })
    })
}

/// How often a key was asked.
fn asked(script: &Script, key: &str) -> usize {
    script.requests().iter().filter(|request| Came::with(request).key == key).count()
}

fn call(model: &str) -> Request {
    Request::chat(model, [serde_json::json!({"role": "user", "content": "hello"})])
}

/// One that may need so many tokens.
fn large(model: &str, tokens: u64) -> Request {
    let body = serde_json::json!({"model": model, "max_tokens": tokens, "messages": []});
    Request::new(forebay::Endpoint::ChatCompletions, body.to_string()).expect("a good body")
}

/// Status, attempts, and what it says.
fn refused(outcome: Outcome) -> (u16, u32, String) {
    let error = outcome.expect_err("refused");
    (error.status(), error.meta().attempts, String::from_utf8_lossy(&error.to_body()).into_owned())
}

async fn answered(forebay: &Forebay, request: Request) {
    forebay.call(request).await.expect("answered");
}

#[test]
fn a_key_without_money_rests_and_others_go_on_until_none_is_left() {
    const NO_MONEY: &str = r#"{"error":{"message":"pay","type":"insufficient_quota","code":"insufficient_quota"}}"#;
    const BILLING: &str = r#"{"type":"error","error":{"type":"billing_error"}}"#;
    for (status, body) in [(429, NO_MONEY), (402, BILLING)] {
        in_virtual_time(async move {
            let is_broke = Arc::new(AtomicBool::new(false));
            let second = Arc::clone(&is_broke);
            let script = provider(move |came| {
                let has_money = match &*came.key {
                    FIRST => false,
                    SECOND => !second.load(Ordering::Relaxed),
                    _ => true,
                };
                (!has_money).then(|| Scripted::json(status, body))
            });
            let forebay = script.start(two_keys("")).await;
            for _ in 0..5 {
                answered(&forebay, call("m")).await;
            }
            assert_eq!((asked(&script, FIRST), asked(&script, SECOND)), (1, 5), "{status}");
            clock::until(clock::now() + s(60.0)).await;
            answered(&forebay, call("m")).await;
            answered(&forebay, call("m")).await;
            assert_eq!(asked(&script, FIRST), 2, "{status}: behind its rest it is tried once");

            is_broke.store(true, Ordering::Relaxed);
            assert_eq!(refused(forebay.call(call("m")).await), (status, 1, body.to_owned()));
            let before = (clock::now(), script.times().len());
            assert_eq!(refused(forebay.call(call("n")).await), (status, 0, body.to_owned()), "its own word, at once");
            assert_eq!((clock::now(), script.times().len()), before);
            answered(&forebay, call("either")).await;
            assert_eq!(asked(&script, "none"), 1, "{status}: the next target takes it");
        });
    }
}

#[test]
fn what_was_under_way_when_the_money_ran_out_wakes_no_key() {
    const NO_MONEY: &str = r#"{"error":{"code":"credit_balance_exhausted"}}"#;
    in_virtual_time(async {
        let script = provider(|came| came.text.contains("late").then(|| Scripted::json(429, NO_MONEY)));
        let forebay = script.start(two_keys("limits = { max_concurrent = 50 }")).await;
        let late = || Request::chat("m", [serde_json::json!({"role": "user", "content": "late"})]);
        // Both keys have one of each under way.
        let outcomes = join_all((0..4).map(|n| forebay.call(if n < 2 { late() } else { call("m") }))).await;
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 2);
        let before = script.times().len();
        assert_eq!(refused(forebay.call(call("m")).await).0, 429);
        assert_eq!(script.times().len(), before);
    });
}

#[test]
fn a_days_quota_keeps_its_model_until_its_end_and_nothing_else() {
    // A minute before midnight in California, whatever delay is named.
    const DAY: &str = r#"{"error":{"status":"RESOURCE_EXHAUSTED","details":[
        {"@type":"x/QuotaFailure","violations":[{"quotaId":"GenerateRequestsPerDayPerProjectPerModel"}]},
        {"@type":"x/RetryInfo","retryDelay":"5s"}]}}"#;
    in_virtual_time(async {
        let is_used_up = Arc::new(AtomicBool::new(false));
        let (start, second) = (clock::now(), Arc::clone(&is_used_up));
        let script = provider(move |came| {
            let is_of_second = came.key == SECOND && second.load(Ordering::Relaxed);
            let is_day = clock::now() < start + s(60.0);
            let refuses = came.model == "m" && is_day && (came.key == FIRST || is_of_second);
            refuses.then(|| Scripted::with(Scripted::json(429, DAY), "date", "Fri, 21 Aug 2026 06:59:00 GMT"))
        });
        let forebay = script.start(two_keys("")).await;
        for _ in 0..5 {
            answered(&forebay, call("m")).await;
        }
        assert_eq!((asked(&script, FIRST), asked(&script, SECOND)), (1, 5), "the other key goes on");
        answered(&forebay, call("n")).await;
        assert_eq!(asked(&script, FIRST), 2, "the other model goes on");

        is_used_up.store(true, Ordering::Relaxed);
        let (status, attempts, _) = refused(forebay.call(call("m")).await);
        assert_eq!((status, attempts), (429, 1), "what says that the quota is used up is not tried again");
        let before = script.times().len();
        let (status, attempts, said) = refused(forebay.call(call("m").with_timeout(s(30.0))).await);
        assert_eq!((status, attempts), (504, 0));
        assert!(
            said.contains("quota of the day is used up for this model") && said.contains("the next call may go in 5"),
            "{said}"
        );
        assert_eq!((script.times().len(), (clock::now() - start) < s(1.0)), (before, true), "told at once");
        answered(&forebay, call("either")).await;
        assert_eq!((asked(&script, "none"), (clock::now() - start) < s(2.0)), (1, true), "the next target takes it");
        answered(&forebay, call("n")).await;

        answered(&forebay, call("m").with_timeout(s(90.0))).await;
        let waited = clock::now() - start;
        assert!(s(60.0) <= waited && waited < s(62.0), "{waited:?}: one with more time waits");
    });
}

#[test]
fn a_call_that_waits_is_told_when_the_quota_of_its_day_turns_out_to_be_used_up() {
    const DAY: &str = r#"{"error":{"message":"on requests per day (RPD): Limit 200, Used 200, Requested 1.","code":"rate_limit_exceeded"}}"#;
    in_virtual_time(async {
        let start = clock::now();
        let script = provider(move |_| (clock::now() < start + s(3_000.0)).then(|| Scripted::json(429, DAY)));
        let forebay = script.start(two_keys("limits = { max_concurrent = 1 }")).await;
        let long = || forebay.call(call("m").with_timeout(s(7_200.0)));
        let short = async {
            let outcome = forebay.call(call("m").with_timeout(s(600.0))).await;
            (outcome, clock::now() - start)
        };
        let (both, (outcome, told_at)) = join(join_all([long(), long()]), short).await;
        let (status, attempts, said) = refused(outcome);
        assert_eq!((status, attempts, told_at), (504, 0, s(0.1)), "{said}");
        assert!(
            said.contains("quota of the day is used up for this model, the next call may go in 3600.0 s"),
            "{said}"
        );
        assert!(both.iter().all(Result::is_ok), "where no time is named it is an hour");
        let attempts: Vec<u32> = both.iter().flatten().map(|answer| answer.meta.attempts).collect();
        assert_eq!(attempts, [2, 2]);
    });
}

#[test]
fn a_day_ends_when_the_upstream_says_so() {
    const DAY: &str = r#"{"error":{"message":"on requests per day (RPD): Limit 200, Used 200, Requested 1. Please try again in 7m12s.","code":"rate_limit_exceeded"}}"#;
    in_virtual_time(async {
        let start = clock::now();
        let script = provider(move |_| (clock::now() < start + s(432.0)).then(|| Scripted::json(429, DAY)));
        let forebay = script.start(two_keys("")).await;
        let outcomes = join_all((0..6).map(|_| forebay.call(call("m")))).await;
        assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
        let took = clock::now() - start;
        assert!(s(432.0) < took && took < s(436.0), "{took:?}");
        answered(&forebay, call("n")).await;
    });
}

#[test]
fn a_key_whose_growth_is_refused_is_asked_less_and_the_other_goes_on() {
    const SLOW_DOWN: &str = r#"{"error":{"code":"slow_down","type":"rate_limit_error"}}"#;
    in_virtual_time(async {
        let script = provider(|came| (came.key == FIRST).then(|| Scripted::json(429, SLOW_DOWN)));
        let forebay = script.start(two_keys("limits = { max_concurrent = 4 }")).await;
        let start = clock::now();
        let outcomes = join_all((0..100).map(|_| forebay.call(call("m")))).await;
        assert!(outcomes.iter().all(Result::is_ok));
        assert!(asked(&script, FIRST) <= 8, "{}", asked(&script, FIRST));
        assert!(clock::now() - start < s(5.0), "{:?}", clock::now() - start);
    });
}

#[test]
fn an_overloaded_upstream_is_tried_again_and_the_other_key_goes_on() {
    const OVERLOADED: &str = r#"{"type":"error","error":{"type":"overloaded_error"}}"#;
    for status in [503, 529] {
        in_virtual_time(async move {
            let is_well = Arc::new(AtomicBool::new(false));
            let first = Arc::clone(&is_well);
            let script = provider(move |came| {
                let is_overloaded = came.key == FIRST && !first.load(Ordering::Relaxed);
                is_overloaded.then(|| Scripted::json(status, OVERLOADED))
            });
            let forebay = script.start(two_keys("")).await;
            for _ in 0..20 {
                answered(&forebay, call("m")).await;
            }
            assert_eq!((asked(&script, FIRST), asked(&script, SECOND)), (1, 20), "{status}: the other is less crowded");
            is_well.store(true, Ordering::Relaxed);
            let outcomes = join_all((0..20).map(|_| forebay.call(call("m")))).await;
            assert!(outcomes.iter().all(Result::is_ok) && asked(&script, FIRST) > 5, "{status}: it is not given up");
        });
    }
}

const TOO_LARGE: &str = r#"{"error":{"message":"Request too large for m on tokens per min (TPM): Limit 30000, Requested 45000.","code":"rate_limit_exceeded"}}"#;

#[test]
fn a_call_that_is_too_large_for_one_key_goes_to_the_other_and_the_next_does_not_ask_the_first() {
    in_virtual_time(async {
        let script =
            provider(|came| (came.key == FIRST && came.text.contains("40000")).then(|| Scripted::json(429, TOO_LARGE)));
        let forebay = script.start(two_keys("")).await;
        let start = clock::now();
        for _ in 0..3 {
            answered(&forebay, large("m", 40_000)).await;
        }
        assert_eq!((asked(&script, FIRST), asked(&script, SECOND)), (1, 3));
        assert!(clock::now() - start < s(0.5), "nobody waited");
        answered(&forebay, large("m", 400)).await;
        // Keys alike are asked in turn.
        for _ in 0..2 {
            answered(&forebay, large("n", 40_000).with_timeout(s(60.0))).await;
        }
        assert_eq!(asked(&script, FIRST), 3, "smaller ones go there, and other models");
        clock::until(clock::now() + s(3_600.0)).await;
        answered(&forebay, large("m", 40_000)).await;
        assert_eq!(asked(&script, FIRST), 4, "the limit may have been raised");
    });
}

#[test]
fn a_call_that_is_too_large_for_all_ends_with_the_upstreams_word_and_the_next_is_told_why_at_once() {
    in_virtual_time(async {
        let script = provider(|came| (came.key != "none").then(|| Scripted::json(429, TOO_LARGE)));
        let forebay = script.start(two_keys("")).await;
        let start = clock::now();
        assert_eq!(refused(forebay.call(large("m", 40_000)).await), (429, 2, TOO_LARGE.to_owned()));
        assert!(clock::now() - start < s(0.3), "no backoff");
        let (status, attempts, said) = refused(forebay.call(large("m", 50_000)).await);
        assert_eq!((status, attempts), (504, 0));
        assert!(said.contains("more than the provider's limit of 30000 tokens (learned) ever allows"), "{said}");
        answered(&forebay, large("either", 40_000)).await;
        assert_eq!((asked(&script, "none"), script.times().len()), (1, 3));
    });
}

#[test]
fn a_call_is_not_sent_again_for_being_too_large_where_nobody_says_for_what() {
    const UNTOLD: &str = r#"{"error":{"message":"Request too large.","code":"rate_limit_exceeded"}}"#;
    in_virtual_time(async {
        let script =
            provider(|came| (came.key != "none" && !came.text.contains("hello")).then(|| Scripted::json(429, UNTOLD)));
        let forebay = script.start(two_keys("")).await;
        assert_eq!(refused(forebay.call(large("m", 10)).await), (429, 1, UNTOLD.to_owned()));
        answered(&forebay, large("either", 10)).await;
        assert_eq!(script.times().len(), 3);
        answered(&forebay, call("m")).await;
    });
}
