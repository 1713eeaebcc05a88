//! The processes of the comparison: started, told apart, and gone when this one is.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

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

    fn spawn(mut command: Command) -> Self {
        command.env_clear().stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("a child process");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("its stdout")).read_line(&mut line).expect("its first line");
        let addr = line.trim().strip_prefix("listening on http://").and_then(|addr| addr.parse().ok());
        Self { child, addr: addr.unwrap_or_else(|| panic!("not the line of one that listens: {line:?}")) }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // Gone already, at worst.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Says where a part listens, and ends it when whoever started it is gone.
pub(crate) fn announce(addr: SocketAddr) {
    println!("listening on http://{addr}");
    std::thread::spawn(|| {
        drop(std::io::stdin().read_to_end(&mut Vec::new()));
        std::process::exit(0);
    });
}

/// One of the two that are compared.
pub(crate) struct Contender {
    helper: Helper,
    /// Holds forebay's configuration while it runs.
    _directory: Option<tempfile::TempDir>,
}

impl Contender {
    /// `forebay serve`, in front of `upstream`.
    pub(crate) fn forebay(upstream: SocketAddr) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("bench.toml");
        let config = format!(
            r#"
            [server]
            listen = "127.0.0.1:0"
            [pool]
            threads = 1
            [log]
            level = "warn"
            [upstreams.up]
            base_url = "http://{upstream}/v1"
            api_keys = ["sk-bench-0000000001"]
            models = ["*"]
            "#
        );
        std::fs::write(&file, config).expect("a configuration file");
        let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
        command.args(["serve", "-c"]).arg(&file).current_dir(directory.path());
        Self { helper: Helper::spawn(command), _directory: Some(directory) }
    }

    /// The pass-through, in front of `upstream`.
    pub(crate) fn bare(upstream: SocketAddr) -> Self {
        Self { helper: Helper::start("pass-through", &[&upstream.to_string()]), _directory: None }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.helper.addr
    }

    /// The CPU time that all its threads have used, user and system.
    pub(crate) fn cpu(&self) -> Duration {
        cpu_of(self.helper.child.id())
    }
}

/// To the nanosecond by the scheduler's own count; where the kernel keeps none, by its ticks of 10 ms.
#[cfg(target_os = "linux")]
fn cpu_of(process: u32) -> Duration {
    let ran = |task: std::io::Result<std::fs::DirEntry>| {
        let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    };
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).expect("a process that lives");
    match tasks.map(ran).sum::<Option<u64>>() {
        Some(nanos) => Duration::from_nanos(nanos),
        None => {
            let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("a process that lives");
            // The fields behind the name, which stands in brackets and may hold anything.
            let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
            let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
            Duration::from_millis(10 * ticks)
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn cpu_of(_: u32) -> Duration {
    eprintln!("CPU is counted as Linux does it: run this on Linux");
    std::process::exit(0)
}
