//! An upstream over real sockets that does nothing unless it is told, and tells what happens to it.
#![allow(dead_code, unreachable_pub)] // each test file uses its part

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// Longer than anything takes that is to happen.
const PATIENCE: Duration = Duration::from_secs(60);

enum Event {
    Asked(Exchange),
    /// The daemon has closed the connection of this number.
    Closed(usize),
}

/// One request that has come.
pub struct Exchange {
    /// The number of its connection.
    pub connection: usize,
    pub body: String,
    socket: TcpStream,
}

impl Exchange {
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.socket.write_all(bytes.as_ref()).expect("the daemon reads");
    }

    /// Answers with this status and body; the connection is kept.
    pub fn answer(&mut self, status: u16, body: &str) {
        let length = body.len();
        let head = format!("HTTP/1.1 {status} Said\r\ncontent-type: application/json\r\ncontent-length: {length}");
        self.send(format!("{head}\r\n\r\n{body}"));
    }

    /// Begins a stream with one event.
    pub fn begin_stream(&mut self) {
        let event = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hi\"}}]}\n\n";
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        self.send(format!("{head}{:x}\r\n{event}\r\n", event.len()));
    }

    /// Ends a stream as it should.
    pub fn end_stream(&mut self) {
        let event = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
        self.send(format!("{:x}\r\n{event}\r\n0\r\n\r\n", event.len()));
    }

    /// Closes the connection.
    pub fn close(&self) {
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

pub struct Upstream {
    pub addr: SocketAddr,
    events: Receiver<Event>,
    asked: VecDeque<Exchange>,
    closed: Vec<usize>,
}

impl Upstream {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let (tell, events) = channel();
        // Ends with the test's process.
        std::thread::spawn(move || {
            for (connection, socket) in listener.incoming().enumerate() {
                let (tell, socket) = (tell.clone(), socket.unwrap());
                std::thread::spawn(move || {
                    serve(connection, socket, &tell);
                    let _ = tell.send(Event::Closed(connection));
                });
            }
        });
        Self { addr, events, asked: VecDeque::new(), closed: Vec::new() }
    }

    fn next(&mut self) {
        match self.events.recv_timeout(PATIENCE).expect("something happens") {
            Event::Asked(exchange) => self.asked.push_back(exchange),
            Event::Closed(connection) => self.closed.push(connection),
        }
    }

    /// Waits for the next request.
    pub fn asked(&mut self) -> Exchange {
        while self.asked.is_empty() {
            self.next();
        }
        self.asked.pop_front().unwrap()
    }

    /// Waits until the daemon has closed this connection.
    pub fn wait_for_end_of(&mut self, connection: usize) {
        while !self.closed.contains(&connection) {
            self.next();
        }
    }

    /// Whether nothing more has been asked so far.
    pub fn is_left_alone(&mut self) -> bool {
        while let Ok(event) = self.events.try_recv() {
            if let Event::Asked(exchange) = event {
                self.asked.push_back(exchange);
            }
        }
        self.asked.is_empty()
    }
}

/// Reads request after request, until the connection's end.
fn serve(connection: usize, mut socket: TcpStream, tell: &Sender<Event>) {
    let mut buffer = Vec::new();
    let mut piece = [0; 16 * 1024];
    loop {
        if let Some((body, end)) = request(&buffer) {
            buffer.drain(..end);
            let socket = socket.try_clone().expect("a descriptor");
            let _ = tell.send(Event::Asked(Exchange { connection, body, socket }));
        }
        match socket.read(&mut piece) {
            Ok(read @ 1..) => buffer.extend_from_slice(&piece[..read]),
            _ => return,
        }
    }
}

/// The body of the request that `bytes` begin with, and where that ends; `None` when it is not all there.
fn request(bytes: &[u8]) -> Option<(String, usize)> {
    let head = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..head]).to_lowercase();
    let length =
        text.lines().find_map(|line| line.strip_prefix("content-length:")).map_or(0, |n| n.trim().parse().unwrap());
    let body = bytes.get(head..head + length)?;
    Some((String::from_utf8_lossy(body).into_owned(), head + length))
}
