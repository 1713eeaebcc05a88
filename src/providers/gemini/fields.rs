//! JSON read in place: an object's fields and an array's items as slices of the text they stand in.
//!
//! What is passed on is passed on as it was written: numbers keep their digits, objects their order, and strings their
//! escapes, half a surrogate pair included.

use serde_json::value::RawValue;

use crate::messages::json;

/// The fields of one object, in their order.
#[derive(Debug, Default)]
pub(super) struct Fields<'a>(Vec<(Box<str>, &'a RawValue)>);

impl<'a> Fields<'a> {
    /// Those of `raw`; `None` when it is no object.
    pub(super) fn of(raw: &'a RawValue) -> Option<Self> {
        if !json::is_object(raw) {
            return None;
        }
        let mut fields = Vec::new();
        json::each_field(raw.get(), |name, value| fields.push((Box::from(name), value))).ok()?;
        Some(Self(fields))
    }

    /// Those of `raw`; none when it is absent or no object.
    pub(super) fn of_any(raw: Option<&'a RawValue>) -> Self {
        raw.and_then(Self::of).unwrap_or_default()
    }

    /// The last of the fields called `name`, as parsers read it, unless it is null.
    pub(super) fn get(&self, name: &str) -> Option<&'a RawValue> {
        let found = self.0.iter().rev().find(|(have, _)| **have == *name);
        found.map(|(_, value)| *value).filter(|value| !json::is_null(value))
    }

    /// Every field, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.0.iter().map(|(name, value)| (&**name, *value))
    }
}

/// The object at `path`, field below field.
pub(super) fn below<'a>(raw: &'a RawValue, path: &[&str]) -> Option<&'a RawValue> {
    path.iter().try_fold(raw, |raw, name| Fields::of(raw)?.get(name))
}

/// The items of the array that `raw` is; `None` when it is none.
pub(super) fn items(raw: &RawValue) -> Option<Vec<&RawValue>> {
    if raw.get().starts_with('[') { serde_json::from_str(raw.get()).ok() } else { None }
}

/// Whether a value tells nothing: null, or an empty string, array or object.
pub(super) fn is_blank(raw: &RawValue) -> bool {
    let text = raw.get();
    let inside = |open, close| text.strip_prefix(open).and_then(|rest| rest.strip_suffix(close));
    matches!(text, "null" | "\"\"")
        || [('[', ']'), ('{', '}')].into_iter().any(|(open, close)| inside(open, close).is_some_and(is_space))
}

fn is_space(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_whitespace())
}

/// Whether a value is a string, of whatever characters.
pub(super) fn is_string(raw: &RawValue) -> bool {
    raw.get().starts_with('"')
}

/// Strings put together to one, none of them decoded.
pub(super) fn joined<'a>(strings: impl IntoIterator<Item = &'a RawValue>) -> Box<RawValue> {
    let mut whole = String::from("\"");
    for string in strings {
        whole.push_str(inner(string));
    }
    whole.push('"');
    RawValue::from_string(whole).expect("the insides of strings are the inside of a string")
}

fn inner(string: &RawValue) -> &str {
    string.get().strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or_default()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> &RawValue {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn strings_are_put_together_undecoded() {
        let parts = [r#""a\"""#, r#""""#, r#""\\""#, r#""\ud83d""#, r#""\ude00é""#].map(raw);
        assert_eq!(joined(parts).get(), r#""a\"\\\ud83d\ude00é""#);
        assert_eq!(joined([]).get(), "\"\"");
    }

    #[test]
    fn white_space_goes_from_between_tokens_only() {
        let text = "{ \"a b\" : [ 1 ,\n 2.0 ] , \"c\\\" d\" : \" \\\\\" }";
        assert_eq!(compact(text), r#"{"a b":[1,2.0],"c\" d":" \\"}"#);
    }

    #[test]
    fn blanks_are_told_from_values() {
        assert!(["null", "\"\"", "[]", "[ ]", "{ \n}"].iter().all(|text| is_blank(raw(text))));
        assert!(["0", "false", "\" \"", "[null]", "{\"a\":1}", "\"[]\""].iter().all(|text| !is_blank(raw(text))));
    }

    #[test]
    fn the_last_of_two_fields_counts_and_null_is_none() {
        let fields = Fields::of(raw(r#"{"a":1,"b":null,"a":2}"#)).unwrap();
        assert_eq!(fields.get("a").map(RawValue::get), Some("2"));
        assert!(fields.get("b").is_none() && Fields::of(raw("[]")).is_none());
        assert_eq!(below(raw(r#"{"a":{"b":[3]}}"#), &["a", "b"]).map(RawValue::get), Some("[3]"));
    }
}
