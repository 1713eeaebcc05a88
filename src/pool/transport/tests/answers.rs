//! What peers do to answers, over TCP and over TLS; and after each, the next exchange on the same transport.

use std::io;

use super::super::TransportError;
use super::peer::{Asked, Conn, Peer, whole};
use super::rig::{Answer, Rig, run, trusted};
use crate::messages::{FailureKind, Sent};

const LONG: &str = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npartial";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n7\r\npartial\r\n";

fn fault(conn: &mut Conn, asked: &Asked) -> io::Result<bool> {
    let own = whole(200, &asked.body);
    match asked.path.as_str() {
        "/100" | "/103" => {
            conn.say(if asked.path == "/100" {
                "HTTP/1.1 100 X\r\n\r\n"
            } else {
                "HTTP/1.1 103 X\r\nlink: <x>\r\n\r\n"
            })?;
            conn.pause();
            conn.say(own)?;
        }
        "/many-interim" => {
            let mut all = b"HTTP/1.1 103 X\r\n\r\nHTTP/1.1 102 X\r\n\r\nHTTP/1.1 100 X\r\n\r\n".to_vec();
            all.extend_from_slice(&own);
            conn.say(all)?;
        }
        "/dribble" => {
            for byte in b"HTTP/1.1 103 X\r\nlink: <x>\r\n\r\n".iter().chain(&own) {
                conn.say([*byte])?;
            }
        }
        "/length-fin" => return conn.say(LONG).and_then(|()| conn.fin()),
        "/length-finish" => return conn.say(LONG).and_then(|()| conn.finish()),
        "/length-reset" => {
            conn.say(LONG)?;
            conn.pause();
            return conn.reset();
        }
        "/chunked-fin" => return conn.say(CHUNKED).and_then(|()| conn.fin()),
        "/chunked-finish" => return conn.say(CHUNKED).and_then(|()| conn.finish()),
        "/chunked-broken" => conn.say(format!("{CHUNKED}oops\r\n"))?,
        "/chunked" => conn.say(format!("{CHUNKED}0\r\nx: trailer\r\n\r\n"))?,
        "/to-eof" => return conn.say("HTTP/1.1 200 OK\r\n\r\nto the end").and_then(|()| conn.finish()),
        "/to-eof-fin" => return conn.say("HTTP/1.1 200 OK\r\n\r\nto the end").and_then(|()| conn.fin()),
        "/http10" => return conn.say("HTTP/1.0 200 OK\r\n\r\nold").and_then(|()| conn.finish()),
        "/http10-length" => conn.say("HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\nold")?,
        "/http10-empty" => conn.say("HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n")?,
        "/204" => conn.say("HTTP/1.1 204 No Content\r\n\r\n")?,
        "/garbage" => conn.say("SSH-2.0-OpenSSH_9.9\r\n")?,
        "/switch" => conn.say("HTTP/1.1 101 X\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n")?,
        "/many-headers" => conn.say(format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(200)))?,
        "/endless-head" => conn.say(format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(200_000)))?,
        "/two-lengths" => conn.say("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nabc")?,
        "/head-cut" => return conn.say("HTTP/1.1 200 OK\r\ncontent-le").and_then(|()| conn.finish()),
        "/nothing" => return conn.finish(),
        "/nothing-reset" => return conn.reset(),
        "/excess" => conn.say([whole(200, b"right"), whole(200, b"unasked")].concat())?,
        "/excess-chunked" => conn.say([format!("{CHUNKED}0\r\n\r\n").as_bytes(), &whole(200, b"unasked")].concat())?,
        "/upgrade" => conn.say("HTTP/1.1 426 X\r\nupgrade: websocket\r\ncontent-length: 4\r\n\r\nneed")?,
        "/redirect" => conn.say("HTTP/1.1 307 X\r\nlocation: /echo\r\ncontent-length: 4\r\n\r\naway")?,
        "/close" => {
            conn.say("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\nright")?;
            return conn.finish();
        }
        _ => conn.say(own)?,
    }
    Ok(true)
}

fn ok(status: u16, body: &str) -> Result<Answer, (FailureKind, Sent)> {
    Ok(Answer { status, body: body.to_owned() })
}

fn fails(kind: FailureKind) -> Result<Answer, (FailureKind, Sent)> {
    Err((kind, Sent::Maybe))
}

/// Each fault in turn on one transport, with an exchange after it that must get its own answer.
fn faults(tls: bool) {
    use FailureKind::{Cut, Malformed};
    let table = [
        ("/103", ok(200, "mine")),
        ("/100", ok(200, "mine")),
        ("/many-interim", ok(200, "mine")),
        ("/dribble", ok(200, "mine")),
        ("/length-fin", fails(Cut)),
        ("/length-finish", fails(Cut)),
        ("/length-reset", fails(Cut)),
        ("/chunked-fin", fails(Cut)),
        ("/chunked-finish", fails(Cut)),
        ("/chunked-broken", fails(Malformed)),
        ("/chunked", ok(200, "partial")),
        ("/to-eof", ok(200, "to the end")),
        ("/to-eof-fin", if tls { fails(Cut) } else { ok(200, "to the end") }),
        ("/http10", ok(200, "old")),
        ("/http10-length", ok(200, "old")),
        ("/http10-empty", ok(200, "")),
        ("/204", ok(204, "")),
        ("/garbage", fails(Malformed)),
        ("/switch", fails(Malformed)),
        ("/many-headers", fails(Malformed)),
        ("/endless-head", fails(Malformed)),
        ("/two-lengths", fails(Malformed)),
        ("/head-cut", fails(Cut)),
        ("/nothing", fails(Cut)),
        ("/nothing-reset", fails(Cut)),
        ("/excess", ok(200, "right")),
        ("/excess-chunked", ok(200, "partial")),
        ("/upgrade", ok(426, "need")),
        ("/redirect", ok(307, "away")),
        ("/close", ok(200, "right")),
    ];
    run(async {
        let peer = Peer::start(tls.then(trusted), fault);
        let rig = Rig::new(&peer, tls);
        for (path, expected) in table {
            for round in ["fresh", "kept"] {
                if round == "kept" {
                    rig.next_is_right("before").await; // so that a kept connection meets the fault
                }
                let got = rig.post(path, "mine").await;
                if let Err(TransportError { detail, .. }) = &got {
                    assert!(!detail.contains("partial") && !detail.contains("SSH"), "{detail}");
                }
                let told = got.as_ref().map_or_else(|error| error.detail.clone(), |_| String::new());
                assert_eq!(got.map_err(|e| (e.kind, e.sent)), expected, "{path}, tls {tls}, {round}: {told}");
                rig.next_is_right(path).await;
            }
        }
    });
}

#[test]
fn every_fault_over_tcp_is_told_and_the_next_exchange_gets_its_own_answer() {
    faults(false);
}

#[test]
fn every_fault_over_tls_is_told_and_the_next_exchange_gets_its_own_answer() {
    faults(true);
}

#[test]
fn of_six_hundred_mixed_exchanges_none_gets_anothers_answer() {
    use futures_util::StreamExt;
    for tls in [false, true] {
        run(async {
            let peer = Peer::start(tls.then(trusted), fault);
            let rig = Rig::new(&peer, tls);
            let paths = [
                "/103",
                "/echo",
                "/many-interim",
                "/echo",
                "/length-finish",
                "/echo",
                "/100",
                "/excess",
                "/echo",
                "/echo",
            ];
            let wrong = futures_util::stream::iter(0..600)
                .map(|n| {
                    let rig = &rig;
                    async move {
                        let (path, nonce) = (paths[n % paths.len()], format!("nonce {n}"));
                        match rig.post(path, nonce.clone()).await {
                            Ok(answer) if path == "/excess" => answer.body != "right",
                            Ok(answer) => answer.body != nonce,
                            Err(error) => path != "/length-finish" || error.kind != FailureKind::Cut,
                        }
                    }
                })
                .buffer_unordered(40)
                .filter(|wrong| std::future::ready(*wrong))
                .count()
                .await;
            assert_eq!(wrong, 0);
        });
    }
}
