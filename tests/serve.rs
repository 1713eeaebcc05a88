//! The daemon as a process: how it starts or does not, and what each signal does at each time of its life.
#![cfg(all(feature = "gateway", unix))]

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/upstream.rs"]
mod upstream;

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::process::Command;

use daemon::{Daemon, Process, chat, command, file, post};
use upstream::Upstream;

const CHAT: &str = "/v1/chat/completions";

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

/// A daemon that takes `drain` to drain, with a call that its upstream holds.
fn held(drain: &str) -> (Daemon, Upstream, daemon::Caller, upstream::Asked) {
    let upstream = Upstream::held();
    let daemon = Daemon::start(&config("127.0.0.1:0", upstream.addr, drain));
    let mut waiting = daemon.connect();
    waiting.send(post(CHAT, "", chat("hold me")));
    let asked = upstream.next();
    (daemon, upstream, waiting, asked)
}

/// What a daemon that does not start says, and its exit code.
fn refused(config: &str) -> (Option<i32>, String) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(file(directory.path()), config).unwrap();
    Process::start(command(directory.path())).end()
}

fn nowhere() -> SocketAddr {
    ([127, 0, 0, 1], 9).into()
}

#[test]
fn a_port_in_use_is_one_line_and_exit_code_1() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap();
    let (code, problem) = refused(&config(&addr.to_string(), addr, "1s"));
    assert_eq!(code, Some(1), "{problem}");
    assert!(problem.starts_with(&format!("forebay: cannot listen on {addr}: ")), "{problem}");
    assert!(problem.contains("what listens there"), "{problem}");
    assert_eq!(problem.lines().count(), 1, "{problem}");
}

#[test]
fn an_address_of_another_machine_is_one_line_and_exit_code_1() {
    // Set aside for documentation: no machine has it.
    let text = config("192.0.2.1:8787", nowhere(), "1s").replace("[server]", "[server]\nallow_anonymous = true");
    let (code, problem) = refused(&text);
    assert_eq!(code, Some(1), "{problem}");
    assert!(problem.starts_with("forebay: cannot listen on 192.0.2.1:8787: "), "{problem}");
    assert!(problem.contains("an address of this machine"), "{problem}");
    assert_eq!(problem.lines().count(), 1, "{problem}");
}

#[test]
fn every_problem_of_a_configuration_is_a_line_and_exit_code_2() {
    let text = "[server]\nlissten = \"127.0.0.1:0\"\n[pool]\nthreds = 2\n[upstreams.up]\nmodels = [\"m\"]\n";
    let (code, problems) = refused(text);
    assert_eq!(code, Some(2), "{problems}");
    assert!(problems.contains("lissten") && problems.contains("threds"), "{problems}");
}

#[test]
fn a_daemon_without_threads_is_refused_with_exit_code_2() {
    let text = config("127.0.0.1:0", nowhere(), "1s").replace("threads = 2", "threads = 0");
    let (code, problems) = refused(&text);
    assert_eq!(code, Some(2), "{problems}");
    assert!(problems.contains("[pool] threads"), "{problems}");
}

#[test]
fn a_second_signal_ends_at_once_with_exit_code_130_whichever_they_are() {
    for (first, second) in [("INT", "TERM"), ("TERM", "INT"), ("TERM", "TERM"), ("INT", "INT")] {
        let (daemon, _upstream, _waiting, _asked) = held("1h");
        daemon.signal(first);
        daemon.until_logged("draining");
        daemon.signal(second);
        let (code, log) = daemon.end();
        assert_eq!(code, Some(130), "{first}, then {second}: {log}");
    }
}

#[test]
fn a_second_signal_ends_at_once_while_the_last_answers_are_written_too() {
    let (daemon, upstream, mut whole, asked) = held("1h");
    // More than any socket takes at once, and nobody reads it.
    asked.says(&"x".repeat(32 << 20));
    let mut next = daemon.connect();
    next.send(post(CHAT, "", chat("the last")));
    upstream.next().says("here");
    assert_eq!(next.reply().content(), "here");
    daemon.until_load(0, 0);
    daemon.signal("TERM");
    daemon.until_logged("all calls have ended");
    daemon.signal("TERM");
    let (code, log) = daemon.end();
    assert_eq!(code, Some(130), "{log}");
    assert_eq!(whole.reply().end, daemon::End::Short);
}

#[test]
fn a_reload_asked_for_while_draining_is_ignored_and_said_so() {
    let (daemon, _upstream, mut waiting, asked) = held("1h");
    daemon.signal("TERM");
    daemon.until_logged("draining");
    std::fs::write(daemon.file(), config("127.0.0.1:0", nowhere(), "1ms")).unwrap();
    for _ in 0..20 {
        daemon.signal("HUP");
    }
    daemon.until_logged("not reloaded: forebay is draining");
    asked.says("the old way");
    assert_eq!(waiting.reply().content(), "the old way");
    let (code, log) = daemon.end();
    assert_eq!(code, Some(0), "{log}");
}

#[test]
fn many_reloads_in_a_row_leave_the_last_one_in_force() {
    let (daemon, _upstream, mut waiting, asked) = held("5s");
    let addr = _upstream.addr;
    for n in 0..100 {
        let more = config("127.0.0.1:0", addr, "5s").replace("[\"m\"]", &format!("[\"m\", \"m-{n}\"]"));
        std::fs::write(daemon.beside("next.toml"), more).unwrap();
        std::fs::rename(daemon.beside("next.toml"), daemon.file()).unwrap();
        daemon.signal("HUP");
    }
    daemon.until("/v1/models", |reply| reply.text().contains("\"m-99\""));
    asked.says("still here");
    assert_eq!(waiting.reply().content(), "still here");
    let (code, log) = daemon.stop();
    assert_eq!(code, Some(0), "{log}");
}

/// A daemon whose configuration comes out of a pipe, so that the test holds it where it reads it.
fn piped() -> (Process, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    assert!(Command::new("mkfifo").arg(file(directory.path())).status().unwrap().success());
    (Process::start(command(directory.path())), directory)
}

/// The pipe's other end: comes when the daemon has begun to read.
fn pipe(directory: &tempfile::TempDir) -> std::fs::File {
    std::fs::OpenOptions::new().write(true).open(file(directory.path())).unwrap()
}

#[test]
fn a_signal_before_the_daemon_is_up_ends_it_with_exit_code_0() {
    for name in ["TERM", "INT"] {
        let (process, directory) = piped();
        let _held = pipe(&directory);
        process.signal(name);
        let (code, log) = process.end();
        assert_eq!(code, Some(0), "{name}: {log}");
    }
}

#[test]
fn a_reload_asked_for_before_the_daemon_is_up_follows_and_a_hanging_one_keeps_no_signal_waiting() {
    let (process, directory) = piped();
    let mut first = pipe(&directory);
    process.signal("HUP");
    first.write_all(config("127.0.0.1:0", nowhere(), "1s").as_bytes()).unwrap();
    drop(first);
    let line = process.line("listening on http://", 0);
    let addr: SocketAddr = line.strip_prefix("listening on http://").unwrap().parse().unwrap();
    let _held = pipe(&directory);
    assert_eq!(daemon::Caller::connect(addr).ask(daemon::get("/readyz")).status, 200);
    process.signal("TERM");
    let (code, log) = process.end();
    assert_eq!(code, Some(0), "{log}");
}

#[test]
fn whoever_is_at_the_machine_sees_how_everything_stands_and_no_key() {
    let (daemon, upstream, _waiting, asked) = held("1s");
    let get = |host: &str| daemon.ask(format!("GET /v1/status HTTP/1.1\r\nhost: {host}\r\n\r\n"));
    let reply = get("localhost");
    let status = reply.json();
    assert_eq!((reply.status, &status["in_flight"], &status["pool"]["restarts"]), (200, &1.into(), &0.into()));
    let account = &status["upstreams"][0]["accounts"][0];
    assert_eq!((&account["account"], &account["in_flight"]), (&"up#1".into(), &1.into()));
    assert_eq!(account["models"][0]["model"], "m");
    assert!(!reply.text().contains("sk-test"));
    assert_eq!(get("a.name.that.resolves.to.loopback").status, 403);
    drop((asked, upstream));
}
