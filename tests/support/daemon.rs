//! The real daemon as a process, and raw HTTP over its sockets: what a caller sees, byte by byte.
#![allow(dead_code, unreachable_pub)] // each test file uses its part

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// A caller that waits longer has waited in vain: longer than the daemon's own 20 s for a silent body.
const PATIENCE: Duration = Duration::from_secs(60);

/// A daemon with a directory of its own and nothing of ours in its environment.
pub struct Daemon {
    child: Child,
    pub addr: SocketAddr,
    output: Arc<Output>,
    readers: Vec<JoinHandle<()>>,
    _directory: tempfile::TempDir,
}

/// What it has written so far.
#[derive(Default)]
struct Output {
    text: Mutex<Vec<u8>>,
    grown: Condvar,
}

impl Output {
    fn add(&self, more: &[u8]) {
        self.text.lock().unwrap().extend_from_slice(more);
        self.grown.notify_all();
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().unwrap()).into_owned()
    }
}

/// A test that fails must not leave its daemon behind.
impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Daemon {
    /// Starts `forebay serve` with the configuration `config`, which names no address to listen on.
    pub fn start(config: &str) -> Self {
        Self::start_by(Command::new(env!("CARGO_BIN_EXE_forebay")), config)
    }

    /// The same under a limit of the shell's `ulimit`, such as `-n 64`.
    pub fn start_limited(limit: &str, config: &str) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit {limit} && exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_forebay")]);
        Self::start_by(command, config)
    }

    fn start_by(mut command: Command, config: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("test.toml");
        std::fs::write(&file, config).unwrap();
        command.args(["serve", "-c"]).arg(file).current_dir(directory.path()).env_clear();
        command.env("FOREBAY__SERVER__LISTEN", "127.0.0.1:0");
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a process");
        let output = Arc::<Output>::default();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let errors = collect(child.stderr.take().unwrap(), Arc::clone(&output));
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        output.add(line.as_bytes());
        let addr = line.trim().strip_prefix("listening on http://").and_then(|addr| addr.parse().ok());
        let addr = addr.unwrap_or_else(|| panic!("{line:?}: {}", output.text()));
        let readers = vec![errors, collect(stdout, Arc::clone(&output))];
        Self { child, addr, output, readers, _directory: directory }
    }

    /// A new connection.
    pub fn connect(&self) -> Caller {
        Caller::connect(self.addr)
    }

    /// What one request brings on a connection of its own.
    pub fn ask(&self, request: impl AsRef<[u8]>) -> Reply {
        self.connect().ask(request)
    }

    /// Waits until it has written `text`.
    pub fn wait_for(&self, text: &str) {
        self.wait_for_times(text, 1);
    }

    /// Waits until it has written `text` so many times.
    pub fn wait_for_times(&self, text: &str, times: usize) {
        let is_missing = |output: &mut Vec<u8>| String::from_utf8_lossy(output).matches(text).count() < times;
        let output = self.output.text.lock().unwrap();
        let (output, waited) = self.output.grown.wait_timeout_while(output, PATIENCE, is_missing).unwrap();
        assert!(!waited.timed_out(), "{text:?} not {times} times: {}", String::from_utf8_lossy(&output));
    }

    /// Whether the process still runs.
    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Ends it by SIGTERM: its exit code, and all that it wrote to stdout and stderr.
    pub fn stop(mut self) -> (Option<i32>, String) {
        let killed = Command::new("kill").args(["-s", "TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(killed.success());
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        let code = self.child.wait().unwrap().code();
        (code, self.output.text())
    }
}

/// Reads `from` to its end on a thread, so that the daemon never waits for us to read its log.
fn collect(mut from: impl Read + Send + 'static, to: Arc<Output>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut piece = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = from.read(&mut piece) {
            to.add(&piece[..read]);
        }
    })
}

/// How an answer's body came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// As its framing promised.
    Complete,
    /// The connection ended before.
    Short,
}

/// An answer, headers in lower case.
#[derive(Debug)]
pub struct Reply {
    /// 0 when the connection ended without an answer.
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub end: End,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The data of a stream's events, in order.
    pub fn events(&self) -> Vec<String> {
        self.text().lines().filter_map(|line| line.strip_prefix("data: ").map(str::to_owned)).collect()
    }

    /// What the model says, of a whole answer or of a stream.
    pub fn content(&self) -> String {
        if let Some(content) = self.json()["choices"][0]["message"]["content"].as_str() {
            return content.to_owned();
        }
        let chunks = self.events().into_iter().filter_map(|data| serde_json::from_str::<serde_json::Value>(&data).ok());
        chunks.filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned)).collect()
    }
}

/// One connection to the daemon.
pub struct Caller {
    pub stream: TcpStream,
    buffer: Vec<u8>,
}

impl Caller {
    pub fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::new() }
    }

    /// Sends `request` as it is. That it cannot be sent to its end is no error: a refusal need not wait for the rest.
    pub fn send(&mut self, request: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(request.as_ref());
    }

    pub fn ask(&mut self, request: impl AsRef<[u8]>) -> Reply {
        self.send(request);
        self.reply()
    }

    /// True for bytes, false for the connection's end, however it ended.
    fn more(&mut self) -> bool {
        let mut piece = [0; 16 * 1024];
        match self.stream.read(&mut piece) {
            Ok(read) => {
                self.buffer.extend_from_slice(&piece[..read]);
                read > 0
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("neither an answer nor an end within {PATIENCE:?}: {:?}", String::from_utf8_lossy(&self.buffer))
            }
            Err(_) => false,
        }
    }

    /// Reads until `text` has come.
    pub fn wait_for(&mut self, text: &str) {
        while !String::from_utf8_lossy(&self.buffer).contains(text) {
            assert!(self.more(), "the end instead of {text:?}: {:?}", String::from_utf8_lossy(&self.buffer));
        }
    }

    /// Whether the connection's end is all that still comes.
    pub fn is_over(&mut self) -> bool {
        self.buffer.is_empty() && !self.more()
    }

    /// The next answer.
    pub fn reply(&mut self) -> Reply {
        let head = loop {
            if let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
                let head = String::from_utf8_lossy(&head).into_owned();
                if !head.starts_with("HTTP/1.1 1") {
                    break head;
                }
            } else if !self.more() {
                let body = std::mem::take(&mut self.buffer);
                return Reply { status: 0, headers: Vec::new(), body, end: End::Short };
            }
        };
        let status = head.get(9..12).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("{head:?}"));
        let headers: Vec<_> = head.lines().skip(1).filter_map(|line| line.split_once(':')).collect();
        let headers =
            headers.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
        let mut reply = Reply { status, headers, body: Vec::new(), end: End::Complete };
        if reply.header("transfer-encoding").is_some() {
            reply.end = self.chunks(&mut reply.body);
        } else {
            let length = reply.header("content-length").map_or(0, |length| length.parse().unwrap());
            while self.buffer.len() < length && self.more() {}
            reply.body = self.buffer.drain(..length.min(self.buffer.len())).collect();
            reply.end = if reply.body.len() == length { End::Complete } else { End::Short };
        }
        reply
    }

    /// Sends a HEAD request: its answer has a length but no body.
    pub fn head(&mut self, request: impl AsRef<[u8]>) -> Reply {
        self.send(request);
        while !self.buffer.windows(4).any(|four| four == b"\r\n\r\n") && self.more() {}
        let text = String::from_utf8_lossy(&self.buffer).to_lowercase();
        self.buffer = text.replace("\r\ncontent-length:", "\r\nx-length:").into_bytes();
        self.reply()
    }

    fn chunks(&mut self, body: &mut Vec<u8>) -> End {
        loop {
            let line = self.buffer.windows(2).position(|two| two == b"\r\n");
            if let Some(line) = line {
                let size = usize::from_str_radix(std::str::from_utf8(&self.buffer[..line]).unwrap(), 16).unwrap();
                if self.buffer.len() >= line + 2 + size + 2 {
                    body.extend_from_slice(&self.buffer[line + 2..][..size]);
                    self.buffer.drain(..line + 2 + size + 2);
                    if size == 0 {
                        return End::Complete;
                    }
                    continue;
                }
            }
            if !self.more() {
                return End::Short;
            }
        }
    }
}

/// A POST of `body` to `path`, with more header lines (each with its line end) if `more` has any.
pub fn post(path: &str, more: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let length = body.len();
    let head = format!("POST {path} HTTP/1.1\r\nhost: localhost\r\n{more}content-length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

/// The body of a chat that says `text`.
pub fn chat(text: &str) -> String {
    serde_json::json!({"model": "m", "messages": [{"role": "user", "content": text}]}).to_string()
}
