//! The gateway in front of the whole system, in process and on a clock that stands still until nothing else is to be
//! done: what a caller sees of what an upstream does.

mod files;
mod idempotency;
mod messages;

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use actix_http::Request as HttpRequest;
use actix_web::body::{BoxBody, MessageBody as _};
use actix_web::dev::{Service, ServiceResponse};
use actix_web::test::{self, TestRequest};
use bytes::Bytes;
use tokio::sync::mpsc::UnboundedSender;

use super::testing::{answer, get, json, system, tenant};
use super::{Shared, app};
use crate::clock;
use crate::clock::in_virtual_time;
use crate::config::Config;
use crate::messages::{FailureKind, Sent};
use crate::pool::transport::{HttpResponse, LocalFuture, MemoryTransport, Scripted, TransportError};
use crate::system::{Builder, Forebay};

const CHAT: &str = r#"{"model": "m",  "messages": [], "n":1.0}"#;
const STREAMED: &str = r#"{"model":"m","messages":[],"stream":true}"#;
const GOOD: &str =
    r#"{ "choices":[{"message":{"content":"hi"}, "finish_reason":"stop"}], "big": 123456789012345678901 }"#;
const CONTENT: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hi\"}}]}\n\n";
const FINISH: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
const DONE: &str = "data: [DONE]\n\n";

type Answered = Result<HttpResponse, TransportError>;

/// A gateway in front of an upstream that answers its attempt number n, from 1, as `upstream` says.
async fn gateway(
    config: Config,
    upstream: impl Fn(u32) -> LocalFuture<Answered> + Send + Sync + 'static,
) -> impl Service<HttpRequest, Response = ServiceResponse<BoxBody>, Error = actix_web::Error> {
    gateway_of(Forebay::builder(config), upstream).await
}

/// The same, of a system that differs from the ordinary one.
async fn gateway_of(
    builder: Builder,
    upstream: impl Fn(u32) -> LocalFuture<Answered> + Send + Sync + 'static,
) -> impl Service<HttpRequest, Response = ServiceResponse<BoxBody>, Error = actix_web::Error> {
    let upstream = Arc::new(upstream);
    let forebay = builder
        .seed(1)
        .transport(move || {
            let (upstream, attempts) = (Arc::clone(&upstream), Cell::new(0));
            MemoryTransport::new(move |_| {
                attempts.set(attempts.get() + 1);
                upstream(attempts.get())
            })
        })
        .start()
        .await
        .unwrap();
    test::init_service(app(Shared::new(forebay, None, Arc::default()))).await
}

fn at_once(answered: Answered) -> LocalFuture<Answered> {
    Box::pin(std::future::ready(answered))
}

fn events(chunks: &[&'static str]) -> Answered {
    Ok(Scripted::events(chunks.iter().map(|chunk| Ok(Bytes::from_static(chunk.as_bytes()))).collect()))
}

fn post(body: &'static str) -> TestRequest {
    TestRequest::post()
        .uri("/v1/chat/completions")
        .insert_header(("content-type", "application/json"))
        .set_payload(body)
}

fn header<'a>(response: &'a ServiceResponse<BoxBody>, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

/// Everything a body brings, and whether it ended cleanly.
async fn read(response: ServiceResponse<BoxBody>) -> (String, bool) {
    let mut body = response.into_body();
    let mut all = String::new();
    loop {
        match poll_fn(|cx| Pin::new(&mut body).poll_next(cx)).await {
            Some(Ok(piece)) => all.push_str(std::str::from_utf8(&piece).unwrap()),
            Some(Err(_)) => return (all, false),
            None => return (all, true),
        }
    }
}

#[test]
fn a_whole_answer_passes_byte_for_byte() {
    in_virtual_time(async {
        let app = gateway(system("limits = { requests_per_minute = 600 }"), |attempt| match attempt {
            1 => at_once(Ok(Scripted::json(500, "{}"))),
            _ => at_once(Ok(Scripted::with(Scripted::json(200, GOOD), "x-request-id", "theirs"))),
        })
        .await;
        let response = answer(&app, post(CHAT)).await;
        assert_eq!(response.status(), 200);
        assert!(header(&response, "x-request-id").starts_with("req_"));
        assert_eq!(header(&response, "x-forebay-upstream"), "up");
        assert_eq!(header(&response, "x-forebay-attempts"), "2");
        assert_eq!(header(&response, "x-forebay-queued-ms"), "1000");
        assert_eq!(header(&response, "x-ratelimit-limit-requests"), "600");
        assert_eq!(header(&response, "content-type"), "application/json");
        assert_eq!(test::read_body(response).await, GOOD);
    });
}

#[test]
fn a_stream_passes_with_its_head_and_a_clean_end() {
    in_virtual_time(async {
        let app = gateway(system(""), |_| at_once(events(&[CONTENT, FINISH, DONE]))).await;
        let response = answer(&app, post(STREAMED)).await;
        assert_eq!(response.status(), 200);
        assert!(header(&response, "content-type").starts_with("text/event-stream"));
        assert_eq!(header(&response, "cache-control"), "no-cache");
        assert_eq!(header(&response, "x-accel-buffering"), "no");
        assert_eq!(header(&response, "x-forebay-attempts"), "1");
        assert_eq!(read(response).await, ([CONTENT, FINISH, DONE].concat(), true));
    });
}

#[test]
fn events_announced_as_something_else_are_events() {
    in_virtual_time(async {
        let app = gateway(system(""), |_| {
            at_once(Ok(Scripted::json(200, [" \r\n: hello\n\n", CONTENT, FINISH, DONE].concat())))
        })
        .await;
        let response = answer(&app, post(STREAMED)).await;
        assert_eq!(response.status(), 200);
        assert!(header(&response, "content-type").starts_with("text/event-stream"));
        let (body, clean) = read(response).await;
        assert!(clean && body.ends_with(&[CONTENT, FINISH, DONE].concat()), "{body}");
    });
}

#[test]
fn a_whole_answer_to_a_request_for_events_is_an_error_and_not_an_empty_stream() {
    in_virtual_time(async {
        let app = gateway(system(""), |attempt| {
            assert_eq!(attempt, 1, "it would be the same again, and cost the same again");
            at_once(Ok(Scripted::json(200, GOOD)))
        })
        .await;
        let response = answer(&app, post(STREAMED)).await;
        assert_eq!(response.status(), 502);
        assert_eq!(header(&response, "x-should-retry"), "false");
        assert_eq!(json(response).await["error"]["code"], "upstream_unavailable");
    });
}

#[test]
fn an_error_that_comes_as_a_whole_200_where_events_were_asked_for_is_that_error() {
    in_virtual_time(async {
        let app = gateway(system(""), |attempt| match attempt {
            1 => at_once(Ok(Scripted::json(200, r#"{"error":{"message":"busy","code":503}}"#))),
            _ => at_once(events(&[CONTENT, FINISH, DONE])),
        })
        .await;
        let response = answer(&app, post(STREAMED)).await;
        assert_eq!((response.status().as_u16(), header(&response, "x-forebay-attempts")), (200, "2"));
        let refusal = r#"{"error":{"message":"no","code":"invalid_request_error","status":400}}"#;
        let app = gateway(system(""), move |_| at_once(Ok(Scripted::json(200, refusal)))).await;
        let response = answer(&app, post(STREAMED)).await;
        assert_eq!((response.status().as_u16(), header(&response, "x-forebay-attempts")), (400, "1"));
        assert_eq!(test::read_body(response).await, refusal);
    });
}

#[test]
fn a_stream_that_is_cut_behind_its_first_content_ends_with_an_error_event_and_uncleanly() {
    in_virtual_time(async {
        let app = gateway(system(""), |_| {
            let cut = TransportError::new(FailureKind::Cut, Sent::Maybe, "reset");
            at_once(Ok(Scripted::events(vec![Ok(Bytes::from_static(CONTENT.as_bytes())), Err(cut)])))
        })
        .await;
        let (body, clean) = read(answer(&app, post(STREAMED)).await).await;
        assert!(!clean);
        let event = body.strip_prefix(CONTENT).unwrap().strip_prefix("data: ").unwrap();
        let error: serde_json::Value = serde_json::from_str(event.trim_end()).unwrap();
        assert_eq!(error["error"]["code"], "upstream_unavailable");
    });
}

#[test]
fn a_stream_that_waits_shows_life_every_15_seconds_and_then_its_content() {
    in_virtual_time(async {
        let app = gateway(system(""), |_| {
            Box::pin(async {
                clock::until(clock::now() + Duration::from_secs(40)).await;
                events(&[CONTENT, FINISH, DONE])
            })
        })
        .await;
        let start = clock::now();
        let response = answer(&app, post(STREAMED)).await;
        assert_eq!((clock::now() - start).as_secs(), 15);
        let comments = ": keep-alive\n\n".repeat(2);
        assert_eq!(read(response).await, ([&comments, CONTENT, FINISH, DONE].concat(), true));
    });
}

#[test]
fn an_error_before_the_first_silence_is_over_keeps_its_status_and_after_it_is_an_event() {
    in_virtual_time(async {
        let refusal = r#"{"error":{"message":"no such parameter","code":null}}"#;
        for (seconds, late) in [(0, false), (20, true)] {
            let app = gateway(system(""), move |_| {
                Box::pin(async move {
                    clock::until(clock::now() + Duration::from_secs(seconds)).await;
                    Ok(Scripted::json(400, refusal))
                })
            })
            .await;
            let response = answer(&app, post(STREAMED)).await;
            if late {
                assert_eq!(response.status(), 200);
                let (body, clean) = read(response).await;
                assert_eq!(body, format!(": keep-alive\n\ndata: {refusal}\n\n"));
                assert!(!clean);
            } else {
                assert_eq!(response.status(), 400);
                assert_eq!(header(&response, "x-should-retry"), "false");
                assert_eq!(test::read_body(response).await, refusal);
            }
        }
    });
}

#[test]
fn the_callers_time_limit_ends_a_call_in_time() {
    in_virtual_time(async {
        let app = gateway(system(""), |_| Box::pin(std::future::pending())).await;
        for (name, value, millis) in [("x-forebay-timeout", "2500ms", 2_500), ("x-stainless-timeout", "7", 7_000)] {
            let start = clock::now();
            let response = answer(&app, post(CHAT).insert_header((name, value))).await;
            assert_eq!((clock::now() - start).as_millis(), millis);
            assert_eq!(response.status(), 504);
            assert_eq!(header(&response, "x-should-retry"), "false");
            assert_eq!(json(response).await["error"]["code"], "deadline_exceeded");
        }
    });
}

#[test]
fn a_body_that_is_no_call_is_refused_without_an_attempt() {
    in_virtual_time(async {
        let app = gateway(system(""), |_| panic!("nothing is asked of the upstream")).await;
        for body in ["", "[]", "{", "{}", r#"{"model":"m"}"#, r#"{"model":"m","messages":[],"stream":1}"#] {
            let response = answer(&app, post(body)).await;
            assert_eq!(response.status(), 400, "{body}");
            assert_eq!(header(&response, "x-forebay-attempts"), "");
            assert_eq!(json(response).await["error"]["code"], "invalid_request", "{body}");
        }
        let response = answer(&app, post(r#"{"model":"other","messages":[]}"#)).await;
        assert_eq!(response.status(), 404);
        assert_eq!(json(response).await["error"]["code"], "model_not_found");
    });
}

/// Says when it is dropped.
struct Held(UnboundedSender<&'static str>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.send("ended").unwrap();
    }
}

#[test]
fn a_caller_that_hangs_up_ends_the_exchange_with_the_upstream() {
    in_virtual_time(async {
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let app = gateway(system(""), move |_| {
            let held = Held(tell.clone());
            Box::pin(async move {
                held.0.send("begun").unwrap();
                std::future::pending().await
            })
        })
        .await;
        for body in [CHAT, STREAMED] {
            tokio::select! {
                _ = app.call(post(body).to_request()) => panic!("nothing ever answers"),
                word = told.recv() => assert_eq!(word, Some("begun")),
            }
            assert_eq!(told.recv().await, Some("ended"));
        }
        // The same behind the head of a late stream.
        let response = answer(&app, post(STREAMED)).await;
        assert_eq!((response.status().as_u16(), told.recv().await), (200, Some("begun")));
        drop(response);
        assert_eq!(told.recv().await, Some("ended"));
    });
}

#[test]
fn models_are_listed_and_found_by_the_rule_that_routes_calls() {
    in_virtual_time(async {
        let app = gateway(system(""), |_| Box::pin(std::future::pending())).await;
        let list = json(answer(&app, get("/v1/models")).await).await;
        assert_eq!(list["data"][0]["id"], "m");
        assert_eq!(list["data"][0]["owned_by"], "up");
        for (path, id) in [("m", "m"), ("up/m", "up/m"), ("up%2Fm", "up/m"), ("x-large", "x-large")] {
            let model = json(answer(&app, get(&format!("/v1/models/{path}"))).await).await;
            assert_eq!(model["id"], id);
            assert_eq!(model["owned_by"], "up");
        }
        assert_eq!(answer(&app, get("/v1/models/y")).await.status(), 404);
    });
}

#[test]
fn a_system_that_can_take_calls_is_ready() {
    in_virtual_time(async {
        let app = gateway(system(""), |_| Box::pin(std::future::pending())).await;
        let response = answer(&app, get("/readyz")).await;
        assert_eq!(response.status(), 200);
        assert_eq!(json(response).await["ready"], true);
    });
}

#[test]
fn a_reload_changes_who_may_come_in() {
    in_virtual_time(async {
        let forebay = Forebay::start(system("")).await.unwrap();
        let app = test::init_service(app(Shared::new(forebay.clone(), None, Arc::default()))).await;
        assert_eq!(answer(&app, get("/v1/models")).await.status(), 200);
        let mut config = system("");
        config.tenants.insert("team".into(), tenant("key"));
        forebay.reconfigure(config);
        assert_eq!(answer(&app, get("/v1/models")).await.status(), 401);
        let keyed = get("/v1/models").insert_header(("authorization", "Bearer key"));
        assert_eq!(answer(&app, keyed).await.status(), 200);
    });
}
