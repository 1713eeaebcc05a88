//! TLS that does not come about: what is tried again, and what callers are told to do.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::ServerConfig;

use super::own::Own;
use super::stage::{Ask, OWN, config, judged, system};
use crate::Config;
use crate::pool::transport::tests::peer::Peer;
use crate::pool::transport::tests::rig::{Authority, OURS, run, trusted};

/// The default number of attempts, soon after one another.
const SOON: &str = "retry = { base_delay = \"1ms\" }";

/// What a caller hears of the peer at `address`.
fn hear(address: SocketAddr, keys: &str) -> String {
    hear_of(address, keys, Ask::whole("", "word"))
}

fn hear_of(address: SocketAddr, keys: &str, ask: Ask<'_>) -> String {
    run(async {
        let forebay = system(&format!("https://{address}"), keys).await;
        judged(forebay.call(ask.request()).await, "word")
    })
}

/// A peer that presents what `config` says; it counts the requests it sees.
fn peer(config: Arc<ServerConfig>) -> (Peer, Arc<AtomicUsize>) {
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&seen);
    let peer = Peer::start(Some(config), move |conn, asked| {
        counted.fetch_add(1, Ordering::SeqCst);
        conn.say(Own::to(asked).sized()).map(|()| true)
    });
    (peer, seen)
}

#[test]
fn a_certificate_that_does_not_verify_is_refused_once_and_nothing_is_sent() {
    let provider = || Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(OURS.der.clone()).unwrap();
    let asks =
        rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build().unwrap();
    for (why, config, told) in [
        (
            "expired",
            OURS.server(&["127.0.0.1"], true),
            "the upstream's certificate has expired: it must be renewed there, or this machine's clock is wrong",
        ),
        (
            "wrong host",
            OURS.server(&["elsewhere.test"], false),
            "the upstream's certificate is for another name: check base_url",
        ),
        (
            "unknown authority",
            Authority::new("stranger").server(&["127.0.0.1"], false),
            "the upstream's certificate is signed by nobody trusted here: name its authority's PEM file as ca_file",
        ),
        (
            "wants ours",
            OURS.server_that(&["127.0.0.1"], false, asks),
            "the upstream wants a client certificate, which forebay cannot show",
        ),
    ] {
        let (peer, seen) = peer(config);
        // The usual five attempts are allowed; it says that one was made.
        assert_eq!(hear(peer.address, SOON), format!("502 {told}"), "{why}");
        assert_eq!((peer.connections(), seen.load(Ordering::SeqCst)), (1, 0), "{why}");
        // A large body is still on its way when TLS 1.3 says that it wants ours.
        let large = Ask { fault: "", word: "word", is_stream: false, is_large: true };
        assert_eq!(hear_of(peer.address, SOON, large), format!("502 {told}"), "{why}");
    }
}

#[test]
fn a_handshake_that_fails_otherwise_is_tried_again() {
    const ALERT: fn(u8) -> Vec<u8> = |why| vec![21, 3, 3, 0, 2, 2, why];
    for (why, says, told) in [
        (
            "plain HTTP",
            b"HTTP/1.1 400 X\r\ncontent-length: 0\r\n\r\n".to_vec(),
            "the upstream does not speak TLS there: check whether base_url should begin with http://",
        ),
        ("closed", Vec::new(), "the upstream cannot be reached"),
        ("no version", ALERT(70), "the upstream and forebay have no version or cipher of TLS in common"),
        ("no cipher", ALERT(40), "the upstream and forebay have no version or cipher of TLS in common"),
        ("no protocol", ALERT(120), "the upstream does not speak HTTP/1.1 there"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let peer = std::thread::spawn(move || {
            for tcp in listener.incoming().take(5) {
                let mut tcp = tcp.unwrap();
                let _ = tcp.read(&mut [0; 4096]);
                tcp.write_all(&says).unwrap();
            }
        });
        assert_eq!(hear(address, SOON), format!("502 {told} (5 attempts made)"), "{why}");
        peer.join().unwrap();
    }
}

#[test]
fn a_peer_is_trusted_where_its_authority_is_named_and_only_there() {
    let (peer, seen) = peer(trusted());
    let stranger = Authority::new("stranger");
    for (keys, due) in [
        (format!("ca_file = {:?}", OURS.file()), OWN),
        (
            format!("ca_file = {:?}", stranger.file()),
            "502 the upstream's certificate is signed by nobody trusted here: name its authority's PEM file as ca_file",
        ),
    ] {
        assert_eq!(hear(peer.address, &keys), due);
    }
    assert_eq!(seen.load(Ordering::SeqCst), 1);

    run(async {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::copy(OURS.file(), file.path()).unwrap();
        let forebay = system(&format!("https://{}", peer.address), &format!("ca_file = {:?}", file.path())).await;
        file.close().unwrap(); // it was read at the start
        assert_eq!(judged(forebay.call(Ask::whole("", "word").request()).await, "word"), OWN);
    });
}

#[test]
fn a_ca_file_that_holds_something_else_at_a_reload_is_what_new_connections_verify_by() {
    let (peer, seen) = peer(trusted());
    let stranger = Authority::new("stranger");
    run(async {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::copy(OURS.file(), file.path()).unwrap();
        let (base, keys) = (format!("https://{}", peer.address), format!("ca_file = {:?}", file.path()));
        let forebay = system(&base, &keys).await;
        let heard = async || judged(forebay.call(Ask::whole("", "word").request()).await, "word");
        assert_eq!(heard().await, OWN);
        forebay.reconfigure(config(&base, &keys));
        assert_eq!(heard().await, OWN);
        assert_eq!(peer.connections(), 1, "a reload that changes nothing costs no connection");

        std::fs::copy(stranger.file(), file.path()).unwrap();
        assert_eq!(heard().await, OWN, "nothing was reloaded");
        forebay.reconfigure(config(&base, &keys));
        assert!(heard().await.contains("signed by nobody trusted here"));
        assert_eq!(seen.load(Ordering::SeqCst), 3);

        std::fs::copy(OURS.file(), file.path()).unwrap();
        forebay.reconfigure(config(&base, &keys));
        assert_eq!(heard().await, OWN);
    });
}

#[test]
fn a_ca_file_that_verifies_nothing_keeps_the_system_from_starting() {
    let bad = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (text, fault) in
        [(Some("not PEM"), "holds no certificate"), (Some(bad), "cannot be used"), (None, "cannot be read")]
    {
        let file = tempfile::NamedTempFile::new().unwrap();
        match text {
            Some(text) => std::fs::write(file.path(), text).unwrap(),
            None => std::fs::remove_file(file.path()).unwrap(),
        }
        let text = format!("[upstreams.up]\nbase_url = \"https://u.test/v1\"\nca_file = {:?}", file.path());
        let problems = Config::from_toml(&text).unwrap_err().to_string();
        assert!(problems.contains("ca_file") && problems.contains(fault), "{problems}");
    }
}
