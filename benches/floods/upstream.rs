//! The upstream: reads a request, throws its body away, and answers as the model's name says: `small`, `large`, `endless`.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What a large answer holds.
pub(crate) const LARGE_BYTES: usize = 1 << 20;

/// Serves until the program ends.
pub(crate) async fn start() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("its address");
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            // Whoever closes has had enough.
            tokio::spawn(async move { drop(serve(socket).await) });
        }
    });
    addr
}

async fn serve(mut socket: TcpStream) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    let mut buffer = Vec::with_capacity(64 << 10);
    loop {
        let Some(head) = position(&buffer, b"\r\n\r\n") else {
            match socket.read_buf(&mut buffer).await? {
                0 => return Ok(()),
                _ => continue,
            }
        };
        let mut left = content_length(&buffer[..head]);
        let mut start = buffer.split_off(head + 4);
        // The name of the model stands at the start.
        while start.len() < left.min(64) {
            socket.read_buf(&mut start).await?;
        }
        left -= start.len();
        while left > 0 {
            buffer.clear();
            match socket.read_buf(&mut buffer).await? {
                0 => return Ok(()),
                read => left -= read,
            }
        }
        buffer.clear();
        if position(&start, b"\"endless\"").is_some() {
            return endless(&mut socket).await;
        }
        let length = if position(&start, b"\"large\"").is_some() { LARGE_BYTES } else { 500 };
        socket.write_all(whole(length).as_bytes()).await?;
    }
}

/// A chat's answer whose content has `length` bytes.
fn whole(length: usize) -> String {
    let content = "x".repeat(length);
    let body = format!(
        r#"{{"choices":[{{"index":0,"message":{{"role":"assistant","content":"{content}"}},"finish_reason":"stop"}}]}}"#
    );
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}")
}

async fn endless(socket: &mut TcpStream) -> std::io::Result<()> {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    socket.write_all(head.as_bytes()).await?;
    let content = "x".repeat(4_000);
    let event = format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{content}\"}}}}]}}\n\n");
    let chunk = format!("{:x}\r\n{event}\r\n", event.len());
    loop {
        socket.write_all(chunk.as_bytes()).await?;
    }
}

/// Where `part` begins in `whole`.
pub(crate) fn position(whole: &[u8], part: &[u8]) -> Option<usize> {
    whole.windows(part.len()).position(|window| window == part)
}

/// The length that a head announces; 0 where it names none.
pub(crate) fn content_length(head: &[u8]) -> usize {
    let head = String::from_utf8_lossy(head).to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    length.map_or(0, |length| length.trim().parse().expect("a length"))
}
