//! What a call asks for: its body read as far as an answer needs it. Pure.

use serde_json::Value;

use super::face::Face;
use super::reply::Reply;

/// The calls that are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Chat,
    Completion,
    Embedding,
    Response,
    Moderation,
    /// Anthropic's.
    Message,
    /// Anthropic's count of a message's tokens.
    CountTokens,
    /// Google's `generateContent`, whole or as a stream.
    Generate,
}

impl Kind {
    /// The call at `path`, with or without the leading `/v1`.
    pub(super) fn at(path: &str) -> Option<Kind> {
        match path.strip_prefix("/v1").unwrap_or(path) {
            "/chat/completions" => Some(Kind::Chat),
            "/completions" => Some(Kind::Completion),
            "/embeddings" => Some(Kind::Embedding),
            "/responses" => Some(Kind::Response),
            "/moderations" => Some(Kind::Moderation),
            "/messages" => Some(Kind::Message),
            "/messages/count_tokens" => Some(Kind::CountTokens),
            _ => super::gemini::at(path).map(|_| Kind::Generate),
        }
    }

    /// Its name in the ledger.
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Chat => "chat/completions",
            Kind::Completion => "completions",
            Kind::Embedding => "embeddings",
            Kind::Response => "responses",
            Kind::Moderation => "moderations",
            Kind::Message => "messages",
            Kind::CountTokens => "messages/count_tokens",
            Kind::Generate => "generateContent",
        }
    }

    /// The protocol it is of.
    pub(super) fn face(self) -> Face {
        match self {
            Kind::Message | Kind::CountTokens => Face::Anthropic,
            Kind::Generate => Face::Google,
            Kind::Chat | Kind::Completion | Kind::Embedding | Kind::Response | Kind::Moderation => Face::OpenAi,
        }
    }
}

/// One call, read.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ask {
    pub(super) kind: Kind,
    pub(super) model: String,
    /// The texts to answer: the last user message or a tool's result behind it, or each input.
    pub(super) prompts: Vec<String>,
    /// What is said to each prompt; nothing where numbers are the answer.
    pub(super) replies: Vec<Reply>,
    /// The bytes of all texts of the call, from which tokens are counted.
    pub(super) text_bytes: usize,
    /// How many times each text is answered (`n`).
    pub(super) copies: usize,
    /// How many tokens all its answers together may have, if it says so.
    pub(super) most_tokens: Option<u64>,
    pub(super) stream: bool,
    pub(super) include_usage: bool,
    /// Embeddings as base64 instead of numbers.
    pub(super) base64: bool,
    /// The length of an embedding.
    pub(super) dimensions: usize,
}

/// More answers than this in one call are refused: inputs, or `n`.
const MAX_ANSWERS: usize = 2048;
/// The longest embedding that is made.
const MAX_DIMENSIONS: u64 = 4096;
/// Short, so that a ledger or a log stays readable; real ones are a hundred times longer.
const DIMENSIONS: u64 = 16;

impl Ask {
    /// Reads `body`; an error is the text of a 400.
    pub(super) fn read(kind: Kind, body: &[u8]) -> Result<Ask, String> {
        let body: Value = serde_json::from_slice(body).map_err(|error| format!("the body is not JSON: {error}"))?;
        if !body.is_object() {
            return Err("the body is not a JSON object".to_owned());
        }
        let model = match (&body["model"], kind) {
            (Value::String(model), _) if !model.is_empty() => model.clone(),
            (Value::Null, Kind::Moderation) => "omni-moderation-latest".to_owned(),
            _ => return Err("you must provide a model parameter".to_owned()),
        };
        let (prompts, text_bytes) = match kind {
            Kind::Chat => chat(&body["messages"])?,
            Kind::Message | Kind::CountTokens => {
                let (prompts, bytes) = chat(&body["messages"])?;
                (prompts, bytes + text(&body["system"]).len())
            }
            Kind::Generate => return Err("its model stands in its path".to_owned()),
            Kind::Response => response(&body["input"])?,
            Kind::Completion => inputs(&body["prompt"], "prompt")?,
            Kind::Embedding | Kind::Moderation => inputs(&body["input"], "input")?,
        };
        if kind == Kind::Message && body["max_tokens"].as_u64().is_none_or(|most| most == 0) {
            return Err("max_tokens: Field required".to_owned());
        }
        let copies = body["n"].as_u64().unwrap_or(1).max(1);
        let copies = usize::try_from(copies).unwrap_or(usize::MAX);
        if copies.saturating_mul(prompts.len()) > MAX_ANSWERS {
            return Err(format!("more than {MAX_ANSWERS} answers in one call"));
        }
        let replies = match kind {
            Kind::Embedding | Kind::Moderation | Kind::CountTokens => Vec::new(),
            _ => prompts.iter().map(|prompt| Reply::to(kind, &body, prompt)).collect::<Result<_, _>>()?,
        };
        // The same under the names of three ages.
        let most = ["max_completion_tokens", "max_output_tokens", "max_tokens"];
        let most = most.iter().find_map(|name| body[name].as_u64());
        let answers = u64::try_from(copies * prompts.len()).unwrap_or(u64::MAX);
        let dimensions = body["dimensions"].as_u64().unwrap_or(DIMENSIONS).clamp(1, MAX_DIMENSIONS);
        Ok(Ask {
            kind,
            model,
            prompts,
            replies,
            text_bytes,
            copies,
            most_tokens: most.map(|most| most.saturating_mul(answers)),
            stream: matches!(kind, Kind::Chat | Kind::Completion | Kind::Response | Kind::Message)
                && body["stream"] == Value::Bool(true),
            include_usage: body["stream_options"]["include_usage"] == Value::Bool(true),
            base64: body["encoding_format"] == "base64",
            dimensions: usize::try_from(dimensions).unwrap_or(1),
        })
    }

    /// The exact text that this call's hash in the ledger is made of.
    pub(super) fn prompt(&self) -> String {
        self.prompts.join("\n")
    }

    pub(super) fn prompt_tokens(&self) -> u64 {
        tokens(self.text_bytes)
    }
}

/// About as many tokens as `bytes` of text have.
pub(super) fn tokens(bytes: usize) -> u64 {
    u64::try_from(bytes.div_ceil(4)).unwrap_or(u64::MAX).max(1)
}

fn chat(messages: &Value) -> Result<(Vec<String>, usize), String> {
    let messages = messages.as_array().ok_or("`messages` must be an array")?;
    let bytes = messages.iter().map(|message| text(&message["content"]).len()).sum();
    let is_asked = |message: &&Value| message["role"] == "user" || message["role"] == "tool";
    let last = messages.iter().rev().find(is_asked).or(messages.last());
    Ok((vec![last.map(|message| text(&message["content"])).unwrap_or_default()], bytes))
}

fn response(input: &Value) -> Result<(Vec<String>, usize), String> {
    match input {
        Value::String(text) => Ok((vec![text.clone()], text.len())),
        // A tool's result is an item without a role.
        Value::Array(items) if items.last().is_some_and(|item| item["type"] == "function_call_output") => {
            let (_, bytes) = chat(input)?;
            let output = items.last().map(|item| text(&item["output"])).unwrap_or_default();
            let bytes = bytes + output.len();
            Ok((vec![output], bytes))
        }
        Value::Array(_) => chat(input),
        _ => Err("`input` must be a string or an array".to_owned()),
    }
}

/// One text or several; token ids stand for a text, as their own JSON.
fn inputs(input: &Value, name: &str) -> Result<(Vec<String>, usize), String> {
    let texts = match input {
        Value::Array(items) if items.iter().all(Value::is_number) && !items.is_empty() => vec![input.to_string()],
        Value::Array(items) if !items.is_empty() => items.iter().map(text).collect(),
        Value::String(_) => vec![text(input)],
        _ => return Err(format!("`{name}` must be a string or an array that is not empty")),
    };
    let bytes = texts.iter().map(String::len).sum();
    Ok((texts, bytes))
}

/// The text of a `content`: a string, or the text parts of an array put together; anything else as its own JSON.
fn text(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        Value::Array(parts) if parts.iter().any(Value::is_object) => {
            // A tool's result lies in a part of its own on Anthropic's face.
            let of =
                |part: &Value| if part["type"] == "tool_result" { text(&part["content"]) } else { text(&part["text"]) };
            parts.iter().map(of).collect()
        }
        Value::Object(part) if part.contains_key("text") => text(&content["text"]),
        other => other.to_string(),
    }
}

/// FNV-1a, 64 bits: the same on every machine and in every version.
pub(super) fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(kind: Kind, body: &str) -> Ask {
        Ask::read(kind, body.as_bytes()).unwrap()
    }

    #[test]
    fn the_last_user_message_is_the_prompt() {
        let ask = read(
            Kind::Chat,
            r#"{"model":"m","stream":true,"messages":[{"role":"system","content":"be brief"},{"role":"user","content":"one"},
               {"role":"assistant","content":"1"},{"role":"user","content":[{"type":"text","text":"tw"},
               {"type":"image_url","image_url":{"url":"x"}},{"type":"text","text":"o"}]}]}"#,
        );
        assert_eq!(ask.prompts, ["two"]);
        assert_eq!(ask.text_bytes, "be briefone1two".len());
        assert!(ask.stream && !ask.include_usage);
    }

    #[test]
    fn a_responses_input_may_be_text_or_items() {
        assert_eq!(read(Kind::Response, r#"{"model":"m","input":"hi"}"#).prompts, ["hi"]);
        let items = r#"{"model":"m","input":[{"role":"user","content":[{"type":"input_text","text":"hi"}]}]}"#;
        assert_eq!(read(Kind::Response, items).prompts, ["hi"]);
    }

    #[test]
    fn embeddings_take_texts_and_token_ids() {
        assert_eq!(read(Kind::Embedding, r#"{"model":"m","input":"a"}"#).prompts, ["a"]);
        assert_eq!(read(Kind::Embedding, r#"{"model":"m","input":["a","b"]}"#).prompts, ["a", "b"]);
        assert_eq!(read(Kind::Embedding, r#"{"model":"m","input":[1,2]}"#).prompts, ["[1,2]"]);
        assert_eq!(read(Kind::Embedding, r#"{"model":"m","input":[[1],[2,3]]}"#).prompts, ["[1]", "[2,3]"]);
    }

    #[test]
    fn only_moderations_may_come_without_a_model() {
        assert!(Ask::read(Kind::Moderation, br#"{"input":"a"}"#).is_ok());
        assert!(Ask::read(Kind::Chat, br#"{"messages":[]}"#).is_err());
    }

    #[test]
    fn what_is_no_call_is_an_error_and_no_panic() {
        for body in [
            "",
            "[]",
            "{",
            r#"{"model":"m"}"#,
            r#"{"model":7,"messages":[]}"#,
            r#"{"model":"m","messages":[],"n":9999999999}"#,
        ] {
            assert!(Ask::read(Kind::Chat, body.as_bytes()).is_err(), "{body}");
        }
        assert!(Ask::read(Kind::Embedding, br#"{"model":"m","input":[]}"#).is_err());
        assert_eq!(read(Kind::Chat, r#"{"model":"m","messages":[7,null]}"#).prompts, [""]);
    }

    #[test]
    fn the_hash_is_fnv_1a() {
        assert_eq!(fnv(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
