//! Refusals that come while a large body is still being sent.

use std::io;

use bytes::Bytes;

use super::peer::{Asked, Conn, Peer, whole};
use super::rig::{Answer, Rig, run, trusted};

const REFUSAL: &str = "HTTP/1.1 429 Slow down\r\nretry-after: 7\r\ncontent-length: 4\r\n\r\nslow";

/// Reads only the head.
fn refuse(conn: &mut Conn, asked: &Asked) -> io::Result<bool> {
    match asked.path.as_str() {
        "/early-finish" => {
            conn.say(REFUSAL)?;
            conn.finish()?;
            conn.pause();
            Ok(false)
        }
        "/early-open" => {
            conn.say(REFUSAL)?;
            conn.hold();
            Ok(false)
        }
        "/early-close" => conn.say(REFUSAL).map(|()| false), // with the upload unread: a reset
        _ => conn.say(whole(200, &asked.body)).map(|()| true),
    }
}

/// Sends `size` bytes to `path` on fresh and kept connections.
fn refused(path: &str, size: usize) {
    for tls in [false, true] {
        run(async {
            let peer = Peer::start(tls.then(trusted), refuse);
            let rig = Rig::new(&peer, tls);
            let body = Bytes::from(vec![b'x'; size]);
            for round in 0..4 {
                if round % 2 == 1 {
                    rig.next_is_right("before").await;
                }
                let response =
                    rig.open(path, body.clone()).await.unwrap_or_else(|error| panic!("tls {tls}: {error:?}"));
                assert_eq!(response.headers.get("retry-after"), Some("7"));
                drop(response);
                let answer = rig.post(path, body.clone()).await.unwrap_or_else(|error| panic!("tls {tls}: {error:?}"));
                assert_eq!(answer, Answer { status: 429, body: "slow".into() });
                if size > FITS {
                    rig.next_is_right(path).await;
                } else if let Err(error) = rig.post("/echo", "x").await {
                    // All of it was sent, so nothing tells that the peer will close: the race of kept connections.
                    assert!(error.detail.contains("kept connection, nothing answered"), "{error:?}");
                }
            }
        });
    }
}

/// What the buffers of a loopback connection may hold, more or less.
const FITS: usize = 300_000;
const TOO_LARGE: usize = 10 << 20;

#[test]
fn a_refusal_before_a_clean_end_is_read_whole() {
    refused("/early-finish", FITS);
    refused("/early-finish", TOO_LARGE);
}

#[test]
fn a_refusal_from_a_peer_that_stops_reading_is_read_at_once() {
    refused("/early-open", TOO_LARGE);
}

#[test]
fn a_refusal_before_a_reset_is_read_whole() {
    refused("/early-close", FITS);
    refused("/early-close", TOO_LARGE);
}
