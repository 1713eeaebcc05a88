//! A chat as it goes to one account.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::HeaderName;
use serde::Serialize;
use serde_json::value::RawValue;

use super::Translated;
use super::config::Config;
use super::contents::Content;
use super::fields::{Fields, items};
use super::losses::{Losses, wrong};
use super::messages::Conversation;
use super::model::Model;
use super::tools::{Tool, ToolConfig, Tools};
use crate::messages::{Account, Headers, Request, UsageAsk, json};
use crate::providers::dialect::{Encoded, Untranslatable};
use crate::providers::outgoing;

/// Gemini's body of a request.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Ask<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    system_instruction: Option<Content<'a>>,
    contents: Vec<Content<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<Tool<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_config: Option<ToolConfig<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    generation_config: Option<Config<'a>>,
}

/// The request to `account`, for the upstream's `model`. Its answer was made `now`.
///
/// # Errors
/// What Gemini's protocol cannot express and the caller does not let go.
pub(crate) fn encode(
    request: &Request,
    account: &Account,
    model: Option<&str>,
    now: SystemTime,
) -> Result<Encoded, Untranslatable> {
    let name = model.or(request.model()).ok_or_else(|| wrong("model", "is missing"))?;
    let model = Model(name);
    let body = body(request, &model)?;
    let method = if request.is_stream() { "streamGenerateContent?alt=sse" } else { "generateContent" };
    Ok(Encoded {
        url: format!("{}/{}:{method}", account.upstream.base_url, model.path()),
        headers: headers(request, account),
        body: Bytes::from(body),
        answers: Box::new(Translated {
            created: now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            model: name.to_owned(),
            tells_usage: request.body().usage_ask() == UsageAsk::Asked,
        }),
    })
}

/// The caller's headers for other protocols stay behind, those that are configured for this upstream go.
fn headers(request: &Request, account: &Account) -> Headers {
    let mut headers =
        outgoing::headers(request, account, |key| (HeaderName::from_static("x-goog-api-key"), key.to_owned()));
    let configured = |name: &HeaderName| account.upstream.headers.iter().any(|(have, _)| have == name);
    let foreign = ["openai-", "anthropic-", "x-forebay-"];
    headers.retain(|name| configured(name) || !foreign.iter().any(|prefix| name.as_str().starts_with(prefix)));
    headers
}

/// Gemini's words for the body of `request`.
fn body(request: &Request, model: &Model<'_>) -> Result<Vec<u8>, Untranslatable> {
    let losses = Losses::of(request);
    // It has been read once as a whole: what fails here can only be a text that no request was made of.
    let whole: &RawValue =
        serde_json::from_slice(request.body().bytes()).map_err(|_| wrong("messages", "must be JSON"))?;
    let fields = Fields::of(whole).ok_or_else(|| wrong("messages", "must stand in an object"))?;
    let mut config = Config::default();
    for (name, value) in fields.iter().filter(|(_, value)| !json::is_null(value)) {
        match name {
            "model" | "messages" | "stream" | "tools" | "tool_choice" => {}
            "stream_options" => stream_options(value, losses)?,
            _ if config.take(name, value, model, losses)? || is_default(name, value) => {}
            "parallel_tool_calls" => {
                losses.lose(name, "its models decide by themselves how many tools they call at once")?
            }
            "functions" | "function_call" => losses.lose(name, "use `tools` and `tool_choice` instead")?,
            "modalities" | "audio" => losses.lose(name, "only text is answered")?,
            _ => losses.lose_unknown(name, value)?,
        }
    }
    let messages = fields.get("messages").ok_or_else(|| wrong("messages", "is missing"))?;
    let Conversation { system, contents } = Conversation::read(messages, model, losses)?;
    let tools = Tools::read(fields.get("tools"), fields.get("tool_choice"), losses)?;
    let ask = Ask {
        system_instruction: system,
        contents,
        tools: tools.list,
        tool_config: tools.config,
        generation_config: (config != Config::default()).then_some(config),
    };
    serde_json::to_vec(&ask).map_err(|_| wrong("messages", "cannot be written as JSON"))
}

/// Whether the value is what OpenAI's protocol takes for granted: nothing is lost without it.
fn is_default(name: &str, value: &RawValue) -> bool {
    match name {
        "parallel_tool_calls" => value.get() == "true",
        "store" => value.get() == "false",
        "service_tier" => matches!(value.get(), "\"auto\"" | "\"default\""),
        "verbosity" => value.get() == "\"medium\"",
        "modalities" => items(value).is_some_and(|list| list.len() == 1 && list[0].get() == "\"text\""),
        _ => false,
    }
}

fn stream_options(value: &RawValue, losses: Losses<'_>) -> Result<(), Untranslatable> {
    let options = Fields::of(value).ok_or_else(|| wrong("stream_options", "must be an object"))?;
    for (name, value) in options.iter() {
        let is_said = name == "include_usage" || (name == "include_obfuscation" && value.get() == "false");
        if !is_said {
            losses.lose_unknown(format!("stream_options.{name}"), value)?;
        }
    }
    Ok(())
}
