//! The fields of a JSON object that is translated: read in place, each taken once, so that none is overlooked.

use std::fmt;

use serde_json::value::RawValue;

use crate::messages::json;

/// Where in a request something stands: `messages[2].content[0]`.
#[derive(Clone, Copy)]
pub(super) enum Path<'a> {
    Root,
    Field(&'a Path<'a>, &'a str),
    Item(&'a Path<'a>, usize),
}

impl<'a> Path<'a> {
    pub(super) fn field(&'a self, name: &'a str) -> Self {
        Self::Field(self, name)
    }

    pub(super) fn item(&'a self, index: usize) -> Self {
        Self::Item(self, index)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Field(Self::Root, name) => f.write_str(name),
            Self::Field(parent, name) => write!(f, "{parent}.{name}"),
            Self::Item(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// The fields of one object that nobody has taken yet. `null` is as good as absent.
#[derive(Debug)]
pub(super) struct Fields<'a>(Vec<(String, &'a RawValue)>);

impl<'a> Fields<'a> {
    /// Those of the object that `text` is; `None` when it is none.
    pub(super) fn read(text: &'a str) -> Option<Self> {
        let mut fields = Vec::new();
        json::each_field(text, |key, value| fields.push((key.to_owned(), value))).ok()?;
        Some(Self(fields))
    }

    /// The value of `name`: the last, where it stands more than once, as parsers have it.
    pub(super) fn take(&mut self, name: &str) -> Option<&'a RawValue> {
        let mut taken = None;
        self.0.retain(|(key, value)| {
            let is_it = key == name;
            if is_it {
                taken = Some(*value);
            }
            !is_it
        });
        taken.filter(|value| !json::is_null(value))
    }

    /// What is left.
    pub(super) fn rest(self) -> impl Iterator<Item = (String, &'a RawValue)> {
        self.0.into_iter().filter(|(_, value)| !json::is_null(value))
    }
}

/// The items of the array that `value` is; `None` when it is none.
pub(super) fn items(value: &RawValue) -> Option<Vec<&RawValue>> {
    serde_json::from_str(value.get()).ok()
}

/// Whether `value` is a string.
pub(super) fn is_string(value: &RawValue) -> bool {
    value.get().starts_with('"')
}

/// Whether `value` is the string `text`.
pub(super) fn is_text(value: &RawValue, text: &str) -> bool {
    json::string(value).is_some_and(|value| value == text)
}

/// One JSON string of all the strings in `parts`, in order. Their insides are put together as they stand: no character is
/// lost, not even half of a surrogate pair.
pub(super) fn joined<'a>(parts: impl IntoIterator<Item = &'a RawValue>) -> Box<RawValue> {
    let mut text = String::from("\"");
    for part in parts {
        text.push_str(part.get().strip_prefix('"').and_then(|part| part.strip_suffix('"')).unwrap_or_default());
    }
    text.push('"');
    raw(text)
}

/// `text`, which is valid JSON, as it is to be written.
pub(super) fn raw(text: String) -> Box<RawValue> {
    RawValue::from_string(text).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_taken_once_and_null_is_absent() {
        let mut fields = Fields::read(r#"{"a":1,"b":null,"a":2,"c":3,"d":null}"#).unwrap();
        assert_eq!(fields.take("a").map(RawValue::get), Some("2"));
        assert!(fields.take("a").is_none() && fields.take("b").is_none());
        let rest: Vec<_> = fields.rest().map(|(name, _)| name).collect();
        assert_eq!(rest, ["c"]);
        assert!(Fields::read("[]").is_none());
    }

    #[test]
    fn a_path_reads_as_one_would_write_it() {
        let messages = Path::Root.field("messages");
        let (second, content);
        second = messages.item(2);
        content = second.field("content");
        assert_eq!(content.item(0).to_string(), "messages[2].content[0]");
    }

    #[test]
    fn strings_are_joined_without_a_look_at_their_characters() {
        let parts = [r#""a\n""#, r#""\ud83d""#, r#""\ude00\"""#].map(|part| raw(part.to_owned()));
        let joined = joined(parts.iter().map(|part| &**part));
        assert_eq!(serde_json::from_str::<String>(joined.get()).unwrap(), "a\n\u{1f600}\"");
    }
}
