//! What of a request its caller can do without, where an upstream's protocol has no words for it.

use std::sync::Arc;

/// The fields of a request that may be left out on the way to an upstream whose protocol cannot express them. None, unless
/// the caller says so: what is asked for is asked for on purpose.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Droppable(What);

#[derive(Clone, PartialEq, Eq, Debug, Default)]
enum What {
    #[default]
    Nothing,
    Fields(Arc<[Box<str>]>),
    All,
}

impl Droppable {
    /// Whatever cannot be said.
    pub fn all() -> Self {
        Self(What::All)
    }

    /// Reads `logprobs, messages.name`, or `*` for all. A field within others is named by its path without indices, so that
    /// one word covers it in all messages.
    ///
    /// # Errors
    /// What is wrong with it, for the caller.
    pub fn parse(text: &str) -> Result<Self, String> {
        let fields: Vec<&str> = text.split(',').map(str::trim).filter(|field| !field.is_empty()).collect();
        if fields.contains(&"*") {
            return Ok(Self::all());
        }
        let is_name = |field: &str| field.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
        if fields.is_empty() || !fields.iter().all(|field| is_name(field)) {
            return Err("it must list fields, such as `logprobs, messages.name`, or be `*`".to_owned());
        }
        Ok(Self(What::Fields(fields.into_iter().map(Box::from).collect())))
    }

    /// Both of them: what either allows.
    pub fn or(self, other: Self) -> Self {
        Self(match (self.0, other.0) {
            (What::All, _) | (_, What::All) => What::All,
            (What::Nothing, what) | (what, What::Nothing) => what,
            (What::Fields(ours), What::Fields(theirs)) => {
                What::Fields(ours.iter().chain(theirs.iter()).cloned().collect())
            }
        })
    }

    /// Whether the field at `path`, which may have indices (`messages[2].name`), may be left out: as itself, or as part of a
    /// field that may (`messages`).
    pub fn covers(&self, path: &str) -> bool {
        match &self.0 {
            What::Nothing => false,
            What::All => true,
            What::Fields(fields) => {
                let path = without_indices(path);
                let within =
                    |field: &str| path.strip_prefix(field).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
                fields.iter().any(|field| within(field))
            }
        }
    }
}

/// `messages.content` for `messages[2].content[0]`: how a field is named in a list of what may be dropped.
pub(crate) fn without_indices(path: &str) -> String {
    let mut depth = 0_u32;
    let outside = path.chars().filter(|c| {
        depth += u32::from(*c == '[');
        let is_outside = depth == 0;
        depth = depth.saturating_sub(u32::from(*c == ']'));
        is_outside
    });
    outside.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_may_be_dropped_unless_it_is_named() {
        assert!(!Droppable::default().covers("logprobs"));
        let some = Droppable::parse(" logprobs,messages.name ,, ").unwrap();
        for (path, covered) in [
            ("logprobs", true),
            ("messages[17].name", true),
            ("messages.name", true),
            ("name", false),
            ("messages", false),
            ("top_logprobs", false),
            ("messages[0].content[1].name", false),
            ("", false),
        ] {
            assert_eq!(some.covers(path), covered, "{path}");
        }
        let outer = Droppable::parse("messages").unwrap();
        assert!(outer.covers("messages[1].content[0].detail") && !outer.covers("messages_of_2031"));
        assert!(Droppable::parse("seed, *").unwrap().covers("anything[0].at.all"));
    }

    #[test]
    fn what_is_no_list_of_fields_is_refused() {
        for text in ["", " ", ",", "a b", "messages[0].name", "**", "\u{e9}", "a;b"] {
            assert!(Droppable::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn two_lists_allow_what_either_does() {
        let list = |text| Droppable::parse(text).unwrap();
        let both = list("a").or(list("b"));
        assert!(both.covers("a") && both.covers("b") && !both.covers("c"));
        assert_eq!(Droppable::default().or(list("a")), list("a"));
        assert_eq!(list("a").or(list("*")), Droppable::all());
    }
}
