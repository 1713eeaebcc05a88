//! Gemini's protocol both ways: golden translations, which vendors' own SDKs parse too, and what holds for any bytes.

mod any;
mod requests;

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};

use super::*;
use crate::messages::{Account, Endpoint, Request, UpstreamKind};
use crate::providers::dialect::{Encoded, Step, Untranslatable};
use crate::providers::examples;
use crate::providers::fields::compact;
use crate::providers::sse::SseParser;

/// When all golden answers were made.
const CREATED: u64 = 1_700_000_000;

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(CREATED)
}

fn golden(folder: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/gemini").join(folder)
}

/// Every pair of files in `folder`: what is given, and what must come of it, which is called so with `ending`.
fn pairs(folder: &str, given: &str, ending: &str) -> Vec<(String, String, String)> {
    let mut pairs = Vec::new();
    for entry in std::fs::read_dir(golden(folder)).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if let Some(stem) = name.strip_suffix(given).filter(|stem| !stem.contains('.')) {
            let text = |name: &str| std::fs::read_to_string(golden(folder).join(name)).unwrap();
            pairs.push((name.clone(), text(&name), text(&format!("{stem}{ending}"))));
        }
    }
    assert!(!pairs.is_empty());
    pairs
}

fn account(headers: &[(&'static str, &'static str)]) -> Account {
    examples::account(UpstreamKind::Gemini, "https://example.test/v1beta", "AIza-1", headers)
}

fn request(text: &str) -> Request {
    Request::new(Endpoint::ChatCompletions, text.to_owned()).unwrap()
}

fn encoded(request: &Request) -> Result<Encoded, Untranslatable> {
    encode(request, &account(&[]), None, now())
}

/// How answers are read by whoever asked for usage.
fn reader() -> Translated {
    Translated { created: CREATED, model: "gemini-2.5-flash".into(), tells_usage: true }
}

/// What the caller hears of a stream that comes in `chunks`, each step on its way, and whether it was complete.
fn streamed<'a>(to: &Translated, chunks: impl IntoIterator<Item = &'a [u8]>) -> (String, Vec<Step>, bool) {
    let (mut parser, mut events) = (SseParser::new(1 << 20), to.events());
    let (mut out, mut steps) = (BytesMut::new(), Vec::new());
    for chunk in chunks {
        parser.push(Bytes::copy_from_slice(chunk));
        while let Some(event) = parser.next() {
            let before = out.len();
            let step = events.read(&event.unwrap(), &mut out);
            assert!(matches!(step, Step::Hold | Step::Content) || out.len() == before, "{step:?}");
            steps.push(step);
        }
    }
    let is_complete = events.is_complete() && !parser.pending();
    if is_complete {
        events.finish(&mut out);
    }
    (String::from_utf8(out.to_vec()).unwrap(), steps, is_complete)
}

/// The content, the thoughts and the calls' arguments that a stream of chunks spells.
fn spelt(stream: &str) -> (String, String, String) {
    let (mut content, mut thoughts, mut arguments) = (String::new(), String::new(), String::new());
    for line in stream.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]") {
        let chunk: serde_json::Value = serde_json::from_str(line).unwrap();
        let delta = &chunk["choices"][0]["delta"];
        content += delta["content"].as_str().unwrap_or_default();
        thoughts += delta["reasoning_content"].as_str().unwrap_or_default();
        arguments += delta["tool_calls"][0]["function"]["arguments"].as_str().unwrap_or_default();
    }
    (content, thoughts, arguments)
}

#[test]
fn golden_answers_are_translated_to_the_letter() {
    for (name, given, expected) in pairs("answers", ".json", ".openai.json") {
        let (body, usage) = reader().whole(Bytes::from(given)).unwrap();
        assert_eq!(String::from_utf8_lossy(&body), compact(&expected), "{name}");
        assert!(usage.is_some(), "{name}");
    }
}

#[test]
fn golden_streams_are_translated_to_the_letter() {
    for (name, given, expected) in pairs("streams", ".sse", ".openai.sse") {
        let (heard, steps, is_complete) = streamed(&reader(), [given.as_bytes()]);
        assert!(is_complete, "{name}: {steps:?}");
        assert_eq!(heard, expected, "{name}");
    }
}

#[test]
fn usage_is_told_only_to_whom_asked_for_it_and_counted_in_any_case() {
    let stream = std::fs::read(golden("streams/text.sse")).unwrap();
    let (heard, _, _) = streamed(&Translated { tells_usage: false, ..reader() }, [&stream[..]]);
    assert!(!heard.contains("usage") && heard.ends_with("data: [DONE]\n\n"), "{heard}");
    let (mut parser, mut events) = (SseParser::new(1 << 20), reader().events());
    parser.push(Bytes::from(stream));
    while let Some(event) = parser.next() {
        events.read(&event.unwrap(), &mut BytesMut::new());
    }
    assert_eq!(events.usage().map(|usage| (usage.input_tokens, usage.output_tokens)), Some((8, 10)));
}

#[test]
fn a_stream_without_its_finish_reasons_is_not_complete() {
    let two = std::fs::read_to_string(golden("streams/two.sse")).unwrap();
    let events: Vec<&str> = two.split_inclusive("\r\n\r\n").collect();
    for end in 0..events.len() {
        let (heard, _, is_complete) = streamed(&reader(), events[..end].iter().map(|event| event.as_bytes()));
        assert!(!is_complete && !heard.contains("[DONE]"), "{end}");
    }
    assert!(streamed(&reader(), [two.as_bytes()]).2);
}

#[test]
fn an_event_of_many_lines_becomes_events_of_one() {
    let given = std::fs::read_to_string(golden("answers/withheld.json")).unwrap();
    let event: String = given.lines().map(|line| format!("data: {line}\n")).collect();
    let (heard, steps, is_complete) = streamed(&reader(), [event.as_bytes(), b"\n"]);
    assert!(is_complete && steps == [Step::Content], "{steps:?}");
    assert!(heard.lines().all(|line| line.is_empty() || line.starts_with("data: ")), "{heard}");
    assert!(heard.contains(r#""inlineData":{"mimeType":"image/png""#), "{heard}");
}

#[test]
fn openings_are_held_and_what_says_nothing_is_dropped() {
    let event = |data: &str| format!("data: {data}\n\n");
    let given = [
        event(r#"{"usageMetadata":{"promptTokenCount":3}}"#),
        event(r#"{"candidates":[{"content":{"role":"model"}}]}"#),
        event(""),
        event("[DONE]"),
        ": busy\n\n".to_owned(),
        event(r#"{"candidates":[{"content":{"parts":[{"text":"a"}]}}]}"#),
        event("{\"candidates\":"),
        event("[]"),
    ];
    let (_, steps, _) = streamed(&reader(), given.iter().map(|event| event.as_bytes()));
    let names: Vec<_> = steps.iter().map(|step| format!("{step:?}").chars().take(4).collect::<String>()).collect();
    assert_eq!(names, ["Drop", "Hold", "Drop", "Drop", "Drop", "Cont", "Malf", "Malf"]);
}

#[test]
fn an_error_in_a_stream_has_its_status_and_openais_envelope() {
    let error = r#"{"error":{"code":503,"message":"The model is overloaded.","status":"UNAVAILABLE"}}"#;
    for data in [error.to_owned(), format!("[{error}]")] {
        let (heard, steps, is_complete) = streamed(&reader(), [format!("data: {data}\n\n").as_bytes()]);
        let [Step::Error { body, status: Some(503) }] = &steps[..] else { panic!("{steps:?}") };
        let body: serde_json::Value = serde_json::from_slice(body).unwrap();
        assert_eq!((&body["error"]["code"], &body["error"]["type"]), (&"UNAVAILABLE".into(), &"server_error".into()));
        assert!(heard.is_empty() && !is_complete);
    }
}

#[test]
fn answers_that_are_none_are_errors_that_repeat_nothing() {
    for body in [
        "",
        "{}",
        "[]",
        "{\"private\":",
        "<html>private</html>",
        r#"{"candidates":[]}"#,
        r#"{"candidates":[{"content":{"parts":[{"text":"private"}]}}]}"#,
        r#"{"candidates":[{"content":{"parts":[{"text":"private"}]},"finishReason":"FINISH_REASON_UNSPECIFIED"}]}"#,
        r#"{"error":{"code":500,"message":"private"}}"#,
    ] {
        let error = reader().whole(Bytes::from(body)).unwrap_err();
        assert!(!error.contains("private"), "{error}");
    }
}

#[test]
fn an_error_where_events_were_asked_for_is_found() {
    let error = r#"{"error":{"code":429,"message":"slowly","status":"RESOURCE_EXHAUSTED"}}"#;
    for body in [error.to_owned(), format!("[{error}]")] {
        let (body, status) = reader().error_in(&Bytes::from(body)).unwrap();
        assert!(status == Some(429) && body.starts_with(b"{\"error\":{\"message\":\"slowly\""));
    }
    assert_eq!(reader().error_in(&Bytes::from("[{\"candidates\":[]}]")), None);
}
