//! The watch over the bytes, over an in-memory wire, split at every byte.

use std::future::Future;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};

use super::super::strict::Strict;
use super::super::trace::{Exchange, scope};
use super::super::wire::Carrier;
use crate::messages::Sent;

const ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2;x\r\nde\r\n0\r\n\r\n";
const TO_EOF: &str = "HTTP/1.1 200 OK\r\nx: y\r\n\r\nhello";

/// In memory a read shows all there is.
impl Carrier for DuplexStream {
    fn has_news(&mut self) -> bool {
        false
    }
}

/// A watched stream, the peer's end of it, and what awc would have read so far.
struct Rig {
    strict: Strict<DuplexStream>,
    peer: Option<DuplexStream>,
    read: Vec<u8>,
}

fn now<F: Future>(future: F) -> Option<F::Output> {
    match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

impl Rig {
    /// With room for `room` bytes on the wire.
    fn new(room: usize) -> Self {
        let (ours, theirs) = tokio::io::duplex(room);
        Self { strict: Strict::new(ours, true), peer: Some(theirs), read: Vec::new() }
    }

    /// A rig whose request is written and read.
    fn asked() -> Self {
        let mut rig = Self::new(1 << 20);
        rig.ask();
        rig
    }

    fn ask(&mut self) {
        self.read.clear();
        now(self.strict.write_all(b"POST")).expect("room").expect("a write");
        let mut request = [0; 4];
        now(self.peer.as_mut().unwrap().read_exact(&mut request)).expect("a request").unwrap();
    }

    fn say(&mut self, bytes: impl AsRef<[u8]>) {
        now(self.peer.as_mut().unwrap().write_all(bytes.as_ref())).expect("room").unwrap();
    }

    fn hang_up(&mut self) {
        self.peer = None;
    }

    /// Reads what is there: pending, the end, or an error.
    fn listen(&mut self) -> Poll<io::Result<()>> {
        loop {
            let mut space = [0; 4096];
            let mut buf = ReadBuf::new(&mut space);
            let mut cx = Context::from_waker(Waker::noop());
            match std::pin::Pin::new(&mut self.strict).poll_read(&mut cx, &mut buf) {
                Poll::Ready(Ok(())) if buf.filled().is_empty() => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(())) => self.read.extend_from_slice(buf.filled()),
                other => return other,
            }
        }
    }

    fn listen_error(&mut self) -> String {
        match self.listen() {
            Poll::Ready(Err(error)) => error.to_string(),
            other => panic!("{other:?} after {:?}", String::from_utf8_lossy(&self.read)),
        }
    }

    /// awc's check of a kept connection.
    fn is_kept(&mut self) -> bool {
        let before = self.read.len();
        self.listen().is_pending() && self.read.len() == before
    }

    fn write(&mut self, bytes: &[u8]) -> Poll<io::Result<usize>> {
        std::pin::Pin::new(&mut self.strict).poll_write(&mut Context::from_waker(Waker::noop()), bytes)
    }

    fn flush(&mut self) -> Poll<io::Result<()>> {
        std::pin::Pin::new(&mut self.strict).poll_flush(&mut Context::from_waker(Waker::noop()))
    }
}

#[test]
fn interim_heads_are_taken_out_however_they_are_split() {
    let interim =
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";
    for answer in [ANSWER, CHUNKED] {
        let wire = format!("{interim}{answer}");
        for first in 0..=wire.len() {
            for second in [first, (first + 1).min(wire.len()), wire.len() - (wire.len() - first) / 2] {
                let mut rig = Rig::asked();
                for piece in [&wire[..first], &wire[first..second], &wire[second..]] {
                    rig.say(piece);
                    assert!(rig.listen().is_pending());
                }
                assert_eq!(rig.read, answer.as_bytes(), "split at {first} and {second}");
                assert!(rig.is_kept());
            }
        }
    }
}

#[test]
fn an_answer_comes_through_one_byte_at_a_time_with_a_blank_line_before_it() {
    let wire = format!("\r\nHTTP/1.1 103 Early Hints\r\n\r\n\r\n{CHUNKED}");
    let mut rig = Rig::asked();
    for byte in wire.as_bytes() {
        rig.say([*byte]);
        assert!(rig.listen().is_pending());
    }
    assert_eq!(rig.read, CHUNKED.as_bytes());
    assert!(rig.is_kept());
}

#[test]
fn an_end_anywhere_before_the_answers_end_is_an_error() {
    for answer in [ANSWER, CHUNKED] {
        for cut in 0..answer.len() {
            let mut rig = Rig::asked();
            rig.say(&answer[..cut]);
            rig.hang_up();
            let error = rig.listen_error();
            let head = answer.find("\r\n\r\n").unwrap() + 4;
            assert_eq!(
                error,
                if cut < head { "closed before the answer" } else { "closed within the body" },
                "at {cut}"
            );
        }
    }
}

#[test]
fn a_body_without_a_length_ends_with_the_stream() {
    for cut in 0..=TO_EOF.len() {
        let mut rig = Rig::asked();
        rig.say(&TO_EOF[..cut]);
        assert!(rig.listen().is_pending());
        rig.say(&TO_EOF[cut..]);
        assert!(rig.listen().is_pending());
        rig.hang_up();
        assert!(matches!(rig.listen(), Poll::Ready(Ok(()))));
        assert_eq!(rig.read, TO_EOF.replace("1.1", "1.0").as_bytes());
    }
}

#[test]
fn a_connection_carries_one_exchange_after_another() {
    let mut rig = Rig::asked();
    for _ in 0..3 {
        rig.say(CHUNKED);
        assert!(rig.listen().is_pending());
        assert_eq!(rig.read, CHUNKED.as_bytes());
        assert!(rig.is_kept());
        rig.ask();
    }
}

#[test]
fn bytes_nobody_asked_for_end_the_use_of_a_connection() {
    for answer in [ANSWER, CHUNKED, "HTTP/1.1 204 No Content\r\n\r\n"] {
        let wire = format!("{answer}{ANSWER}");
        for at in 0..=answer.len() {
            let mut rig = Rig::asked();
            rig.say(&wire[..at]);
            let _ = rig.listen();
            rig.say(&wire[at..]);
            let _ = rig.listen();
            assert!(!rig.is_kept(), "split at {at}");
            assert!(matches!(rig.write(b"POST"), Poll::Ready(Err(_))));
        }
    }
}

#[test]
fn a_closing_answer_ends_the_use_of_a_connection() {
    for head in
        ["HTTP/1.0 200 OK\r\ncontent-length: 2", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked"]
    {
        let mut rig = Rig::asked();
        let body = if head.contains("chunked") { "0\r\n\r\n" } else { "ok" };
        rig.say(format!("{head}\r\n\r\n{body}"));
        let _ = rig.listen();
        assert!(!rig.is_kept());
    }
}

#[test]
fn a_request_is_not_sent_into_an_answer_that_goes_on() {
    let mut rig = Rig::asked();
    rig.say(&ANSWER[..ANSWER.len() - 1]);
    assert!(rig.listen().is_pending());
    assert!(matches!(rig.write(b"POST"), Poll::Ready(Err(_))));
}

#[test]
fn garbage_and_heads_without_end_are_refused() {
    let mut rig = Rig::asked();
    rig.say("SSH-2.0-OpenSSH");
    assert_eq!(rig.listen_error(), "not an HTTP answer");
    let mut rig = Rig::asked();
    rig.say(format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(200_000)));
    assert!(rig.listen_error().contains("128 KiB"));
    let mut rig = Rig::asked();
    rig.say("HTTP/1.1 103 Early Hints\r\n\r\n".repeat(10_000));
    assert!(rig.listen_error().contains("128 KiB"));
    let mut rig = Rig::asked();
    rig.say("\r\n".repeat(100_000));
    assert!(rig.listen_error().contains("128 KiB"));
}

#[test]
fn a_refusal_that_comes_while_the_upload_stands_still_is_read_at_once() {
    let refusal = "HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno";
    for at in 0..refusal.len() {
        let mut rig = Rig::new(128);
        assert!(matches!(rig.write(&[b'x'; 164]), Poll::Ready(Ok(128))));
        assert!(rig.write(&[b'x'; 36]).is_pending());
        rig.say(format!("HTTP/1.1 100 Continue\r\n\r\n{}", &refusal[..at]));
        if at < refusal.len() - 2 {
            assert!(rig.write(&[b'x'; 36]).is_pending());
        }
        rig.say(&refusal[at..]);
        assert!(matches!(rig.write(&[b'x'; 36]), Poll::Ready(Ok(36))), "split at {at}");
        assert!(matches!(rig.flush(), Poll::Ready(Ok(()))));
        let _ = rig.listen();
        assert_eq!(rig.read, refusal.as_bytes());
        assert!(!rig.is_kept());
    }
}

#[test]
fn an_early_welcome_lets_the_upload_go_on() {
    let mut rig = Rig::new(64);
    assert!(matches!(rig.write(&[b'x'; 100]), Poll::Ready(Ok(64))));
    rig.say(&ANSWER[..ANSWER.len() - 1]);
    assert!(rig.write(&[b'x'; 36]).is_pending());
    let mut upload = [0; 64];
    now(rig.peer.as_mut().unwrap().read_exact(&mut upload)).unwrap().unwrap();
    assert!(matches!(rig.write(&[b'x'; 36]), Poll::Ready(Ok(36))));
    assert!(matches!(rig.flush(), Poll::Ready(Ok(()))));
    now(rig.peer.as_mut().unwrap().read_exact(&mut upload[..36])).unwrap().unwrap();
    rig.say(&ANSWER[ANSWER.len() - 1..]);
    let _ = rig.listen();
    assert_eq!(rig.read, ANSWER.as_bytes());
    assert!(!rig.is_kept());
}

#[test]
fn an_answer_that_is_complete_before_its_request_needs_no_more_of_it() {
    for answer in [ANSWER, CHUNKED] {
        for at in 0..=answer.len() {
            let mut rig = Rig::new(128);
            assert!(matches!(rig.write(&[b'x'; 200]), Poll::Ready(Ok(128))));
            rig.say(&answer[..at]);
            assert_eq!(rig.write(&[b'x'; 72]).is_pending(), at < answer.len(), "split at {at}");
            rig.say(&answer[at..]);
            assert!(matches!(rig.write(&[b'x'; 72]), Poll::Ready(Ok(72))));
            assert!(matches!(rig.flush(), Poll::Ready(Ok(()))));
            let _ = rig.listen();
            assert_eq!(rig.read, answer.as_bytes());
            assert!(!rig.is_kept());
        }
    }
}

#[test]
fn what_only_looks_like_chunks_fails_at_once() {
    for body in ["3\r\nabc\r\n0\r\n\n", "0\r\nx: y\n\r\n", "3\nabc\n", "3\r\nabcd\r\n"] {
        let answer = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{body}");
        for at in 0..=answer.len() {
            let mut rig = Rig::asked();
            rig.say(&answer[..at]);
            let first = rig.listen();
            rig.say(&answer[at..]);
            let error = if let Poll::Ready(Err(error)) = first { error.to_string() } else { rig.listen_error() };
            assert!(error.contains("chunks"), "{error}, split at {at} in {answer}");
        }
    }
}

#[test]
fn what_only_looks_like_chunks_fails_at_once_beside_an_upload_that_stands_still() {
    let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\nabc";
    for at in 0..=answer.len() {
        let mut rig = Rig::new(128);
        assert!(matches!(rig.write(&[b'x'; 200]), Poll::Ready(Ok(128))));
        rig.say(&answer[..at]);
        let _ = rig.write(&[b'x'; 72]);
        rig.say(&answer[at..]);
        assert!(matches!(rig.write(&[b'x'; 72]), Poll::Ready(Ok(72))), "split at {at}");
        assert!(rig.listen_error().contains("chunks"));
    }
}

#[test]
fn an_answer_before_a_failed_write_is_read() {
    for answer in [ANSWER, "HTTP/1.1 429 Slow down\r\ncontent-length: 0\r\n\r\n"] {
        let mut rig = Rig::asked();
        rig.say(answer);
        rig.hang_up();
        assert!(matches!(rig.write(b"more"), Poll::Ready(Ok(4))));
        let _ = rig.listen();
        assert_eq!(rig.read, answer.as_bytes());
    }
    let mut rig = Rig::asked();
    rig.hang_up();
    assert!(matches!(rig.write(b"more"), Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe));
}

#[test]
fn what_was_sent_is_known() {
    for (hung_up, sent) in [(false, Sent::Maybe), (true, Sent::No)] {
        let (ours, theirs) = tokio::io::duplex(64);
        let theirs = (!hung_up).then_some(theirs);
        let mut strict = Strict::new(ours, true);
        let exchange = Rc::new(Exchange::default());
        let write = std::future::poll_fn(|cx| std::pin::Pin::new(&mut strict).poll_write(cx, b"POST"));
        let written = now(scope(exchange.clone(), write)).expect("an end");
        assert_eq!((written.is_err(), exchange.sent()), (hung_up, sent));
        drop(theirs);
    }
}
