//! Anthropic's Messages API behind chats in OpenAI's format: translated both ways.
//!
//! What a chat says and the API has words for is said in them; a value that is OpenAI's own default says nothing and goes.
//! The rest is an error that names the field (`losses`), unless the caller allows dropping it. Texts, schemas and arguments
//! pass as they stand, their JSON neither decoded nor written anew.
//!
//! | in a chat | to Anthropic |
//! |---|---|
//! | `messages` | `turns`: system and developer messages become `system`, the rest turns that alternate |
//! | parts, files, images | `content` |
//! | `tools`, `tool_choice`, `parallel_tool_calls` | `tools` |
//! | `max_tokens`, `reasoning_effort`, `thinking` | `thinking`, which knows the families of models |
//! | all other fields | `request` |
//!
//! Back come whole answers (`answer`), events (`stream`) and errors (`error`); `finish` and `usage` are shared by both forms.

mod answer;
mod content;
mod error;
mod finish;
mod request;
mod stream;
mod thinking;
mod tools;
mod turns;
pub(super) mod usage;

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use super::dialect::{Answers, Encoded, Events, Untranslatable};
use super::error_body::ErrorBody;
use super::losses::Losses;
use super::outgoing::{self, ANTHROPIC_VERSION, DEFAULT_VERSION};
use crate::messages::{Account, Headers, Request, Usage, UsageAsk};

/// Whose protocol a loss is about.
const WHOSE: &str = "Anthropic's API";

/// The request to `account`, for the upstream's `model`.
///
/// # Errors
/// What the Messages API cannot express, and the caller has not allowed to drop.
pub(crate) fn encode(
    request: &Request,
    account: &Account,
    model: Option<&str>,
    now: SystemTime,
) -> Result<Encoded, Untranslatable> {
    let headers = headers(request, account);
    // The version behind the default (2026-10-21) takes no `temperature`.
    let version = headers.get(ANTHROPIC_VERSION.as_str());
    let has_sampling = version.is_some_and(|version| version <= DEFAULT_VERSION);
    let losses = Losses::new(request.droppable(), WHOSE);
    let model = model.or(request.model()).unwrap_or_default();
    let body = request::translate(request.body(), model, has_sampling, losses)?;
    let answers = Translated {
        created: now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        tells_usage: request.body().usage_ask() == UsageAsk::Asked,
    };
    let url = format!("{}/v1/messages", account.upstream.base_url);
    Ok(Encoded { url, headers, body, answers: Box::new(answers) })
}

/// The caller's headers but for other providers' own, those configured, the key and the version.
fn headers(request: &Request, account: &Account) -> Headers {
    let mut headers = outgoing::headers(request, account, outgoing::x_api_key);
    outgoing::leave_out(&mut headers, account, &["openai-", "x-goog-"]);
    outgoing::name_version(&mut headers);
    headers
}

/// Answers that become OpenAI's.
#[derive(Clone, Debug)]
struct Translated {
    /// When the answer is said to be made, in Unix seconds.
    created: u64,
    /// The caller of a stream wants to be told its usage.
    tells_usage: bool,
}

impl Answers for Translated {
    fn whole(&self, body: Bytes) -> Result<(Bytes, Option<Usage>), String> {
        answer::completion(&body, self.created)
    }

    fn events(&self) -> Box<dyn Events> {
        Box::new(stream::Reader::new(self.created, self.tells_usage))
    }

    fn error_in(&self, body: &Bytes) -> Option<(Bytes, Option<u16>)> {
        error::enveloped(body)
    }

    fn error(&self, body: Bytes) -> Bytes {
        // A page of some proxy on the way, mostly: what it says is the message.
        error::enveloped(&body).map_or_else(|| ErrorBody::read(&body).to_envelope(), |(envelope, _)| envelope)
    }
}

#[cfg(test)]
mod tests;
