//! Anthropic's own protocol through the real daemon, to the simulator's face of Anthropic and to a scripted upstream: what
//! a caller of `/v1/messages` sees, byte by byte.
#![cfg(all(feature = "gateway", unix))]

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/upstream.rs"]
mod upstream;

use std::net::SocketAddr;

use daemon::{Daemon, End, Reply, post};
use forebay::simulator::{Running, Settings, Simulator, expected_echo};
use serde_json::{Value, json};
use upstream::Upstream;

const MESSAGES: &str = "/v1/messages";
const COUNT: &str = "/v1/messages/count_tokens";

/// A daemon in front of an anthropic upstream at `upstream`.
fn before(upstream: SocketAddr, more: &str) -> Daemon {
    Daemon::start(&format!(
        r#"
        [pool]
        threads = 2
        [retry]
        base_delay = "10ms"
        [upstreams.claude]
        kind = "anthropic"
        base_url = "http://{upstream}"
        api_keys = ["sk-ant-test-0000000001"]
        models = ["claude-*"]
        [routes."mine"]
        targets = ["claude/claude-one"]
        {more}
        "#
    ))
}

fn simulated(change: impl FnOnce(&mut Settings)) -> (Running, Daemon) {
    let mut settings = Settings::default();
    change(&mut settings);
    let simulator = Simulator::bind(([127, 0, 0, 1], 0).into(), settings).unwrap().start_thread().unwrap();
    let daemon = before(simulator.address(), "");
    (simulator, daemon)
}

fn body(text: &str, stream: bool) -> String {
    let messages = json!([{"role": "user", "content": [{"type": "text", "text": text}]}]);
    json!({"model": "claude-one", "max_tokens": 64, "stream": stream, "messages": messages}).to_string()
}

/// What the message says, whole or streamed.
fn text(reply: &Reply) -> String {
    if let Some(text) = reply.json()["content"][0]["text"].as_str() {
        return text.to_owned();
    }
    let events = reply.events().into_iter().filter_map(|data| serde_json::from_str::<Value>(&data).ok());
    events.filter_map(|event| event["delta"]["text"].as_str().map(str::to_owned)).collect()
}

/// The names of a stream's events in order, those of content once.
fn kinds(reply: &Reply) -> Vec<String> {
    let text = reply.text();
    let mut kinds: Vec<String> =
        text.lines().filter_map(|line| line.strip_prefix("event: ").map(str::to_owned)).collect();
    kinds.dedup();
    kinds
}

const WHOLE_STREAM: [&str; 7] = [
    "message_start",
    "content_block_start",
    "ping",
    "content_block_delta",
    "content_block_stop",
    "message_delta",
    "message_stop",
];

#[test]
fn a_message_a_stream_and_a_count_pass_through() {
    let (simulator, daemon) = simulated(|_| {});
    for path in [MESSAGES, "/anthropic/v1/messages"] {
        let whole = daemon.ask(post(path, "", body("hello", false)));
        assert_eq!((whole.status, text(&whole)), (200, expected_echo("hello")), "{}", whole.text());
        assert_eq!(whole.header("request-id"), whole.header("x-request-id"));
        assert_eq!(whole.header("x-forebay-upstream"), Some("claude"));
        let stream = daemon.ask(post(path, "", body("hello", true)));
        assert_eq!((stream.status, stream.end, text(&stream)), (200, End::Complete, expected_echo("hello")));
        assert_eq!(kinds(&stream), WHOLE_STREAM);
    }
    let count =
        daemon.ask(post(COUNT, "", r#"{"model":"claude-one","messages":[{"role":"user","content":"12345678"}]}"#));
    assert_eq!((count.status, count.json()), (200, json!({"input_tokens": 2})));
    let route = daemon.ask(post(MESSAGES, "", body("hello", false).replace("claude-one", "mine")));
    assert_eq!((route.status, &route.json()["model"]), (200, &json!("claude-one")));
    let ledger = simulator.ledger();
    assert_eq!((ledger.requests, ledger.answered, ledger.refused), (6, 6, 0));
}

#[test]
fn what_goes_wrong_before_content_is_tried_again_and_nobody_sees_it() {
    let (simulator, daemon) = simulated(|_| {});
    for (fault, stream) in [
        ("status-529", false),
        ("status-529", true),
        ("status-500", false),
        ("rate-limited=0.01", false),
        ("reset", true),
        ("truncated-json", false),
        ("cut-opening", true),
        ("error-first", true),
        ("error-opening", true),
    ] {
        let prompt = format!("[[fault:{fault}]] {stream}");
        let reply = daemon.ask(post(MESSAGES, "", body(&prompt, stream)));
        assert_eq!((reply.status, reply.end, text(&reply)), (200, End::Complete, expected_echo(&prompt)), "{fault}");
        // What names its time uses up no attempt, but was made all the same.
        assert_eq!(reply.header("x-forebay-attempts"), Some("2"), "{fault}");
        assert!(!stream || kinds(&reply) == WHOLE_STREAM, "{fault}: {}", reply.text());
    }
    assert_eq!(simulator.ledger().faulted, 9);
}

#[test]
fn a_stream_that_breaks_behind_content_ends_with_an_error_of_the_protocols_own_and_uncleanly() {
    let (_simulator, daemon) = simulated(|_| {});
    for (fault, kind) in [
        ("cut-body", "api_error"),
        ("reset-body", "api_error"),
        ("unfinished", "api_error"),
        ("truncated-json", "api_error"),
        ("error-midway", "overloaded_error"),
    ] {
        let prompt = format!("[[fault:{fault}]]");
        let reply = daemon.ask(post(MESSAGES, "", body(&prompt, true)));
        assert_eq!((reply.status, reply.end), (200, End::Short), "{fault}");
        assert!(expected_echo(&prompt).starts_with(&text(&reply)) && !text(&reply).is_empty(), "{fault}");
        let last = reply.text();
        let last = last.trim_end().rsplit_once("\n\n").unwrap().1;
        let data = last.strip_prefix("event: error\ndata: ").unwrap_or_else(|| panic!("{fault}: {last}"));
        let told: Value = serde_json::from_str(data).unwrap();
        assert_eq!((&told["type"], &told["error"]["type"]), (&json!("error"), &json!(kind)), "{fault}");
        assert!(!kinds(&reply).contains(&"message_stop".to_owned()));
    }
}

#[test]
fn final_errors_are_in_anthropics_envelope_whoever_raised_them() {
    let (_simulator, daemon) = simulated(|_| {});
    let told = |reply: &Reply| {
        let body = reply.json();
        assert_eq!(body["type"], "error", "{body}");
        (reply.status, body["error"]["type"].as_str().unwrap_or_default().to_owned())
    };
    for (request, status, kind) in [
        (post(MESSAGES, "", body("[[fault:status-400]]", false)), 400, "invalid_request_error"),
        (post(MESSAGES, "", body("[[fault:status-413]]", true)), 413, "request_too_large"),
        (post(MESSAGES, "", body("too many", false).replace("\"max_tokens\":64,", "")), 400, "invalid_request_error"),
        (post(MESSAGES, "", "{"), 400, "invalid_request_error"),
        (post(MESSAGES, "", r#"{"model":"gpt","messages":[]}"#), 404, "not_found_error"),
        (post("/v1/messages/batches", "", "{}"), 404, "not_found_error"),
        (post(MESSAGES, "x-forebay-priority: urgent\r\n", body("x", false)), 400, "invalid_request_error"),
        // The last: the account has no money from then on.
        (post(MESSAGES, "", body("[[fault:quota]]", false)), 429, "rate_limit_error"),
    ] {
        let reply = daemon.ask(&request);
        assert_eq!(told(&reply), (status, kind.to_owned()), "{}", reply.text());
        assert_eq!(reply.header("x-should-retry"), Some("false"));
        assert!(reply.header("request-id").is_some_and(|id| id.starts_with("req_")));
    }
}

#[test]
fn the_body_arrives_byte_for_byte_with_the_accounts_key_and_the_callers_versions() {
    let upstream = Upstream::held();
    let daemon = before(upstream.addr, "");
    let odd = r#" {"messages":[{"role":"user","content":"\ud83d\ude00 \u0041"}], "max_tokens" : 1e3,
        "model":"claude-one","new_field":{"b":1.0,"a":123456789012345678901234567890},"x":1,"x":2 } "#;
    let headers = "anthropic-version: 2026-10-21\r\nanthropic-beta: one-2025-01-01,two\r\nauthorization: Bearer callers\r\n\
                   x-api-key: callers\r\ncookie: a=b\r\n";
    let mut caller = daemon.connect();
    caller.send(post(MESSAGES, headers, odd));
    let asked = upstream.next();
    assert_eq!(asked.body, odd);
    assert_eq!(asked.header("x-api-key"), ["sk-ant-test-0000000001"]);
    assert_eq!((asked.header("authorization"), asked.header("cookie")), (vec![], vec![]));
    assert_eq!(asked.header("anthropic-version"), ["2026-10-21"]);
    assert_eq!(asked.header("anthropic-beta"), ["one-2025-01-01,two"]);
    let answer = r#"{"type":"message", "content":[ ],"usage":{"input_tokens":1,"output_tokens":1},"new":1.50}"#;
    asked.answer(200, answer);
    assert_eq!(caller.reply().text(), answer);
    caller.send(post(MESSAGES, "", odd.replace("claude-one", "mine")));
    let asked = upstream.next();
    assert_eq!((asked.body.as_str(), asked.header("anthropic-version")), (odd, vec!["2023-06-01"]));
    asked.answer(200, answer);
    assert_eq!(caller.reply().text(), answer);
}

#[test]
fn pings_pass_behind_content_and_what_is_new_or_foreign_does_what_it_should() {
    let upstream = Upstream::held();
    let daemon = before(upstream.addr, "");
    let event = |kind: &str, more: &str| format!("event: {kind}\ndata: {{\"type\":\"{kind}\"{more}}}\n\n");
    let start = event("message_start", r#","message":{"usage":{"input_tokens":1}}"#);
    let delta = event("content_block_delta", r#","index":0,"delta":{"type":"later_delta","x":1}"#);
    let (ping, later, stop) = (event("ping", ""), event("later_event", ",\"y\":[]"), event("message_stop", ""));
    let mut caller = daemon.connect();
    caller.send(post(MESSAGES, "", body("hi", true)));
    let mut stream = upstream.next().stream();
    stream.chunk(&[&*start, &ping, "event: keepalive\ndata: {}\n\n", "data:\n\n", &delta].concat());
    caller.wait_for("later_delta");
    stream.chunk(&[&*ping, ": a comment\n\n", "data: [DONE]\n\n", &later, &stop].concat());
    let reply = caller.reply();
    assert_eq!((reply.text(), reply.end), ([&*start, &ping, &delta, &ping, &later, &stop].concat(), End::Complete));
}

#[test]
fn a_caller_who_leaves_cancels_the_upstreams_work() {
    let upstream = Upstream::held();
    let daemon = before(upstream.addr, "");
    for stream in [false, true] {
        let mut caller = daemon.connect();
        caller.send(post(MESSAGES, "", body("hi", stream)));
        let asked = upstream.next();
        drop(caller);
        upstream.until_ended(asked.connection);
    }
    let mut caller = daemon.connect();
    caller.send(post(MESSAGES, "", body("hi", true)));
    let asked = upstream.next();
    let connection = asked.connection;
    let mut stream = asked.stream();
    stream.chunk("event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"text\":\"a\"}}\n\n");
    caller.wait_for("content_block_delta");
    drop(caller);
    upstream.until_ended(connection);
    daemon.until_load(0, 0);
}

#[test]
fn a_tenant_is_known_by_either_header_and_a_stranger_told_so_in_anthropics_envelope() {
    let settings = Settings::default();
    let simulator = Simulator::bind(([127, 0, 0, 1], 0).into(), settings).unwrap().start_thread().unwrap();
    let daemon = before(simulator.address(), "[tenants.team]\nkey = \"team-key\"");
    for right in ["x-api-key: team-key\r\n", "authorization: Bearer team-key\r\n"] {
        assert_eq!(daemon.ask(post(MESSAGES, right, body("hi", false))).status, 200);
    }
    for wrong in ["", "x-api-key: sk-ant-wrong\r\n", "authorization: Bearer wrong\r\n"] {
        let reply = daemon.ask(post(MESSAGES, wrong, body("hi", false)));
        assert_eq!((reply.status, &reply.json()["error"]["type"]), (401, &json!("authentication_error")));
        assert!(!reply.text().contains("wrong"));
        assert_eq!(reply.json()["request_id"].as_str(), reply.header("request-id"));
    }
    assert_eq!(simulator.ledger().requests, 2);
}
