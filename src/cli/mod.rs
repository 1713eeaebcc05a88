//! The command line: one file a command, beside what they share: `screen` shows progress, `signals` are those that ask to
//! stop. This file knows what commands there are and what their exit codes mean.

mod batch;
mod check;
mod demo;
mod screen;
mod serve;
mod signals;
mod simulate;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// Bad usage, or a configuration with problems. (0 is done, 1 could not start or go on, 130 interrupted.)
pub(crate) const BAD_USAGE: u8 = 2;

#[derive(Debug, Parser)]
#[command(name = "forebay", version, about = "A gateway for AI APIs that waits its turn instead of failing")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// Each variant is a file beside this one, and its doc comment the line in `--help`.
#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway until SIGTERM or SIGINT, then drain
    Serve(Configuration),
    /// Run a file in OpenAI's Batch format to its end, without a daemon
    Batch(batch::BatchArgs),
    /// Validate the configuration; print the one in force and who serves which model
    Check(Configuration),
    /// Show what a flaky provider does to 50 callers: naive ones, careful ones, and those behind forebay
    Demo(demo::DemoArgs),
    /// Run a fault-injecting provider that speaks OpenAI's protocol and Anthropic's, for anyone's tests
    Simulate(Box<simulate::SimulateArgs>),
}

/// Where a command's configuration comes from, besides the well-known files and the environment.
#[derive(Debug, Args)]
pub(crate) struct Configuration {
    /// A configuration file laid over /etc/forebay/forebay.toml and ./forebay.toml; of several, the later wins
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
}

/// Runs the command line of this process.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            // Help and version are errors to clap too: 0, on stdout. That nobody reads them is no reason to fail.
            let _ = e.print();
            return u8::try_from(e.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from);
        }
    };
    match cli.command {
        Command::Serve(configuration) => serve::run(&configuration),
        Command::Batch(args) => batch::run(&args),
        Command::Check(configuration) => check::run(&configuration),
        Command::Demo(args) => demo::run(&args),
        Command::Simulate(args) => simulate::run(*args),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
