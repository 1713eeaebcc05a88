//! Upstreams for a start without any configuration: a vendor's key in the environment is enough.

use std::collections::BTreeMap;
use std::ffi::OsString;

use config::{Map, Value, ValueKind};

use super::check::Problem;
use super::environment::Variable;
use super::load::{is_empty, parse};

const PRESETS_TOML: &str = include_str!("../../config/presets.toml");

/// Each preset upstream and the variable that brings it; the order in which a message names them.
const PRESETS: [(&str, &str); 4] = [
    ("openai", "OPENAI_API_KEY"),
    ("anthropic", "ANTHROPIC_API_KEY"),
    ("gemini", "GEMINI_API_KEY"),
    ("holysheep", "HOLYSHEEP_API_KEY"),
];

/// The presets whose variable is set, unless an upstream is configured. Variables that only adjust such a preset
/// configure none.
pub(super) fn found(
    files: &[Value],
    variables: &[Variable],
    environment: &BTreeMap<String, OsString>,
) -> Result<Value, Problem> {
    let is_found = |name: &str| {
        let preset = PRESETS.iter().find(|(preset, _)| *preset == name);
        preset.is_some_and(|(_, variable)| environment.get(*variable).is_some_and(|key| !key.is_empty()))
    };
    let in_files = files.iter().any(|file| match &file.kind {
        ValueKind::Table(root) => root.get("upstreams").is_some_and(|value| !is_empty(value)),
        _ => false,
    });
    let of_their_own = variables.iter().filter_map(Variable::upstream).any(|name| !is_found(&name));
    let mut upstreams = Map::new();
    if !in_files && !of_their_own {
        for (name, variable) in PRESETS.into_iter().filter(|(name, _)| is_found(name)) {
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

/// The variables that bring a preset, as a message names them.
pub(super) fn variables() -> String {
    let [first @ .., (_, last)] = PRESETS;
    format!("{} or {last}", first.map(|(_, variable)| variable).join(", "))
}

#[cfg(test)]
mod tests {
    use super::super::{Config, Sources};
    use super::*;

    const UPSTREAM: &str = "[upstreams.a]\nbase_url = \"http://a\"\nmodels = [\"m\"]\n";

    fn read(text: &str, pairs: &[(&str, &str)]) -> Config {
        let variables = pairs.iter().map(|(name, value)| ((*name).to_owned(), OsString::from(value))).collect();
        Config::from_sources(&Sources::text(text).environment(variables)).expect("valid")
    }

    fn names(config: &Config) -> Vec<&str> {
        config.upstreams.keys().map(AsRef::as_ref).collect()
    }

    #[test]
    fn presets_come_only_with_their_variable_and_without_any_upstream() {
        let all = PRESETS.map(|(_, variable)| (variable, "k"));
        let config = read("[upstreams]\n", &all);
        assert_eq!(names(&config), ["anthropic", "gemini", "holysheep", "openai"]);
        assert_eq!(config.targets("gpt-4o"), [("openai".into(), "gpt-4o".into())]);
        assert_eq!(config.targets("anything"), [("holysheep".into(), "anything".into())]);
        assert_eq!(names(&read(UPSTREAM, &all)), ["a"]);
        assert_eq!(names(&read("", &[("GEMINI_API_KEY", "k"), ("OPENAI_API_KEY", "")])), ["gemini"]);
    }

    #[test]
    fn variables_may_adjust_a_preset() {
        let limit = ("FOREBAY__UPSTREAMS__OPENAI__LIMITS__MAX_CONCURRENT", "3");
        let config = read("", &[("OPENAI_API_KEY", "k"), limit]);
        assert_eq!(names(&config), ["openai"]);
        assert_eq!(config.upstreams["openai"].limits.max_concurrent, Some(3));
    }

    #[test]
    fn an_upstream_of_variables_alone_replaces_all_presets() {
        let url = ("FOREBAY__UPSTREAMS__LOCAL__BASE_URL", "http://l");
        let models = ("FOREBAY__UPSTREAMS__LOCAL__MODELS", "*");
        assert_eq!(names(&read("", &[("OPENAI_API_KEY", "k"), url, models])), ["local"]);
    }

    #[test]
    fn nothing_at_all_names_the_four_variables() {
        for sources in [Sources::none().environment(BTreeMap::new()), Sources::text("")] {
            let problems = Config::from_sources(&sources).expect_err("no upstream");
            let line = problems.to_string();
            assert_eq!(problems.iter().count(), 1, "{line}");
            assert!(PRESETS.iter().all(|(_, variable)| line.contains(variable)), "{line}");
        }
    }
}
