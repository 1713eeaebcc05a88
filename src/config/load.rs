//! Layers what was said where: defaults, files, environment.
//!
//! Every file is parsed on its own first, so that all that cannot be read is reported together. The merged tree keeps
//! for each value the layer it came from. Then `schema` reads the tree; this file knows no key but the names of sections.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use config::{FileFormat, Format, Map, Value, ValueKind};

use super::check::Problem;
use super::environment::{self, Variable};
use super::section::Walk;
use super::{Config, Problems, effective, schema};

/// The origin of what nobody said.
pub(super) const DEFAULTS: &str = "default";

const DEFAULT_TOML: &str = include_str!("../../config/default.toml");
const UPSTREAM_TOML: &str = include_str!("../../config/upstream.toml");
const PRESETS_TOML: &str = include_str!("../../config/presets.toml");

/// Files that are read where they exist.
const WELL_KNOWN: [&str; 2] = ["/etc/forebay/forebay.toml", "./forebay.toml"];

/// Each preset upstream and the variable that brings it; the order in which a message names them.
const PRESETS: [(&str, &str); 4] = [
    ("openai", "OPENAI_API_KEY"),
    ("anthropic", "ANTHROPIC_API_KEY"),
    ("gemini", "GEMINI_API_KEY"),
    ("holysheep", "HOLYSHEEP_API_KEY"),
];

/// Where a configuration is read from. Debug shows no values.
#[derive(Clone, Default)]
pub struct Sources {
    files: Vec<Input>,
    variables: BTreeMap<String, OsString>,
    /// Whether variables set keys and bring presets; if not, they only answer `env:NAME`.
    layers_environment: bool,
}

#[derive(Clone)]
enum Input {
    /// Read if it exists.
    WellKnown(PathBuf),
    /// Asked for, so it must exist.
    File(PathBuf),
    Text(String),
}

impl Sources {
    /// No file and no variable.
    pub fn none() -> Self {
        Self::default()
    }

    /// What this process has: the well-known files, `files`, then its environment.
    pub fn of_process(files: &[PathBuf]) -> Self {
        let known = WELL_KNOWN.iter().fold(Self::none(), |sources, path| sources.well_known(path));
        files.iter().fold(known, |sources, path| sources.file(path)).environment(of_this_process())
    }

    /// TOML text alone; the process's environment answers `env:NAME` and nothing else.
    pub fn text(text: &str) -> Self {
        Self { files: vec![Input::Text(text.to_owned())], variables: of_this_process(), layers_environment: false }
    }

    /// Adds a file that is read if it exists, above those before it.
    #[must_use]
    pub fn well_known(mut self, path: impl Into<PathBuf>) -> Self {
        self.files.push(Input::WellKnown(path.into()));
        self
    }

    /// Adds a file that must exist, above those before it.
    #[must_use]
    pub fn file(mut self, path: impl Into<PathBuf>) -> Self {
        self.files.push(Input::File(path.into()));
        self
    }

    /// Sets the environment: it sets keys, brings presets and answers `env:NAME`.
    #[must_use]
    pub fn environment(mut self, variables: BTreeMap<String, OsString>) -> Self {
        self.variables = variables;
        self.layers_environment = true;
        self
    }
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let files: Vec<_> = self.files.iter().map(Input::name).collect();
        f.debug_struct("Sources").field("files", &files).finish_non_exhaustive()
    }
}

/// Variables whose very name is no text cannot be named by anybody.
fn of_this_process() -> BTreeMap<String, OsString> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value))).collect()
}

impl Input {
    /// How problems name it.
    fn name(&self) -> String {
        match self {
            Self::WellKnown(path) | Self::File(path) => {
                let name = path.display().to_string();
                if environment::is_variable(&name) || name == DEFAULTS { format!("./{name}") } else { name }
            }
            Self::Text(_) => "configuration".to_owned(),
        }
    }

    /// Its values; nothing for a well-known file that does not exist.
    fn read(&self) -> Result<Option<Value>, Problem> {
        let cannot = |path: &Path, e: &io::Error| {
            let message = match e.kind() {
                io::ErrorKind::NotFound => "does not exist; correct the path given with -c".to_owned(),
                io::ErrorKind::InvalidData => "is not UTF-8; save it as UTF-8 text".to_owned(),
                _ => format!("cannot be read ({e}); make it a readable file"),
            };
            Problem::new(self.name(), format!("file {}", path.display()), message)
        };
        let text = match self {
            Self::Text(text) => text.clone(),
            Self::File(path) => std::fs::read_to_string(path).map_err(|e| cannot(path, &e))?,
            Self::WellKnown(path) => match std::fs::read_to_string(path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
                read => read.map_err(|e| cannot(path, &e))?,
            },
        };
        parse(&self.name(), &text).map(Some)
    }
}

/// Parses TOML; every value in it remembers `origin`.
fn parse(origin: &str, text: &str) -> Result<Value, Problem> {
    let origin = origin.to_owned();
    match FileFormat::Toml.parse(Some(&origin), text) {
        Ok(table) => Ok(Value::new(Some(&origin), table)),
        Err(e) => Err(unparsable(&origin, &e.to_string())),
    }
}

/// Turns the parser's picture of the error into one line. The picture quotes the file, which may hold secrets: only the
/// position at its head and the words below it are taken.
fn unparsable(origin: &str, picture: &str) -> Problem {
    const HEAD: &str = "TOML parse error at ";
    const QUOTED_LINES: usize = 4;
    let lines: Vec<&str> = picture.lines().collect();
    let (place, words) = match lines.first().and_then(|head| head.strip_prefix(HEAD)) {
        Some(place) => (place, lines.get(QUOTED_LINES..).unwrap_or_default()),
        None => ("whole file", lines.as_slice()),
    };
    Problem::new(origin, place, format!("not valid TOML: {}; correct the syntax there", words.join(", ")))
}

/// Lays `above` over `below`, key by key; lists are replaced whole.
///
/// The crate's own builder reads a key such as `"gpt-4.1"` as a path, and forgets which layer a table is of.
fn merge(below: &mut Value, above: &Value) {
    let ValueKind::Table(told) = &above.kind else {
        *below = above.clone();
        return;
    };
    let mut table = match std::mem::take(&mut below.kind) {
        ValueKind::Table(table) => table,
        _ => Map::new(),
    };
    for (key, value) in told {
        match table.get_mut(key) {
            Some(have) => merge(have, value),
            None => {
                table.insert(key.clone(), value.clone());
            }
        }
    }
    *below = Value::new(above.origin().map(str::to_owned).as_ref(), table);
}

/// Whether this is a table with nothing in it, which says as much as no table.
pub(super) fn is_empty(value: &Value) -> bool {
    matches!(&value.kind, ValueKind::Table(table) if table.is_empty())
}

fn tables_in<'a>(tree: &'a mut Value, section: &str) -> impl Iterator<Item = &'a mut Value> {
    let section = match &mut tree.kind {
        ValueKind::Table(root) => root.get_mut(section),
        _ => None,
    };
    let tables = match section.map(|section| &mut section.kind) {
        Some(ValueKind::Table(tables)) => Some(tables.values_mut()),
        _ => None,
    };
    tables.into_iter().flatten().filter(|value| matches!(value.kind, ValueKind::Table(_)))
}

/// The presets whose variable is set, unless an upstream is configured. Variables that only adjust such a preset
/// configure none.
fn presets(
    files: &[Value],
    variables: &[Variable],
    environment: &BTreeMap<String, OsString>,
) -> Result<Value, Problem> {
    let found = |name: &str| {
        let preset = PRESETS.iter().find(|(preset, _)| *preset == name);
        preset.is_some_and(|(_, variable)| environment.get(*variable).is_some_and(|key| !key.is_empty()))
    };
    let in_files = files.iter().any(|file| match &file.kind {
        ValueKind::Table(root) => root.get("upstreams").is_some_and(|value| !is_empty(value)),
        _ => false,
    });
    let of_their_own = variables.iter().filter_map(Variable::upstream).any(|name| !found(&name));
    let mut upstreams = Map::new();
    if !in_files && !of_their_own {
        for (name, variable) in PRESETS.into_iter().filter(|(name, _)| found(name)) {
            // Parsed once for each, so that its values' origin is its own variable.
            if let ValueKind::Table(mut all) = parse(variable, PRESETS_TOML)?.kind
                && let Some(preset) = all.remove(name)
            {
                upstreams.insert(name.to_owned(), preset);
            }
        }
    }
    let mut root = Map::new();
    if !upstreams.is_empty() {
        root.insert("upstreams".to_owned(), Value::from(upstreams));
    }
    Ok(Value::from(root))
}

/// All layers in one tree; what cannot be read is left out and reported.
fn tree(sources: &Sources, problems: &mut Vec<Problem>) -> Result<Value, Problem> {
    let mut files = Vec::new();
    for input in &sources.files {
        match input.read() {
            Ok(file) => files.extend(file),
            Err(problem) => problems.push(problem),
        }
    }
    let mut tree = parse(DEFAULTS, DEFAULT_TOML)?;
    let mut variables = Vec::new();
    if sources.layers_environment {
        variables = environment::layer(&sources.variables, problems);
        merge(&mut tree, &presets(&files, &variables, &sources.variables)?);
    }
    for file in &files {
        merge(&mut tree, file);
    }
    for variable in &variables {
        variable.apply(&mut tree);
    }
    let upstream_defaults = parse(DEFAULTS, UPSTREAM_TOML)?;
    for upstream in tables_in(&mut tree, "upstreams") {
        let told = std::mem::replace(upstream, upstream_defaults.clone());
        merge(upstream, &told);
    }
    Ok(tree)
}

impl Config {
    /// Reads and checks `sources`.
    ///
    /// # Errors
    /// Every problem found.
    pub fn from_sources(sources: &Sources) -> Result<Self, Problems> {
        let mut problems = Vec::new();
        let tree = tree(sources, &mut problems).map_err(|problem| Problems::new(vec![problem]))?;
        let walk = Walk::new(&sources.variables, problems.is_empty());
        let config = walk.root(&tree, schema::read).flatten();
        let found = walk.into_found();
        problems.extend(found.problems);
        match config {
            Some(mut config) if problems.is_empty() => {
                if sources.layers_environment {
                    config.warnings = environment::warnings(&sources.variables);
                }
                config.warnings.extend(found.warnings);
                config.effective = found.effective.iter().map(effective::Effective::pair).collect();
                config.effective_toml = effective::render(&found.effective);
                Ok(config)
            }
            _ => Err(Problems::new(problems)),
        }
    }
}

/// The variables that bring a preset, as a message names them.
pub(super) fn preset_variables() -> String {
    let [first @ .., (_, last)] = PRESETS;
    format!("{} or {last}", first.map(|(_, variable)| variable).join(", "))
}
