//! `forebay serve` as a process of its own, in front of an upstream that takes every call and never answers.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// The running daemon. Killed when dropped.
pub(crate) struct Daemon {
    child: Child,
    addr: SocketAddr,
    _directory: tempfile::TempDir,
    upstream: tokio::task::JoinHandle<()>,
}

impl Daemon {
    /// One call is under way at a time and `capacity` may wait.
    pub(crate) async fn start(capacity: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let upstream = listener.local_addr().expect("its address");
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("bench.toml");
        let config = format!(
            r#"
            [server]
            listen = "127.0.0.1:0"
            [queue]
            capacity = {capacity}
            default_timeout = "24h"
            [log]
            level = "off"
            [upstreams.silent]
            base_url = "http://{upstream}/v1"
            models = ["*"]
            answer_timeout = "24h"
            limits = {{ max_concurrent = 1 }}
            "#
        );
        std::fs::write(&file, config).expect("a configuration file");
        let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
        command.args(["serve", "-c"]).arg(&file).current_dir(directory.path());
        command.env_clear().stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("a child process");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("its stdout")).read_line(&mut line).expect("its first line");
        let addr = line.trim().strip_prefix("listening on http://").and_then(|addr| addr.parse().ok());
        let addr = addr.unwrap_or_else(|| panic!("not the line of one that listens: {line:?}"));
        let upstream = tokio::spawn(async move {
            let mut taken = Vec::new();
            while let Ok((connection, _)) = listener.accept().await {
                taken.push(connection);
            }
        });
        Self { child, addr, _directory: directory, upstream }
    }

    /// Its memory while `count` connections have a call each inside, which is all that there is room for: one more is
    /// refused, which proves it. They have gone when it returns.
    pub(crate) async fn fill(&self, count: usize) -> usize {
        let mut inside = Vec::with_capacity(count + 1);
        for _ in 0..=count {
            let mut connection = TcpStream::connect(self.addr).await.expect("a connection");
            connection.write_all(&self.request()).await.expect("the request is taken");
            inside.push(connection);
        }
        let answers = inside.iter_mut().map(|connection| Box::pin(connection.read_u8()));
        let (first, refused, others) = futures_util::future::select_all(answers).await;
        drop(others);
        assert!(matches!(first, Ok(b'H')), "one more than there is room for is refused: {first:?}");
        drop(inside.swap_remove(refused));
        self.settled().await;
        let full = self.resident();
        drop(inside);
        self.settled().await;
        full
    }

    /// `count` connections, each with a call, and gone again.
    pub(crate) async fn warm(&self, count: usize) {
        let mut connections = Vec::with_capacity(count);
        for _ in 0..count {
            let mut connection = TcpStream::connect(self.addr).await.expect("a connection");
            connection.write_all(&self.request()).await.expect("the request is taken");
            connections.push(connection);
        }
        self.settled().await;
        drop(connections);
        self.settled().await;
    }

    fn request(&self) -> Vec<u8> {
        let body = r#"{"model":"m","messages":[{"role":"user","content":"Does it wait its turn?"}]}"#;
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: {}\r\nuser-agent: bench/1\r\naccept: application/json\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            self.addr,
            body.len()
        );
        [head.as_bytes(), body.as_bytes()].concat()
    }

    /// Waits until the daemon has come to rest: its memory stands still for a while.
    pub(crate) async fn settled(&self) {
        let (mut before, mut still) = (0, 0);
        while still < 10 {
            tokio::time::sleep(Duration::from_millis(30)).await;
            let now = self.resident();
            still = if now == before { still + 1 } else { 0 };
            before = now;
        }
    }

    /// Its memory in bytes.
    pub(crate) fn resident(&self) -> usize {
        resident(&self.child.id().to_string())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.upstream.abort();
        // Gone already, at worst.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The memory of `process` that is in RAM, in bytes, as Linux counts it.
pub(crate) fn resident(process: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("Linux, and a process that lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") * 1024
}
