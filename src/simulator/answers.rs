//! What a good provider says, so that every answer proves which prompt it answers. Pure.

use serde_json::{Value, json};

use super::ask::{Ask, Kind, fnv};
use super::reply::{Reply, ToolCall};
use super::{anthropic, events, gemini};

/// As much of a prompt as its echo repeats, in characters.
const ECHOED: usize = 200;

/// The content that a right answer to `prompt` has: `echo HASH: TEXT`, HASH being [`prompt_hash`] of the whole prompt
/// and TEXT its first 200 characters.
pub fn expected_echo(prompt: &str) -> String {
    let text: String = prompt.chars().take(ECHOED).collect();
    format!("echo {}: {text}", prompt_hash(prompt))
}

/// The hash of `prompt`, as it is in echoes and in the ledger: FNV-1a of its bytes, 64 bits, 16 hexadecimal digits.
pub fn prompt_hash(prompt: &str) -> String {
    format!("{:016x}", fnv(prompt.as_bytes()))
}

/// The embedding that a right answer has for `input` (token ids: their JSON without spaces): `dimensions` numbers in -1..1.
pub fn expected_embedding(input: &str, dimensions: usize) -> Vec<f32> {
    let seed = fnv(input.as_bytes());
    (0..dimensions as u64)
        .map(|n| {
            let hash = fnv(&(seed ^ n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_le_bytes());
            // 23 bits: exact in an f32, so that text and base64 say the same number.
            ((hash >> 41) as f32) / 4_194_304.0 - 1.0
        })
        .collect()
}

/// A good answer, whole or as a stream.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Good {
    Whole(Vec<u8>),
    Stream(Events),
}

/// The events of a stream, in the three parts by which faults place themselves.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Events {
    /// Those without content: the role, `response.created`.
    pub(super) opening: Vec<String>,
    /// Those with content; at least one.
    pub(super) content: Vec<String>,
    /// Finish reason, usage, terminal marker.
    pub(super) ending: Vec<String>,
}

/// What an answer is made of besides its call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamp {
    /// The request's number.
    pub(super) number: u64,
    /// Unix seconds.
    pub(super) created: u64,
    /// In how many pieces a stream's content comes.
    pub(super) chunks: usize,
}

/// The tokens that the answer to a call will say it used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spent {
    pub(super) prompt: u64,
    pub(super) completion: u64,
}

impl Spent {
    pub(super) fn total(self) -> u64 {
        self.prompt + self.completion
    }
}

/// Known before the answer is made: a provider's limit is charged when a call comes in.
pub(super) fn spent(ask: &Ask) -> Spent {
    if ask.kind == Kind::CountTokens {
        return Spent { prompt: 0, completion: 0 };
    }
    let completion = ask.replies.iter().map(Reply::tokens).sum::<u64>() * ask.copies as u64;
    Spent { prompt: ask.prompt_tokens(), completion }
}

/// The good answer to `ask`.
pub(super) fn good(ask: &Ask, stamp: Stamp) -> Good {
    match ask.kind {
        Kind::Generate => gemini::good(ask, stamp),
        _ if ask.stream => Good::Stream(events::stream(ask, stamp)),
        Kind::Chat => whole(chat(ask, stamp)),
        Kind::Completion => whole(completion(ask, stamp)),
        Kind::Response => whole(response(ask, stamp, "completed")),
        Kind::Embedding => whole(embeddings(ask)),
        Kind::Moderation => whole(moderations(ask)),
        Kind::Message => whole(anthropic::message(ask, stamp)),
        Kind::CountTokens => whole(anthropic::count(ask)),
    }
}

fn whole(value: Value) -> Good {
    Good::Whole(value.to_string().into_bytes())
}

/// Each answer of a call with its index: every prompt `n` times.
pub(super) fn replies(ask: &Ask) -> impl Iterator<Item = (usize, &Reply)> + '_ {
    ask.replies.iter().flat_map(|reply| std::iter::repeat_n(reply, ask.copies)).enumerate()
}

pub(super) fn usage(ask: &Ask) -> Value {
    let spent = spent(ask);
    match ask.kind {
        Kind::Response => json!({
            "input_tokens": spent.prompt, "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": spent.completion, "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": spent.total(),
        }),
        Kind::Embedding => json!({"prompt_tokens": spent.prompt, "total_tokens": spent.total()}),
        _ => json!({
            "prompt_tokens": spent.prompt, "completion_tokens": spent.completion, "total_tokens": spent.total(),
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        }),
    }
}

fn chat(ask: &Ask, stamp: Stamp) -> Value {
    let choices: Vec<Value> = replies(ask)
        .map(|(index, reply)| {
            let mut message = json!({"role": "assistant", "content": reply.text(), "refusal": null});
            if let Reply::Calls(calls) = reply {
                let calls = calls.iter().enumerate().map(|(n, call)| {
                    let function = json!({"name": call.name, "arguments": call.arguments});
                    json!({"id": call_id(stamp, index, n), "type": "function", "function": function})
                });
                message["tool_calls"] = calls.collect();
            }
            json!({"index": index, "message": message, "logprobs": null, "finish_reason": finish(reply)})
        })
        .collect();
    json!({
        "id": format!("chatcmpl-{:08x}", stamp.number), "object": "chat.completion", "created": stamp.created,
        "model": ask.model, "choices": choices, "usage": usage(ask), "system_fingerprint": "fp_simulator",
    })
}

fn completion(ask: &Ask, stamp: Stamp) -> Value {
    let choices: Vec<Value> = replies(ask)
        .map(|(index, reply)| json!({"index": index, "text": reply.text(), "logprobs": null, "finish_reason": "stop"}))
        .collect();
    json!({
        "id": format!("cmpl-{:08x}", stamp.number), "object": "text_completion", "created": stamp.created,
        "model": ask.model, "choices": choices, "usage": usage(ask),
    })
}

/// A response object; its output is there once its `status` is `completed`.
pub(super) fn response(ask: &Ask, stamp: Stamp, status: &str) -> Value {
    let done = status == "completed";
    let calls = calls(ask).iter().enumerate();
    let output = match text(ask) {
        _ if !done => json!([]),
        Some(text) => json!([message_item(stamp, &text, "completed")]),
        None => calls.map(|(n, call)| call_item(stamp, n, call, "completed")).collect(),
    };
    json!({
        "id": format!("resp_{:08x}", stamp.number), "object": "response", "created_at": stamp.created, "status": status,
        "error": null, "incomplete_details": null, "instructions": null, "metadata": {}, "model": ask.model,
        "output": output, "parallel_tool_calls": true, "temperature": 1.0, "tool_choice": "auto", "tools": [], "top_p": 1.0,
        "usage": if done { usage(ask) } else { Value::Null },
    })
}

/// Why a choice ends.
pub(super) fn finish(reply: &Reply) -> &'static str {
    if reply.calls().is_empty() { "stop" } else { "tool_calls" }
}

/// The text of a response: of all its replies, unless they are calls.
pub(super) fn text(ask: &Ask) -> Option<String> {
    replies(ask).map(|(_, reply)| reply.text()).collect()
}

/// The calls of a response.
pub(super) fn calls(ask: &Ask) -> &[ToolCall] {
    ask.replies.first().map_or(&[], Reply::calls)
}

/// The id of a tool's call: its number within one reply behind the reply's.
pub(super) fn call_id(stamp: Stamp, reply: usize, call: usize) -> String {
    format!("call_{:08x}_{reply}_{call}", stamp.number)
}

/// The same on Anthropic's face.
pub(super) fn tool_use_id(stamp: Stamp, call: usize) -> String {
    format!("toolu_{:08x}_{call}", stamp.number)
}

/// An output item of a response that calls a tool; its arguments are there once its `status` is `completed`.
pub(super) fn call_item(stamp: Stamp, n: usize, call: &ToolCall, status: &str) -> Value {
    let arguments = if status == "completed" { call.arguments.as_str() } else { "" };
    json!({
        "id": call_item_id(stamp, n), "type": "function_call", "status": status, "call_id": call_id(stamp, 0, n),
        "name": call.name, "arguments": arguments,
    })
}

pub(super) fn call_item_id(stamp: Stamp, n: usize) -> String {
    format!("fc_{:08x}_{n}", stamp.number)
}

/// The one output item of a response that is text.
pub(super) fn message_item(stamp: Stamp, text: &str, status: &str) -> Value {
    let content = if status == "completed" { json!([text_part(text)]) } else { json!([]) };
    json!({"id": item_id(stamp), "type": "message", "role": "assistant", "status": status, "content": content})
}

pub(super) fn text_part(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": []})
}

pub(super) fn item_id(stamp: Stamp) -> String {
    format!("msg_{:08x}", stamp.number)
}

fn embeddings(ask: &Ask) -> Value {
    let data: Vec<Value> = ask
        .prompts
        .iter()
        .enumerate()
        .map(|(index, input)| {
            let numbers = expected_embedding(input, ask.dimensions);
            let embedding = if ask.base64 {
                let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
                Value::String(base64(&bytes))
            } else {
                json!(numbers)
            };
            json!({"object": "embedding", "index": index, "embedding": embedding})
        })
        .collect();
    json!({"object": "list", "data": data, "model": ask.model, "usage": usage(ask)})
}

fn moderations(ask: &Ask) -> Value {
    // A score made of the prompt's hash proves whose result it is.
    let results: Vec<Value> = ask
        .prompts
        .iter()
        .map(|input| {
            let score = f64::from(expected_embedding(input, 1)[0].abs()) / 2.0;
            json!({"flagged": false, "categories": {"violence": false, "hate": false}, "category_scores": {"violence": score, "hate": 0.0}})
        })
        .collect();
    json!({"id": format!("modr-{}", prompt_hash(&ask.prompt())), "model": ask.model, "results": results})
}

/// The list of `models`.
pub(super) fn models(models: &[String], created: u64) -> Value {
    let data: Vec<Value> = models.iter().map(|id| model(id, created)).collect();
    json!({"object": "list", "data": data})
}

pub(super) fn model(id: &str, created: u64) -> Value {
    json!({"id": id, "object": "model", "created": created, "owned_by": "forebay-simulator"})
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let word = (0..3).fold(0usize, |word, n| word << 8 | usize::from(three.get(n).copied().unwrap_or(0)));
        for n in 0..4 {
            // One byte fills two digits, two fill three; the rest is padding.
            text.push(if n <= three.len() { char::from(DIGITS[word >> (18 - 6 * n) & 63]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::ask::tokens;
    use super::*;

    const STAMP: Stamp = Stamp { number: 7, created: 1_700_000_000, chunks: 4 };

    fn answer(kind: Kind, body: Value) -> Value {
        match good(&Ask::read(kind, body.to_string().as_bytes()).unwrap(), STAMP) {
            Good::Whole(bytes) => serde_json::from_slice(&bytes).unwrap(),
            Good::Stream(_) => panic!("a stream"),
        }
    }

    #[test]
    fn an_echo_names_the_whole_prompt_and_repeats_its_beginning() {
        assert_eq!(expected_echo("foobar"), "echo 85944171f73967e8: foobar");
        let long = "ü".repeat(300);
        assert!(expected_echo(&long).ends_with(&format!(": {}", "ü".repeat(200))));
        assert_ne!(expected_echo(&long), expected_echo(&"ü".repeat(301)), "the hash is of all of it");
    }

    #[test]
    fn each_kind_of_answer_proves_its_prompt_and_says_its_usage() {
        let chat = answer(Kind::Chat, json!({"model": "m", "messages": [{"role": "user", "content": "hi"}], "n": 2}));
        assert_eq!(chat["choices"][1]["message"]["content"], expected_echo("hi"));
        assert_eq!(chat["usage"]["total_tokens"], 1 + 2 * tokens(expected_echo("hi").len()));
        let completion = answer(Kind::Completion, json!({"model": "m", "prompt": ["a", "b"]}));
        assert_eq!(completion["choices"][1]["text"], expected_echo("b"));
        let response = answer(Kind::Response, json!({"model": "m", "input": "hi"}));
        assert_eq!(response["output"][0]["content"][0]["text"], expected_echo("hi"));
        assert_eq!(response["status"], "completed");
        assert!(response["usage"]["output_tokens"].as_u64().unwrap() > 0);
        let moderation = answer(Kind::Moderation, json!({"input": "hi"}));
        assert_eq!(moderation["id"], format!("modr-{}", prompt_hash("hi")));
    }

    #[test]
    fn an_embedding_is_made_of_its_own_input_in_both_formats() {
        let floats = answer(Kind::Embedding, json!({"model": "m", "input": ["a", "b"], "dimensions": 3}));
        let b: Vec<f32> = serde_json::from_value(floats["data"][1]["embedding"].clone()).unwrap();
        assert_eq!(b, expected_embedding("b", 3));
        assert_ne!(b, expected_embedding("a", 3));
        assert!(b.iter().all(|number| (-1.0..1.0).contains(number)));
        let packed =
            answer(Kind::Embedding, json!({"model": "m", "input": "b", "dimensions": 3, "encoding_format": "base64"}));
        let bytes: Vec<u8> = b.iter().flat_map(|number| number.to_le_bytes()).collect();
        assert_eq!(packed["data"][0]["embedding"], base64(&bytes));
    }

    #[test]
    fn base64_is_that_of_rfc_4648() {
        let cases =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("foobar", "Zm9vYmFy")];
        for (text, expected) in cases {
            assert_eq!(base64(text.as_bytes()), expected);
        }
    }
}
