//! One chunk of a streamed chat or completion, read in place.

use serde_json::value::RawValue;

use super::read_usage;
use crate::messages::{Usage, json};
use crate::providers::object::{is_blank, walk};

/// The fields of a chunk that matter.
#[derive(Default)]
pub(crate) struct Chunk<'a> {
    choices: Option<&'a RawValue>,
    usage: Option<&'a RawValue>,
    has_envelope: bool,
    /// The flat form of older servers: `"object":"error"`.
    is_flat_error: bool,
    has_fields: bool,
}

impl<'a> Chunk<'a> {
    /// What was found, and whether the data is one JSON object at all.
    pub(crate) fn read(data: &'a [u8]) -> (Self, Result<(), String>) {
        let mut chunk = Self::default();
        let walk = walk(data, |key, value| {
            chunk.has_fields = true;
            match key {
                "choices" => chunk.choices = Some(value),
                "usage" => chunk.usage = Some(value),
                "error" => chunk.has_envelope = !json::is_null(value),
                "object" => chunk.is_flat_error = value.get() == "\"error\"",
                _ => {}
            }
        });
        (chunk, walk)
    }

    /// Whether it reports an error.
    pub(crate) fn is_error(&self) -> bool {
        self.has_envelope || self.is_flat_error
    }

    /// Whether it has an `error` of its own.
    pub(crate) fn has_envelope(&self) -> bool {
        self.has_envelope
    }

    /// Whether it is `{}`.
    pub(crate) fn is_bare(&self) -> bool {
        !self.has_fields
    }

    /// What it says about usage.
    pub(crate) fn usage(&self) -> Option<Usage> {
        self.usage.and_then(read_usage)
    }

    /// Its choices; `None` when it has no array of them.
    pub(crate) fn choices(&self) -> Option<Vec<&'a RawValue>> {
        self.choices.and_then(|choices| serde_json::from_str(choices.get()).ok())
    }
}

/// One choice of a chunk.
pub(crate) struct Choice<'a> {
    pub(crate) index: u64,
    /// Its `finish_reason` says something.
    pub(crate) is_finished: bool,
    /// A chat's.
    delta: Option<&'a RawValue>,
    /// A completion's.
    text: Option<&'a RawValue>,
}

impl<'a> Choice<'a> {
    /// Reads `choice`; one that is no object is the first, with nothing in it.
    pub(crate) fn read(choice: &'a RawValue) -> Self {
        let mut found = Self { index: 0, is_finished: false, delta: None, text: None };
        // Part of what has been walked over as a whole: only its being no object can fail, and then nothing is found.
        let _ = json::each_field(choice.get(), |key, value| match key {
            "index" => found.index = json::count(value).unwrap_or(0),
            "finish_reason" => found.is_finished = !is_blank(value),
            "delta" | "message" => found.delta = Some(value),
            "text" => found.text = Some(value),
            _ => {}
        });
        found
    }

    /// Whether anything is told: any field of the delta but the role, known or not (reasoning has many names).
    pub(crate) fn has_content(&self) -> bool {
        let mut has_content = self.text.is_some_and(|text| !is_blank(text));
        if let Some(delta) = self.delta {
            let _ = json::each_field(delta.get(), |key, value| has_content |= key != "role" && !is_blank(value));
        }
        has_content
    }
}
