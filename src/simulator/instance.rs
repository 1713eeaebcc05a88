//! A small value that fits a JSON schema, as a model that keeps to its schema would give one. Pure.

use serde_json::{Map, Number, Value, json};

/// Behind so many schemas within schemas, what may be left out is: a schema may contain itself.
const ROOMY: usize = 6;
/// And behind so many there is no value.
const MAX_DEPTH: usize = 64;

/// A value that fits `schema`, with every property and one item to an array; its free texts are `text`. The error says
/// which demand cannot be met.
pub(super) fn instance(schema: &Value, text: &str) -> Result<Value, String> {
    Made { root: schema, text }.value(schema, 0)
}

struct Made<'a> {
    /// Where `$ref` begins.
    root: &'a Value,
    text: &'a str,
}

impl Made<'_> {
    fn value(&self, schema: &Value, depth: usize) -> Result<Value, String> {
        if depth > MAX_DEPTH {
            return Err("the schema contains itself without an end".to_owned());
        }
        // `true` and `{}` allow anything.
        let Some(rules) = schema.as_object() else { return Ok(json!(self.text)) };
        if let Some(pointer) = rules.get("$ref").and_then(Value::as_str) {
            let target = pointer.strip_prefix('#').and_then(|pointer| self.root.pointer(pointer));
            return self.value(target.ok_or_else(|| format!("`{pointer}` is nowhere in the schema"))?, depth + 1);
        }
        if let Some(only) = rules.get("const") {
            return Ok(only.clone());
        }
        if let Some(first) = rules.get("enum").and_then(|values| values.get(0)) {
            return Ok(first.clone());
        }
        for name in ["anyOf", "oneOf"] {
            if let Some(choices) = rules.get(name).and_then(Value::as_array) {
                let null = choices.iter().find(|choice| choice["type"] == "null").filter(|_| depth > ROOMY);
                let choice = null.or(choices.first()).ok_or_else(|| format!("`{name}` without a choice"))?;
                return self.value(choice, depth + 1);
            }
        }
        if let Some([only]) = rules.get("allOf").and_then(Value::as_array).map(Vec::as_slice) {
            return self.value(only, depth + 1);
        }
        if rules.contains_key("allOf") {
            return Err("`allOf` of more than one schema".to_owned());
        }
        match kind(rules) {
            "object" => self.object(rules, depth),
            "array" => self.array(rules, depth),
            "string" => self.string(rules),
            "integer" | "number" => number(rules),
            "boolean" => Ok(json!(true)),
            "null" => Ok(Value::Null),
            other => Err(format!("the type `{other}`")),
        }
    }

    fn object(&self, rules: &Map<String, Value>, depth: usize) -> Result<Value, String> {
        let required: Vec<&str> =
            rules.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        let properties = rules.get("properties").and_then(Value::as_object);
        let mut object = Map::new();
        for (name, schema) in properties.into_iter().flatten() {
            if depth <= ROOMY || required.contains(&name.as_str()) {
                object.insert(name.clone(), self.value(schema, depth + 1)?);
            }
        }
        for name in required {
            if !object.contains_key(name) {
                object.insert(name.to_owned(), json!(self.text));
            }
        }
        Ok(Value::Object(object))
    }

    fn array(&self, rules: &Map<String, Value>, depth: usize) -> Result<Value, String> {
        let limit = |name: &str| rules.get(name).and_then(Value::as_u64);
        let wanted = if depth > ROOMY { 0 } else { 1 };
        let count = limit("maxItems").unwrap_or(u64::MAX).min(wanted).max(limit("minItems").unwrap_or(0));
        if count > 100 {
            return Err(format!("{count} items"));
        }
        let prefix = rules.get("prefixItems").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let more = rules.get("items").unwrap_or(&Value::Bool(true));
        let count = usize::try_from(count).unwrap_or(0).max(prefix.len());
        let items = (0..count).map(|n| self.value(prefix.get(n).unwrap_or(more), depth + 1));
        items.collect::<Result<Vec<_>, _>>().map(Value::Array)
    }

    fn string(&self, rules: &Map<String, Value>) -> Result<Value, String> {
        let known = match rules.get("format").and_then(Value::as_str) {
            Some("date-time") => Some("2026-01-02T03:04:05Z"),
            Some("date") => Some("2026-01-02"),
            Some("time") => Some("03:04:05Z"),
            Some("duration") => Some("PT1S"),
            Some("email") => Some("someone@example.com"),
            Some("uri" | "url") => Some("https://example.com/"),
            Some("uuid") => Some("123e4567-e89b-42d3-a456-426614174000"),
            Some("ipv4") => Some("192.0.2.1"),
            Some("ipv6") => Some("2001:db8::1"),
            Some("hostname") => Some("example.com"),
            _ => None,
        };
        if let Some(known) = known {
            return Ok(json!(known));
        }
        if let Some(pattern) = rules.get("pattern").and_then(Value::as_str) {
            return Err(format!("the pattern `{pattern}`"));
        }
        let limit = |name: &str| rules.get(name).and_then(Value::as_u64).and_then(|limit| usize::try_from(limit).ok());
        let least = limit("minLength").unwrap_or(0);
        if least > 10_000 {
            return Err(format!("a text of {least} characters"));
        }
        let mut text: String = self.text.chars().take(limit("maxLength").unwrap_or(usize::MAX)).collect();
        let short = least.saturating_sub(text.chars().count());
        text.extend(std::iter::repeat_n('.', short));
        Ok(json!(text))
    }
}

/// The type that a schema means, said or not; of several the first that is not null.
fn kind(rules: &Map<String, Value>) -> &str {
    match rules.get("type") {
        Some(Value::String(kind)) => kind,
        Some(Value::Array(kinds)) => {
            let mut kinds = kinds.iter().filter_map(Value::as_str);
            kinds.find(|kind| *kind != "null").unwrap_or("null")
        }
        _ if rules.contains_key("properties") => "object",
        _ if rules.contains_key("items") || rules.contains_key("prefixItems") => "array",
        _ => "string",
    }
}

fn number(rules: &Map<String, Value>) -> Result<Value, String> {
    let limit = |name: &str| rules.get(name).and_then(Value::as_f64);
    let step = limit("multipleOf").unwrap_or(1.0);
    let least = limit("minimum").or(limit("exclusiveMinimum").map(|least| least + step));
    let most = limit("maximum").or(limit("exclusiveMaximum").map(|most| most - step));
    let wanted = least.unwrap_or(most.map_or(step, |most| most.min(step)));
    let found = (wanted / step).ceil() * step;
    let is_whole = kind(rules) == "integer" || found.fract() == 0.0;
    let number = if is_whole {
        #[allow(clippy::cast_possible_truncation)]
        Some(Number::from(found as i64))
    } else {
        Number::from_f64(found)
    };
    match number {
        Some(number) if most.is_none_or(|most| found <= most) => Ok(Value::Number(number)),
        _ => Err("a number within its limits".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(schema: Value) -> Value {
        instance(&schema, "hello").unwrap()
    }

    #[test]
    fn every_property_has_a_value_of_its_type() {
        let schema = json!({"type": "object", "required": ["city", "odd"], "additionalProperties": false, "properties": {
            "city": {"type": "string"}, "unit": {"enum": ["C", "F"]}, "days": {"type": "integer", "minimum": 3},
            "ratio": {"type": "number", "multipleOf": 0.5}, "when": {"type": "string", "format": "date"},
            "sure": {"type": "boolean"}, "tags": {"type": "array", "items": {"type": "string", "maxLength": 2}},
            "pair": {"prefixItems": [{"const": 7}, {"type": "null"}]}, "note": {"type": ["null", "string"]},
            "maybe": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        }});
        let expected = json!({"city": "hello", "unit": "C", "days": 3, "ratio": 0.5, "when": "2026-01-02", "sure": true,
            "tags": ["he"], "pair": [7, null], "note": "hello", "maybe": 1, "odd": "hello"});
        assert_eq!(made(schema), expected);
        assert_eq!(made(json!({"type": "string", "minLength": 7})), json!("hello.."));
        assert_eq!(made(json!({"type": "integer", "exclusiveMaximum": 0})), json!(-1));
    }

    #[test]
    fn a_schema_that_contains_itself_comes_to_an_end() {
        let node = json!({"type": "object", "required": ["name", "next"], "properties": {
            "name": {"type": "string"}, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
            "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
        }});
        let mut value = &made(json!({"$ref": "#/$defs/node", "$defs": {"node": node}}));
        let mut depth = 0;
        while value.is_object() {
            assert_eq!(value["name"], "hello");
            (value, depth) = (&value["next"], depth + 1);
        }
        assert!(value.is_null() && depth > 1, "{depth}");
    }

    #[test]
    fn what_cannot_be_met_is_an_error_that_names_it() {
        for (schema, names) in [
            (json!({"type": "string", "pattern": "^a$"}), "^a$"),
            (json!({"$ref": "#/$defs/gone"}), "gone"),
            (json!({"$ref": "#"}), "itself"),
            (json!({"type": "integer", "minimum": 3, "maximum": 2}), "limits"),
            (json!({"allOf": [{}, {}]}), "allOf"),
            (json!({"type": "thing"}), "thing"),
        ] {
            let error = instance(&schema, "hello").unwrap_err();
            assert!(error.contains(names), "{error}");
        }
    }
}
