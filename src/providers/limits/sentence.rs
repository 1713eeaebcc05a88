//! The sentence for people that stands in a 429 and often says more than any header: which limit, over what period, how
//! much of it is used, and what this call would have taken.
//!
//! OpenAI and Groq: "… on tokens per min (TPM): Limit 30000, Used 22999, Requested 12528. Please try again in 11.054s."
//! Anthropic: "… rate limit of 80,000 input tokens per minute", or, where traffic grew too fast, "… maximum usage increase
//! rate for input tokens per minute … Your current limit is 58,276 input tokens per minute".

use crate::messages::{BudgetReading, Dimension, Period, Scope};

/// The longest sentence searched; what matters stands early.
const MAX_READ: usize = 4 << 10;

/// A sentence about a limit, understood.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Sentence {
    pub(crate) reading: BudgetReading,
    /// What the call would have taken of the budget.
    pub(crate) requested: Option<u64>,
}

impl Sentence {
    /// Reads `message`; `None` when it names no limit.
    pub(crate) fn read(message: &str) -> Option<Self> {
        let mut end = message.len().min(MAX_READ);
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        let text = message[..end].to_ascii_lowercase();
        let (mut named, mut counted) = (None, None);
        for (at, _) in text.match_indices(" per ") {
            let Some((reading, before)) = budget(&text[..at], &text[at + " per ".len()..]) else { continue };
            named = named.or(Some(reading));
            if let Some(limit) = last_number(before) {
                counted = Some(BudgetReading { limit: Some(limit), ..reading });
                break;
            }
        }
        let mut reading = named?;
        match number_behind(&text, "limit") {
            Some(limit) => reading.limit = Some(limit),
            None => reading = counted?,
        }
        let limit = reading.limit.filter(|limit| *limit > 0)?;
        let used = number_behind(&text, "used").or_else(|| number_behind(&text, "current"));
        reading.remaining = used.map(|used| limit.saturating_sub(used));
        Some(Self { reading, requested: number_behind(&text, "requested") })
    }

    /// Whether the call would never go, however long it waited.
    pub(crate) fn can_never_fit(&self) -> bool {
        self.requested > self.reading.limit
    }
}

/// The budget that the words on both sides of a "per" name, and what stands before them.
fn budget<'a>(before: &'a str, behind: &str) -> Option<(BudgetReading, &'a str)> {
    const NAMES: [(&str, Dimension, Scope); 6] = [
        ("tokens_usage_based", Dimension::Tokens, Scope::UsageBased),
        ("input tokens", Dimension::InputTokens, Scope::Whole),
        ("prompt tokens", Dimension::InputTokens, Scope::Whole),
        ("output tokens", Dimension::OutputTokens, Scope::Whole),
        ("tokens", Dimension::Tokens, Scope::Whole),
        ("requests", Dimension::Requests, Scope::Whole),
    ];
    let word = behind.split(|char: char| !char.is_ascii_alphabetic()).next()?;
    let period = Period::of_word(word)?;
    NAMES.iter().find_map(|(name, dimension, scope)| {
        let before = before.strip_suffix(name)?;
        Some((BudgetReading::new(*dimension, *scope, Some(period)), before))
    })
}

/// The number behind the first `word` that has one: "Limit 30000", "Limit: 3 / min".
fn number_behind(text: &str, word: &str) -> Option<u64> {
    text.match_indices(word).find_map(|(at, _)| {
        let behind = text[at + word.len()..].trim_start_matches([':', ' ']);
        let length = behind.find(|char: char| !is_of_number(char)).unwrap_or(behind.len());
        number(&behind[..length])
    })
}

/// The number that `text` ends with.
fn last_number(text: &str) -> Option<u64> {
    let text = text.trim_ascii_end();
    number(&text[text.trim_end_matches(is_of_number).len()..])
}

fn is_of_number(char: char) -> bool {
    char.is_ascii_digit() || char == ','
}

/// A number with or without commas between its thousands.
fn number(text: &str) -> Option<u64> {
    text.replace(',', "").parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sentences_of_every_provider_are_understood() {
        use Dimension::*;
        for (text, dimension, scope, period, numbers) in [
            (
                "Rate limit reached for gpt-5.1 in organization org-AAA on tokens per min (TPM): Limit 30000, Used 22999, Requested 12528. Please try again in 11.054s. Visit https://platform.openai.com/account/rate-limits to learn more.",
                Tokens,
                Scope::Whole,
                "minute",
                (30_000, Some(7_001), Some(12_528)),
            ),
            (
                "Request too large for gpt-4o in organization org-1 on tokens per min (TPM): Limit 30000, Requested 45000. The input or output tokens must be reduced in order to run successfully.",
                Tokens,
                Scope::Whole,
                "minute",
                (30_000, None, Some(45_000)),
            ),
            (
                "Rate limit reached for gpt-4 in organization org-1 on tokens_usage_based per min: Limit 10000, Used 9298, Requested 1161. Please try again in 2.754s.",
                Tokens,
                Scope::UsageBased,
                "minute",
                (10_000, Some(702), Some(1_161)),
            ),
            (
                "Rate limit reached for gpt-3.5-turbo in organization org-1 on requests per day (RPD): Limit 200, Used 201, Requested 1. Please try again in 7m12s.",
                Requests,
                Scope::Whole,
                "day",
                (200, Some(0), Some(1)),
            ),
            (
                "Rate limit reached for default-gpt-3.5-turbo in organization org-1 on requests per min. Limit: 3 / min. Please try again in 20s.",
                Requests,
                Scope::Whole,
                "minute",
                (3, None, None),
            ),
            (
                "Rate limit reached for default-gpt-4 in organization org-1 on tokens per min. Limit: 40000 / min. Current: 38700 / min.",
                Tokens,
                Scope::Whole,
                "minute",
                (40_000, Some(1_300), None),
            ),
            (
                "Rate limit reached for model `llama3-70b-8192` in organization `org_1` service tier `on_demand` on input tokens per minute (ITPM): Limit 7000, Used 4472, Requested 3002.",
                InputTokens,
                Scope::Whole,
                "minute",
                (7_000, Some(2_528), Some(3_002)),
            ),
            (
                "This request would exceed your organization's rate limit of 80,000 input tokens per minute. For details, refer to: https://docs.claude.com/en/api/rate-limits.",
                InputTokens,
                Scope::Whole,
                "minute",
                (80_000, None, None),
            ),
            (
                "This request would exceed your organization's maximum usage increase rate for input tokens per minute (org: 1). Your current limit is 58,276 input tokens per minute, and will increase to 68,276 at the next minute boundary.",
                InputTokens,
                Scope::Whole,
                "minute",
                (58_276, None, None),
            ),
        ] {
            let sentence = Sentence::read(text).unwrap_or_else(|| panic!("not understood: {text}"));
            let (limit, remaining, requested) = numbers;
            let mut expected = BudgetReading::new(dimension, scope, Period::of_word(period));
            (expected.limit, expected.remaining) = (Some(limit), remaining);
            assert_eq!(sentence, Sentence { reading: expected, requested }, "{text}");
            assert_eq!(sentence.can_never_fit(), text.starts_with("Request too large"), "{text}");
        }
        for text in [
            "",
            "limit 5",
            "Too many requests per minute",
            "Limit 5 images per minute",
            "on tokens per min (TPM): Limit 0, Used 0, Requested 12000.",
            "Requests to this operation have exceeded token rate limit of your current OpenAI S0 pricing tier. Please retry after 6 seconds.",
            "on tokens per fortnight: Limit 5",
            "Limit 99999999999999999999999 requests per minute",
        ] {
            assert_eq!(Sentence::read(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(
            text in ".{0,200}",
            words in "( per |tokens|requests|input |limit|used|requested|min|day|[0-9,]{1,25}| |é|:)*",
        ) {
            for text in [text, words, "é".repeat(MAX_READ)] {
                if let Some(sentence) = Sentence::read(&text) {
                    prop_assert!(sentence.reading.limit > Some(0) && sentence.reading.remaining <= sentence.reading.limit);
                }
            }
        }
    }
}
