//! Tokens that a call reads and writes, apart: some providers limit each.

/// So many tokens in, so many out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Tokens {
    pub(crate) input: u64,
    pub(crate) output: u64,
}

impl Tokens {
    pub(crate) fn total(self) -> u64 {
        self.input.saturating_add(self.output)
    }

    /// Whether `other` is as many of each at least.
    pub(crate) fn is_within(self, other: Self) -> bool {
        self.input <= other.input && self.output <= other.output
    }
}
