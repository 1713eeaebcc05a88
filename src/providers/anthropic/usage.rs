//! Tokens, counted as OpenAI counts them: Anthropic leaves what went through its cache out of `input_tokens`.

use serde_json::value::RawValue;

use crate::messages::{Usage, json};
use crate::providers::openai::written::Told;

/// What has been told so far. A stream tells it in parts, each cumulative, and some servers leave zeros where they know
/// better elsewhere: the greatest counts.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(in crate::providers) struct Counts {
    is_told: bool,
    input: u64,
    cache_read: u64,
    cache_written: u64,
    output: u64,
    thinking: Option<u64>,
    is_priority: Option<bool>,
}

impl Counts {
    /// Reads a `usage` object; what is not one tells nothing.
    pub(in crate::providers) fn read(&mut self, usage: &RawValue) {
        // Its own walk cannot fail: it is part of what has been walked over.
        let _ = json::each_field(usage.get(), |key, value| {
            let field = match key {
                "input_tokens" => &mut self.input,
                "cache_read_input_tokens" => &mut self.cache_read,
                "cache_creation_input_tokens" => &mut self.cache_written,
                "output_tokens" => &mut self.output,
                "output_tokens_details" => {
                    let _ = json::each_field(value.get(), |key, value| {
                        if key == "thinking_tokens" {
                            self.thinking = json::count(value).max(self.thinking);
                        }
                    });
                    return;
                }
                "service_tier" => {
                    match json::string(value).as_deref() {
                        Some("standard") => self.is_priority = Some(false),
                        Some("priority") => self.is_priority = Some(true),
                        _ => {}
                    }
                    return;
                }
                _ => return,
            };
            if let Some(count) = json::count(value) {
                self.is_told = true;
                *field = count.max(*field);
            }
        });
    }

    fn prompt(&self) -> u64 {
        self.input.saturating_add(self.cache_read).saturating_add(self.cache_written)
    }

    /// As accounting wants it.
    pub(in crate::providers) fn usage(&self) -> Option<Usage> {
        let (input_tokens, output_tokens) = (self.prompt(), self.output);
        let total_tokens = input_tokens.saturating_add(output_tokens);
        let cached_input_tokens = self.cache_read;
        self.is_told.then_some(Usage { input_tokens, cached_input_tokens, output_tokens, total_tokens })
    }

    /// As the caller gets it.
    pub(super) fn told(&self) -> Option<Told> {
        Some(Told::new(self.usage()?, Some(self.cache_written), self.thinking))
    }

    /// OpenAI's name of the tier that has served the request.
    pub(super) fn service_tier(&self) -> Option<&'static str> {
        self.is_priority.map(|is_priority| if is_priority { "priority" } else { "default" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(texts: &[&str]) -> Counts {
        let mut counts = Counts::default();
        for text in texts {
            counts.read(serde_json::from_str(text).unwrap());
        }
        counts
    }

    #[test]
    fn what_went_through_the_cache_is_part_of_the_prompt() {
        let usage = counts(&[
            r#"{"input_tokens":10,"cache_read_input_tokens":1000,"cache_creation_input_tokens":200,"output_tokens":1}"#,
            r#"{"output_tokens":50}"#,
        ]);
        let usage = usage.usage().unwrap();
        assert_eq!((usage.input_tokens, usage.cached_input_tokens), (1_210, 1_000));
        assert_eq!((usage.output_tokens, usage.total_tokens), (50, 1_260));
    }

    #[test]
    fn a_later_zero_takes_nothing_back_and_strange_usage_is_none() {
        let usage = counts(&[r#"{"input_tokens":10}"#, r#"{"input_tokens":0,"output_tokens":3}"#]).usage().unwrap();
        assert_eq!((usage.input_tokens, usage.output_tokens), (10, 3));
        for strange in ["null", "[]", "7", r#"{"input_tokens":null,"output_tokens":"many","new":{}}"#] {
            assert_eq!(counts(&[strange]).usage(), None, "{strange}");
        }
        let most = u64::MAX.to_string();
        let huge =
            counts(&[&format!(r#"{{"input_tokens":{most},"cache_read_input_tokens":{most},"output_tokens":1}}"#)]);
        assert_eq!(huge.usage().unwrap().total_tokens, u64::MAX);
    }
}
