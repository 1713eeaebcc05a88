//! The load: kept connections that ask, read to the answer's end, and ask again.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// What is asked for. It travels in the name of the model, the one thing a gateway passes on as it is.
#[derive(Clone, Copy)]
pub(crate) enum Ask {
    /// One answer of 1 KB.
    Whole,
    /// A stream of so many chunks, 1 ms apart.
    Paced { chunks: usize },
    /// A stream of so many chunks as fast as they go, so many to a write.
    Burst { chunks: usize, per_write: usize },
}

/// The last bytes of every stream: `[DONE]` and the end of the chunked coding.
pub(crate) const END: &[u8] = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n";
/// A little less than an event is long.
const CHUNK_MIN_BYTES: usize = 200;

impl Ask {
    fn model(self) -> String {
        match self {
            Ask::Whole => "whole".to_owned(),
            Ask::Paced { chunks } => format!("paced-{chunks}"),
            Ask::Burst { chunks, per_write } => format!("burst-{chunks}-{per_write}"),
        }
    }

    /// Reads it from the body of a request.
    pub(crate) fn read(body: &[u8]) -> Self {
        let name = position(body, b"\"model\":\"").map(|at| &body[at + 9..]).expect("a model");
        let name = &name[..position(name, b"\"").expect("a whole name")];
        let mut words = std::str::from_utf8(name).expect("a name").split('-');
        let kind = words.next();
        let mut number = || words.next().and_then(|word| word.parse().ok()).expect("a number");
        match kind {
            Some("paced") => Ask::Paced { chunks: number() },
            Some("burst") => Ask::Burst { chunks: number(), per_write: number() },
            _ => Ask::Whole,
        }
    }

    /// Calls or chunks that one answer counts for.
    fn units(self) -> usize {
        match self {
            Ask::Whole => 1,
            Ask::Paced { chunks } | Ask::Burst { chunks, .. } => chunks,
        }
    }

    /// A request of 0.9 KB as a plain HTTP client sends it.
    fn request(self, to: SocketAddr) -> Vec<u8> {
        let prompt = "Say in one sentence what a gateway does that waits its turn. ".repeat(12);
        let stream = !matches!(self, Ask::Whole);
        let body = format!(
            r#"{{"model":"{}","messages":[{{"role":"system","content":"You are terse."}},{{"role":"user","content":"{prompt}"}}],"temperature":0.2,"max_tokens":256,"stream":{stream}}}"#,
            self.model()
        );
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: {to}\r\nuser-agent: bench/1\r\naccept: application/json\r\n\
             authorization: Bearer sk-caller-0000000001\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        [head.into_bytes(), body.into_bytes()].concat()
    }
}

/// Connections that ask one thing.
pub(crate) struct Load {
    ask: Ask,
    request: std::sync::Arc<[u8]>,
    connections: Vec<TcpStream>,
}

impl Load {
    pub(crate) async fn connect(to: SocketAddr, connections: usize, ask: Ask) -> Self {
        let mut open = Vec::new();
        for _ in 0..connections {
            let connection = TcpStream::connect(to).await.expect("a connection");
            connection.set_nodelay(true).expect("TCP_NODELAY");
            open.push(connection);
        }
        Self { ask, request: ask.request(to).into(), connections: open }
    }

    /// Asks on every connection until time is up and each has the answer it is at; how many calls or chunks came.
    pub(crate) async fn run(&mut self, lasting: Duration) -> usize {
        let until = Instant::now() + lasting;
        let mut tasks = JoinSet::new();
        for mut connection in self.connections.drain(..) {
            let (ask, request) = (self.ask, self.request.clone());
            tasks.spawn(async move {
                let (mut buffer, mut answers) = (Vec::with_capacity(64 << 10), 0);
                while Instant::now() < until {
                    connection.write_all(&request).await.expect("the request is taken");
                    match ask {
                        Ask::Whole => read_whole(&mut connection, &mut buffer).await,
                        Ask::Paced { chunks } | Ask::Burst { chunks, .. } => {
                            read_stream(&mut connection, &mut buffer, chunks).await;
                        }
                    }
                    answers += 1;
                }
                (connection, answers)
            });
        }
        let mut answers = 0;
        while let Some(done) = tasks.join_next().await {
            let (connection, more) = done.expect("answers that are what they must be");
            self.connections.push(connection);
            answers += more;
        }
        answers * self.ask.units()
    }
}

async fn read_more(connection: &mut TcpStream, buffer: &mut Vec<u8>) {
    let read = connection.read_buf(buffer).await.expect("the answer comes");
    assert!(read > 0, "the answer was cut: {}", String::from_utf8_lossy(buffer));
}

async fn read_whole(connection: &mut TcpStream, buffer: &mut Vec<u8>) {
    buffer.clear();
    let head = loop {
        read_more(connection, buffer).await;
        if let Some(head) = position(buffer, b"\r\n\r\n") {
            break head;
        }
    };
    assert!(buffer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(buffer));
    let at = position(&buffer[..head], b"content-length: ").expect("a length") + 16;
    let digits = buffer[at..].iter().take_while(|byte| byte.is_ascii_digit());
    let length = digits.fold(0, |length, digit| length * 10 + usize::from(digit - b'0'));
    while buffer.len() < head + 4 + length {
        read_more(connection, buffer).await;
    }
}

async fn read_stream(connection: &mut TcpStream, buffer: &mut Vec<u8>, chunks: usize) {
    const LAST: &[u8] = b"\r\n0\r\n\r\n";
    let mut dropped = 0;
    buffer.clear();
    loop {
        let tail = buffer.len().saturating_sub(LAST.len());
        dropped += tail;
        buffer.drain(..tail);
        read_more(connection, buffer).await;
        if dropped == 0 && tail == 0 {
            assert!(buffer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(buffer));
        }
        if buffer.ends_with(LAST) {
            assert!(dropped + buffer.len() > chunks * CHUNK_MIN_BYTES, "the stream was cut");
            return;
        }
    }
}

/// Where `part` begins in `whole`.
pub(crate) fn position(whole: &[u8], part: &[u8]) -> Option<usize> {
    whole.windows(part.len()).position(|window| window == part)
}
