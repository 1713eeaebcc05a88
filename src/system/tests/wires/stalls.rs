//! Peers that stop: in every phase the caller is told within that phase's own limit, which it was.
//!
//! Each limit but the one that is looked at is a day, so that only that one can have ended the call.

use super::own::Own;
use super::stage::{Ask, OWN, Stage, judged, system};
use crate::pool::transport::tests::peer::{Asked, Conn};
use crate::pool::transport::tests::rig::run;

const CONNECT: &str = "connect_timeout";
const ANSWER: &str = "answer_timeout";
const FIRST_BYTE: &str = "first_byte_timeout";
const IDLE: &str = "idle_timeout";

/// Keys in which `short` is a fifth of a second.
fn keys(short: &str) -> String {
    let limits = [CONNECT, ANSWER, FIRST_BYTE, IDLE].map(|name| {
        let limit = if name == short { "200ms" } else { "1d" };
        format!("{name} = \"{limit}\"\n")
    });
    limits.concat() + "retry = { max_attempts = 1 }\nlimits = { max_concurrent = 1 }\n[queue]\ndefault_timeout = \"1d\""
}

/// Says what comes before the stall, and no more.
fn stall(conn: &mut Conn, asked: &Asked) -> std::io::Result<bool> {
    let own = Own::to(asked);
    match asked.fault.as_deref() {
        None => return conn.say(own.sized()).map(|()| true),
        Some("head, half of it") => conn.say(&own.sized()[..30])?,
        Some("interim") => conn.say("HTTP/1.1 103 X\r\n\r\n")?,
        Some("head") => conn.say(own.head("HTTP/1.1 200 OK", &["transfer-encoding: chunked"]))?,
        Some("opening") => conn.say(own.opening())?,
        Some("half") => conn.say(own.half_chunked())?,
        Some("half, byte by byte") => own.half_chunked().bytes().try_for_each(|byte| conn.say([byte]))?,
        Some("early half") => conn.say(own.half_sized())?,
        Some("comments") => {
            conn.say(own.opening())?;
            while conn.say("3\r\n:\n\n\r\n").is_ok() {
                conn.pause();
            }
        }
        _ => {}
    }
    conn.hold();
    Ok(false)
}

#[test]
fn a_stall_in_any_phase_ends_by_that_phases_limit_and_the_next_call_is_answered() {
    const NOTHING: &str = "502 no answer began within 0.2 s";
    const STILL: &str = "502 the answer stood still for 0.2 s";
    const HALF: &str = "200 own events, then: the answer stood still for 0.2 s";
    let table = [
        (ANSWER, "before the head", false, NOTHING),
        (ANSWER, "interim", false, NOTHING),
        (ANSWER, "head, half of it", false, NOTHING),
        (ANSWER, "head", false, NOTHING),
        (ANSWER, "early, unread", false, NOTHING),
        (ANSWER, "early half", false, NOTHING),
        (IDLE, "half", false, STILL),
        (IDLE, "half, byte by byte", false, STILL),
        (FIRST_BYTE, "before the head", true, NOTHING),
        (FIRST_BYTE, "interim", true, NOTHING),
        (FIRST_BYTE, "head, half of it", true, NOTHING),
        (FIRST_BYTE, "head", true, NOTHING),
        (FIRST_BYTE, "early, unread", true, NOTHING),
        (IDLE, "opening", true, STILL),
        (IDLE, "half", true, HALF),
    ];
    let ends = std::thread::scope(|scope| {
        let all = [false, true].map(|tls| {
            table.map(|(limit, fault, is_stream, due)| {
                scope.spawn(move || {
                    let heard = run(async {
                        let stage = Stage::of(tls, &keys(limit), stall).await;
                        let is_large = fault.starts_with("early");
                        let heard = stage.hear(Ask { fault, word: "word", is_stream, is_large }).await;
                        stage.reconfigure(&keys("")); // the next call may take its time
                        [heard, stage.hear(Ask { fault: "", word: "next", is_stream, is_large: false }).await]
                    });
                    let over = if tls { "TLS" } else { "TCP" };
                    let asked = if is_stream { "stream" } else { "whole" };
                    let line = format!("{limit:18} | {fault:18} | {asked:6} | {over} | {:54} | {}", heard[0], heard[1]);
                    (line, heard == [due, OWN])
                })
            })
        });
        all.map(|threads| threads.map(|thread| thread.join().expect("an end")))
    });
    for (line, _) in ends.as_flattened() {
        println!("{line}");
    }
    assert!(ends.as_flattened().iter().all(|(_, is_right)| *is_right), "{ends:#?}");
}

#[test]
fn a_peer_that_does_not_finish_connecting_takes_the_time_to_connect_and_no_more() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap(); // connected by the kernel, and nobody there
    let silent = listener.local_addr().unwrap();
    run(async {
        let forebay = system(&format!("https://{silent}"), &keys(CONNECT)).await;
        let heard = judged(forebay.call(Ask::whole("", "word").request()).await, "word");
        assert_eq!(heard, "502 no connection in time: the TLS handshake took longer than connect_timeout");
    });
}

/// A full backlog, which on Linux swallows whoever connects.
#[cfg(target_os = "linux")]
#[test]
fn a_peer_that_cannot_be_reached_takes_the_time_to_connect_and_no_more() {
    let nowhere = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    nowhere.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    nowhere.listen(0).unwrap();
    let address = nowhere.local_addr().unwrap().as_socket().unwrap();
    let _fills_it = std::net::TcpStream::connect(address).unwrap();
    run(async {
        for scheme in ["http", "https"] {
            let forebay = system(&format!("{scheme}://{address}"), &keys(CONNECT)).await;
            let heard = judged(forebay.call(Ask::whole("", "word").request()).await, "word");
            assert_eq!(heard, "502 no connection in time: reaching the upstream took longer than connect_timeout");
        }
    });
}

#[test]
fn a_stream_that_says_nothing_but_comments_ends_with_the_calls_own_time() {
    run(async {
        let keys = keys("").replace("default_timeout = \"1d\"", "default_timeout = \"300ms\"");
        let stage = Stage::of(false, &keys, stall).await;
        let heard = stage.hear(Ask { fault: "comments", word: "word", is_stream: true, is_large: false }).await;
        assert!(heard.starts_with("504 deadline_exceeded"), "{heard}");
        stage.reconfigure(&self::keys(""));
        assert_eq!(stage.hear(Ask::whole("", "next")).await, OWN);
    });
}
