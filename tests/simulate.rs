//! `forebay simulate` as a process: the line scripts wait for, its ends, and what it refuses.
#![cfg(all(feature = "gateway", unix))]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

fn simulate(arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    command.arg("simulate").args(arguments.split_whitespace()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A running simulator and the address it named.
fn start() -> (Child, BufReader<std::process::ChildStdout>, String) {
    let mut child = simulate("--listen 127.0.0.1:0").spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    let address = line.trim_end().strip_prefix("listening on http://").and_then(|url| url.strip_suffix("/v1"));
    (child, out, address.expect("the line that scripts wait for").to_owned())
}

fn refused(arguments: &str) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = simulate(arguments).output().unwrap();
    assert!(stdout.is_empty());
    (status.code(), String::from_utf8(stderr).unwrap())
}

#[test]
fn a_signal_ends_it_and_the_last_line_is_the_ledger() {
    for (signal, code) in [("INT", 130), ("TERM", 0)] {
        let (mut child, mut out, address) = start();
        let mut stream = TcpStream::connect(&address).unwrap();
        let body = r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#;
        let head = "POST /v1/chat/completions HTTP/1.1\r\nconnection: close\r\ncontent-length";
        stream.write_all(format!("{head}: {}\r\n\r\n{body}", body.len()).as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().unwrap();
        let mut rest = String::new();
        out.read_to_string(&mut rest).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(code), "SIG{signal}");
        let ledger: Value = serde_json::from_str(&rest).expect("one line of JSON");
        assert_eq!((ledger["answered"].as_u64(), rest.lines().count()), (Some(1), 1));
    }
}

#[test]
fn a_taken_port_is_one_clear_line_and_exit_code_1() {
    let (mut child, _out, address) = start();
    let (code, error) = refused(&format!("--listen {address}"));
    assert_eq!((code, error.lines().count()), (Some(1), 1), "{error}");
    assert!(error.starts_with(&format!("forebay: cannot listen on {address}: ")), "{error}");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn what_cannot_be_meant_is_exit_code_2() {
    for (arguments, says) in [
        ("--listen 0.0.0.0:0", "--anywhere"),
        ("--reset 0.6 --stall 0.6", "add up to 1.200"),
        ("--fault stal=0.1", "did you mean `stall`?"),
        ("--requests-per-second 0", "leave it out"),
        ("--chunks 0", "1 to 10000"),
    ] {
        let (code, error) = refused(arguments);
        assert_eq!(code, Some(2), "{arguments}");
        assert!(error.contains(says), "{error}");
    }
}
