//! What holds for any JSON, and for any stream however it is cut into pieces.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::messages::Droppable;

/// Names that mean something on one side or the other.
const NAMES: [&str; 40] = [
    "candidates",
    "content",
    "parts",
    "text",
    "thought",
    "thoughtSignature",
    "functionCall",
    "name",
    "args",
    "id",
    "finishReason",
    "index",
    "logprobsResult",
    "chosenCandidates",
    "topCandidates",
    "token",
    "logProbability",
    "usageMetadata",
    "promptTokenCount",
    "totalTokenCount",
    "promptFeedback",
    "blockReason",
    "error",
    "code",
    "message",
    "status",
    "details",
    "responseId",
    "modelVersion",
    "messages",
    "role",
    "type",
    "function",
    "tool_calls",
    "arguments",
    "tools",
    "image_url",
    "url",
    "response_format",
    "json_schema",
];

/// Words that mean something as values.
const WORDS: [&str; 12] = [
    "STOP",
    "MAX_TOKENS",
    "SAFETY",
    "user",
    "assistant",
    "tool",
    "system",
    "function",
    "text",
    "image_url",
    "{}",
    "data:image/png;base64,AA==",
];

/// Any JSON, made of such names and words more often than not.
fn any_json() -> impl Strategy<Value = Value> {
    let word = prop::sample::select(&WORDS[..]).prop_map(Value::from);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word,
        ".{0,6}".prop_map(Value::from),
    ];
    let name = prop_oneof![9 => prop::sample::select(&NAMES[..]).prop_map(str::to_owned), 1 => ".{0,4}"];
    leaf.prop_recursive(6, 60, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((name.clone(), inner), 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// An answer of `parts`, which ends with `finish`.
fn event(parts: &Value, finish: Option<&str>) -> String {
    let mut candidate = json!({"content": {"parts": parts, "role": "model"}});
    if let Some(finish) = finish {
        candidate["finishReason"] = finish.into();
    }
    format!(
        "data: {}\n\n",
        json!({"candidates": [candidate], "responseId": "r", "usageMetadata": {"promptTokenCount": 1}})
    )
}

fn is_envelope(body: &[u8]) -> bool {
    let body: Value = serde_json::from_slice(body).unwrap();
    let code = &body["error"]["code"];
    body["error"]["message"].is_string() && (code.is_string() || code.is_null())
}

proptest! {
    #[test]
    fn any_json_is_a_request_or_a_refusal(
        messages in prop::collection::vec(any_json(), 0..4), tools in any_json(), choice in any_json(), format in any_json(), name in prop::sample::select(&NAMES[..]), more in any_json(),
    ) {
        let mut body = json!({"tools": tools, "tool_choice": choice, "response_format": format, "stop": more});
        body[name] = more;
        body["messages"] = messages.into();
        body["model"] = "gemini-3".into();
        for allowed in ["", "*"] {
            let request = request(&body.to_string()).with_droppable(Droppable::parse(allowed).unwrap_or_default());
            match encoded(&request) {
                Ok(encoded) => prop_assert!(serde_json::from_slice::<Value>(&encoded.body).unwrap()["contents"].is_array()),
                Err(refused) => prop_assert!(!refused.field.is_empty() && refused.message.contains(&refused.field)),
            }
        }
    }

    #[test]
    fn any_json_is_an_answer_or_none(value in any_json(), candidates in prop::collection::vec(any_json(), 0..3)) {
        let answer = json!({"candidates": candidates, "usageMetadata": value, "promptFeedback": value});
        for body in [value.to_string(), answer.to_string()] {
            if let Ok((body, _)) = reader().whole(Bytes::from(body.clone())) {
                let body: Value = serde_json::from_slice(&body).unwrap();
                for choice in body["choices"].as_array().unwrap() {
                    prop_assert!(choice["finish_reason"].is_string() && choice["message"]["role"] == "assistant");
                }
            }
            let (heard, steps, _) = streamed(&reader(), [format!("data: {body}\n\n").as_bytes()]);
            for data in heard.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]") {
                prop_assert!(serde_json::from_str::<Value>(data).unwrap()["choices"].is_array());
            }
            for step in steps {
                if let Step::Error { body, .. } = step {
                    prop_assert!(is_envelope(&body));
                }
            }
            prop_assert!(is_envelope(&reader().error(Bytes::from(body))));
        }
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes: Vec<u8>, text in r#"(\{|\}|\[|\]|"error":|"candidates":|"a"|1|,|é)*"#) {
        for body in [&bytes[..], text.as_bytes()] {
            let body = Bytes::copy_from_slice(body);
            let _ = (reader().whole(body.clone()), reader().error_in(&body));
            prop_assert!(is_envelope(&reader().error(body.clone())));
            let mut data = b"data: ".to_vec();
            data.extend(body.iter().filter(|byte| !matches!(byte, b'\n' | b'\r')));
            data.extend_from_slice(b"\n\n");
            let _ = streamed(&reader(), [&data[..]]);
        }
    }

    #[test]
    fn a_stream_says_the_same_however_it_is_cut(cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12)) {
        for (name, given, expected) in pairs("streams", ".sse", ".openai.sse") {
            let given = given.as_bytes();
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(given.len())).chain([0, given.len()]).collect();
            at.sort_unstable();
            let (heard, _, is_complete) = streamed(&reader(), at.windows(2).map(|cut| &given[cut[0]..cut[1]]));
            prop_assert!(is_complete && heard == expected, "{name}: {heard}");
        }
    }

    #[test]
    fn every_character_arrives_in_streams_and_in_whole_answers(
        texts in prop::collection::vec((any::<bool>(), "\\PC{0,12}|[\"\\\\\n\u{1}]{1,4}"), 0..12), sizes in prop::collection::vec(0..4_usize, 1..8),
    ) {
        let part = |(is_thought, text): &(bool, String)| json!({"text": text, "thought": is_thought});
        let parts: Vec<Value> = texts.iter().map(part).collect();
        let (mut rest, mut stream) = (&parts[..], String::new());
        for size in sizes {
            let (now, later) = rest.split_at(size.min(rest.len()));
            stream += &event(&json!(now), None);
            rest = later;
        }
        stream += &event(&json!(rest), Some("STOP"));
        let said = |thoughts: bool| -> String {
            texts.iter().filter(|(is_thought, _)| *is_thought == thoughts).map(|(_, text)| text.as_str()).collect()
        };
        let (heard, _, is_complete) = streamed(&reader(), [stream.as_bytes()]);
        let (content, thoughts, _) = spelt(&heard);
        prop_assert!(is_complete);
        prop_assert_eq!((&content, &thoughts), (&said(false), &said(true)));
        let whole = json!({"candidates": [{"content": {"parts": parts}, "finishReason": "STOP"}]});
        let (body, _) = reader().whole(Bytes::from(whole.to_string())).unwrap();
        let message = serde_json::from_slice::<Value>(&body).unwrap()["choices"][0]["message"].clone();
        prop_assert_eq!(message["content"].as_str().unwrap_or_default(), content);
        prop_assert_eq!(message["reasoning_content"].as_str().unwrap_or_default(), thoughts);
    }

    #[test]
    fn arguments_arrive_as_they_are_and_calls_are_numbered(args in any_json(), calls in 1..4_usize) {
        let call = json!({"functionCall": {"name": "f", "args": args}});
        let stream: String = (0..calls).map(|n| event(&json!([call]), (n + 1 == calls).then_some("STOP"))).collect();
        let (heard, _, _) = streamed(&reader(), [stream.as_bytes()]);
        let (_, _, arguments) = spelt(&heard);
        let expected = if args.is_null() { "{}".to_owned() } else { args.to_string() };
        prop_assert_eq!(arguments, expected.repeat(calls));
        for n in 0..calls {
            let needle = format!("\"tool_calls\":[{{\"index\":{n},");
            prop_assert!(heard.contains(&needle));
        }
        prop_assert!(heard.contains("\"finish_reason\":\"tool_calls\""));
    }
}
