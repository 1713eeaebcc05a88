//! Answers and streams that are not as documented: cut, torn, strange, from a later year, or an error.

use bytes::BytesMut;
use proptest::prelude::*;
use serde_json::json;

use super::golden::translated;
use super::*;
use crate::providers::dialect::Step;
use crate::providers::sse::SseParser;

const START: &str = r#"{"type":"message_start","message":{"id":"msg_1","model":"m","usage":{"input_tokens":3}}}"#;
const STOPPED: &str = r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":2}}"#;
const STOP: &str = r#"{"type":"message_stop"}"#;

fn text(text: &str) -> String {
    json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}).to_string()
}

fn stream(data: &[&str]) -> String {
    data.iter().map(|data| format!("data: {data}\n\n")).collect()
}

/// One letter a step, as it is told of openai's streams, and the reader.
fn steps(stream: &str) -> (String, Box<dyn Events>) {
    let (mut parser, mut out, mut reader) = (SseParser::new(1 << 20), BytesMut::new(), answers().events());
    parser.push(Bytes::copy_from_slice(stream.as_bytes()));
    let letters = std::iter::from_fn(|| parser.next()).map(|event| match reader.read(&event.unwrap(), &mut out) {
        Step::Hold => 'H',
        Step::Content => 'C',
        Step::Drop => 'D',
        Step::Error { .. } => 'E',
        Step::Malformed { .. } => 'M',
    });
    (letters.collect(), reader)
}

#[test]
fn only_message_stop_completes_a_stream() {
    let hello = text("hello");
    let all = [START, &hello, STOPPED, STOP];
    for end in 0..all.len() {
        let (_, reader) = steps(&stream(&all[..end]));
        assert!(!reader.is_complete(), "cut behind {end} events");
    }
    let (letters, reader) = steps(&stream(&all));
    assert_eq!(letters, "HCDC");
    assert!(reader.is_complete());
    let usage = reader.usage().unwrap();
    assert_eq!((usage.input_tokens, usage.output_tokens), (3, 2));
}

#[test]
fn a_cut_stream_has_no_finish_reason_that_anyone_could_take_for_its_end() {
    let hello = text("hello");
    let got = translated(&stream(&[START, &hello, STOPPED]), 4_096, &mut *answers().events());
    assert!(got.iter().all(|chunk| chunk["choices"][0]["finish_reason"].is_null()), "{got:?}");
}

#[test]
fn an_answer_without_content_is_complete_all_the_same() {
    assert_eq!(steps(&stream(&[START, STOPPED, STOP])).0, "HDC");
}

#[test]
fn errors_in_a_stream_have_the_envelope_and_the_status_of_their_type() {
    for (kind, status) in [("overloaded_error", 529), ("rate_limit_error", 429), ("api_error", 500)] {
        let data = format!(r#"{{"type":"error","error":{{"type":"{kind}","message":"no"}}}}"#);
        for text in [format!("event: error\ndata: {data}\n\n"), format!("data: {data}\n\n")] {
            let (mut parser, mut out) = (SseParser::new(1 << 20), BytesMut::new());
            parser.push(text.into());
            let step = answers().events().read(&parser.next().unwrap().unwrap(), &mut out);
            let Step::Error { body, status: got } = step else { panic!("{step:?}") };
            let expected = json!({"error": {"message": "no", "type": kind, "param": null, "code": kind}});
            assert_eq!((serde_json::from_slice::<Value>(&body).unwrap(), got), (expected, Some(status)));
            assert!(out.is_empty());
        }
    }
    assert_eq!(steps("event: error\ndata: boom\n\n").0, "E");
    assert_eq!(steps("event: error\n\n").0, "E");
}

#[test]
fn what_a_later_version_brings_breaks_nothing() {
    let hello = text("hello");
    let (letters, reader) = steps(&stream(&[
        START,
        r#"{"type":"ping"}"#,
        r#"{"type":"event_of_2031","index":0}"#,
        r#"{"type":"content_block_start","index":0,"content_block":{"type":"block_of_2031","data":[1]}}"#,
        r#"{"type":"content_block_delta","index":0,"delta":{"type":"delta_of_2031","data":[1]}}"#,
        r#"{"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"x"}}"#,
        r#"{"type":"content_block_delta","index":0,"delta":{"type":"citations_delta","citation":{}}}"#,
        r#"{"type":"content_block_delta","index":7,"delta":{"type":"input_json_delta","partial_json":"{}"}}"#,
        r#"{"type":"content_block_stop","index":0}"#,
        &hello,
        r#"{"type":"message_delta","delta":{"stop_reason":"reason_of_2031"},"usage":{"output_tokens":2,"new":{}}}"#,
        STOP,
    ]));
    assert_eq!(letters, "HDDDDDDDDCDC");
    assert!(reader.is_complete());
    let foreign = format!("event: keepalive\ndata: x\n\nevent: ping\n\ndata:\n\ndata: [DONE]\n\n{}", stream(&[START]));
    assert_eq!(steps(&foreign).0, "DDDDH");
}

#[test]
fn what_no_such_stream_consists_of_is_malformed() {
    let hello = text("hello");
    for (data, letters) in [
        (vec![hello.as_str()], "M"),
        (vec![START, START], "HM"),
        (vec![r#"{"type":"message_start"}"#], "M"),
        (vec![START, STOP], "HM"),
        (vec!["<html>"], "M"),
        (vec!["[1]"], "M"),
        (vec![START, r#"{"type":"content_block_delta","index":0,"delta":7}"#], "HM"),
        (vec![START, r#"{"type":"content_block_start","index":0}"#], "HM"),
    ] {
        assert_eq!(steps(&stream(&data)).0, letters, "{data:?}");
    }
}

#[test]
fn arguments_go_on_piece_by_piece_and_a_call_without_any_has_an_object() {
    let open = r#"{"type":"content_block_start","index":1,"content_block":{"type":"tool_use","id":"t","name":"f","input":{ }}}"#;
    let piece = r#"{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"{}"}}"#;
    let close = r#"{"type":"content_block_stop","index":1}"#;
    assert_eq!(steps(&stream(&[START, open, piece, piece, piece, close])).0, "HCCCCD");
    let got = translated(&stream(&[START, open, STOPPED, STOP]), 4_096, &mut *answers().events());
    let arguments: String = got
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"].as_str())
        .collect();
    assert_eq!(arguments, "{}", "although nobody has closed it");
    let whole = open.replace("{ }", r#"{"a": "\u00e9"}"#);
    let got = translated(&stream(&[START, &whole, close]), 4_096, &mut *answers().events());
    assert_eq!(got.len(), 2);
    assert_eq!(got[1]["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"], r#"{"a": "\u00e9"}"#);
}

#[test]
fn whole_answers_of_a_later_year_are_read_and_broken_ones_are_errors_that_repeat_nothing() {
    let strange = r#"{"id":7,"content":[{"type":"block_of_2031","text":"private"},{"type":"text","text":"a"},7,null],
        "stop_reason":"reason_of_2031","usage":{"input_tokens":"many"},"new":[{}]}"#;
    let (body, usage) = answers().whole(strange.into()).unwrap();
    let got: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(got["choices"][0]["message"]["content"], "a");
    assert_eq!(got["choices"][0]["native_finish_reason"], "reason_of_2031");
    assert_eq!((&got["id"], usage), (&json!(""), None));
    for broken in [
        "",
        "[]",
        "<html>private",
        r#"{"content":"private","stop_reason":"end_turn"}"#,
        r#"{"content":[],"stop_reason":null}"#,
        r#"{"content":[{"type":"text","text":"private"}],"stop_reason":"end_tu"#,
        r#"{"type":"error","error":{"type":"api_error","message":"private"}}"#,
    ] {
        let error = answers().whole(broken.into()).unwrap_err();
        assert!(!error.contains("private"), "{error}");
    }
}

#[test]
fn errors_have_openais_envelope_whatever_they_come_in() {
    let error = Bytes::from_static(br#"{"type":"error","error":{"type":"not_found_error","message":"model: x"}}"#);
    let got: Value = serde_json::from_slice(&answers().error(error.clone())).unwrap();
    assert_eq!(got["error"]["code"], "not_found_error");
    assert_eq!(answers().error_in(&error).unwrap().1, Some(404));
    for (odd, message) in [("<html>", "<html>"), ("", "The upstream reported an error without saying which.")] {
        let got: Value = serde_json::from_slice(&answers().error(odd.into())).unwrap();
        assert_eq!((got["error"]["message"].as_str(), &got["error"]["code"]), (Some(message), &Value::Null));
    }
    assert!(answers().error_in(&Bytes::from_static(br#"{"type":"message","content":[]}"#)).is_none());
}

proptest! {
    #[test]
    fn any_events_are_judged_without_a_panic_and_nothing_follows_from_nothing(
        kinds in prop::collection::vec((0..9_usize, 0..3_u64, ".{0,6}", any::<bool>()), 0..16),
        junk in ".{0,12}",
    ) {
        let events: Vec<String> = kinds.iter().map(|(kind, index, text, odd)| {
            let inner = if *odd { json!(text) } else { json!({"type": "text_delta", "text": text}) };
            match kind {
                0 => START.to_owned(),
                1 => json!({"type": "content_block_start", "index": index, "content_block": {"type": "tool_use", "id": text, "name": text, "input": inner}}).to_string(),
                2 => json!({"type": "content_block_start", "index": index, "content_block": {"type": "thinking", "thinking": text, "signature": inner}}).to_string(),
                3 => json!({"type": "content_block_delta", "index": index, "delta": inner}).to_string(),
                4 => json!({"type": "content_block_delta", "index": index, "delta": {"type": "input_json_delta", "partial_json": text}}).to_string(),
                5 => json!({"type": "content_block_stop", "index": index}).to_string(),
                6 => json!({"type": "message_delta", "delta": {"stop_reason": text}, "usage": inner}).to_string(),
                7 => STOP.to_owned(),
                _ => junk.clone(),
            }
        }).collect();
        let events: Vec<&str> = events.iter().map(String::as_str).collect();
        let stream = stream(&events);
        let run = |size: usize| {
            let (mut parser, mut out, mut reader) = (SseParser::new(1 << 20), BytesMut::new(), answers().events());
            let mut steps = Vec::new();
            for piece in stream.as_bytes().chunks(size) {
                parser.push(Bytes::copy_from_slice(piece));
                while let Some(event) = parser.next() {
                    let before = out.len();
                    let step = reader.read(&event.unwrap(), &mut out);
                    let wrote = out.len() > before;
                    assert_eq!(wrote, matches!(step, Step::Hold | Step::Content), "{step:?}");
                    steps.push(step);
                }
            }
            (steps, out)
        };
        prop_assert_eq!(run(1), run(4_096));
        let (_, out) = run(5);
        for event in std::str::from_utf8(&out).unwrap().split_terminator("\n\n") {
            let data = event.strip_prefix("data: ").unwrap();
            prop_assert!(data == "[DONE]" || serde_json::from_str::<Value>(data).is_ok(), "{data}");
        }
    }

    #[test]
    fn every_character_arrives(texts in prop::collection::vec(".{0,12}", 0..8), size in 1..64_usize) {
        let deltas: Vec<String> = texts.iter().map(|one| text(one)).collect();
        let events: Vec<&str> = [START].into_iter().chain(deltas.iter().map(String::as_str)).chain([STOPPED, STOP]).collect();
        let got = translated(&stream(&events), size, &mut *answers().events());
        let heard: String = got.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
        prop_assert_eq!(heard, texts.concat());
        let blocks: Vec<Value> = texts.iter().map(|one| json!({"type": "text", "text": one})).collect();
        let whole = json!({"id": "m", "content": blocks, "stop_reason": "end_turn"}).to_string();
        let (body, _) = answers().whole(whole.into()).unwrap();
        let got: Value = serde_json::from_slice(&body).unwrap();
        prop_assert_eq!(got["choices"][0]["message"]["content"].as_str(), Some(&*texts.concat()));
    }

    #[test]
    fn any_bytes_are_judged_as_answers_without_a_panic(bytes: Vec<u8>, text in r#"(\{|\}|\[|\]|"content":|"type":|"error":|"stop_reason":|"a"|1|,|é)*"#) {
        for body in [Bytes::from(bytes), Bytes::from(text)] {
            let _ = (answers().whole(body.clone()), answers().error(body.clone()), answers().error_in(&body));
        }
    }
}
