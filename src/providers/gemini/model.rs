//! A model's name: where it stands in the address, and what generation it is of.

/// A model as the upstream calls it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Model<'a>(pub(super) &'a str);

impl Model<'_> {
    /// Its resource below the base URL: `models/NAME`, unless it names its own collection.
    pub(super) fn path(&self) -> String {
        let (collection, name) = match self.0.split_once('/') {
            Some((collection @ ("models" | "tunedModels"), name)) => (collection, name),
            _ => ("models", self.0),
        };
        let mut path = format!("{collection}/");
        for byte in name.bytes() {
            // What is not plain would end the path, or begin another.
            if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
                path.push(char::from(byte));
            } else {
                path.push_str(&format!("%{byte:02X}"));
            }
        }
        path
    }

    /// The number of its generation; `None` for an alias such as `gemini-flash-latest`, which is always a new one.
    fn generation(&self) -> Option<u32> {
        let name = self.0.rsplit('/').next().unwrap_or_default();
        let Some(rest) = name.strip_prefix("gemini-") else {
            // Gemma and the like: no thoughts to be told of.
            return Some(0);
        };
        let digits = rest.split(|character: char| !character.is_ascii_digit()).next().unwrap_or_default();
        if digits.is_empty() { None } else { Some(digits.parse().unwrap_or(u32::MAX)) }
    }

    /// Whether it takes a level of thinking; those before the third generation take a number of tokens.
    pub(super) fn takes_levels(&self) -> bool {
        self.generation().is_none_or(|number| number >= 3)
    }

    /// Whether it refuses calls of functions in a chat's past that have no signature.
    pub(super) fn wants_signatures(&self) -> bool {
        self.takes_levels()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_within_its_place_in_the_address() {
        for (name, path) in [
            ("gemini-2.5-flash", "models/gemini-2.5-flash"),
            ("models/gemini-2.5-flash", "models/gemini-2.5-flash"),
            ("tunedModels/mine", "tunedModels/mine"),
            ("../../x?y#z", "models/..%2F..%2Fx%3Fy%23z"),
            ("models/a/b", "models/a%2Fb"),
            ("é:x", "models/%C3%A9%3Ax"),
        ] {
            assert_eq!(Model(name).path(), path);
        }
    }

    #[test]
    fn generations_are_told_apart_by_name() {
        for (name, levels) in [
            ("gemini-2.5-pro", false),
            ("gemini-1.5-flash", false),
            ("gemini-3-pro-preview", true),
            ("gemini-3.1-flash", true),
            ("gemini-flash-latest", true),
            ("models/gemini-2.5-flash", false),
            ("gemma-3-27b-it", false),
            ("gemini-99999999999999-pro", true),
        ] {
            assert_eq!(Model(name).takes_levels(), levels, "{name}");
        }
    }
}
