//! A client in raw HTTP, which sees what is on the wire.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use forebay::simulator::{Running, Settings, Simulator};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::chunk;

pub(crate) fn start(change: impl FnOnce(&mut Settings)) -> Running {
    let mut settings = Settings::default();
    settings.chunk_gap = Duration::ZERO;
    change(&mut settings);
    Simulator::bind("127.0.0.1:0".parse().unwrap(), settings).unwrap().start().unwrap()
}

/// How an answer's body came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Complete,
    /// By FIN, before its framing was fulfilled.
    Short,
    /// By FIN, which is its framing.
    Unframed,
    Reset,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) informational: bool,
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
    pub(crate) end: End,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or(Value::Null)
    }

    pub(crate) fn content(&self) -> String {
        if let Some(content) = self.json()["choices"][0]["message"]["content"].as_str() {
            return content.to_owned();
        }
        let chunks =
            self.body.lines().filter_map(|line| serde_json::from_str::<Value>(line.strip_prefix("data: ")?).ok());
        chunks.filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned)).collect()
    }
}

/// What came back instead of a head.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    Reset,
    Closed,
    Garbage,
}

pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    pub(crate) async fn new(address: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(address).await.unwrap(), buffer: Vec::new() }
    }

    /// True for bytes, false for the end.
    pub(crate) async fn more(&mut self) -> io::Result<bool> {
        let read = self.stream.read_buf(&mut self.buffer);
        Ok(tokio::time::timeout(Duration::from_secs(20), read).await.expect("an answer in time")? > 0)
    }

    pub(crate) async fn head(&mut self) -> Result<(u16, BTreeMap<String, String>), Lost> {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                let Ok(head) = String::from_utf8(self.buffer.drain(..end + 4).collect()) else {
                    return Err(Lost::Garbage);
                };
                let Some(status) = head.strip_prefix("HTTP/1.1 ") else { return Err(Lost::Garbage) };
                let headers = head.lines().skip(1).filter_map(|line| line.split_once(": "));
                return Ok((
                    status[..3].parse().unwrap(),
                    headers.map(|(name, value)| (name.into(), value.into())).collect(),
                ));
            }
            match self.more().await {
                Ok(true) => {}
                Ok(false) => return Err(Lost::Closed),
                Err(_) => return Err(Lost::Reset),
            }
        }
    }

    pub(crate) async fn answer(&mut self) -> Result<Answer, Lost> {
        let (mut status, mut headers) = self.head().await?;
        let informational = status < 200;
        if informational {
            (status, headers) = self.head().await?;
        }
        let length: Option<usize> = headers.get("content-length").map(|length| length.parse().unwrap());
        let chunked = headers.contains_key("transfer-encoding");
        let mut body = Vec::new();
        let end = loop {
            if chunked {
                match chunk::take(&mut self.buffer) {
                    Some(chunk) if chunk.is_empty() => break End::Complete,
                    Some(chunk) => {
                        body.extend(chunk);
                        continue;
                    }
                    None => {}
                }
            } else {
                let wanted = length.unwrap_or(usize::MAX) - body.len();
                body.extend(self.buffer.drain(..wanted.min(self.buffer.len())));
                if Some(body.len()) == length {
                    break End::Complete;
                }
            }
            match self.more().await {
                Ok(true) => {}
                Ok(false) if length.is_none() && !chunked => break End::Unframed,
                Ok(false) => break End::Short,
                Err(_) => break End::Reset,
            }
        };
        Ok(Answer { informational, status, headers, body: String::from_utf8(body).unwrap(), end })
    }

    pub(crate) async fn send(&mut self, path: &str, key: &str, body: &str) {
        let length = body.len();
        let text = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    pub(crate) async fn post(&mut self, path: &str, body: &Value) -> Result<Answer, Lost> {
        self.send(path, "k", &body.to_string()).await;
        self.answer().await
    }

    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        self.stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
        self.answer().await.unwrap()
    }
}

pub(crate) fn chat(prompt: &str, stream: bool) -> Value {
    json!({"model": "gpt-4o", "messages": [{"role": "user", "content": prompt}], "stream": stream})
}

/// One chat call on a connection of its own.
pub(crate) async fn ask(simulator: &Running, prompt: &str, stream: bool) -> Result<Answer, Lost> {
    Client::new(simulator.address()).await.post("/v1/chat/completions", &chat(prompt, stream)).await
}
