//! The fields of a JSON object that is translated: read in place, each taken once, so that none is overlooked.

use std::fmt;

use serde_json::value::RawValue;

use super::object::{is_blank, walk};
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
#[derive(Debug, Default)]
pub(super) struct Fields<'a>(Vec<(String, &'a RawValue)>);

impl<'a> Fields<'a> {
    /// Those of the object that `text` is; `None` when it is none.
    pub(super) fn read(text: &'a str) -> Option<Self> {
        let mut fields = Vec::new();
        json::each_field(text, |key, value| fields.push((key.to_owned(), value))).ok()?;
        Some(Self(fields))
    }

    /// Those of `value`; none when it is absent or no object.
    pub(super) fn of_any(value: Option<&'a RawValue>) -> Self {
        value.and_then(|value| Self::read(value.get())).unwrap_or_default()
    }

    /// Those of the object that `data` must be. The error says where it is broken and repeats none of it.
    pub(super) fn of_bytes(data: &'a [u8]) -> Result<Self, String> {
        let mut fields = Vec::new();
        walk(data, |key, value| fields.push((key.to_owned(), value)))?;
        Ok(Self(fields))
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

    /// Takes `name` if its value is one of those that say nothing, however they are spaced.
    pub(super) fn skip(&mut self, name: &str, silent: &[&str]) {
        let last = self.0.iter().rev().find(|(key, _)| key == name);
        if last.is_some_and(|(_, value)| silent.contains(&&*compact(value.get()))) {
            let _ = self.take(name);
        }
    }

    /// Without those that are blank.
    pub(super) fn without_blanks(mut self) -> Self {
        self.0.retain(|(_, value)| !is_blank(value));
        self
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

/// The value at `path` below the object `value`, field below field.
pub(super) fn below<'a>(value: &'a RawValue, path: &[&str]) -> Option<&'a RawValue> {
    path.iter().try_fold(value, |value, name| Fields::read(value.get())?.take(name))
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

/// `json` without the white space between its tokens.
pub(super) fn compact(json: &str) -> String {
    let (mut out, mut in_string, mut is_escaped) = (String::with_capacity(json.len()), false, false);
    for character in json.chars() {
        if in_string || !character.is_ascii_whitespace() {
            out.push(character);
        }
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' if in_string => is_escaped = true,
            '"' => in_string = !in_string,
            _ => {}
        }
    }
    out
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
    fn what_says_nothing_is_skipped_and_blanks_can_be() {
        let mut fields = Fields::read(r#"{"a":[ "x" ],"b":"y","c":{ },"d":7}"#).unwrap();
        fields.skip("a", &["[\"x\"]"]);
        fields.skip("b", &["\"x\""]);
        let rest: Vec<_> = fields.without_blanks().rest().map(|(name, _)| name).collect();
        assert_eq!(rest, ["b", "d"]);
    }

    #[test]
    fn a_value_is_found_below_its_path() {
        let value = raw(r#"{"a":{"b":[3]}}"#.to_owned());
        assert_eq!(below(&value, &["a", "b"]).map(RawValue::get), Some("[3]"));
        assert!(below(&value, &["a", "b", "c"]).is_none() && below(&value, &["b"]).is_none());
    }

    #[test]
    fn white_space_goes_from_between_tokens_only() {
        let text = "{ \"a b\" : [ 1 ,\n 2.0 ] , \"c\\\" d\" : \" \\\\\" }";
        assert_eq!(compact(text), r#"{"a b":[1,2.0],"c\" d":" \\"}"#);
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
