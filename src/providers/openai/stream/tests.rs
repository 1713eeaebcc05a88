use proptest::prelude::*;

use super::*;
use crate::providers::sse::SseParser;

fn events(stream: &str) -> Vec<Event> {
    let mut parser = SseParser::new(1 << 20);
    parser.push(Bytes::copy_from_slice(stream.as_bytes()));
    std::iter::from_fn(|| parser.next()).map(|event| event.unwrap()).collect()
}

/// One letter a step: Hold, Content, Drop, Error, Malformed.
fn letter(step: &Step) -> char {
    match step {
        Step::Hold => 'H',
        Step::Content => 'C',
        Step::Drop => 'D',
        Step::Error { .. } => 'E',
        Step::Malformed { .. } => 'M',
    }
}

fn run(endpoint: Endpoint, strip_usage: bool, stream: &str) -> (String, StreamReader) {
    let mut reader = StreamReader::new(endpoint, strip_usage);
    let steps = events(stream).iter().map(|event| letter(&reader.step(event))).collect();
    (steps, reader)
}

fn chat(data: &[&str]) -> (String, StreamReader) {
    run(Endpoint::ChatCompletions, true, &data.iter().map(|data| format!("data: {data}\n\n")).collect::<String>())
}

const ROLE: &str = r#"{"id":"c","choices":[{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"finish_reason":null}],"usage":null}"#;
const HELLO: &str = r#"{"id":"c","choices":[{"index":0,"delta":{"content":"hello"},"finish_reason":null}]}"#;
const STOP: &str = r#"{"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
const USAGE: &str = r#"{"id":"c","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}}"#;

#[test]
fn a_chat_is_held_until_its_content_and_its_usage_kept_back() {
    let (steps, reader) = chat(&[ROLE, HELLO, STOP, USAGE, "[DONE]"]);
    assert_eq!(steps, "HCCDC");
    assert!(reader.is_complete());
    assert_eq!(reader.usage().unwrap().total_tokens, 7);
}

#[test]
fn usage_that_the_caller_asked_for_is_passed_on() {
    let stream = format!("data: {HELLO}\n\ndata: {USAGE}\n\n");
    let (steps, reader) = run(Endpoint::ChatCompletions, false, &stream);
    assert_eq!(steps, "CC");
    assert_eq!(reader.usage().unwrap().input_tokens, 5);
}

#[test]
fn usage_in_a_chunk_with_choices_is_read_and_the_chunk_passed_on() {
    let chunk = r#"{"choices":[{"index":0,"delta":{"content":"a"}}],"usage":{"prompt_tokens":1}}"#;
    let (steps, reader) = chat(&[chunk]);
    assert_eq!((steps.as_str(), reader.usage().unwrap().input_tokens), ("C", 1));
}

#[test]
fn whatever_a_delta_tells_is_content_but_a_role_is_not() {
    for (delta, expected) in [
        (r#"{"role":"assistant"}"#, "H"),
        (r#"{"role":"assistant","content":null,"reasoning_content":"","tool_calls":[]}"#, "H"),
        ("{}", "H"),
        ("null", "H"),
        (r#"{"content":" "}"#, "C"),
        (r#"{"content":"\u0061"}"#, "C"),
        (r#"{"content":"\ud83d"}"#, "C"),
        (r#"{"reasoning_content":"hm"}"#, "C"),
        (r#"{"tool_calls":[{"index":0,"id":"call_1","function":{"name":"f","arguments":""}}]}"#, "C"),
        (r#"{"refusal":"no"}"#, "C"),
    ] {
        let (steps, _) = chat(&[&format!(r#"{{"choices":[{{"index":0,"delta":{delta}}}]}}"#)]);
        assert_eq!(steps, expected, "{delta}");
    }
    assert_eq!(
        run(
            Endpoint::Completions,
            true,
            "data: {\"choices\":[{\"text\":\"\"}]}\n\ndata: {\"choices\":[{\"text\":\"a\"}]}\n\n"
        )
        .0,
        "HC"
    );
}

#[test]
fn openings_pass_once_content_has_begun() {
    assert_eq!(
        chat(&[r#"{"choices":[],"prompt_filter_results":[]}"#, ROLE, HELLO, ROLE, r#"{"choices":[]}"#, r#"{"x":1}"#]).0,
        "HHCCCC"
    );
}

#[test]
fn what_clients_break_on_is_dropped() {
    let stream = format!(
        ": comment\n\nevent: ping\ndata: {{}}\n\nevent: keepalive\ndata: now\n\ndata:\n\ndata: \n\ndata: {{}}\n\nevent: x-stats\ndata: {{\"a\":1}}\n\nevent: x-stats\ndata: text\n\nevent: message\ndata: {HELLO}\n\n"
    );
    assert_eq!(run(Endpoint::ChatCompletions, true, &stream).0, "DDDDDDDDC");
}

#[test]
fn a_chat_is_complete_when_every_choice_seen_is_finished_or_done_is_said() {
    let second = HELLO.replace("\"index\":0", "\"index\":1");
    let second_stop = STOP.replace("\"index\":0", "\"index\":1");
    for (data, expected) in [
        (vec![], false),
        (vec![ROLE], false),
        (vec![HELLO], false),
        (vec![HELLO, USAGE], false),
        (vec![HELLO, STOP], true),
        (vec![HELLO, &second, STOP], false),
        (vec![HELLO, &second, STOP, &second_stop], true),
        (vec![HELLO, STOP, ROLE], true),
        (vec![HELLO, "[DONE]"], true),
        (vec!["[DONE]"], true),
        (vec![r#"{"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":""}]}"#], false),
    ] {
        assert_eq!(chat(&data).1.is_complete(), expected, "{data:?}");
    }
}

#[test]
fn a_finish_without_content_is_passed_on() {
    assert_eq!(chat(&[ROLE, STOP, "[DONE]"]).0, "HCC");
}

#[test]
fn errors_are_told_with_their_status_in_every_form() {
    for (stream, expected) in [
        (r#"data: {"error":{"message":"x","type":"server_error","code":null}}"#, Some(500)),
        (r#"data: {"error":{"message":"x","code":429}}"#, Some(429)),
        (r#"data: {"error":"boom"}"#, None),
        ("event: error\ndata: {\"error\":{\"type\":\"overloaded_error\"}}", Some(529)),
        ("event: error\ndata: {\"message\":\"x\",\"code\":\"rate_limit_exceeded\"}", Some(429)),
        ("event: error\ndata: boom", None),
        ("event: error\ndata:", None),
        (r#"data: {"object":"error","message":"x","type":"BadRequestError","code":400}"#, Some(400)),
    ] {
        let mut reader = StreamReader::new(Endpoint::ChatCompletions, true);
        let step = reader.step(&events(&format!("{stream}\n\n"))[0]);
        let Step::Error { body, status } = step else { panic!("{step:?} for {stream}") };
        assert_eq!(status, expected, "{stream}");
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert!(body.get("error").is_some(), "{body}");
        assert!(!reader.is_complete());
    }
    assert_eq!(chat(&[r#"{"error":null,"choices":[{"delta":{"content":"a"}}]}"#]).0, "C");
    assert_eq!(chat(&[HELLO, r#"{"error":{"message":"x"}}"#]).0, "CE", "a chat that breaks later is no success");
}

#[test]
fn an_error_with_an_envelope_is_shared_as_it_came() {
    let event = &events("data: {\"error\":{\"code\":1.0}}\n\n")[0];
    let Step::Error { body, .. } = StreamReader::new(Endpoint::ChatCompletions, true).step(event) else { panic!() };
    assert_eq!(body.as_ptr(), event.raw()[6..].as_ptr());
}

#[test]
fn what_is_not_json_is_malformed_and_not_repeated() {
    for data in ["private", "{\"choices\":[{\"delta\":{\"content\":\"private", "[\"private\"]", "\"private\"", "1"] {
        for stream in [format!("data: {data}\n\n"), format!("data: {HELLO}\n\ndata: {data}\n\n")] {
            let mut reader = StreamReader::new(Endpoint::ChatCompletions, true);
            let step = events(&stream).iter().map(|event| reader.step(event)).last().unwrap();
            let Step::Malformed { detail } = step else { panic!("{step:?} for {stream}") };
            assert!(!detail.contains("private"), "{detail}");
        }
    }
}

/// A Responses stream of events given by type and the fields behind it.
fn response(events: &[(&str, &str)]) -> (String, StreamReader) {
    let one = |(kind, more): &(&str, &str)| format!("event: {kind}\ndata: {{\"type\":\"{kind}\"{more}}}\n\n");
    run(Endpoint::Responses, true, &events.iter().map(one).collect::<String>())
}

const TEXT: (&str, &str) = ("response.output_text.delta", r#","delta":"a""#);

#[test]
fn a_response_is_held_until_its_content_and_complete_at_its_end() {
    let done = (
        "response.completed",
        r#","response":{"error":null,"usage":{"input_tokens":3,"output_tokens":4,"total_tokens":7}}"#,
    );
    let opening = ("response.created", r#","response":{"usage":null,"error":null}"#);
    let (steps, reader) = response(&[
        opening,
        ("response.in_progress", ""),
        ("response.output_item.added", ""),
        ("keepalive", ""),
        TEXT,
        done,
    ]);
    assert_eq!(steps, "HHHDCC");
    assert!(reader.is_complete());
    assert_eq!(reader.usage().unwrap().output_tokens, 4);
    assert!(!response(&[opening, TEXT]).1.is_complete());
    assert!(response(&[TEXT, ("response.incomplete", "")]).1.is_complete());
}

#[test]
fn a_response_that_fails_before_content_is_an_error_and_behind_it_the_callers() {
    let failed =
        ("response.failed", r#","response":{"status":"failed","error":{"code":"server_error","message":"sorry"}}"#);
    let flat = ("error", r#","code":"rate_limit_exceeded","message":"slow","param":null"#);
    for (event, status, message) in [(failed, 500, "sorry"), (flat, 429, "slow")] {
        let mut reader = StreamReader::new(Endpoint::Responses, false);
        let step = reader.step(&events(&format!("data: {{\"type\":\"{}\"{}}}\n\n", event.0, event.1))[0]);
        let Step::Error { body, status: found } = step else { panic!("{step:?}") };
        assert_eq!(found, Some(status));
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["error"]["message"], message);
        assert_eq!(body["error"]["type"], "upstream_error");
        let (steps, reader) = response(&[("response.created", ""), TEXT, event]);
        assert_eq!(steps, "HCC");
        assert!(reader.is_complete());
    }
}

#[test]
fn done_does_not_complete_a_response() {
    let (steps, reader) = run(Endpoint::Responses, true, "data: [DONE]\n\n");
    assert_eq!(steps, "H");
    assert!(!reader.is_complete());
}

#[test]
fn a_response_may_name_its_events_in_either_place() {
    let stream = "event: response.created\ndata: {}\n\nevent: response.x\ndata: {\"a\":1}\n\nevent: response.completed\ndata: {}\n\n";
    let (steps, reader) = run(Endpoint::Responses, true, stream);
    assert_eq!(steps, "HCC");
    assert!(reader.is_complete());
    let error = "event: error\ndata: {\"type\":\"server_error\"}\n\n";
    assert_eq!(run(Endpoint::Responses, true, error).0, "E");
    assert_eq!(run(Endpoint::Responses, true, "data: {}\n\ndata: {\"a\":1}\n\ndata: x\n\n").0, "DHM");
}

proptest! {
    #[test]
    fn any_event_is_read_without_a_panic(bytes: Vec<u8>, text in r#"(event: error\n|event: a\n|data: |\{|\}|\[|\]|"choices":|"delta":|"error":|"usage":|"type":|1|"a"|,|null|\n)*"#) {
        for endpoint in Endpoint::ALL {
            let mut parser = SseParser::new(1 << 20);
            parser.push(Bytes::from(bytes.clone()));
            parser.push(Bytes::from(text.clone() + "\n\n"));
            let mut reader = StreamReader::new(endpoint, true);
            while let Some(Ok(event)) = parser.next() {
                reader.step(&event);
            }
            let _ = (reader.is_complete(), reader.usage());
        }
    }
}
