//! The daemon as a process: exit codes, signals, reloads.
#![cfg(all(feature = "gateway", unix))]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};

/// The daemon, run in a directory of its own with nothing of ours in its environment.
struct Daemon {
    child: Child,
    addr: SocketAddr,
    log: BufReader<ChildStderr>,
}

/// A test that fails must not leave its daemon behind.
impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(directory: &Path, config: &str) -> Command {
    let file = directory.join("test.toml");
    std::fs::write(&file, config).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    command.args(["serve", "-c"]).arg(file).current_dir(directory).env_clear();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A configuration that listens on `listen` and whose upstream is `upstream`.
fn config(listen: &str, upstream: SocketAddr, drain: &str) -> String {
    format!(
        r#"
        [server]
        listen = "{listen}"
        drain_timeout = "{drain}"
        [pool]
        threads = 2
        [upstreams.up]
        base_url = "http://{upstream}/v1"
        api_keys = ["sk-test-0000000001"]
        models = ["m"]
        "#
    )
}

impl Daemon {
    fn start(directory: &Path, upstream: SocketAddr, drain: &str) -> Self {
        let mut child = command(directory, &config("127.0.0.1:0", upstream, drain)).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let addr =
            line.trim().strip_prefix("listening on http://").unwrap_or_else(|| panic!("{line:?}")).parse().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        Self { child, addr, log }
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Sends `request` and reads to the connection's end.
    fn exchange(&self, request: &str) -> String {
        let mut socket = TcpStream::connect(self.addr).unwrap();
        socket.write_all(request.as_bytes()).unwrap();
        let mut response = String::new();
        socket.read_to_string(&mut response).unwrap();
        response
    }

    fn get(&self, path: &str) -> String {
        self.exchange(&format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"))
    }

    /// Asks for `path` until its answer is what is waited for.
    fn until(&self, path: &str, is: impl Fn(&str) -> bool) {
        while !is(&self.get(path)) {
            std::thread::yield_now();
        }
    }

    /// Reads the log up to a line that says `what`.
    fn until_logged(&mut self, what: &str) {
        let mut line = String::new();
        while !line.contains(what) {
            line.clear();
            assert_ne!(self.log.read_line(&mut line).unwrap(), 0, "never said: {what}");
        }
    }

    /// Waits for the end: exit code and what was logged.
    fn end(mut self) -> (i32, String) {
        let mut log = String::new();
        self.log.read_to_string(&mut log).unwrap();
        (self.child.wait().unwrap().code().unwrap_or(-1), log)
    }
}

const CALL: &str = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 27\r\n\r\n\
                    {\"model\":\"m\",\"messages\":[]}";

/// An upstream that takes connections and never answers.
fn silent_upstream() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

fn directory() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    (directory, path)
}

#[test]
fn a_port_in_use_is_one_line_and_exit_code_1() {
    let (_keep, directory) = directory();
    let taken = silent_upstream();
    let addr = taken.local_addr().unwrap();
    let output = command(&directory, &config(&addr.to_string(), addr, "1s")).output().unwrap();
    let problem = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{problem}");
    assert!(problem.starts_with(&format!("forebay: cannot listen on {addr}: ")), "{problem}");
    assert_eq!(problem.lines().count(), 1);
}

#[test]
fn every_problem_of_a_configuration_is_a_line_and_exit_code_2() {
    let (_keep, directory) = directory();
    let text = "[server]\nlissten = \"127.0.0.1:0\"\n[pool]\nthreds = 2\n[upstreams.up]\nmodels = [\"m\"]\n";
    let output = command(&directory, text).output().unwrap();
    let problems = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{problems}");
    assert!(problems.contains("lissten") && problems.contains("threds"), "{problems}");
}

#[test]
fn a_daemon_without_threads_is_refused_with_exit_code_2() {
    let (_keep, directory) = directory();
    let upstream = silent_upstream();
    let text = config("127.0.0.1:0", upstream.local_addr().unwrap(), "1s").replace("threads = 2", "threads = 0");
    let output = command(&directory, &text).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("[pool] threads"));
}

#[test]
fn a_signal_drains_new_calls_are_told_and_the_end_is_exit_code_0() {
    let (_keep, directory) = directory();
    let upstream = silent_upstream();
    let daemon = Daemon::start(&directory, upstream.local_addr().unwrap(), "2s");
    assert!(daemon.get("/readyz").starts_with("HTTP/1.1 200 "));
    let mut waiting = TcpStream::connect(daemon.addr).unwrap();
    waiting.write_all(CALL.as_bytes()).unwrap();
    let (_exchange, _) = upstream.accept().unwrap();
    daemon.signal("TERM");
    daemon.until("/readyz", |answer| answer.starts_with("HTTP/1.1 503 ") && answer.contains("draining"));
    let refused = daemon.exchange(CALL);
    assert!(refused.starts_with("HTTP/1.1 503 ") && refused.contains("\"draining\""), "{refused}");
    assert!(refused.contains("retry-after: "), "{refused}");
    let mut ended = String::new();
    waiting.read_to_string(&mut ended).unwrap();
    assert!(ended.starts_with("HTTP/1.1 503 ") && ended.contains("\"draining\""), "{ended}");
    let (code, log) = daemon.end();
    assert_eq!(code, 0, "{log}");
    assert!(!log.contains("sk-test"), "{log}");
}

#[test]
fn a_second_signal_ends_at_once_with_exit_code_130() {
    let (_keep, directory) = directory();
    let upstream = silent_upstream();
    let daemon = Daemon::start(&directory, upstream.local_addr().unwrap(), "1h");
    let mut waiting = TcpStream::connect(daemon.addr).unwrap();
    waiting.write_all(CALL.as_bytes()).unwrap();
    let (_exchange, _) = upstream.accept().unwrap();
    daemon.signal("INT");
    daemon.until("/readyz", |answer| answer.contains("draining"));
    daemon.signal("TERM");
    assert_eq!(daemon.end().0, 130);
}

#[test]
fn a_reload_takes_a_good_file_and_refuses_a_bad_one() {
    let (_keep, directory) = directory();
    let upstream = silent_upstream().local_addr().unwrap();
    let mut daemon = Daemon::start(&directory, upstream, "1s");
    let file = directory.join("test.toml");
    let more = config("127.0.0.1:0", upstream, "1s").replace("[\"m\"]", "[\"m\", \"another\"]");
    std::fs::write(&file, more).unwrap();
    daemon.signal("HUP");
    daemon.until("/v1/models", |answer| answer.contains("another"));
    std::fs::write(&file, "[server]\nlissten = 1\n").unwrap();
    daemon.signal("HUP");
    daemon.until_logged("lissten");
    assert!(daemon.get("/v1/models").contains("another"));
    daemon.signal("TERM");
    let (code, log) = daemon.end();
    assert_eq!(code, 0, "{log}");
}
