//! The daemon before an upstream that speaks Google's Gemini API: the simulator's face of it.
#![cfg(all(feature = "gateway", unix))]

#[path = "support/daemon.rs"]
mod daemon;

use daemon::{Daemon, End, chat, post};
use forebay::simulator::{Fault, Rate, Running, Settings, Simulator, expected_echo};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";

/// A simulator, and a daemon that knows it as a Gemini upstream.
fn stage(change: impl FnOnce(&mut Settings)) -> (Running, Daemon) {
    let mut settings = Settings::default();
    change(&mut settings);
    let simulator = Simulator::bind("127.0.0.1:0".parse().unwrap(), settings).unwrap().start_thread().unwrap();
    let config = format!(
        r#"
        [pool]
        threads = 2
        [upstreams.google]
        kind = "gemini"
        base_url = "http://{}/v1beta"
        api_keys = ["AIza-test-0000000001"]
        models = ["m"]
        retry = {{ base_delay = "10ms" }}
        "#,
        simulator.address()
    );
    let daemon = Daemon::start(&config);
    (simulator, daemon)
}

/// A chat that says `text` and has these other fields too.
fn with(text: &str, more: Value) -> String {
    let mut body: Value = serde_json::from_str(&chat(text)).unwrap();
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    body.to_string()
}

#[test]
fn chats_whole_and_streamed_come_back_in_openais_format() {
    let (simulator, daemon) = stage(|_| {});
    let whole = daemon.ask(post(CHAT, "", with("hello", json!({"n": 2, "temperature": 0.5}))));
    let body = whole.json();
    assert_eq!((whole.status, whole.header("x-forebay-upstream")), (200, Some("google")), "{}", whole.text());
    assert_eq!((&body["object"], &body["model"]), (&json!("chat.completion"), &json!("m")));
    assert_eq!(body["choices"][1]["message"]["content"], expected_echo("hello"));
    assert_eq!(body["choices"][1]["finish_reason"], "stop");
    assert!(body["usage"]["completion_tokens"].as_u64().unwrap() > 0);

    let asked = json!({"stream": true, "stream_options": {"include_usage": true}});
    let stream = daemon.ask(post(CHAT, "", with("hello", asked)));
    let events = stream.events();
    assert_eq!((stream.status, stream.end, stream.content()), (200, End::Complete, expected_echo("hello")));
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
    let usage: Value = serde_json::from_str(&events[events.len() - 2]).unwrap();
    assert_eq!(usage["choices"], json!([]));
    assert!(usage["usage"]["total_tokens"].as_u64().unwrap() > 0);
    assert_eq!(simulator.ledger().keys.len(), 1, "the key came in its header");
}

#[test]
fn faults_are_waited_out_and_streams_that_break_say_so() {
    let (_simulator, daemon) = stage(|_| {});
    for fault in ["reset", "rate-limited=0.05", "status-503", "truncated-json", "cut-body", "error-first", "unfinished"]
    {
        let prompt = format!("hello [[fault:{fault}]]");
        for more in [json!({}), json!({"stream": true})] {
            let is_begun = more["stream"] == true && matches!(fault, "truncated-json" | "cut-body" | "unfinished");
            // Each text has its orders once: the whole answer's and the stream's are two texts.
            let prompt = format!("{prompt}{more}");
            let reply = daemon.ask(post(CHAT, "", with(&prompt, more)));
            assert_eq!(reply.status, 200, "{fault}: {}", reply.text());
            if is_begun {
                let last = reply.events().pop().unwrap();
                assert!(last.contains("\"error\"") && !reply.text().contains("[DONE]"), "{fault}: {last}");
            } else {
                assert_eq!((reply.content(), reply.end), (expected_echo(&prompt), End::Complete), "{fault}");
            }
        }
    }
}

#[test]
fn errors_come_in_openais_envelope_with_a_code_that_is_a_string() {
    let (_simulator, daemon) = stage(|settings| settings.odds.set(Fault::Status(400), 1.0));
    let reply = daemon.ask(post(CHAT, "", chat("hello")));
    let error = &reply.json()["error"];
    assert_eq!((reply.status, &error["code"]), (400, &json!("INVALID_ARGUMENT")), "{}", reply.text());
    assert_eq!((&error["type"], &error["param"]), (&json!("invalid_request_error"), &Value::Null));
    assert_eq!(reply.header("x-should-retry"), Some("false"));

    let reply = daemon.ask(post(CHAT, "", with("hello", json!({"logit_bias": {"1": 1}}))));
    assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &json!("logit_bias")), "{}", reply.text());
}

#[test]
fn a_page_of_a_proxy_comes_as_an_error_in_json() {
    let (_simulator, daemon) = stage(|settings| settings.odds.set(Fault::Status(502), 1.0));
    let reply = daemon.ask(post(CHAT, "", chat("hello")));
    assert_eq!((reply.status, reply.header("content-type")), (502, Some("application/json")), "{}", reply.text());
    assert!(reply.json()["error"]["message"].is_string());
}

#[test]
fn limits_that_only_bodies_tell_are_kept_to() {
    let (simulator, daemon) = stage(|settings| {
        settings.limits.requests_per_second = Some(Rate::per_second(20));
    });
    let callers: Vec<_> = (0..40)
        .map(|n| {
            let mut caller = daemon.connect();
            caller.send(post(CHAT, "", chat(&format!("prompt {n}"))));
            caller
        })
        .collect();
    for (n, mut caller) in callers.into_iter().enumerate() {
        let reply = caller.reply();
        assert_eq!((reply.status, reply.content()), (200, expected_echo(&format!("prompt {n}"))), "{}", reply.text());
    }
    assert_eq!(simulator.ledger().answered, 40);
}
