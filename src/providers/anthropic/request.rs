//! A chat's body as one of the Messages API.
//!
//! | field | there |
//! |---|---|
//! | `stop` | `stop_sequences` |
//! | `temperature` | up to 1; a higher one is a loss, and 1 where that is allowed. 1 is the default and goes |
//! | `top_p`, `top_k` | as they are; a `top_p` of 1 goes |
//! | `user`, or `safety_identifier`, or `metadata.user_id` | `metadata.user_id` |
//! | `service_tier` | `auto` as it is, `default` as `standard_only`; others are a loss |
//! | `response_format` `json_schema` | `output_config.format`; `json_object` is a loss: no schema allows any object |
//! | `cache_control` | as it is |
//! | `metadata`, `store`, `prompt_cache_key` and its like, `stream_options` | go: they are about what OpenAI keeps, not about the answer |
//! | `n`, `seed`, `logprobs`, penalties and what else there is | a loss, unless the value is the default |

use std::borrow::Cow;

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use super::content::{Content, Raw};
use super::thinking;
use super::tools::{self, Choice, Tool};
use super::turns::{self, Turn};
use crate::messages::{Body, json};
use crate::providers::dialect::Untranslatable;
use crate::providers::fields::{self, Fields, Path, below, is_text};
use crate::providers::losses::{self, Losses, Unsaid, wrong};

#[derive(Serialize)]
struct Outgoing<'a> {
    model: &'a str,
    max_tokens: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    system: Option<Content<'a>>,
    messages: Vec<Turn<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<Tool<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_choice: Option<Choice<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    stop_sequences: Vec<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<Raw<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<Raw<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_k: Option<Raw<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Metadata<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_tier: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking: Option<Raw<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_config: Option<OutputConfig<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_control: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    stream: bool,
}

#[derive(Serialize)]
struct Metadata<'a> {
    user_id: &'a RawValue,
}

#[derive(Serialize)]
struct OutputConfig<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    effort: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    format: Option<Format<'a>>,
}

#[derive(Serialize)]
struct Format<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    schema: &'a RawValue,
}

/// Fields that say nothing about the answer: they go without a word.
const ELSEWHERE: [&str; 7] = [
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "store",
    "stream",
    "stream_options",
    "model",
];

/// Fields that have no words there.
const UNSAID: [Unsaid; 11] = [
    ("n", &["1"], "it gives one answer to each call"),
    ("seed", &[], "it has no seed"),
    ("logprobs", &["false"], "it tells no probabilities"),
    ("top_logprobs", &["0"], "it tells no probabilities"),
    ("logit_bias", &["{}"], "it takes no bias"),
    ("frequency_penalty", &["0", "0.0"], "it takes no penalties"),
    ("presence_penalty", &["0", "0.0"], "it takes no penalties"),
    ("modalities", &["[\"text\"]"], "it answers in text only"),
    ("verbosity", &["\"medium\""], "it has no such measure"),
    ("functions", &["[]"], "functions go in `tools`"),
    ("function_call", &[], "the choice of a function goes in `tool_choice`"),
];

/// The body to send for `body`, to `model`. `has_sampling`: the version spoken takes `temperature` and its like.
pub(super) fn translate(
    body: &Body,
    model: &str,
    has_sampling: bool,
    losses: Losses<'_>,
) -> Result<Bytes, Untranslatable> {
    let not_json = || wrong(Path::Root.field("messages"), "part of a JSON object");
    let text = std::str::from_utf8(body.bytes()).map_err(|_| not_json())?;
    let mut fields = Fields::read(text).ok_or_else(not_json)?;
    for name in ELSEWHERE {
        let _ = fields.take(name);
    }
    losses.lose_all(&mut fields, &UNSAID)?;
    let at = Path::Root.field("messages");
    let messages = fields.take("messages").ok_or_else(|| wrong(at, "an array"))?;
    let conversation = turns::conversation(messages, losses)?;
    let tools = tools::tools(&mut fields, losses)?;
    let tool_choice = tools::choice(&mut fields, &tools, losses)?;
    let is_forced = tool_choice.as_ref().is_some_and(Choice::is_forced);
    let plan = thinking::plan(&mut fields, model, is_forced, losses)?;
    let format = format(&mut fields, losses)?;
    let outgoing = Outgoing {
        model,
        max_tokens: plan.max_tokens,
        system: conversation.system,
        messages: conversation.turns,
        tools,
        tool_choice,
        stop_sequences: stop(&mut fields, losses)?,
        temperature: temperature(&mut fields, has_sampling, losses)?,
        top_p: sampling(&mut fields, "top_p", has_sampling, losses)?,
        top_k: sampling(&mut fields, "top_k", has_sampling, losses)?,
        metadata: user(&mut fields).map(|user_id| Metadata { user_id }),
        service_tier: service_tier(&mut fields, losses)?,
        thinking: plan.thinking,
        output_config: (plan.effort.is_some() || format.is_some())
            .then_some(OutputConfig { effort: plan.effort, format }),
        cache_control: fields.take("cache_control"),
        stream: body.is_stream(),
    };
    losses.lose_rest(fields, Path::Root)?;
    // Strings, numbers and JSON that has been read: nothing of it can fail to be written.
    let out = serde_json::to_vec(&outgoing).map_err(|_| not_json())?;
    Ok(out.into())
}

/// Text that ends an answer. The API refuses what is white space only.
fn stop<'a>(fields: &mut Fields<'a>, losses: Losses<'_>) -> Result<Vec<&'a RawValue>, Untranslatable> {
    let path = Path::Root.field("stop");
    let Some(stop) = fields.take("stop") else { return Ok(Vec::new()) };
    let mut all = if fields::is_string(stop) {
        vec![stop]
    } else {
        fields::items(stop).ok_or_else(|| wrong(path, "a string or an array of strings"))?
    };
    let is_blank = |stop: &RawValue| json::string(stop).is_some_and(|stop| stop.trim().is_empty());
    all.retain(|stop| stop.get() != "\"\"");
    if all.iter().any(|stop| is_blank(stop)) {
        losses.lose(path, "it ends at no text that is white space only")?;
        all.retain(|stop| !is_blank(stop));
    }
    Ok(all)
}

/// The temperature, which goes to 1 there and to 2 at OpenAI's.
fn temperature<'a>(
    fields: &mut Fields<'a>,
    has_sampling: bool,
    losses: Losses<'_>,
) -> Result<Option<Raw<'a>>, Untranslatable> {
    let path = Path::Root.field("temperature");
    let temperature = sampling(fields, "temperature", has_sampling, losses)?;
    let degrees = temperature.as_ref().and_then(|raw| raw.get().parse::<f64>().ok());
    if degrees.is_some_and(|degrees| degrees > 1.0) {
        losses.lose(path, "its scale ends at 1 (with leave to drop it, 1 is sent)")?;
        return Ok(None);
    }
    Ok(temperature)
}

/// A measure of chance. 1 is the default of those that have one, and some models take nothing else: it goes.
fn sampling<'a>(
    fields: &mut Fields<'a>,
    name: &'static str,
    has_sampling: bool,
    losses: Losses<'_>,
) -> Result<Option<Raw<'a>>, Untranslatable> {
    let Some(value) = fields.take(name) else { return Ok(None) };
    if name != "top_k" && value.get().parse() == Ok(1.0) {
        return Ok(None);
    }
    if !has_sampling {
        losses.lose(Path::Root.field(name), "the version asked for (anthropic-version) has done away with it")?;
        return Ok(None);
    }
    Ok(Some(Cow::Borrowed(value)))
}

/// Whom the request is made for: one word, which clients put in three places.
fn user<'a>(fields: &mut Fields<'a>) -> Option<&'a RawValue> {
    let user = fields.take("user");
    let safety = fields.take("safety_identifier");
    let noted = fields.take("metadata").and_then(|noted| below(noted, &["user_id"]));
    [user, safety, noted].into_iter().flatten().find(|user| fields::is_string(user))
}

fn service_tier(fields: &mut Fields<'_>, losses: Losses<'_>) -> Result<Option<&'static str>, Untranslatable> {
    let Some(tier) = fields.take("service_tier") else { return Ok(None) };
    for (word, there) in [("auto", "auto"), ("default", "standard_only"), ("standard_only", "standard_only")] {
        if is_text(tier, word) {
            return Ok(Some(there));
        }
    }
    losses.lose(Path::Root.field("service_tier"), "it knows auto and default")?;
    Ok(None)
}

/// The form the answer must have.
fn format<'a>(fields: &mut Fields<'a>, losses: Losses<'_>) -> Result<Option<Format<'a>>, Untranslatable> {
    let path = Path::Root.field("response_format");
    let Some(format) = fields.take("response_format") else { return Ok(None) };
    let mut format = losses::object(format, path)?;
    let kind = format.take("type").and_then(json::string).unwrap_or_default();
    match &*kind {
        "text" => {}
        "json_schema" => {
            let at = path.field("json_schema");
            let asked = format.take("json_schema").ok_or_else(|| wrong(at, "an object"))?;
            let mut asked = losses::object(asked, at)?;
            let schema = asked.take("schema").ok_or_else(|| wrong(at.field("schema"), "an object"))?;
            // A label of OpenAI's; and there schemas are always kept to.
            let _ = (asked.take("name"), asked.take("strict"));
            if asked.take("description").is_some() {
                losses.lose(at.field("description"), "describe the schema within itself")?;
            }
            losses.lose_rest(asked, at)?;
            losses.lose_rest(format, path)?;
            return Ok(Some(Format { kind: "json_schema", schema }));
        }
        "json_object" => losses.lose(path, "it promises no JSON but that of a schema (type `json_schema`)")?,
        _ => losses.lose(path, "it knows no such format; text and json_schema are translated")?,
    }
    Ok(None)
}
