//! How many tokens a call is charged.

use serde::Serialize;

/// What a call is charged in tokens, at the moment it is let in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Charge {
    /// What the answer's `usage` will say.
    #[default]
    Usage,
    /// The prompt and as many tokens as the answer might have had, however short it turns out: `max_tokens` for each of `n`
    /// answers. A call that names no `max_tokens` is charged its usage.
    Reserved,
}

impl Charge {
    /// The charge for a call of `prompt` tokens whose answers will have `completion` tokens, and may have had `most`.
    pub fn tokens(self, prompt: u64, completion: u64, most: Option<u64>) -> u64 {
        prompt.saturating_add(match self {
            Charge::Usage => completion,
            Charge::Reserved => most.unwrap_or(completion),
        })
    }
}
