//! The events of a message as the chunks of a chat: each piece goes on as it comes, none waits for another.
//!
//! The end is told only behind `message_stop`: a stream that is cut before has no `finish_reason` that anyone could take for
//! one.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use serde_json::value::RawValue;

use super::answer::{explanation, text_or_none};
use super::usage::Counts;
use super::{error, finish};
use crate::messages::{Usage, json};
use crate::providers::dialect::{Events, Step};
use crate::providers::fields::{Fields, is_string};
use crate::providers::openai::written::{Chunks, DONE};
use crate::providers::sse::Event;

/// How much of one block of thinking is kept, to be given out with its signature; of a longer one only the text is told.
const MAX_KEPT: usize = 1 << 20;

/// Follows one stream from its first event to its end.
#[derive(Debug)]
pub(super) struct Reader {
    created: u64,
    tells_usage: bool,
    /// How chunks are written, once `message_start` has told id and model.
    chunks: Option<Chunks>,
    /// The blocks that are open, by Anthropic's index.
    blocks: BTreeMap<u64, Block>,
    /// Calls of tools so far: OpenAI counts them apart from other blocks.
    calls: u64,
    counts: Counts,
    /// Why the message ends, as fields of the last choice.
    finish: Option<String>,
    /// Why the model has refused, as a JSON string.
    refusal: Option<String>,
    is_ended: bool,
}

#[derive(Debug)]
enum Block {
    Call {
        index: u64,
        has_arguments: bool,
    },
    /// The insides of its text and of its signature, as JSON has them.
    Thinking {
        text: String,
        signature: String,
        is_kept: bool,
    },
    Other,
}

/// What an event has come to.
enum Said {
    /// It opens the message.
    Opening,
    Content,
    /// There is nothing in it for the caller.
    Nothing,
}

impl Reader {
    pub(super) fn new(created: u64, tells_usage: bool) -> Self {
        Self {
            created,
            tells_usage,
            chunks: None,
            blocks: BTreeMap::new(),
            calls: 0,
            counts: Counts::default(),
            finish: None,
            refusal: None,
            is_ended: false,
        }
    }

    /// Reads an event of type `kind`.
    fn event(&mut self, kind: &str, mut fields: Fields<'_>, out: &mut BytesMut) -> Result<Said, &'static str> {
        let index = fields.take("index").and_then(json::count).unwrap_or(0);
        match kind {
            "message_start" => self.start(fields.take("message"), out),
            "content_block_start" => self.open(index, fields.take("content_block"), out),
            "content_block_delta" => self.delta(index, fields.take("delta"), out),
            "content_block_stop" => self.close(index, out),
            "message_delta" => {
                if let Some(usage) = fields.take("usage") {
                    self.counts.read(usage);
                }
                if let Some(delta) = fields.take("delta").and_then(|delta| Fields::read(delta.get())) {
                    self.end(delta);
                }
                Ok(Said::Nothing)
            }
            "message_stop" => self.stop(out),
            // Pings, and what a later version of the API may bring.
            _ => Ok(Said::Nothing),
        }
    }

    fn start(&mut self, message: Option<&RawValue>, out: &mut BytesMut) -> Result<Said, &'static str> {
        if self.chunks.is_some() {
            return Err("a second message_start");
        }
        let mut message = message.and_then(|message| Fields::read(message.get())).ok_or("a start without a message")?;
        if let Some(usage) = message.take("usage") {
            self.counts.read(usage);
        }
        let (id, model) = (text_or_none(message.take("id")), text_or_none(message.take("model")));
        self.chunks = Some(Chunks::new(id.get(), self.created, model.get(), self.tells_usage));
        self.chunk(r#"{"role":"assistant","content":"","refusal":null}"#, out)?;
        Ok(Said::Opening)
    }

    fn open(&mut self, index: u64, block: Option<&RawValue>, out: &mut BytesMut) -> Result<Said, &'static str> {
        let mut block = block.and_then(|block| Fields::read(block.get())).ok_or("a block that is no object")?;
        let kind = block.take("type").and_then(json::string).unwrap_or_default();
        match &*kind {
            "text" => {
                self.blocks.insert(index, Block::Other);
                self.piece("content", block.take("text"), out)
            }
            "thinking" => {
                let thinking = Block::Thinking { text: String::new(), signature: String::new(), is_kept: true };
                self.blocks.insert(index, thinking);
                let signature = block.take("signature");
                let said = self.think(index, block.take("thinking"), out);
                self.sign(index, signature);
                said
            }
            "redacted_thinking" => {
                self.blocks.insert(index, Block::Other);
                let Some(data) = block.take("data").filter(|data| is_string(data)) else { return Ok(Said::Nothing) };
                let shown = format!(r#"{{"type":"redacted_thinking","data":{}}}"#, data.get());
                self.chunk(&format!(r#"{{"thinking_blocks":[{shown}]}}"#), out)?;
                Ok(Said::Content)
            }
            "tool_use" => {
                let call = self.calls;
                self.calls += 1;
                let (id, name) = (text_or_none(block.take("id")), text_or_none(block.take("name")));
                // It opens with `{}` and comes in pieces; a server that has it all at once puts it here.
                let input = block.take("input").map(RawValue::get).filter(|input| !is_empty_object(input));
                let arguments = serde_json::Value::from(input.unwrap_or_default());
                self.blocks.insert(index, Block::Call { index: call, has_arguments: input.is_some() });
                let function = format!(r#"{{"name":{},"arguments":{arguments}}}"#, name.get());
                let call = format!(r#"{{"index":{call},"id":{},"type":"function","function":{function}}}"#, id.get());
                self.chunk(&format!(r#"{{"tool_calls":[{call}]}}"#), out)?;
                Ok(Said::Content)
            }
            _ => {
                self.blocks.insert(index, Block::Other);
                Ok(Said::Nothing)
            }
        }
    }

    fn delta(&mut self, index: u64, delta: Option<&RawValue>, out: &mut BytesMut) -> Result<Said, &'static str> {
        let mut delta = delta.and_then(|delta| Fields::read(delta.get())).ok_or("a delta that is no object")?;
        let kind = delta.take("type").and_then(json::string).unwrap_or_default();
        match &*kind {
            "text_delta" => self.piece("content", delta.take("text"), out),
            "thinking_delta" => self.think(index, delta.take("thinking"), out),
            "signature_delta" => {
                self.sign(index, delta.take("signature"));
                Ok(Said::Nothing)
            }
            "input_json_delta" => self.arguments(index, delta.take("partial_json"), out),
            _ => Ok(Said::Nothing),
        }
    }

    fn close(&mut self, index: u64, out: &mut BytesMut) -> Result<Said, &'static str> {
        match self.blocks.remove(&index) {
            // A call without arguments: what a client puts together must be an object all the same.
            Some(Block::Call { index, has_arguments: false }) => self.call(index, r#""{}""#, out),
            Some(Block::Thinking { text, signature, is_kept: true }) if !signature.is_empty() => {
                let block = format!(r#"{{"type":"thinking","thinking":"{text}","signature":"{signature}"}}"#);
                self.chunk(&format!(r#"{{"thinking_blocks":[{block}]}}"#), out)?;
                Ok(Said::Content)
            }
            _ => Ok(Said::Nothing),
        }
    }

    /// Hears why the message ends.
    fn end(&mut self, mut delta: Fields<'_>) {
        let Some(reason) = delta.take("stop_reason").and_then(json::string) else { return };
        let (ours, native) = finish::reason(&reason);
        let native = native.map(|native| format!(r#","native_finish_reason":{}"#, serde_json::Value::from(&*native)));
        self.finish = Some(format!(r#""{ours}"{}"#, native.unwrap_or_default()));
        if reason == "refusal" {
            self.refusal = Some(explanation(delta.take("stop_details")).get().to_owned());
        }
    }

    fn stop(&mut self, out: &mut BytesMut) -> Result<Said, &'static str> {
        let finish = self.finish.take().ok_or("a message that stops without a reason")?;
        // Blocks that nobody has closed.
        while let Some(index) = self.blocks.keys().next().copied() {
            self.close(index, out)?;
        }
        if let Some(refusal) = self.refusal.take() {
            self.chunk(&format!(r#"{{"refusal":{refusal}}}"#), out)?;
        }
        self.choice("{}", &finish, out)?;
        if let (Some(chunks), Some(told)) = (&self.chunks, self.counts.told()) {
            chunks.usage(&told, self.counts.service_tier(), out);
        }
        out.extend_from_slice(DONE);
        self.is_ended = true;
        Ok(Said::Content)
    }

    /// A piece of text as it stands.
    fn piece(&self, name: &str, text: Option<&RawValue>, out: &mut BytesMut) -> Result<Said, &'static str> {
        match text.filter(|text| is_string(text) && text.get() != "\"\"") {
            Some(text) => {
                self.chunk(&format!(r#"{{"{name}":{}}}"#, text.get()), out)?;
                Ok(Said::Content)
            }
            None => Ok(Said::Nothing),
        }
    }

    fn think(&mut self, index: u64, text: Option<&RawValue>, out: &mut BytesMut) -> Result<Said, &'static str> {
        if let Some(Block::Thinking { text: kept, is_kept, .. }) = self.blocks.get_mut(&index) {
            *is_kept &= keep(kept, text);
        }
        self.piece("reasoning_content", text, out)
    }

    fn sign(&mut self, index: u64, text: Option<&RawValue>) {
        if let Some(Block::Thinking { signature, is_kept, .. }) = self.blocks.get_mut(&index) {
            *is_kept &= keep(signature, text);
        }
    }

    /// A piece of a call's arguments. Those of a server's own tools are none of the caller's.
    fn arguments(&mut self, index: u64, piece: Option<&RawValue>, out: &mut BytesMut) -> Result<Said, &'static str> {
        let piece = piece.filter(|piece| is_string(piece) && piece.get() != "\"\"");
        match (self.blocks.get_mut(&index), piece) {
            (Some(Block::Call { index, has_arguments }), Some(piece)) => {
                *has_arguments = true;
                let index = *index;
                self.call(index, piece.get(), out)
            }
            _ => Ok(Said::Nothing),
        }
    }

    fn call(&self, index: u64, arguments: &str, out: &mut BytesMut) -> Result<Said, &'static str> {
        let call = format!(r#"{{"index":{index},"function":{{"arguments":{arguments}}}}}"#);
        self.chunk(&format!(r#"{{"tool_calls":[{call}]}}"#), out)?;
        Ok(Said::Content)
    }

    fn chunk(&self, delta: &str, out: &mut BytesMut) -> Result<(), &'static str> {
        self.choice(delta, "null", out)
    }

    /// A chunk of one choice.
    fn choice(&self, delta: &str, finish: &str, out: &mut BytesMut) -> Result<(), &'static str> {
        let chunks = self.chunks.as_ref().ok_or("content before message_start")?;
        let choice = format!(r#"{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":{finish}}}"#);
        chunks.choice(&choice, out);
        Ok(())
    }
}

impl Events for Reader {
    fn read(&mut self, event: &Event, out: &mut BytesMut) -> Step {
        let data = event.data();
        let data = data.trim_ascii();
        let name = event.name();
        // What has no data says nothing; `[DONE]`, which some servers add, completes nothing here.
        if (data.is_empty() && name != Some("error")) || data == b"[DONE]" {
            return Step::Drop;
        }
        let fields = std::str::from_utf8(data).ok().and_then(Fields::read);
        if name == Some("error") {
            return failed(event.data_bytes());
        }
        let Some(mut fields) = fields else {
            let is_foreign =
                name.is_some_and(|name| !name.starts_with("message") && !name.starts_with("content_block"));
            return match is_foreign {
                true => Step::Drop,
                false => Step::Malformed { detail: "an event that is no JSON object".to_owned() },
            };
        };
        let kind = fields.take("type").and_then(json::string).map(|kind| kind.into_owned());
        let kind = kind.as_deref().or(name).unwrap_or_default();
        if kind == "error" {
            return failed(event.data_bytes());
        }
        let before = out.len();
        match self.event(kind, fields, out) {
            Ok(Said::Opening) => Step::Hold,
            Ok(Said::Content) => Step::Content,
            Ok(Said::Nothing) => Step::Drop,
            Err(detail) => {
                out.truncate(before);
                Step::Malformed { detail: detail.to_owned() }
            }
        }
    }

    fn is_complete(&self) -> bool {
        self.is_ended
    }

    fn is_ended(&self) -> bool {
        self.is_ended
    }

    fn usage(&self) -> Option<Usage> {
        self.counts.usage()
    }
}

/// The upstream's error; one that cannot be read is one all the same.
fn failed(data: Bytes) -> Step {
    let (body, status) = error::enveloped(&data)
        .or_else(|| error::enveloped(&Bytes::from_static(br#"{"type":"error"}"#)))
        .unwrap_or_default();
    Step::Error { body, status }
}

fn is_empty_object(text: &str) -> bool {
    text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).is_some_and(|inside| inside.trim().is_empty())
}

/// Puts the inside of the JSON string `text` behind `kept`; false when it does not fit.
fn keep(kept: &mut String, text: Option<&RawValue>) -> bool {
    let inside = text.filter(|text| is_string(text)).map(RawValue::get).unwrap_or("\"\"");
    let inside = &inside[1..inside.len() - 1];
    let fits = kept.len() + inside.len() <= MAX_KEPT;
    if fits {
        kept.push_str(inside);
    } else {
        // Some of it is none of it.
        *kept = String::new();
    }
    fits
}
