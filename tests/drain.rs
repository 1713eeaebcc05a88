//! SIGTERM under load: what was accepted is answered, what comes late is told so, nobody meets a silent end.
#![cfg(all(feature = "gateway", unix))]

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/upstream.rs"]
mod upstream;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, SystemTime};

use daemon::{Caller, Daemon, End, Reply, chat, get, post};
use upstream::Upstream;

const CHAT: &str = "/v1/chat/completions";

fn config(upstream: SocketAddr, drain: &str, max_concurrent: usize) -> String {
    format!(
        r#"
        [server]
        drain_timeout = "{drain}"
        [pool]
        threads = 2
        [retry]
        base_delay = "2s"
        jitter = "none"
        [upstreams.up]
        base_url = "http://{upstream}/v1"
        api_keys = ["sk-test-0000000001"]
        models = ["m"]
        limits = {{ max_concurrent = {max_concurrent} }}
        "#
    )
}

fn streamed(text: &str) -> String {
    chat(text).replace("\"model\"", "\"stream\":true,\"model\"")
}

/// A caller who has said so much.
fn calls(daemon: &Daemon, body: &str) -> Caller {
    let mut caller = daemon.connect();
    caller.send(post(CHAT, "", body));
    caller
}

fn is_draining(reply: &Reply) -> bool {
    reply.status == 503 && reply.json()["error"]["code"] == "draining" && reply.header("retry-after").is_some()
}

/// Reads until `what` has come.
fn read_until(caller: &mut Caller, what: &str) -> String {
    let (mut all, mut byte) = (Vec::new(), [0]);
    while !String::from_utf8_lossy(&all).contains(what) {
        assert_eq!(caller.stream.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&all));
        all.push(byte[0]);
    }
    String::from_utf8(all).unwrap()
}

#[test]
fn calls_that_wait_back_off_run_and_stream_are_answered_and_late_ones_are_told() {
    let upstream = Upstream::held();
    let daemon = Daemon::start(&config(upstream.addr, "1m", 2));
    let mut kept = daemon.connect();
    assert_eq!(kept.ask(get("/healthz")).status, 200);

    let mut backing_off = calls(&daemon, &chat("backing off"));
    upstream.next().answer(500, "{\"error\":{\"message\":\"planted\"}}");
    let mut streaming = calls(&daemon, &streamed("streaming"));
    let mut stream = upstream.next().streams("one ");
    let head = read_until(&mut streaming, "one ");
    let mut running = calls(&daemon, &chat("running"));
    let run = upstream.next();
    let mut queued: Vec<Caller> = (0..5).map(|n| calls(&daemon, &chat(&format!("queued {n}")))).collect();
    daemon.until_load(6, 2);

    daemon.signal("TERM");
    daemon.until_logged("\"draining\"");
    let ready = daemon.get("/readyz");
    assert_eq!((ready.status, &ready.json()["reasons"]), (503, &serde_json::json!(["draining"])));
    assert_eq!(daemon.get("/healthz").status, 200, "it lives");
    for late in [&mut kept, &mut daemon.connect()] {
        let reply = late.ask(post(CHAT, "", chat("late")));
        assert!(is_draining(&reply), "{reply:?}");
        assert_eq!(reply.header("connection"), Some("close"));
        assert!(late.is_over());
    }

    stream.word("two ");
    run.says("running");
    assert_eq!(running.reply().content(), "running");
    assert!(running.is_over(), "the next call would be refused: the answer says so by closing");
    stream.word("three");
    stream.end();
    let rest = read_until(&mut streaming, "0\r\n\r\n");
    assert!(head.contains("one ") && rest.contains("two ") && rest.contains("three"), "{rest}");
    for _ in 0..6 {
        let asked = upstream.next();
        let said = asked.said();
        asked.says(&said);
    }
    assert_eq!(backing_off.reply().content(), "backing off");
    for (n, caller) in queued.iter_mut().enumerate() {
        assert_eq!(caller.reply().content(), format!("queued {n}"));
    }
    let (code, log) = daemon.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains("sk-test"), "{log}");
}

/// The instant of a line of the log.
fn instant(line: &str) -> SystemTime {
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    let text = line["timestamp"].as_str().unwrap();
    let part = |from: usize, to: usize| text[from..to].parse::<u64>().unwrap();
    let (year, month) = (part(0, 4), part(5, 7));
    // Days of the civil calendar, years beginning in March.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + part(8, 10) - 1 - 719_468;
    let seconds = ((days * 24 + part(11, 13)) * 60 + part(14, 16)) * 60 + part(17, 19);
    let fraction: f64 = text[19..text.len() - 1].parse().unwrap();
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_secs_f64(fraction)
}

/// What became of one request: sent when, and its reply.
type Tale = (SystemTime, Reply);

/// Calls again and again on connections that are kept, until the door is shut. `None` for a request that could not be
/// sent at all.
fn hammer(addr: SocketAddr, who: usize) -> Vec<(String, Option<Tale>)> {
    let mut tales = Vec::new();
    for n in 0.. {
        // Refused: the door is shut. (What is not even heard is not refused before a second has passed.)
        let Ok(stream) = TcpStream::connect(addr) else { return tales };
        let mut caller = Caller::over(stream);
        for m in 0.. {
            let text = format!("caller {who} connection {n} call {m}");
            let request = post(CHAT, "", chat(&text));
            let sent = caller.stream.write_all(&request).map(|()| SystemTime::now());
            let Ok(sent) = sent else {
                tales.push((text, None));
                break;
            };
            let reply = caller.reply();
            let closes = reply.status == 0 || reply.header("connection") == Some("close");
            tales.push((text, Some((sent, reply))));
            if closes {
                break;
            }
        }
    }
    tales
}

#[test]
fn two_hundred_callers_who_hammer_while_the_signal_comes_all_get_an_answer_or_are_told() {
    let (counted, count) = std::sync::mpsc::channel();
    let upstream = Upstream::answering(move |asked| {
        let said = asked.said();
        asked.says(&said);
        let _ = counted.send(());
    });
    let daemon = Daemon::start(&config(upstream, "1m", 50));
    let addr = daemon.addr;
    let callers: Vec<_> = (0..200).map(|who| std::thread::spawn(move || hammer(addr, who))).collect();
    for _ in 0..1_000 {
        count.recv().unwrap();
    }
    daemon.signal("TERM");
    let (mut answered, mut told, mut unheard) = (0, 0, Vec::new());
    let tales: Vec<_> = callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect();
    let (code, log) = daemon.end();
    assert_eq!(code, Some(0), "{log}");
    let shut = instant(log.lines().find(|line| line.contains("no more connections are taken")).expect("it says so"));
    for (text, tale) in tales {
        match tale {
            Some((_, reply)) if reply.status == 200 => {
                assert_eq!((reply.content(), reply.end), (text, End::Complete));
                answered += 1;
            }
            Some((_, reply)) if is_draining(&reply) => told += 1,
            Some((sent, reply)) if reply.status != 0 || sent < shut => panic!("{text}, sent {sent:?}: {reply:?}"),
            _ => unheard.push(text),
        }
    }
    println!("{answered} answered, {told} told, {} unheard behind the shut door", unheard.len());
    assert!(answered >= 1_000 && told > 0);
}

#[test]
fn when_the_time_to_drain_is_over_everyone_hears_it_and_nothing_holds_up_the_end() {
    let upstream = Upstream::held();
    let daemon = Daemon::start(&config(upstream.addr, "1s", 4));
    let mut streaming = calls(&daemon, &streamed("streaming"));
    let mut stream = upstream.next().streams("one ");
    let mut running = calls(&daemon, &chat("running"));
    let _held = upstream.next();
    // One who does not read what comes, however much comes.
    let deaf = calls(&daemon, &streamed("deaf"));
    let mut flood = upstream.next().streams("flood");
    let flooding = std::thread::spawn(move || {
        let much = "x".repeat(64 << 10);
        while flood.word(&much) {}
    });
    let mut backing_off = calls(&daemon, &chat("backing off"));
    upstream.next().answer(500, "{\"error\":{\"message\":\"planted\"}}");
    daemon.until_load(1, 3);
    let mut queued: Vec<Caller> = vec![calls(&daemon, &chat("the last place"))];
    let _last = upstream.next();
    queued.extend((0..3).map(|n| calls(&daemon, &chat(&format!("queued {n}")))));
    daemon.until_load(4, 4);
    // Half a head, half a body, and a connection that never says a word.
    let mut silent = daemon.connect();
    let mut half = daemon.connect();
    half.send("POST /v1/chat/completions HTTP/1.1\r\nhost: local");

    daemon.signal("TERM");
    stream.word("two");
    let reply = streaming.reply();
    assert_eq!((reply.status, reply.end), (200, End::Short), "a stream never ends as if it were complete");
    assert!(reply.content().starts_with("one two"), "{reply:?}");
    assert!(reply.events().last().unwrap().contains("\"code\":\"draining\""), "{reply:?}");
    for caller in queued.iter_mut().chain([&mut running, &mut backing_off]) {
        let reply = caller.reply();
        assert!(is_draining(&reply), "{reply:?}");
        assert!(caller.is_over());
    }
    assert!(silent.is_over() && half.is_over());
    let (code, log) = daemon.end();
    assert_eq!(code, Some(0), "{log}");
    let at = |what: &str| instant(log.lines().find(|line| line.contains(what)).expect(what));
    let took = at("\"stopped\"").duration_since(at("\"draining\"")).unwrap();
    println!("ended {took:?} after the signal, with drain_timeout = 1s");
    assert!(took < Duration::from_secs(4), "{took:?}");
    drop(deaf);
    flooding.join().unwrap();
}

#[test]
fn connections_that_are_idle_or_new_do_not_hold_up_the_end_of_a_daemon_without_calls() {
    let daemon = Daemon::start(&config(Upstream::held().addr, "1h", 2));
    let mut kept: Vec<Caller> = (0..20).map(|_| daemon.connect()).collect();
    for caller in &mut kept {
        assert_eq!(caller.ask(get("/healthz")).status, 200);
    }
    let mut silent: Vec<Caller> = (0..20).map(|_| daemon.connect()).collect();
    let half: Vec<Caller> = (0..20).map(|_| daemon.connect()).collect();
    half.iter().for_each(|caller| {
        let _ = (&caller.stream).write_all(b"GET /heal");
        let _ = caller.stream.shutdown(Shutdown::Write);
    });
    daemon.signal("TERM");
    for caller in kept.iter_mut().chain(&mut silent) {
        assert!(caller.is_over());
    }
    let (code, log) = daemon.end();
    assert_eq!(code, Some(0), "{log}");
    let at = |what: &str| instant(log.lines().find(|line| line.contains(what)).expect(what));
    let took = at("\"stopped\"").duration_since(at("\"draining\"")).unwrap();
    println!("ended {took:?} after the signal");
    assert!(took < Duration::from_secs(3), "{took:?}");
}
