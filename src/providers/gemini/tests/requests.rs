//! Requests: golden ones, and what is refused.

use serde_json::json;

use super::*;
use crate::messages::Droppable;

/// The field that a chat with `more` is refused for.
fn refused(more: &str) -> Option<String> {
    let text = format!(r#"{{"model":"gemini-2.5-flash","messages":[{{"role":"user","content":"hi"}}]{more}}}"#);
    encoded(&request(&text)).err().map(|refused| refused.field)
}

/// The field that a chat of `messages` is refused for.
fn refused_message(messages: serde_json::Value) -> Option<String> {
    encoded(&Request::chat("gemini-2.5-flash", messages)).err().map(|refused| refused.field)
}

#[test]
fn golden_requests_are_translated_to_the_letter() {
    for (name, given, expected) in pairs("requests", ".json", ".gemini.json") {
        let encoded = encoded(&request(&given)).unwrap();
        // Schemas go as they were written, white space included.
        assert_eq!(compact(&String::from_utf8_lossy(&encoded.body)), compact(&expected), "{name}");
    }
}

#[test]
fn the_address_names_the_model_and_the_method_and_never_the_key() {
    let chat = Request::chat("gemini-2.5-flash", json!([{"role": "user", "content": "hi"}]));
    let whole = encode(&chat, &account(&[]), None, now()).unwrap();
    assert_eq!(whole.url, "https://example.test/v1beta/models/gemini-2.5-flash:generateContent");
    let stream = encode(&chat.into_stream().unwrap(), &account(&[]), Some("other"), now()).unwrap();
    assert_eq!(stream.url, "https://example.test/v1beta/models/other:streamGenerateContent?alt=sse");
}

#[test]
fn headers_of_other_protocols_stay_behind_and_the_key_has_its_own() {
    let mut chat = Request::chat("m", json!([]));
    for name in
        ["openai-beta", "anthropic-version", "x-forebay-drop", "traceparent", "x-goog-user-project", "authorization"]
    {
        chat = chat.with_header(name, "caller").unwrap();
    }
    let encoded = encode(&chat, &account(&[("openai-organization", "ours")]), None, now()).unwrap();
    let got: Vec<_> = encoded.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    assert_eq!(
        got,
        [
            ("traceparent", "caller"),
            ("x-goog-user-project", "caller"),
            ("openai-organization", "ours"),
            ("content-type", "application/json"),
            ("accept", "application/json"),
            ("x-goog-api-key", "AIza-1"),
        ]
    );
    assert!(encoded.headers.iter().last().unwrap().1.is_sensitive());
}

#[test]
fn what_cannot_be_said_is_refused_by_name() {
    for (more, field) in [
        (r#","logit_bias":{"50256":-100}"#, "logit_bias"),
        (r#","user":"u-1""#, "user"),
        (r#","store":true"#, "store"),
        (r#","metadata":{"a":"b"}"#, "metadata"),
        (r#","parallel_tool_calls":false"#, "parallel_tool_calls"),
        (r#","modalities":["text","audio"]"#, "modalities"),
        (r#","audio":{"voice":"alloy"}"#, "audio"),
        (r#","prediction":{"type":"content"}"#, "prediction"),
        (r#","functions":[{}]"#, "functions"),
        (r#","service_tier":"flex""#, "service_tier"),
        (r#","of_next_year":7"#, "of_next_year"),
        (r#","stream_options":{"include_obfuscation":true}"#, "stream_options.include_obfuscation"),
        (r#","reasoning_effort":"xhigh""#, "reasoning_effort"),
        (r#","response_format":{"type":"grammar"}"#, "response_format"),
        (
            r#","response_format":{"type":"json_schema","json_schema":{"name":"x"}}"#,
            "response_format.json_schema.schema",
        ),
        (r#","stop":7"#, "stop"),
        (r#","tools":[{"type":"custom","custom":{"name":"x"}}]"#, "tools[0].type"),
        (r#","tools":[{"type":"function","function":{}}]"#, "tools[0].function.name"),
        (r#","tool_choice":"any""#, "tool_choice"),
        (r#","tool_choice":{"type":"custom","custom":{"name":"x"}}"#, "tool_choice"),
    ] {
        assert_eq!(refused(more).as_deref(), Some(field), "{more}");
    }
}

#[test]
fn what_says_nothing_is_no_loss() {
    for more in [
        r#","user":null,"audio":null,"metadata":{},"logit_bias":{ },"stop":[],"tools":[],"tool_choice":"auto""#,
        r#","n":1,"presence_penalty":0,"frequency_penalty":0.0,"logprobs":false,"top_logprobs":0,"store":false"#,
        r#","parallel_tool_calls":true,"modalities":[ "text" ],"service_tier":"default","verbosity":"medium""#,
        r#","response_format":{"type":"text"},"stream_options":{"include_usage":true,"include_obfuscation":false}"#,
    ] {
        let text = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"hi"}}]{more}}}"#);
        let body = encoded(&request(&text)).unwrap().body;
        assert_eq!(body, r#"{"contents":[{"role":"user","parts":[{"text":"hi"}]}]}"#, "{more}");
    }
}

#[test]
fn what_the_caller_lets_go_is_left_out() {
    let text = r#"{"model":"m","messages":[{"role":"user","name":"Ann","content":[{"type":"text","text":"hi"},{"type":"video_url"}]}],"user":"u-1","tools":[{"type":"custom"}],"seed":7}"#;
    let named =
        request(text).with_droppable(Droppable::parse("user, messages.name, tools.type, messages.content").unwrap());
    for request in [named, request(text).with_droppable(Droppable::parse("*").unwrap())] {
        let body = encoded(&request).unwrap().body;
        assert_eq!(body, r#"{"contents":[{"role":"user","parts":[{"text":"hi"}]}],"generationConfig":{"seed":7}}"#);
    }
    let partly = request(text).with_droppable(Droppable::parse("user,tools.type,messages.name").unwrap());
    assert_eq!(encoded(&partly).unwrap_err().field, "messages[0].content[1]");
}

#[test]
fn messages_that_make_no_sense_are_refused_by_their_place() {
    let call = |arguments: &str| json!([{"role": "assistant", "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": arguments}}]}]);
    for (messages, field) in [
        (json!([7]), "messages[0]"),
        (json!([{"role": "critic", "content": "x"}]), "messages[0].role"),
        (json!([{"role": "user"}]), "messages[0].content"),
        (json!([{"role": "user", "content": 7}]), "messages[0].content"),
        (
            json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "ftp://x"}}]}]),
            "messages[0].content[0].image_url.url",
        ),
        (
            json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,x"}}]}]),
            "messages[0].content[0].image_url.url",
        ),
        (
            json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x", "detail": "low"}}]}]),
            "messages[0].content[0].image_url.detail",
        ),
        (
            json!([{"role": "user", "content": [{"type": "file", "file": {"file_id": "file-1"}}]}]),
            "messages[0].content[0].file.file_id",
        ),
        (
            json!([{"role": "system", "content": [{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}]}]),
            "messages[0].content[0]",
        ),
        (json!([{"role": "tool", "tool_call_id": "b", "content": "x"}]), "messages[0].tool_call_id"),
        (json!([{"role": "assistant", "content": "x", "audio": {"id": "a"}}]), "messages[0].audio"),
        (call("[1]"), "messages[0].tool_calls[0].function.arguments"),
        (call("{\"a\":"), "messages[0].tool_calls[0].function.arguments"),
        (call("\"{}\""), "messages[0].tool_calls[0].function.arguments"),
    ] {
        assert_eq!(refused_message(messages.clone()).as_deref(), Some(field), "{messages}");
    }
}

#[test]
fn no_refusal_repeats_what_was_said() {
    for more in [r#","user":"private""#, r#","of_next_year":"private""#, r#","stop":{"private":1}"#] {
        let text = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"hi"}}]{more}}}"#);
        assert!(!encoded(&request(&text)).unwrap_err().message.contains("private"));
    }
}

#[test]
fn each_choice_of_tools_has_its_mode() {
    let tools = r#","tools":[{"type":"function","function":{"name":"f"}}]"#;
    let named = r#"[{"type":"function","function":{"name":"f"}}]"#;
    for (choice, expected) in [
        (String::new(), None),
        (r#","tool_choice":"auto""#.into(), None),
        (r#","tool_choice":"none""#.into(), Some(r#"{"mode":"NONE"}"#)),
        (r#","tool_choice":"required""#.into(), Some(r#"{"mode":"ANY"}"#)),
        (
            format!(r#","tool_choice":{{"type":"allowed_tools","allowed_tools":{{"mode":"auto","tools":{named}}}}}"#),
            Some(r#"{"mode":"VALIDATED","allowedFunctionNames":["f"]}"#),
        ),
        (
            format!(
                r#","tool_choice":{{"type":"allowed_tools","allowed_tools":{{"mode":"required","tools":{named}}}}}"#
            ),
            Some(r#"{"mode":"ANY","allowedFunctionNames":["f"]}"#),
        ),
    ] {
        let text = format!(r#"{{"model":"m","messages":[]{tools}{choice}}}"#);
        let body: serde_json::Value = serde_json::from_slice(&encoded(&request(&text)).unwrap().body).unwrap();
        let got = body.get("toolConfig").map(|config| config["functionCallingConfig"].clone());
        assert_eq!(got, expected.map(|expected| serde_json::from_str(expected).unwrap()), "{choice}");
    }
}

#[test]
fn half_a_surrogate_pair_and_an_empty_answer_pass() {
    let text = r#"{"model":"m","messages":[{"role":"user","content":"\ud83d"},{"role":"assistant","content":""},{"role":"user","content":"b"}]}"#;
    let body = encoded(&request(text)).unwrap().body;
    let expected = r#"{"contents":[{"role":"user","parts":[{"text":"\ud83d"}]},{"role":"model","parts":[{"text":""}]},{"role":"user","parts":[{"text":"b"}]}]}"#;
    assert_eq!(body, expected);
}
