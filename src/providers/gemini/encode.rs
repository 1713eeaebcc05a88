//! A chat as it goes to one account.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::HeaderName;
use serde::Serialize;
use serde_json::value::RawValue;

use super::Translated;
use super::config::Config;
use super::contents::Content;
use super::messages::Conversation;
use super::model::Model;
use super::tools::{Tool, ToolConfig, Tools};
use crate::messages::{Account, Headers, Request, UsageAsk};
use crate::providers::dialect::{Encoded, Untranslatable};
use crate::providers::fields::{Fields, Path};
use crate::providers::losses::{self, Losses, Unsaid, wrong};
use crate::providers::outgoing;

/// Whose protocol a loss is about.
const WHOSE: &str = "a Gemini model";

/// Fields that say nothing where they have the value that OpenAI's protocol takes for granted.
const DEFAULTS: [(&str, &[&str]); 3] =
    [("store", &["false"]), ("service_tier", &["\"auto\"", "\"default\""]), ("verbosity", &["\"medium\""])];

/// Fields that have no words there, for a reason of their own.
const UNSAID: [Unsaid; 5] = [
    ("parallel_tool_calls", &["true"], "its models decide by themselves how many tools they call at once"),
    ("functions", &[], "use `tools` and `tool_choice` instead"),
    ("function_call", &[], "use `tools` and `tool_choice` instead"),
    ("modalities", &["[\"text\"]"], "only text is answered"),
    ("audio", &[], "only text is answered"),
];

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
    let name = model.or(request.model()).ok_or_else(|| wrong(Path::Root.field("model"), "given"))?;
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
    outgoing::leave_out(&mut headers, account, &["openai-", "anthropic-", "x-forebay-"]);
    headers
}

/// Gemini's words for the body of `request`.
fn body(request: &Request, model: &Model<'_>) -> Result<Vec<u8>, Untranslatable> {
    let losses = Losses::new(request.droppable(), WHOSE).forgiving_blanks();
    let at = Path::Root.field("messages");
    // It has been read once as a whole: what fails here can only be a text that no request was made of.
    let not_json = || wrong(at, "part of a JSON object");
    let text = std::str::from_utf8(request.body().bytes()).map_err(|_| not_json())?;
    let mut fields = Fields::read(text).ok_or_else(not_json)?;
    for name in ["model", "stream"] {
        let _ = fields.take(name);
    }
    for (name, silent) in DEFAULTS {
        fields.skip(name, silent);
    }
    if let Some(options) = fields.take("stream_options") {
        stream_options(options, losses)?;
    }
    losses.lose_all(&mut fields, &UNSAID)?;
    let config = Config::read(&mut fields, model, losses)?;
    let messages = fields.take("messages").ok_or_else(|| wrong(at, "given"))?;
    let Conversation { system, contents } = Conversation::read(messages, at, model, losses)?;
    let tools = Tools::read(&mut fields, losses)?;
    losses.lose_rest(fields, Path::Root)?;
    let ask = Ask {
        system_instruction: system,
        contents,
        tools: tools.list,
        tool_config: tools.config,
        generation_config: (config != Config::default()).then_some(config),
    };
    serde_json::to_vec(&ask).map_err(|_| not_json())
}

/// Usage comes unasked, and what fills chunks up to hide their length does not come.
fn stream_options(options: &RawValue, losses: Losses<'_>) -> Result<(), Untranslatable> {
    let at = Path::Root.field("stream_options");
    let mut options = losses::object(options, at)?;
    let _ = options.take("include_usage");
    options.skip("include_obfuscation", &["false"]);
    losses.lose_rest(options, at)
}
