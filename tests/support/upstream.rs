//! An upstream on sockets of the test's own: each request is handed to the test, which answers when it likes. So a test
//! holds calls where it wants them and waits for events, never for time.
#![allow(dead_code, unreachable_pub)] // each test file uses its part

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A test that waits longer for a request has waited in vain.
const PATIENCE: Duration = Duration::from_secs(60);

/// Takes requests for as long as the test's process lives.
pub struct Upstream {
    pub addr: SocketAddr,
    asked: Mutex<Receiver<Asked>>,
    /// Connections that have ended, by number.
    ended: Mutex<Receiver<usize>>,
}

/// One request, to be answered.
pub struct Asked {
    /// The number of the connection it came on.
    pub connection: usize,
    /// The `authorization` header.
    pub key: String,
    /// All headers, names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: String,
    to: TcpStream,
}

impl Upstream {
    /// One whose requests the test takes one by one.
    pub fn held() -> Self {
        let (hand, asked) = mpsc::channel();
        let (end, ended) = mpsc::channel();
        let addr = serve(move |request| drop(hand.send(request)), move |connection| _ = end.send(connection));
        Self { addr, asked: Mutex::new(asked), ended: Mutex::new(ended) }
    }

    /// One that deals with each request by `answer`, on the connection's own thread.
    pub fn answering(answer: impl Fn(Asked) + Send + Sync + 'static) -> SocketAddr {
        serve(answer, |_| ())
    }

    /// The next request.
    pub fn next(&self) -> Asked {
        self.asked.lock().unwrap().recv_timeout(PATIENCE).expect("a request in time")
    }

    /// Waits until the daemon has ended this connection.
    pub fn until_ended(&self, connection: usize) {
        let ended = self.ended.lock().unwrap();
        while ended.recv_timeout(PATIENCE).expect("an end in time") != connection {}
    }

    /// Whether no request waits to be taken.
    pub fn is_quiet(&self) -> bool {
        self.asked.lock().unwrap().try_recv().is_err()
    }
}

fn serve(answer: impl Fn(Asked) + Send + Sync + 'static, ended: impl Fn(usize) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let script = Arc::new((answer, ended));
    std::thread::spawn(move || {
        for (connection, stream) in listener.incoming().flatten().enumerate() {
            let script = Arc::clone(&script);
            std::thread::spawn(move || {
                requests(connection, stream, &script.0);
                script.1(connection);
            });
        }
    });
    addr
}

/// Reads requests until the connection ends.
fn requests(connection: usize, stream: TcpStream, answer: &(dyn Fn(Asked) + Send + Sync)) {
    stream.set_nodelay(true).unwrap();
    let mut from = BufReader::new(stream.try_clone().unwrap());
    loop {
        let (mut key, mut length, mut headers) = (String::new(), 0, Vec::new());
        loop {
            let mut line = String::new();
            let Ok(1..) = from.read_line(&mut line) else { return };
            let Some((name, value)) = line.trim_end().split_once(':') else {
                if line == "\r\n" {
                    break;
                }
                continue;
            };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
            match name.to_ascii_lowercase().as_str() {
                "authorization" => key = value.trim().to_owned(),
                "content-length" => length = value.trim().parse().unwrap(),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        if from.read_exact(&mut body).is_err() {
            return;
        }
        let body = String::from_utf8(body).unwrap();
        answer(Asked { connection, key, headers, body, to: stream.try_clone().unwrap() });
    }
}

impl Asked {
    /// What the caller said.
    pub fn said(&self) -> String {
        let body: serde_json::Value = serde_json::from_str(&self.body).unwrap();
        body["messages"][0]["content"].as_str().unwrap_or_default().to_owned()
    }

    /// The values of a header, in order.
    pub fn header(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(have, _)| have == name).map(|(_, value)| value.as_str()).collect()
    }

    /// Answers with a chat completion that says `text`.
    pub fn says(self, text: &str) {
        self.answer(200, &good(text));
    }

    /// Answers with `status` and the JSON in `body`.
    pub fn answer(mut self, status: u16, body: &str) {
        let head =
            format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
        // A caller that has gone meanwhile is no error here.
        let _ = self.to.write_all(&[head.as_bytes(), body.as_bytes()].concat());
    }

    /// Begins a stream whose first words are `text`.
    pub fn streams(self, text: &str) -> Stream {
        let mut stream = self.stream();
        stream.word(text);
        stream
    }

    /// Begins a stream, with no event in it yet.
    pub fn stream(mut self) -> Stream {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        let _ = self.to.write_all(head.as_bytes());
        Stream(self)
    }
}

/// A good whole answer that says `text`.
pub fn good(text: &str) -> String {
    let message = serde_json::json!({"role": "assistant", "content": text});
    serde_json::json!({
        "id": "chatcmpl-1", "object": "chat.completion", "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    })
    .to_string()
}

/// A streamed answer under way.
pub struct Stream(Asked);

impl Stream {
    /// Sends an event of content.
    pub fn word(&mut self, text: &str) -> bool {
        let event = serde_json::json!({"choices": [{"index": 0, "delta": {"content": text}}]});
        self.chunk(&format!("data: {event}\n\n"))
    }

    /// Ends the stream properly.
    pub fn end(mut self) {
        let last = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
        self.chunk(last);
        let _ = self.0.to.write_all(b"0\r\n\r\n");
    }

    /// Breaks it off.
    pub fn cut(self) {
        let _ = self.0.to.shutdown(Shutdown::Both);
    }

    /// Sends events as they are.
    pub fn chunk(&mut self, text: &str) -> bool {
        self.0.to.write_all(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes()).is_ok()
    }
}
