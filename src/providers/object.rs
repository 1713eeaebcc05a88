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
    match json::string(value) {
        Some(text) => text.is_empty(),
        None => matches!(value.get(), "null" | "[]" | "{}"),
    }
}
