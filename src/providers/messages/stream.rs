//! What each event of a streamed message means for the call: hold it, pass it on, drop it, or give up on the stream.
//!
//! The events themselves are never rewritten. Each is walked once, in place, and what is new in one passes.

use std::borrow::Cow;

use bytes::BytesMut;
use serde_json::value::RawValue;

use super::enveloped;
use crate::messages::{Usage, json};
use crate::providers::anthropic::usage::Counts;
use crate::providers::dialect::{Events, Step};
use crate::providers::object::{is_blank, walk};
use crate::providers::sse::Event;

/// Follows one stream from its first event to its end.
#[derive(Debug, Default)]
pub(super) struct StreamReader {
    /// Content has been passed on.
    has_begun: bool,
    /// `message_stop` has come.
    is_ended: bool,
    counted: Counts,
}

/// The protocol's own events: one of these that is no JSON object was broken on the way. Any other name that is none is
/// some proxy's, and no client knows it.
const OWN: [&str; 6] = [
    "message_start",
    "content_block_start",
    "content_block_delta",
    "content_block_stop",
    "message_delta",
    "message_stop",
];

/// The fields of a block that hold content from its start on. A tool's name and an id alone tell nothing yet.
const CONTENTS: [&str; 5] = ["text", "thinking", "data", "content", "input"];

/// The fields of an event that matter.
#[derive(Default)]
struct Fields<'a> {
    kind: Option<Cow<'a, str>>,
    has_error: bool,
    message: Option<&'a RawValue>,
    block: Option<&'a RawValue>,
    delta: Option<&'a RawValue>,
    usage: Option<&'a RawValue>,
}

impl<'a> Fields<'a> {
    fn read(data: &'a [u8]) -> (Self, Result<(), String>) {
        let mut found = Self::default();
        let walk = walk(data, |key, value| match key {
            "type" => found.kind = json::string(value),
            "error" => found.has_error = !json::is_null(value),
            "message" => found.message = Some(value),
            "content_block" => found.block = Some(value),
            "delta" => found.delta = Some(value),
            "usage" => found.usage = Some(value),
            _ => {}
        });
        (found, walk)
    }

    /// What it tells of usage, at its top or within the message that it opens.
    fn count(&self, counted: &mut Counts) {
        let _ = self.message.map(|message| {
            json::each_field(message.get(), |key, value| {
                if key == "usage" {
                    counted.read(value);
                }
            })
        });
        if let Some(usage) = self.usage {
            counted.read(usage);
        }
    }
}

impl StreamReader {
    fn step(&mut self, event: &Event) -> Step {
        let name = event.name();
        let data = event.data();
        let data = data.trim_ascii();
        if data.is_empty() && name != Some("error") {
            return Step::Drop;
        }
        let (fields, walk) = Fields::read(data);
        // Clients go by the name or by the type, and both are the same; some servers leave the name out.
        let kind = fields.kind.as_deref().or(name).unwrap_or_default();
        if name == Some("error") || kind == "error" || (fields.has_error && !OWN.contains(&kind)) {
            let (body, status) = enveloped(event.data_bytes());
            return Step::Error { body, status };
        }
        match walk {
            // `[DONE]` among them, with which some servers end every stream.
            Err(_) if !OWN.contains(&kind) => return Step::Drop,
            Err(detail) => return Step::Malformed { detail },
            Ok(()) if fields.kind.is_none() && !OWN.contains(&kind) && kind != "ping" => return Step::Drop,
            Ok(()) => {}
        }
        fields.count(&mut self.counted);
        self.is_ended |= kind == "message_stop";
        let is_content = match kind {
            "message_start" | "ping" => false,
            "content_block_start" => fields.block.is_some_and(|block| has_any(block, |key| CONTENTS.contains(&key))),
            "content_block_delta" => fields.delta.is_some_and(|delta| has_any(delta, |key| key != "type")),
            // The end of a block or of the message, and whatever Anthropic may add.
            _ => true,
        };
        self.has_begun |= is_content;
        if self.has_begun { Step::Content } else { Step::Hold }
    }
}

/// Whether a field of `object` that `counts` tells anything.
fn has_any(object: &RawValue, counts: impl Fn(&str) -> bool) -> bool {
    let mut has_any = false;
    // Part of what has been walked over as a whole: only its being no object can fail, and then nothing is found.
    let _ = json::each_field(object.get(), |key, value| has_any |= counts(key) && !is_blank(value));
    has_any
}

impl Events for StreamReader {
    fn read(&mut self, event: &Event, out: &mut BytesMut) -> Step {
        self.step(event).passing_on(event, out)
    }

    fn is_complete(&self) -> bool {
        self.is_ended
    }

    fn is_ended(&self) -> bool {
        self.is_ended
    }

    fn usage(&self) -> Option<Usage> {
        self.counted.usage()
    }
}

#[cfg(test)]
mod tests;
