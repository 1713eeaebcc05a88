//! Anthropic's own protocol at the gateway.

use super::*;

const MESSAGE: &str =
    r#"{"max_tokens":16, "model": "m",  "messages": [], "metadata":{"big":123456789012345678901},"x":1.0}"#;
const STREAMED: &str = r#"{"model":"m","max_tokens":16,"messages":[],"stream":true}"#;
const GOOD: &str =
    r#"{ "type":"message","content":[{"type":"text","text":"hi"}], "usage":{"input_tokens":3,"output_tokens":4} }"#;
const OVERLOADED: &str =
    r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"},"request_id":"theirs"}"#;
const OVERLOADED_EVENT: &str =
    "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n";
const START: &str = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":3,\"output_tokens\":1}}}\n\n";
const PING: &str = "event: ping\ndata: {\"type\": \"ping\"}\n\n";
const CONTENT: &str = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"hi\"}}\n\n";
const STOP: &str = "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";

fn anthropic(more: &str) -> Config {
    system(&format!(
        "kind = \"anthropic\"\n{more}\n[upstreams.other]\nbase_url = \"http://other.test/v1\"\nmodels = [\"gpt\"]"
    ))
}

fn post(body: &'static str) -> TestRequest {
    TestRequest::post().uri("/v1/messages").insert_header(("content-type", "application/json")).set_payload(body)
}

/// The type and the code of an error in Anthropic's envelope, which names the call as the headers do.
async fn error(response: ServiceResponse<BoxBody>) -> (String, String) {
    let id = header(&response, "x-request-id").to_owned();
    assert_eq!((id.is_empty(), header(&response, "request-id")), (false, &*id));
    let body = json(response).await;
    assert_eq!((&body["type"], &body["request_id"]), (&"error".into(), &id.as_str().into()), "{body}");
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    assert!(!text(&body["error"]["message"]).is_empty());
    (text(&body["error"]["type"]), text(&body["error"]["details"]["error_code"]))
}

fn named(kind: &str, code: &str) -> (String, String) {
    (kind.to_owned(), code.to_owned())
}

#[test]
fn a_message_passes_byte_for_byte_and_an_overload_is_tried_again() {
    in_virtual_time(async {
        let app = gateway(anthropic(""), |attempt| match attempt {
            1 => at_once(Ok(Scripted::json(529, OVERLOADED))),
            _ => at_once(Ok(Scripted::with(Scripted::json(200, GOOD), "request-id", "theirs"))),
        })
        .await;
        for path in ["/v1/messages", "/anthropic/v1/messages", "/openai/v1/messages", "/v1/messages?beta=true"] {
            let response = answer(&app, post(MESSAGE).uri(path)).await;
            assert_eq!(response.status(), 200, "{path}");
            let id = header(&response, "x-request-id");
            assert!(id.starts_with("req_") && header(&response, "request-id") == id, "{path}");
            assert_eq!(response.headers().get_all("request-id").count(), 1);
            assert_eq!(test::read_body(response).await, GOOD);
        }
        let counted = post(MESSAGE).uri("/v1/messages/count_tokens");
        assert_eq!(answer(&app, counted).await.status(), 200);
    });
}

#[test]
fn an_upstreams_final_error_passes_as_it_came() {
    in_virtual_time(async {
        let refusal = r#"{"type":"error","error":{"type":"invalid_request_error","message":"max_tokens: Field required"},"request_id":"theirs"}"#;
        let app = gateway(anthropic(""), move |_| at_once(Ok(Scripted::json(400, refusal)))).await;
        for body in [MESSAGE, STREAMED] {
            let response = answer(&app, post(body)).await;
            assert_eq!((response.status().as_u16(), header(&response, "x-should-retry")), (400, "false"));
            assert_eq!(test::read_body(response).await, refusal);
        }
    });
}

#[test]
fn every_refusal_of_our_own_is_in_anthropics_words() {
    in_virtual_time(async {
        let app = gateway(anthropic(""), |_| panic!("nothing is asked of the upstream")).await;
        for (body, kind, code) in [
            ("", "invalid_request_error", "invalid_request"),
            ("[]", "invalid_request_error", "invalid_request"),
            (r#"{"messages":[]}"#, "invalid_request_error", "invalid_request"),
            (r#"{"model":"m"}"#, "invalid_request_error", "invalid_request"),
            (r#"{"model":"m","messages":"hi"}"#, "invalid_request_error", "invalid_request"),
            (r#"{"model":"m","messages":[],"stream":1}"#, "invalid_request_error", "invalid_request"),
            (r#"{"model":"nobodys","messages":[]}"#, "not_found_error", "model_not_found"),
            (r#"{"model":"gpt","messages":[]}"#, "not_found_error", "model_not_found"),
        ] {
            assert_eq!(error(answer(&app, post(body)).await).await, named(kind, code), "{body}");
        }
        let post = || post(MESSAGE);
        for (request, kind, code) in [
            (post().insert_header(("x-forebay-timeout", "soon")), "invalid_request_error", "invalid_request"),
            (post().insert_header(("content-length", "999999999999")), "request_too_large", "body_too_large"),
            (post().insert_header(("origin", "https://evil.example")), "permission_error", "forbidden"),
            (post().insert_header(("upgrade", "websocket")), "invalid_request_error", "invalid_request"),
            (get("/v1/messages"), "invalid_request_error", "method_not_allowed"),
            (get("/anthropic/v1/messages/count_tokens"), "invalid_request_error", "method_not_allowed"),
            (post().uri("/v1/messages/batches"), "not_found_error", "unknown_url"),
            (post().uri("/anthropic/v1/complete"), "not_found_error", "unknown_url"),
        ] {
            assert_eq!(error(answer(&app, request).await).await, named(kind, code), "{code}");
        }
        let chat = TestRequest::post().uri("/anthropic/v1/chat/completions").set_payload("{}");
        assert_eq!(json(answer(&app, chat).await).await["error"]["code"], "invalid_request", "OpenAI's own, anywhere");
    });
}

#[test]
fn a_tenant_is_known_by_either_header_and_a_stranger_told_so_in_anthropics_words() {
    in_virtual_time(async {
        let mut config = anthropic("");
        config.tenants.insert("team".into(), tenant("key"));
        let app = gateway(config, |_| at_once(Ok(Scripted::json(200, GOOD)))).await;
        for right in [("x-api-key", "key"), ("authorization", "Bearer key")] {
            assert_eq!(answer(&app, post(MESSAGE).insert_header(right)).await.status(), 200);
        }
        for request in [post(MESSAGE), post(MESSAGE).insert_header(("x-api-key", "sk-ant-wrong"))] {
            let response = answer(&app, request).await;
            assert_eq!((response.status().as_u16(), header(&response, "x-should-retry")), (401, "false"));
            assert_eq!(error(response).await, named("authentication_error", "invalid_api_key"));
        }
    });
}

#[test]
fn what_no_attempt_brought_is_told_in_anthropics_words() {
    in_virtual_time(async {
        let cut = || Err(TransportError::new(FailureKind::Cut, Sent::Maybe, "reset"));
        let app = gateway(anthropic("retry = { max_attempts = 2 }"), move |_| at_once(cut())).await;
        let response = answer(&app, post(MESSAGE)).await;
        assert_eq!((response.status().as_u16(), header(&response, "x-forebay-attempts")), (502, "2"));
        assert_eq!(error(response).await, named("api_error", "upstream_unavailable"));
        let app = gateway(anthropic(""), |_| Box::pin(std::future::pending())).await;
        let response = answer(&app, post(MESSAGE).insert_header(("x-stainless-timeout", "2"))).await;
        assert_eq!(response.status(), 504);
        assert_eq!(error(response).await, named("timeout_error", "deadline_exceeded"));
    });
}

#[test]
fn a_stream_is_tried_again_until_its_first_content_and_then_passes_as_it_came() {
    in_virtual_time(async {
        let app = gateway(anthropic(""), |attempt| {
            at_once(match attempt {
                1 => events(&[START, PING, OVERLOADED_EVENT]),
                2 => events(&[START, PING]),
                _ => events(&[START, PING, CONTENT, PING, ": theirs\n\n", "data: [DONE]\n\n", STOP]),
            })
        })
        .await;
        let response = answer(&app, post(STREAMED)).await;
        assert_eq!((response.status().as_u16(), header(&response, "x-forebay-attempts")), (200, "3"));
        assert_eq!(read(response).await, ([START, PING, CONTENT, PING, STOP].concat(), true));
    });
}

#[test]
fn a_stream_that_is_cut_or_fails_behind_content_ends_with_an_error_of_the_protocols_own_and_uncleanly() {
    in_virtual_time(async {
        let app = gateway(anthropic(""), |_| at_once(events(&[START, CONTENT]))).await;
        let (body, clean) = read(answer(&app, post(STREAMED)).await).await;
        let event = body.strip_prefix(&[START, CONTENT].concat()).unwrap();
        let data = event.strip_prefix("event: error\ndata: ").unwrap();
        let told: serde_json::Value = serde_json::from_str(data.trim_end()).unwrap();
        assert_eq!((&told["type"], &told["error"]["type"], clean), (&"error".into(), &"api_error".into(), false));
        assert!(told["request_id"].as_str().unwrap().starts_with("req_"));

        let app = gateway(anthropic(""), |_| at_once(events(&[START, CONTENT, OVERLOADED_EVENT, STOP]))).await;
        let read = read(answer(&app, post(STREAMED)).await).await;
        assert_eq!(read, ([START, CONTENT, OVERLOADED_EVENT].concat(), false));
    });
}

#[test]
fn an_error_behind_a_keep_alive_is_an_event_of_the_protocols_own() {
    in_virtual_time(async {
        let app = gateway(anthropic(""), |_| {
            Box::pin(async {
                clock::until(clock::now() + Duration::from_secs(20)).await;
                Ok(Scripted::json(401, OVERLOADED))
            })
        })
        .await;
        let response = answer(&app, post(STREAMED)).await;
        assert_eq!(response.status(), 200);
        assert_eq!(read(response).await, (format!(": keep-alive\n\nevent: error\ndata: {OVERLOADED}\n\n"), false));
    });
}
