//! HTTP/1.1 on a bare socket, both ways: requests read within bounds, answers written to the byte, and ways to end a
//! connection that no HTTP server offers.

use std::io;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::limits::Headers;

/// The largest head that is read.
const MAX_HEAD: usize = 64 * 1024;
/// More headers than this are refused.
const MAX_HEADERS: usize = 128;
/// The largest body that is read: OpenAI's own is smaller.
const MAX_BODY: usize = 64 * 1024 * 1024;
/// How long and how much a peer may still send after the answer, before the connection is cut.
const LINGER: Duration = Duration::from_secs(1);

/// Why nothing more can be read.
#[derive(Debug)]
pub(super) enum Broken {
    /// The peer left, or the socket failed.
    Gone,
    /// What it sent is no HTTP/1.1.
    Malformed(&'static str),
    /// Head or body is over its bound.
    TooLarge,
}

impl From<io::Error> for Broken {
    fn from(_: io::Error) -> Self {
        Broken::Gone
    }
}

/// How a request's body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Length(usize),
    Chunked,
}

/// A request's head, as far as it matters here.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) method: String,
    /// Without its query.
    pub(super) path: String,
    /// What the caller sent as its key; empty when there is none.
    pub(super) key: Vec<u8>,
    /// Whether it has `anthropic-version`.
    pub(super) has_version: bool,
    pub(super) keep_alive: bool,
    framing: Framing,
    expects_continue: bool,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Wire {
    stream: TcpStream,
    /// Bytes read and not yet used.
    buffer: BytesMut,
}

impl Wire {
    pub(super) fn new(stream: TcpStream) -> io::Result<Self> {
        // A chunk of a stream must leave when it is written, not 40 ms later.
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: BytesMut::new() })
    }

    async fn more(&mut self) -> Result<(), Broken> {
        self.buffer.reserve(8 * 1024);
        if self.stream.read_buf(&mut self.buffer).await? == 0 { Err(Broken::Gone) } else { Ok(()) }
    }

    /// The next request's head. [`Broken::Gone`] is also how a connection ends well.
    pub(super) async fn head(&mut self) -> Result<Head, Broken> {
        loop {
            if let Some((head, length)) = parse(&self.buffer)? {
                self.buffer.advance(length);
                return Ok(head);
            }
            if self.buffer.len() > MAX_HEAD {
                return Err(Broken::TooLarge);
            }
            self.more().await?;
        }
    }

    /// The body that follows `head`.
    pub(super) async fn body(&mut self, head: &Head) -> Result<Bytes, Broken> {
        if matches!(head.framing, Framing::Length(length) if length > MAX_BODY) {
            return Err(Broken::TooLarge);
        }
        if head.expects_continue {
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        match head.framing {
            Framing::Length(length) => self.take(length).await,
            Framing::Chunked => self.chunks().await,
        }
    }

    async fn take(&mut self, length: usize) -> Result<Bytes, Broken> {
        while self.buffer.len() < length {
            self.more().await?;
        }
        Ok(self.buffer.split_to(length).freeze())
    }

    async fn chunks(&mut self) -> Result<Bytes, Broken> {
        let mut body = BytesMut::new();
        loop {
            let line = self.line().await?;
            let size = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
            let size = std::str::from_utf8(size).ok().filter(|size| size.bytes().all(|byte| byte.is_ascii_hexdigit()));
            let size = size
                .and_then(|size| usize::from_str_radix(size, 16).ok())
                .ok_or(Broken::Malformed("bad chunk size"))?;
            if size > MAX_BODY - body.len() {
                return Err(Broken::TooLarge);
            }
            if size == 0 {
                break;
            }
            body.extend_from_slice(&self.take(size).await?);
            if !self.line().await?.is_empty() {
                return Err(Broken::Malformed("a chunk longer than its size"));
            }
        }
        // Trailers, up to the empty line; as many as there may be headers.
        for _ in 0..MAX_HEADERS {
            if self.line().await?.is_empty() {
                return Ok(body.freeze());
            }
        }
        Err(Broken::TooLarge)
    }

    /// A line without its end.
    async fn line(&mut self) -> Result<Bytes, Broken> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let line = self.buffer.split_to(end).freeze();
                self.buffer.advance(2);
                return Ok(line);
            }
            if self.buffer.len() > MAX_HEAD {
                return Err(Broken::TooLarge);
            }
            self.more().await?;
        }
    }

    /// Writes all of `bytes`.
    pub(super) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Ends when the peer leaves. What it sends meanwhile is kept for the next request. Nothing is lost when dropped.
    pub(super) async fn gone(&mut self) {
        while self.buffer.len() <= MAX_HEAD {
            if self.more().await.is_err() {
                return;
            }
        }
        // A peer that sends this much before its answer is watched no longer.
        std::future::pending().await
    }

    /// Ends the connection with RST: whatever the peer had not read may be lost.
    pub(super) fn reset(self) {
        // Should it fail, the socket is closed by FIN or RST all the same.
        let _ = self.stream.set_zero_linger();
    }

    /// Ends the connection with FIN, and reads on a little, as closing over unread bytes would be an RST.
    pub(super) async fn finish(mut self) {
        if self.stream.shutdown().await.is_err() {
            return;
        }
        let drain = async {
            let mut left = MAX_BODY;
            let mut scrap = vec![0; 16 * 1024];
            while left > 0 {
                match self.stream.read(&mut scrap).await {
                    Ok(0) | Err(_) => return,
                    Ok(read) => left = left.saturating_sub(read),
                }
            }
        };
        let _ = tokio::time::timeout(LINGER, drain).await;
    }
}

/// The head at the beginning of `bytes` and its length; `None` when it is not all there yet.
fn parse(bytes: &[u8]) -> Result<Option<(Head, usize)>, Broken> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let length = match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Broken::TooLarge),
        Err(_) => return Err(Broken::Malformed("not an HTTP/1.1 request")),
    };
    let target = request.path.unwrap_or_default();
    let mut head = Head {
        method: request.method.unwrap_or_default().to_owned(),
        path: target.split(['?', '#']).next().unwrap_or_default().to_owned(),
        key: Vec::new(),
        has_version: false,
        keep_alive: request.version == Some(1),
        framing: Framing::Length(0),
        expects_continue: false,
    };
    let mut length_seen = None;
    for header in request.headers.iter() {
        let value = header.value.trim_ascii();
        let has =
            |token: &[u8]| value.split(|byte| *byte == b',').any(|part| part.trim_ascii().eq_ignore_ascii_case(token));
        match header.name.to_ascii_lowercase().as_str() {
            "content-length" => {
                let digits =
                    std::str::from_utf8(value).ok().filter(|value| value.bytes().all(|byte| byte.is_ascii_digit()));
                let number =
                    digits.and_then(|digits| digits.parse().ok()).ok_or(Broken::Malformed("bad content-length"))?;
                if length_seen.replace(number).is_some_and(|other| other != number) {
                    return Err(Broken::Malformed("two content-lengths"));
                }
            }
            "transfer-encoding" if has(b"chunked") => head.framing = Framing::Chunked,
            "transfer-encoding" => return Err(Broken::Malformed("unknown transfer-encoding")),
            "connection" if has(b"close") => head.keep_alive = false,
            "connection" if has(b"keep-alive") => head.keep_alive = true,
            "expect" => head.expects_continue = has(b"100-continue"),
            "anthropic-version" => head.has_version = !value.is_empty(),
            "authorization" | "x-api-key" | "api-key" | "x-goog-api-key" => head.key = value.to_vec(),
            _ => {}
        }
    }
    match (head.framing, length_seen) {
        (Framing::Chunked, Some(_)) => return Err(Broken::Malformed("content-length beside transfer-encoding")),
        (Framing::Length(_), Some(number)) => head.framing = Framing::Length(number),
        _ => {}
    }
    Ok(Some((head, length)))
}

/// How an answer's body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    Length(usize),
    Chunked,
    /// By the connection's end.
    Unframed,
}

/// What ends a chunked body.
pub(super) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Adds `piece` to `out` as one chunk; it must not be empty, as that would end the body.
pub(super) fn chunk(piece: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
    out.extend_from_slice(piece);
    out.extend_from_slice(b"\r\n");
}

/// An answer's head.
pub(super) fn head(status: u16, headers: &Headers, body: Body, keep_alive: bool) -> Vec<u8> {
    let reason =
        http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("Unknown");
    let mut text = format!("HTTP/1.1 {status} {reason}\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    match body {
        Body::Length(length) => text.push_str(&format!("content-length: {length}\r\n")),
        Body::Chunked => text.push_str("transfer-encoding: chunked\r\n"),
        Body::Unframed => {}
    }
    if !keep_alive || body == Body::Unframed {
        text.push_str("connection: close\r\n");
    }
    text.push_str("\r\n");
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Head {
        parse(text.as_bytes()).unwrap().unwrap().0
    }

    #[test]
    fn a_head_is_read_as_far_as_it_matters() {
        let head = read(
            "POST /v1/chat/completions?x=1 HTTP/1.1\r\nhost: a\r\nContent-Length: 3\r\nauthorization: Bearer k\r\n\r\nabc",
        );
        assert_eq!((head.method.as_str(), head.path.as_str(), head.keep_alive), ("POST", "/v1/chat/completions", true));
        assert_eq!((head.key.as_slice(), head.framing), (&b"Bearer k"[..], Framing::Length(3)));
        assert!(!read("GET / HTTP/1.1\r\nConnection: x, Close\r\n\r\n").keep_alive);
        assert!(!read("GET / HTTP/1.0\r\n\r\n").keep_alive);
    }

    #[test]
    fn a_head_in_pieces_is_waited_for() {
        let text = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert!((0..text.len()).all(|end| parse(&text[..end]).unwrap().is_none()));
        assert_eq!(parse(text).unwrap().unwrap().0.framing, Framing::Chunked);
    }

    #[test]
    fn an_ambiguous_length_is_refused() {
        for headers in [
            "content-length: 1\r\ncontent-length: 2",
            "content-length: +1",
            "content-length: 1\r\ntransfer-encoding: chunked",
            "transfer-encoding: gzip",
            "content-length: 99999999999999999999999",
        ] {
            let text = format!("POST / HTTP/1.1\r\n{headers}\r\n\r\n");
            assert!(matches!(parse(text.as_bytes()), Err(Broken::Malformed(_))), "{headers}");
        }
    }
}
