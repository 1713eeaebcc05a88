//! An upstream that points elsewhere: neither key nor prompt goes there, whatever header the kind's key stands in.
#![cfg(all(feature = "gateway", unix))]

#[path = "support/daemon.rs"]
mod daemon;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpListener;

use daemon::{Daemon, chat, post};

const KEY: &str = "sk-canary-0000000001";

/// Answers the next call with a redirect to `location`; gives what was asked.
fn redirects(listener: TcpListener, location: String) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let (mut peer, _) = listener.accept().expect("it is called");
        let mut asked = Vec::new();
        // The prompt is the last thing of the body that a test looks for.
        while !asked.windows(8).any(|bytes| bytes == b"a secret") {
            let mut piece = [0; 4_096];
            let length = peer.read(&mut piece).expect("the request comes");
            assert!(length > 0, "the request ends before its prompt");
            asked.extend_from_slice(&piece[..length]);
        }
        let head = format!("HTTP/1.1 307 Temporary Redirect\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n");
        peer.write_all(head.as_bytes()).expect("the answer is read");
        String::from_utf8_lossy(&asked).into_owned()
    })
}

#[test]
fn a_redirect_to_another_host_is_an_error_and_nobody_is_there_called() {
    for (kind, header, path) in
        [("openai", "authorization", ""), ("anthropic", "x-api-key", ""), ("gemini", "x-goog-api-key", "/v1beta")]
    {
        let bind = || TcpListener::bind("127.0.0.1:0").expect("a port");
        let (upstream, elsewhere) = (bind(), bind());
        elsewhere.set_nonblocking(true).expect("it can be asked whether anyone came");
        let port = elsewhere.local_addr().expect("an address").port();
        let base = format!("http://{}{path}", upstream.local_addr().expect("an address"));
        let upstream = redirects(upstream, format!("http://localhost:{port}/v1/chat/completions"));
        let daemon = Daemon::start(&format!(
            "[upstreams.up]\nkind = \"{kind}\"\nbase_url = \"{base}\"\napi_keys = [\"{KEY}\"]\nmodels = [\"m\"]\n"
        ));
        let reply = daemon.ask(post("/v1/chat/completions", "", chat("a secret")));
        assert_eq!(
            (reply.status, reply.json()["error"]["code"].as_str()),
            (502, Some("upstream_redirected")),
            "{kind}"
        );
        assert!(reply.header("location").is_none() && !reply.text().contains(&port.to_string()), "{kind}");
        let asked = upstream.join().expect("the upstream was called as it must be").to_lowercase();
        assert!(asked.contains(header) && asked.contains(KEY), "{kind}: the key went where it belongs");
        // The daemon has answered: what it wanted to call it has called.
        let came = elsewhere.accept().expect_err("nobody was sent on");
        assert_eq!(came.kind(), ErrorKind::WouldBlock, "{kind}");
    }
}
