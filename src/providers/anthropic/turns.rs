//! Messages as turns of user and assistant that alternate, and the system prompt beside them.
//!
//! System and developer messages all become `system`, in their order, also those that come later in the conversation: only
//! the newest models take them in between, and what Anthropic's own face for OpenAI's clients does is the same.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::value::RawValue;

use super::content::{Block, Content, Raw, blocks};
use crate::messages::json;
use crate::providers::dialect::Untranslatable;
use crate::providers::fields::{Fields, Path, is_text, items, raw};
use crate::providers::losses::{self, Losses, wrong};

/// A whole conversation.
pub(super) struct Conversation<'a> {
    pub(super) system: Option<Content<'a>>,
    pub(super) turns: Vec<Turn<'a>>,
}

/// What one side says before the other does.
#[derive(Serialize)]
pub(super) struct Turn<'a> {
    role: &'static str,
    content: Content<'a>,
}

/// The conversation that `messages` are.
pub(super) fn conversation<'a>(messages: &'a RawValue, losses: Losses<'_>) -> Result<Conversation<'a>, Untranslatable> {
    let path = Path::Root.field("messages");
    let (mut system, mut said) = (Vec::new(), Vec::<(&'static str, Vec<Block<'a>>)>::new());
    for (index, message) in losses::array(messages, path)?.into_iter().enumerate() {
        let path = path.item(index);
        let mut fields = losses::object(message, path)?;
        let role = fields.take("role").and_then(json::string).unwrap_or_default();
        let cache_control = fields.take("cache_control");
        let (role, mut blocks) = match &*role {
            "system" | "developer" => ("system", instructions(&mut fields, path, losses)?),
            "user" => ("user", blocks(fields.take("content"), path.field("content"), losses)?),
            "assistant" => ("assistant", assistant(&mut fields, path, losses)?),
            "tool" => ("user", vec![tool_result(&mut fields, path, losses)?]),
            "function" => {
                losses.lose(path, "results of functions go in messages of role `tool` that name their call")?;
                continue;
            }
            _ => return Err(wrong(path.field("role"), "system, developer, user, assistant or tool")),
        };
        if fields.take("name").is_some() {
            losses.lose(path.field("name"), "its turns have no names")?;
        }
        losses.lose_rest(fields, path)?;
        if let (Some(mark), Some(at)) = (cache_control, blocks.iter_mut().rev().find_map(Block::cache_control)) {
            at.get_or_insert(mark);
        }
        if role == "system" {
            system.append(&mut blocks);
            continue;
        }
        match said.last_mut() {
            Some((last, before)) if *last == role => before.append(&mut blocks),
            _ => said.push((role, blocks)),
        }
    }
    system.retain(|block| !block.is_blank());
    let turns = said.into_iter().map(|(role, blocks)| Turn { role, content: arranged(blocks).into() }).collect();
    Ok(Conversation { system: (!system.is_empty()).then(|| system.into()), turns })
}

/// The blocks of a turn as the API wants them: results of tools first, and no empty text, unless that is all there is: then
/// it is the upstream's to judge.
fn arranged(mut blocks: Vec<Block<'_>>) -> Vec<Block<'_>> {
    blocks.sort_by_key(|block| !block.is_tool_result());
    if blocks.iter().any(|block| !block.is_blank()) {
        blocks.retain(|block| !block.is_blank());
    } else {
        blocks.truncate(1);
    }
    if blocks.is_empty() {
        blocks.push(Block::Text { text: Cow::Owned(raw("\"\"".to_owned())), cache_control: None });
    }
    blocks
}

/// What a system or developer message says, in text.
fn instructions<'a>(
    fields: &mut Fields<'a>,
    path: Path<'_>,
    losses: Losses<'_>,
) -> Result<Vec<Block<'a>>, Untranslatable> {
    let mut blocks = blocks(fields.take("content"), path.field("content"), losses)?;
    if blocks.iter().any(|block| !matches!(block, Block::Text { .. })) {
        losses.lose(path.field("content"), "its system prompt is text only")?;
        blocks.retain(|block| matches!(block, Block::Text { .. }));
    }
    Ok(blocks)
}

/// What the model has said before: its thinking, its text, its calls.
fn assistant<'a>(
    fields: &mut Fields<'a>,
    path: Path<'_>,
    losses: Losses<'_>,
) -> Result<Vec<Block<'a>>, Untranslatable> {
    // Blocks that an answer of ours has shown, signatures included. Reasoning without them cannot be given back: the API
    // takes none that it has not signed, and no provider that shows it wants it back.
    let thinking = fields.take("thinking_blocks").and_then(items).unwrap_or_default();
    let mut said: Vec<Block<'a>> = thinking.into_iter().map(Block::AsItCame).collect();
    for shown in ["reasoning_content", "reasoning"] {
        let _ = fields.take(shown);
    }
    said.extend(blocks(fields.take("content"), path.field("content"), losses)?);
    if let Some(refusal) = fields.take("refusal") {
        said.push(Block::text(losses::string(Some(refusal), path.field("refusal"))?));
    }
    if fields.take("annotations").is_some_and(|notes| items(notes).is_none_or(|notes| !notes.is_empty())) {
        losses.lose(path.field("annotations"), "what it has said before carries no annotations")?;
    }
    if fields.take("audio").is_some() {
        losses.lose(path.field("audio"), "it has no audio")?;
    }
    if fields.take("function_call").is_some() {
        losses.lose(path.field("function_call"), "calls of functions go in `tool_calls`")?;
    }
    if let Some(calls) = fields.take("tool_calls") {
        let path = path.field("tool_calls");
        for (index, call) in losses::array(calls, path)?.into_iter().enumerate() {
            said.extend(tool_use(call, path.item(index), losses)?);
        }
    }
    Ok(said)
}

/// A call that the model has made.
fn tool_use<'a>(call: &'a RawValue, path: Path<'_>, losses: Losses<'_>) -> Result<Option<Block<'a>>, Untranslatable> {
    let mut call = losses::object(call, path)?;
    if call.take("type").is_some_and(|kind| !is_text(kind, "function")) {
        losses.lose(path, "only calls of functions are translated")?;
        return Ok(None);
    }
    let id = losses::string(call.take("id"), path.field("id"))?;
    // Left over from the chunks of a stream; the order says the same.
    let _ = call.take("index");
    let cache_control = call.take("cache_control");
    let at = path.field("function");
    let mut function = losses::object(call.take("function").ok_or_else(|| wrong(at, "an object"))?, at)?;
    losses.lose_rest(call, path)?;
    let name = losses::string(function.take("name"), at.field("name"))?;
    let input = input(function.take("arguments"), at.field("arguments"))?;
    losses.lose_rest(function, at)?;
    Ok(Some(Block::ToolUse { id, name, input, cache_control }))
}

/// The object that `arguments`, a string, must spell. Functions without parameters are often called with none at all.
fn input<'a>(arguments: Option<&'a RawValue>, path: Path<'_>) -> Result<Raw<'a>, Untranslatable> {
    let must = "a string that spells a JSON object";
    let text = match arguments {
        Some(arguments) => json::string(arguments).ok_or_else(|| wrong(path, must))?,
        None => Cow::Borrowed(""),
    };
    let text = if text.trim().is_empty() { "{}" } else { text.trim() };
    if Fields::read(text).is_none() {
        return Err(wrong(path, must));
    }
    Ok(Cow::Owned(raw(text.to_owned())))
}

/// What a tool has answered.
fn tool_result<'a>(fields: &mut Fields<'a>, path: Path<'_>, losses: Losses<'_>) -> Result<Block<'a>, Untranslatable> {
    let tool_use_id = losses::string(fields.take("tool_call_id"), path.field("tool_call_id"))?;
    // The tool's name; the call says it.
    let _ = fields.take("name");
    let mut content = blocks(fields.take("content"), path.field("content"), losses)?;
    content.retain(|block| !block.is_blank());
    let content = (!content.is_empty()).then(|| content.into());
    Ok(Block::ToolResult { tool_use_id, content, cache_control: None })
}
