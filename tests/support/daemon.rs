//! The real daemon as a process, and raw HTTP over its sockets: what a caller sees, byte by byte.
#![allow(dead_code, unreachable_pub)] // each test file uses its part

mod chunk;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// A caller that waits longer has waited in vain: longer than the daemon's own 20 s for a silent body.
const PATIENCE: Duration = Duration::from_secs(60);

/// `forebay serve` with the configuration in `directory`'s [`file`], nothing of ours in its environment, and any port
/// for whoever names none.
pub fn command(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    command.args(["serve", "-c"]).arg(file(directory)).current_dir(directory).env_clear();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Where the configuration of a daemon in `directory` stands.
pub fn file(directory: &Path) -> PathBuf {
    directory.join("test.toml")
}

/// A daemon with a directory of its own and nothing of ours in its environment.
pub struct Daemon {
    process: Process,
    pub addr: SocketAddr,
    directory: tempfile::TempDir,
}

/// A process whose output is read as it comes.
pub struct Process {
    child: Child,
    output: Arc<Output>,
    readers: Vec<JoinHandle<()>>,
}

/// What a process has said so far, and how many of its two outputs are still open.
struct Output {
    said: Mutex<(Vec<u8>, usize)>,
    more: Condvar,
}

/// A test that fails must not leave its daemon behind.
impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    /// Runs `command`, whose output is piped.
    pub fn start(mut command: Command) -> Self {
        let mut child = command.spawn().expect("a process");
        let output = Arc::new(Output { said: Mutex::new((Vec::new(), 2)), more: Condvar::new() });
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let readers = vec![collect(stdout, Arc::clone(&output)), collect(stderr, Arc::clone(&output))];
        Self { child, output, readers }
    }

    /// Whether the process still runs.
    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Ends it at once, in the middle of whatever it does, and waits until it is gone.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends the signal `name`: TERM, INT, HUP.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Waits until it has said `what` so many times.
    pub fn times(&self, what: &str, times: usize) {
        let (mut count, said) = (0, self.output.said.lock().unwrap());
        let missing = |(text, open): &mut (Vec<u8>, usize)| {
            count = String::from_utf8_lossy(text).matches(what).count();
            count < times && *open > 0
        };
        let (_said, late) = self.output.more.wait_timeout_while(said, PATIENCE, missing).unwrap();
        assert!(!late.timed_out() && count >= times, "said {what:?} {count} times, not {times}");
    }

    /// The first whole line that has, or will have, `what` in it, behind the first `after` bytes of output.
    pub fn line(&self, what: &str, after: usize) -> String {
        let mut said = self.output.said.lock().unwrap();
        loop {
            let text = String::from_utf8_lossy(&said.0[after..]).into_owned();
            let mut lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            if let Some(line) = lines.find(|line| line.contains(what)) {
                return line.trim_end().to_owned();
            }
            assert_ne!(said.1, 0, "ended, and never said {what:?}: {text}");
            let (more, late) = self.output.more.wait_timeout(said, PATIENCE).unwrap();
            assert!(!late.timed_out(), "never said {what:?}: {text}");
            said = more;
        }
    }

    /// How much it has said: what comes later is new.
    pub fn said(&self) -> usize {
        self.output.said.lock().unwrap().0.len()
    }

    /// Waits for its end: its exit code, and all that it wrote to stdout and stderr.
    pub fn end(mut self) -> (Option<i32>, String) {
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        let code = self.child.wait().unwrap().code();
        (code, String::from_utf8_lossy(&self.output.said.lock().unwrap().0).into_owned())
    }
}

impl Daemon {
    /// Starts `forebay serve` with the configuration `config`, which names no address to listen on.
    pub fn start(config: &str) -> Self {
        Self::start_by(config, command)
    }

    /// The same under a limit of the shell's `ulimit`, such as `-n 64`.
    pub fn start_limited(limit: &str, config: &str) -> Self {
        Self::start_by(config, |directory| {
            let mut limited = Command::new("sh");
            let script = format!("ulimit {limit} && exec \"$0\" serve -c \"$1\"");
            limited.args(["-c", &script, env!("CARGO_BIN_EXE_forebay")]).arg(file(directory)).current_dir(directory);
            limited.env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            limited
        })
    }

    fn start_by(config: &str, command: impl FnOnce(&Path) -> Command) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(file(directory.path()), config).unwrap();
        Self::start_in(directory, command)
    }

    /// Ends it at once, in the middle of whatever it does, and starts another one where it was.
    pub fn killed(mut self) -> Self {
        self.process.kill();
        Self::start_in(self.directory, self::command)
    }

    /// Ends it in order, and starts another one where it was.
    pub fn restarted(self) -> Self {
        self.signal("TERM");
        self.restarted_after_its_end()
    }

    /// The same where it has been told to end already.
    pub fn restarted_after_its_end(self) -> Self {
        let Self { process, directory, .. } = self;
        let (code, said) = process.end();
        assert_eq!(code, Some(0), "{said}");
        Self::start_in(directory, self::command)
    }

    /// The number of its process.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    fn start_in(directory: tempfile::TempDir, command: impl FnOnce(&Path) -> Command) -> Self {
        let mut command = command(directory.path());
        command.env("FOREBAY__SERVER__LISTEN", "127.0.0.1:0");
        let process = Process::start(command);
        let line = process.line("listening on http://", 0);
        let addr = line.strip_prefix("listening on http://").and_then(|addr| addr.parse().ok());
        Self { addr: addr.unwrap_or_else(|| panic!("{line:?}")), process, directory }
    }

    /// Its configuration file.
    pub fn file(&self) -> PathBuf {
        file(self.directory.path())
    }

    /// Another file beside it.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Puts `config` into its file and has it read: gives the first line that says what became of it.
    pub fn reload(&self, config: &str) -> String {
        std::fs::write(self.file(), config).unwrap();
        let before = self.process.said();
        self.process.signal("HUP");
        self.process.line("configuration reloaded", before)
    }

    /// A new connection.
    pub fn connect(&self) -> Caller {
        Caller::connect(self.addr)
    }

    /// What one request brings on a connection of its own.
    pub fn ask(&self, request: impl AsRef<[u8]>) -> Reply {
        self.connect().ask(request)
    }

    /// What a GET of `path` brings.
    pub fn get(&self, path: &str) -> Reply {
        self.ask(get(path))
    }

    /// Asks for `path` until its answer is what is waited for.
    pub fn until(&self, path: &str, is: impl Fn(&Reply) -> bool) {
        while !is(&self.get(path)) {
            std::thread::yield_now();
        }
    }

    /// Waits until so many calls wait and so many attempts are in flight.
    pub fn until_load(&self, waiting: u64, in_flight: u64) {
        self.until("/readyz", |reply| {
            let load = &reply.json()["load"];
            load["waiting"] == waiting && load["in_flight"] == in_flight
        });
    }

    /// Whether the process still runs.
    pub fn is_alive(&mut self) -> bool {
        self.process.is_alive()
    }

    /// Sends the signal `name`: TERM, INT, HUP.
    pub fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    /// Waits for a line of the log that says `what`.
    pub fn until_logged(&self, what: &str) -> String {
        self.process.line(what, 0)
    }

    /// Waits until the log has said `what` so many times.
    pub fn until_logged_times(&self, what: &str, times: usize) {
        self.process.times(what, times);
    }

    /// How much it has said so far, and a line behind that.
    pub fn said(&self) -> usize {
        self.process.said()
    }

    /// Waits for a line behind the first `after` bytes of the log that says `what`.
    pub fn until_logged_after(&self, what: &str, after: usize) -> String {
        self.process.line(what, after)
    }

    /// Ends it by SIGTERM: its exit code, and all that it wrote to stdout and stderr.
    pub fn stop(self) -> (Option<i32>, String) {
        self.signal("TERM");
        self.end()
    }

    /// Waits for its end: its exit code, and all that it wrote to stdout and stderr.
    pub fn end(self) -> (Option<i32>, String) {
        self.process.end()
    }
}

/// Reads `from` to its end on a thread, so that the daemon never waits for us to read its log.
fn collect(mut from: impl Read + Send + 'static, to: Arc<Output>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut piece = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = from.read(&mut piece) {
            to.said.lock().unwrap().0.extend_from_slice(&piece[..read]);
            to.more.notify_all();
        }
        to.said.lock().unwrap().1 -= 1;
        to.more.notify_all();
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
        Self::over(TcpStream::connect(addr).unwrap())
    }

    /// A caller over a connection that is there already.
    pub fn over(stream: TcpStream) -> Self {
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
            match chunk::take(&mut self.buffer) {
                Some(chunk) if chunk.is_empty() => return End::Complete,
                Some(chunk) => body.extend(chunk),
                None if self.more() => {}
                None => return End::Short,
            }
        }
    }
}

/// A GET of `path`.
pub fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n")
}

/// A POST of `body` to `path`, with more header lines (each with its line end) if `more` has any.
pub fn post(path: &str, more: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let length = body.len();
    let head = format!("POST {path} HTTP/1.1\r\nhost: localhost\r\n{more}content-length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

/// A DELETE of `path`.
pub fn delete(path: &str) -> String {
    format!("DELETE {path} HTTP/1.1\r\nhost: localhost\r\n\r\n")
}

/// The body of a chat that says `text`.
pub fn chat(text: &str) -> String {
    serde_json::json!({"model": "m", "messages": [{"role": "user", "content": text}]}).to_string()
}
