//! What is in force, as TOML, each value with the layer it comes from.

use super::check::one_line;

/// What stands for a secret.
pub(super) const MASK: &str = "***";

/// One key in force.
#[derive(Clone, Debug)]
pub(super) struct Effective {
    /// `[upstreams.openai]`
    header: String,
    /// `upstreams.openai.models`
    dotted: String,
    key: String,
    value: String,
    origin: String,
}

impl Effective {
    /// `value` is TOML already, and masked where it must be.
    pub(super) fn new(path: &[&str], name: &str, value: String, origin: &str) -> Self {
        let full: Vec<_> = path.iter().copied().chain([name]).collect();
        Self { header: header(path), dotted: dotted(&full), key: key(name), value, origin: origin.to_owned() }
    }

    /// The key with its sections, and its value.
    pub(super) fn pair(&self) -> (String, String) {
        (self.dotted.clone(), self.value.clone())
    }
}

/// All of `effective` as a TOML file, sections in the order they first appear.
pub(super) fn render(effective: &[Effective]) -> String {
    let mut sections: Vec<(&str, String)> = Vec::new();
    for entry in effective {
        let line = format!("{} = {} # {}\n", entry.key, entry.value, one_line(&entry.origin));
        match sections.iter_mut().find(|(header, _)| *header == entry.header) {
            Some((_, lines)) => lines.push_str(&line),
            None => sections.push((&entry.header, line)),
        }
    }
    sections.into_iter().map(|(header, lines)| format!("{header}\n{lines}")).collect::<Vec<_>>().join("\n")
}

/// `[upstreams.openai]`
pub(super) fn header(path: &[&str]) -> String {
    format!("[{}]", dotted(path))
}

fn dotted(path: &[&str]) -> String {
    path.iter().map(|name| key(name)).collect::<Vec<_>>().join(".")
}

/// A key, in quotes where TOML wants them.
fn key(name: &str) -> String {
    let is_bare = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if is_bare { name.to_owned() } else { string(name) }
}

/// A basic string.
pub(super) fn string(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// A list of basic strings.
pub(super) fn list(entries: &[String]) -> String {
    format!("[{}]", entries.iter().map(|entry| string(entry)).collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use config::{FileFormat, Format};

    use super::*;

    #[test]
    fn any_name_and_text_survives_as_toml() {
        let odd = "a.\"b\"\\\n\u{7f}\u{85}é🚢";
        let entries = [
            Effective::new(&["routes", odd], odd, string(odd), "a\nb"),
            Effective::new(&["pool"], "threads", "1".into(), "x"),
            Effective::new(&["routes", odd], "", list(&[odd.into()]), "x"),
        ];
        let text = render(&entries);
        let root = FileFormat::Toml.parse(None, &text).expect(&text);
        let routes = root["routes"].clone().into_table().expect("a table");
        let route = routes[odd].clone().into_table().expect("a table");
        assert_eq!(route[odd].clone().into_string().expect("a string"), odd);
        assert_eq!(route[""].clone().into_array().expect("a list").len(), 1);
    }
}
