//! How an answer is to be made: Gemini's generationConfig.

use serde::Serialize;
use serde_json::value::RawValue;

use super::fields::{Fields, is_string, items};
use super::losses::{Losses, wrong};
use super::model::Model;
use crate::messages::json;
use crate::providers::dialect::Untranslatable;

/// Numbers and schemas stand as the caller wrote them; whether they can be is for the upstream to say.
#[derive(Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Config<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    candidate_count: Option<Raw<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_sequences: Option<Vec<Raw<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_output_tokens: Option<Raw<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<Raw<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<Raw<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_k: Option<Raw<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<Raw<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    presence_penalty: Option<Raw<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    frequency_penalty: Option<Raw<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_logprobs: Option<Raw<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<Raw<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_mime_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_json_schema: Option<Raw<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking_config: Option<Thinking>,
}

/// A value as it was written.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(transparent)]
struct Raw<'a>(&'a RawValue);

impl PartialEq for Raw<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.0.get() == other.0.get()
    }
}

/// How much the model may think. Whoever asks for thought gets its summaries.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Thinking {
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking_level: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking_budget: Option<u32>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    include_thoughts: bool,
}

impl<'a> Config<'a> {
    /// Takes the field `name` of a request; false when it is none of these.
    pub(super) fn take(
        &mut self,
        name: &str,
        value: &'a RawValue,
        model: &Model<'_>,
        losses: Losses<'_>,
    ) -> Result<bool, Untranslatable> {
        let place = match name {
            "n" if value.get() == "1" => return Ok(true),
            "presence_penalty" | "frequency_penalty" if is_zero(value) => return Ok(true),
            "logprobs" if value.get() == "false" => return Ok(true),
            "top_logprobs" if is_zero(value) => return Ok(true),
            "n" => &mut self.candidate_count,
            "temperature" => &mut self.temperature,
            "top_p" => &mut self.top_p,
            "top_k" => &mut self.top_k,
            "seed" => &mut self.seed,
            "presence_penalty" => &mut self.presence_penalty,
            "frequency_penalty" => &mut self.frequency_penalty,
            "logprobs" => &mut self.response_logprobs,
            "top_logprobs" => &mut self.logprobs,
            "max_tokens" | "max_completion_tokens" => {
                // Of two limits the lower keeps to both.
                let limit = |value: &RawValue| json::count(value).unwrap_or(u64::MAX);
                if self.max_output_tokens.is_none_or(|have| limit(value) < limit(have.0)) {
                    self.max_output_tokens = Some(Raw(value));
                }
                return Ok(true);
            }
            "stop" => return self.stop(value).map(|()| true),
            "response_format" => return self.format(value, losses).map(|()| true),
            "reasoning_effort" => {
                self.thinking_config = thinking(value, model, losses)?;
                return Ok(true);
            }
            _ => return Ok(false),
        };
        *place = Some(Raw(value));
        Ok(true)
    }

    fn stop(&mut self, value: &'a RawValue) -> Result<(), Untranslatable> {
        let list = if is_string(value) { Some(vec![value]) } else { items(value) };
        let list = list.ok_or_else(|| wrong("stop", "must be a string or an array of strings"))?;
        self.stop_sequences = (!list.is_empty()).then(|| list.into_iter().map(Raw).collect());
        Ok(())
    }

    fn format(&mut self, value: &'a RawValue, losses: Losses<'_>) -> Result<(), Untranslatable> {
        let format = Fields::of(value).ok_or_else(|| wrong("response_format", "must be an object"))?;
        let kind = format.get("type").and_then(json::string).unwrap_or_default();
        for (name, value) in format.iter().filter(|(name, _)| !matches!(*name, "type" | "json_schema")) {
            losses.lose_unknown(format!("response_format.{name}"), value)?;
        }
        match &*kind {
            "text" => return Ok(()),
            "json_object" => {}
            "json_schema" => {
                let named = Fields::of_any(format.get("json_schema"));
                for (name, value) in named.iter() {
                    // The name is a label, and Gemini is as strict as it can be in any case.
                    if !matches!(name, "name" | "strict" | "schema") {
                        losses.lose_unknown(format!("response_format.json_schema.{name}"), value)?;
                    }
                }
                let schema = named.get("schema");
                let schema = schema.ok_or_else(|| wrong("response_format.json_schema.schema", "is missing"))?;
                self.response_json_schema = Some(Raw(schema));
            }
            _ => {
                return losses
                    .lose("response_format", "it has no other formats than text, json_object and json_schema");
            }
        }
        self.response_mime_type = Some("application/json");
        Ok(())
    }
}

/// Google's own table of what OpenAI's efforts are to its models.
fn thinking(effort: &RawValue, model: &Model<'_>, losses: Losses<'_>) -> Result<Option<Thinking>, Untranslatable> {
    let word = json::string(effort).unwrap_or_default();
    let budget =
        |tokens| Thinking { thinking_level: None, thinking_budget: Some(tokens), include_thoughts: tokens > 0 };
    let level = |level| Thinking { thinking_level: Some(level), thinking_budget: None, include_thoughts: true };
    let found = match (&*word, model.takes_levels()) {
        ("none", false) => budget(0),
        ("minimal" | "low", false) => budget(1_024),
        ("medium", false) => budget(8_192),
        ("high", false) => budget(24_576),
        ("minimal", true) => level("MINIMAL"),
        ("low", true) => level("LOW"),
        ("medium", true) => level("MEDIUM"),
        ("high", true) => level("HIGH"),
        ("none", true) => {
            let why = "models of its third generation on always think; `minimal` is the least";
            return losses.lose("reasoning_effort", why).map(|()| None);
        }
        _ => {
            let why = "it knows the efforts none, minimal, low, medium and high";
            return losses.lose("reasoning_effort", why).map(|()| None);
        }
    };
    Ok(Some(found))
}

fn is_zero(raw: &RawValue) -> bool {
    raw.get().parse::<f64>().is_ok_and(|number| number == 0.0)
}
