//! What a message has used, as Anthropic counts it: input apart by what a cache had to do with it.

use serde_json::value::RawValue;

use crate::messages::{Usage, json};

/// What has been told so far. Streams tell the input first and the output last, and may tell each again; what is told
/// later holds.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Counted {
    input: Option<u64>,
    cache_creation: Option<u64>,
    cache_read: Option<u64>,
    output: Option<u64>,
}

impl Counted {
    /// Adds what a `usage` object tells; anything else tells nothing.
    pub(super) fn add(&mut self, usage: &RawValue) {
        if !json::is_object(usage) {
            return;
        }
        // Part of what has been walked over as a whole: it is an object, and cannot fail.
        let _ = json::each_field(usage.get(), |key, value| {
            let field = match key {
                "input_tokens" => &mut self.input,
                "cache_creation_input_tokens" => &mut self.cache_creation,
                "cache_read_input_tokens" => &mut self.cache_read,
                "output_tokens" => &mut self.output,
                _ => return,
            };
            *field = json::count(value).or(*field);
        });
    }

    /// All of it; `None` when nothing was told.
    pub(super) fn usage(&self) -> Option<Usage> {
        let read = [self.input, self.cache_creation, self.cache_read];
        if read.iter().all(Option::is_none) && self.output.is_none() {
            return None;
        }
        let input_tokens = read.into_iter().flatten().fold(0, u64::saturating_add);
        let output_tokens = self.output.unwrap_or(0);
        Some(Usage { input_tokens, output_tokens, total_tokens: input_tokens.saturating_add(output_tokens) })
    }
}
