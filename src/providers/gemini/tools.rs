//! The caller's functions, and which of them the model may call.
//!
//! Schemas go as `parametersJsonSchema`, which takes JSON Schema as it is: `parameters` takes a part of OpenAPI's only, and
//! what is beyond it would be lost or refused. `strict` becomes the mode VALIDATED, where calls must keep to their schemas.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::messages::json;
use crate::providers::dialect::Untranslatable;
use crate::providers::fields::{Fields, Path, below, is_string, is_text, items};
use crate::providers::losses::{self, Losses, wrong};

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
    /// Takes both of a request's `fields`.
    pub(super) fn read(fields: &mut Fields<'a>, losses: Losses<'_>) -> Result<Self, Untranslatable> {
        let tools = fields.take("tools");
        let (functions, is_strict) = tools.map_or(Ok((Vec::new(), false)), |tools| functions(tools, losses))?;
        let calling = match fields.take("tool_choice") {
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
    let at = Path::Root.field("tools");
    let list = losses::array(tools, at)?;
    let (mut functions, mut is_strict) = (Vec::with_capacity(list.len()), false);
    for (n, tool) in list.into_iter().enumerate() {
        let at = at.item(n);
        let mut tool = losses::object(tool, at)?;
        if tool.take("type").is_none_or(|kind| !is_text(kind, "function")) {
            losses.lose(at.field("type"), "it calls functions only")?;
            continue;
        }
        let function = tool.take("function");
        losses.lose_rest(tool, at)?;
        let at = at.field("function");
        let mut function = function.and_then(|it| Fields::read(it.get())).ok_or_else(|| wrong(at, "an object"))?;
        is_strict |= function.take("strict").is_some_and(|strict| strict.get() == "true");
        let name = function.take("name");
        let (description, parameters_json_schema) = (function.take("description"), function.take("parameters"));
        losses.lose_rest(function, at)?;
        let name = losses::string(name, at.field("name"))?;
        functions.push(Function { name, description, parameters_json_schema });
    }
    Ok((functions, is_strict))
}

fn calling<'a>(choice: &'a RawValue, losses: Losses<'_>) -> Result<Calling<'a>, Untranslatable> {
    const KINDS: &str = "none, auto, required, or an object that names a function";
    let at = Path::Root.field("tool_choice");
    let any = |mode| Calling { mode, allowed_function_names: Vec::new() };
    if let Some(word) = json::string(choice) {
        return match &*word {
            "auto" => Ok(any("AUTO")),
            "none" => Ok(any("NONE")),
            "required" => Ok(any("ANY")),
            _ => Err(wrong(at, KINDS)),
        };
    }
    let mut fields = Fields::read(choice.get()).ok_or_else(|| wrong(at, KINDS))?;
    let kind = fields.take("type").and_then(json::string).unwrap_or_default();
    let of_kind = fields.take(&kind);
    losses.lose_rest(fields, at)?;
    let at = at.field(&kind);
    match &*kind {
        "function" => {
            let name = losses::string(function_name(choice), at.field("name"))?;
            Ok(Calling { mode: "ANY", allowed_function_names: vec![name] })
        }
        "allowed_tools" => {
            let mut allowed = Fields::of_any(of_kind);
            let list = allowed.take("tools").and_then(items).unwrap_or_default();
            let names: Option<Vec<_>> = list.into_iter().map(function_name).collect();
            let names = names.filter(|names| !names.is_empty());
            let names = names.ok_or_else(|| wrong(at.field("tools"), "an array that names functions"))?;
            let is_required = allowed.take("mode").is_some_and(|mode| is_text(mode, "required"));
            // Names can be given where the model must call one, or where its calls are checked.
            Ok(Calling { mode: if is_required { "ANY" } else { "VALIDATED" }, allowed_function_names: names })
        }
        _ => {
            losses.lose(Path::Root.field("tool_choice"), "it can be made to call functions only").map(|()| any("AUTO"))
        }
    }
}

/// The name in `{"type":"function","function":{"name":…}}`.
fn function_name(tool: &RawValue) -> Option<&RawValue> {
    below(tool, &["function", "name"]).filter(|name| is_string(name))
}
