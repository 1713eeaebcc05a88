//! One walk over a JSON object's own fields, in place: syntax is checked to the end, nothing is decoded or copied.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Calls `seen` for every field of the object that `text` must be, in order, duplicates included.
///
/// The whole text is checked, and by serde_json's iterative skipper: its depth costs heap, never stack. Strings that
/// are not keys are not decoded, so half a surrogate pair (which Python and JavaScript clients do send) passes.
pub(crate) fn each_field<'a>(text: &'a str, seen: impl FnMut(&str, &'a RawValue)) -> Result<(), serde_json::Error> {
    let mut source = serde_json::Deserializer::from_str(text);
    Fields(seen).deserialize(&mut source)?;
    source.end()
}

/// The string that `raw` is; `None` when it is none or names no Unicode text.
pub(crate) fn string(raw: &RawValue) -> Option<Cow<'_, str>> {
    text(raw.get())
}

/// The count that `raw` is: fractions are rounded up, what is too large for 64 bits is the largest there is, and
/// anything else (negative, null, a string) is none.
pub(crate) fn count(raw: &RawValue) -> Option<u64> {
    if let Ok(number) = raw.get().parse::<u64>() {
        return Some(number);
    }
    if !raw.get().starts_with(|first: char| first.is_ascii_digit()) {
        return None;
    }
    // Rust's float parser takes all of JSON's numbers, and the cast saturates.
    raw.get().parse::<f64>().ok().map(|number| number.ceil() as u64)
}

/// Whether `raw` is `null`.
pub(crate) fn is_null(raw: &RawValue) -> bool {
    raw.get() == "null"
}

/// Whether `raw` is an object.
pub(crate) fn is_object(raw: &RawValue) -> bool {
    raw.get().starts_with('{')
}

/// Decodes a JSON string, quotes included. Without escapes, which is nearly always, it is a slice.
fn text(quoted: &str) -> Option<Cow<'_, str>> {
    let inner = quoted.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') {
        serde_json::from_str::<String>(quoted).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(inner))
    }
}

struct Fields<F>(F);

impl<'de, F: FnMut(&str, &'de RawValue)> DeserializeSeed<'de> for Fields<F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<(), D::Error> {
        source.deserialize_map(self)
    }
}

impl<'de, F: FnMut(&str, &'de RawValue)> Visitor<'de> for Fields<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some((key, value)) = map.next_entry::<&'de RawValue, &'de RawValue>()? {
            match text(key.get()) {
                Some(key) => (self.0)(&key, value),
                // Not Unicode: none of the names anyone looks for, but no reason to refuse the object.
                None => (self.0)(key.get(), value),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Result<Vec<(String, String)>, serde_json::Error> {
        let mut found = Vec::new();
        each_field(text, |key, value| found.push((key.to_owned(), value.get().to_owned())))?;
        Ok(found)
    }

    fn raw(text: &str) -> &RawValue {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn fields_come_in_order_with_duplicates_and_decoded_names() {
        let found = fields(" {\"a\" : 1e3 , \"\\u0061\":[ {} ],\"\\ud800\":\"\\ud800\"} ").unwrap();
        let expected = [("a", "1e3"), ("a", "[ {} ]"), ("\"\\ud800\"", "\"\\ud800\"")];
        assert_eq!(found, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
    }

    #[test]
    fn text_behind_the_object_and_other_kinds_of_value_are_errors() {
        for text in ["{} x", "[]", "1", "\"a\"", "null", "", "{\"a\":}", "{a:1}", "{1:1}"] {
            assert!(fields(text).is_err(), "{text}");
        }
    }

    #[test]
    fn depth_costs_no_stack() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(fields(&deep).is_ok());
        assert!(fields(&deep[..100_000]).is_err());
    }

    #[test]
    fn counts_are_what_a_number_means() {
        for (text, expected) in [
            ("0", Some(0)),
            ("17", Some(17)),
            ("1.5e1", Some(15)),
            ("0.1", Some(1)),
            ("99999999999999999999", Some(u64::MAX)),
            ("1e999", Some(u64::MAX)),
            ("-1", None),
            ("null", None),
            ("\"5\"", None),
            ("[5]", None),
        ] {
            assert_eq!(count(raw(text)), expected, "{text}");
        }
    }
}
