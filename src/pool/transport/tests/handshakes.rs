//! TLS that does not come about, and whom it trusts.

use std::sync::Arc;
use std::time::Duration;

use super::super::{TransportError, http};
use super::peer::Peer;
use super::rig::{Authority, OURS, Rig, run, trusted, upstream};
use crate::messages::{Authorities, FailureKind, Phase, Sent};

fn echo(tls: Option<Arc<rustls::ServerConfig>>) -> Peer {
    Peer::start(tls, |conn, asked| conn.answer(&asked.body).map(|()| true))
}

async fn refusal(rig: &Rig) -> TransportError {
    rig.post("/echo", "x").await.expect_err("no exchange")
}

#[test]
fn a_certificate_that_does_not_verify_is_told_and_nothing_is_sent() {
    let stranger = Authority::new("stranger");
    for (why, config) in [
        ("expired", OURS.server(&["127.0.0.1"], true)),
        ("wrong host", OURS.server(&["elsewhere.test"], false)),
        ("unknown authority", stranger.server(&["127.0.0.1"], false)),
    ] {
        run(async {
            let rig = Rig::new(&echo(Some(config)), true);
            let error = refusal(&rig).await;
            assert_eq!((error.kind, error.sent), (FailureKind::Certificate, Sent::No), "{why}: {error:?}");
        });
    }
}

#[test]
fn an_authority_is_trusted_only_where_its_ca_file_says_so() {
    run(async {
        let peer = echo(Some(trusted()));
        let mut rig = Rig::new(&peer, true);
        rig.next_is_right("trusted").await;
        rig.upstream = upstream("other", Duration::from_secs(20), Authorities::default());
        assert_eq!(refusal(&rig).await.kind, FailureKind::Certificate);
        rig.upstream = upstream("peer", Duration::from_secs(20), OURS.trust());
        rig.next_is_right("still trusted").await;
    });
}

#[test]
fn a_name_is_verified_as_a_name() {
    run(async {
        let peer = echo(Some(trusted()));
        Rig::at(format!("https://localhost:{}", peer.address.port())).next_is_right("by name").await;
    });
}

#[test]
fn a_peer_that_wants_our_certificate_is_not_asked_again() {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(OURS.der.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
    run(async {
        let rig = Rig::new(&echo(Some(OURS.server_that(&["127.0.0.1"], false, verifier))), true);
        assert_eq!(refusal(&rig).await.kind, FailureKind::Certificate);
    });
}

#[test]
fn a_peer_without_tls_is_unreachable() {
    for answer in ["HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n", ""] {
        run(async move {
            // Not a scripted peer: it must answer before a request.
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let peer = std::thread::spawn(move || {
                use std::io::{Read, Write};
                let (mut tcp, _) = listener.accept().unwrap();
                let _ = tcp.read(&mut [0; 4096]);
                tcp.write_all(answer.as_bytes()).unwrap();
            });
            let error = refusal(&Rig::at(format!("https://{address}"))).await;
            assert_eq!((error.kind, error.sent), (FailureKind::Unreachable, Sent::No), "{error:?}");
            peer.join().unwrap();
        });
    }
}

#[test]
fn a_peer_silent_in_the_handshake_takes_the_time_to_connect_and_no_more() {
    run(async {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap(); // accepted by the kernel alone
        let mut rig = Rig::at(format!("https://{}", listener.local_addr().unwrap()));
        rig.upstream = upstream("silent", Duration::from_millis(200), Authorities::default());
        let error = refusal(&rig).await;
        assert_eq!((error.kind, error.sent), (FailureKind::Timeout(Phase::Connect), Sent::No));
        assert!(error.detail.starts_with("TLS"), "{error:?}");
    });
}

#[test]
fn the_transports_of_one_factory_resume_each_others_sessions() {
    let peer = Peer::start(Some(trusted()), |conn, _| conn.answer(conn.is_resumed().to_string()).map(|()| true));
    let factory = http();
    for resumed in ["false", "true"] {
        let (factory, base) = (factory.clone(), format!("https://{}", peer.address));
        let thread = std::thread::spawn(move || {
            run(async {
                let mut rig = Rig::at(base);
                rig.transport = factory();
                assert_eq!(rig.post("/", "").await.unwrap().body, resumed);
            });
        });
        thread.join().unwrap();
    }
}
