//! What each event of a stream means for the call: hold it, pass it on, drop it, or give up on the stream.
//!
//! The events themselves are never rewritten. Each is walked once, in place.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};

use super::chunk::{Choice, Chunk};
use super::read_usage;
use crate::messages::{Endpoint, Usage, json};
use crate::providers::dialect::{Events, Step};
use crate::providers::error_body::ErrorBody;
use crate::providers::object::walk;
use crate::providers::sse::Event;

/// Follows one stream from its first event to its end.
#[derive(Debug)]
pub(super) struct StreamReader {
    endpoint: Endpoint,
    strip_usage: bool,
    /// Content has been passed on.
    has_begun: bool,
    /// The upstream said that this was all: `[DONE]`, or a Responses event that ends the response.
    is_ended: bool,
    /// The choices seen, and whether each has its `finish_reason`.
    choices: BTreeMap<u64, bool>,
    usage: Option<Usage>,
}

/// Events that keep a connection busy. They have no place in these protocols, and clients take them for chunks.
const KEEP_ALIVES: [&str; 5] = ["ping", "keepalive", "keep-alive", "keep_alive", "heartbeat"];

/// Events that open a response or one of its parts before there is anything in it.
const OPENINGS: [&str; 5] = [
    "response.created",
    "response.in_progress",
    "response.queued",
    "response.output_item.added",
    "response.content_part.added",
];

impl StreamReader {
    /// A reader at the start of a stream. With `strip_usage` the chunk that carries nothing but usage is dropped, for
    /// a caller that did not ask for it.
    pub(super) fn new(endpoint: Endpoint, strip_usage: bool) -> Self {
        Self { endpoint, strip_usage, has_begun: false, is_ended: false, choices: BTreeMap::new(), usage: None }
    }

    fn step(&mut self, event: &Event) -> Step {
        let name = event.name();
        let data = event.data();
        let data = data.trim_ascii();
        if data.is_empty() && name != Some("error") {
            return Step::Drop;
        }
        let step = if data == b"[DONE]" {
            self.read_done()
        } else if self.endpoint == Endpoint::Responses {
            self.read_response(event, name, data)
        } else {
            self.read_chunk(event, name, data)
        };
        self.has_begun |= step == Step::Content;
        step
    }

    fn read_done(&mut self) -> Step {
        if self.endpoint == Endpoint::Responses {
            // Not of this protocol, so it completes nothing, but some servers end every stream with it.
            return self.opening();
        }
        self.is_ended = true;
        // With nothing before it, the upstream says that the answer is empty. That is for the caller to know.
        Step::Content
    }

    /// A chunk of a chat or of a completion.
    fn read_chunk(&mut self, event: &Event, name: Option<&str>, data: &[u8]) -> Step {
        if name.is_some_and(is_keep_alive) {
            return Step::Drop;
        }
        let (chunk, walk) = Chunk::read(data);
        if name == Some("error") || chunk.is_error() {
            return error(event, chunk.has_envelope());
        }
        // A named event that is no chunk is some server's own: clients of this protocol do not look at names.
        let is_foreign = name.is_some_and(|name| name != "message");
        match walk {
            Err(_) if is_foreign => return Step::Drop,
            Err(detail) => return Step::Malformed { detail },
            Ok(()) => {}
        }
        let usage = chunk.usage();
        self.usage = usage.or(self.usage);
        let Some(choices) = chunk.choices() else {
            return if is_foreign || chunk.is_bare() { Step::Drop } else { self.opening() };
        };
        if choices.is_empty() {
            return if self.strip_usage && usage.is_some() { Step::Drop } else { self.opening() };
        }
        let mut is_content = self.has_begun;
        for choice in choices {
            let choice = Choice::read(choice);
            // A finished choice stays finished: some servers send an empty delta behind its last.
            *self.choices.entry(choice.index).or_default() |= choice.is_finished;
            is_content = is_content || choice.is_finished || choice.has_content();
        }
        if is_content { Step::Content } else { Step::Hold }
    }

    /// An event of a response.
    fn read_response(&mut self, event: &Event, name: Option<&str>, data: &[u8]) -> Step {
        if name.is_some_and(is_keep_alive) {
            return Step::Drop;
        }
        let (mut kind, mut response, mut has_error, mut is_bare) = (None, None, false, true);
        let walk = walk(data, |key, value| {
            is_bare = false;
            match key {
                "type" => kind = json::string(value),
                "response" => response = Some(value),
                "error" => has_error = !json::is_null(value),
                _ => {}
            }
        });
        // An event called an error is one, whatever kind of error its data says it is.
        let kind = if name == Some("error") { name } else { kind.as_deref().or(name) };
        if let Err(detail) = walk
            && kind != Some("error")
        {
            return Step::Malformed { detail };
        }
        if let Some(response) = response {
            // A walk that fails has found no usage; the response has been walked over once, so it does not.
            let _ = json::each_field(response.get(), |key, value| {
                if key == "usage" {
                    self.usage = read_usage(value).or(self.usage);
                }
            });
        }
        match kind {
            Some(kind) if is_keep_alive(kind) => Step::Drop,
            Some("response.completed" | "response.incomplete") => {
                self.is_ended = true;
                Step::Content
            }
            // Behind content they are the protocol's own way to end, which clients know: passed on like the rest.
            // Before it nothing is lost yet, and the call may be tried again.
            Some("response.failed" | "error") => {
                self.is_ended = true;
                if self.has_begun { Step::Content } else { error(event, has_error) }
            }
            _ if has_error => error(event, true),
            Some(kind) if OPENINGS.contains(&kind) => self.opening(),
            Some(_) => Step::Content,
            None if is_bare => Step::Drop,
            None => self.opening(),
        }
    }

    /// What has no content opens the stream, or passes with the rest.
    fn opening(&self) -> Step {
        if self.has_begun { Step::Content } else { Step::Hold }
    }
}

impl Events for StreamReader {
    fn read(&mut self, event: &Event, out: &mut BytesMut) -> Step {
        self.step(event).passing_on(event, out)
    }

    /// Chats and completions: `[DONE]`, or every choice seen has its `finish_reason` (some servers send no `[DONE]`).
    /// Responses: the event that ends the response.
    fn is_complete(&self) -> bool {
        self.is_ended || (!self.choices.is_empty() && self.choices.values().all(|is_finished| *is_finished))
    }

    fn is_ended(&self) -> bool {
        self.is_ended
    }

    fn usage(&self) -> Option<Usage> {
        self.usage
    }
}

fn is_keep_alive(name: &str) -> bool {
    KEEP_ALIVES.iter().any(|one| name.eq_ignore_ascii_case(one))
}

/// An error event as a whole body.
fn error(event: &Event, has_envelope: bool) -> Step {
    let (body, status) = enveloped(event.data_bytes(), has_envelope);
    Step::Error { body, status }
}

/// An error as it came where it has an envelope, otherwise put into one; and the status that it says.
pub(super) fn enveloped(error: Bytes, has_envelope: bool) -> (Bytes, Option<u16>) {
    let read = ErrorBody::read(&error);
    let body = if has_envelope { error } else { read.to_envelope() };
    (body, read.status())
}

#[cfg(test)]
mod tests;
