//! What a provider says of its own limits, in one form whoever says it.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);
const MONTH: Duration = Duration::from_secs(30 * 86_400);

/// What a limit counts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Dimension {
    /// Attempts.
    Requests,
    /// Tokens read and written, together.
    Tokens,
    /// Tokens read.
    InputTokens,
    /// Tokens written.
    OutputTokens,
}

impl fmt::Display for Dimension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Dimension::Requests => "requests",
            Dimension::Tokens => "tokens",
            Dimension::InputTokens => "input tokens",
            Dimension::OutputTokens => "output tokens",
        })
    }
}

/// Whose budget it is, where a provider keeps several of one dimension.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Scope {
    /// The one that most providers have only.
    Whole,
    /// OpenAI's project, within its organisation.
    Project,
    /// OpenAI's second counter of tokens.
    UsageBased,
    /// Anthropic's committed capacity.
    Priority,
    /// Together's limit of the moment, which follows what was answered lately.
    Dynamic,
}

/// The time over which a limit counts; a provider may have any.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Period(pub(crate) Duration);

impl Period {
    pub(crate) const SECOND: Period = Period(SECOND);
    pub(crate) const MINUTE: Period = Period(MINUTE);
    pub(crate) const DAY: Period = Period(DAY);

    /// The period of a word as providers write it; `None` when it is none.
    pub(crate) fn of_word(word: &str) -> Option<Self> {
        Some(Period(match word {
            "second" | "seconds" | "sec" => SECOND,
            "minute" | "minutes" | "min" => MINUTE,
            "hour" | "hours" => HOUR,
            "day" | "days" => DAY,
            "month" | "months" => MONTH,
            _ => return None,
        }))
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            SECOND => f.write_str("second"),
            MINUTE => f.write_str("minute"),
            HOUR => f.write_str("hour"),
            DAY => f.write_str("day"),
            MONTH => f.write_str("month"),
            other => write!(f, "{} s", other.as_secs_f64()),
        }
    }
}

/// When a budget is whole again, from the moment of the response on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Reset {
    pub(crate) after: Duration,
    /// How coarsely it was told: the truth lies within so much of it. Who reckons a period from it must know.
    pub(crate) grain: Duration,
}

/// What was said of one budget. `limit` or `remaining` is there, and no more remains than the limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct BudgetReading {
    pub(crate) dimension: Dimension,
    pub(crate) scope: Scope,
    /// Where it was said or the words used imply it.
    pub(crate) period: Option<Period>,
    /// Never 0: a limit of nothing is how some providers say that they do not know.
    pub(crate) limit: Option<u64>,
    pub(crate) remaining: Option<u64>,
    pub(crate) reset: Option<Reset>,
}

impl BudgetReading {
    /// A reading of which nothing is known yet.
    pub(crate) fn new(dimension: Dimension, scope: Scope, period: Option<Period>) -> Self {
        Self { dimension, scope, period, limit: None, remaining: None, reset: None }
    }

    /// Whether both speak of one budget. A sentence often names the period that headers leave out: the same limit is then
    /// taken for the same budget.
    pub(crate) fn is_of_same_budget(&self, other: &Self) -> bool {
        let is_told = self.period.is_some() && other.period.is_some();
        let may_be = self.period == other.period || (!is_told && self.limit.is_some() && self.limit == other.limit);
        self.dimension == other.dimension && self.scope == other.scope && may_be
    }
}

/// What one response said of the account's limits; empty for most providers' and most errors' responses.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct LimitReport {
    pub(crate) budgets: Vec<BudgetReading>,
    /// The tokens this very request is charged, where the provider says so.
    pub(crate) cost: Option<u64>,
}

impl LimitReport {
    /// Whether nothing was said.
    pub(crate) fn is_empty(&self) -> bool {
        self.budgets.is_empty() && self.cost.is_none()
    }
}
