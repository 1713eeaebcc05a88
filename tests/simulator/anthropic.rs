//! The face of Anthropic on the wire.

use forebay::simulator::{Rate, expected_echo};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::client::{Answer, Client, End, start};

fn body(prompt: &str, stream: bool) -> Value {
    let messages = json!([{"role": "user", "content": prompt}]);
    json!({"model": "claude", "max_tokens": 64, "stream": stream, "messages": messages})
}

async fn post(client: &mut Client, path: &str, headers: &str, body: &Value) -> Answer {
    let body = body.to_string();
    let length = body.len();
    let text = format!("POST {path} HTTP/1.1\r\nhost: x\r\n{headers}content-length: {length}\r\n\r\n{body}");
    client.stream.write_all(text.as_bytes()).await.unwrap();
    client.answer().await.unwrap()
}

const HEADERS: &str = "x-api-key: k\r\nanthropic-version: 2023-06-01\r\n";

#[tokio::test]
async fn messages_streams_and_counts_are_answered_in_anthropics_form() {
    let simulator = start(|_| {});
    let mut client = Client::new(simulator.address()).await;
    let whole = post(&mut client, "/v1/messages", HEADERS, &body("hi", false)).await;
    assert_eq!(whole.json()["content"][0]["text"], expected_echo("hi"));
    assert!(whole.headers["request-id"].starts_with("req_") && !whole.headers.contains_key("x-request-id"));
    let stream = post(&mut client, "/v1/messages", HEADERS, &body("hi", true)).await;
    assert!(stream.body.starts_with("event: message_start\n") && stream.body.contains("event: ping\n"));
    assert!(stream.body.ends_with("event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"), "{}", stream.body);
    assert_eq!(stream.end, End::Complete);
    let count = post(&mut client, "/v1/messages/count_tokens", HEADERS, &body("12345678", false)).await;
    assert_eq!(count.json(), json!({"input_tokens": 2}));
    assert_eq!((simulator.ledger().answered, simulator.ledger().tokens.prompt), (3, 2), "counting is free");
}

#[tokio::test]
async fn errors_have_anthropics_envelope_before_and_behind_the_first_byte() {
    let simulator = start(|_| {});
    let mut client = Client::new(simulator.address()).await;
    for (fault, status, kind) in [
        ("status-400", 400, "invalid_request_error"),
        ("status-401", 401, "authentication_error"),
        ("status-413", 413, "request_too_large"),
        ("rate-limited", 429, "rate_limit_error"),
        ("quota", 429, "rate_limit_error"),
        ("status-500", 500, "api_error"),
        ("status-529", 529, "overloaded_error"),
    ] {
        let answer = post(&mut client, "/v1/messages", HEADERS, &body(&format!("[[fault:{fault}]]"), false)).await;
        assert_eq!((answer.status, &answer.json()["type"]), (status, &json!("error")), "{fault}");
        assert_eq!(answer.json()["error"]["type"], kind, "{fault}");
    }
    let without = post(&mut client, "/v1/messages", "x-api-key: k\r\n", &body("hi", false)).await;
    assert_eq!((without.status, &without.json()["type"]), (400, &json!("error")), "the version is asked for");
    let midway = post(&mut client, "/v1/messages", HEADERS, &body("[[fault:error-midway]]", true)).await;
    assert!(midway.body.contains("event: error\ndata: {"), "{}", midway.body);
    assert!(midway.body.contains("overloaded_error") && !midway.body.contains("message_stop"));
}

#[tokio::test]
async fn limits_are_told_in_anthropics_headers_with_moments_and_whole_seconds() {
    let simulator = start(|settings| {
        settings.limits.requests_per_minute = Some(Rate::per_minute(1).sliding());
        settings.limits.tokens_per_minute = Some(Rate::per_minute(1_000));
    });
    let mut client = Client::new(simulator.address()).await;
    let good = post(&mut client, "/v1/messages", HEADERS, &body("hi", false)).await;
    assert_eq!(good.headers["anthropic-ratelimit-requests-limit"], "1");
    assert_eq!(good.headers["anthropic-ratelimit-requests-remaining"], "0");
    let reset = &good.headers["anthropic-ratelimit-tokens-reset"];
    assert!(reset.len() == "2024-01-30T18:30:00Z".len() && reset.ends_with('Z'), "{reset}");
    assert!(!good.headers.keys().any(|name| name.starts_with("x-ratelimit")));
    let refused = post(&mut client, "/v1/messages", HEADERS, &body("hi", false)).await;
    assert_eq!((refused.status, &refused.json()["error"]["type"]), (429, &json!("rate_limit_error")));
    assert!(refused.json()["error"]["message"].as_str().unwrap().contains("rate limit of 1 requests per minute"));
    let seconds: u64 = refused.headers["retry-after"].parse().unwrap();
    assert!((1..=60).contains(&seconds) && !refused.headers.contains_key("retry-after-ms"));
    assert_eq!(simulator.ledger().limited, 1);
}
