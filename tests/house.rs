//! The house's rules, so that a line of code stays in its room: who may import whom, and who may touch what.

use std::path::{Path, PathBuf};

/// Rooms from the ground up; a room imports from those before it only. Rooms of one storey do not know each other.
const STOREYS: [&[&str]; 8] = [
    &["clock", "messages"],
    &["config", "telemetry"],
    &["providers", "store"],
    &["dispatcher", "pool"],
    &["jobs"],
    &["system"],
    &["simulator", "gateway"],
    &["cli"],
];

/// Neighbours that may know each other all the same.
const NEIGHBOURS: [(&str, &str); 2] = [("messages", "clock"), ("telemetry", "config")];

fn sources() -> Vec<(PathBuf, String)> {
    fn walk(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
        for entry in std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            if entry.is_dir() {
                walk(&entry, found);
            } else if entry.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&entry).expect("a source file");
                found.push((entry, text));
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    walk(&root, &mut found);
    let relative = |path: PathBuf| path.strip_prefix(&root).expect("below src").to_owned();
    found.into_iter().map(|(path, text)| (relative(path), text)).collect()
}

/// The code of a file: what stands before its tests, without comments.
fn code(text: &str) -> String {
    let before_tests = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let lines = before_tests.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

fn room(path: &Path) -> String {
    let first = path.components().next().expect("a path").as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

fn is_test(path: &Path) -> bool {
    path.components()
        .any(|part| ["tests", "tests.rs", "testing.rs", "simulation"].iter().any(|name| part.as_os_str() == *name))
}

fn storey(room: &str) -> Option<usize> {
    STOREYS.iter().position(|rooms| rooms.contains(&room))
}

#[test]
fn imports_run_downwards_only() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let from = room(&path);
        let (Some(height), false) = (storey(&from), is_test(&path)) else { continue };
        for (at, _) in code(&text).match_indices("crate::") {
            let rest = &code(&text)[at + "crate::".len()..];
            let to: String = rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            let Some(other) = storey(&to).filter(|_| to != from) else { continue };
            let knows = NEIGHBOURS.contains(&(from.as_str(), to.as_str()));
            if other > height || (other == height && !knows) {
                wrong.push(format!("{}: crate::{to}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn what_is_delicate_is_touched_in_one_room_only() {
    let rules: [(&str, &[&str]); 6] = [
        ("actix::", &["messages", "dispatcher/actor.rs", "pool", "jobs/actor.rs", "jobs/way.rs", "system"]),
        ("awc::", &["pool/transport"]),
        ("actix_web::", &["gateway"]),
        ("Instant::now", &["clock.rs"]),
        ("SystemTime::now", &["clock.rs"]),
        ("fastrand", &["clock.rs"]),
    ];
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        for (what, rooms) in rules {
            let is_allowed = rooms.iter().any(|room| path.starts_with(room));
            let code = code(&text);
            let is_used = code.match_indices(what).any(|(at, _)| {
                let before = code[..at].chars().next_back();
                !before.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
            });
            if is_used && !is_allowed && !is_test(&path) {
                wrong.push(format!("{}: {what}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
