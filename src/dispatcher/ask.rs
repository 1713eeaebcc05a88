//! What a call asks of an account's budgets.

use crate::messages::{Priority, Tokens};

/// A group of models whose calls a lane keeps apart from the others': a provider may limit each.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub(crate) struct Group(pub(crate) u32);

/// One call, as far as a budget is concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ask {
    pub(crate) group: Group,
    /// What it may cost, estimated.
    pub(crate) tokens: Tokens,
    pub(crate) priority: Priority,
}
