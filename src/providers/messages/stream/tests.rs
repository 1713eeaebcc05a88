use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::providers::sse::SseParser;

const START: &str = r#"{"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","content":[],"model":"m","stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":25,"cache_creation_input_tokens":0,"cache_read_input_tokens":100,"output_tokens":1}}}"#;
const BLOCK: &str = r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#;
const PING: &str = r#"{"type": "ping"}"#;
const HELLO: &str = r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hello"}}"#;
const STOP: &str = r#"{"type":"content_block_stop","index":0}"#;
const DELTA: &str =
    r#"{"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":15}}"#;
const END: &str = r#"{"type":"message_stop"}"#;
const OVERLOADED: &str = r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#;

fn events(stream: &str) -> Vec<Event> {
    let mut parser = SseParser::new(1 << 20);
    parser.push(Bytes::copy_from_slice(stream.as_bytes()));
    std::iter::from_fn(|| parser.next()).map(|event| event.unwrap()).collect()
}

/// One letter a step: Hold, Content, Drop, Error, Malformed; and what was passed on or held.
fn run(stream: &str) -> (String, StreamReader, String) {
    let (mut reader, mut out) = (StreamReader::default(), BytesMut::new());
    let letter = |step| match step {
        Step::Hold => 'H',
        Step::Content => 'C',
        Step::Drop => 'D',
        Step::Error { .. } => 'E',
        Step::Malformed { .. } => 'M',
    };
    let steps = events(stream).iter().map(|event| letter(reader.read(event, &mut out))).collect();
    (steps, reader, String::from_utf8(out.to_vec()).unwrap())
}

/// The events with their names, as Anthropic sends them.
fn named(datas: &[&str]) -> String {
    let kind = |data: &str| serde_json::from_str::<Value>(data).unwrap()["type"].as_str().unwrap().to_owned();
    datas.iter().map(|data| format!("event: {}\ndata: {data}\n\n", kind(data))).collect()
}

#[test]
fn a_message_is_held_until_its_content_passed_on_as_it_came_and_complete_behind_its_stop() {
    let stream = named(&[START, BLOCK, PING, HELLO, PING, STOP, DELTA, END]);
    let (steps, reader, out) = run(&stream);
    assert_eq!((steps.as_str(), out), ("HHHCCCCC", stream));
    assert!(reader.is_complete() && reader.is_ended());
    let usage = reader.usage().unwrap();
    assert_eq!((usage.input_tokens, usage.output_tokens, usage.total_tokens), (125, 15, 140));
}

#[test]
fn nothing_but_a_message_stop_completes_a_message() {
    for end in [&[START, BLOCK, HELLO, STOP, DELTA][..], &[START, BLOCK, HELLO], &[START], &[]] {
        let reader = run(&named(end)).1;
        assert!(!reader.is_complete() && !reader.is_ended(), "{end:?}");
    }
    let done = format!("{}data: [DONE]\n\n", named(&[START, BLOCK, HELLO, STOP, DELTA]));
    assert!(!run(&done).1.is_complete(), "[DONE] is of another protocol");
}

#[test]
fn an_error_is_one_before_content_and_after_it_in_the_protocols_own_words() {
    let (steps, reader, out) = run(&named(&[START, BLOCK, OVERLOADED]));
    assert_eq!((steps.as_str(), out), ("HHE", named(&[START, BLOCK])));
    assert!(!reader.is_complete());
    assert_eq!(run(&named(&[START, BLOCK, HELLO, OVERLOADED])).0, "HHCE");
    let step = |stream: &str| StreamReader::default().step(&events(stream)[0]);
    let Step::Error { body, status } = step(&named(&[OVERLOADED])) else { panic!() };
    assert_eq!((&*body, status), (OVERLOADED.as_bytes(), Some(529)));
    for odd in [
        "event: error\n\n",
        "event: error\ndata: boom\n\n",
        "data: {\"error\":{\"message\":\"x\"}}\n\n",
        "event: ping\ndata: {\"error\":{}}\n\n",
    ] {
        let Step::Error { body, .. } = step(odd) else { panic!("{odd}") };
        assert_eq!(serde_json::from_slice::<Value>(&body).unwrap()["type"], json!("error"), "{odd}");
    }
}

#[test]
fn foreign_and_empty_events_are_dropped_and_broken_ones_are_malformed() {
    let foreign = ": comment\n\ndata:\n\nevent: ping\n\ndata: {}\n\ndata: [DONE]\n\nevent: keepalive\ndata: {}\n\n\
                   event: keep-alive\ndata: now\n\ndata: [1]\n\ndata: 7\n\nevent: content_block_delta\n\n";
    assert_eq!(run(foreign).0, "DDDDDDDDDD");
    assert_eq!(run(foreign).2, "");
    for broken in ["{\"type\":\"content_block", "null", "[]", "<html>"] {
        assert_eq!(run(&format!("event: content_block_delta\ndata: {broken}\n\n")).0, "M", "{broken}");
    }
}

#[test]
fn what_is_new_passes_and_what_tells_nothing_yet_is_held() {
    let delta = |delta: &str| format!(r#"{{"type":"content_block_delta","index":0,"delta":{delta}}}"#);
    for (delta_of, expected) in [
        (r#"{"type":"text_delta","text":""}"#, "H"),
        (r#"{"type":"input_json_delta","partial_json":""}"#, "H"),
        (r#"{"type":"input_json_delta","partial_json":"{\"a"}"#, "C"),
        (r#"{"type":"thinking_delta","thinking":"hm"}"#, "C"),
        (r#"{"type":"signature_delta","signature":"EqQB"}"#, "C"),
        (r#"{"type":"citations_delta","citation":{"type":"new"}}"#, "C"),
        (r#"{"type":"never_heard_of","anything":0}"#, "C"),
        ("null", "H"),
    ] {
        assert_eq!(run(&named(&[&delta(delta_of)])).0, expected, "{delta_of}");
    }
    let block =
        |block: &str| named(&[&format!(r#"{{"type":"content_block_start","index":0,"content_block":{block}}}"#)]);
    for (block_of, expected) in [
        (r#"{"type":"tool_use","id":"toolu_1","name":"f","input":{}}"#, "H"),
        (r#"{"type":"thinking","thinking":"","signature":""}"#, "H"),
        (r#"{"type":"redacted_thinking","data":"EmwK"}"#, "C"),
        (r#"{"type":"web_search_tool_result","tool_use_id":"x","content":[{"type":"web_search_result"}]}"#, "C"),
        ("7", "H"),
    ] {
        assert_eq!(run(&block(block_of)).0, expected, "{block_of}");
    }
    assert_eq!(run(&named(&[START, r#"{"type":"message_annotation","x":1}"#])).0, "HC", "an event of a later day");
    assert_eq!(run(&named(&[START, DELTA, END])).0, "HCC", "an empty message is one");
}

#[test]
fn events_without_names_are_known_by_their_types() {
    let stream: String = [START, BLOCK, HELLO, STOP, DELTA, END].map(|data| format!("data: {data}\n\n")).concat();
    let (steps, reader, out) = run(&stream);
    assert_eq!((steps.as_str(), out), ("HHCCCC", stream));
    assert!(reader.is_complete());
}

#[test]
fn what_is_told_of_usage_later_holds_and_null_takes_nothing_back() {
    let later = r#"{"type":"message_delta","delta":{},"usage":{"input_tokens":2682,"cache_read_input_tokens":null,"output_tokens":510}}"#;
    let usage = run(&named(&[START, later, r#"{"type":"message_delta","usage":null}"#, END])).1.usage().unwrap();
    assert_eq!((usage.input_tokens, usage.output_tokens), (2682 + 100, 510));
    assert_eq!(run(&named(&[BLOCK, HELLO])).1.usage(), None);
}

proptest! {
    #[test]
    fn any_events_are_read_without_a_panic(
        text in r#"(event: (error|ping|message_stop|content_block_delta)|data: |\{|\}|"type":|"error":|"usage":|"message":|"delta":|1|null|,|\n|\n\n|é)*"#
    ) {
        let (steps, _, out) = run(&text);
        prop_assert!(!out.is_empty() || !steps.contains(['H', 'C']));
    }

    #[test]
    fn fed_one_byte_at_a_time_a_stream_gives_the_same(cut in 1..64_usize) {
        let stream = named(&[START, BLOCK, PING, HELLO, STOP, DELTA, END]);
        let (mut parser, mut reader, mut out) = (SseParser::new(1 << 20), StreamReader::default(), BytesMut::new());
        for piece in stream.as_bytes().chunks(cut) {
            parser.push(Bytes::copy_from_slice(piece));
            while let Some(event) = parser.next() {
                reader.read(&event.unwrap(), &mut out);
            }
        }
        prop_assert_eq!(&out[..], stream.as_bytes());
        prop_assert!(reader.is_ended());
    }
}
