//! A whole message as a chat completion.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use super::content::Raw;
use super::finish;
use super::usage::Counts;
use crate::messages::{Usage, json};
use crate::providers::fields::{Fields, is_string, is_text, items, joined, raw};
use crate::providers::openai::written::Told;

#[derive(Serialize)]
struct Completion<'a> {
    id: Raw<'a>,
    object: &'static str,
    created: u64,
    model: Raw<'a>,
    choices: [Choice<'a>; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Told>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_tier: Option<&'static str>,
}

#[derive(Serialize)]
struct Choice<'a> {
    index: u64,
    message: Message<'a>,
    logprobs: Option<()>,
    finish_reason: &'static str,
    /// The upstream's own word, where OpenAI has none that says as much.
    #[serde(skip_serializing_if = "Option::is_none")]
    native_finish_reason: Option<Cow<'a, str>>,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: Option<Box<RawValue>>,
    refusal: Option<Raw<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<Box<RawValue>>,
    /// As it came, signatures included: given back with the call of a tool, the model goes on from there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    thinking_blocks: Vec<&'a RawValue>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<Call<'a>>,
}

/// A call of a function.
#[derive(Serialize)]
pub(super) struct Call<'a> {
    id: Raw<'a>,
    #[serde(rename = "type")]
    kind: &'static str,
    function: Function<'a>,
}

#[derive(Serialize)]
struct Function<'a> {
    name: Raw<'a>,
    arguments: &'a str,
}

/// The completion that the message in `body` is, made at `created`, and its usage.
///
/// # Errors
/// What is wrong with it, without any of it.
pub(super) fn completion(body: &Bytes, created: u64) -> Result<(Bytes, Option<Usage>), String> {
    let text = std::str::from_utf8(body).map_err(|error| format!("not UTF-8 from byte {} on", error.valid_up_to()))?;
    let mut message = Fields::read(text).ok_or("not a JSON object")?;
    let content = message.take("content").and_then(items).ok_or("a message without content")?;
    let stop_reason = message.take("stop_reason").and_then(json::string).ok_or("a message without a stop_reason")?;
    let mut counts = Counts::default();
    if let Some(usage) = message.take("usage") {
        counts.read(usage);
    }
    let (finish_reason, native_finish_reason) = finish::reason(&stop_reason);
    let native_finish_reason = native_finish_reason.map(|reason| Cow::Owned(reason.into_owned()));
    let mut said = said(content);
    if stop_reason == "refusal" {
        said.refusal = Some(explanation(message.take("stop_details")));
        said.content = said.content.filter(|content| content.get() != "\"\"");
    }
    let completion = Completion {
        id: text_or_none(message.take("id")),
        object: "chat.completion",
        created,
        model: text_or_none(message.take("model")),
        choices: [Choice { index: 0, message: said, logprobs: None, finish_reason, native_finish_reason }],
        usage: counts.told(),
        service_tier: counts.service_tier(),
    };
    let body = serde_json::to_vec(&completion).map_err(|_| "it cannot be written as a completion".to_owned())?;
    Ok((body.into(), counts.usage()))
}

/// What the blocks of a message say. Blocks of kinds that nobody here knows come only of tools that no chat can ask for.
fn said<'a>(content: Vec<&'a RawValue>) -> Message<'a> {
    let (mut texts, mut thoughts, mut thinking_blocks, mut tool_calls) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for block in content {
        let Some(mut fields) = Fields::read(block.get()) else { continue };
        let kind = fields.take("type").and_then(json::string).unwrap_or_default();
        match &*kind {
            "text" => texts.extend(fields.take("text").filter(|text| is_string(text))),
            "thinking" => {
                thoughts.extend(fields.take("thinking").filter(|text| is_string(text)));
                thinking_blocks.push(block);
            }
            "redacted_thinking" => thinking_blocks.push(block),
            "tool_use" => tool_calls.push(Call {
                id: text_or_none(fields.take("id")),
                kind: "function",
                function: Function {
                    name: text_or_none(fields.take("name")),
                    arguments: fields.take("input").map_or("{}", RawValue::get),
                },
            }),
            _ => {}
        }
    }
    let has_text = !texts.is_empty();
    Message {
        role: "assistant",
        content: (has_text || tool_calls.is_empty()).then(|| joined(texts)),
        refusal: None,
        reasoning_content: (!thoughts.is_empty()).then(|| joined(thoughts)),
        thinking_blocks,
        tool_calls,
    }
}

/// Why a model has refused, in the provider's words where there are any.
pub(super) fn explanation(details: Option<&RawValue>) -> Raw<'_> {
    let given = details.and_then(|details| Fields::read(details.get())?.take("explanation"));
    match given.filter(|given| is_string(given) && !is_text(given, "")) {
        Some(given) => Cow::Borrowed(given),
        None => Cow::Owned(raw(format!("\"{}\"", finish::REFUSED))),
    }
}

/// A string as it stands; empty where there is none.
pub(super) fn text_or_none(value: Option<&RawValue>) -> Raw<'_> {
    value.filter(|value| is_string(value)).map_or_else(|| Cow::Owned(raw("\"\"".to_owned())), Cow::Borrowed)
}
