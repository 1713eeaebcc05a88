//! The processes of the comparison: started, told apart, and gone when this one is.

use std::io::Read as _;
use std::net::SocketAddr;
use std::time::Duration;

pub(crate) use crate::helper::Helper;

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
        let config = format!(
            r#"
            [pool]
            threads = 1
            [upstreams.up]
            base_url = "http://{upstream}/v1"
            api_keys = ["sk-bench-0000000001"]
            models = ["*"]
            "#
        );
        let (helper, directory) = Helper::forebay(&config);
        Self { helper, _directory: Some(directory) }
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
        cpu_of(self.helper.id())
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
