//! How much a model may think and write: both are one limit there, and the words for thinking differ by family.
//!
//! | `reasoning_effort` | models up to 4.5, in tokens of budget | later ones, in `output_config.effort` |
//! |---|---|---|
//! | `none` | no thinking, as without it | `thinking` disabled |
//! | `minimal` | 1,024 | `low` |
//! | `low` | 2,048 | `low` |
//! | `medium` | 8,192 | `medium` |
//! | `high` | 16,384 | `high` |
//! | `xhigh`, `max` | 23,552 | `xhigh`, `max` |
//!
//! A budget is at most half of what the caller allows for the whole answer, but never under 1,024. Later models are asked
//! to think adaptively, unless a tool is forced on them, which they do not take along with it. The caller's own `thinking`
//! passes as it is.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::content::Raw;
use crate::messages::json;
use crate::providers::dialect::Untranslatable;
use crate::providers::fields::{Fields, Path, raw};
use crate::providers::losses::{Losses, wrong};

/// The smallest budget of thinking there is.
const MIN_BUDGET: u64 = 1_024;

/// What is left for the answer beside a budget of thinking, where the caller sets no limit.
const ROOM: u64 = 8_192;

/// The limits of one answer.
pub(super) struct Plan<'a> {
    /// The API insists on one; this is the caller's, or what its model can always do.
    pub(super) max_tokens: u64,
    pub(super) thinking: Option<Raw<'a>>,
    pub(super) effort: Option<&'static str>,
}

/// What `model` understands of thinking.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Family {
    /// Before 3.7: nothing.
    Plain,
    /// From 3.7 to 4.5: a budget of tokens.
    Budget,
    /// Everything since, and names that nobody here knows: an effort.
    Effort,
}

/// Takes what the caller says of limits and thinking. `is_forced`: the model has no choice but to call a tool.
pub(super) fn plan<'a>(
    fields: &mut Fields<'a>,
    model: &str,
    is_forced: bool,
    losses: Losses<'_>,
) -> Result<Plan<'a>, Untranslatable> {
    let model = model.to_ascii_lowercase().replace('.', "-");
    let limit = limit(fields, "max_completion_tokens")?;
    // The same under its older name: of two, the smaller keeps both.
    let limit = self::limit(fields, "max_tokens")?.into_iter().chain(limit).min();
    let own = fields.take("thinking");
    let mut plan = Plan { max_tokens: limit.unwrap_or(default_limit(&model)), thinking: None, effort: None };
    if let Some(own) = own {
        plan.thinking = Some(Cow::Borrowed(own));
        let budget = Fields::read(own.get()).and_then(|mut own| own.take("budget_tokens")).and_then(json::count);
        if let (None, Some(budget)) = (limit, budget) {
            plan.max_tokens = plan.max_tokens.max(budget.saturating_add(ROOM));
        }
    }
    let Some(effort) = fields.take("reasoning_effort") else { return Ok(plan) };
    let path = Path::Root.field("reasoning_effort");
    let effort = json::string(effort).unwrap_or_default();
    let Some((effort, budget)) = read(&effort) else {
        losses.lose(path, "it knows none, minimal, low, medium, high, xhigh and max")?;
        return Ok(plan);
    };
    match (family(&model), effort) {
        (Family::Plain | Family::Budget, None) => {}
        (Family::Plain, Some(_)) => losses.lose(path, "this model does not think")?,
        (Family::Budget, Some(_)) if own.is_some() => losses.lose(path, "`thinking` has said it already")?,
        (Family::Budget, Some(_)) if is_forced => losses.lose(path, "it does not think where a tool is forced")?,
        (Family::Budget, Some(_)) if plan.max_tokens <= MIN_BUDGET => {
            losses.lose(path, "thinking takes more than 1024 tokens, which `max_tokens` does not allow")?;
        }
        (Family::Budget, Some(_)) => {
            let budget = match limit {
                Some(limit) => budget.min((limit / 2).max(MIN_BUDGET)),
                None => budget,
            };
            if limit.is_none() {
                plan.max_tokens = budget + ROOM;
            }
            plan.thinking = Some(Cow::Owned(raw(format!(r#"{{"type":"enabled","budget_tokens":{budget}}}"#))));
        }
        (Family::Effort, None) if own.is_none() => plan.thinking = Some(thinking("disabled")),
        (Family::Effort, effort) => {
            plan.effort = effort;
            if own.is_none() && !is_forced {
                plan.thinking = Some(thinking("adaptive"));
            }
        }
    }
    Ok(plan)
}

fn thinking(kind: &str) -> Raw<'static> {
    Cow::Owned(raw(format!(r#"{{"type":"{kind}"}}"#)))
}

/// A word for effort and a budget of tokens, from the caller's word.
fn read(effort: &str) -> Option<(Option<&'static str>, u64)> {
    Some(match effort {
        "none" => (None, 0),
        "minimal" => (Some("low"), MIN_BUDGET),
        "low" => (Some("low"), 2_048),
        "medium" => (Some("medium"), 8_192),
        "high" => (Some("high"), 16_384),
        "xhigh" => (Some("xhigh"), 23_552),
        "max" => (Some("max"), 23_552),
        _ => return None,
    })
}

fn limit(fields: &mut Fields<'_>, name: &str) -> Result<Option<u64>, Untranslatable> {
    let must = || wrong(Path::Root.field(name), "a whole number");
    fields.take(name).map(|limit: &RawValue| json::count(limit).ok_or_else(must)).transpose()
}

/// What is asked for where the caller sets no limit: enough for nearly every answer, and no more than every model of the
/// family can do. An answer that is longer says so, with `length`.
fn default_limit(model: &str) -> u64 {
    match family(model) {
        Family::Plain if model.contains("claude-3-5") => 8_192,
        Family::Plain => 4_096,
        _ if model.contains("claude") => 16_384,
        _ => 8_192,
    }
}

/// The family of `model`, in lower case and with dashes for dots.
fn family(model: &str) -> Family {
    const PLAIN: [&str; 7] =
        ["claude-2", "claude-instant", "claude-3-opus", "claude-3-sonnet", "claude-3-haiku", "claude-3-5", "claude-v"];
    if PLAIN.iter().any(|name| model.contains(name)) {
        return Family::Plain;
    }
    let is_up_to_4_5 = ["opus-4", "sonnet-4", "haiku-4"]
        .iter()
        .any(|name| model.find(name).is_some_and(|at| is_minor_up_to_5(&model[at + name.len()..])));
    if is_up_to_4_5 || model.contains("claude-3-7") || model.contains("claude-4-") {
        return Family::Budget;
    }
    Family::Effort
}

/// Whether what follows `opus-4` names a version up to 4.5: none at all, a date (of the first of that generation), or its
/// number.
fn is_minor_up_to_5(behind: &str) -> bool {
    if behind.starts_with(|c: char| c.is_ascii_digit()) {
        return false;
    }
    let digits: String = behind.chars().skip(1).take_while(char::is_ascii_digit).collect();
    match digits.len() {
        1 | 2 => digits.parse().is_ok_and(|minor: u8| minor <= 5),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::Droppable;

    fn planned(model: &str, text: &str, is_forced: bool) -> Result<(u64, String, Option<&'static str>), String> {
        let none = Droppable::default();
        let mut fields = Fields::read(text).unwrap();
        let plan = plan(&mut fields, model, is_forced, Losses::new(&none, "X")).map_err(|loss| loss.field)?;
        Ok((plan.max_tokens, plan.thinking.map(|raw| raw.get().to_owned()).unwrap_or_default(), plan.effort))
    }

    #[test]
    fn families_are_told_by_name_however_it_is_spelt() {
        for (model, expected) in [
            ("claude-3-haiku-20240307", Family::Plain),
            ("anthropic.claude-3-5-sonnet-20241022-v2:0", Family::Plain),
            ("claude-3-7-sonnet-latest", Family::Budget),
            ("claude-sonnet-4-20250514", Family::Budget),
            ("claude-opus-4@20250514", Family::Budget),
            ("claude-opus-4-1", Family::Budget),
            ("claude-4-opus-20250514", Family::Budget),
            ("claude-haiku-4-5-20251001", Family::Budget),
            ("claude-sonnet-4-5", Family::Budget),
            ("claude-sonnet-4", Family::Budget),
            ("claude-opus-4-6", Family::Effort),
            ("claude-opus-4-8-20260528", Family::Effort),
            ("claude-sonnet-5", Family::Effort),
            ("claude-haiku-5-5", Family::Effort),
            ("claude-opus-40", Family::Effort),
            ("deepseek-chat", Family::Effort),
        ] {
            assert_eq!(family(model), expected, "{model}");
        }
    }

    #[test]
    fn the_callers_limit_holds_and_there_is_one_without() {
        assert_eq!(planned("claude-opus-5", r#"{"max_tokens":7}"#, false).unwrap().0, 7);
        assert_eq!(planned("m", r#"{"max_tokens":7,"max_completion_tokens":9}"#, false).unwrap().0, 7);
        for (model, limit) in
            [("claude-3-opus", 4_096), ("claude-3-5-haiku", 8_192), ("claude-opus-5", 16_384), ("other", 8_192)]
        {
            assert_eq!(planned(model, "{}", false).unwrap().0, limit, "{model}");
        }
        assert_eq!(planned("m", r#"{"max_tokens":"many"}"#, false), Err("max_tokens".to_owned()));
    }

    #[test]
    fn effort_becomes_a_budget_where_there_is_no_effort() {
        let budget = |text| planned("claude-sonnet-4-5", text, false);
        let enabled = |budget| format!(r#"{{"type":"enabled","budget_tokens":{budget}}}"#);
        assert_eq!(budget(r#"{"reasoning_effort":"high"}"#), Ok((24_576, enabled(16_384), None)));
        assert_eq!(budget(r#"{"reasoning_effort":"high","max_tokens":4000}"#), Ok((4_000, enabled(2_000), None)));
        assert_eq!(budget(r#"{"reasoning_effort":"low","max_tokens":1025}"#), Ok((1_025, enabled(1_024), None)));
        assert_eq!(budget(r#"{"reasoning_effort":"none"}"#), Ok((16_384, String::new(), None)));
        for text in [
            r#"{"reasoning_effort":"low","max_tokens":1024}"#,
            r#"{"reasoning_effort":"low","thinking":{"type":"disabled"}}"#,
            r#"{"reasoning_effort":"enormous"}"#,
        ] {
            assert_eq!(budget(text), Err("reasoning_effort".to_owned()), "{text}");
        }
        assert!(planned("claude-sonnet-4-5", r#"{"reasoning_effort":"low"}"#, true).is_err());
        assert!(planned("claude-3-opus", r#"{"reasoning_effort":"low"}"#, false).is_err());
    }

    #[test]
    fn effort_is_effort_where_there_is_one_and_thinking_adapts() {
        let effort = |text, is_forced| planned("claude-opus-5-5", text, is_forced).unwrap();
        let adaptive = || r#"{"type":"adaptive"}"#.to_owned();
        assert_eq!(effort(r#"{"reasoning_effort":"minimal"}"#, false), (16_384, adaptive(), Some("low")));
        assert_eq!(effort(r#"{"reasoning_effort":"max"}"#, false), (16_384, adaptive(), Some("max")));
        assert_eq!(effort(r#"{"reasoning_effort":"high"}"#, true), (16_384, String::new(), Some("high")));
        assert_eq!(effort(r#"{"reasoning_effort":"none"}"#, false).1, r#"{"type":"disabled"}"#);
        let own = effort(r#"{"reasoning_effort":"low","thinking":{"type":"adaptive","display":"omitted"}}"#, false);
        assert_eq!((own.1.contains("omitted"), own.2), (true, Some("low")));
        let budget = effort(r#"{"thinking":{"type":"enabled","budget_tokens":30000}}"#, false);
        assert_eq!(budget.0, 38_192);
    }
}
