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
fn start(arguments: &str) -> (Child, BufReader<std::process::ChildStdout>, String) {
    let mut child = simulate(&format!("--listen 127.0.0.1:0 {arguments}")).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    let address = line.trim_end().strip_prefix("listening on http://").and_then(|url| url.strip_suffix("/v1"));
    (child, out, address.expect("the line that scripts wait for").to_owned())
}

/// The answer to one call, as it is on the wire.
fn call(address: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let body = r#"{"model":"m","max_tokens":50,"messages":[{"role":"user","content":"hi"}]}"#;
    let head = "POST /v1/chat/completions HTTP/1.1\r\nconnection: close\r\ncontent-length";
    stream.write_all(format!("{head}: {}\r\n\r\n{body}", body.len()).as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Ends a simulator: the ledger, which is all it says then, and its exit code.
fn end(mut child: Child, mut out: BufReader<std::process::ChildStdout>, signal: &str) -> (Value, Option<i32>) {
    Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().unwrap();
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!(rest.lines().count(), 1, "{rest}");
    (serde_json::from_str(&rest).expect("one line of JSON"), child.wait().unwrap().code())
}

fn refused(arguments: &str) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = simulate(arguments).output().unwrap();
    assert!(stdout.is_empty());
    (status.code(), String::from_utf8(stderr).unwrap())
}

#[test]
fn a_signal_ends_it_and_the_last_line_is_the_ledger() {
    for (signal, code) in [("INT", 130), ("TERM", 0)] {
        let (child, out, address) = start("");
        let answer = call(&address);
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        let (ledger, ended) = end(child, out, signal);
        assert_eq!((ledger["answered"].as_u64(), ended), (Some(1), Some(code)), "SIG{signal}");
    }
}

#[test]
fn the_flags_of_the_limits_reach_the_wire_and_the_ledger() {
    let limits = "--requests-per-minute 6 --tokens-per-minute 6000 --counting sliding --charge reserved";
    let told = "--limit-headers azure --limit-retry-after seconds";
    let (child, out, address) = start(&format!("{limits} {told}"));
    let answers: Vec<String> = (0..7).map(|_| call(&address)).collect();
    for (answer, left) in answers.iter().zip(["5", "4", "3", "2", "1", "0", "0"]) {
        assert!(answer.contains(&format!("\r\nx-ratelimit-remaining-requests: {left}\r\n")), "{answer}");
    }
    assert!(answers[0].contains("\r\nx-ratelimit-remaining-tokens: 5949\r\n"), "one token and fifty: {}", answers[0]);
    assert!(answers[6].starts_with("HTTP/1.1 429 ") && answers[6].contains("\r\nretry-after: "), "{}", answers[6]);
    assert!(!answers[6].contains("retry-after-ms"), "{}", answers[6]);
    let (ledger, _) = end(child, out, "INT");
    assert_eq!(ledger["limits"]["requests_per_minute"]["counting"], "sliding");
    let key = &ledger["keys"][0];
    assert_eq!((key["granted"].as_u64(), key["refused"].as_u64()), (Some(6), Some(1)));
    let used: Vec<_> =
        key["limits"].as_array().unwrap().iter().map(|limit| (&limit["limit"], &limit["granted"])).collect();
    assert_eq!(used, [(&"requests".into(), &6.into()), (&"tokens".into(), &306.into())]);
    assert!(key["limits"][0]["utilisation"].as_f64().unwrap() > 0.0);
}

#[test]
fn a_taken_port_is_one_clear_line_and_exit_code_1() {
    let (mut child, _out, address) = start("");
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
        ("--requests-per-minute 59 --counting fixed=1s", "less than one"),
        ("--requests-per-minute 60 --counting sliding --burst 1s", "a bucket holds"),
        ("--counting sliding", "--requests-per-minute"),
        ("--requests-per-minute 60 --scale-limits 1m=0", "above 0"),
    ] {
        let (code, error) = refused(arguments);
        assert_eq!(code, Some(2), "{arguments}");
        assert!(error.contains(says), "{error}");
    }
}
