//! Processes that a bench starts: they say where they listen, and are killed with whoever holds them.
#![allow(dead_code)] // each bench uses its part

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

/// A child that says where it listens. Killed when dropped.
pub(crate) struct Helper {
    child: Child,
    pub(crate) addr: SocketAddr,
}

impl Helper {
    /// This program again, as one of its other parts.
    pub(crate) fn start(part: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this program's path"));
        command.arg(part).args(arguments);
        Self::spawn(command)
    }

    /// `forebay serve` with `config`, which names neither an address nor what is logged, and the directory it runs in.
    pub(crate) fn forebay(config: &str) -> (Self, tempfile::TempDir) {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("bench.toml");
        std::fs::write(&file, config).expect("a configuration file");
        let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
        command.env_clear().env("FOREBAY__SERVER__LISTEN", "127.0.0.1:0").env("FOREBAY__LOG__LEVEL", "warn");
        command.args(["serve", "-c"]).arg(&file).current_dir(directory.path());
        (Self::spawn(command), directory)
    }

    /// `forebay simulate` with these flags.
    pub(crate) fn simulator(flags: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
        command.env_clear().args(["simulate", "--listen", "127.0.0.1:0"]).args(flags);
        Self::spawn(command)
    }

    fn spawn(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a child process");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("its stdout")).read_line(&mut line).expect("its first line");
        let addr = line.trim().strip_prefix("listening on http://").map(|addr| addr.trim_end_matches("/v1"));
        let addr = addr.and_then(|addr| addr.parse().ok());
        Self { child, addr: addr.unwrap_or_else(|| panic!("not the line of one that listens: {line:?}")) }
    }

    /// The process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // Gone already, at worst.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
