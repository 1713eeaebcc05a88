//! Gemini's `logprobsResult` as OpenAI's `logprobs`.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::messages::json;
use crate::providers::fields::{Fields, below, is_string, items};

/// How probable each token was.
#[derive(Debug, Serialize)]
pub(super) struct Logprobs<'a> {
    content: Vec<Token<'a>>,
    refusal: Option<()>,
}

#[derive(Debug, Serialize)]
struct Token<'a> {
    token: &'a RawValue,
    logprob: f64,
    bytes: Option<Vec<u8>>,
    top_logprobs: Vec<Guess<'a>>,
}

#[derive(Debug, Serialize)]
struct Guess<'a> {
    token: &'a RawValue,
    logprob: f64,
    /// The token's text in UTF-8; null where it is no whole text.
    bytes: Option<Vec<u8>>,
}

impl<'a> Logprobs<'a> {
    /// Reads `logprobsResult`; `None` when no token is in it.
    pub(super) fn read(result: &'a RawValue) -> Option<Self> {
        let mut fields = Fields::read(result.get())?;
        let chosen = fields.take("chosenCandidates").and_then(items).unwrap_or_default();
        let top = fields.take("topCandidates").and_then(items).unwrap_or_default();
        let mut top = top.into_iter().map(|step| {
            let list = below(step, &["candidates"]).and_then(items);
            list.unwrap_or_default().into_iter().filter_map(Guess::read).collect::<Vec<_>>()
        });
        let mut content = Vec::with_capacity(chosen.len());
        for token in chosen {
            // Both lists go step by step, so that a step that cannot be read must not shift the others.
            let top_logprobs = top.next().unwrap_or_default();
            let Some(Guess { token, logprob, bytes }) = Guess::read(token) else { continue };
            content.push(Token { token, logprob, bytes, top_logprobs });
        }
        (!content.is_empty()).then_some(Self { content, refusal: None })
    }
}

impl<'a> Guess<'a> {
    fn read(guess: &'a RawValue) -> Option<Self> {
        let mut fields = Fields::read(guess.get())?;
        let token = fields.take("token").filter(|token| is_string(token))?;
        let logprob = fields.take("logProbability").and_then(|number| number.get().parse::<f64>().ok());
        let bytes = json::string(token).map(|text| text.as_bytes().to_vec());
        // A certain token's logarithm is zero, which protobuf's JSON leaves out. What is beyond numbers is unlikely.
        Some(Self { token, logprob: logprob.unwrap_or(0.0).max(-9999.0), bytes })
    }
}
