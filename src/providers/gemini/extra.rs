//! `extra_content.google`: what Gemini says and OpenAI's protocol has no words for.

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;

use crate::providers::fields::{compact, raw};

/// Fields under `extra_content.google`, as they came but for white space: an event of a stream has one line.
#[derive(Debug, Default)]
pub(super) struct Extra<'a> {
    signature: Option<&'a RawValue>,
    parts: Vec<Box<RawValue>>,
    finish: Option<String>,
    fields: Vec<(String, Box<RawValue>)>,
}

impl<'a> Extra<'a> {
    /// With a signature of thoughts alone.
    pub(super) fn signed(signature: Option<&'a RawValue>) -> Self {
        Self { signature, ..Self::default() }
    }

    /// The last signature counts: it covers what came before.
    pub(super) fn sign(&mut self, signature: Option<&'a RawValue>) {
        self.signature = signature.or(self.signature);
    }

    /// A part that is no text.
    pub(super) fn part(&mut self, part: &RawValue) {
        self.parts.push(in_one_line(part));
    }

    /// Gemini's own word for how it ended.
    pub(super) fn finish(&mut self, word: &str) {
        self.finish = Some(word.to_owned());
    }

    /// A field of the candidate.
    pub(super) fn add(&mut self, name: String, value: &RawValue) {
        self.fields.push((name, in_one_line(value)));
    }

    /// Nothing where there is nothing in it: for a field that is then left out.
    pub(super) fn some(self) -> Option<Self> {
        let is_empty =
            self.signature.is_none() && self.parts.is_empty() && self.finish.is_none() && self.fields.is_empty();
        (!is_empty).then_some(self)
    }
}

fn in_one_line(value: &RawValue) -> Box<RawValue> {
    raw(compact(value.get()))
}

impl Serialize for Extra<'_> {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        struct Google<'a, 'b>(&'b Extra<'a>);
        impl Serialize for Google<'_, '_> {
            fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
                let mut map = out.serialize_map(None)?;
                if let Some(signature) = self.0.signature {
                    map.serialize_entry("thought_signature", signature)?;
                }
                if !self.0.parts.is_empty() {
                    map.serialize_entry("parts", &self.0.parts)?;
                }
                if let Some(finish) = &self.0.finish {
                    map.serialize_entry("finish_reason", finish)?;
                }
                for (name, value) in &self.0.fields {
                    map.serialize_entry(name, value)?;
                }
                map.end()
            }
        }
        let mut map = out.serialize_map(Some(1))?;
        map.serialize_entry("google", &Google(self))?;
        map.end()
    }
}
