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
use super::environment;
use super::section::Walk;
use super::{Config, Problems, effective, presets, schema};

/// The origin of what nobody said.
pub(super) const DEFAULTS: &str = "default";

const DEFAULT_TOML: &str = include_str!("../../config/default.toml");
const UPSTREAM_TOML: &str = include_str!("../../config/upstream.toml");

/// Files that are read where they exist.
const WELL_KNOWN: [&str; 2] = ["/etc/forebay/forebay.toml", "./forebay.toml"];

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
pub(super) fn parse(origin: &str, text: &str) -> Result<Value, Problem> {
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

/// All layers in one tree; what cannot be read is left out and reported.
fn tree(sources: &Sources, problems: &mut Vec<Problem>) -> Result<Value, Problem> {
    let mut files = Vec::new();
    for input in &sources.files {
        match input.read() {
            Ok(file) => files.extend(file),
            Err(problem) => problems.push(problem),
        }
    }
    let mut told = Value::from(Map::<String, Value>::new());
    let mut variables = Vec::new();
    if sources.layers_environment {
        variables = environment::layer(&sources.variables, problems);
        merge(&mut told, &presets::found(&files, &variables, &sources.variables)?);
    }
    for file in &files {
        merge(&mut told, file);
    }
    for variable in &variables {
        variable.apply(&mut told);
    }
    let upstream_defaults = parse(DEFAULTS, UPSTREAM_TOML)?;
    for upstream in tables_in(&mut told, "upstreams") {
        lay_under(upstream, &upstream_defaults);
    }
    lay_under(&mut told, &parse(DEFAULTS, DEFAULT_TOML)?);
    Ok(told)
}

/// Fills in what `told` leaves out. Last of all, so that every section that is one is whole, even where a lower layer
/// had something else in its place.
fn lay_under(told: &mut Value, defaults: &Value) {
    let above = std::mem::replace(told, defaults.clone());
    merge(told, &above);
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::StoreUrl;
    use super::*;

    const UPSTREAM: &str = "[upstreams.a]\nbase_url = \"http://a\"\nmodels = [\"m\"]\n";

    fn variables(pairs: &[(&str, &str)]) -> BTreeMap<String, OsString> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), OsString::from(value))).collect()
    }

    /// A directory with these files, and them as sources, in order.
    fn files(texts: &[&str]) -> (tempfile::TempDir, Sources) {
        let dir = tempfile::tempdir().expect("a directory");
        let sources = texts.iter().enumerate().fold(Sources::none(), |sources, (n, text)| {
            let path = dir.path().join(format!("{n}.toml"));
            fs::write(&path, text).expect("written");
            sources.file(path)
        });
        (dir, sources)
    }

    fn lines(sources: &Sources) -> Vec<String> {
        Config::from_sources(sources).expect_err("problems").iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_default_is_there_and_in_force() {
        let config = Config::from_toml(UPSTREAM).expect("valid");
        let mut keys = 0;
        for (section, text) in [(None, DEFAULT_TOML), (Some("a"), UPSTREAM_TOML)] {
            let root = FileFormat::Toml.parse(None, text).expect("valid TOML");
            for (name, value) in root.iter() {
                let in_section = value.clone().into_table().unwrap_or_default();
                let dotted: Vec<_> = match section {
                    Some(upstream) => vec![format!("upstreams.{upstream}.{name}")],
                    None => in_section.keys().map(|key| format!("{name}.{key}")).collect(),
                };
                for key in dotted {
                    assert!(config.effective.iter().any(|(effective, _)| *effective == key), "{key}");
                    keys += 1;
                }
            }
        }
        assert!(keys > 20);
        assert_eq!(config.queue.capacity, 10_000);
        assert_eq!(config.upstreams["a"].upstream.timeouts.answer.as_secs(), 600);
        assert!(config.warnings.is_empty());
    }

    #[test]
    fn a_store_is_told_when_anybody_names_the_section() {
        let silent = Config::from_toml(UPSTREAM).expect("valid").store;
        assert_eq!((silent.url, silent.is_told), (StoreUrl::Sqlite("forebay.db".into()), false));
        let told = Config::from_toml(&format!("{UPSTREAM}[store]\nurl = \"sqlite::memory:\"\n")).expect("valid").store;
        assert_eq!((told.url, told.is_told), (StoreUrl::Memory, true));
        let problems = Config::from_toml(&format!("{UPSTREAM}[store]\nurl = \"postgres://u:hunter2@h/d\"\n"));
        let line = problems.expect_err("not in force").to_string();
        assert!(line.contains("[store] url") && line.contains("sqlite:FILE") && !line.contains("hunter2"), "{line}");
    }

    #[test]
    fn later_files_win_key_by_key_and_the_environment_wins_over_all() {
        let (_dir, sources) = files(&[
            &format!("{UPSTREAM}[queue]\ncapacity = 1\nmax_bytes = \"1KiB\"\n[retry]\nmax_attempts = 7"),
            "[queue]\ncapacity = 2\nmax_bytes = \"2KiB\"",
        ]);
        let config = Config::from_sources(&sources.environment(variables(&[("FOREBAY__QUEUE__CAPACITY", "3")])));
        let config = config.expect("valid");
        assert_eq!((config.queue.capacity, config.queue.max_bytes, config.retry_of("a").max_attempts), (3, 2048, 7));
    }

    impl Config {
        fn retry_of(&self, upstream: &str) -> crate::config::Retry {
            self.upstreams[upstream].retry
        }
    }

    #[test]
    fn an_upstream_overrides_retry_key_by_key() {
        let text =
            format!("{UPSTREAM}[upstreams.a.retry]\nbase_delay = \"2s\"\n[retry]\nmax_attempts = 9\nmultiplier = 3");
        let retry = Config::from_toml(&text).expect("valid").retry_of("a");
        assert_eq!((retry.base_delay.as_secs(), retry.max_attempts, retry.max_delay.as_secs()), (2, 9, 60));
        assert!((retry.multiplier - 3.0).abs() < f64::EPSILON);
    }

    #[test]
    fn a_section_that_a_lower_layer_broke_is_whole_again_when_a_higher_one_mends_it() {
        let (_dir, sources) = files(&[&format!("queue = 5\n{UPSTREAM}"), "[queue]\ncapacity = 2"]);
        let config = Config::from_sources(&sources).expect("valid");
        assert_eq!((config.queue.capacity, config.queue.max_bytes), (2, 1 << 30));
    }

    #[test]
    fn names_with_dots_and_slashes_are_names() {
        let text = format!(
            "{UPSTREAM}[upstreams.a.prices.\"gpt-4.1\"]\ninput = 1\noutput = 2\n[routes.\"my/smart.one\"]\ntargets = [\"a/x.y/z\"]\n"
        );
        let config = Config::from_toml(&text).expect("valid");
        assert_eq!(config.targets("my/smart.one"), [("a".into(), "x.y/z".into())]);
        assert!(config.effective.iter().any(|(key, _)| key == "upstreams.a.prices.\"gpt-4.1\".input"));
        let lines = lines(&Sources::text(&format!("{UPSTREAM}[\"server.listen\"]\n")));
        assert!(lines[0].contains("unknown section"), "{lines:?}");
    }

    #[test]
    fn variables_reach_every_type_and_every_name() {
        let (_dir, sources) = files(&[&format!(
            "{UPSTREAM}[upstreams.a.prices.\"gpt-4.1\"]\ninput = 1\noutput = 2\n[routes.Smart_1]\ntargets = [\"a/x\"]\n"
        )]);
        let config = Config::from_sources(&sources.environment(variables(&[
            ("FOREBAY__SERVER__LISTEN", "127.0.0.1:1"),
            ("FOREBAY__SERVER__ALLOW_ANONYMOUS", "true"),
            ("FOREBAY__SERVER__ORIGINS", "http://a.com, http://b.com"),
            ("FOREBAY__SERVER__MAX_BODY", "1024"),
            ("FOREBAY__RETRY__MULTIPLIER", "3"),
            ("FOREBAY__UPSTREAMS__MY_VLLM__BASE_URL", "http://vllm:8000/v1"),
            ("FOREBAY__UPSTREAMS__MY_VLLM__MODELS", "a,b*"),
            ("FOREBAY__UPSTREAMS__MY_VLLM__API_KEYS", "0123456789,env:KEY"),
            ("FOREBAY__UPSTREAMS__MY_VLLM__HEADERS__X_TEAM", "ml"),
            ("FOREBAY__UPSTREAMS__A__PRICES__GPT_4_1__INPUT", "2.5"),
            ("FOREBAY__ROUTES__SMART_1__TARGETS", "my-vllm/a,a/m"),
            ("FOREBAY__TENANTS__BATCH_TEAM__KEY", "007"),
            ("KEY", "from-variable"),
        ])));
        let config = config.expect("valid");
        assert!(config.server.allow_anonymous);
        assert_eq!(config.server.origins.len(), 2);
        assert_eq!(config.server.max_body, 1024);
        let vllm = &config.upstreams["my-vllm"];
        let keys: Vec<_> =
            vllm.accounts.iter().filter_map(|account| account.key.as_ref()).map(|key| key.expose()).collect();
        assert_eq!(keys, ["0123456789", "from-variable"]);
        assert_eq!(vllm.models, ["a", "b*"]);
        assert_eq!(vllm.upstream.headers.get("x-team"), Some("ml"));
        assert!(config.effective.contains(&("upstreams.a.prices.\"gpt-4.1\".input".into(), "2.5".into())));
        assert_eq!(config.targets("Smart_1").len(), 2);
        assert_eq!(config.tenants["batch-team"].key.expose(), "007");
    }

    #[test]
    fn a_problem_in_a_variable_names_the_variable() {
        let (_dir, sources) = files(&[UPSTREAM]);
        let lines = lines(&sources.environment(variables(&[
            ("FOREBAY__QUEUE__CAPACITY", "many"),
            ("FOREBAY__SERVER__LISTENN", "x"),
            ("FOREBAY__POOL", "x"),
            ("FOREBAY__POOL__THREADS", "2"),
        ])));
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines.iter().any(|line| line.starts_with("FOREBAY__QUEUE__CAPACITY: [queue] capacity: ")));
        assert!(lines.iter().any(|line| line.contains("[server] LISTENN") || line.contains("[server] listenn")));
        assert!(lines.iter().any(|line| line.starts_with("FOREBAY__POOL: [pool]: must be a section")));
    }

    #[test]
    fn a_well_known_file_may_be_missing_and_one_asked_for_may_not() {
        let (dir, sources) = files(&[UPSTREAM]);
        let missing = dir.path().join("missing.toml");
        assert!(Config::from_sources(&sources.clone().well_known(&missing)).is_ok());
        let lines = lines(&sources.file(&missing));
        assert_eq!(lines.len(), 1);
        assert!(lines[0].contains("does not exist"), "{lines:?}");
    }

    #[test]
    fn every_file_that_is_not_toml_is_reported_with_its_place_and_without_its_text() {
        let (_dir, sources) = files(&["[server]\nlisten = \"x", "a = sk-secret-1\n", "[queue]\ncapacity = 0\n"]);
        let lines = lines(&sources);
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(
            lines[0].contains("0.toml: line 2, column") && lines[1].contains("1.toml: line 1, column 5"),
            "{lines:?}"
        );
        assert!(lines[2].contains("[queue] capacity"), "{lines:?}");
        assert!(!lines.concat().contains("sk-secret"));
    }

    #[test]
    fn text_alone_takes_keys_from_the_process_and_nothing_else() {
        // Cargo sets this one for every test it runs.
        let config = Config::from_toml(&UPSTREAM.replace("models", "api_keys = [\"env:CARGO_PKG_NAME\"]\nmodels"));
        let key = config.expect("valid").upstreams["a"].accounts[0].key.clone();
        assert_eq!(key.map(|key| key.expose().to_owned()), std::env::var("CARGO_PKG_NAME").ok());
    }

    #[test]
    fn nothing_that_is_printed_or_debugged_holds_a_secret() {
        let text = format!(
            "{}\n[server]\nadmin_key = \"hunter2-admin\"\n[tenants.t]\nkey = \"hunter2-tenant\"\n\
             [jobs]\nwebhook_secret = \"whsec_aHVudGVyMmh1bnRlcjJodW50ZXIyaHVudGVyMg==\"\n[upstreams.a.headers]\nx-secret = \"hunter2-header\"\n",
            UPSTREAM.replace("models", "api_keys = [\"hunter2-key\"]\nmodels")
        );
        let config = Config::from_toml(&text).expect("valid");
        let sources = Sources::text(&text).environment(variables(&[("A", "hunter2")]));
        let printed = format!("{config:?}{}{sources:?}", config.effective_toml);
        assert!(!printed.contains("hunter2") && !printed.contains("aHVu"));
        assert_eq!(config.effective_toml.matches("***").count(), 5);
    }
}
