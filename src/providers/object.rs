//! The JSON object that a body or an event must be, walked over in place.

use serde_json::value::RawValue;

use crate::messages::json;

/// Walks over the object that `data` must be. The error says where it is broken and repeats none of it.
pub(super) fn walk<'a>(data: &'a [u8], seen: impl FnMut(&str, &'a RawValue)) -> Result<(), String> {
    let text = std::str::from_utf8(data).map_err(|error| format!("not UTF-8 from byte {} on", error.valid_up_to()))?;
    json::each_field(text, seen).map_err(|error| fault(&error))
}

/// Says where JSON is broken. serde_json's own words repeat a value of the wrong type, so those are not used.
fn fault(error: &serde_json::Error) -> String {
    if error.is_data() { "not a JSON object".to_owned() } else { format!("not JSON: {error}") }
}

/// Whether a value tells nothing: null, or an empty string, array or object.
pub(super) fn is_blank(value: &RawValue) -> bool {
    let text = value.get();
    let inside = |open, close| text.strip_prefix(open).and_then(|rest| rest.strip_suffix(close));
    let is_space = |text: &str| text.bytes().all(|byte| byte.is_ascii_whitespace());
    matches!(text, "null" | "\"\"")
        || [('[', ']'), ('{', '}')].into_iter().any(|(open, close)| inside(open, close).is_some_and(is_space))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_are_told_from_values() {
        let is_blank = |text: &&str| is_blank(serde_json::from_str(text).unwrap());
        assert!(["null", "\"\"", "[]", "[ ]", "{ \n}"].iter().all(is_blank));
        assert!(!["0", "false", "\" \"", "[null]", "{\"a\":1}", "\"[]\""].iter().any(is_blank));
    }
}
