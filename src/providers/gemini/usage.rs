//! Gemini's `usageMetadata` as usage.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::messages::{Usage, json};
use crate::providers::fields::Fields;

/// Tokens, as OpenAI's `usage` writes them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub(super) struct Tokens {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
    prompt_tokens_details: Prompt,
    completion_tokens_details: Completion,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
struct Prompt {
    cached_tokens: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
struct Completion {
    reasoning_tokens: u64,
}

impl Tokens {
    /// Reads `usageMetadata`; `None` unless it counts something. Thoughts are written, results of tools are read.
    pub(super) fn read(metadata: &RawValue) -> Option<Self> {
        let mut fields = Fields::read(metadata.get())?;
        let mut count = |name: &str| fields.take(name).and_then(json::count);
        let (prompt, results) = (count("promptTokenCount"), count("toolUsePromptTokenCount"));
        let (written, thoughts) = (count("candidatesTokenCount"), count("thoughtsTokenCount"));
        let (cached, total) = (count("cachedContentTokenCount"), count("totalTokenCount"));
        prompt.or(written).or(total)?;
        let sum = |a: Option<u64>, b: Option<u64>| a.unwrap_or(0).saturating_add(b.unwrap_or(0));
        let (prompt_tokens, completion_tokens) = (sum(prompt, results), sum(written, thoughts));
        Some(Self {
            prompt_tokens,
            completion_tokens,
            total_tokens: total.unwrap_or(prompt_tokens.saturating_add(completion_tokens)),
            prompt_tokens_details: Prompt { cached_tokens: cached.unwrap_or(0) },
            completion_tokens_details: Completion { reasoning_tokens: thoughts.unwrap_or(0) },
        })
    }

    /// The same for forebay's own accounts.
    pub(super) fn usage(self) -> Usage {
        Usage {
            input_tokens: self.prompt_tokens,
            cached_input_tokens: self.prompt_tokens_details.cached_tokens.min(self.prompt_tokens),
            output_tokens: self.completion_tokens,
            total_tokens: self.total_tokens,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_counts_find_their_place() {
        let read = |text| Tokens::read(serde_json::from_str(text).unwrap());
        let tokens = read(
            r#"{"promptTokenCount":10,"toolUsePromptTokenCount":2,"cachedContentTokenCount":4,
                "candidatesTokenCount":5,"thoughtsTokenCount":7,"totalTokenCount":24}"#,
        );
        let tokens = tokens.unwrap();
        assert_eq!(
            tokens.usage(),
            Usage { input_tokens: 12, cached_input_tokens: 4, output_tokens: 12, total_tokens: 24 }
        );
        assert_eq!(
            (tokens.prompt_tokens_details.cached_tokens, tokens.completion_tokens_details.reasoning_tokens),
            (4, 7)
        );
        assert_eq!(read(r#"{"promptTokenCount":3}"#).unwrap().usage().total_tokens, 3);
        assert_eq!((read("{}"), read("[]"), read(r#"{"promptTokenCount":"many"}"#)), (None, None, None));
    }
}
