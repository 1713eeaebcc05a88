//! What of a request Gemini's protocol has no words for: refused by name, unless the caller lets it go.

use serde_json::value::RawValue;

use super::fields::is_blank;
use crate::messages::{Request, without_indices};
use crate::providers::dialect::Untranslatable;

/// What may be left unsaid.
#[derive(Clone, Copy, Debug)]
pub(super) struct Losses<'a>(&'a Request);

impl<'a> Losses<'a> {
    /// For `request`.
    pub(super) fn of(request: &'a Request) -> Self {
        Self(request)
    }

    /// `field` cannot be said, for the reason `why`.
    ///
    /// # Errors
    /// Unless the caller lets it be dropped.
    pub(super) fn lose(self, field: impl Into<String>, why: &str) -> Result<(), Untranslatable> {
        let field = shown(field.into());
        if self.0.droppable().covers(&field) {
            return Ok(());
        }
        let name = without_indices(&field);
        let cure = format!("Leave it out, or allow that with the header `x-forebay-drop: {name}`");
        Err(Untranslatable { message: format!("`{field}` cannot be said to a Gemini model: {why}. {cure}."), field })
    }

    /// A field that nobody here knows: nothing is lost of one that says nothing.
    ///
    /// # Errors
    /// Unless the caller lets it be dropped.
    pub(super) fn lose_unknown(self, field: impl Into<String>, value: &RawValue) -> Result<(), Untranslatable> {
        if is_blank(value) { Ok(()) } else { self.lose(field, "its protocol has no such field") }
    }
}

/// What makes no sense to any upstream, or cannot be left out without changing the rest.
pub(super) fn wrong(field: impl Into<String>, what: &str) -> Untranslatable {
    let field = field.into();
    Untranslatable { message: format!("`{field}` {what}."), field }
}

/// A path as it may stand in an error and in a log: names in it may be of the caller's own making.
fn shown(path: String) -> String {
    const MAX_PATH: usize = 128;
    let is_fit = path.len() <= MAX_PATH && path.bytes().all(|byte| byte.is_ascii_graphic());
    if is_fit { path } else { "(unnamed)".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::Droppable;

    fn drops(allowed: &str, field: &str) -> bool {
        let droppable = Droppable::parse(allowed).unwrap_or_default();
        let request = Request::chat("m", serde_json::json!([])).with_droppable(droppable);
        Losses::of(&request).lose(field, "x").is_ok()
    }

    #[test]
    fn what_may_be_dropped_is_named_in_any_of_its_ways() {
        for (allowed, field) in [
            ("*", "logit_bias"),
            ("seed, logit_bias", "logit_bias"),
            ("messages.name", "messages[3].name"),
            ("tools.type", "tools[0].type"),
            ("messages", "messages[3].name"),
        ] {
            assert!(drops(allowed, field), "{allowed}: {field}");
        }
        for (allowed, field) in [("", "user"), ("seed", "user"), ("use", "user")] {
            assert!(!drops(allowed, field), "{allowed}: {field}");
        }
    }

    #[test]
    fn a_refusal_names_the_field_and_the_cure() {
        let request = Request::chat("m", serde_json::json!([]));
        let refused = Losses::of(&request).lose("user", "it has no users").unwrap_err();
        assert_eq!(refused.field, "user");
        assert!(refused.message.contains("`user`") && refused.message.contains("x-forebay-drop: user"));
        assert_eq!(Losses::of(&request).lose("a private name", "x").unwrap_err().field, "(unnamed)");
    }
}
