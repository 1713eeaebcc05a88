//! What callers do to the daemon over real sockets: they hang up, speak HTTP/1.0, and take all file descriptors there are.
#![cfg(all(feature = "gateway", unix))]

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/upstream.rs"]
mod upstream;

use std::io::{ErrorKind, Read as _};
use std::time::Duration;

use daemon::{Caller, Daemon, End, post};
use upstream::Upstream;

const CHAT: &str = "/v1/chat/completions";
const READYZ: &str = "GET /readyz HTTP/1.1\r\nhost: a\r\n\r\n";
const GOOD: &str = r#"{"choices":[{"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}]}"#;

/// How a caller hangs up.
#[derive(Clone, Copy, Debug)]
enum HangUp {
    Close,
    Reset,
}
use HangUp::{Close, Reset};

fn hang_up(caller: Caller, how: HangUp) {
    if matches!(how, Reset) {
        socket2::SockRef::from(&caller.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }
}

/// A daemon in front of `upstream` that lets one call through at a time and holds `max_bytes` of bodies.
fn daemon(upstream: &Upstream, max_bytes: usize) -> Daemon {
    Daemon::start(&config(upstream, max_bytes, 1))
}

fn config(upstream: &Upstream, max_bytes: usize, max_concurrent: usize) -> String {
    format!(
        r#"
        [queue]
        max_bytes = {max_bytes}
        [retry]
        base_delay = "1m"
        max_delay = "1m"
        jitter = "none"
        [upstreams.up]
        base_url = "http://{}/v1"
        api_keys = ["sk-upstream-0123456789"]
        models = ["m"]
        limits = {{ max_concurrent = {max_concurrent} }}
        "#,
        upstream.addr
    )
}

/// A call of 1,000 bytes that says `name`.
fn call(name: &str, is_stream: bool) -> Vec<u8> {
    let body = format!("{{\"model\":\"m\",\"messages\":[\"{name}\"],\"stream\":{is_stream}");
    post(CHAT, "", format!("{body:<999}}}"))
}

/// Waits until the daemon's log tells of `callers` that hung up, then asks how many calls wait and are under way.
fn load(daemon: &Daemon, callers: usize) -> (u64, u64) {
    daemon.until_logged_times("\"caller_gone\"", callers);
    let load = daemon.ask(READYZ).json();
    let number = |name: &str| load["load"][name].as_u64().unwrap();
    (number("waiting"), number("in_flight"))
}

/// Asks again and again until the daemon says so.
fn until(mut is_so: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(60), "it never came to that");
    }
}

/// Whether so many calls wait.
fn waiting(daemon: &Daemon, calls: u64) -> bool {
    daemon.ask(READYZ).json()["load"]["waiting"] == calls
}

/// Both ways to hang up, whole calls and streams.
fn ways() -> impl Iterator<Item = (HangUp, bool)> {
    [Close, Reset].into_iter().flat_map(|how| [(how, false), (how, true)])
}

#[test]
fn a_caller_that_hangs_up_while_its_call_runs_frees_the_upstream_and_its_turn_at_once() {
    let upstream = Upstream::held();
    let daemon = daemon(&upstream, 2_500);
    for (n, (how, is_stream)) in ways().enumerate() {
        let mut leaver = daemon.connect();
        leaver.send(call("leaver", is_stream));
        let left = upstream.next();
        assert!(left.body.contains("leaver"));
        let mut next = daemon.connect();
        next.send(call("next", false));
        hang_up(leaver, how);
        upstream.until_ended(left.connection);
        let asked = upstream.next();
        assert!(asked.body.contains("next"), "{how:?} {is_stream}: {}", asked.body);
        assert_eq!(load(&daemon, n + 1), (0, 1), "{how:?} {is_stream}");
        asked.answer(200, GOOD);
        assert_eq!(next.reply().content(), "hi");
    }
}

#[test]
fn a_caller_that_hangs_up_in_mid_stream_frees_the_upstream_and_its_turn_at_once() {
    let upstream = Upstream::held();
    let daemon = daemon(&upstream, 2_500);
    for (n, how) in [Close, Reset].into_iter().enumerate() {
        let mut leaver = daemon.connect();
        leaver.send(call("leaver", true));
        let left = upstream.next();
        let connection = left.connection;
        let _stream = left.streams("hi");
        leaver.wait_for("\"content\":\"hi\"");
        let mut next = daemon.connect();
        next.send(call("next", false));
        hang_up(leaver, how);
        upstream.until_ended(connection);
        upstream.next().answer(200, GOOD);
        assert_eq!(next.reply().content(), "hi");
        assert_eq!(load(&daemon, n + 1), (0, 0), "{how:?}");
    }
}

#[test]
fn a_caller_that_hangs_up_in_line_frees_its_place_and_its_bytes_at_once() {
    let upstream = Upstream::held();
    // Room for two bodies.
    let daemon = daemon(&upstream, 2_500);
    let mut first = daemon.connect();
    for (n, (how, is_stream)) in ways().enumerate() {
        first.send(call("first", false));
        let running = upstream.next();
        let mut leaver = daemon.connect();
        leaver.send(call("leaver", is_stream));
        // It holds its bytes: there is no room for a third.
        until(|| waiting(&daemon, 1));
        let refused = daemon.ask(call("third", false));
        assert_eq!((refused.status, refused.json()["error"]["code"].as_str()), (503, Some("overloaded")));
        hang_up(leaver, how);
        assert_eq!(load(&daemon, n + 1), (0, 1), "{how:?} {is_stream}");
        let mut third = daemon.connect();
        third.send(call("third", false));
        running.answer(200, GOOD);
        assert_eq!(first.reply().content(), "hi");
        let next = upstream.next();
        assert!(next.body.contains("third"), "{how:?} {is_stream}: {}", next.body);
        next.answer(200, GOOD);
        assert_eq!(third.reply().content(), "hi");
    }
}

#[test]
fn a_caller_that_hangs_up_while_its_call_backs_off_frees_its_bytes_and_is_not_tried_again() {
    let upstream = Upstream::held();
    // Room for one body.
    let daemon = daemon(&upstream, 1_500);
    for (n, (how, is_stream)) in ways().enumerate() {
        let mut leaver = daemon.connect();
        leaver.send(call("leaver", is_stream));
        upstream.next().answer(500, "{}");
        until(|| waiting(&daemon, 1));
        assert_eq!(daemon.ask(call("next", false)).status, 503);
        hang_up(leaver, how);
        assert_eq!(load(&daemon, n + 1), (0, 0), "{how:?} {is_stream}");
        let mut next = daemon.connect();
        next.send(call("next", false));
        let asked = upstream.next();
        assert!(asked.body.contains("next"), "{how:?} {is_stream}: {}", asked.body);
        asked.answer(200, GOOD);
        assert_eq!(next.reply().content(), "hi");
    }
    assert!(upstream.is_quiet());
}

#[test]
fn a_caller_that_hangs_up_in_the_middle_of_its_body_frees_its_bytes_at_once() {
    let upstream = Upstream::held();
    // Room for one body.
    let daemon = daemon(&upstream, 1_500);
    let call = call("leaver", false);
    let head = format!("POST {CHAT} HTTP/1.1\r\nx-forebay-timeout: 100ms");
    let brief = String::from_utf8(call.clone()).unwrap().replacen(&format!("POST {CHAT} HTTP/1.1"), &head, 1);
    for how in [Close, Reset] {
        let mut leaver = daemon.connect();
        leaver.send(&call[..call.len() - 1]);
        until(|| daemon.ask(&brief).status == 503);
        hang_up(leaver, how);
        until(|| daemon.ask(&brief).status == 504);
    }
}

/// A stream asked for in HTTP/1.0.
fn old_stream() -> String {
    let call = String::from_utf8(call("old", true)).unwrap();
    call.replace("HTTP/1.1", "HTTP/1.0")
}

#[test]
fn a_stream_to_a_caller_of_http_1_0_ends_with_the_connection_and_a_broken_one_with_a_reset() {
    let upstream = Upstream::held();
    let daemon = daemon(&upstream, 10_000);
    for is_broken in [false, true] {
        let mut caller = daemon.connect();
        caller.send(old_stream());
        let stream = upstream.next().streams("hi");
        match is_broken {
            false => stream.end(),
            true => stream.cut(),
        }
        let mut all = Vec::new();
        let end = caller.stream.read_to_end(&mut all).map_err(|error| error.kind());
        let all = String::from_utf8(all).unwrap();
        assert!(!all.to_lowercase().contains("chunked"), "{all}");
        if is_broken {
            assert_eq!(end, Err(ErrorKind::ConnectionReset), "{all}");
            assert!(all.contains("data: {\"error\":{"), "{all}");
        } else {
            assert!(end.is_ok() && all.ends_with("data: [DONE]\n\n"), "{all}");
        }
    }
}

#[test]
fn the_limit_of_file_descriptors_is_raised_at_the_start_and_the_log_says_so() {
    let upstream = Upstream::held();
    let daemon = Daemon::start_limited("-Sn 64", &config(&upstream, 1 << 20, 4));
    let mut callers: Vec<Caller> = (0..200).map(|_| daemon.connect()).collect();
    for caller in &mut callers {
        assert_eq!(caller.ask("GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n").status, 200);
    }
    callers[199].send(call("last", false));
    upstream.next().answer(200, GOOD);
    assert_eq!(callers[199].reply().content(), "hi");
    let (_, log) = daemon.stop();
    assert!(log.contains("\"limit of file descriptors\"") && log.contains("\"before\":64"), "{log}");
}

#[test]
fn when_callers_take_all_descriptors_calls_already_in_are_answered_and_the_daemon_recovers() {
    let upstream = Upstream::held();
    let daemon = Daemon::start_limited("-n 64", &config(&upstream, 1 << 20, 16));
    let mut early: Vec<Caller> = (0..3).map(|_| daemon.connect()).collect();
    early[0].send(call("running", false));
    let running = upstream.next();
    for caller in &mut early[1..] {
        assert_eq!(caller.ask("GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n").status, 200);
    }
    let idle: Vec<Caller> = (0..100).map(|_| daemon.connect()).collect();
    daemon.until_logged("cannot accept connections");
    // Those that are in go on, new upstream connections included.
    early[1].send(call("late", false));
    let late = upstream.next();
    assert_ne!(late.connection, running.connection);
    late.answer(200, GOOD);
    running.answer(200, GOOD);
    assert_eq!(early[0].reply().content(), "hi");
    assert_eq!(early[1].reply().content(), "hi");
    assert_eq!(early[2].ask(READYZ).status, 200);
    // The kernel has taken this one; it is answered when there is room.
    let mut patient = daemon.connect();
    patient.send("GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n");
    drop(idle);
    assert_eq!(patient.reply().status, 200);
    daemon.until_logged("accepting connections again");
}

#[test]
fn an_upstream_connection_for_which_no_descriptor_is_left_is_tried_again_and_the_log_says_why() {
    let upstream = Upstream::held();
    // Accounts enough for all callers at once: each starts with sixteen.
    let keys = ["sk-upstream-0123456789", "sk-upstream-1234567890"];
    let config = config(&upstream, 1 << 20, 64)
        .replace("1m", "200ms")
        .replace(&format!("[{:?}]", keys[0]), &format!("{keys:?}"))
        + "[log]\nlevel = \"info,forebay=debug\"";
    let daemon = Daemon::start_limited("-n 64", &config);
    // More than there are descriptors for, with one to its caller and one to its upstream each.
    let mut callers: Vec<Caller> = (0..30).map(|_| daemon.connect()).collect();
    for (n, caller) in callers.iter_mut().enumerate() {
        caller.send(call(&format!("call {n}"), false));
    }
    daemon.until_logged("Too many open files");
    // What has come through is answered, and the rest goes over connections that are kept.
    let answers = std::thread::spawn(move || {
        for _ in 0..30 {
            upstream.next().answer(200, GOOD);
        }
    });
    for caller in &mut callers {
        let reply = caller.reply();
        assert_eq!((reply.status, reply.end), (200, End::Complete), "{}", reply.text());
    }
    answers.join().unwrap();
    drop(callers);
    assert_eq!(daemon.ask("GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n").status, 200);
    let (_, log) = daemon.stop();
    let failed = log.lines().find(|line| line.contains("Too many open files")).unwrap();
    assert!(failed.contains("Unreachable") && failed.contains("attempt failed"), "{failed}");
}
