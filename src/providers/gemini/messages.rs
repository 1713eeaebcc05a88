//! A chat's messages as Gemini's system instruction and contents.
//!
//! All that system and developer say becomes the one instruction, in its order. Calls of functions keep their ids both
//! ways, so that the results of parallel calls stay matched. A model's signature of its thoughts comes back where the
//! answer put it: `extra_content.google.thought_signature` of a tool call, or of the message.

use std::borrow::Cow;
use std::collections::HashMap;

use serde_json::value::RawValue;

use super::contents::{Content, FunctionCall, FunctionResponse, Part, Response, Turns};
use super::model::Model;
use super::parts::{parts, texts};
use crate::messages::json;
use crate::providers::dialect::Untranslatable;
use crate::providers::fields::{Fields, Path, below, is_string, is_text, items, joined, raw};
use crate::providers::losses::{self, Losses, wrong};
use crate::providers::object::is_blank;

/// Google's own word for calls whose signature is lost: the model then goes on without it instead of refusing.
const NO_SIGNATURE: &str = "\"skip_thought_signature_validator\"";

/// All messages of a chat.
#[derive(Debug)]
pub(super) struct Conversation<'a> {
    pub(super) system: Option<Content<'a>>,
    pub(super) contents: Vec<Content<'a>>,
}

impl<'a> Conversation<'a> {
    /// Reads `messages`, which stand at `at`.
    pub(super) fn read(
        messages: &'a RawValue,
        at: Path<'_>,
        model: &Model<'_>,
        losses: Losses<'_>,
    ) -> Result<Self, Untranslatable> {
        let list = items(messages).ok_or_else(|| wrong(at, "an array of messages"))?;
        let mut reader = Reader { model, losses, names: HashMap::new(), system: Vec::new(), turns: Turns::default() };
        for (n, message) in list.into_iter().enumerate() {
            reader.message(message, at.item(n))?;
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
    fn message(&mut self, message: &'a RawValue, at: Path<'_>) -> Result<(), Untranslatable> {
        let mut fields = losses::object(message, at)?;
        let role = fields.take("role").and_then(json::string).unwrap_or_default();
        match &*role {
            "system" | "developer" => {
                let content = fields.take("content");
                self.losses.lose_rest(fields, at)?;
                for text in texts(content, at.field("content"), self.losses)? {
                    self.system.push(Part { text: Some(text), ..Part::default() });
                }
                Ok(())
            }
            "user" => {
                let content = fields.take("content");
                self.losses.lose_rest(fields, at)?;
                let parts = parts(content, at.field("content"), self.losses)?;
                self.turns.push("user", parts);
                Ok(())
            }
            "assistant" => self.assistant(fields, at),
            "tool" => self.tool(fields, at),
            _ => Err(wrong(at.field("role"), "system, developer, user, assistant or tool")),
        }
    }

    fn assistant(&mut self, mut fields: Fields<'a>, at: Path<'_>) -> Result<(), Untranslatable> {
        let thoughts = fields.take("reasoning_content").filter(|value| is_string(value) && !is_blank(value));
        let spoken = ["content", "refusal"].map(|name| (name, fields.take(name)));
        let signature = fields.take("extra_content").and_then(signature);
        let calls = fields.take("tool_calls");
        self.losses.lose_rest(fields, at)?;
        let mut said = Vec::new();
        if let Some(thoughts) = thoughts {
            said.push(Part { thought: true, ..Part::text(thoughts) });
        }
        for (name, value) in spoken.into_iter().filter(|(_, value)| value.is_some()) {
            said.extend(parts(value, at.field(name), self.losses)?);
        }
        if let Some(signature) = signature
            && let Some(last) = said.iter_mut().rev().find(|part| !part.thought)
        {
            last.thought_signature = Some(Cow::Borrowed(signature));
        }
        if let Some(calls) = calls {
            let at = at.field("tool_calls");
            let first = said.len();
            for (n, call) in losses::array(calls, at)?.into_iter().enumerate() {
                said.push(self.call(call, at.item(n))?);
            }
            let is_signed = said[first..].iter().any(|part| part.thought_signature.is_some());
            if let Some(part) = said.get_mut(first).filter(|_| self.model.wants_signatures() && !is_signed) {
                part.thought_signature = Some(Cow::Owned(raw(NO_SIGNATURE.to_owned())));
            }
        }
        if said.is_empty() {
            said.push(Part { text: Some(Cow::Owned(joined([]))), ..Part::default() });
        }
        self.turns.push("model", said);
        Ok(())
    }

    /// A tool call that the model has made.
    fn call(&mut self, call: &'a RawValue, at: Path<'_>) -> Result<Part<'a>, Untranslatable> {
        let mut call = losses::object(call, at)?;
        if call.take("type").is_some_and(|kind| !is_text(kind, "function")) {
            return Err(wrong(at.field("type"), "function: Gemini knows no other tools of the caller's"));
        }
        let id = call.take("id").filter(|id| is_string(id));
        let mut function = Fields::of_any(call.take("function"));
        let signature = call.take("extra_content").and_then(signature);
        // A stream's number of the call, which some clients give back.
        let _ = call.take("index");
        self.losses.lose_rest(call, at)?;
        let at = at.field("function");
        let (name, arguments) = (function.take("name"), function.take("arguments"));
        self.losses.lose_rest(function, at)?;
        let name = losses::string(name, at.field("name"))?;
        let args =
            self::arguments(arguments).ok_or_else(|| wrong(at.field("arguments"), "the text of a JSON object"))?;
        if let Some(id) = id.and_then(json::string) {
            self.names.insert(id, name);
        }
        Ok(Part {
            function_call: Some(FunctionCall { id, name, args }),
            thought_signature: signature.map(Cow::Borrowed),
            ..Part::default()
        })
    }

    /// What a tool gave back.
    fn tool(&mut self, mut fields: Fields<'a>, at: Path<'_>) -> Result<(), Untranslatable> {
        let (content, id) = (fields.take("content"), fields.take("tool_call_id"));
        // The name is the call's own: a client may repeat it.
        let _ = fields.take("name");
        self.losses.lose_rest(fields, at)?;
        let found = id.and_then(json::string).and_then(|id| self.names.get(&id).copied());
        let (Some(id), Some(name)) = (id, found) else {
            return Err(wrong(at.field("tool_call_id"), "the id of a tool call of a message before"));
        };
        let content = texts(content, at.field("content"), self.losses)?;
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
fn arguments(text: Option<&RawValue>) -> Option<Box<RawValue>> {
    let text = text.map_or(Some(Cow::Borrowed("")), json::string)?;
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
