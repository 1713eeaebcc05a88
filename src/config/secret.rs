//! Secrets by reference: `env:NAME`, `file:PATH` or the value itself.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;

/// Far beyond any key; keeps a wrong path (a device, a log) from being read whole.
const MAX_FILE: u64 = 64 * 1024;

/// A secret that was found.
pub(super) struct Resolved {
    pub(super) value: String,
    /// `env:NAME` or `file:PATH`, where it was given by reference.
    pub(super) reference: Option<String>,
    pub(super) warning: Option<String>,
}

/// Looks up what `text` stands for. An error never repeats a value, and no reference that might be one.
pub(super) fn resolve(text: &str, variables: &BTreeMap<String, OsString>) -> Result<Resolved, String> {
    if let Some(name) = text.strip_prefix("env:") {
        let value = variable(name, variables)?;
        Ok(Resolved { value, reference: Some(text.to_owned()), warning: None })
    } else if let Some(path) = text.strip_prefix("file:") {
        let (value, warning) = file(path)?;
        Ok(Resolved { value, reference: Some(text.to_owned()), warning })
    } else {
        Ok(Resolved { value: text.to_owned(), reference: None, warning: None })
    }
}

/// What an API key can be: visible ASCII. For [`resolve`]d values.
pub(super) fn check_key(value: &str) -> Result<(), String> {
    if value.is_empty() {
        return Err("is empty; write \"env:NAME\", \"file:PATH\" or the key itself".into());
    }
    if !value.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("holds a space, line break or other character that no key has; give the key alone".into());
    }
    Ok(())
}

fn variable(name: &str, variables: &BTreeMap<String, OsString>) -> Result<String, String> {
    // A key pasted behind `env:` must not reach the log, so only what is clearly a variable's name is repeated.
    let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
    let shown = if is_name { format!("variable {name}") } else { "the variable named behind env:".to_owned() };
    match variables.get(name) {
        None => Err(format!("{shown} is not set; set it, or name another behind env:")),
        Some(value) if value.is_empty() => Err(format!("{shown} is empty; set it")),
        Some(value) => match value.to_str() {
            Some(value) => Ok(value.to_owned()),
            None => Err(format!("{shown} is not UTF-8 text; set it to a key")),
        },
    }
}

fn file(path: &str) -> Result<(String, Option<String>), String> {
    let unreadable = |e: &std::io::Error| {
        format!(
            "file {path} cannot be read ({e}); create it, or correct the path (a relative one starts at the working directory)"
        )
    };
    let file = File::open(path).map_err(|e| unreadable(&e))?;
    let warning = seen_by_others(&file)
        .then(|| format!("file {path} can be read by its group or by everyone; run chmod 600 {path}"));
    let mut text = String::new();
    file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(|e| unreadable(&e))?;
    if text.len() as u64 > MAX_FILE {
        return Err(format!("file {path} is over 64 KiB, so it is no key file; correct the path"));
    }
    let value = text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
    if value.is_empty() {
        return Err(format!("file {path} is empty; write the key into it"));
    }
    Ok((value.to_owned(), warning))
}

#[cfg(unix)]
fn seen_by_others(file: &File) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o044 != 0)
}

#[cfg(not(unix))]
fn seen_by_others(_: &File) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve_in(text: &str, variables: &[(&str, &str)]) -> Result<String, String> {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), OsString::from(value))).collect();
        resolve(text, &variables).map(|found| found.value)
    }

    #[test]
    fn a_reference_is_looked_up_and_a_literal_is_itself() {
        assert_eq!(resolve_in("env:A", &[("A", "k")]), Ok("k".into()));
        assert_eq!(resolve_in("sk-1", &[]), Ok("sk-1".into()));
        assert!(resolve_in("env:A", &[]).is_err_and(|e| e.contains("variable A is not set")));
        assert!(resolve_in("env:A", &[("A", "")]).is_err_and(|e| e.contains("variable A is empty")));
    }

    #[test]
    fn a_key_pasted_behind_env_is_not_repeated() {
        assert!(resolve_in("env:sk-proj-abc", &[]).is_err_and(|e| !e.contains("sk-proj")));
    }

    #[test]
    fn one_newline_at_the_end_of_a_file_is_not_the_key() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("key");
        for (content, key) in [("k\n", "k"), ("k\r\n", "k"), ("k", "k"), ("k\n\n", "k\n")] {
            std::fs::write(&path, content).expect("written");
            assert_eq!(resolve_in(&format!("file:{}", path.display()), &[]), Ok(key.into()));
        }
        std::fs::write(&path, "\n").expect("written");
        assert!(resolve_in(&format!("file:{}", path.display()), &[]).is_err_and(|e| e.contains("is empty")));
    }

    #[test]
    fn a_key_is_visible_ascii() {
        assert_eq!(check_key("sk-A_1.~"), Ok(()));
        for key in ["", "a b", "a\n", "\u{1}", "ключ"] {
            assert!(check_key(key).is_err_and(|e| key.is_empty() || !e.contains(key)), "{key:?}");
        }
    }
}
