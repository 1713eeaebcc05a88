//! Gemini's `usageMetadata` as usage.

use serde_json::value::RawValue;

use crate::messages::{Usage, json};
use crate::providers::fields::Fields;
use crate::providers::openai::written::Told;

/// Reads `usageMetadata`; `None` unless it counts something. Thoughts are written, results of tools are read.
pub(super) fn read(metadata: &RawValue) -> Option<Told> {
    let mut fields = Fields::read(metadata.get())?;
    let mut count = |name: &str| fields.take(name).and_then(json::count);
    let (prompt, results) = (count("promptTokenCount"), count("toolUsePromptTokenCount"));
    let (written, thoughts) = (count("candidatesTokenCount"), count("thoughtsTokenCount"));
    let (cached, total) = (count("cachedContentTokenCount"), count("totalTokenCount"));
    prompt.or(written).or(total)?;
    let sum = |a: Option<u64>, b: Option<u64>| a.unwrap_or(0).saturating_add(b.unwrap_or(0));
    let (input_tokens, output_tokens) = (sum(prompt, results), sum(written, thoughts));
    let usage = Usage {
        input_tokens,
        cached_input_tokens: cached.unwrap_or(0).min(input_tokens),
        output_tokens,
        total_tokens: total.unwrap_or(input_tokens.saturating_add(output_tokens)),
    };
    Some(Told::new(usage, None, Some(thoughts.unwrap_or(0))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_counts_find_their_place() {
        let read = |text| read(serde_json::from_str(text).unwrap());
        let told = read(
            r#"{"promptTokenCount":10,"toolUsePromptTokenCount":2,"cachedContentTokenCount":4,
                "candidatesTokenCount":5,"thoughtsTokenCount":7,"totalTokenCount":24}"#,
        );
        let usage = Usage { input_tokens: 12, cached_input_tokens: 4, output_tokens: 12, total_tokens: 24 };
        assert_eq!(told, Some(Told::new(usage, None, Some(7))));
        assert_eq!(read(r#"{"promptTokenCount":3}"#).unwrap().usage().total_tokens, 3);
        assert_eq!((read("{}"), read("[]"), read(r#"{"promptTokenCount":"many"}"#)), (None, None, None));
    }
}
