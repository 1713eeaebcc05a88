//! Hands the arguments to the command line and turns its error into an exit code.

fn main() -> std::process::ExitCode {
    forebay::cli::run()
}
