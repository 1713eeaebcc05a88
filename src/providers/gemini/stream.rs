//! A stream of Gemini's as OpenAI's chunks.
//!
//! Gemini has no terminal marker: a stream is complete when every candidate seen has its finish reason and the body ends as
//! it should. Only then `[DONE]` is said.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::BytesMut;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::Translated;
use super::answer::{Answer, Candidate, Part, Said};
use super::error;
use super::extra::Extra;
use super::finish::{Finish, blocked};
use super::logprobs::Logprobs;
use super::usage;
use super::whole::{ToolCall, digest};
use crate::messages::{Usage, json};
use crate::providers::dialect::{Events, Step};
use crate::providers::fields::{Fields, raw};
use crate::providers::object::is_blank;
use crate::providers::openai::written::{Chunks, DONE, Told};
use crate::providers::sse::Event;

/// Follows one stream from its first event to its end.
#[derive(Debug)]
pub(super) struct StreamReader {
    to: Translated,
    /// Of the first event: one for the whole stream.
    id: Option<String>,
    model: Option<String>,
    /// How chunks are written: from the first event on, and anew when the model is named later.
    chunks: Option<Chunks>,
    candidates: BTreeMap<u64, Seen>,
    usage: Option<Told>,
    /// Content has been passed on.
    has_begun: bool,
}

/// What has been seen of a candidate.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    calls: usize,
    has_content: bool,
    is_finished: bool,
}

#[derive(Default, Serialize)]
struct Choice<'a> {
    index: u64,
    delta: Delta<'a>,
    logprobs: Option<Logprobs<'a>>,
    finish_reason: Option<&'static str>,
}

#[derive(Default, Serialize)]
struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<Cow<'a, RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<[ToolCall<'a>; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    extra_content: Option<Extra<'a>>,
}

impl StreamReader {
    /// A reader at the start of a stream.
    pub(super) fn new(to: Translated) -> Self {
        Self { to, id: None, model: None, chunks: None, candidates: BTreeMap::new(), usage: None, has_begun: false }
    }

    /// Reads one answer of the stream; `out` gets what the caller is told for it.
    fn answer(&mut self, data: &[u8], out: &mut BytesMut) -> Step {
        let answer = match Fields::of_bytes(data) {
            Ok(fields) => Answer::of(fields),
            Err(detail) => return Step::Malformed { detail },
        };
        let named = |name: Option<&RawValue>| name.and_then(json::string).map(Cow::into_owned);
        self.id.get_or_insert_with(|| named(answer.id).unwrap_or_else(|| digest(data)));
        if self.model.is_none() {
            self.model = named(answer.model);
            let model = Value::from(self.model.as_deref().unwrap_or(&self.to.model)).to_string();
            let id = Value::from(self.id.as_deref().unwrap_or_default()).to_string();
            self.chunks = Some(Chunks::new(&id, self.to.created, &model, self.to.tells_usage));
        }
        self.usage = answer.usage.and_then(usage::read).or(self.usage);
        let mut choices = Vec::new();
        for candidate in answer.candidates {
            self.candidate(candidate, &mut choices);
        }
        if let Some((reason, message)) = answer.block.filter(|_| self.candidates.is_empty()) {
            self.candidates.insert(0, Seen { is_finished: true, has_content: true, ..Seen::default() });
            let refusal = Some(blocked(&reason, message.as_deref()));
            choices.push(opening(0));
            choices.push(Choice { delta: Delta { refusal, ..Delta::default() }, ..Choice::default() });
            choices.push(Choice { finish_reason: Some("content_filter"), ..Choice::default() });
        }
        if choices.is_empty() {
            return Step::Drop;
        }
        for choice in choices {
            self.chunk(&choice, out);
        }
        self.has_begun |= self.candidates.values().any(|seen| seen.has_content || seen.is_finished);
        if self.has_begun { Step::Content } else { Step::Hold }
    }

    /// What a candidate has to say this time, as one delta for each of its parts.
    fn candidate<'a>(&mut self, candidate: Candidate<'a>, choices: &mut Vec<Choice<'a>>) {
        let Candidate { index, parts, finish, logprobs, mut extra } = candidate;
        let mut logprobs = logprobs.and_then(Logprobs::read);
        let answer = self.id.as_deref().unwrap_or_default();
        let is_new = !self.candidates.contains_key(&index);
        let seen = self.candidates.entry(index).or_default();
        if is_new {
            choices.push(opening(index));
        }
        for Part { said, signature } in parts {
            let mut delta = Delta::default();
            match said {
                Said::Text(text) if is_blank(text) && signature.is_none() => continue,
                Said::Text(text) => {
                    delta.content = (!is_blank(text)).then_some(Cow::Borrowed(text));
                    delta.extra_content = Extra::signed(signature).some();
                }
                Said::Thought(text) if is_blank(text) => continue,
                Said::Thought(text) => delta.reasoning_content = Some(text),
                Said::Call(call) => {
                    let call = ToolCall::new(&call, signature, answer, index, seen.calls).numbered(seen.calls);
                    delta.tool_calls = Some([call]);
                    seen.calls += 1;
                }
                Said::Other(part) => {
                    let mut extra = Extra::signed(signature);
                    extra.part(part);
                    delta.extra_content = extra.some();
                }
            }
            seen.has_content = true;
            choices.push(Choice { index, delta, logprobs: logprobs.take(), finish_reason: None });
        }
        let ending = finish.filter(|_| !seen.is_finished);
        let refusal = ending.as_ref().filter(|_| !seen.has_content).and_then(Finish::refusal);
        if let Some(finish) = ending.as_ref().filter(|finish| finish.says_more()) {
            extra.finish(&finish.0);
        }
        let (finish_reason, extra_content) = (ending.map(|finish| finish.reason(seen.calls > 0)), extra.some());
        seen.is_finished |= finish_reason.is_some();
        if finish_reason.is_some() || extra_content.is_some() || logprobs.is_some() {
            seen.has_content |= extra_content.is_some() || logprobs.is_some();
            if refusal.is_some() {
                choices.push(Choice { index, delta: Delta { refusal, ..Delta::default() }, ..Choice::default() });
            }
            let delta = Delta { extra_content, ..Delta::default() };
            choices.push(Choice { index, delta, logprobs, finish_reason });
        }
    }

    fn chunk(&self, choice: &Choice<'_>, out: &mut BytesMut) {
        let written = serde_json::to_string(choice);
        debug_assert!(written.is_ok(), "strings, numbers and JSON that has been read");
        if let (Some(chunks), Ok(choice)) = (&self.chunks, written) {
            chunks.choice(&choice, out);
        }
    }
}

/// Who speaks: the first that is said of a candidate.
fn opening<'a>(index: u64) -> Choice<'a> {
    let delta =
        Delta { role: Some("assistant"), content: Some(Cow::Owned(raw("\"\"".to_owned()))), ..Delta::default() };
    Choice { index, delta, ..Choice::default() }
}

impl Events for StreamReader {
    fn read(&mut self, event: &Event, out: &mut BytesMut) -> Step {
        let data = event.data();
        let data = data.trim_ascii();
        // Some that only look like Gemini end their streams with OpenAI's marker.
        if data.is_empty() || data == b"[DONE]" {
            return Step::Drop;
        }
        match error::in_answer(data) {
            Some((body, status)) => Step::Error { body, status },
            None => self.answer(data, out),
        }
    }

    fn finish(&mut self, out: &mut BytesMut) {
        if let (Some(chunks), Some(usage)) = (&self.chunks, &self.usage) {
            chunks.usage(usage, None, out);
        }
        out.extend_from_slice(DONE);
    }

    fn is_complete(&self) -> bool {
        !self.candidates.is_empty() && self.candidates.values().all(|seen| seen.is_finished)
    }

    /// Usage may follow the last finish reason: nothing but the body's end is the end.
    fn is_ended(&self) -> bool {
        false
    }

    fn usage(&self) -> Option<Usage> {
        self.usage.as_ref().map(Told::usage)
    }
}
