//! `forebay check`: the configuration in force as TOML, and who serves which model; or every problem, one a line.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;

use super::{BAD_USAGE, Configuration};
use crate::config::{Config, Sources};

/// Runs `forebay check`.
pub(crate) fn run(configuration: &Configuration) -> ExitCode {
    let config = match Config::from_sources(&Sources::of_process(&configuration.files)) {
        Ok(config) => config,
        Err(problems) => {
            eprintln!("{problems}");
            return ExitCode::from(BAD_USAGE);
        }
    };
    let text = format!("{}\n{}", config.effective_toml, who_serves(&config));
    // A reader that has seen enough (`| head`) is no failure.
    let _ = std::io::stdout().write_all(text.as_bytes());
    for warning in &config.warnings {
        eprintln!("warning: {warning}");
    }
    ExitCode::SUCCESS
}

/// Who serves which model, best rank first; in comments, so that the whole output is one TOML file.
fn who_serves(config: &Config) -> String {
    let routes = config.routes.keys().map(|route| (route.clone(), targets(config, route)));
    let addressed = config.upstreams.keys().map(|name| (format!("{name}/ANY"), format!("{name}, as ANY")));
    let names = config.names().into_iter().map(|(name, _)| name).filter(|name| !config.routes.contains_key(name));
    let exact = names.map(|name| (name.clone(), targets(config, &name)));
    let patterns =
        config.patterns().into_iter().map(|(pattern, upstreams)| (pattern.to_owned(), upstreams.join(", then ")));

    let ranks: [(&str, Vec<(String, String)>); 4] = [
        ("routes", routes.collect()),
        ("upstreams by name", addressed.collect()),
        ("models by name", exact.collect()),
        ("patterns, the longest first", longest_first(patterns.collect())),
    ];
    let width =
        ranks.iter().flat_map(|(_, lines)| lines).map(|(name, _)| name.chars().count()).max().unwrap_or_default();
    let mut text = String::from("# Who serves which model; of several lines that fit, the first:\n");
    for (rank, lines) in ranks.iter().filter(|(_, lines)| !lines.is_empty()) {
        let _ = writeln!(text, "#\n# {rank}");
        for (name, served) in lines {
            let _ = writeln!(text, "#   {name:width$}  {served}");
        }
    }
    text
}

fn longest_first(mut patterns: Vec<(String, String)>) -> Vec<(String, String)> {
    patterns.sort_by_key(|(pattern, _)| std::cmp::Reverse(pattern.len()));
    patterns
}

fn targets(config: &Config, model: &str) -> String {
    let targets: Vec<_> = config.targets(model).iter().map(|(upstream, model)| format!("{upstream}/{model}")).collect();
    if targets.is_empty() { "nobody yet".to_owned() } else { targets.join(", then ") }
}
