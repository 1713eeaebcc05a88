//! The upstream: answers at once, with as little work as can be. What it answers is said by the model asked for.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::load::{Ask, END, position};
use crate::processes::announce;

/// Serves until whoever started it is gone.
pub(crate) fn run() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        announce(listener.local_addr().expect("its address"));
        let whole = whole();
        loop {
            let (socket, _) = listener.accept().await.expect("a connection");
            let whole = whole.clone();
            tokio::spawn(async move {
                // Whoever closes has had enough.
                drop(serve(socket, &whole).await);
            });
        }
    });
}

async fn serve(mut socket: TcpStream, whole: &[u8]) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    let mut request = Vec::with_capacity(16 << 10);
    loop {
        let Some(head) = position(&request, b"\r\n\r\n") else {
            match socket.read_buf(&mut request).await? {
                0 => return Ok(()),
                _ => continue,
            }
        };
        let length = content_length(&request[..head]).expect("a length");
        let end = head + 4 + length;
        while request.len() < end {
            if socket.read_buf(&mut request).await? == 0 {
                return Ok(());
            }
        }
        match Ask::read(&request[head + 4..end]) {
            Ask::Whole => socket.write_all(whole).await?,
            ask => stream(&mut socket, ask).await?,
        }
        request.drain(..end);
    }
}

fn content_length(head: &[u8]) -> Option<usize> {
    let head = std::str::from_utf8(head).ok()?;
    let value = |line: &str| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    };
    head.lines().find_map(value)
}

/// A chat's answer of 1 KB, head included in what is written.
fn whole() -> Vec<u8> {
    let content = "It waits its turn and then it goes. ".repeat(19);
    let body = format!(
        r#"{{"id":"chatcmpl-BenchBenchBenchBenchBench","object":"chat.completion","created":1760000000,"model":"gpt-4o-mini-2024-07-18","choices":[{{"index":0,"message":{{"role":"assistant","content":"{content}","refusal":null,"annotations":[]}},"logprobs":null,"finish_reason":"stop"}}],"usage":{{"prompt_tokens":180,"completion_tokens":160,"total_tokens":340}},"system_fingerprint":"fp_0000000000"}}"#
    );
    let head = "HTTP/1.1 200 OK\r\ndate: Thu, 09 Oct 2025 08:53:20 GMT\r\ncontent-type: application/json\r\n\
                x-request-id: req_0123456789abcdef0123456789abcdef\r\nopenai-processing-ms: 312\r\n";
    format!("{head}content-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

async fn stream(socket: &mut TcpStream, ask: Ask) -> std::io::Result<()> {
    let (chunks, per_write, pause) = match ask {
        Ask::Whole => unreachable!("not a stream"),
        Ask::Paced { chunks } => (chunks, 1, Some(Duration::from_millis(1))),
        Ask::Burst { chunks, per_write } => (chunks, per_write, None),
    };
    let head = "HTTP/1.1 200 OK\r\ndate: Thu, 09 Oct 2025 08:53:20 GMT\r\ntransfer-encoding: chunked\r\n\
                content-type: text/event-stream; charset=utf-8\r\nx-request-id: req_0123456789abcdef0123456789abcdef\r\n\r\n";
    socket.write_all(head.as_bytes()).await?;
    let write = chunk(" token", "null").repeat(per_write);
    let mut tick = pause.map(tokio::time::interval);
    for _ in 0..(chunks - 1) / per_write {
        if let Some(tick) = &mut tick {
            tick.tick().await;
        }
        socket.write_all(&write).await?;
    }
    let rest = (chunks - 1) % per_write;
    let last = [chunk(" token", "null").repeat(rest), chunk("", r#""stop""#), END.to_vec()].concat();
    socket.write_all(&last).await
}

/// One event in one chunk of the chunked coding.
fn chunk(content: &str, finish: &str) -> Vec<u8> {
    let event = format!(
        "data: {{\"id\":\"chatcmpl-BenchBenchBenchBenchBench\",\"object\":\"chat.completion.chunk\",\"created\":1760000000,\"model\":\"gpt-4o-mini-2024-07-18\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{content}\"}},\"logprobs\":null,\"finish_reason\":{finish}}}]}}\n\n"
    );
    format!("{:x}\r\n{event}\r\n", event.len()).into_bytes()
}
