//! A whole answer as OpenAI's chat completion.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use super::Translated;
use super::answer::{Answer, Call, Candidate, Part, Said};
use super::error;
use super::extra::Extra;
use super::finish::blocked;
use super::logprobs::Logprobs;
use super::usage;
use crate::messages::{Usage, json};
use crate::providers::fields::{Fields, compact, joined};
use crate::providers::object::is_blank;
use crate::providers::openai::written::Told;

#[derive(Serialize)]
struct Completion<'a> {
    id: Cow<'a, str>,
    object: &'static str,
    created: u64,
    model: Cow<'a, str>,
    choices: Vec<Choice<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Told>,
}

#[derive(Serialize)]
struct Choice<'a> {
    index: u64,
    message: Message<'a>,
    logprobs: Option<Logprobs<'a>>,
    finish_reason: &'static str,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: Option<Box<RawValue>>,
    refusal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCall<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    extra_content: Option<Extra<'a>>,
}

/// A call of a function, whole or as a stream's delta.
#[derive(Serialize)]
pub(super) struct ToolCall<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
    id: Cow<'a, str>,
    #[serde(rename = "type")]
    kind: &'static str,
    function: Function<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    extra_content: Option<Extra<'a>>,
}

#[derive(Serialize)]
struct Function<'a> {
    name: Cow<'a, str>,
    arguments: String,
}

impl<'a> ToolCall<'a> {
    /// The `n`th call of the candidate `candidate` in the answer `answer`. One without an id gets one that is the same whenever
    /// the same answer is read.
    pub(super) fn new(
        call: &Call<'a>,
        signature: Option<&'a RawValue>,
        answer: &str,
        candidate: u64,
        n: usize,
    ) -> Self {
        let id = call.id.and_then(json::string);
        Self {
            index: None,
            id: id.unwrap_or_else(|| {
                Cow::Owned(format!("call_{}", digest(format!("{answer}/{candidate}/{n}").as_bytes())))
            }),
            kind: "function",
            function: Function {
                name: call.name.and_then(json::string).unwrap_or_default(),
                arguments: call.args.map_or_else(|| "{}".to_owned(), |args| compact(args.get())),
            },
            extra_content: Extra::signed(signature).some(),
        }
    }

    /// As a stream's delta, which says which call it is of.
    pub(super) fn numbered(self, n: usize) -> Self {
        Self { index: Some(n), ..self }
    }
}

/// 16 hexadecimal digits, the same for the same `bytes` on every machine and in every version: FNV-1a.
pub(super) fn digest(bytes: &[u8]) -> String {
    let mix = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    format!("{:016x}", bytes.iter().fold(0xcbf2_9ce4_8422_2325, mix))
}

/// Gemini's `body` as a chat completion, and the usage in it.
///
/// # Errors
/// It is no whole answer. Nothing of it is repeated.
pub(super) fn translated(to: &Translated, body: &[u8]) -> Result<(Bytes, Option<Usage>), String> {
    let fields = Fields::of_bytes(body)?;
    if error::in_answer(body).is_some() {
        return Err("an error under the status of an answer".to_owned());
    }
    let answer = Answer::of(fields);
    let id = answer.id.and_then(json::string).unwrap_or_else(|| Cow::Owned(digest(body)));
    let usage = answer.usage.and_then(usage::read);
    let mut choices = Vec::with_capacity(answer.candidates.len());
    for candidate in answer.candidates {
        choices.push(choice(candidate, &id)?);
    }
    if choices.is_empty() {
        let (reason, message) = answer.block.ok_or("an answer without a candidate")?;
        choices.push(refused(blocked(&reason, message.as_deref())));
    }
    let completion = Completion {
        id,
        object: "chat.completion",
        created: to.created,
        model: answer.model.and_then(json::string).unwrap_or(Cow::Borrowed(&to.model)),
        choices,
        usage,
    };
    let body = serde_json::to_vec(&completion).map_err(|_| "an answer that cannot be written".to_owned())?;
    Ok((Bytes::from(body), usage.as_ref().map(Told::usage)))
}

fn choice<'a>(candidate: Candidate<'a>, id: &str) -> Result<Choice<'a>, String> {
    let Candidate { index, parts, finish, logprobs, mut extra } = candidate;
    // By Google's word, a candidate without a reason has not finished.
    let finish = finish.ok_or("a candidate that has not finished")?;
    let (mut texts, mut thoughts, mut calls) = (Vec::new(), Vec::new(), Vec::new());
    let mut has_content = false;
    for Part { said, signature } in parts {
        has_content |= match said {
            Said::Text(text) => !is_blank(text) || signature.is_some(),
            Said::Thought(text) => !is_blank(text),
            Said::Call(_) | Said::Other(_) => true,
        };
        match said {
            Said::Text(text) => {
                texts.push(text);
                extra.sign(signature);
            }
            Said::Thought(text) => thoughts.push(text),
            Said::Call(call) => calls.push(ToolCall::new(&call, signature, id, index, calls.len())),
            Said::Other(part) => {
                extra.sign(signature);
                extra.part(part);
            }
        }
    }
    if finish.says_more() {
        extra.finish(&finish.0);
    }
    let refusal = if has_content { None } else { finish.refusal() };
    let has_text = texts.iter().any(|text| !is_blank(text)) || (calls.is_empty() && refusal.is_none());
    let message = Message {
        role: "assistant",
        content: has_text.then(|| joined(texts)),
        refusal,
        reasoning_content: thoughts.iter().any(|text| !is_blank(text)).then(|| joined(thoughts)),
        tool_calls: calls,
        extra_content: extra.some(),
    };
    let reason = finish.reason(!message.tool_calls.is_empty());
    Ok(Choice { index, message, logprobs: logprobs.and_then(Logprobs::read), finish_reason: reason })
}

/// The choice that tells of a prompt that was turned down.
fn refused<'a>(sentence: String) -> Choice<'a> {
    let message = Message {
        role: "assistant",
        content: None,
        refusal: Some(sentence),
        reasoning_content: None,
        tool_calls: Vec::new(),
        extra_content: None,
    };
    Choice { index: 0, message, logprobs: None, finish_reason: "content_filter" }
}
