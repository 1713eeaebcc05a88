//! SIGHUP under load: a good file is in force for all that is still to come, a bad one changes nothing and says why.
#![cfg(all(feature = "gateway", unix))]

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/upstream.rs"]
mod upstream;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use daemon::{Caller, Daemon, chat, get, post};
use upstream::{Asked, Upstream};

const CHAT: &str = "/v1/chat/completions";
const OLD_KEY: &str = "sk-the-old-one-0001";
const NEW_KEY: &str = "sk-the-new-one-0002";

/// What stands in a file besides its upstreams.
const BASICS: &str = "[server]\ndrain_timeout = \"30s\"\n[retry]\nbase_delay = \"1s\"\njitter = \"none\"\n";

fn section(name: &str, addr: SocketAddr, models: &str, more: &str) -> String {
    format!("[upstreams.{name}]\nbase_url = \"http://{addr}/v1\"\nmodels = [{models}]\n{more}\n")
}

/// One upstream `up` that serves `m`.
fn one(addr: SocketAddr, key: &str, max_concurrent: usize) -> String {
    let more = format!("api_keys = [\"{key}\"]\nlimits = {{ max_concurrent = {max_concurrent} }}");
    format!("{BASICS}{}", section("up", addr, "\"m\"", &more))
}

fn calls(daemon: &Daemon, model: &str, text: &str) -> Caller {
    let mut caller = daemon.connect();
    caller.send(post(CHAT, "", chat(text).replace("\"m\"", &format!("\"{model}\""))));
    caller
}

/// Answers with what was asked.
fn echo(asked: Asked) -> String {
    let said = asked.said();
    asked.says(&said);
    said
}

fn ends_well(daemon: Daemon) -> String {
    let (code, log) = daemon.stop();
    assert_eq!(code, Some(0), "{log}");
    log
}

#[test]
fn a_higher_and_a_lower_cap_hold_at_once_for_calls_that_wait() {
    let upstream = Upstream::held();
    let daemon = Daemon::start(&one(upstream.addr, OLD_KEY, 1));
    let mut callers: Vec<Caller> = (0..6).map(|n| calls(&daemon, "m", &n.to_string())).collect();
    daemon.until_load(5, 1);
    let first = upstream.next();
    assert!(upstream.is_quiet());
    daemon.reload(&one(upstream.addr, OLD_KEY, 3));
    let (second, third) = (upstream.next(), upstream.next());
    daemon.until_load(3, 3);
    assert!(upstream.is_quiet());
    daemon.reload(&one(upstream.addr, OLD_KEY, 1));
    for asked in [first, second] {
        echo(asked);
    }
    daemon.until_load(3, 1);
    assert!(upstream.is_quiet(), "three were one too many by two");
    echo(third);
    for left in (0..3).rev() {
        let asked = upstream.next();
        daemon.until_load(left, 1);
        assert!(upstream.is_quiet());
        echo(asked);
    }
    for (n, caller) in callers.iter_mut().enumerate() {
        assert_eq!(caller.reply().content(), n.to_string());
    }
    ends_well(daemon);
}

#[test]
fn a_replaced_key_ends_what_it_has_begun_and_begins_nothing_more() {
    let upstream = Upstream::held();
    let daemon = Daemon::start(&one(upstream.addr, OLD_KEY, 2));
    let mut backing_off = calls(&daemon, "m", "backing off");
    upstream.next().answer(500, "{\"error\":{\"message\":\"planted\"}}");
    let mut running = [calls(&daemon, "m", "running 0"), calls(&daemon, "m", "running 1")];
    let held = [upstream.next(), upstream.next()];
    let mut queued = calls(&daemon, "m", "queued");
    daemon.until_load(2, 2);
    daemon.reload(&one(upstream.addr, NEW_KEY, 2));
    // The new account has places of its own; the old one's attempts go on and one of them is to be made again.
    let [first, second] = held;
    assert_eq!((first.key.as_str(), second.key.as_str()), (bearer(OLD_KEY).as_str(), bearer(OLD_KEY).as_str()));
    echo(first);
    second.answer(500, "{\"error\":{\"message\":\"planted\"}}");
    for _ in 0..3 {
        let asked = upstream.next();
        assert_eq!(asked.key, bearer(NEW_KEY), "{}", asked.body);
        echo(asked);
    }
    let mut said: Vec<String> = running.iter_mut().map(|caller| caller.reply().content()).collect();
    said.sort();
    assert_eq!(said, ["running 0", "running 1"]);
    assert_eq!(queued.reply().content(), "queued");
    assert_eq!(backing_off.reply().content(), "backing off");
    let log = ends_well(daemon);
    assert!(!log.contains(OLD_KEY) && !log.contains(NEW_KEY), "{log}");
}

fn bearer(key: &str) -> String {
    format!("Bearer {key}")
}

#[test]
fn an_upstream_that_is_taken_away_hands_its_waiting_calls_on_or_says_that_it_is_gone() {
    let (first, second) = (Upstream::held(), Upstream::held());
    let limits = "limits = { max_concurrent = 1 }";
    let a = section("a", first.addr, "\"m\", \"only-a\"", limits);
    let b = section("b", second.addr, "\"m\", \"only-b\"", limits);
    let daemon = Daemon::start(&format!("{BASICS}{a}"));
    let mut running = calls(&daemon, "m", "running");
    let run = first.next();
    let mut moved = calls(&daemon, "m", "moved");
    let mut stranded = calls(&daemon, "only-a", "stranded");
    daemon.until_load(2, 1);
    daemon.reload(&format!("{BASICS}{b}"));
    let reply = stranded.reply();
    assert_eq!((reply.status, &reply.json()["error"]["code"]), (404, &"model_not_found".into()), "{reply:?}");
    assert!(reply.json()["error"]["message"].as_str().unwrap().contains("only-a"), "{reply:?}");
    assert_eq!(echo(second.next()), "moved");
    let reply = moved.reply();
    assert_eq!((reply.content().as_str(), reply.header("x-forebay-upstream")), ("moved", Some("b")));
    // What was under way when its upstream went is answered by it.
    echo(run);
    assert_eq!(running.reply().content(), "running");
    let mut added = calls(&daemon, "only-b", "added");
    assert_eq!(echo(second.next()), "added");
    assert_eq!(added.reply().content(), "added");
    let gone = calls(&daemon, "only-a", "gone").reply();
    assert_eq!(gone.status, 404);
    assert!(first.is_quiet());
    ends_well(daemon);
}

#[test]
fn a_call_whose_upstream_goes_while_it_backs_off_is_handed_on_too() {
    let (first, second) = (Upstream::held(), Upstream::held());
    let daemon = Daemon::start(&format!("{BASICS}{}", section("a", first.addr, "\"m\"", "")));
    let mut moved = calls(&daemon, "m", "moved");
    first.next().answer(500, "{\"error\":{\"message\":\"planted\"}}");
    daemon.until_load(1, 0);
    daemon.reload(&format!("{BASICS}{}", section("b", second.addr, "\"m\"", "")));
    assert_eq!(echo(second.next()), "moved");
    assert_eq!(moved.reply().content(), "moved");
    ends_well(daemon);
}

#[test]
fn who_may_call_and_with_how_much_holds_from_the_next_request_on() {
    let upstream = Upstream::answering(|asked| drop(echo(asked)));
    let file =
        |server: &str, tenants: &str| format!("[server]\n{server}\n{}{tenants}", section("up", upstream, "\"m\"", ""));
    let tenant = |key: &str| format!("[tenants.team]\nkey = \"{key}\"\n");
    let daemon = Daemon::start(&file("", &tenant("tenant-key-one")));
    let mut kept = daemon.connect();
    let ask = |key: &str, text: &str| post(CHAT, &format!("x-api-key: {key}\r\n"), chat(text));
    assert_eq!(kept.ask(ask("tenant-key-one", "in")).content(), "in");
    assert_eq!(kept.ask(get("/v1/models")).status, 401);

    daemon.reload(&file("", &tenant("tenant-key-two")));
    let mut kept = daemon.connect();
    assert_eq!(kept.ask(ask("tenant-key-two", "in")).content(), "in");
    assert_eq!(kept.ask(ask("tenant-key-one", "out")).status, 401, "on the same connection");

    let mut kept = daemon.connect();
    let page = "origin: https://app.example\r\n";
    let asks = |more: &str| format!("GET /v1/models HTTP/1.1\r\nhost: localhost\r\n{more}\r\n");
    assert_eq!(kept.ask(ask("tenant-key-two", "in")).status, 200);
    daemon.reload(&file("", ""));
    assert_eq!(kept.ask(asks("")).status, 200, "without tenants nobody needs a key");
    assert_eq!(daemon.ask(asks(page)).status, 403);
    daemon.reload(&file("origins = [\"https://app.example\"]\nmax_body = \"1KiB\"", ""));
    assert_eq!(kept.ask(asks(page)).status, 200);
    assert_eq!(kept.ask(post(CHAT, "", chat(&"x".repeat(2_000)))).status, 413);
    daemon.reload(&file("max_body = \"1MiB\"", ""));
    assert_eq!(daemon.ask(asks(page)).status, 403);
    assert_eq!(daemon.ask(post(CHAT, "", chat(&"x".repeat(2_000)))).status, 200);
    let log = ends_well(daemon);
    assert!(!log.contains("tenant-key"), "{log}");
}

/// An upstream over TLS that answers every call with `text`, and the authority it has its certificate from, as PEM.
fn secure_upstream(text: &'static str) -> (SocketAddr, String) {
    use std::io::{BufRead, BufReader, Read, Write};
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let server = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    let (server, listener) = (Arc::new(server), std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let session = rustls::ServerConnection::new(Arc::clone(&server)).unwrap();
            std::thread::spawn(move || {
                let mut from = BufReader::new(rustls::StreamOwned::new(session, stream));
                let (mut line, mut length) = (String::new(), 0);
                // Whoever does not trust us ends here.
                while let Ok(1..) = from.read_line(&mut line) {
                    if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap();
                    }
                    if std::mem::take(&mut line) == "\r\n" {
                        from.read_exact(&mut vec![0; length]).unwrap();
                        let body = upstream::good(text);
                        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length:";
                        write!(from.get_mut(), "{head} {}\r\n\r\n{body}", body.len()).unwrap();
                    }
                }
            });
        }
    });
    (addr, certified.cert.pem())
}

#[test]
fn an_authority_that_a_reload_names_is_trusted_from_then_on_and_one_it_takes_away_is_not() {
    let (upstream, authority) = secure_upstream("trusted");
    let (_, stranger) = secure_upstream("nobody");
    let file = |name: &str| {
        let up = section("up", upstream, "\"m\"", &format!("ca_file = \"{name}\""));
        format!("{BASICS}{}", up.replace("http://127.0.0.1", "https://localhost"))
    };
    let daemon = Daemon::start(&one(nowhere(), OLD_KEY, 1));
    std::fs::write(daemon.beside("own.pem"), authority).unwrap();
    std::fs::write(daemon.beside("stranger.pem"), stranger).unwrap();
    for _ in 0..2 {
        daemon.reload(&file("stranger.pem"));
        let refused = calls(&daemon, "m", "x").reply();
        assert_eq!(refused.json()["error"]["code"], "upstream_unavailable", "{refused:?}");
        assert_eq!(refused.header("x-forebay-attempts"), Some("1"), "a certificate is not asked for twice");
        daemon.reload(&file("own.pem"));
        assert_eq!(calls(&daemon, "m", "x").reply().content(), "trusted");
    }
    ends_well(daemon);
}

fn nowhere() -> SocketAddr {
    ([127, 0, 0, 1], 9).into()
}

#[test]
fn a_time_to_drain_that_was_reloaded_is_the_one_that_counts() {
    let upstream = Upstream::held();
    let file = |drain: &str| one(upstream.addr, OLD_KEY, 1).replace("30s", drain);
    let daemon = Daemon::start(&file("1h"));
    let mut running = calls(&daemon, "m", "running");
    let _held = upstream.next();
    daemon.reload(&file("1ms"));
    daemon.signal("TERM");
    assert_eq!(running.reply().json()["error"]["code"], "draining");
    assert_eq!(daemon.end().0, Some(0));
}

#[test]
fn what_takes_a_restart_says_so_until_it_is_taken_back() {
    let upstream = Upstream::held();
    let good = one(upstream.addr, OLD_KEY, 1);
    let daemon = Daemon::start(&good);
    let changed = format!("{good}\n[pool]\nmax_restarts = 77\n[log]\nlevel = \"debug\"\n");
    for _ in 0..2 {
        let before = daemon.said();
        daemon.reload(&changed);
        daemon.until_logged_after("\"[pool] max_restarts, restart_window, thread_timeout\"", before);
        daemon.until_logged_after("\"[log]\"", before);
    }
    let before = daemon.said();
    daemon.reload(&good);
    let log = ends_well(daemon);
    assert!(!log[before..].contains("takes a restart"), "{log}");
}

#[test]
fn a_broken_file_changes_nothing_and_each_of_its_problems_is_a_line() {
    let upstream = Upstream::held();
    let good = one(upstream.addr, OLD_KEY, 1);
    let daemon = Daemon::start(&good);
    let mut running = calls(&daemon, "m", "running");
    let held = upstream.next();
    let mut queued = calls(&daemon, "m", "queued");
    daemon.until_load(1, 1);
    let models = daemon.get("/v1/models").text();
    let other = one(upstream.addr, NEW_KEY, 9).replace("[\"m\"]", "[\"m\", \"another\"]");
    let cases: [(&str, String, &[&str]); 6] = [
        ("a syntax error", other.replace("[retry]", "[retry"), &["test.toml"]),
        (
            "unknown keys",
            other.replace("base_delay", "base_dely").replace("base_url", "base_ur"),
            &["base_dely", "base_ur"],
        ),
        ("a bad value", other.replace("\"30s\"", "\"soon\""), &["drain_timeout"]),
        ("a missing key file", other.replace(NEW_KEY, "file:/nowhere/key"), &["/nowhere/key"]),
        ("a missing variable", other.replace(NEW_KEY, "env:NOT_SET_ANYWHERE"), &["NOT_SET_ANYWHERE"]),
        ("threads = 0", format!("{other}[pool]\nthreads = 0\n"), &["[pool] threads"]),
    ];
    for (name, text, problems) in cases {
        let before = daemon.said();
        std::fs::write(daemon.file(), text).unwrap();
        daemon.signal("HUP");
        for problem in problems {
            let line = daemon.until_logged_after(problem, before);
            assert!(line.contains("not reloaded; the old one stays in force"), "{name}: {line}");
            let named = line.contains("test.toml") || *problem == "[pool] threads";
            assert!(named, "{name}: {line}");
        }
        assert_eq!(daemon.get("/v1/models").text(), models, "{name}");
    }
    for (name, prepare) in [("gone", false), ("no file", true)] {
        std::fs::remove_file(daemon.file()).unwrap();
        if prepare {
            std::fs::create_dir(daemon.file()).unwrap();
        }
        let before = daemon.said();
        daemon.signal("HUP");
        let line = daemon.until_logged_after("not reloaded; the old one stays in force", before);
        assert!(line.contains("test.toml"), "{name}: {line}");
        assert_eq!(daemon.get("/v1/models").text(), models, "{name}");
        if prepare {
            std::fs::remove_dir(daemon.file()).unwrap();
        }
        std::fs::write(daemon.file(), &good).unwrap();
    }
    daemon.until_load(1, 1);
    assert_eq!(held.key, bearer(OLD_KEY));
    echo(held);
    let next = upstream.next();
    assert_eq!(next.key, bearer(OLD_KEY), "the old key is still the one");
    echo(next);
    assert_eq!(running.reply().content(), "running");
    assert_eq!(queued.reply().content(), "queued");
    daemon.reload(&one(upstream.addr, NEW_KEY, 1));
    let mut fresh = calls(&daemon, "m", "fresh");
    let asked = upstream.next();
    assert_eq!(asked.key, bearer(NEW_KEY));
    echo(asked);
    assert_eq!(fresh.reply().content(), "fresh");
    let log = ends_well(daemon);
    assert!(!log.contains(OLD_KEY) && !log.contains(NEW_KEY), "{log}");
}

#[test]
fn callers_who_hammer_notice_nothing_of_good_and_bad_reloads() {
    let upstream = Upstream::answering(|asked| drop(echo(asked)));
    let daemon = Daemon::start(&one(upstream, OLD_KEY, 4));
    let over = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..16)
        .map(|who| {
            let (mut caller, over) = (daemon.connect(), Arc::clone(&over));
            std::thread::spawn(move || {
                let mut count = 0;
                while !over.load(Ordering::Relaxed) {
                    let text = format!("caller {who} call {count}");
                    let reply = caller.ask(post(CHAT, "", chat(&text)));
                    assert_eq!((reply.status, reply.content()), (200, text));
                    count += 1;
                }
                count
            })
        })
        .collect();
    for n in 0..40 {
        let key = if n % 2 == 0 { NEW_KEY } else { OLD_KEY };
        daemon.reload(&one(upstream, key, 1 + n % 5));
        let before = daemon.said();
        std::fs::write(daemon.file(), "[server]\nlissten = 1\n").unwrap();
        daemon.signal("HUP");
        daemon.until_logged_after("lissten", before);
    }
    over.store(true, Ordering::Relaxed);
    let made: usize = callers.into_iter().map(|caller| caller.join().unwrap()).sum();
    println!("{made} calls across 40 good and 40 bad reloads");
    assert!(made >= 16);
    ends_well(daemon);
}
