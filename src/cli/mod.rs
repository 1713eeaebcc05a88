//! One file a command.

mod simulate;

use std::process::ExitCode;

use clap::Parser;

/// A gateway for AI APIs that waits its turn.
#[derive(Parser)]
#[command(name = "forebay", version)]
enum Command {
    Simulate(simulate::SimulateArgs),
}

/// Runs the command line of this process.
pub fn run() -> ExitCode {
    match Command::parse() {
        Command::Simulate(args) => simulate::run(args),
    }
}
