//! The walk over merged values: a [`Section`] reads its keys by type, notes what is in force, and records what is wrong.
//!
//! Nothing here stops at a problem. A reader that found one returns `None`; whatever then stands in for the value is
//! never seen, since a configuration with problems is not handed out.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsString;

use config::{Value, ValueKind};

use super::check::{Problem, did_you_mean, one_line};
use super::effective::{Effective, MASK, header, list, string};
use super::environment;
use super::load::{DEFAULTS, is_empty};
use super::raw::{Raw, what};
use super::{secret, values};
use crate::messages::Secret;

/// What all sections of one walk share.
pub(super) struct Walk<'a> {
    /// Where `env:NAME` is looked up.
    variables: &'a BTreeMap<String, OsString>,
    /// Whether every file could be read. If not, what seems to be missing may be in the unread one, so it is no problem.
    complete: bool,
    found: RefCell<Found>,
}

/// What a walk has brought so far.
#[derive(Default)]
pub(super) struct Found {
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<String>,
    pub(super) effective: Vec<Effective>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(variables: &'a BTreeMap<String, OsString>, complete: bool) -> Self {
        Self { variables, complete, found: RefCell::default() }
    }

    /// Reads `root` as the whole file.
    pub(super) fn root<T>(&'a self, root: &'a Value, read: impl FnOnce(&mut Section<'a>) -> T) -> Option<T> {
        Section::open(self, Vec::new(), root, read)
    }

    pub(super) fn into_found(self) -> Found {
        self.found.into_inner()
    }
}

/// One table of the file: knows its name and origin, and which of its keys have been asked for.
pub(super) struct Section<'a> {
    walk: &'a Walk<'a>,
    /// `["upstreams", "openai"]`; empty for the file itself.
    path: Vec<&'a str>,
    /// The last layer that named this table.
    origin: &'a str,
    /// What has not been asked for yet; what is left at the end is unknown.
    left: BTreeMap<&'a str, &'a Value>,
    known: Vec<&'a str>,
}

impl<'a> Section<'a> {
    /// Reads `value` as the table `path`, then reports the keys nobody asked for; `None` when it is no table.
    fn open<T>(
        walk: &'a Walk<'a>,
        path: Vec<&'a str>,
        value: &'a Value,
        read: impl FnOnce(&mut Self) -> T,
    ) -> Option<T> {
        let origin = origin_of(value);
        let ValueKind::Table(table) = &value.kind else {
            let fix = format!("must be a section, not {}; write {}", what(&value.kind), header(&path));
            walk.found.borrow_mut().problems.push(Problem::new(origin, header(&path), fix));
            return None;
        };
        let left = table.iter().map(|(key, value)| (key.as_str(), value)).collect();
        let mut section = Self { walk, path, origin, left, known: Vec::new() };
        let read = read(&mut section);
        section.report_unknown();
        Some(read)
    }

    /// The value of `key` if it is set: brought to the type `R`, then refined.
    pub(super) fn get<R: Raw, T>(&mut self, key: &'a str, refine: impl FnOnce(R) -> Result<T, String>) -> Option<T> {
        let (raw, origin) = self.raw::<R>(key)?;
        let (shown, toml) = (raw.shown(), raw.toml());
        match refine(raw) {
            Ok(value) => {
                self.note(key, toml, origin);
                Some(value)
            }
            Err(message) => {
                self.problem(key, origin, format!("{shown}{message}"));
                None
            }
        }
    }

    /// Like [`get`](Self::get), but a missing key is a problem, with `example` as its fix.
    pub(super) fn need<R: Raw, T>(
        &mut self,
        key: &'a str,
        example: &str,
        refine: impl FnOnce(R) -> Result<T, String>,
    ) -> Option<T> {
        self.miss(key, example);
        self.get(key, refine)
    }

    /// A secret that must be set: `env:NAME`, `file:PATH` or the value itself.
    pub(super) fn need_secret(
        &mut self,
        key: &'a str,
        example: &str,
        check: impl Fn(&str) -> Result<(), String>,
    ) -> Option<Secret> {
        self.miss(key, example);
        self.secret(key, check)
    }

    /// A secret, if it is set. `check` judges the value it resolves to, and never repeats it.
    pub(super) fn secret(&mut self, key: &'a str, check: impl Fn(&str) -> Result<(), String>) -> Option<Secret> {
        let (text, origin) = self.raw::<String>(key)?;
        let (secret, via) = self.resolve(key, origin, "", &text, &check)?;
        self.note(key, string(MASK), &via);
        Some(secret)
    }

    /// A list of secrets, if it is set: at least one, none of them twice.
    pub(super) fn secrets(&mut self, key: &'a str, check: impl Fn(&str) -> Result<(), String>) -> Option<Vec<Secret>> {
        let (texts, origin) = self.raw::<Vec<String>>(key)?;
        if texts.is_empty() {
            self.problem(key, origin, "is empty; list at least one, or leave the key out where none is needed");
        }
        // By its place in the file, so that a problem with one entry does not shift the numbers of the others.
        let mut resolved: Vec<(usize, Secret, String)> = Vec::new();
        for (n, text) in texts.iter().enumerate() {
            let place = format!("entry {}: ", n + 1);
            let Some((secret, via)) = self.resolve(key, origin, &place, text, &check) else { continue };
            match resolved.iter().find(|(_, other, _)| *other == secret) {
                Some((first, ..)) => {
                    self.problem(key, origin, format!("{place}is the same as entry {}; remove one of them", first + 1));
                }
                None => resolved.push((n, secret, via)),
            }
        }
        let masks: Vec<_> = resolved.iter().map(|_| MASK.to_owned()).collect();
        let vias: Vec<_> = resolved.iter().map(|(_, _, via)| via.as_str()).collect();
        self.note(key, list(&masks), &vias.join(", "));
        Some(resolved.into_iter().map(|(_, secret, _)| secret).collect())
    }

    /// The section `key` below this one, if there is one.
    pub(super) fn table<T>(&mut self, key: &'a str, read: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.known.push(key);
        let value = self.left.remove(key)?;
        Self::open(self.walk, self.path_to(key), value, read)
    }

    /// Every section below this one, each by its name: for sections whose names are the user's.
    pub(super) fn each<T>(&mut self, mut read: impl FnMut(&'a str, &mut Self) -> T) -> BTreeMap<&'a str, T> {
        let mut all = BTreeMap::new();
        for name in self.names() {
            if let Some(one) = self.table(name, |section| read(name, section)) {
                all.insert(name, one);
            }
        }
        all
    }

    /// The keys nobody has asked for yet.
    pub(super) fn names(&self) -> Vec<&'a str> {
        self.left.keys().copied().collect()
    }

    /// Whether `key` is set and, if it is a table, has something in it. A broken value counts as something.
    pub(super) fn has(&self, key: &str) -> bool {
        self.left.get(key).is_some_and(|value| !is_empty(value))
    }

    /// The names of the tables in `key`.
    pub(super) fn names_in(&self, key: &str) -> Vec<&'a str> {
        match self.left.get(key).map(|value| &value.kind) {
            Some(ValueKind::Table(table)) => table.keys().map(String::as_str).collect(),
            _ => Vec::new(),
        }
    }

    /// Whether a layer above the defaults sets `key`.
    pub(super) fn is_told(&self, key: &str) -> bool {
        self.left.get(key).is_some_and(|value| origin_of(value) != DEFAULTS)
    }

    /// Refuses `key` if it is set.
    pub(super) fn refuse(&mut self, key: &'a str, message: &str) {
        self.known.push(key);
        if let Some(value) = self.left.remove(key) {
            self.problem(key, origin_of(value), message);
        }
    }

    /// Records a problem if `name`, this section's own, cannot name what it is.
    pub(super) fn check_name(&self, what: &str, name: &str) {
        if !values::is_name(name) {
            let better = values::as_name(name);
            self.problem_here(format!("{what} names are lower-case letters, digits and -; rename it to {better}"));
        }
    }

    /// Where `key` was set last, or else this section.
    pub(super) fn origin_of(&self, key: &str) -> &'a str {
        self.left.get(key).map_or(self.origin, |value| origin_of(value))
    }

    /// Whether every file could be read, so that what is missing is missing.
    pub(super) fn is_complete(&self) -> bool {
        self.walk.complete
    }

    /// Records that `key`, set in `origin`, is wrong.
    pub(super) fn problem(&self, key: &str, origin: &str, message: impl Into<String>) {
        let problem = Problem::new(origin, self.label(key), message);
        self.walk.found.borrow_mut().problems.push(problem);
    }

    /// Records that this section as a whole is wrong.
    pub(super) fn problem_here(&self, message: impl Into<String>) {
        self.walk.found.borrow_mut().problems.push(Problem::new(self.origin, header(&self.path), message));
    }

    /// Records a warning about `key`: allowed, but worth a line.
    pub(super) fn warn(&self, key: &str, origin: &str, message: &str) {
        let line = format!("{origin}: {} {message}", self.label(key));
        self.walk.found.borrow_mut().warnings.push(one_line(&line));
    }

    /// Records what is in force.
    pub(super) fn note(&self, key: &str, toml: String, origin: &str) {
        let effective = Effective::new(&self.path, key, toml, origin);
        self.walk.found.borrow_mut().effective.push(effective);
    }

    /// Takes `key` and brings it to the type `R`, as TOML has it or as the text of a variable.
    pub(super) fn raw<R: Raw>(&mut self, key: &'a str) -> Option<(R, &'a str)> {
        self.known.push(key);
        let value = self.left.remove(key)?;
        let origin = origin_of(value);
        let read = match &value.kind {
            ValueKind::String(text) if environment::is_variable(origin) => {
                R::from_variable(text).ok_or_else(|| format!("must be {}", R::WHAT))
            }
            kind => R::from_value(kind).ok_or_else(|| format!("must be {}, not {}", R::WHAT, what(kind))),
        };
        match read {
            Ok(raw) => Some((raw, origin)),
            Err(message) => {
                self.problem(key, origin, format!("{message}; write {}", R::EXAMPLE));
                None
            }
        }
    }

    /// The secret that `text` stands for, and where it comes from.
    fn resolve(
        &self,
        key: &str,
        origin: &str,
        place: &str,
        text: &str,
        check: impl Fn(&str) -> Result<(), String>,
    ) -> Option<(Secret, String)> {
        let resolved = secret::resolve(text, self.walk.variables).and_then(|found| check(&found.value).map(|()| found));
        match resolved {
            Ok(found) => {
                if let Some(warning) = found.warning {
                    self.warn(key, origin, &format!("{place}{warning}"));
                }
                let via = found.reference.map_or_else(|| origin.to_owned(), |named| format!("{named} in {origin}"));
                Some((Secret::new(found.value), via))
            }
            Err(message) => {
                self.problem(key, origin, format!("{place}{message}"));
                None
            }
        }
    }

    /// Records that `key` is missing, if it is.
    fn miss(&self, key: &str, example: &str) {
        if self.walk.complete && !self.left.contains_key(key) {
            self.problem(key, self.origin, format!("missing; write {example}"));
        }
    }

    fn report_unknown(&self) {
        for (key, value) in &self.left {
            let at_top = self.path.is_empty();
            let is_section = at_top && matches!(value.kind, ValueKind::Table(_));
            let wrong = if is_section {
                "unknown section"
            } else if at_top {
                "unknown key outside any section"
            } else {
                "unknown key"
            };
            let named = |name: &str| if at_top { format!("[{name}]") } else { name.to_owned() };
            let fix = match did_you_mean(key, self.known.iter().copied()) {
                Some(name) => format!("did you mean {}?", named(name)),
                None => {
                    let known: Vec<_> = self.known.iter().map(|name| named(name)).collect();
                    format!("remove it (known here: {})", known.join(", "))
                }
            };
            self.problem(key, origin_of(value), format!("{wrong}; {fix}"));
        }
    }

    fn path_to(&self, key: &'a str) -> Vec<&'a str> {
        self.path.iter().copied().chain([key]).collect()
    }

    /// How a line names `key`: `[upstreams.openai] api_keys`, or `[store]` for a section.
    fn label(&self, key: &str) -> String {
        if self.path.is_empty() { header(&[key]) } else { format!("{} {key}", header(&self.path)) }
    }
}

fn origin_of(value: &Value) -> &str {
    value.origin().unwrap_or(DEFAULTS)
}
