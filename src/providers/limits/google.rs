//! The quotas that Google's errors name: `QuotaFailure.violations[]`. Its responses have no headers about limits at all.

use serde_json::Value;

use crate::messages::{BudgetReading, Dimension, Period, Scope};

/// Reads one violation: `quotaId` names what is counted and over what period, `quotaValue` is the limit.
pub(crate) fn quota(violation: &Value) -> Option<BudgetReading> {
    let id = violation.get("quotaId")?.as_str()?;
    let has = |word: &str| id.contains(word);
    let dimension = match () {
        () if has("InputToken") => Dimension::InputTokens,
        () if has("OutputToken") => Dimension::OutputTokens,
        () if has("Token") => Dimension::Tokens,
        () if has("Request") => Dimension::Requests,
        () => return None,
    };
    let period = ["Second", "Minute", "Hour", "Day"].iter().find(|word| id.contains(&format!("Per{word}")));
    let mut reading =
        BudgetReading::new(dimension, Scope::Whole, period.and_then(|word| Period::of_word(&word.to_lowercase())));
    // An int64, which proto's JSON writes as a string.
    reading.limit = match violation.get("quotaValue") {
        Some(Value::String(text)) => text.parse().ok(),
        Some(value) => value.as_u64(),
        None => None,
    };
    // Of tokens something may be left that was not enough.
    reading.remaining = (dimension == Dimension::Requests).then_some(0);
    Some(reading)
}
