//! Floods: what many callers at once can do to the daemon and to each other. Each flood is a file; each prints what it saw
//! and the bound it must keep, and the exit code is 1 when one is broken.
//!
//! `cargo bench --bench floods`, or with a part of a flood's name behind `--` for that one alone. The daemon is a process
//! of its own; upstream and callers are here, on 127.0.0.1. Waiting for all slow callers to be cut takes some minutes.

mod bodies;
#[path = "../support/helper.rs"]
mod helper;
mod slow;
mod upstream;

use std::process::ExitCode;

fn main() -> ExitCode {
    // cargo itself says `--bench`.
    let only = std::env::args().skip(1).find(|argument| !argument.starts_with("--")).unwrap_or_default();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let mut bounds = Bounds::default();
    if "slow callers".contains(&only) {
        runtime.block_on(slow::run(&mut bounds));
    }
    if "bodies".contains(&only) {
        runtime.block_on(bodies::run(&mut bounds));
    }
    match bounds.broken {
        0 => ExitCode::SUCCESS,
        broken => {
            println!("\n{broken} bounds are broken");
            ExitCode::FAILURE
        }
    }
}

/// What must hold.
#[derive(Default)]
struct Bounds {
    broken: usize,
}

impl Bounds {
    /// Prints `what` with whether it holds.
    fn check(&mut self, holds: bool, what: std::fmt::Arguments<'_>) {
        println!("  {} {what}", if holds { "ok    " } else { "BROKEN" });
        self.broken += usize::from(!holds);
    }
}
