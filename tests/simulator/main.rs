//! The simulator over real sockets, asked in raw HTTP: every fault as it is on the wire, the limits, and the ledger.
#![cfg(feature = "gateway")]

mod anthropic;
#[path = "../support/chunk.rs"]
mod chunk;
mod client;
mod limits;

use std::collections::BTreeMap;
use std::time::Duration;

use forebay::simulator::{Fault, Rate, Settings, Simulator, expected_echo, expected_embedding, prompt_hash};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use client::{Client, End, Lost, ask, chat, start};

#[tokio::test]
async fn every_endpoint_proves_its_prompt_on_one_connection() {
    let simulator = start(|_| {});
    let mut client = Client::new(simulator.address()).await;
    for path in ["/v1/chat/completions", "/chat/completions"] {
        let answer = client.post(path, &chat("hello", false)).await.unwrap();
        assert_eq!((answer.status, answer.content()), (200, expected_echo("hello")));
        assert!(answer.headers["x-request-id"].starts_with("req_"));
    }
    let stream = client.post("/v1/chat/completions", &chat("hello", true)).await.unwrap();
    assert_eq!((stream.content(), stream.end), (expected_echo("hello"), End::Complete));
    assert!(stream.body.ends_with("data: [DONE]\n\n"));
    let completion = client.post("/v1/completions", &json!({"model": "m", "prompt": "hi"})).await.unwrap();
    assert_eq!(completion.json()["choices"][0]["text"], expected_echo("hi"));
    let response = client.post("/v1/responses", &json!({"model": "m", "input": "hi", "stream": true})).await.unwrap();
    assert!(response.body.contains("event: response.completed\n") && !response.body.contains("[DONE]"));
    let embedding = client.post("/v1/embeddings", &json!({"model": "m", "input": ["a", "b"]})).await.unwrap().json();
    assert_eq!(
        serde_json::from_value::<Vec<f32>>(embedding["data"][1]["embedding"].clone()).unwrap(),
        expected_embedding("b", 16)
    );
    let moderation = client.post("/v1/moderations", &json!({"input": "hi"})).await.unwrap();
    assert_eq!(moderation.json()["id"], format!("modr-{}", prompt_hash("hi")));
    assert_eq!(client.get("/v1/models").await.json()["data"][0]["id"], "gpt-4o");
    assert_eq!(client.get("/v1/models/gpt-4o").await.json()["object"], "model");
    assert_eq!(client.get("/v1/models/none").await.json()["error"]["code"], "model_not_found");

    let seen = client.get("/simulator/ledger").await.json();
    let ledger = simulator.stop().await;
    assert_eq!((ledger.connections, ledger.requests, ledger.answered, ledger.faulted), (1, 7, 7, 0));
    assert_eq!(seen["prompts"], serde_json::to_value(&ledger.prompts).unwrap());
    assert_eq!(ledger.prompts[&prompt_hash("hello")], 3);
    assert_eq!(ledger.attempts, BTreeMap::from([(1, 6), (2, 1)]));
    assert!(ledger.tokens.prompt > 0 && ledger.tokens.completion > 0);
}

#[tokio::test]
async fn faults_before_an_answer_are_what_their_names_say_and_the_next_attempt_is_answered() {
    let simulator = start(|settings| settings.retry_after = Duration::from_millis(1_500));
    for stream in [false, true] {
        for (fault, lost) in [("reset", Lost::Reset), ("reset-unread", Lost::Reset), ("garbage", Lost::Garbage)] {
            let prompt = format!("[[fault:{fault}]] {stream}");
            assert_eq!(ask(&simulator, &prompt, stream).await.unwrap_err(), lost, "{fault}");
            assert_eq!(ask(&simulator, &prompt, stream).await.unwrap().content(), expected_echo(&prompt));
        }
        for (fault, status, retry_after, code) in [
            ("rate-limited", 429, Some("1.5"), json!("rate_limit_exceeded")),
            ("rate-limited=7", 429, Some("7"), json!("rate_limit_exceeded")),
            ("rate-limited-bare", 429, None, json!("rate_limit_exceeded")),
            ("quota", 429, None, json!("insufficient_quota")),
            ("status-400", 400, None, Value::Null),
            ("status-401", 401, None, json!("invalid_api_key")),
            ("status-500", 500, None, Value::Null),
            ("status-502", 502, None, Value::Null),
            ("status-503", 503, None, json!("server_is_overloaded")),
            (
                "status-503=Fri, 31 Dec 1999 23:59:59 GMT",
                503,
                Some("Fri, 31 Dec 1999 23:59:59 GMT"),
                json!("server_is_overloaded"),
            ),
            ("status-529", 529, None, Value::Null),
            ("redirect", 307, None, Value::Null),
        ] {
            let prompt = format!("[[fault:{fault}]] {stream}");
            let answer = ask(&simulator, &prompt, stream).await.unwrap();
            assert_eq!((answer.status, answer.end), (status, End::Complete), "{fault}");
            assert_eq!(answer.headers.get("retry-after").map(String::as_str), retry_after, "{fault}");
            assert_eq!(answer.json()["error"]["code"], code, "{fault}");
            assert_eq!(ask(&simulator, &prompt, stream).await.unwrap().content(), expected_echo(&prompt));
        }
    }
    let ledger = simulator.ledger();
    assert_eq!((ledger.faulted, ledger.answered, ledger.limited), (30, 30, 0));
    assert_eq!((ledger.injected["status-503"], ledger.injected["reset"]), (4, 2));
}

#[tokio::test]
async fn faults_in_a_whole_body_are_what_their_names_say() {
    let simulator = start(|_| {});
    for (fault, end) in [
        ("reset-body", End::Reset),
        ("cut-body", End::Short),
        ("cut-opening", End::Short),
        ("cut-unframed", End::Unframed),
        ("truncated-json", End::Complete),
        ("unfinished", End::Complete),
    ] {
        let answer = ask(&simulator, &format!("[[fault:{fault}]]"), false).await.unwrap();
        assert_eq!((answer.status, answer.end, answer.json()), (200, end, Value::Null), "{fault}");
        assert_eq!(answer.body.is_empty(), fault == "cut-opening", "{fault}");
    }
    for fault in ["error-first", "error-opening", "error-midway"] {
        assert_eq!(ask(&simulator, &format!("[[fault:{fault}]]"), false).await.unwrap().status, 500);
    }
    assert_eq!(simulator.ledger().faulted, 9);
}

#[tokio::test]
async fn faults_in_a_stream_are_what_their_names_say() {
    let simulator = start(|_| {});
    for (fault, end, has_content, has_done) in [
        ("reset-body", End::Reset, true, false),
        ("cut-body", End::Short, true, false),
        ("cut-opening", End::Short, false, false),
        ("cut-unframed", End::Unframed, true, false),
        ("unfinished", End::Complete, true, false),
        ("truncated-json", End::Complete, true, true),
        ("error-first", End::Complete, false, false),
        ("error-opening", End::Complete, false, false),
        ("error-midway", End::Complete, true, false),
    ] {
        let prompt = format!("[[fault:{fault}]]");
        let answer = ask(&simulator, &prompt, true).await.unwrap();
        assert_eq!((answer.status, answer.end), (200, end), "{fault}");
        assert_eq!(!answer.content().is_empty(), has_content, "{fault}: {}", answer.body);
        assert_eq!(answer.body.contains("[DONE]"), has_done, "{fault}");
        assert_eq!(answer.body.contains(r#"{"error":"#), fault.starts_with("error"), "{fault}");
        assert!(!answer.body.contains(r#""finish_reason":"stop""#) || fault == "truncated-json", "{fault}");
        assert!(answer.content() != expected_echo(&prompt) || fault == "unfinished", "{fault}");
    }
    assert_eq!((simulator.ledger().faulted, simulator.ledger().answered), (9, 0));
}

#[tokio::test]
async fn a_103_comes_before_a_good_answer_and_is_no_loss() {
    let simulator = start(|_| {});
    let answer = ask(&simulator, "[[fault:informational]]", false).await.unwrap();
    assert!(answer.informational && answer.content() == expected_echo("[[fault:informational]]"));
    let ledger = simulator.ledger();
    assert_eq!((ledger.answered, ledger.faulted, ledger.injected["informational"]), (1, 0, 1));
}

#[tokio::test]
async fn a_connection_may_end_after_a_good_answer_or_hold_one_too_many() {
    let simulator = start(|_| {});
    for stream in [false, true] {
        let mut client = Client::new(simulator.address()).await;
        let answer = client.post("/v1/chat/completions", &chat("[[fault:hang-up]]", stream)).await.unwrap();
        assert_eq!((answer.content(), answer.end), (expected_echo("[[fault:hang-up]]"), End::Complete));
        assert!(!answer.headers.contains_key("connection"), "nothing announces it");
        assert_eq!(client.answer().await.unwrap_err(), Lost::Closed);
        let mut client = Client::new(simulator.address()).await;
        let first = client.post("/v1/chat/completions", &chat("[[fault:duplicate]]", stream)).await.unwrap();
        let second = client.post("/v1/chat/completions", &chat("not this", stream)).await.unwrap();
        assert_eq!(first.body, second.body, "the trap");
        assert_eq!(client.answer().await.unwrap().content(), expected_echo("not this"));
    }
    let ledger = simulator.ledger();
    assert_eq!((ledger.answered, ledger.faulted, ledger.prompts[&prompt_hash("[[fault:duplicate]]")]), (6, 0, 2));
}

#[tokio::test]
async fn a_stall_holds_the_connection_until_the_peer_leaves() {
    let simulator = start(|_| {});
    for (fault, streamed) in [("stall", false), ("stall-body", false), ("stall-body", true)] {
        let mut client = Client::new(simulator.address()).await;
        let body = chat(&format!("[[fault:{fault}]] {streamed}"), streamed).to_string();
        client.send("/v1/chat/completions", "k", &body).await;
        simulator.until(|seen| seen.in_flight == 1 && seen.injected.contains_key(fault)).await;
        if fault == "stall-body" {
            client.head().await.unwrap();
        }
        drop(client);
        simulator.until(|seen| seen.in_flight == 0).await;
    }
    assert_eq!(simulator.ledger().faulted, 3);
}

#[tokio::test]
async fn orders_are_carried_out_in_sequence_for_each_body_of_its_own() {
    let simulator = start(|_| {});
    let prompt = "[[fault:status-500 x2]][[fault:reset]]";
    assert_eq!(ask(&simulator, prompt, false).await.unwrap().status, 500);
    assert_eq!(ask(&simulator, &format!("{prompt} another"), false).await.unwrap().status, 500);
    assert_eq!(ask(&simulator, prompt, false).await.unwrap().status, 500);
    assert_eq!(ask(&simulator, prompt, false).await.unwrap_err(), Lost::Reset);
    assert_eq!(ask(&simulator, prompt, false).await.unwrap().content(), expected_echo(prompt));
    assert_eq!(
        ask(&simulator, "[[fault:sneeze]]", false).await.unwrap().status,
        400,
        "a misspelt order is not ignored"
    );
}

#[tokio::test]
async fn a_reset_may_come_before_the_body_is_read() {
    let simulator = start(|settings| settings.odds.set(Fault::ResetUnread, 1.0));
    let mut client = Client::new(simulator.address()).await;
    client.stream.write_all(b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 1000\r\n\r\n").await.unwrap();
    assert_eq!(client.answer().await.unwrap_err(), Lost::Reset);
    assert_eq!((simulator.ledger().faulted, simulator.ledger().admitted), (1, 0));
}

/// What becomes of 120 calls, one after the other, each on a connection of its own.
async fn story(seed: u64) -> Vec<String> {
    let simulator = start(|settings| {
        settings.seed = seed;
        for fault in Fault::named().filter(|fault| !matches!(fault, Fault::Stall | Fault::StallBody)) {
            settings.odds.set(fault, 0.04);
        }
    });
    let mut outcomes = Vec::new();
    for n in 0..120 {
        outcomes.push(match ask(&simulator, &format!("call {n}"), n % 2 == 0).await {
            Ok(answer) => format!("{} {:?} {}", answer.status, answer.end, answer.body.len()),
            Err(lost) => format!("{lost:?}"),
        });
    }
    outcomes
}

#[tokio::test]
async fn the_same_seed_and_order_meet_the_same_faults() {
    let first = story(1).await;
    assert_eq!(first, story(1).await);
    assert_ne!(first, story(2).await);
}

#[tokio::test]
async fn a_peer_that_leaves_before_its_answer_is_abandoned_and_not_answered() {
    let simulator = start(|settings| settings.latency = (Duration::from_secs(60), Duration::from_secs(60)));
    let mut client = Client::new(simulator.address()).await;
    client.send("/v1/chat/completions", "k", &chat("x", false).to_string()).await;
    simulator.until(|seen| seen.admitted == 1).await;
    drop(client);
    let seen = simulator.until(|seen| seen.in_flight == 0).await;
    assert_eq!((seen.abandoned, seen.answered, seen.prompts.len()), (1, 0, 0));
}

#[tokio::test]
async fn chunked_and_pipelined_requests_and_an_expected_100_are_understood() {
    let simulator = start(|_| {});
    let mut client = Client::new(simulator.address()).await;
    let (body, head) = (chat("hi", false).to_string(), "POST /v1/chat/completions HTTP/1.1\r\n");
    let (left, right) = body.split_at(10);
    let chunked = format!("{:x};x=y\r\n{left}\r\n{:X}\r\n{right}\r\n0\r\ntrailer: x\r\n\r\n", left.len(), right.len());
    let two =
        format!("{head}transfer-encoding: chunked\r\n\r\n{chunked}{head}content-length: {}\r\n\r\n{body}", body.len());
    client.stream.write_all(two.as_bytes()).await.unwrap();
    for _ in 0..2 {
        assert_eq!(client.answer().await.unwrap().content(), expected_echo("hi"));
    }
    let patient = format!("{head}expect: 100-continue\r\ncontent-length: {}\r\n\r\n", body.len());
    client.stream.write_all(patient.as_bytes()).await.unwrap();
    assert_eq!(client.head().await.unwrap().0, 100);
    client.stream.write_all(body.as_bytes()).await.unwrap();
    assert_eq!(client.answer().await.unwrap().content(), expected_echo("hi"));
}

#[tokio::test]
async fn wrong_requests_are_refused_in_openai_s_envelope() {
    let simulator = start(|_| {});
    let mut client = Client::new(simulator.address()).await;
    for body in ["", "{", "[]", r#"{"model":"m"}"#] {
        client.send("/v1/chat/completions", "k", body).await;
        let answer = client.answer().await.unwrap();
        assert_eq!((answer.status, &answer.json()["error"]["type"]), (400, &json!("invalid_request_error")), "{body}");
    }
    assert_eq!(client.post("/v1/nothing", &json!({})).await.unwrap().json()["error"]["code"], "unknown_url");
    assert_eq!(client.get("/v1/chat/completions").await.status, 405);
    client
        .stream
        .write_all(b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 99999999999\r\n\r\n")
        .await
        .unwrap();
    let answer = client.answer().await.unwrap();
    assert_eq!((answer.status, answer.headers["connection"].as_str()), (413, "close"));
    let mut client = Client::new(simulator.address()).await;
    client.stream.write_all(b"no http\r\n\r\n").await.unwrap();
    assert_eq!(client.answer().await.unwrap().status, 400);
    assert_eq!(simulator.ledger().refused, 5);
}

#[tokio::test]
async fn a_redirect_that_is_followed_is_seen() {
    let simulator = start(|_| {});
    let answer = ask(&simulator, "[[fault:redirect]]", false).await.unwrap();
    assert!(answer.headers["location"].starts_with(&format!("http://{}", simulator.address())));
    let path = answer.headers["location"].rsplit_once(&simulator.address().to_string()).unwrap().1.to_owned();
    let mut client = Client::new(simulator.address()).await;
    assert_eq!(client.post(&path, &json!({})).await.unwrap().json()["error"]["code"], "redirect_followed");
    assert_eq!(simulator.ledger().redirects_followed, 1);
}

#[tokio::test]
async fn what_fifty_callers_lose_is_what_the_ledger_says() {
    let mut settings = Settings::default();
    settings.latency = (Duration::from_millis(1), Duration::from_millis(5));
    settings.limits.requests_per_second = Some(Rate::per_second(200));
    for fault in
        [Fault::Reset, Fault::ResetUnread, Fault::RateLimited, Fault::Status(500), Fault::CutBody, Fault::Garbage]
    {
        settings.odds.set(fault, 0.05);
    }
    let simulator = Simulator::bind("127.0.0.1:0".parse().unwrap(), settings).unwrap().start_thread().unwrap();
    let address = simulator.address();
    let callers = (0..50).map(|caller| {
        tokio::spawn(async move {
            let mut lost = 0;
            for n in 0..10 {
                let prompt = format!("caller {caller} call {n}");
                let answer = Client::new(address).await.post("/v1/chat/completions", &chat(&prompt, false)).await;
                match answer {
                    Ok(answer) if answer.status == 200 && answer.end == End::Complete => {
                        assert_eq!(answer.content(), expected_echo(&prompt), "mixed up");
                    }
                    _ => lost += 1,
                }
            }
            lost
        })
    });
    let mut lost = 0;
    for caller in callers.collect::<Vec<_>>() {
        lost += caller.await.unwrap();
    }
    let ledger = simulator.stop().await;
    assert_eq!((ledger.requests, ledger.faulted + ledger.limited), (500, lost));
    assert_eq!(ledger.requests, ledger.answered + ledger.faulted + ledger.limited);
    assert_eq!(ledger.answered, ledger.prompts.values().sum::<u64>());
    assert!(lost > 50 && ledger.limited > 0, "{ledger:?}");
    assert!(ledger.busiest.granted_in_1s <= 400, "{:?}", ledger.busiest);
}

#[tokio::test]
async fn a_stopped_simulator_frees_its_port_and_cuts_its_connections() {
    let simulator = start(|_| {});
    let address = simulator.address();
    let mut client = Client::new(address).await;
    client.send("/v1/chat/completions", "k", &chat("[[fault:stall]]", false).to_string()).await;
    simulator.until(|seen| seen.faulted == 1).await;
    assert_eq!(simulator.stop().await.in_flight, 0);
    assert!(client.answer().await.is_err());
    let again = Simulator::bind(address, Settings::default()).unwrap().start_thread().unwrap();
    assert_eq!(ask(&again, "x", false).await.unwrap().status, 200);
    assert!(Simulator::bind(address, Settings::default()).is_err(), "the port is taken");
}
