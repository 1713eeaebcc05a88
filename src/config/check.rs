//! What is wrong with a configuration: one line for each problem, all of them at once.

use std::fmt;

/// One thing that is wrong: where it was said, what it concerns, and what to do about it.
///
/// Displayed as the one line `ORIGIN: KEY: MESSAGE`. No field ever holds the value of a secret.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Problem {
    /// The file as it was named, or the environment variable.
    pub origin: String,
    /// The section and key, as `[upstreams.openai] api_keys`; a line and column where the file could not be read as TOML.
    pub key: String,
    /// What is wrong; then, behind a semicolon, the fix.
    pub message: String,
}

impl Problem {
    pub(super) fn new(origin: impl Into<String>, key: impl Into<String>, message: impl Into<String>) -> Self {
        Self { origin: origin.into(), key: key.into(), message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&one_line(&format!("{}: {}: {}", self.origin, self.key, self.message)))
    }
}

/// Every problem of a configuration, in the order of the contract's sections; one line each.
#[derive(Clone, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    pub(super) fn new(problems: Vec<Problem>) -> Self {
        Self(problems)
    }

    /// Each problem.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a Problems {
    type Item = &'a Problem;
    type IntoIter = std::slice::Iter<'a, Problem>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

/// The same lines: `Config::load().unwrap()` should read as well as `forebay check`.
impl fmt::Debug for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\n")?;
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Problems {}

/// Keeps a line a line, whatever a key or file name holds.
pub(super) fn one_line(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

/// The name among `known` that `wrong` was probably meant to be.
pub(crate) fn did_you_mean<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    /// Below this likeness a suggestion would puzzle more than it helps.
    const LIKE_ENOUGH: f64 = 0.6;
    let folded = wrong.to_lowercase().replace('-', "_");
    let likeness = |name: &str| {
        let within = folded.len() >= 4 && name.len() >= 4 && (name.contains(&folded) || folded.contains(name));
        strsim::normalized_damerau_levenshtein(&folded, name) + if within { 0.4 } else { 0.0 }
    };
    known
        .into_iter()
        .map(|name| (likeness(name), name))
        .filter(|(likeness, _)| *likeness >= LIKE_ENOUGH)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_misses_are_suggested_and_far_ones_are_not() {
        let known = ["api_keys", "base_url", "connect_timeout", "models", "idle_timeout"];
        for (wrong, meant) in [
            ("api_key", "api_keys"),
            ("apikeys", "api_keys"),
            ("Base-URL", "base_url"),
            ("base_ulr", "base_url"),
            ("model", "models"),
            ("connect", "connect_timeout"),
        ] {
            assert_eq!(did_you_mean(wrong, known), Some(meant), "{wrong}");
        }
        assert_eq!(did_you_mean("colour", known), None);
    }

    #[test]
    fn a_problem_is_one_line_whatever_its_key_holds() {
        let problem = Problem::new("a\nb.toml", "[x\u{1b}]", "is wrong\r\nfix it");
        assert_eq!(problem.to_string(), "a\\nb.toml: [x\\u{1b}]: is wrong\\r\\nfix it");
        let both = Problems::new(vec![problem.clone(), problem]);
        assert_eq!(both.to_string().lines().count(), 2);
        assert_eq!(format!("{both:?}"), format!("\n{both}"));
    }
}
