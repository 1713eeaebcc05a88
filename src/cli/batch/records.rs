//! What a line of OUT or OUT.partial says of the line of IN that it answers.

use std::io::{self, BufRead};

use crate::messages::json;
use crate::providers::batch_line::number_of_id;

use super::plan;

/// A line of output, as far as a rerun needs to know it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Record {
    /// The number in its `id`: what was asked.
    pub(super) id: u128,
    /// Its `custom_id`.
    pub(super) name: Option<u128>,
    /// Whether it is an answer and no error.
    pub(super) is_answer: bool,
}

impl Record {
    /// Reads a line, its end taken off; `None` when it is none that this command writes.
    pub(super) fn read(line: &[u8]) -> Option<Self> {
        let (mut id, mut name, mut has_response, mut error) = (None, None, false, None);
        json::each_field(std::str::from_utf8(line).ok()?, |key, value| match key {
            "id" => id = json::string(value).and_then(|id| number_of_id(&id)),
            "custom_id" => name = json::string(value).map(|custom_id| plan::name(&custom_id)),
            "response" => has_response = json::is_object(value),
            "error" => error = Some(!json::is_null(value)),
            _ => {}
        })
        .ok()?;
        Some(Self { id: id?, name, is_answer: has_response && !error? })
    }
}

/// A line of a file: where it stands, and what it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    pub(super) at: u64,
    /// Without its end.
    pub(super) len: u64,
}

/// Reads a file's lines from `source`; `seen` gets the place of each and the line without its end, and whether it has one.
pub(super) fn each_line(mut source: impl BufRead, mut seen: impl FnMut(Place, &[u8], bool)) -> io::Result<()> {
    let (mut at, mut line) = (0, Vec::new());
    loop {
        line.clear();
        let read = source.read_until(b'\n', &mut line)? as u64;
        if read == 0 {
            return Ok(());
        }
        let has_end = line.ends_with(b"\n");
        let text = &line[..line.len() - usize::from(has_end)];
        seen(Place { at, len: text.len() as u64 }, text, has_end);
        at += read;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_an_answer_an_error_or_none_of_ours() {
        let read = |rest: &str| {
            let line = format!(r#"{{"id":"batch_req_000000000000000000000000000000ff","custom_id":"a",{rest}}}"#);
            Record::read(line.as_bytes())
        };
        let name = Some(plan::name("a"));
        let of = |is_answer| Some(Record { id: 255, name, is_answer });
        assert_eq!(read(r#""response":{"body":1},"error":null"#), of(true));
        assert_eq!(read(r#""response":{"body":1},"error":{"code":"x"}"#), of(false));
        assert_eq!(read(r#""response":null,"error":{"code":"x"}"#), of(false));
        assert_eq!(read(r#""response":{}"#), None);
        for line in ["", "x", "[]", r#"{"id":"batch_req_67abc","error":null}"#, r#"{"custom_id":"a","error":null}"#] {
            assert_eq!(Record::read(line.as_bytes()), None, "{line}");
        }
        assert_eq!(Record::read(b"\0\0\0"), None);
    }

    #[test]
    fn every_line_has_its_place() {
        let mut found = Vec::new();
        each_line(&b"ab\n\nc"[..], |place, text, has_end| found.push((place.at, place.len, text.to_vec(), has_end)))
            .unwrap();
        assert_eq!(found, [(0, 2, b"ab".to_vec(), true), (3, 0, vec![], true), (4, 1, b"c".to_vec(), false)]);
    }
}
