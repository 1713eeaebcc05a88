//! A chat's messages as Gemini's system instruction and contents.
//!
//! All that system and developer say becomes the one instruction, in its order. Calls of functions keep their ids both
//! ways, so that the results of parallel calls stay matched. A model's signature of its thoughts comes back where the
//! answer put it: `extra_content.google.thought_signature` of a tool call, or of the message.

use std::borrow::Cow;
use std::collections::HashMap;

use serde_json::value::RawValue;

use super::contents::{Content, FunctionCall, FunctionResponse, Part, Response, Turns};
use super::fields::{Fields, below, is_blank, is_string, items, joined};
use super::losses::{Losses, wrong};
use super::model::Model;
use super::parts::{parts, texts};
use crate::messages::json;
use crate::providers::dialect::Untranslatable;

/// Google's own word for calls whose signature is lost: the model then goes on without it instead of refusing.
const NO_SIGNATURE: &str = "\"skip_thought_signature_validator\"";

/// All messages of a chat.
#[derive(Debug)]
pub(super) struct Conversation<'a> {
    pub(super) system: Option<Content<'a>>,
    pub(super) contents: Vec<Content<'a>>,
}

impl<'a> Conversation<'a> {
    /// Reads `messages`.
    pub(super) fn read(messages: &'a RawValue, model: &Model<'_>, losses: Losses<'_>) -> Result<Self, Untranslatable> {
        let list = items(messages).ok_or_else(|| wrong("messages", "must be an array of messages"))?;
        let mut reader = Reader { model, losses, names: HashMap::new(), system: Vec::new(), turns: Turns::default() };
        for (n, message) in list.into_iter().enumerate() {
            reader.message(message, &format!("messages[{n}]"))?;
        }
        let Reader { system, turns, .. } = reader;
        let system = (!system.is_empty()).then_some(Content { role: None, parts: system });
        Ok(Self { system, contents: turns.0 })
    }
}

struct Reader<'a, 'b> {
    model: &'b Model<'b>,
    losses: Losses<'b>,
    /// The function's name behind each tool call's id, both as they were written.
    names: HashMap<Cow<'a, str>, &'a RawValue>,
    system: Vec<Part<'a>>,
    turns: Turns<'a>,
}

impl<'a> Reader<'a, '_> {
    fn message(&mut self, raw: &'a RawValue, at: &str) -> Result<(), Untranslatable> {
        let fields = Fields::of(raw).ok_or_else(|| wrong(at, "must be an object"))?;
        let role = fields.get("role").and_then(json::string).unwrap_or_default();
        match &*role {
            "system" | "developer" => {
                self.unknown(&fields, &["content"], at)?;
                for text in texts(self.content(&fields, at)?, &format!("{at}.content"), self.losses)? {
                    self.system.push(Part { text: Some(text), ..Part::default() });
                }
                Ok(())
            }
            "user" => {
                self.unknown(&fields, &["content"], at)?;
                let parts = parts(self.content(&fields, at)?, &format!("{at}.content"), self.losses)?;
                self.turns.push("user", parts);
                Ok(())
            }
            "assistant" => self.assistant(&fields, at),
            "tool" => self.tool(&fields, at),
            _ => Err(wrong(format!("{at}.role"), "must be system, developer, user, assistant or tool")),
        }
    }

    fn content(&self, fields: &Fields<'a>, at: &str) -> Result<&'a RawValue, Untranslatable> {
        fields.get("content").ok_or_else(|| wrong(format!("{at}.content"), "is missing"))
    }

    /// Refuses what is in a message besides its role and the fields `known`.
    fn unknown(&self, fields: &Fields<'a>, known: &[&str], at: &str) -> Result<(), Untranslatable> {
        for (name, value) in fields.iter().filter(|(name, _)| *name != "role" && !known.contains(name)) {
            self.losses.lose_unknown(format!("{at}.{name}"), value)?;
        }
        Ok(())
    }

    fn assistant(&mut self, fields: &Fields<'a>, at: &str) -> Result<(), Untranslatable> {
        let known = ["content", "refusal", "reasoning_content", "tool_calls", "extra_content"];
        self.unknown(fields, &known, at)?;
        let mut said = Vec::new();
        if let Some(thoughts) = fields.get("reasoning_content").filter(|value| is_string(value) && !is_blank(value)) {
            said.push(Part { thought: true, ..Part::text(thoughts) });
        }
        for name in ["content", "refusal"] {
            if let Some(value) = fields.get(name) {
                said.extend(parts(value, &format!("{at}.{name}"), self.losses)?);
            }
        }
        if let Some(signature) = fields.get("extra_content").and_then(signature)
            && let Some(last) = said.iter_mut().rev().find(|part| !part.thought)
        {
            last.thought_signature = Some(Cow::Borrowed(signature));
        }
        if let Some(calls) = fields.get("tool_calls") {
            let at = format!("{at}.tool_calls");
            let list = items(calls).ok_or_else(|| wrong(&*at, "must be an array"))?;
            let first = said.len();
            for (n, call) in list.into_iter().enumerate() {
                said.push(self.call(call, &format!("{at}[{n}]"))?);
            }
            let is_signed = said[first..].iter().any(|part| part.thought_signature.is_some());
            if let Some(part) = said.get_mut(first).filter(|_| self.model.wants_signatures() && !is_signed) {
                let word = RawValue::from_string(NO_SIGNATURE.to_owned()).expect("a string");
                part.thought_signature = Some(Cow::Owned(word));
            }
        }
        if said.is_empty() {
            said.push(Part { text: Some(Cow::Owned(joined([]))), ..Part::default() });
        }
        self.turns.push("model", said);
        Ok(())
    }

    /// A tool call that the model has made.
    fn call(&mut self, raw: &'a RawValue, at: &str) -> Result<Part<'a>, Untranslatable> {
        let call = Fields::of(raw).ok_or_else(|| wrong(at, "must be an object"))?;
        if call.get("type").is_some_and(|kind| kind.get() != "\"function\"") {
            return Err(wrong(format!("{at}.type"), "must be function: Gemini knows no other tools of the caller's"));
        }
        for (name, value) in call.iter() {
            if !matches!(name, "id" | "type" | "function" | "index" | "extra_content") {
                self.losses.lose_unknown(format!("{at}.{name}"), value)?;
            }
        }
        let function = Fields::of_any(call.get("function"));
        for (name, value) in function.iter().filter(|(name, _)| !matches!(*name, "name" | "arguments")) {
            self.losses.lose_unknown(format!("{at}.function.{name}"), value)?;
        }
        let name = function.get("name").filter(|name| is_string(name));
        let name = name.ok_or_else(|| wrong(format!("{at}.function.name"), "must be a string"))?;
        let args = arguments(function.get("arguments"))
            .ok_or_else(|| wrong(format!("{at}.function.arguments"), "must be the text of a JSON object"))?;
        let id = call.get("id").filter(|id| is_string(id));
        if let Some(id) = id.and_then(json::string) {
            self.names.insert(id, name);
        }
        Ok(Part {
            function_call: Some(FunctionCall { id, name, args }),
            thought_signature: call.get("extra_content").and_then(signature).map(Cow::Borrowed),
            ..Part::default()
        })
    }

    /// What a tool gave back.
    fn tool(&mut self, fields: &Fields<'a>, at: &str) -> Result<(), Untranslatable> {
        // The name is the call's own: a client may repeat it.
        self.unknown(fields, &["content", "tool_call_id", "name"], at)?;
        let id = fields.get("tool_call_id");
        let found = id.and_then(json::string).and_then(|id| self.names.get(&id).copied());
        let (Some(id), Some(name)) = (id, found) else {
            return Err(wrong(format!("{at}.tool_call_id"), "names no tool call of a message before"));
        };
        let content = texts(self.content(fields, at)?, &format!("{at}.content"), self.losses)?;
        let result = match <[_; 1]>::try_from(content) {
            Ok([text]) => text,
            Err(texts) => Cow::Owned(joined(texts.iter().map(|text| &**text))),
        };
        let object = json::string(&result).and_then(|text| object(&text));
        let response = object.map_or(Response::Wrapped { result }, Response::Object);
        let response = FunctionResponse { id, name, response };
        self.turns.push("user", vec![Part { function_response: Some(response), ..Part::default() }]);
        Ok(())
    }
}

/// The arguments of a call as an object; a call without any has an empty one.
fn arguments(raw: Option<&RawValue>) -> Option<Box<RawValue>> {
    let text = raw.map_or(Some(Cow::Borrowed("")), json::string)?;
    object(if text.trim_ascii().is_empty() { "{}" } else { &text })
}

/// The JSON object that `text` is.
fn object(text: &str) -> Option<Box<RawValue>> {
    serde_json::from_str::<Box<RawValue>>(text).ok().filter(|value| json::is_object(value))
}

/// The signature in an `extra_content`.
fn signature(extra: &RawValue) -> Option<&RawValue> {
    below(extra, &["google", "thought_signature"]).filter(|value| is_string(value))
}
