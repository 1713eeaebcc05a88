//! Chats whose upstream speaks another protocol: answered whole and in a stream, failed, and with what has no words there.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::clock::{self, in_virtual_time};
use crate::messages::{AnswerBody, Droppable, Endpoint, Error, Request};
use crate::pool::transport::{HttpRequest, MemoryTransport, Scripted};
use crate::{Config, Forebay};

const CONFIG: &str = r#"
    [pool]
    threads = 0
    [retry]
    jitter = "none"
    [upstreams.claude]
    kind = "anthropic"
    base_url = "http://claude.test"
    api_keys = ["sk-ant-0000000001"]
    models = ["claude-*"]
    [upstreams.up]
    base_url = "http://up.test/v1"
    models = ["m"]
    [routes.smart]
    targets = ["claude/claude-opus-5", "up/m"]
"#;

/// What was sent, in order.
type Sent = Arc<Mutex<Vec<HttpRequest>>>;

/// A system whose upstreams give `answers` in order, whichever is asked.
async fn system(answers: Vec<HttpAnswer>) -> (Forebay, Sent) {
    let sent = Sent::default();
    let log = Arc::clone(&sent);
    let answers = Arc::new(Mutex::new(VecDeque::from(answers)));
    let open = move || {
        let (log, answers) = (Arc::clone(&log), Arc::clone(&answers));
        MemoryTransport::new(move |request: HttpRequest| {
            log.lock().unwrap().push(request);
            let (status, kind, body) = answers.lock().unwrap().pop_front().expect("an answer is left");
            async move {
                clock::until(clock::now() + Duration::from_millis(10)).await;
                Ok(match kind {
                    Kind::Json => Scripted::json(status, body),
                    Kind::Events => Scripted::events(vec![Ok(Bytes::from(body))]),
                })
            }
        })
    };
    let forebay = Forebay::builder(Config::from_toml(CONFIG).unwrap()).transport(open).seed(1).start().await.unwrap();
    (forebay, sent)
}

type HttpAnswer = (u16, Kind, String);

#[derive(Clone, Copy)]
enum Kind {
    Json,
    Events,
}

fn golden(name: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/anthropic").join(name);
    std::fs::read_to_string(path).unwrap()
}

fn error(status: u16, kind: &str, message: &str) -> HttpAnswer {
    let body = json!({"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"});
    (status, Kind::Json, body.to_string())
}

fn chat(model: &str, more: Value) -> Request {
    let mut body = json!({"model": model, "messages": [{"role": "user", "content": "hi"}]});
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    Request::new(Endpoint::ChatCompletions, body.to_string()).unwrap()
}

fn told(error: &Error) -> Value {
    serde_json::from_slice(&error.to_body()).unwrap()
}

async fn said(forebay: &Forebay, request: Request) -> Value {
    let answer = forebay.call(request).await.unwrap();
    let AnswerBody::Whole(body) = answer.body else { panic!("a whole answer") };
    serde_json::from_slice(&body).unwrap()
}

/// Every chunk of a stream, and the error it ended with, if it did.
async fn heard(forebay: &Forebay, request: Request) -> (Vec<String>, Option<Error>) {
    let mut events = forebay.stream(request).await.unwrap();
    let mut chunks = Vec::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => chunks.push(event.data),
            Err(error) => return (chunks, Some(error)),
        }
    }
    (chunks, None)
}

#[test]
fn a_whole_answer_is_a_completion_and_its_usage_is_known() {
    in_virtual_time(async {
        let (forebay, sent) = system(vec![(200, Kind::Json, golden("answers/cut_short.json"))]).await;
        let answer = forebay.call(chat("claude-haiku-4-5", json!({}))).await.unwrap();
        let usage = answer.meta.usage.unwrap();
        assert_eq!((usage.input_tokens, usage.cached_input_tokens, usage.output_tokens), (100_298, 100_000, 3));
        let AnswerBody::Whole(body) = answer.body else { panic!("a whole answer") };
        let mut got: Value = serde_json::from_slice(&body).unwrap();
        assert!(got["created"].as_u64().unwrap() > 1_700_000_000, "it is made now");
        let expected: Value = serde_json::from_str(&golden("answers/cut_short.openai.json")).unwrap();
        got["created"] = expected["created"].clone();
        assert_eq!(got, expected);
        let sent = sent.lock().unwrap();
        assert_eq!(sent[0].url, "http://claude.test/v1/messages");
        assert_eq!(sent[0].headers.get("x-api-key"), Some("sk-ant-0000000001"));
        let body: Value = serde_json::from_slice(&sent[0].body).unwrap();
        assert_eq!((&body["model"], &body["max_tokens"]), (&json!("claude-haiku-4-5"), &json!(16_384)));
    });
}

#[test]
fn a_stream_is_chunks_to_its_end_and_one_that_is_cut_says_so() {
    in_virtual_time(async {
        let whole = golden("streams/tools.sse");
        let cut = whole[..whole.find("event: message_stop").unwrap()].to_owned();
        let (forebay, _) = system(vec![(200, Kind::Events, whole), (200, Kind::Events, cut)]).await;
        let ask = || chat("claude-opus-4-6", json!({"stream": true, "stream_options": {"include_usage": true}}));
        let (chunks, error) = heard(&forebay, ask()).await;
        assert!(error.is_none());
        assert_eq!(chunks.len(), golden("streams/tools.openai.sse").matches("data: ").count());
        assert_eq!(chunks.last().unwrap(), "[DONE]");
        let (chunks, error) = heard(&forebay, ask()).await;
        assert_eq!(error.unwrap().code(), "upstream_unavailable");
        assert!(!chunks.is_empty() && chunks.iter().all(|chunk| chunk.contains("\"finish_reason\":null")));
    });
}

#[test]
fn an_error_that_opens_a_stream_is_tried_again_and_one_behind_content_is_told_in_openais_words() {
    in_virtual_time(async {
        let whole = golden("streams/text.sse");
        let overloaded = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n";
        let start = &whole[..whole.find("event: content_block_start").unwrap()];
        let begun = &whole[..whole.find("event: content_block_stop").unwrap()];
        let opened = (200, Kind::Events, format!("{start}{overloaded}"));
        let broken = (200, Kind::Events, format!("{begun}{overloaded}"));
        let (forebay, sent) = system(vec![opened, (200, Kind::Events, whole.clone()), broken]).await;
        let (chunks, error) = heard(&forebay, chat("claude-opus-5", json!({"stream": true}))).await;
        assert_eq!((chunks.last().map(String::as_str), error.is_none()), (Some("[DONE]"), true));
        assert_eq!(sent.lock().unwrap().len(), 2);
        let (_, error) = heard(&forebay, chat("claude-opus-5", json!({"stream": true}))).await;
        let error = error.unwrap();
        let expected =
            json!({"message": "Overloaded", "type": "overloaded_error", "param": null, "code": "overloaded_error"});
        assert_eq!((error.status(), &told(&error)["error"]), (529, &expected));
    });
}

#[test]
fn a_final_error_has_openais_envelope_and_no_key_in_it() {
    in_virtual_time(async {
        let refused = error(400, "invalid_request_error", "no such thing for sk-ant-0000000001");
        let (forebay, _) = system(vec![error(529, "overloaded_error", "later"), refused]).await;
        let error = forebay.call(chat("claude-opus-5", json!({}))).await.unwrap_err();
        assert_eq!((error.status(), error.meta().attempts), (400, 2));
        let expected = json!({"error": {
            "message": "no such thing for ***", "type": "invalid_request_error", "param": null, "code": "invalid_request_error",
        }});
        assert_eq!(told(&error), expected);
    });
}

#[test]
fn what_cannot_be_said_is_the_callers_error_or_the_next_targets_call_or_dropped_with_leave() {
    in_virtual_time(async {
        let openai = json!({"choices": [{"message": {"content": "from up"}, "finish_reason": "stop"}]}).to_string();
        let claude = (200, Kind::Json, golden("answers/text.json"));
        let (forebay, sent) = system(vec![(200, Kind::Json, openai), claude.clone(), claude]).await;
        let seeded = |model: &str| chat(model, json!({"seed": 7}));

        let error = forebay.call(seeded("claude-opus-5")).await.unwrap_err();
        assert_eq!((error.status(), error.meta().attempts), (400, 0));
        assert_eq!(
            (&told(&error)["error"]["param"], &told(&error)["error"]["code"]),
            (&json!("seed"), &json!("invalid_request"))
        );
        assert!(sent.lock().unwrap().is_empty(), "nothing was sent");

        assert_eq!(said(&forebay, seeded("smart")).await["choices"][0]["message"]["content"], "from up");
        let body: Value = serde_json::from_slice(&sent.lock().unwrap()[0].body).unwrap();
        assert_eq!((&body["model"], &body["seed"]), (&json!("m"), &json!(7)));

        let dropped = seeded("smart").with_droppable(Droppable::parse("seed").unwrap());
        assert_eq!(said(&forebay, dropped).await["choices"][0]["message"]["content"], "Hello!");
        assert_eq!(said(&forebay, chat("smart", json!({}))).await["model"], "claude-opus-5");
        assert!(sent.lock().unwrap()[1..].iter().all(|request| request.url.starts_with("http://claude.test/")));
    });
}
