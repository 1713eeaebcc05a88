//! What a header's name says: providers put the same few words in different orders.

use crate::messages::{Dimension, Period, Scope};

/// What the value of a header is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    Limit,
    Remaining,
    Reset,
    /// What this request is charged.
    Cost,
}

/// A header's name, understood.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Name {
    pub(super) role: Role,
    pub(super) dimension: Dimension,
    pub(super) scope: Scope,
    pub(super) period: Option<Period>,
}

/// How such names begin, and what that alone says of the budget. Anthropic documents all its limits per minute, Together
/// its limits per second; `bysize` is Mistral's word for tokens.
const FAMILIES: [(&str, Dimension, Scope, Option<Period>); 8] = [
    ("x-ratelimit-", Dimension::Requests, Scope::Whole, None),
    ("x-rate-limit-", Dimension::Requests, Scope::Whole, None),
    ("ratelimit-", Dimension::Requests, Scope::Whole, None),
    ("anthropic-ratelimit-", Dimension::Requests, Scope::Whole, Some(Period::MINUTE)),
    ("anthropic-priority-", Dimension::Requests, Scope::Priority, Some(Period::MINUTE)),
    (TOGETHER, Dimension::Tokens, Scope::Whole, Some(Period::SECOND)),
    ("x-ratelimitbysize-", Dimension::Tokens, Scope::Whole, None),
    ("ratelimitbysize-", Dimension::Tokens, Scope::Whole, None),
];

/// How Together's headers about tokens begin, and nobody else's.
const TOGETHER: &str = "x-tokenlimit-";

/// Whether the provider that sends a header of this name counts by the second.
pub(super) fn counts_by_the_second(name: &str) -> bool {
    name.starts_with(TOGETHER)
}

/// Understands `name`, which is in lower case as [`HeaderName`](http::header::HeaderName) always is. `None` when it is not
/// about limits, or has a word that is not known: what counts images or cached tokens must not pass for what counts tokens.
pub(super) fn read(name: &str) -> Option<Name> {
    let (rest, family) = FAMILIES.iter().find_map(|family| name.strip_prefix(family.0).map(|rest| (rest, family)))?;
    let (_, mut dimension, mut scope, mut period) = *family;
    let (mut role, mut side) = (None, None);
    for word in rest.split(['-', '_']) {
        match word {
            "limit" => role = Some(Role::Limit),
            "remaining" => role = Some(Role::Remaining),
            "reset" => role = Some(Role::Reset),
            "cost" => role = Some(Role::Cost),
            "requests" | "request" | "req" => dimension = Dimension::Requests,
            "tokens" | "token" => dimension = Dimension::Tokens,
            "input" | "prompt" => side = Some(Dimension::InputTokens),
            "output" | "generated" | "completion" => side = Some(Dimension::OutputTokens),
            "project" => scope = Scope::Project,
            "usage" => scope = Scope::UsageBased,
            "dynamic" => scope = Scope::Dynamic,
            // Of `usage_based` and `query-cost`.
            "based" | "query" => {}
            word => period = Some(Period::of_word(word)?),
        }
    }
    match side {
        Some(side) if dimension == Dimension::Tokens => dimension = side,
        Some(_) => return None, // input images
        None => {}
    }
    Some(Name { role: role?, dimension, scope, period })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_understood_whoever_sends_them() {
        use Dimension::*;
        use Role::*;
        let (second, minute, day) = (Some(Period::SECOND), Some(Period::MINUTE), Some(Period::DAY));
        let month = Period::of_word("month");
        for (name, role, dimension, scope, period) in [
            ("x-ratelimit-limit-requests", Limit, Requests, Scope::Whole, None),
            ("x-ratelimit-reset-tokens", Reset, Tokens, Scope::Whole, None),
            ("x-ratelimit-remaining-tokens_usage_based", Remaining, Tokens, Scope::UsageBased, None),
            ("x-ratelimit-remaining-project-tokens", Remaining, Tokens, Scope::Project, None),
            ("x-ratelimit-limit-project-requests", Limit, Requests, Scope::Project, None),
            ("anthropic-ratelimit-requests-limit", Limit, Requests, Scope::Whole, minute),
            ("anthropic-ratelimit-input-tokens-remaining", Remaining, InputTokens, Scope::Whole, minute),
            ("anthropic-ratelimit-output-tokens-reset", Reset, OutputTokens, Scope::Whole, minute),
            ("anthropic-priority-input-tokens-limit", Limit, InputTokens, Scope::Priority, minute),
            ("x-ratelimit-limit-req-minute", Limit, Requests, Scope::Whole, minute),
            ("x-ratelimit-remaining-tokens-month", Remaining, Tokens, Scope::Whole, month),
            ("x-ratelimit-tokens-query-cost", Cost, Tokens, Scope::Whole, None),
            ("ratelimitbysize-query-cost", Cost, Tokens, Scope::Whole, None),
            ("x-ratelimitbysize-limit-minute", Limit, Tokens, Scope::Whole, minute),
            ("x-ratelimit-remaining-requests-day", Remaining, Requests, Scope::Whole, day),
            ("x-ratelimit-limit", Limit, Requests, Scope::Whole, None),
            ("x-ratelimit-limit-dynamic", Limit, Requests, Scope::Dynamic, None),
            ("x-tokenlimit-remaining-dynamic", Remaining, Tokens, Scope::Dynamic, second),
            ("x-ratelimit-limit-tokens-prompt", Limit, InputTokens, Scope::Whole, None),
            ("x-ratelimit-limit-tokens-generated", Limit, OutputTokens, Scope::Whole, None),
            ("ratelimit-remaining", Remaining, Requests, Scope::Whole, None),
            ("x-rate-limit-reset", Reset, Requests, Scope::Whole, None),
        ] {
            assert_eq!(read(name), Some(Name { role, dimension, scope, period }), "{name}");
        }
    }

    #[test]
    fn names_with_unknown_words_are_left_alone() {
        for name in [
            "x-ratelimit-limit-images",
            "x-ratelimit-limit-input-images",
            "x-ratelimit-limit-input-requests",
            "x-ratelimit-limit-tokens-cache-adjusted-prompt",
            "x-ratelimit-over-limit",
            "x-ratelimit-used",
            "x-ratelimit-resource",
            "x-ratelimit-requests",
            "x-ratelimit-",
            "x-ratelimit",
            "ratelimit",
            "ratelimit-policy",
            "anthropic-ratelimit-unified-reset",
            "x-ratelimit-limit-",
            "content-length",
            "retry-after",
            "",
        ] {
            assert_eq!(read(name), None, "{name}");
        }
    }
}
