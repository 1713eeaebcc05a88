//! The top layer: variables `FOREBAY__SECTION__KEY`, and warnings about those that set nothing.
//!
//! Values stay text until a key's reader says what it wants: `0123` may be a number or a secret, only the key knows.

use std::collections::BTreeMap;
use std::ffi::OsString;

use config::{Map, Value, ValueKind};

use super::check::Problem;

const PREFIX: &str = "FOREBAY_";
const LAYER: &str = "FOREBAY__";

/// What Kubernetes makes for a service called `forebay`.
const KUBERNETES: [&str; 2] = ["FOREBAY_SERVICE_", "FOREBAY_PORT"];

/// Proxies that many programs honour and this one does not.
const PROXIES: [&str; 6] = ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];

/// Whether a value's origin is a variable of this layer. (File names never look so: `load` writes `./` before those.)
pub(super) fn is_variable(origin: &str) -> bool {
    origin.starts_with(LAYER)
}

/// One variable that sets a key.
#[derive(Clone)]
pub(super) struct Variable {
    name: String,
    /// In lower case: `["upstreams", "my_vllm", "base_url"]`.
    path: Vec<String>,
    value: String,
}

impl Variable {
    /// The name of the upstream it is about, where nothing else says how that is spelled.
    pub(super) fn upstream(&self) -> Option<String> {
        match self.path.as_slice() {
            [section, name, ..] if section == "upstreams" => Some(spell(name)),
            _ => None,
        }
    }

    /// Sets its key in `root`.
    pub(super) fn apply(&self, root: &mut Value) {
        let mut at = root;
        let mut above: Vec<&str> = Vec::new();
        for step in &self.path {
            // `FOREBAY__SERVER=x` beside `FOREBAY__SERVER__LISTEN=y`: the first is wrong and must stay to be reported.
            if matches!(at.kind, ValueKind::String(_)) && at.origin().is_some_and(is_variable) {
                return;
            }
            if !matches!(at.kind, ValueKind::Table(_)) {
                *at = Value::new(Some(&self.name), Map::<String, Value>::new());
            }
            let ValueKind::Table(table) = &mut at.kind else { return };
            let key = if is_name(&above) { name_in(table, step) } else { step.clone() };
            at = table.entry(key).or_insert_with(|| Value::new(Some(&self.name), ValueKind::Nil));
            above.push(step);
            // A table made on the way is a table, so that a sibling finds it.
            if above.len() < self.path.len() && matches!(at.kind, ValueKind::Nil) {
                at.kind = ValueKind::Table(Map::new());
            }
        }
        *at = Value::new(Some(&self.name), self.value.clone());
    }
}

/// Every variable that sets a key; a value that is no text is a problem.
pub(super) fn layer(variables: &BTreeMap<String, OsString>, problems: &mut Vec<Problem>) -> Vec<Variable> {
    let mut layer = Vec::new();
    for (name, value) in variables {
        let Some(path) = path_of(name) else { continue };
        match value.to_str() {
            Some(value) => layer.push(Variable { name: name.clone(), path, value: value.to_owned() }),
            None => problems.push(Problem::new(name, "its value", "is not UTF-8 text; set it anew, or unset it")),
        }
    }
    layer
}

/// A line for every variable that looks as if it did something here, and does not.
pub(super) fn warnings(variables: &BTreeMap<String, OsString>) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, value) in variables {
        let ours = name.starts_with(PREFIX) && !KUBERNETES.iter().any(|made| name.starts_with(made));
        if ours && path_of(name).is_none() {
            lines.push(format!("{name}: sets nothing; keys are set with FOREBAY__SECTION__KEY, two underscores each"));
        } else if PROXIES.contains(&name.as_str()) && !value.is_empty() {
            lines.push(format!("{name}: is not honoured; calls go to upstreams directly"));
        }
    }
    lines
}

/// `FOREBAY__A__B` as its steps; `None` for a variable that can set nothing.
fn path_of(name: &str) -> Option<Vec<String>> {
    let steps: Vec<String> = name.strip_prefix(LAYER)?.split("__").map(str::to_lowercase).collect();
    (!steps.iter().any(String::is_empty)).then_some(steps)
}

/// Whether the keys below this path are names that the user chose.
fn is_name(above: &[&str]) -> bool {
    matches!(above, ["upstreams" | "tenants" | "routes"] | ["upstreams", _, "prices" | "headers"])
}

/// The key in `table` that `step` stands for. A variable's name cannot say `-`, `.` or upper case, so a name the files
/// have already (`gpt-4.1`) is found by its spelling; a new one has `-` for `_`.
fn name_in(table: &Map<String, Value>, step: &str) -> String {
    let folded = |name: &str| name.to_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "_");
    let new = spell(step);
    if table.contains_key(&new) {
        return new;
    }
    table.keys().filter(|name| folded(name) == folded(step)).min().cloned().unwrap_or(new)
}

fn spell(step: &str) -> String {
    step.replace('_', "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> BTreeMap<String, OsString> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), OsString::from(value))).collect()
    }

    #[test]
    fn variables_that_set_nothing_are_warned_of_but_not_those_kubernetes_makes() {
        let lines = warnings(&of(&[
            ("FOREBAY_SERVER__LISTEN", "x"),
            ("FOREBAY__SERVER____LISTEN", "x"),
            ("FOREBAY__SERVER__LISTEN", "x"),
            ("FOREBAY_SERVICE_HOST", "10.0.0.1"),
            ("FOREBAY_SERVICE_PORT_HTTP", "80"),
            ("FOREBAY_PORT", "tcp://10.0.0.1:80"),
            ("FOREBAY_PORT_80_TCP_ADDR", "10.0.0.1"),
            ("FOREBAYX", "x"),
        ]));
        let names: Vec<_> = lines.iter().filter_map(|line| line.split(':').next()).collect();
        assert_eq!(names, ["FOREBAY_SERVER__LISTEN", "FOREBAY__SERVER____LISTEN"]);
    }

    #[test]
    fn a_proxy_that_is_not_honoured_is_said_without_its_value() {
        let lines = warnings(&of(&[("HTTPS_PROXY", "http://user:pw@proxy"), ("ALL_PROXY", ""), ("https_proxy", "x")]));
        assert_eq!(lines.len(), 2);
        assert!(lines.iter().all(|line| line.contains("not honoured") && !line.contains("pw")));
    }
}
