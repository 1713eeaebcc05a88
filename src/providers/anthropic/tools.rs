//! Tools, and how the model is to choose among them.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::value::RawValue;

use super::content::Raw;
use crate::messages::json;
use crate::providers::dialect::Untranslatable;
use crate::providers::fields::{Fields, Path, is_text, raw};
use crate::providers::losses::{self, Losses, wrong};

/// A tool that the caller runs.
#[derive(Serialize)]
pub(super) struct Tool<'a> {
    name: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a RawValue>,
    input_schema: Raw<'a>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    strict: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_control: Option<&'a RawValue>,
}

/// How the model is to choose.
#[derive(Serialize)]
pub(super) struct Choice<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    disable_parallel_tool_use: bool,
}

impl Choice<'_> {
    /// Whether the model has no choice but to call a tool.
    pub(super) fn is_forced(&self) -> bool {
        matches!(self.kind, "any" | "tool")
    }
}

/// The caller's `tools`.
pub(super) fn tools<'a>(fields: &mut Fields<'a>, losses: Losses<'_>) -> Result<Vec<Tool<'a>>, Untranslatable> {
    let path = Path::Root.field("tools");
    let Some(tools) = fields.take("tools") else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for (index, tool) in losses::array(tools, path)?.into_iter().enumerate() {
        found.extend(self::tool(tool, path.item(index), losses)?);
    }
    Ok(found)
}

fn tool<'a>(tool: &'a RawValue, path: Path<'_>, losses: Losses<'_>) -> Result<Option<Tool<'a>>, Untranslatable> {
    let mut tool = losses::object(tool, path)?;
    if tool.take("type").is_some_and(|kind| !is_text(kind, "function")) {
        losses.lose(path, "only tools of type `function` are translated")?;
        return Ok(None);
    }
    let cache_control = tool.take("cache_control");
    let at = path.field("function");
    let mut function = losses::object(tool.take("function").ok_or_else(|| wrong(at, "an object"))?, at)?;
    losses.lose_rest(tool, path)?;
    let name = losses::string(function.take("name"), at.field("name"))?;
    let description = function.take("description");
    let input_schema = schema(function.take("parameters"), at.field("parameters"))?;
    let strict = function.take("strict").is_some_and(|strict| strict.get() == "true");
    losses.lose_rest(function, at)?;
    Ok(Some(Tool { name, description, input_schema, strict, cache_control }))
}

/// A function's parameters. The API insists on `"type": "object"`, which OpenAI's may leave unsaid.
fn schema<'a>(parameters: Option<&'a RawValue>, path: Path<'_>) -> Result<Raw<'a>, Untranslatable> {
    let Some(parameters) = parameters else {
        return Ok(Cow::Owned(raw(r#"{"type":"object","properties":{}}"#.into())));
    };
    let mut fields = losses::object(parameters, path)?;
    if fields.take("type").is_some() {
        return Ok(Cow::Borrowed(parameters));
    }
    let inside = parameters.get().trim_start_matches('{').trim_start();
    let comma = if inside == "}" { "" } else { "," };
    Ok(Cow::Owned(raw(format!(r#"{{"type":"object"{comma}{inside}"#))))
}

/// The caller's `tool_choice` and `parallel_tool_calls`, given the `tools` there are.
pub(super) fn choice<'a>(
    fields: &mut Fields<'a>,
    tools: &[Tool<'a>],
    losses: Losses<'_>,
) -> Result<Option<Choice<'a>>, Untranslatable> {
    let one_at_a_time = fields.take("parallel_tool_calls").is_some_and(|parallel| parallel.get() == "false");
    let path = Path::Root.field("tool_choice");
    let choice = match fields.take("tool_choice") {
        None => None,
        Some(choice) => match json::string(choice) {
            Some(word) => match &*word {
                "auto" => Some(("auto", None)),
                "none" => Some(("none", None)),
                "required" => Some(("any", None)),
                _ => return Err(wrong(path, "auto, none, required or a function by its name")),
            },
            None => named(choice, path, losses)?.map(|name| ("tool", Some(name))),
        },
    };
    let (kind, name) = match choice {
        // Without tools these are what happens anyway; a call that is asked for all the same is the upstream's to refuse.
        Some(("auto" | "none", _)) | None if tools.is_empty() => return Ok(None),
        Some(choice) => choice,
        None if one_at_a_time => ("auto", None),
        None => return Ok(None),
    };
    Ok(Some(Choice { kind, name, disable_parallel_tool_use: one_at_a_time && kind != "none" }))
}

/// The function that must be called.
fn named<'a>(choice: &'a RawValue, path: Path<'_>, losses: Losses<'_>) -> Result<Option<&'a RawValue>, Untranslatable> {
    let mut choice = losses::object(choice, path)?;
    if choice.take("type").is_some_and(|kind| !is_text(kind, "function")) {
        losses.lose(path, "of choices among tools only a function by its name is translated")?;
        return Ok(None);
    }
    let at = path.field("function");
    let mut function = losses::object(choice.take("function").ok_or_else(|| wrong(at, "an object"))?, at)?;
    losses.lose_rest(choice, path)?;
    let name = losses::string(function.take("name"), at.field("name"))?;
    losses.lose_rest(function, at)?;
    Ok(Some(name))
}
