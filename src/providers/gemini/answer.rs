//! An answer of Gemini's, or an event of a stream, which has the same form: read in place, without a judgement.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::extra::Extra;
use super::finish::Finish;
use crate::messages::json;
use crate::providers::fields::{Fields, is_string, items};
use crate::providers::object::is_blank;

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

/// Of a candidate: what is counted elsewhere, or says nothing to act upon.
const UNTOLD: [&str; 3] = ["avgLogprobs", "safetyRatings", "tokenCount"];

impl<'a> Answer<'a> {
    /// What the object of these `fields` says.
    pub(super) fn of(mut fields: Fields<'a>) -> Self {
        let list = fields.take("candidates").and_then(items).unwrap_or_default();
        let list = list.into_iter().filter_map(|candidate| Fields::read(candidate.get()));
        let list: Vec<_> = list.map(|mut candidate| (candidate.take("index"), candidate)).collect();
        // The first index is not written, as protobuf's JSON leaves out zeros; a server that writes none counts by place.
        let is_numbered = list.iter().any(|(index, _)| index.is_some());
        let place = |n: usize| if is_numbered { 0 } else { u64::try_from(n).unwrap_or(u64::MAX) };
        let candidates = list
            .into_iter()
            .enumerate()
            .map(|(n, (index, candidate))| Candidate::of(candidate, index.and_then(json::count).unwrap_or(place(n))));
        let candidates = candidates.collect();
        let mut feedback = Fields::of_any(fields.take("promptFeedback"));
        let mut word = |name| feedback.take(name).and_then(json::string).filter(|word| !word.is_empty());
        Self {
            id: said(fields.take("responseId")),
            model: said(fields.take("modelVersion")),
            candidates,
            block: word("blockReason").map(|reason| (reason, word("blockReasonMessage"))),
            usage: fields.take("usageMetadata"),
        }
    }
}

/// `value`, where it is a string that says something.
fn said(value: Option<&RawValue>) -> Option<&RawValue> {
    value.filter(|value| is_string(value) && !is_blank(value))
}

impl<'a> Candidate<'a> {
    fn of(mut fields: Fields<'a>, index: u64) -> Self {
        let parts = Fields::of_any(fields.take("content")).take("parts").and_then(items).unwrap_or_default();
        let finish = fields.take("finishReason").and_then(Finish::read);
        let logprobs = fields.take("logprobsResult");
        for name in UNTOLD {
            let _ = fields.take(name);
        }
        let mut extra = Extra::default();
        for (name, value) in fields.without_blanks().rest() {
            extra.add(name, value);
        }
        Self { index, parts: parts.into_iter().flat_map(Part::of).collect(), finish, logprobs, extra }
    }
}

impl<'a> Part<'a> {
    /// What a part says: one thing by Gemini's rule; whoever breaks it is still heard.
    fn of(part: &'a RawValue) -> Vec<Self> {
        let Some(mut fields) = Fields::read(part.get()) else { return Vec::new() };
        let signature = self::said(fields.take("thoughtSignature"));
        let is_thought = fields.take("thought").is_some_and(|value| value.get() == "true");
        let mut said = Vec::new();
        if let Some(text) = fields.take("text").filter(|text| is_string(text)) {
            said.push(if is_thought { Said::Thought(text) } else { Said::Text(text) });
        }
        if let Some(mut call) = fields.take("functionCall").and_then(|call| Fields::read(call.get())) {
            let (id, name) = (self::said(call.take("id")), self::said(call.take("name")));
            said.push(Said::Call(Call { id, name, args: call.take("args") }));
        }
        // A signature may stand alone, behind the text it belongs to.
        if said.is_empty() && (signature.is_some() || fields.without_blanks().rest().next().is_some()) {
            said.push(Said::Other(part));
        }
        said.into_iter().map(|said| Self { said, signature }).collect()
    }
}
