//! How an answer is to be made: Gemini's generationConfig.

use serde::Serialize;
use serde_json::value::RawValue;

use super::model::Model;
use crate::messages::json;
use crate::providers::dialect::Untranslatable;
use crate::providers::fields::{Fields, Path, is_string, items};
use crate::providers::losses::{self, Losses, wrong};

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
    /// Takes what of a request's `fields` it is about.
    pub(super) fn read(fields: &mut Fields<'a>, model: &Model<'_>, losses: Losses<'_>) -> Result<Self, Untranslatable> {
        fields.skip("n", &["1"]);
        fields.skip("logprobs", &["false"]);
        let mut take = |name| fields.take(name).map(Raw);
        let isnt_zero = |number: &Raw<'_>| number.0.get().parse() != Ok(0.0);
        // Of two limits the lower keeps to both.
        let limits = [take("max_tokens"), take("max_completion_tokens")].into_iter().flatten();
        let mut config = Self {
            candidate_count: take("n"),
            max_output_tokens: limits.min_by_key(|limit| json::count(limit.0).unwrap_or(u64::MAX)),
            temperature: take("temperature"),
            top_p: take("top_p"),
            top_k: take("top_k"),
            seed: take("seed"),
            presence_penalty: take("presence_penalty").filter(isnt_zero),
            frequency_penalty: take("frequency_penalty").filter(isnt_zero),
            response_logprobs: take("logprobs"),
            logprobs: take("top_logprobs").filter(isnt_zero),
            ..Self::default()
        };
        if let Some(stop) = fields.take("stop") {
            config.stop(stop)?;
        }
        if let Some(format) = fields.take("response_format") {
            config.format(format, losses)?;
        }
        if let Some(effort) = fields.take("reasoning_effort") {
            config.thinking_config = thinking(effort, model, losses)?;
        }
        Ok(config)
    }

    fn stop(&mut self, value: &'a RawValue) -> Result<(), Untranslatable> {
        let list = if is_string(value) { Some(vec![value]) } else { items(value) };
        let list = list.ok_or_else(|| wrong(Path::Root.field("stop"), "a string or an array of strings"))?;
        self.stop_sequences = (!list.is_empty()).then(|| list.into_iter().map(Raw).collect());
        Ok(())
    }

    fn format(&mut self, value: &'a RawValue, losses: Losses<'_>) -> Result<(), Untranslatable> {
        let at = Path::Root.field("response_format");
        let mut format = losses::object(value, at)?;
        let kind = format.take("type").and_then(json::string).unwrap_or_default();
        let named = format.take("json_schema");
        losses.lose_rest(format, at)?;
        match &*kind {
            "text" => return Ok(()),
            "json_object" => {}
            "json_schema" => {
                let at = at.field("json_schema");
                let mut named = Fields::of_any(named);
                let schema = named.take("schema");
                // The name is a label, and Gemini is as strict as it can be in any case.
                let _ = (named.take("name"), named.take("strict"));
                losses.lose_rest(named, at)?;
                let schema = schema.ok_or_else(|| wrong(at.field("schema"), "given"))?;
                self.response_json_schema = Some(Raw(schema));
            }
            _ => return losses.lose(at, "it has no other formats than text, json_object and json_schema"),
        }
        self.response_mime_type = Some("application/json");
        Ok(())
    }
}

/// Google's own table of what OpenAI's efforts are to its models.
fn thinking(effort: &RawValue, model: &Model<'_>, losses: Losses<'_>) -> Result<Option<Thinking>, Untranslatable> {
    let at = Path::Root.field("reasoning_effort");
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
            return losses.lose(at, why).map(|()| None);
        }
        _ => {
            let why = "it knows the efforts none, minimal, low, medium and high";
            return losses.lose(at, why).map(|()| None);
        }
    };
    Ok(Some(found))
}
