//! 400 slow connections of each kind. Beside them the p99 of normal calls at most doubles, and all are cut in time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::Bounds;
use crate::helper::Helper;
use crate::upstream::{self, content_length, position};

const SLOW: usize = 400;
/// Normal callers, and how often each calls.
const NORMAL: usize = 4;
const EVERY: Duration = Duration::from_millis(4);
/// p99 is taken of so many windows of this length, and the median of those counts: other work on the machine shows in
/// single windows.
const WINDOWS: usize = 5;
const WINDOW: Duration = Duration::from_millis(800);

#[derive(Clone, Copy)]
enum Kind {
    /// A byte a second of a head: of the first on its connection, or of a later one.
    Head { later: bool },
    /// A byte a second of a body.
    Body,
    /// Asks for this model, and never reads.
    Reading { model: &'static str },
}

/// Each kind, and when the last must be cut: the limit of the daemon's and some leeway, for a body two windows.
const KINDS: [(&str, Kind, u64); 5] = [
    ("dribbling first head", Kind::Head { later: false }, 25),
    ("dribbling later head", Kind::Head { later: true }, 25),
    ("dribbling body", Kind::Body, 50),
    ("not reading a large answer", Kind::Reading { model: "large" }, 75),
    ("not reading a stream", Kind::Reading { model: "endless" }, 75),
];

pub(crate) async fn run(bounds: &mut Bounds) {
    println!("\n{SLOW} slow connections of each kind");
    let upstream = upstream::start().await;
    let config = format!(
        r#"
        [upstreams.up]
        base_url = "http://{upstream}/v1"
        api_keys = ["sk-bench-0000000001"]
        models = ["*"]
        "#
    );
    let (daemon, _directory) = Helper::forebay(&config);
    let mut normal = Vec::new();
    for _ in 0..NORMAL {
        normal.push(TcpStream::connect(daemon.addr).await.expect("a connection"));
    }
    p99(&mut normal).await;
    for (label, kind, within) in KINDS {
        let alone = p99(&mut normal).await;
        let mut slow = JoinSet::new();
        let all_there = Arc::new(Barrier::new(SLOW + 1));
        let start = Instant::now();
        for _ in 0..SLOW {
            slow.spawn(be_slow(daemon.addr, kind, start, Arc::clone(&all_there)));
        }
        all_there.wait().await;
        let beside = p99(&mut normal).await;
        let cut_meanwhile = slow.try_join_next().is_some();
        let mut cut: Vec<Duration> = Vec::new();
        while let Some(after) = slow.join_next().await {
            cut.push(after.expect("a slow caller"));
        }
        let (first, last) = (cut.iter().min().expect("400"), cut.iter().max().expect("400"));
        println!("\n  {label}");
        let ratio = beside.as_secs_f64() / alone.as_secs_f64();
        bounds.check(
            ratio <= 2.0 && !cut_meanwhile,
            format_args!("p99 of normal calls {beside:.2?} beside them, {alone:.2?} without: {ratio:.2}, at most 2"),
        );
        bounds.check(
            last.as_secs() <= within,
            format_args!("cut between {first:.1?} and {last:.1?} after the start, at most {within} s"),
        );
    }
}

/// The time in which 99 of 100 normal calls are answered.
async fn p99(connections: &mut [TcpStream]) -> Duration {
    let mut windows = Vec::new();
    for _ in 0..WINDOWS {
        let calls = connections.iter_mut().map(|connection| async move {
            let (mut times, until) = (Vec::new(), Instant::now() + WINDOW);
            let mut tick = tokio::time::interval(EVERY);
            while Instant::now() < until {
                tick.tick().await;
                let start = Instant::now();
                call(connection).await;
                times.push(start.elapsed());
            }
            times
        });
        let mut times = futures_util::future::join_all(calls).await.concat();
        times.sort();
        windows.push(times[times.len() * 99 / 100]);
    }
    windows.sort();
    windows[WINDOWS / 2]
}

async fn call(connection: &mut TcpStream) {
    connection.write_all(&request("small", "")).await.expect("the request is taken");
    let mut answer = Vec::with_capacity(4 << 10);
    loop {
        let read = connection.read_buf(&mut answer).await.expect("the answer comes");
        assert!(read > 0, "the answer was cut: {}", String::from_utf8_lossy(&answer));
        if let Some(head) =
            position(&answer, b"\r\n\r\n").filter(|head| answer.len() >= head + 4 + content_length(&answer[..*head]))
        {
            assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer[..head]));
            return;
        }
    }
}

/// A call of `model`.
fn request(model: &str, more: &str) -> Vec<u8> {
    let body = format!("{{\"model\":\"{model}\",\"messages\":[]{more}}}");
    let length = body.len();
    format!("POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n{body}")
        .into_bytes()
}

/// Is slow, from when all others are there, until it is cut; how long after `start` that was.
async fn be_slow(to: SocketAddr, kind: Kind, start: Instant, all_there: Arc<Barrier>) -> Duration {
    let socket = TcpSocket::new_v4().expect("a socket");
    // A caller that reads nothing needs no room.
    socket.set_recv_buffer_size(8 << 10).expect("a small buffer");
    let mut connection = socket.connect(to).await.expect("a connection");
    let begin = match kind {
        Kind::Head { later: false } => b"GET /healthz HTTP/1.1\r\nx-slow: ".to_vec(),
        Kind::Head { later: true } => {
            let whole = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";
            connection.write_all(whole).await.expect("the request is taken");
            while connection.read(&mut [0; 4096]).await.expect("an answer") == 4096 {}
            b"GET /healthz HTTP/1.1\r\nx-slow: ".to_vec()
        }
        Kind::Body => {
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100000\r\n\r\n".to_vec()
        }
        Kind::Reading { model: "endless" } => request("endless", ",\"stream\":true"),
        Kind::Reading { model } => request(model, ""),
    };
    connection.write_all(&begin).await.expect("the request is taken");
    if matches!(kind, Kind::Reading { .. }) {
        // Its answer has come, and all that it will ever take lies in its socket.
        connection.readable().await.expect("an answer");
        all_there.wait().await;
        // Bytes that wait to be read do not show, the reset does.
        connection.ready(Interest::ERROR).await.expect("a socket");
        return start.elapsed();
    }
    all_there.wait().await;
    let (mut reading, mut writing) = connection.split();
    let dribble = async {
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        loop {
            tick.tick().await;
            if writing.write_all(b"a").await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    let mut answer = Vec::new();
    tokio::select! {
        _ = reading.read_to_end(&mut answer) => start.elapsed(),
        () = dribble => unreachable!("it never ends"),
    }
}
