//! Connections: kept, given back, closed; and what a request looks like on one.

use std::rc::Rc;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use tokio::sync::mpsc::unbounded_channel;

use super::super::awc::LIFETIME;
use super::peer::Peer;
use super::rig::{OURS, Rig, run, trusted, upstream};
use crate::messages::{FailureKind, Sent};

#[test]
fn twenty_exchanges_in_turn_use_one_connection() {
    for tls in [false, true] {
        run(async {
            let peer = Peer::start(tls.then(trusted), |conn, asked| match asked.path.as_str() {
                "/chunked" => conn.say("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n").map(|()| true),
                _ => conn.answer(&asked.body).map(|()| true),
            });
            let rig = Rig::new(&peer, tls);
            for n in 0..20 {
                rig.next_is_right(&format!("nonce {n}")).await;
                rig.post("/chunked", "").await.unwrap();
            }
            assert_eq!(peer.connections(), 1);
        });
    }
}

#[test]
fn a_request_carries_what_it_must_and_nothing_of_the_connections() {
    run(async {
        let peer = Peer::start(None, |conn, asked| conn.answer(&asked.head).map(|()| true));
        let rig = Rig::new(&peer, false);
        let head = rig.post("/v1/x?y=z", "body").await.unwrap().body;
        assert!(head.starts_with("POST /v1/x?y=z HTTP/1.1\r\n"), "{head}");
        for line in [
            format!("host: {}", peer.address),
            concat!("user-agent: forebay/", env!("CARGO_PKG_VERSION")).to_owned(),
            "accept-encoding: identity".to_owned(),
            "content-type: application/json".to_owned(),
            "content-length: 4".to_owned(),
        ] {
            assert_eq!(head.lines().filter(|have| *have == line).count(), 1, "{line} in {head}");
        }
        for absent in ["expect", "te", "transfer-encoding", "connection"] {
            assert!(!head.lines().any(|line| line.starts_with(&format!("{absent}:"))), "{absent} in {head}");
        }
    });
}

#[test]
fn a_dropped_exchange_closes_its_connection() {
    for tls in [false, true] {
        run(async {
            let (left, mut leaving) = unbounded_channel();
            let (asking, mut asked) = unbounded_channel();
            let peer = Peer::start(tls.then(trusted), move |conn, request| {
                if request.path == "/stream" {
                    conn.say("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n")?;
                }
                let _ = asking.send(());
                let _ = left.send(conn.is_left());
                Ok(false)
            });
            let rig = Rig::new(&peer, tls);

            let mut response = rig.open("/stream", "").await.unwrap();
            assert_eq!(response.body.next().await.unwrap().unwrap(), "first");
            assert!(leaving.recv().now_or_never().is_none());
            drop(response);
            assert!(leaving.recv().await.unwrap());

            asked.recv().await;
            let request = rig.open("/silent", "");
            tokio::select! {
                _ = request => panic!("never answered"),
                _ = asked.recv() => {} // dropped once it has arrived
            }
            assert!(leaving.recv().await.unwrap());
        });
    }
}

#[test]
fn a_kept_connection_that_its_peer_has_ended_carries_nothing_more() {
    for tls in [false, true] {
        run(async {
            let (ending, mut ended) = unbounded_channel();
            let peer = Peer::start(tls.then(trusted), move |conn, asked| {
                conn.answer(&asked.body)?;
                match asked.path.as_str() {
                    "/finish" => conn.finish()?,
                    "/fin" => conn.fin()?,
                    "/reset" => conn.reset()?,
                    // What servers say to a connection that was idle for too long.
                    "/late" => {
                        conn.pause();
                        conn.say("HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n")?;
                        true
                    }
                    _ => return Ok(true),
                };
                if asked.path == "/reset" {
                    conn.pause();
                    conn.close_now();
                }
                conn.pause(); // a busy kernel takes its time to carry an end even to itself
                let _ = ending.send(());
                conn.hold();
                Ok(false)
            });
            let rig = Rig::new(&peer, tls);
            for (n, path) in ["/finish", "/fin", "/reset", "/late"].into_iter().enumerate() {
                rig.post(path, "x").await.unwrap();
                ended.recv().await;
                tokio::task::yield_now().await; // a turn of the reactor: what has arrived is known only after one
                assert_eq!(peer.connections(), n + 1);
            }
            rig.next_is_right("after").await;
            assert_eq!(peer.connections(), 5);
        });
    }
}

#[test]
fn the_peer_of_an_idle_connection_is_told_of_its_end() {
    run(async {
        let (left, mut leaving) = unbounded_channel();
        let peer = Peer::start(Some(trusted()), move |conn, asked| {
            conn.answer(&asked.body)?;
            let _ = left.send(conn.is_left_cleanly());
            Ok(false)
        });
        let rig = Rig::new(&peer, true);
        rig.next_is_right("only").await;
        drop(rig);
        assert_eq!(leaving.recv().await, Some(true), "close_notify arrives");
    });
}

#[test]
fn a_peer_that_refuses_has_seen_nothing() {
    run(async {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = Rig::at(format!("http://{closed}")).post("/", "x").await.unwrap_err();
        assert_eq!((error.kind, error.sent), (FailureKind::Unreachable, Sent::No), "{error:?}");
        let error = Rig::at("http://nowhere.invalid".to_owned()).post("/", "x").await.unwrap_err();
        assert_eq!((error.kind, error.sent), (FailureKind::Unreachable, Sent::No), "{error:?}");
    });
}

#[test]
fn many_more_exchanges_than_awcs_default_run_at_once() {
    run(async {
        let (asking, mut asked) = unbounded_channel();
        let peer = Peer::start(None, move |conn, _| {
            let _ = asking.send(());
            conn.hold();
            Ok(false)
        });
        let rig = Rc::new(Rig::new(&peer, false));
        let mut running: futures_util::stream::FuturesUnordered<_> = (0..150).map(|_| rig.post("/", "x")).collect();
        for _ in 0..150 {
            tokio::select! {
                _ = running.next() => panic!("never answered"),
                _ = asked.recv() => {}
            }
        }
    });
}

#[test]
fn a_reload_that_changes_how_an_upstream_is_dialled_is_followed() {
    run(async {
        let peer = Peer::start(None, |conn, asked| conn.answer(&asked.body).map(|()| true));
        let mut rig = Rig::new(&peer, false);
        rig.next_is_right("before").await;
        rig.upstream = upstream("peer", Duration::from_secs(20), OURS.trust());
        rig.next_is_right("same").await;
        assert_eq!(peer.connections(), 1, "nothing changed for the connection");
        rig.upstream = upstream("peer", Duration::from_secs(21), OURS.trust());
        rig.next_is_right("other").await;
        assert_eq!(peer.connections(), 2);
    });
}

#[test]
fn an_upstream_with_plain_and_encrypted_urls_keeps_them_apart() {
    run(async {
        let echo = |tls| Peer::start(tls, |conn, asked| conn.answer(&asked.body).map(|()| true));
        let (plain, encrypted) = (echo(None), echo(Some(trusted())));
        let mut rig = Rig::new(&plain, false);
        for _ in 0..2 {
            rig.base = format!("http://{}", plain.address);
            rig.next_is_right("plain").await;
            rig.base = format!("https://{}", encrypted.address);
            rig.next_is_right("encrypted").await;
        }
        assert_eq!((plain.connections(), encrypted.connections()), (1, 1));
    });
}

#[test]
fn connections_to_a_host_that_nothing_is_sent_to_any_more_are_closed_in_time() {
    // Without the limit of `run`, for the clock jumps.
    actix_rt::System::new().block_on(async {
        let (left, mut leaving) = unbounded_channel();
        let forsaken = Peer::start(None, move |conn, asked| {
            conn.answer(&asked.body)?;
            let _ = left.send(conn.is_left());
            Ok(false)
        });
        let other = Peer::start(None, |conn, asked| conn.answer(&asked.body).map(|()| true));
        let mut rig = Rig::new(&forsaken, false);
        rig.next_is_right("first").await;
        rig.base = format!("http://{}", other.address);
        rig.next_is_right("second").await;
        assert!(leaving.recv().now_or_never().is_none());

        tokio::time::pause();
        tokio::time::advance(LIFETIME).await;
        tokio::time::resume();
        rig.next_is_right("third").await;
        assert_eq!(leaving.recv().await, Some(true));
        assert_eq!((forsaken.connections(), other.connections()), (1, 2));
    });
}
