//! The few types that TOML values have, each readable from an environment variable's text as well.

use config::ValueKind;

use super::effective::{MASK, list, string};

/// A TOML type, as a key's reader asks for it.
pub(super) trait Raw: Sized {
    /// What it is, in words: `a whole number`.
    const WHAT: &'static str;
    /// How one is written.
    const EXAMPLE: &'static str;

    /// From a parsed file; `None` when it is of another type. Strict: `"5"` is no number there.
    fn from_value(kind: &ValueKind) -> Option<Self>;

    /// From a variable's text, which has no type of its own.
    fn from_variable(text: &str) -> Option<Self>;

    /// As TOML.
    fn toml(&self) -> String;

    /// How a problem line begins that is about this value; empty where the value had better not be shown.
    fn shown(&self) -> String {
        format!("{} ", self.toml())
    }
}

/// What `kind` is, in words; never its value, which may be a secret in the wrong place.
pub(super) fn what(kind: &ValueKind) -> &'static str {
    match kind {
        ValueKind::Nil => "nothing",
        ValueKind::Boolean(_) => "true or false",
        ValueKind::I64(_) | ValueKind::I128(_) | ValueKind::U64(_) | ValueKind::U128(_) => "a whole number",
        ValueKind::Float(_) => "a number",
        ValueKind::String(_) => "a string",
        ValueKind::Table(_) => "a section",
        ValueKind::Array(_) => "a list",
    }
}

impl Raw for bool {
    const WHAT: &'static str = "true or false";
    const EXAMPLE: &'static str = "true or false";

    fn from_value(kind: &ValueKind) -> Option<Self> {
        match kind {
            ValueKind::Boolean(flag) => Some(*flag),
            _ => None,
        }
    }

    fn from_variable(text: &str) -> Option<Self> {
        text.trim().parse().ok()
    }

    fn toml(&self) -> String {
        self.to_string()
    }
}

impl Raw for i64 {
    const WHAT: &'static str = "a whole number";
    const EXAMPLE: &'static str = "digits only, such as 100";

    fn from_value(kind: &ValueKind) -> Option<Self> {
        match kind {
            ValueKind::I64(number) => Some(*number),
            _ => None,
        }
    }

    fn from_variable(text: &str) -> Option<Self> {
        text.trim().parse().ok()
    }

    fn toml(&self) -> String {
        self.to_string()
    }
}

impl Raw for f64 {
    const WHAT: &'static str = "a number";
    const EXAMPLE: &'static str = "digits with a dot where wanted, such as 0.5";

    fn from_value(kind: &ValueKind) -> Option<Self> {
        match kind {
            ValueKind::Float(number) => Some(*number),
            // Whole numbers are numbers; every one anybody writes is exact.
            ValueKind::I64(number) => Some(*number as Self),
            _ => None,
        }
    }

    fn from_variable(text: &str) -> Option<Self> {
        text.trim().parse().ok()
    }

    fn toml(&self) -> String {
        format!("{self:?}")
    }
}

impl Raw for String {
    const WHAT: &'static str = "a string";
    const EXAMPLE: &'static str = "it in quotes";

    fn from_value(kind: &ValueKind) -> Option<Self> {
        match kind {
            ValueKind::String(text) => Some(text.clone()),
            _ => None,
        }
    }

    fn from_variable(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }

    fn toml(&self) -> String {
        string(self)
    }
}

impl Raw for Vec<String> {
    const WHAT: &'static str = "a list of strings";
    const EXAMPLE: &'static str = "[\"a\", \"b\"]";

    fn from_value(kind: &ValueKind) -> Option<Self> {
        match kind {
            ValueKind::Array(items) => items.iter().map(|item| String::from_value(&item.kind)).collect(),
            _ => None,
        }
    }

    /// `a,b`; nothing between two commas is no entry, so an empty variable is an empty list.
    fn from_variable(text: &str) -> Option<Self> {
        Some(text.split(',').map(str::trim).filter(|entry| !entry.is_empty()).map(str::to_owned).collect())
    }

    fn toml(&self) -> String {
        list(self)
    }

    fn shown(&self) -> String {
        String::new()
    }
}

/// A number with a unit, which may also be written as a bare number: `"16MiB"` or `16777216`.
pub(super) struct Scalar {
    pub(super) text: String,
    is_number: bool,
}

impl Raw for Scalar {
    const WHAT: &'static str = "a string with a number and its unit";
    const EXAMPLE: &'static str = "it in quotes";

    fn from_value(kind: &ValueKind) -> Option<Self> {
        match kind {
            ValueKind::String(text) => Some(Self { text: text.clone(), is_number: false }),
            ValueKind::I64(number) => Some(Self { text: number.to_string(), is_number: true }),
            ValueKind::Float(number) => Some(Self { text: format!("{number:?}"), is_number: true }),
            _ => None,
        }
    }

    fn from_variable(text: &str) -> Option<Self> {
        Some(Self { text: text.trim().to_owned(), is_number: false })
    }

    fn toml(&self) -> String {
        if self.is_number { self.text.clone() } else { string(&self.text) }
    }
}

/// A string that may carry credentials where it should not (an URL), so that a problem line must not repeat it.
pub(super) struct Quiet(pub(super) String);

impl Quiet {
    /// An URL with its password masked, and its query, which may hold another.
    pub(super) fn masked(&self) -> Self {
        let Some((scheme, rest)) = self.0.split_once("://") else { return Self(self.0.clone()) };
        let (rest, query) = rest.split_once('?').map_or((rest, String::new()), |(rest, _)| (rest, format!("?{MASK}")));
        let (user, host) = rest.rsplit_once('@').map_or((String::new(), rest), |(user, host)| {
            let user = user.split_once(':').map_or(user.to_owned(), |(name, _)| format!("{name}:{MASK}"));
            (format!("{user}@"), host)
        });
        Self(format!("{scheme}://{user}{host}{query}"))
    }
}

impl Raw for Quiet {
    const WHAT: &'static str = String::WHAT;
    const EXAMPLE: &'static str = String::EXAMPLE;

    fn from_value(kind: &ValueKind) -> Option<Self> {
        String::from_value(kind).map(Self)
    }

    fn from_variable(text: &str) -> Option<Self> {
        Some(Self(text.to_owned()))
    }

    fn toml(&self) -> String {
        string(&self.0)
    }

    fn shown(&self) -> String {
        String::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_converted_by_what_the_key_wants() {
        assert_eq!(bool::from_variable("true"), Some(true));
        assert_eq!(bool::from_variable("yes"), None);
        assert_eq!(i64::from_variable(" 0042 "), Some(42));
        assert_eq!(i64::from_variable("4.2"), None);
        assert_eq!(f64::from_variable("2"), Some(2.0));
        assert_eq!(String::from_variable("0123456789"), Some("0123456789".into()));
        assert_eq!(Vec::from_variable("a, b,,c"), Some(vec!["a".into(), "b".into(), "c".into()]));
        assert_eq!(Vec::<String>::from_variable(""), Some(Vec::new()));
    }

    #[test]
    fn files_are_read_strictly() {
        let text = ValueKind::String("5".into());
        assert!(
            i64::from_value(&text).is_none() && f64::from_value(&text).is_none() && bool::from_value(&text).is_none()
        );
        assert!(Vec::<String>::from_value(&text).is_none());
        assert_eq!(f64::from_value(&ValueKind::I64(2)), Some(2.0));
        assert!(String::from_value(&ValueKind::I64(2)).is_none());
    }

    #[test]
    fn credentials_in_an_url_are_masked() {
        let masked = |url: &str| Quiet(url.to_owned()).masked().0;
        assert_eq!(masked("postgres://u:p@ss@h/d?password=x"), "postgres://u:***@h/d?***");
        assert_eq!(masked("postgres://u@h/d"), "postgres://u@h/d");
        assert_eq!(masked("sqlite:forebay.db"), "sqlite:forebay.db");
    }

    #[test]
    fn what_is_shown_is_valid_toml() {
        assert_eq!(1e300.toml(), "1e300");
        assert_eq!(2.0.toml(), "2.0");
        assert_eq!(Scalar::from_variable("16MiB").map(|s| s.toml()), Some("\"16MiB\"".into()));
        assert_eq!(Scalar::from_value(&ValueKind::I64(7)).map(|s| s.toml()), Some("7".into()));
    }
}
