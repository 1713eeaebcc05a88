//! The golden files: what the provider documents, and what becomes of it.

use std::path::{Path, PathBuf};

use bytes::BytesMut;
use serde_json::Value;

use super::*;
use crate::providers::dialect::Step;
use crate::providers::sse::SseParser;

/// Every file of `folder` that ends in `upstream` beside the one that ends in `ours`, as (name, its text, the other's).
fn pairs(folder: &str, one: &str, other: &str) -> Vec<(String, String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/anthropic").join(folder);
    let read = |path: PathBuf| std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    let mut pairs = Vec::new();
    for entry in std::fs::read_dir(&folder).expect("a folder") {
        let name = entry.expect("a file").file_name().into_string().expect("a name in UTF-8");
        if let Some(stem) = name.strip_suffix(one).filter(|stem| !stem.contains('.')) {
            pairs.push((stem.to_owned(), read(folder.join(&name)), read(folder.join(format!("{stem}{other}")))));
        }
    }
    assert!(pairs.len() >= 4, "the golden files are there");
    pairs
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

#[test]
fn answers_become_completions() {
    for (name, theirs, ours) in pairs("answers", ".json", ".openai.json") {
        let (body, usage) = answers().whole(theirs.into()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let got: Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(got, json(&ours), "{name}");
        let told = usage.expect("usage is told");
        assert_eq!(got["usage"]["total_tokens"], told.total_tokens, "{name}");
        assert_eq!(got["usage"]["prompt_tokens_details"]["cached_tokens"], told.cached_input_tokens, "{name}");
    }
}

/// The data of each event in a stream that came in pieces of `size` bytes, as JSON where it is JSON.
pub(super) fn translated(stream: &str, size: usize, reader: &mut dyn Events) -> Vec<Value> {
    let (mut parser, mut out) = (SseParser::new(1 << 20), BytesMut::new());
    for piece in stream.as_bytes().chunks(size) {
        parser.push(Bytes::copy_from_slice(piece));
        while let Some(event) = parser.next() {
            let before = out.len();
            let step = reader.read(&event.expect("no event is too large"), &mut out);
            assert!(matches!(step, Step::Hold | Step::Content | Step::Drop), "{step:?}");
            assert_eq!(out.len() > before, step != Step::Drop, "{step:?}");
        }
    }
    let text = String::from_utf8(out.to_vec()).expect("UTF-8");
    text.split_terminator("\n\n").map(event).collect()
}

fn event(text: &str) -> Value {
    let data = text.strip_prefix("data: ").expect("an event of one line of data");
    if data == "[DONE]" { Value::from(data) } else { json(data) }
}

#[test]
fn streams_become_chunks_one_for_each_piece_however_they_are_torn() {
    for (name, theirs, ours) in pairs("streams", ".sse", ".openai.sse") {
        let expected: Vec<Value> = ours.split_terminator("\n\n").map(event).collect();
        for size in [1, 7, 4_096] {
            let mut reader = answers().events();
            assert_eq!(translated(&theirs, size, &mut *reader), expected, "{name}");
            assert!(reader.is_complete() && reader.is_ended(), "{name}");
            let usage = &expected[expected.len() - 2]["usage"];
            assert_eq!(usage["total_tokens"], reader.usage().expect("usage is told").total_tokens, "{name}");
        }
    }
}

#[test]
fn usage_is_no_chunk_to_a_caller_who_did_not_ask() {
    for (name, theirs, ours) in pairs("streams", ".sse", ".openai.sse") {
        let quiet = Translated { tells_usage: false, ..answers() };
        let mut reader = quiet.events();
        let got = translated(&theirs, 4_096, &mut *reader);
        let mut expected: Vec<Value> = ours.split_terminator("\n\n").map(event).collect();
        expected.remove(expected.len() - 2);
        for chunk in expected.iter_mut().filter_map(Value::as_object_mut) {
            chunk.remove("usage");
        }
        assert_eq!(got, expected, "{name}");
        assert!(reader.usage().is_some(), "{name}: it is known all the same");
    }
}

#[test]
fn requests_become_the_apis_own() {
    for (name, ours, theirs) in pairs("requests", ".json", ".anthropic.json") {
        let got = sent(&request(ours)).unwrap_or_else(|field| panic!("{name}: {field}"));
        assert_eq!(got, json(&theirs), "{name}");
    }
}
