//! What an answer says to a prompt: its echo, JSON that fits a schema, or calls of the tools that were offered. Pure.

use serde_json::{Value, json};

use super::answers::expected_echo;
use super::ask::{Kind, tokens};
use super::instance::instance;

/// What an answer says.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Reply {
    Text(String),
    /// At least one.
    Calls(Vec<ToolCall>),
}

/// One call of a tool.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ToolCall {
    pub(super) name: String,
    /// JSON that fits the tool's schema; its free texts are the prompt's echo.
    pub(super) arguments: String,
}

impl ToolCall {
    /// A call of `name` with arguments that fit its schema, if it has one. The error is the text of a 400.
    pub(super) fn fitting(name: &str, schema: Option<&Value>, echo: &str) -> Result<Self, String> {
        let arguments = schema.map_or_else(|| Ok("{}".to_owned()), |schema| fitting(schema, echo))?;
        Ok(Self { name: name.to_owned(), arguments })
    }
}

impl Reply {
    /// The reply to `prompt` that `body` asks for. The error is the text of a 400.
    pub(super) fn to(kind: Kind, body: &Value, prompt: &str) -> Result<Reply, String> {
        let echo = expected_echo(prompt);
        if let Some(calls) = calls(kind, body, &echo)? {
            return Ok(Reply::Calls(calls));
        }
        let format = match kind {
            Kind::Chat => &body["response_format"],
            Kind::Response => &body["text"]["format"],
            // Under the names of two ages.
            Kind::Message if body["output_config"]["format"].is_object() => &body["output_config"]["format"],
            Kind::Message => &body["output_format"],
            _ => return Ok(Reply::Text(echo)),
        };
        // On responses the schema lies beside its name, on chats within.
        let schema = if kind == Kind::Chat { &format["json_schema"]["schema"] } else { &format["schema"] };
        Ok(Reply::Text(match format["type"].as_str() {
            Some("json_schema") => fitting(schema, &echo)?,
            Some("json_object") => json!({"echo": echo}).to_string(),
            _ => echo,
        }))
    }

    /// About as many tokens as it has.
    pub(super) fn tokens(&self) -> u64 {
        match self {
            Reply::Text(text) => tokens(text.len()),
            Reply::Calls(calls) => calls.iter().map(|call| tokens(call.name.len() + call.arguments.len())).sum(),
        }
    }

    /// Its text; none where it calls tools.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Reply::Text(text) => Some(text),
            Reply::Calls(_) => None,
        }
    }

    /// Its calls of tools, if it makes any.
    pub(super) fn calls(&self) -> &[ToolCall] {
        match self {
            Reply::Text(_) => &[],
            Reply::Calls(calls) => calls,
        }
    }
}

/// JSON that fits `schema`. The error is the text of a 400.
pub(super) fn fitting(schema: &Value, echo: &str) -> Result<String, String> {
    let value = instance(schema, echo).map_err(|what| format!("the simulator cannot answer {what}"))?;
    Ok(value.to_string())
}

/// The calls that a good model makes; none without tools, where it may call none, and where it has just been told a
/// tool's result: the result is what it answers.
fn calls(kind: Kind, body: &Value, echo: &str) -> Result<Option<Vec<ToolCall>>, String> {
    let (tools, choice) = (body["tools"].as_array(), &body["tool_choice"]);
    let speaks_of_tools = matches!(kind, Kind::Chat | Kind::Response | Kind::Message);
    let may_not = choice == "none" || choice["type"] == "none";
    if !speaks_of_tools || may_not || told_result(kind, body) {
        return Ok(None);
    }
    // On chats a function lies within the tool, elsewhere it is the tool; such as are none, a search, are not called.
    let function = |tool: &Value| if kind == Kind::Chat { tool["function"].clone() } else { tool.clone() };
    let is_function = |tool: &&Value| match kind {
        Kind::Message => tool["input_schema"].is_object(),
        _ => tool["type"] == "function",
    };
    let functions = tools.into_iter().flatten().filter(is_function).map(function);
    let forced = choice["function"]["name"].as_str().or(choice["name"].as_str());
    let mut functions: Vec<Value> = functions.filter(|it| forced.is_none_or(|name| it["name"] == name)).collect();
    if let (Some(name), true) = (forced, functions.is_empty()) {
        return Err(format!("`tool_choice` names `{name}`, which is not among the tools"));
    }
    if body["parallel_tool_calls"] != true {
        functions.truncate(1);
    }
    let call = |function: &Value| {
        let name = function["name"].as_str().ok_or("a tool without a name")?;
        let schema = if kind == Kind::Message { "input_schema" } else { "parameters" };
        ToolCall::fitting(name, Some(&function[schema]).filter(|schema| !schema.is_null()), echo)
    };
    let calls: Vec<ToolCall> = functions.iter().map(call).collect::<Result<_, String>>()?;
    Ok((!calls.is_empty()).then_some(calls))
}

fn told_result(kind: Kind, body: &Value) -> bool {
    match kind {
        Kind::Message => {
            let last = body["messages"].as_array().and_then(|all| all.last());
            let parts = last.and_then(|message| message["content"].as_array());
            parts.into_iter().flatten().any(|part| part["type"] == "tool_result")
        }
        Kind::Chat => body["messages"].as_array().and_then(|all| all.last()).is_some_and(|it| it["role"] == "tool"),
        _ => {
            let last = body["input"].as_array().and_then(|all| all.last());
            last.is_some_and(|item| item["type"] == "function_call_output")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat(more: Value) -> Result<Reply, String> {
        let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Reply::to(Kind::Chat, &body, "hi")
    }

    fn tool(name: &str) -> Value {
        let schema = json!({"type": "object", "properties": {"city": {"type": "string"}}});
        json!({"type": "function", "function": {"name": name, "parameters": schema}})
    }

    fn call(name: &str) -> ToolCall {
        ToolCall { name: name.to_owned(), arguments: json!({"city": expected_echo("hi")}).to_string() }
    }

    #[test]
    fn a_tool_that_is_offered_is_called_with_arguments_that_prove_the_prompt() {
        let tools = json!([tool("a"), tool("b")]);
        assert_eq!(chat(json!({"tools": tools})), Ok(Reply::Calls(vec![call("a")])));
        let all = json!({"tools": tools, "parallel_tool_calls": true});
        assert_eq!(chat(all), Ok(Reply::Calls(vec![call("a"), call("b")])));
        let choice = json!({"type": "function", "function": {"name": "b"}});
        assert_eq!(chat(json!({"tools": tools, "tool_choice": choice})), Ok(Reply::Calls(vec![call("b")])));
        assert!(chat(json!({"tools": [tool("a")], "tool_choice": choice})).is_err());
    }

    #[test]
    fn no_tool_is_called_where_none_may_be_or_its_result_has_come() {
        let text = Ok(Reply::Text(expected_echo("hi")));
        assert_eq!(chat(json!({"tools": [tool("a")], "tool_choice": "none"})), text);
        assert_eq!(chat(json!({"tools": []})), text);
        let told = json!([{"role": "user", "content": "hi"}, {"role": "tool", "content": "20 C", "tool_call_id": "c"}]);
        assert_eq!(chat(json!({"tools": [tool("a")], "messages": told})), text);
    }

    #[test]
    fn json_is_answered_where_json_is_asked_for() {
        let schema = json!({"type": "object", "properties": {"name": {"type": "string"}}});
        let format = json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}});
        let said = json!({"name": expected_echo("hi")}).to_string();
        assert_eq!(chat(json!({"response_format": format})), Ok(Reply::Text(said.clone())));
        let format = json!({"type": "json_schema", "name": "x", "schema": schema});
        let response = json!({"model": "m", "input": "hi", "text": {"format": format}});
        assert_eq!(Reply::to(Kind::Response, &response, "hi"), Ok(Reply::Text(said)));
        let any = chat(json!({"response_format": {"type": "json_object"}})).unwrap();
        assert_eq!(any.text(), Some(json!({"echo": expected_echo("hi")}).to_string().as_str()));
        let pattern = json!({"type": "json_schema", "json_schema": {"schema": {"type": "string", "pattern": "x+"}}});
        assert!(chat(json!({"response_format": pattern})).unwrap_err().contains("x+"));
    }
}
