//! The retry table of the contract, row by row, against scripted upstreams in virtual time: attempts made, the waits
//! between them, the status and body that the caller gets in the end.

mod support;

use bytes::Bytes;
use forebay::transport::{HttpResponse, Scripted, TransportError};
use forebay::{Error, FailureKind, Outcome, Phase, Sent};
use support::{Scene, Script, chat, config, gives, good, in_virtual_time, s, silence, streamed};

type Answer = fn() -> Result<HttpResponse, TransportError>;

fn status(status: u16) -> Result<HttpResponse, TransportError> {
    Ok(Scripted::json(status, format!(r#"{{"error":{{"message":"told {status}","code":null}}}}"#)))
}

fn fails(kind: FailureKind) -> Result<HttpResponse, TransportError> {
    Err(TransportError::new(kind, Sent::Maybe, "scripted"))
}

fn pieces(chunks: Vec<Result<Bytes, TransportError>>) -> Result<HttpResponse, TransportError> {
    let mut response = Scripted::events(chunks);
    response.headers = forebay::Headers::new();
    Ok(response)
}

fn cut() -> TransportError {
    TransportError::new(FailureKind::Cut, Sent::Maybe, "scripted")
}

/// Asks once of an upstream that always does the same; gives the outcome, attempts, waits.
fn ask(answer: Answer, request: fn(&str) -> forebay::Request) -> (Outcome, usize, Vec<f64>) {
    in_virtual_time(async move {
        let script = Script::new(vec![], move || gives(answer));
        let forebay = script.start(config("")).await;
        let request = request("hello");
        let outcome = if request.is_stream() {
            forebay.stream(request).await.map(|_| unreachable!("no row of this table is answered"))
        } else {
            forebay.call(request).await
        };
        (outcome, script.times().len(), script.waits())
    })
}

fn error(outcome: Outcome) -> Error {
    outcome.expect_err("it fails")
}

#[test]
fn what_is_retried_is_tried_five_times_with_doubling_waits_and_ends_as_the_table_says() {
    let rows: Vec<(&str, Answer, u16, &str)> = vec![
        ("connection refused, DNS, TLS", || fails(FailureKind::Unreachable), 502, "upstream_unavailable"),
        ("connection reset or closed", || fails(FailureKind::Cut), 502, "upstream_unavailable"),
        ("connect timeout", || fails(FailureKind::Timeout(Phase::Connect)), 502, "upstream_unavailable"),
        ("garbage for a head", || fails(FailureKind::Malformed), 502, "upstream_unavailable"),
        ("truncated body", || pieces(vec![Ok("{\"id\":".into()), Err(cut())]), 502, "upstream_unavailable"),
        ("truncated JSON", || Ok(Scripted::json(200, "{\"id\":\"x\",")), 502, "upstream_unavailable"),
        ("an empty answer", || Ok(Scripted::json(200, "")), 502, "upstream_unavailable"),
        ("408", || status(408), 408, "upstream_error"),
        ("409", || status(409), 409, "upstream_error"),
        ("429 that names no time", || status(429), 429, "upstream_error"),
        ("500", || status(500), 500, "upstream_error"),
        ("502", || status(502), 502, "upstream_error"),
        ("503", || status(503), 503, "upstream_error"),
        ("504", || status(504), 504, "upstream_error"),
        ("529", || status(529), 529, "upstream_error"),
        (
            "418 that asks for a retry",
            || status(418).map(|answer| Scripted::with(answer, "x-should-retry", "true")),
            418,
            "upstream_error",
        ),
    ];
    for (name, answer, status, code) in rows {
        let (outcome, attempts, waits) = ask(answer, chat);
        let error = error(outcome);
        assert_eq!((error.status(), error.code()), (status, code), "{name}: {error}");
        assert_eq!(attempts, 5, "{name}");
        assert_eq!(error.meta().attempts, 5, "{name}");
        assert_eq!(waits, [1.0, 2.0, 4.0, 8.0], "{name}");
        if code == "upstream_error" {
            let told = format!(r#"{{"error":{{"message":"told {status}","code":null}}}}"#);
            assert_eq!(error.to_body(), told, "{name}: the upstream's body comes unchanged");
        }
    }
}

#[test]
fn what_is_never_retried_is_tried_once_and_comes_as_it_is() {
    let rows: Vec<(&str, Answer, u16, &str)> = vec![
        ("400", || status(400), 400, "upstream_error"),
        ("401", || status(401), 401, "upstream_error"),
        ("403", || status(403), 403, "upstream_error"),
        ("404", || status(404), 404, "upstream_error"),
        ("413", || status(413), 413, "upstream_error"),
        ("422", || status(422), 422, "upstream_error"),
        ("418", || status(418), 418, "upstream_error"),
        ("301", || status(301), 502, "upstream_redirected"),
        ("307", || status(307), 502, "upstream_redirected"),
        ("a certificate that does not verify", || fails(FailureKind::Certificate), 502, "upstream_unavailable"),
        (
            "429 out of quota",
            || {
                Ok(Scripted::json(
                    429,
                    r#"{"error":{"message":"pay","type":"insufficient_quota","code":"insufficient_quota"}}"#,
                ))
            },
            429,
            "upstream_error",
        ),
        (
            "400 that asks for a retry",
            || status(400).map(|answer| Scripted::with(answer, "x-should-retry", "true")),
            400,
            "upstream_error",
        ),
        (
            "500 that forbids a retry",
            || status(500).map(|answer| Scripted::with(answer, "x-should-retry", "false")),
            500,
            "upstream_error",
        ),
    ];
    for (name, answer, status, code) in rows {
        let (outcome, attempts, _) = ask(answer, chat);
        let error = error(outcome);
        assert_eq!((error.status(), error.code()), (status, code), "{name}: {error}");
        assert_eq!(attempts, 1, "{name}");
    }
}

#[test]
fn an_upstream_that_stands_still_is_given_up_after_its_phase_and_tried_again() {
    in_virtual_time(async {
        let script = Script::new(vec![silence()], || gives(|| Ok(Scripted::json(200, good("late")))));
        let forebay = script.start(config("answer_timeout = \"2s\"")).await;
        forebay.call(chat("hello")).await.expect("the second attempt is answered");
        assert_eq!(script.waits(), [3.0], "two seconds of silence and one of backoff");
    });
}

#[test]
fn a_body_that_stands_still_is_given_up_after_its_idle_time() {
    in_virtual_time(async {
        let stalled: Scene = Box::new(|_| {
            Box::pin(async {
                let mut response = Scripted::json(200, "");
                let first = futures_util::stream::iter([Ok(Bytes::from("{\"id\":"))]);
                response.body = Box::pin(futures_util::StreamExt::chain(first, futures_util::stream::pending()));
                Ok(response)
            })
        });
        let script = Script::new(vec![stalled], || gives(|| Ok(Scripted::json(200, good("late")))));
        let forebay = script.start(config("idle_timeout = \"7s\"")).await;
        forebay.call(chat("hello")).await.expect("the second attempt is answered");
        assert_eq!(script.waits(), [8.0]);
    });
}

#[test]
fn an_error_event_that_opens_a_stream_is_retried_and_keeps_its_body() {
    let opening: Answer = || {
        Ok(Scripted::events(vec![Ok(
            "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\"}}]}\n\ndata: {\"error\":{\"message\":\"overloaded\",\"code\":null}}\n\n".into(),
        )]))
    };
    let (outcome, attempts, waits) = ask(opening, streamed);
    let error = error(outcome);
    assert_eq!((attempts, waits), (5, vec![1.0, 2.0, 4.0, 8.0]));
    assert!(error.status() >= 500, "{error:?}");
    assert!(String::from_utf8_lossy(&error.to_body()).contains("overloaded"));
}

#[test]
fn a_stream_cut_before_its_content_is_retried() {
    in_virtual_time(async {
        let role = "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n";
        let word = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hi\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
        let script = Script::new(
            vec![
                gives(move || Ok(Scripted::events(vec![Ok(role.into())]))),
                gives(move || Ok(Scripted::events(vec![Ok(role.into()), Err(cut())]))),
            ],
            move || gives(move || Ok(Scripted::events(vec![Ok(role.into()), Ok(word.into())]))),
        );
        let forebay = script.start(config("")).await;
        let mut events = forebay.stream(streamed("hello")).await.expect("the third attempt is answered");
        let mut data = Vec::new();
        while let Some(event) = events.next().await {
            data.push(event.expect("no error").data);
        }
        assert_eq!(script.waits(), [1.0, 2.0]);
        assert_eq!(data.len(), 3, "the role, the word and the end, each once: {data:?}");
    });
}

#[test]
fn a_429_that_names_its_time_waits_that_and_uses_up_no_attempt_and_again_and_again_a_little_longer() {
    let forms: Vec<(&str, &str, f64)> =
        vec![("retry-after", "3", 3.0), ("retry-after", "0.25", 0.25), ("retry-after-ms", "700", 0.7)];
    for (name, value, wait) in forms {
        in_virtual_time(async move {
            let refuse = move || gives(move || Ok(Scripted::with(status(429)?, name, value)));
            let script =
                Script::new((0..12).map(|_| refuse()).collect(), || gives(|| Ok(Scripted::json(200, good("ok")))));
            let forebay = script.start(config("")).await;
            let answer = forebay.call(chat("hello")).await.expect("the thirteenth attempt is answered");
            assert_eq!(answer.meta.attempts, 13);
            let waits = script.waits();
            // Whoever is refused each time it comes as told is told too little: the pause of refusals in a row is the least then.
            let pauses =
                (0..12).map(|refusals| if refusals == 0 { 0.0 } else { f64::min(0.5 * 2_f64.powi(refusals), 8.0) });
            let due: Vec<f64> = pauses.map(|pause| wait.max(pause)).collect();
            let is_due = waits.iter().zip(&due).all(|(waited, due)| (waited - due).abs() < 0.011);
            assert!(is_due && waits.len() == due.len(), "{name}: {value}: {waits:?}");
        });
    }
}

#[test]
fn a_retry_after_as_a_date_is_measured_against_the_answers_own_date() {
    in_virtual_time(async {
        let refuse = gives(|| {
            let answer = Scripted::with(status(429)?, "date", "Mon, 23 Nov 2026 20:00:00 GMT");
            Ok(Scripted::with(answer, "retry-after", "Mon, 23 Nov 2026 20:00:09 GMT"))
        });
        let script = Script::new(vec![refuse], || gives(|| Ok(Scripted::json(200, good("ok")))));
        let forebay = script.start(config("")).await;
        forebay.call(chat("hello")).await.expect("answered");
        assert_eq!(script.waits(), [9.0]);
    });
}

#[test]
fn a_503_that_names_its_time_waits_that_and_uses_up_attempts() {
    let (outcome, attempts, waits) = ask(|| status(503).map(|answer| Scripted::with(answer, "retry-after", "6")), chat);
    assert_eq!(error(outcome).status(), 503);
    assert_eq!((attempts, waits), (5, vec![6.0; 4]));
}

#[test]
fn a_hold_past_the_callers_deadline_is_504_at_once_and_names_the_hold() {
    in_virtual_time(async {
        let script = Script::new(vec![], || gives(|| Ok(Scripted::with(status(429)?, "retry-after", "120"))));
        let forebay = script.start(config("")).await;
        let start = forebay::clock::now();
        let patient = tokio::task::spawn_local({
            let forebay = forebay.clone();
            async move { forebay.call(chat("two").with_timeout(s(300.0))).await }
        });
        let error = forebay.call(chat("one").with_timeout(s(30.0))).await.expect_err("it cannot be kept");
        assert_eq!(error.code(), "deadline_exceeded");
        assert!(error.message().contains("Retry-After"), "{error}");
        assert_eq!(forebay::clock::now() - start, s(0.0), "nobody waits in vain");
        let late = forebay.call(chat("three").with_timeout(s(30.0))).await.expect_err("the hold is known now");
        assert_eq!((late.code(), late.meta().attempts), ("deadline_exceeded", 0));
        patient.abort();
    });
}

#[test]
fn a_deadline_ends_a_call_that_waits_runs_or_backs_off() {
    in_virtual_time(async {
        let script = Script::new(vec![], silence);
        let forebay = script.start(config("limits = { max_concurrent = 1 }")).await;
        let start = forebay::clock::now();
        let (running, waiting) = futures_util::future::join(
            forebay.call(chat("runs").with_timeout(s(5.0))),
            forebay.call(chat("waits").with_timeout(s(4.0))),
        )
        .await;
        assert_eq!(forebay::clock::now() - start, s(5.0));
        for (outcome, words) in [(running, "worked on attempt 1"), (waiting, "its 1 calls are in flight")] {
            let error = outcome.expect_err("its time is up");
            assert_eq!(error.code(), "deadline_exceeded");
            assert!(error.message().contains(words), "{error}");
        }
        assert_eq!(script.times().len(), 1);
    });
}

#[test]
fn a_refused_key_rests_and_another_key_takes_the_call() {
    in_virtual_time(async {
        let script = Script::new(vec![gives(|| status(401))], || gives(|| Ok(Scripted::json(200, good("ok")))));
        let forebay = script.start(config("").clone()).await;
        drop(forebay);
        let two_keys = forebay::Config::from_toml(
            "[pool]\nthreads = 0\n[upstreams.up]\nbase_url = \"http://u.test/v1\"\napi_keys = [\"sk-test-000001\", \"sk-test-000002\"]\nmodels = [\"m\"]",
        )
        .unwrap_or_else(|problems| panic!("{problems}"));
        let forebay = script.start(two_keys).await;
        let answer = forebay.call(chat("hello")).await.expect("the other key is good");
        assert_eq!(answer.meta.attempts, 2);
        for _ in 0..5 {
            forebay.call(chat("again")).await.expect("the good key goes on");
        }
        let keys: Vec<String> = script
            .requests()
            .iter()
            .map(|request| request.headers.get("authorization").unwrap_or_default().to_owned())
            .collect();
        assert_ne!(keys[0], keys[1]);
        assert!(keys[2..].iter().all(|key| *key == keys[1]), "the refused key rests: {keys:?}");
    });
}

#[test]
fn while_every_key_rests_a_call_gets_the_last_401_at_once() {
    in_virtual_time(async {
        let script = Script::new(vec![gives(|| status(401))], || gives(|| Ok(Scripted::json(200, good("ok")))));
        let forebay = script.start(config("")).await;
        assert_eq!(forebay.call(chat("one")).await.expect_err("refused").status(), 401);
        let second = forebay.call(chat("two")).await.expect_err("the key rests");
        assert_eq!((second.status(), second.meta().attempts), (401, 0));
        assert_eq!(second.to_body(), r#"{"error":{"message":"told 401","code":null}}"#);
        tokio::time::advance(s(60.0)).await;
        forebay.call(chat("three")).await.expect("after a minute the key is tried again");
        assert_eq!(script.times().len(), 2);
    });
}
