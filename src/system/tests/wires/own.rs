//! The answer a caller is owed, which proves whose it is: it repeats the caller's word.

use crate::pool::transport::tests::peer::Asked;

/// An answer in two halves, to be cut between them or put into any framing.
pub(super) struct Own {
    kind: &'static str,
    /// Half of a whole answer; of a stream all up to its first content.
    pub(super) first: String,
    pub(super) rest: String,
}

impl Own {
    /// What is owed to `word`.
    pub(super) fn new(word: &str, is_stream: bool) -> Self {
        if !is_stream {
            return Self { kind: "application/json", first: "{\"said\":".into(), rest: format!("\"{word}\"}}") };
        }
        let event = |delta| format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{{delta}}}}}]}}\n\n");
        let first = event("\"role\":\"assistant\"".to_owned()) + &event(format!("\"content\":\"{word}\""));
        Self { kind: "text/event-stream", first, rest: event("\"content\":\" end\"".into()) + "data: [DONE]\n\n" }
    }

    /// What is owed to whoever asked so. Where the body was read it must say the same word as the head: anything else is
    /// two requests mixed up.
    pub(super) fn to(asked: &Asked) -> Self {
        let said = |name| asked.head.lines().find_map(|line| line.strip_prefix(name));
        let word = said("openai-word: ").expect("every caller says its word");
        let body = String::from_utf8_lossy(&asked.body);
        assert!(body.is_empty() || body.contains(&format!("\"{word}\"")), "{word} in the head of {body}");
        Self::new(word, said("openai-stream: ").is_some())
    }

    /// The body.
    pub(super) fn body(&self) -> String {
        format!("{}{}", self.first, self.rest)
    }

    /// A head of `status` with these lines, its type among them.
    pub(super) fn head(&self, status: &str, lines: &[&str]) -> String {
        let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
        format!("{status}\r\ncontent-type: {}\r\n{lines}\r\n", self.kind)
    }

    /// The whole answer, with its length.
    pub(super) fn sized(&self) -> String {
        self.sized_by(&[])
    }

    /// The same, with these lines in its head.
    pub(super) fn sized_by(&self, lines: &[&str]) -> String {
        let length = format!("content-length: {}", self.body().len());
        self.head("HTTP/1.1 200 OK", &[&[length.as_str()], lines].concat()) + &self.body()
    }

    /// Its head and first half, with the length of both.
    pub(super) fn half_sized(&self) -> String {
        let whole = self.sized();
        whole[..whole.len() - self.rest.len()].to_owned()
    }

    /// The whole answer in two chunks.
    pub(super) fn chunked(&self) -> String {
        format!("{}{}0\r\n\r\n", self.half_chunked(), chunk(&self.rest))
    }

    /// Its head and first chunk.
    pub(super) fn half_chunked(&self) -> String {
        self.head("HTTP/1.1 200 OK", &["transfer-encoding: chunked"]) + &chunk(&self.first)
    }

    /// Its head and, of a stream, what comes before any content.
    pub(super) fn opening(&self) -> String {
        let opening = self.first.split_inclusive("\n\n").next().unwrap_or_default();
        self.head("HTTP/1.1 200 OK", &["transfer-encoding: chunked"]) + &chunk(opening)
    }
}

/// `data` as a chunk.
pub(super) fn chunk(data: &str) -> String {
    format!("{:x}\r\n{data}\r\n", data.len())
}
