use proptest::prelude::*;

use super::*;

fn read(endpoint: Endpoint, text: &str) -> Result<Body, Error> {
    Body::read(endpoint, Bytes::copy_from_slice(text.as_bytes()))
}

fn chat(text: &str) -> Body {
    read(Endpoint::ChatCompletions, text).unwrap_or_else(|error| panic!("{error} for {text}"))
}

/// A chat whose fields beside model and messages are `more`.
fn chat_with(more: &str) -> String {
    format!("{{\"model\":\"m\",\"messages\":[]{more}}}")
}

#[test]
fn what_routing_needs_is_read_in_place() {
    let text = r#" {"messages":[{"role":"user","content":"\"model\": no"}], "model" : "gpt-4o","stream":true,"n":3,
        "max_tokens":10,"max_completion_tokens":20,"temperature":1.0e0}"#;
    let bytes = Bytes::copy_from_slice(text.as_bytes());
    let body = Body::read(Endpoint::ChatCompletions, bytes.clone()).unwrap();
    assert_eq!(body.model(), Some("gpt-4o"));
    assert_eq!(&text[body.model_span().unwrap()], "\"gpt-4o\"");
    assert!(body.is_stream());
    assert_eq!(body.choices(), 3);
    assert_eq!(body.token_limit(), Some(20));
    assert_eq!(body.usage_ask(), UsageAsk::Absent);
    assert_eq!(body.bytes().as_ptr(), bytes.as_ptr(), "the bytes are shared, not copied");
}

#[test]
fn escapes_in_names_and_in_the_model_are_decoded() {
    let text = r#"{"\u006dodel":"gpt\u002d4\/o \ud83d\ude00","messages":[]}"#;
    let body = chat(text);
    assert_eq!(body.model(), Some("gpt-4/o \u{1f600}"));
    assert_eq!(&text[body.model_span().unwrap()], r#""gpt\u002d4\/o \ud83d\ude00""#);
}

#[test]
fn a_second_model_hidden_behind_an_escape_is_still_a_second_model() {
    let error = read(Endpoint::ChatCompletions, r#"{"model":"a","mode\u006c":"b","messages":[]}"#).unwrap_err();
    assert_eq!(error.param(), Some("model"));
}

#[test]
fn what_the_caller_said_about_usage_is_told_apart() {
    for (options, expected) in [
        ("", UsageAsk::Absent),
        (r#","stream_options":{"include_usage":true}"#, UsageAsk::Asked),
        (r#","stream_options":{"include_usage":false}"#, UsageAsk::Other),
        (r#","stream_options":{"include_usage":null}"#, UsageAsk::Other),
        (r#","stream_options":{"include_usage":true,"include_usage":true}"#, UsageAsk::Other),
        (r#","stream_options":[]"#, UsageAsk::Other),
        (r#","stream_options":"x""#, UsageAsk::Other),
        (r#","stream_options":{},"stream_options":{}"#, UsageAsk::Other),
    ] {
        assert_eq!(chat(&chat_with(options)).usage_ask(), expected, "{options}");
    }
    let text = chat_with(r#","stream_options": {"x":{"include_usage":true}}"#);
    assert_eq!(chat(&text).usage_ask(), UsageAsk::ObjectAt(text.find("{\"x\"").unwrap()));
    let text = chat_with(r#","stream_options":null"#);
    assert_eq!(chat(&text).usage_ask(), UsageAsk::NullAt(text.find("null").unwrap()));
}

#[test]
fn token_limits_and_choices_of_strange_kinds_are_the_upstreams_to_judge() {
    for (more, limit, choices) in [
        (r#","max_tokens":null"#, None, 1),
        (r#","max_tokens":"many""#, None, 1),
        (r#","max_tokens":-5,"n":-1"#, None, 1),
        (r#","max_tokens":1e3,"n":0"#, Some(1000), 1),
        (r#","max_tokens":123456789012345678901234567890"#, Some(u64::MAX), 1),
        (r#","max_output_tokens":7,"n":null,"best_of":4"#, Some(7), 4),
        (r#","n":2,"n":5"#, None, 5),
    ] {
        let body = chat(&chat_with(more));
        assert_eq!((body.token_limit(), body.choices()), (limit, choices), "{more}");
    }
}

#[test]
fn only_endpoints_that_have_streams_are_streamed() {
    let text = r#"{"model":"m","messages":[],"stream":true}"#;
    for (endpoint, streams) in Endpoint::ALL.into_iter().zip([true, true, false, true, false, true, false]) {
        assert_eq!(read(endpoint, text).unwrap().is_stream(), streams, "{endpoint:?}");
    }
}

#[test]
fn responses_and_moderations_may_come_without_a_model() {
    for endpoint in Endpoint::ALL {
        assert_eq!(read(endpoint, r#"{"input":"x","messages":[]}"#).is_ok(), endpoint.model_is_optional());
        assert!(read(endpoint, r#"{"model":null,"messages":[]}"#).is_err(), "null is no name at {endpoint:?}");
    }
}

#[test]
fn messages_are_asked_of_chats_and_of_anthropics_messages_only() {
    for endpoint in Endpoint::ALL {
        let is_asked = matches!(endpoint, Endpoint::ChatCompletions | Endpoint::Messages);
        assert_eq!(read(endpoint, r#"{"model":"m"}"#).is_ok(), !is_asked, "{endpoint:?}");
    }
}

#[test]
fn what_no_rule_forbids_passes() {
    for more in [
        "",
        r#","stream":null"#,
        r#","stream":false"#,
        r#","temperature":"hot","temperature":2"#,
        r#","big":123456789012345678901234567890.00e+5,"x":1E999"#,
        r#","text":"\ud83d","\udc00":1"#,
        r#","seed":-0"#,
        ",\"zero\":\"\\u0000\"",
    ] {
        chat(&chat_with(more));
    }
    chat(" \r\n\t{ \"model\" : \"m\" , \"messages\" : [ ] } \n");
}

#[test]
fn depth_is_allowed_to_128_and_not_beyond() {
    let nested = |levels: usize| chat_with(&format!(",\"x\":{}{}", "[".repeat(levels), "]".repeat(levels)));
    chat(&nested(127));
    let error = read(Endpoint::ChatCompletions, &nested(128)).unwrap_err();
    assert!(error.message().contains("128 levels"), "{error}");
    assert!(read(Endpoint::ChatCompletions, &nested(100_000)).is_err());
    assert!(read(Endpoint::ChatCompletions, &"[".repeat(100_000)).is_err());
    assert!(read(Endpoint::ChatCompletions, &"{\"a\":".repeat(100_000)).is_err());
    // Brackets side by side and brackets in strings are not depth.
    chat(&chat_with(&format!(",\"x\":[{}0]", "[],".repeat(500))));
    chat(&chat_with(&format!(",\"x\":\"\\\"{}\\\\\"", "[".repeat(500))));
}

#[test]
fn malformed_bodies_are_refused_with_the_field_at_fault() {
    let model = Some("model");
    let stream = Some("stream");
    let messages = Some("messages");
    let cases: &[(&str, Option<&str>)] = &[
        ("", None),
        (" \n", None),
        ("null", None),
        ("true", None),
        ("17", None),
        ("\"secret\"", None),
        ("[]", None),
        ("[{\"model\":\"m\"}]", None),
        ("{", None),
        ("}", None),
        ("{}x", None),
        ("{}{}", None),
        ("{\"model\"", None),
        ("{\"model\":", None),
        ("{\"model\":\"m\"", None),
        ("{\"model\":\"m", None),
        ("{\"model\":\"m\",}", None),
        ("{,\"model\":\"m\"}", None),
        ("{\"model\" \"m\"}", None),
        ("{'model':'m'}", None),
        ("{model:\"m\"}", None),
        ("{\"model\":\"m\" \"messages\":[]}", None),
        ("{\"model\":\"m\",\"messages\":[1,]}", None),
        ("{\"model\":\"m\",\"messages\":[}]", None),
        ("{\"model\":\"m\",\"x\":01}", None),
        ("{\"model\":\"m\",\"x\":+1}", None),
        ("{\"model\":\"m\",\"x\":.5}", None),
        ("{\"model\":\"m\",\"x\":1.}", None),
        ("{\"model\":\"m\",\"x\":NaN}", None),
        ("{\"model\":\"m\",\"x\":Infinity}", None),
        ("{\"model\":\"m\",\"x\":tru}", None),
        ("{\"model\":\"m\",\"x\":\"\\x\"}", None),
        ("{\"model\":\"m\",\"x\":\"\\u12\"}", None),
        ("{\"model\":\"m\",\"x\":\"a\nb\"}", None),
        ("{\"model\":\"m\",\"x\":\"\0\"}", None),
        ("{\"model\":\"m\"/* c */}", None),
        ("\u{feff}{\"model\":\"m\",\"messages\":[]}", None),
        ("{\"model\":\"m\",\"messages\":[]}\0", None),
        ("{}", model),
        ("{\"messages\":[]}", model),
        ("{\"model\":\"\",\"messages\":[]}", model),
        ("{\"model\":null,\"messages\":[]}", model),
        ("{\"model\":7,\"messages\":[]}", model),
        ("{\"model\":[\"m\"],\"messages\":[]}", model),
        ("{\"model\":\"\\ud800\",\"messages\":[]}", model),
        ("{\"model\":\"m\",\"model\":\"m\",\"messages\":[]}", model),
        ("{\"Model\":\"m\",\"messages\":[]}", model),
        ("{\"model\":\"m\"}", messages),
        ("{\"model\":\"m\",\"messages\":null}", messages),
        ("{\"model\":\"m\",\"messages\":{}}", messages),
        ("{\"model\":\"m\",\"messages\":\"[]\"}", messages),
        ("{\"model\":\"m\",\"messages\":[],\"messages\":1}", messages),
        ("{\"model\":\"m\",\"messages\":1,\"messages\":[]}", messages),
        ("{\"model\":\"m\",\"messages\":[],\"stream\":1}", stream),
        ("{\"model\":\"m\",\"messages\":[],\"stream\":\"true\"}", stream),
        ("{\"model\":\"m\",\"messages\":[],\"stream\":[]}", stream),
        ("{\"model\":\"m\",\"messages\":[],\"stream\":true,\"stream\":true}", stream),
        ("{\"model\":\"m\",\"messages\":[],\"max_tokens\":1,\"max_tokens\":1}", Some("max_tokens")),
        (
            "{\"model\":\"m\",\"messages\":[],\"max_completion_tokens\":1,\"max_completion_tokens\":2}",
            Some("max_completion_tokens"),
        ),
        (
            "{\"model\":\"m\",\"messages\":[],\"max_output_tokens\":1,\"max_output_tokens\":2}",
            Some("max_output_tokens"),
        ),
    ];
    for (text, param) in cases {
        let Err(error) = read(Endpoint::ChatCompletions, text) else { panic!("{text} was accepted") };
        assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{text}");
        assert_eq!(error.param(), *param, "{text}: {error}");
        assert!(!error.message().contains("secret"), "{error}");
    }
}

#[test]
fn bytes_that_are_not_utf8_are_refused_by_place() {
    let error = Body::read(Endpoint::Responses, Bytes::from_static(b"{\"input\":\"\xff\"}")).unwrap_err();
    assert!(error.message().contains("byte 10"), "{error}");
}

/// JSON values, some of them under the names that are looked for.
fn json_value() -> impl Strategy<Value = serde_json::Value> {
    use serde_json::Value;
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    let key = prop_oneof!["model|messages|stream|stream_options|include_usage|max_tokens|n", ".{0,4}"];
    leaf.prop_recursive(4, 24, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(key.clone(), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
        for endpoint in Endpoint::ALL {
            let _ = Body::read(endpoint, Bytes::from(bytes.clone()));
        }
    }

    #[test]
    fn the_verdict_on_syntax_is_serde_jsons(text in r#"[\[\]{}:,"\\ a-c0-9.eE+\-ntrufls\x00\n]{0,24}"#) {
        // Moderations ask for the least: what remains is syntax.
        let inner = format!("{{\"x\":{text}}}");
        for text in [&text, &inner] {
            let ours = read(Endpoint::Moderations, text).is_ok();
            let theirs = text.trim_start().starts_with('{') && serde_json::from_str::<&RawValue>(text).is_ok();
            prop_assert_eq!(ours, theirs, "{}", text);
        }
    }

    #[test]
    fn whole_json_is_judged_by_the_rules_and_never_changed(value in json_value(), cut in any::<prop::sample::Index>()) {
        let text = value.to_string();
        let stream_is_right = value.get("stream").is_none_or(|stream| stream.is_boolean() || stream.is_null());
        let model = value.get("model").map(|model| model.as_str().is_some_and(|name| !name.is_empty()));
        let expected = value.is_object() && stream_is_right && model.unwrap_or(true);
        match read(Endpoint::Responses, &text) {
            Ok(body) => {
                prop_assert!(expected, "{}", text);
                prop_assert_eq!(body.bytes().as_ref(), text.as_bytes());
                prop_assert_eq!(body.model(), value.get("model").and_then(|model| model.as_str()));
                if let Some(span) = body.model_span() {
                    let name: String = serde_json::from_slice(&body.bytes()[span]).unwrap();
                    prop_assert_eq!(Some(name.as_str()), body.model());
                }
            }
            Err(_) => prop_assert!(!expected, "{}", text),
        }
        let cut = cut.index(text.len());
        if text.is_char_boundary(cut) && value.is_object() {
            prop_assert!(read(Endpoint::Responses, &text[..cut]).is_err(), "a body cut short passed");
        }
    }
}
