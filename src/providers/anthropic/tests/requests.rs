//! What can be said, what cannot, and who may leave it out.

use proptest::prelude::*;
use serde_json::json;

use super::*;

const HI: &str = r#"{"role":"user","content":"hi"}"#;

#[test]
fn it_goes_to_messages_with_the_key_and_the_version_and_without_other_providers_headers() {
    let request = chat(HI, "")
        .with_header("openai-organization", "org")
        .and_then(|request| request.with_header("x-goog-user-project", "p"))
        .and_then(|request| request.with_header("anthropic-beta", "b"))
        .and_then(|request| request.with_header("authorization", "Bearer caller"))
        .unwrap();
    let encoded = encode(&request, &account(&[]), Some("other"), made()).unwrap();
    assert_eq!(encoded.url, "https://api.example.test/v1/messages");
    let got: Vec<_> = encoded.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    assert_eq!(
        got,
        [
            ("anthropic-beta", "b"),
            ("content-type", "application/json"),
            ("accept", "application/json"),
            ("x-api-key", "sk-ant-1"),
            ("anthropic-version", "2023-06-01"),
        ]
    );
    assert!(encoded.headers.iter().any(|(name, value)| name == "x-api-key" && value.is_sensitive()));
    let body: Value = serde_json::from_slice(&encoded.body).unwrap();
    assert_eq!(body["model"], "other");
}

#[test]
fn the_version_is_the_callers_or_the_operators_where_they_name_one() {
    let version = |request: &Request, account: &Account| {
        let encoded = encode(request, account, None, made()).unwrap();
        let all: Vec<_> = encoded.headers.iter().filter(|(name, _)| *name == "anthropic-version").collect();
        assert_eq!(all.len(), 1);
        encoded.headers.get("anthropic-version").unwrap().to_owned()
    };
    let callers = chat(HI, "").with_header("anthropic-version", "2026-10-21").unwrap();
    assert_eq!(version(&callers, &account(&[])), "2026-10-21");
    assert_eq!(version(&callers, &account(&[("anthropic-version", "2024-01-01")])), "2024-01-01");
    // A later version has done away with sampling, which must not surprise anyone as a 400 of the provider's.
    let warm = chat(HI, r#","temperature":0.5"#).with_header("anthropic-version", "2026-10-21").unwrap();
    assert_eq!(encode(&warm, &account(&[]), None, made()).unwrap_err().field, "temperature");
    assert!(encode(&chat(HI, r#","temperature":0.5"#), &account(&[]), None, made()).is_ok());
}

#[test]
fn what_has_no_words_there_is_an_error_that_names_it_and_goes_with_the_callers_leave() {
    let cases: &[(&str, &str, &str, &str)] = &[
        (HI, r#","n":2"#, "n", "n"),
        (HI, r#","seed":7"#, "seed", "seed"),
        (HI, r#","logprobs":true"#, "logprobs", "logprobs"),
        (HI, r#","top_logprobs":3"#, "top_logprobs", "top_logprobs"),
        (HI, r#","logit_bias":{"50256":-100}"#, "logit_bias", "logit_bias"),
        (HI, r#","frequency_penalty":0.5"#, "frequency_penalty", "frequency_penalty"),
        (HI, r#","presence_penalty":-0.5"#, "presence_penalty", "presence_penalty"),
        (HI, r#","modalities":["text","audio"]"#, "modalities", "modalities"),
        (HI, r#","audio":{"voice":"alloy"}"#, "audio", "audio"),
        (HI, r#","prediction":{"type":"content","content":"x"}"#, "prediction", "prediction"),
        (HI, r#","web_search_options":{}"#, "web_search_options", "web_search_options"),
        (HI, r#","verbosity":"low""#, "verbosity", "verbosity"),
        (HI, r#","functions":[{"name":"f"}]"#, "functions", "functions"),
        (HI, r#","temperature":1.5"#, "temperature", "temperature"),
        (HI, r#","service_tier":"flex""#, "service_tier", "service_tier"),
        (HI, r#","stop":["\n","END"]"#, "stop", "stop"),
        (HI, r#","reasoning_effort":"vast""#, "reasoning_effort", "reasoning_effort"),
        (HI, r#","response_format":{"type":"json_object"}"#, "response_format", "response_format"),
        (HI, r#","tools":[{"type":"custom","custom":{"name":"f"}}]"#, "tools[0]", "tools"),
        (HI, r#","tool_choice":{"type":"allowed_tools","allowed_tools":{}}"#, "tool_choice", "tool_choice"),
        (HI, r#","field_of_2031":{"a":1}"#, "field_of_2031", "field_of_2031"),
        (r#"{"role":"user","content":"hi","name":"Ann"}"#, "", "messages[0].name", "messages.name"),
        (r#"{"role":"user","content":"hi","new":1}"#, "", "messages[0].new", "messages.new"),
        (
            r#"{"role":"user","content":[{"type":"text","text":"hi"},{"type":"input_audio","input_audio":{}}]}"#,
            "",
            "messages[0].content[1]",
            "messages.content",
        ),
        (
            r#"{"role":"user","content":[{"type":"text","text":"hi"},{"type":"image_url","image_url":{"url":"ftp://x"}}]}"#,
            "",
            "messages[0].content[1].image_url.url",
            "messages.content.image_url.url",
        ),
        (
            r#"{"role":"user","content":[{"type":"image_url","image_url":{"url":"http://x/y","detail":"low"}}]}"#,
            "",
            "messages[0].content[0].image_url.detail",
            "messages.content.image_url.detail",
        ),
        (
            r#"{"role":"user","content":[{"type":"text","text":"hi"},{"type":"file","file":{"file_id":"file-1"}}]}"#,
            "",
            "messages[0].content[1].file",
            "messages.content.file",
        ),
        (
            r#"{"role":"system","content":[{"type":"text","text":"a"},{"type":"image_url","image_url":"http://x/y"}]}"#,
            "",
            "messages[0].content",
            "messages.content",
        ),
        (
            r#"{"role":"assistant","content":"x","function_call":{"name":"f"}}"#,
            "",
            "messages[0].function_call",
            "messages.function_call",
        ),
    ];
    for (messages, more, field, name) in cases {
        let loss = encode(&chat(messages, more), &account(&[]), None, made()).unwrap_err();
        assert_eq!(loss.field, *field, "{messages}{more}");
        let header = format!("x-forebay-drop: {name}`");
        assert!(loss.message.contains(&format!("`{field}`")) && loss.message.contains(&header), "{}", loss.message);
        let dropped = sent_without(chat(messages, more), name).unwrap_or_else(|field| panic!("{field}: {more}"));
        assert!(dropped["messages"].is_array());
        assert!(sent_without(chat(messages, more), "something_else").is_err());
        assert!(sent_without(chat(messages, more), "*").is_ok());
    }
}

#[test]
fn what_is_dropped_is_gone_and_what_is_beside_it_stays() {
    let stop = sent_without(chat(HI, r#","stop":["\n","END"]"#), "stop").unwrap();
    assert_eq!(stop["stop_sequences"], json!(["END"]));
    let image = r#"{"role":"user","content":[{"type":"image_url","image_url":{"url":"http://x/y","detail":"low"}}]}"#;
    let image = sent_without(chat(image, ""), "messages.content.image_url.detail").unwrap();
    let source = json!({"type": "url", "url": "http://x/y"});
    assert_eq!(image["messages"][0]["content"], json!([{"type": "image", "source": source}]));
    let hot = sent_without(chat(HI, r#","temperature":2"#), "temperature").unwrap();
    assert!(hot.get("temperature").is_none(), "1, the highest there, is the default");
}

#[test]
fn what_is_not_what_it_must_be_is_named_and_no_leave_helps() {
    let call = |arguments: &str| {
        format!(
            r#"{HI},{{"role":"assistant","tool_calls":[{{"id":"a","type":"function","function":{{"name":"f","arguments":"{{}}"}}}},{{"id":"b","type":"function","function":{{"name":"f","arguments":{arguments}}}}}]}}"#
        )
    };
    let arguments = "messages[1].tool_calls[1].function.arguments";
    let cases = [
        (call(r#""[1]""#), arguments),
        (call(r#""{\"a\":""#), arguments),
        (call(r#""not JSON""#), arguments),
        (call(r#"{"a":1}"#), arguments),
        ("7".to_owned(), "messages[0]"),
        ("{}".to_owned(), "messages[0].role"),
        (r#"{"role":"owner","content":"x"}"#.to_owned(), "messages[0].role"),
        (r#"{"role":"user","content":7}"#.to_owned(), "messages[0].content"),
        (r#"{"role":"user","content":[7]}"#.to_owned(), "messages[0].content[0]"),
        (r#"{"role":"user","content":[{}]}"#.to_owned(), "messages[0].content[0].type"),
        (r#"{"role":"user","content":[{"type":"text"}]}"#.to_owned(), "messages[0].content[0].text"),
        (r#"{"role":"tool","content":"x"}"#.to_owned(), "messages[0].tool_call_id"),
    ];
    for (messages, field) in cases {
        let loss = encode(&chat(&messages, ""), &account(&[]), None, made()).unwrap_err();
        assert_eq!(loss.field, field, "{messages}");
        assert!(!loss.message.contains("x-forebay-drop") && !loss.message.contains("not JSON"), "{}", loss.message);
        assert_eq!(sent_without(chat(&messages, ""), "*").unwrap_err(), field);
    }
}

#[test]
fn schemas_arguments_and_texts_pass_as_they_stand() {
    let schema = r#"{"type":"object","properties":{"zeta":{"const":1e400},"alpha":{"const":123456789012345678901}}}"#;
    let more = format!(r#","tools":[{{"type":"function","function":{{"name":"f","parameters":{schema}}}}}]"#);
    let odd = r#"{"role":"user","content":"half \ud83d a pair \u0041"}"#;
    let encoded = encode(&chat(odd, &more), &account(&[]), None, made()).unwrap();
    let body = std::str::from_utf8(&encoded.body).unwrap();
    assert!(body.contains(schema) && body.contains(r#""half \ud83d a pair \u0041""#), "{body}");
}

/// JSON that could stand anywhere in messages, in the words of the protocol as often as not.
fn anything() -> impl Strategy<Value = Value> {
    let word = prop::sample::select(vec![
        "role",
        "content",
        "type",
        "text",
        "image_url",
        "url",
        "tool_calls",
        "function",
        "arguments",
        "id",
        "user",
        "assistant",
        "system",
        "tool",
        "tool_call_id",
        "name",
        "{}",
        "data:image/png;base64,AA",
        "",
        "cache_control",
        "thinking_blocks",
        "file",
        "file_data",
        "refusal",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        word.clone().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((word.clone(), inner), 0..5).prop_map(|fields| {
                Value::Object(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
            }),
        ]
    })
}

proptest! {
    #[test]
    fn any_messages_are_said_or_refused_by_a_field_and_never_panic(messages in prop::collection::vec(anything(), 0..4), extra in anything(), all: bool) {
        let body = json!({"model": "m", "messages": messages, "tools": extra, "stop": extra, "response_format": extra, "thinking": extra});
        let mut request = request(body.to_string());
        if all {
            request = request.with_droppable(Droppable::all());
        }
        match encode(&request, &account(&[]), None, made()) {
            Ok(encoded) => {
                let sent: Value = serde_json::from_slice(&encoded.body).unwrap();
                let turns = sent["messages"].as_array().unwrap();
                prop_assert!(turns.windows(2).all(|pair| pair[0]["role"] != pair[1]["role"]));
            }
            Err(loss) => prop_assert!(!loss.field.is_empty()),
        }
    }

    #[test]
    fn every_character_of_every_text_is_sent(texts in prop::collection::vec((0..4_usize, ".{1,12}"), 1..8)) {
        let roles = ["user", "assistant", "system", "developer"];
        let messages: Vec<Value> = texts.iter().map(|(role, text)| json!({"role": roles[*role], "content": text})).collect();
        let body = json!({"model": "m", "messages": messages}).to_string();
        let sent = sent(&request(body)).unwrap();
        let said = |role: &dyn Fn(&str) -> bool| -> String {
            texts.iter().filter(|(index, _)| role(roles[*index])).map(|(_, text)| text.as_str()).collect()
        };
        let heard = |content: &Value| -> String {
            match content.as_array() {
                Some(blocks) => blocks.iter().map(|block| block["text"].as_str().unwrap()).collect(),
                None => content.as_str().unwrap_or_default().to_owned(),
            }
        };
        prop_assert_eq!(heard(&sent["system"]), said(&|role| role == "system" || role == "developer"));
        let turns: String = sent["messages"].as_array().unwrap().iter().map(|turn| heard(&turn["content"])).collect();
        prop_assert_eq!(turns, said(&|role| role == "user" || role == "assistant"));
    }
}
