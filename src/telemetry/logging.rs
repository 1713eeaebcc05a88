//! Where log lines go: stderr, for people on a terminal, JSON otherwise.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// actix-http reports every response body that ends with an error at level error: for forebay that is the way a broken
/// stream is shown to be broken, and the access line tells it.
const QUIET: &str = "actix_http::h1::dispatcher=off";

/// Installs the subscriber of this process; for the daemon only, never for an embedding program.
///
/// # Errors
/// A sentence when `[log] level` is not a level or a list of directives.
pub(crate) fn init(log: &Log) -> Result<(), String> {
    let filter = filter(&log.level)?;
    let terminal = io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let installed = match log.format {
        LogFormat::Human => lines.with_ansi(colours(terminal)).try_init(),
        LogFormat::Auto if terminal => lines.with_ansi(colours(terminal)).try_init(),
        LogFormat::Auto | LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).try_init(),
    };
    // A second installation in one process happens in tests only; the first one stays.
    drop(installed);
    Ok(())
}

/// Colours only where someone sees them and has not said no.
fn colours(terminal: bool) -> bool {
    terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn filter(level: &str) -> Result<EnvFilter, String> {
    let wrong = |error: &dyn std::fmt::Display| {
        format!(
            "[log] level = {level:?} is not a level (error, warn, info, debug, trace) or list of directives: {error}"
        )
    };
    let filter = EnvFilter::try_new(level).map_err(|error| wrong(&error))?;
    if level.contains("actix_http") {
        return Ok(filter);
    }
    Ok(filter.add_directive(QUIET.parse().map_err(|error| wrong(&error))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_and_a_list_of_directives_are_both_accepted() {
        assert!(filter("info").is_ok());
        assert!(filter("warn,forebay::access=off").is_ok());
    }

    #[test]
    fn the_silence_about_broken_streams_can_be_lifted() {
        assert!(filter("info").unwrap().to_string().contains("actix_http::h1::dispatcher=off"));
        assert!(!filter("info,actix_http=debug").unwrap().to_string().contains("=off"));
    }

    #[test]
    fn a_level_that_is_none_is_named() {
        assert!(filter("forebay=loud").unwrap_err().contains("forebay=loud"));
    }
}
