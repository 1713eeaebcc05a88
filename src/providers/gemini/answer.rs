//! An answer of Gemini's, or an event of a stream, which has the same form: read in place, without a judgement.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::extra::Extra;
use super::fields::{Fields, is_blank, is_string, items};
use super::finish::Finish;
use crate::messages::json;

/// What was said.
#[derive(Debug)]
pub(super) struct Answer<'a> {
    /// `responseId`, a string.
    pub(super) id: Option<&'a RawValue>,
    /// `modelVersion`, a string.
    pub(super) model: Option<&'a RawValue>,
    pub(super) candidates: Vec<Candidate<'a>>,
    /// Why the prompt was turned down, and the sentence that came along.
    pub(super) block: Option<(Cow<'a, str>, Option<Cow<'a, str>>)>,
    pub(super) usage: Option<&'a RawValue>,
}

/// One of the answers that were asked for.
#[derive(Debug)]
pub(super) struct Candidate<'a> {
    pub(super) index: u64,
    pub(super) parts: Vec<Part<'a>>,
    /// `None` while there is more to come.
    pub(super) finish: Option<Finish<'a>>,
    pub(super) logprobs: Option<&'a RawValue>,
    /// What else is said of it.
    pub(super) extra: Extra<'a>,
}

/// One piece of an answer.
#[derive(Debug)]
pub(super) struct Part<'a> {
    pub(super) said: Said<'a>,
    /// What the model wants to see again along with it.
    pub(super) signature: Option<&'a RawValue>,
}

#[derive(Debug)]
pub(super) enum Said<'a> {
    /// A string.
    Text(&'a RawValue),
    /// A string, of the model's own thoughts.
    Thought(&'a RawValue),
    Call(Call<'a>),
    /// Something of another kind: the part as it came.
    Other(&'a RawValue),
}

/// A function that the model calls.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) id: Option<&'a RawValue>,
    pub(super) name: Option<&'a RawValue>,
    pub(super) args: Option<&'a RawValue>,
}

/// Of a candidate: what is translated, or counted elsewhere, or says nothing to act upon.
const KNOWN: [&str; 7] =
    ["content", "finishReason", "index", "logprobsResult", "avgLogprobs", "safetyRatings", "tokenCount"];

impl<'a> Answer<'a> {
    /// What the object `fields` says.
    pub(super) fn of(fields: &Fields<'a>) -> Self {
        let string = |name| fields.get(name).filter(|value| is_string(value) && !is_blank(value));
        let list = fields.get("candidates").and_then(items).unwrap_or_default();
        let list: Vec<_> = list.into_iter().filter_map(Fields::of).collect();
        // The first index is not written, as protobuf's JSON leaves out zeros; a server that writes none counts by place.
        let is_numbered = list.iter().any(|candidate| candidate.get("index").is_some());
        let place = |n: usize| if is_numbered { 0 } else { u64::try_from(n).unwrap_or(u64::MAX) };
        let candidates = list.iter().enumerate().map(|(n, candidate)| Candidate::of(candidate, place(n))).collect();
        let feedback = Fields::of_any(fields.get("promptFeedback"));
        let word = |name| feedback.get(name).and_then(json::string).filter(|word| !word.is_empty());
        Self {
            id: string("responseId"),
            model: string("modelVersion"),
            candidates,
            block: word("blockReason").map(|reason| (reason, word("blockReasonMessage"))),
            usage: fields.get("usageMetadata"),
        }
    }
}

impl<'a> Candidate<'a> {
    fn of(fields: &Fields<'a>, place: u64) -> Self {
        let content = Fields::of_any(fields.get("content"));
        let parts = content.get("parts").and_then(items).unwrap_or_default();
        let mut extra = Extra::default();
        for (name, value) in fields.iter().filter(|(name, value)| !KNOWN.contains(name) && !is_blank(value)) {
            extra.add(name, value);
        }
        Self {
            index: fields.get("index").and_then(json::count).unwrap_or(place),
            parts: parts.into_iter().flat_map(Part::of).collect(),
            finish: fields.get("finishReason").and_then(Finish::read),
            logprobs: fields.get("logprobsResult"),
            extra,
        }
    }
}

impl<'a> Part<'a> {
    /// What a part says: one thing by Gemini's rule; whoever breaks it is still heard.
    fn of(raw: &'a RawValue) -> Vec<Self> {
        let Some(fields) = Fields::of(raw) else { return Vec::new() };
        let signature = fields.get("thoughtSignature").filter(|value| is_string(value) && !is_blank(value));
        let is_thought = fields.get("thought").is_some_and(|value| value.get() == "true");
        let mut said = Vec::new();
        if let Some(text) = fields.get("text").filter(|text| is_string(text)) {
            said.push(if is_thought { Said::Thought(text) } else { Said::Text(text) });
        }
        if let Some(call) = fields.get("functionCall").and_then(Fields::of) {
            let string = |name| call.get(name).filter(|value| is_string(value) && !is_blank(value));
            said.push(Said::Call(Call { id: string("id"), name: string("name"), args: call.get("args") }));
        }
        let is_more = |(name, value): (&str, &RawValue)| {
            !matches!(name, "text" | "functionCall" | "thought" | "thoughtSignature") && !is_blank(value)
        };
        // A signature may stand alone, behind the text it belongs to.
        if said.is_empty() && (signature.is_some() || fields.iter().any(is_more)) {
            said.push(Said::Other(raw));
        }
        said.into_iter().map(|said| Self { said, signature }).collect()
    }
}
