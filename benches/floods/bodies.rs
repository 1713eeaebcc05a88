//! 1,000 callers that post 16 MiB each at once. The daemon's memory stays under `[queue] max_bytes` and 200 MiB more, every
//! caller is told something, and the memory comes back.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::Bounds;
use crate::helper::Helper;
use crate::upstream;

const CALLERS: usize = 1_000;
const BODY_BYTES: usize = 16 << 20;
const MAX_MIB: u64 = 512;
const MORE_MIB: u64 = 200;
/// What the daemon may keep of it when all is over, beyond what it had before.
const KEPT_MIB: u64 = 100;

pub(crate) async fn run(bounds: &mut Bounds) {
    println!("\n{CALLERS} callers post {} MiB each, [queue] max_bytes = {MAX_MIB} MiB\n", BODY_BYTES >> 20);
    for (label, is_chunked) in [("of a known length", false), ("in chunks", true)] {
        let upstream = upstream::start().await;
        let config = format!(
            r#"
            [queue]
            max_bytes = "{MAX_MIB}MiB"
            [upstreams.up]
            base_url = "http://{upstream}/v1"
            api_keys = ["sk-bench-0000000001"]
            models = ["*"]
            limits = {{ max_concurrent = 8 }}
            "#
        );
        let (daemon, _directory) = Helper::forebay(&config);
        let before = memory(&daemon, "VmRSS");
        let start = Instant::now();
        let request: Arc<[u8]> = request(is_chunked).into();
        let mut callers = JoinSet::new();
        for _ in 0..CALLERS {
            callers.spawn(post(daemon.addr, Arc::clone(&request)));
        }
        let mut told: BTreeMap<String, usize> = BTreeMap::new();
        while let Some(answer) = callers.join_next().await {
            *told.entry(answer.expect("a caller")).or_default() += 1;
        }
        println!("  {label}: over after {:.1?}", start.elapsed());
        for (what, callers) in &told {
            println!("         {callers:>5} were told: {what}");
        }
        let (peak, most) = (memory(&daemon, "VmHWM"), MAX_MIB + MORE_MIB);
        bounds.check(peak <= most, format_args!("peak {peak} MiB, at most {most}"));
        let silent =
            told.iter().filter(|(what, _)| !what.starts_with("HTTP/1.1 ")).map(|(_, callers)| callers).sum::<usize>();
        bounds.check(silent == 0, format_args!("{silent} callers without an answer"));
        let served = told.get("HTTP/1.1 200 OK").copied().unwrap_or_default();
        bounds.check(served > 0, format_args!("{served} calls served"));
        // Connections close, and what was held for them goes, a moment behind the last answer.
        tokio::time::sleep(Duration::from_secs(6)).await;
        let (after, most) = (memory(&daemon, "VmRSS"), before + KEPT_MIB);
        bounds.check(after <= most, format_args!("{after} MiB afterwards, {before} before; at most {most}"));
    }
}

fn request(is_chunked: bool) -> Vec<u8> {
    let start = r#"{"model":"small","messages":[""#;
    let body = format!("{start}{}\"]}}", "x".repeat(BODY_BYTES - start.len() - 3));
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n";
    if !is_chunked {
        return format!("{head}content-length: {BODY_BYTES}\r\n\r\n{body}").into_bytes();
    }
    let mut request = format!("{head}transfer-encoding: chunked\r\n\r\n").into_bytes();
    for chunk in body.as_bytes().chunks(64 << 10) {
        request.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        request.extend_from_slice(chunk);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"0\r\n\r\n");
    request
}

/// Posts, and says what it was told: the status line, and the code of an error.
async fn post(to: SocketAddr, request: Arc<[u8]>) -> String {
    let connection = match TcpStream::connect(to).await {
        Ok(connection) => connection,
        Err(error) => return format!("no connection: {}", error.kind()),
    };
    let (mut reading, mut writing) = connection.into_split();
    // A refusal comes before all has been taken, and then the rest need not be sent.
    let sending = tokio::spawn(async move { writing.write_all(&request).await.map(|()| writing) });
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    let ended = loop {
        match reading.read(&mut piece).await {
            Ok(0) => break "closed".to_owned(),
            Ok(read) => answer.extend_from_slice(&piece[..read]),
            Err(error) => break error.kind().to_string(),
        }
        let text = String::from_utf8_lossy(&answer);
        if text.contains("\r\n\r\n") && text.trim_end().ends_with('}') {
            break "answered".to_owned();
        }
    };
    sending.abort();
    let text = String::from_utf8_lossy(&answer);
    let code = text.split_once("\"code\":\"").and_then(|(_, rest)| rest.split('"').next()).unwrap_or_default();
    match text.lines().next() {
        Some(status) => format!("{status} {code}").trim_end().to_owned(),
        None => format!("nothing: {ended}"),
    }
}

/// A line of the daemon's `/proc/PID/status`, in MiB.
fn memory(daemon: &Helper, line: &str) -> u64 {
    let path = format!("/proc/{}/status", daemon.id());
    let status = std::fs::read_to_string(path).expect("a process that lives, on Linux");
    let line = status.lines().find(|have| have.starts_with(line)).expect("the line");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") >> 10
}
