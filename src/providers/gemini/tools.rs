//! The caller's functions, and which of them the model may call.
//!
//! Schemas go as `parametersJsonSchema`, which takes JSON Schema as it is: `parameters` takes a part of OpenAPI's only, and
//! what is beyond it would be lost or refused. `strict` becomes the mode VALIDATED, where calls must keep to their schemas.

use serde::Serialize;
use serde_json::value::RawValue;

use super::fields::{Fields, is_string, items};
use super::losses::{Losses, wrong};
use crate::messages::json;
use crate::providers::dialect::Untranslatable;

/// Gemini's list of one tool: all functions.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Tool<'a> {
    function_declarations: Vec<Function<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Function<'a> {
    name: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters_json_schema: Option<&'a RawValue>,
}

/// Which functions the model may call, or must.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ToolConfig<'a> {
    function_calling_config: Calling<'a>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Calling<'a> {
    mode: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    allowed_function_names: Vec<&'a RawValue>,
}

/// `tools` and `tool_choice`, translated.
#[derive(Debug, Default)]
pub(super) struct Tools<'a> {
    pub(super) list: Vec<Tool<'a>>,
    pub(super) config: Option<ToolConfig<'a>>,
}

impl<'a> Tools<'a> {
    /// Reads both.
    pub(super) fn read(
        tools: Option<&'a RawValue>,
        choice: Option<&'a RawValue>,
        losses: Losses<'_>,
    ) -> Result<Self, Untranslatable> {
        let (functions, is_strict) = tools.map_or(Ok((Vec::new(), false)), |tools| functions(tools, losses))?;
        let calling = match choice {
            Some(choice) => calling(choice, losses)?,
            None => Calling { mode: "AUTO", allowed_function_names: Vec::new() },
        };
        let mode = if is_strict && calling.mode == "AUTO" { "VALIDATED" } else { calling.mode };
        // What the model does without being told needs no word.
        let has_config = mode != "AUTO";
        let config = ToolConfig { function_calling_config: Calling { mode, ..calling } };
        Ok(Self {
            list: if functions.is_empty() { Vec::new() } else { vec![Tool { function_declarations: functions }] },
            config: has_config.then_some(config),
        })
    }
}

/// The functions declared, and whether one of them is strict.
fn functions<'a>(tools: &'a RawValue, losses: Losses<'_>) -> Result<(Vec<Function<'a>>, bool), Untranslatable> {
    let list = items(tools).ok_or_else(|| wrong("tools", "must be an array"))?;
    let (mut functions, mut is_strict) = (Vec::with_capacity(list.len()), false);
    for (n, raw) in list.into_iter().enumerate() {
        let at = format!("tools[{n}]");
        let tool = Fields::of(raw).ok_or_else(|| wrong(&*at, "must be an object"))?;
        if tool.get("type").is_none_or(|kind| kind.get() != "\"function\"") {
            losses.lose(format!("{at}.type"), "it calls functions only")?;
            continue;
        }
        for (name, value) in tool.iter().filter(|(name, _)| !matches!(*name, "type" | "function")) {
            losses.lose_unknown(format!("{at}.{name}"), value)?;
        }
        let at = format!("{at}.function");
        let function = tool.get("function").and_then(Fields::of).ok_or_else(|| wrong(&*at, "must be an object"))?;
        for (name, value) in function.iter() {
            match name {
                "name" | "description" | "parameters" => {}
                "strict" => is_strict |= value.get() == "true",
                _ => losses.lose_unknown(format!("{at}.{name}"), value)?,
            }
        }
        let name = function.get("name").filter(|name| is_string(name));
        functions.push(Function {
            name: name.ok_or_else(|| wrong(format!("{at}.name"), "must be a string"))?,
            description: function.get("description"),
            parameters_json_schema: function.get("parameters"),
        });
    }
    Ok((functions, is_strict))
}

fn calling<'a>(choice: &'a RawValue, losses: Losses<'_>) -> Result<Calling<'a>, Untranslatable> {
    const KINDS: &str = "must be none, auto, required, or an object that names a function";
    let any = |mode| Calling { mode, allowed_function_names: Vec::new() };
    if let Some(word) = json::string(choice) {
        return match &*word {
            "auto" => Ok(any("AUTO")),
            "none" => Ok(any("NONE")),
            "required" => Ok(any("ANY")),
            _ => Err(wrong("tool_choice", KINDS)),
        };
    }
    let fields = Fields::of(choice).ok_or_else(|| wrong("tool_choice", KINDS))?;
    let kind = fields.get("type").and_then(json::string).unwrap_or_default();
    for (name, value) in fields.iter().filter(|(name, _)| *name != "type" && **name != *kind) {
        losses.lose_unknown(format!("tool_choice.{name}"), value)?;
    }
    match &*kind {
        "function" => {
            let name = function_name(choice).ok_or_else(|| wrong("tool_choice.function.name", "must be a string"))?;
            Ok(Calling { mode: "ANY", allowed_function_names: vec![name] })
        }
        "allowed_tools" => {
            let allowed = Fields::of_any(fields.get("allowed_tools"));
            let list = allowed.get("tools").and_then(items).unwrap_or_default();
            let names: Option<Vec<_>> = list.into_iter().map(function_name).collect();
            let names = names.filter(|names| !names.is_empty());
            let names = names.ok_or_else(|| wrong("tool_choice.allowed_tools.tools", "must name functions"))?;
            let is_required = allowed.get("mode").is_some_and(|mode| mode.get() == "\"required\"");
            // Names can be given where the model must call one, or where its calls are checked.
            Ok(Calling { mode: if is_required { "ANY" } else { "VALIDATED" }, allowed_function_names: names })
        }
        _ => losses.lose("tool_choice", "it can be made to call functions only").map(|()| any("AUTO")),
    }
}

/// The name in `{"type":"function","function":{"name":…}}`.
fn function_name(raw: &RawValue) -> Option<&RawValue> {
    super::fields::below(raw, &["function", "name"]).filter(|name| is_string(name))
}
