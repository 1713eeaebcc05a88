//! What peers do to answers, and what callers must hear of it.

use super::fault::Then::{Close, Fin, GoOn, Hold, Reset};
use super::fault::{Fault, LATER, NEVER, row};
use super::own::{Own, chunk};
use super::stage::OWN;

pub(super) const CUT: &str = "502 the connection was cut before the answer was complete";
pub(super) const BROKEN: &str = "200 own events, then: the connection was cut before the answer was complete";
pub(super) const NOT_HTTP: &str = "502 the upstream's answer is not HTTP";
const BROKEN_HTTP: &str = "200 own events, then: the upstream's answer is not HTTP";
const NOT_JSON: &str = "502 the upstream's answer is not the JSON it must be";
const ENDED: &str = "502 the stream ended before it was complete";
const HALF: &str = "200 own events, then: the stream ended before it was complete";
const TOO_LARGE: &str = "502 the answer is larger than 67108864 bytes (max_answer)";
const REDIRECTED: &str =
    "502 upstream_redirected: up answered with a redirect, which is never followed; check base_url of [upstreams.up]";
const PACKED: &str = "502 the upstream's answer is compressed, though it was asked for a plain one";
const UNSAID: &str = "400 the upstream's: the upstream answered 400, and what it said about it was lost on the way";
const REFUSAL: &str = "HTTP/1.1 413 X\r\ncontent-length: 33\r\n\r\n{\"error\":{\"message\":\"too large\"}}";
const REFUSED: &str = "413 the upstream's: too large";
/// All of them.
pub(super) fn faults() -> Vec<Fault> {
    [interim(), cuts(), lengths(), chunks(), heads(), excess(), uploads()].into_iter().flatten().collect()
}

fn interim() -> Vec<Fault> {
    vec![
        row("100, the answer later", |own| format!("HTTP/1.1 100 X\r\n\r\n{LATER}{}", own.sized()), GoOn, OWN, OWN),
        row("102, the answer later", |own| format!("HTTP/1.1 102 X\r\n\r\n{LATER}{}", own.chunked()), GoOn, OWN, OWN),
        row(
            "103 with headers, the answer later",
            |own| format!("HTTP/1.1 103 X\r\nlink: <x>\r\ncontent-length: 9\r\n\r\n{LATER}{}", own.sized()),
            GoOn,
            OWN,
            OWN,
        ),
        row(
            "103, 102, 100, 199 and the answer in one write",
            |own| [103, 102, 100, 199].map(|n| format!("HTTP/1.1 {n} X\r\n\r\n")).concat() + &own.sized(),
            GoOn,
            OWN,
            OWN,
        ),
        row(
            "103 and the answer, a byte in each write",
            |own| format!("HTTP/1.1 103 X\r\nlink: <x>\r\n\r\n{}", own.chunked()),
            GoOn,
            OWN,
            OWN,
        )
        .bytewise(),
        row("103 behind the answer", |own| own.sized() + "HTTP/1.1 103 X\r\n\r\n", GoOn, OWN, OWN),
        row("103, then closed", |_| "HTTP/1.1 103 X\r\n\r\n".into(), Close, CUT, CUT),
        row("103, then reset", |_| "HTTP/1.1 103 X\r\n\r\n".into(), Reset, CUT, CUT),
        row(
            "103 with a body",
            |own| format!("HTTP/1.1 103 X\r\ncontent-length: 5\r\n\r\nhello{}", own.sized()),
            GoOn,
            NOT_HTTP,
            NOT_HTTP,
        ),
        row("10,000 times 103", |_| "HTTP/1.1 103 X\r\n\r\n".repeat(10_000), GoOn, NOT_HTTP, NOT_HTTP),
        row(
            "101 unasked",
            |_| "HTTP/1.1 101 X\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n".into(),
            GoOn,
            NOT_HTTP,
            NOT_HTTP,
        ),
    ]
}

fn cuts() -> Vec<Fault> {
    vec![
        row("with a length, cut by FIN", Own::half_sized, Fin, CUT, BROKEN),
        row("with a length, cut by a clean close", Own::half_sized, Close, CUT, BROKEN),
        row("with a length, cut by a reset", Own::half_sized, Reset, CUT, BROKEN),
        row("chunked, cut by FIN", Own::half_chunked, Fin, CUT, BROKEN),
        row("chunked, cut by a clean close", Own::half_chunked, Close, CUT, BROKEN),
        row("chunked, cut by a reset", Own::half_chunked, Reset, CUT, BROKEN),
        row("chunked, cut in a chunk", |own| format!("{}ff\r\n", own.half_chunked()), Close, CUT, BROKEN),
        // A stream says itself when it is complete.
        row("chunked, cut before the last chunk", |own| own.chunked().replace("0\r\n\r\n", ""), Close, CUT, OWN),
        row("chunked, cut in the last chunk", |own| own.chunked().replace("0\r\n\r\n", "0\r\n"), Close, CUT, OWN),
        row("to the end of the connection", |own| own.head("HTTP/1.1 200 OK", &[]) + &own.body(), Close, OWN, OWN),
        row("to the end, which is a bare FIN", |own| own.head("HTTP/1.1 200 OK", &[]) + &own.body(), Fin, OWN, OWN)
            .over_tls(CUT, OWN),
        row("to the end, half of it", |own| own.head("HTTP/1.1 200 OK", &[]) + &own.first, Close, NOT_JSON, HALF),
        row(
            "to the end, half and a bare FIN",
            |own| own.head("HTTP/1.1 200 OK", &[]) + &own.first,
            Fin,
            NOT_JSON,
            HALF,
        )
        .over_tls(CUT, BROKEN),
        row("to the end, half and a reset", |own| own.head("HTTP/1.1 200 OK", &[]) + &own.first, Reset, CUT, BROKEN),
        row("HTTP/1.0 to the end", |own| own.head("HTTP/1.0 200 OK", &[]) + &own.body(), Close, OWN, OWN),
        row("HTTP/1.0 with a length", |own| own.sized().replacen("1.1", "1.0", 1), GoOn, OWN, OWN),
        row(
            "HTTP/1.0 with a length, kept",
            |own| own.sized_by(&["connection: keep-alive"]).replacen("1.1", "1.0", 1),
            GoOn,
            OWN,
            OWN,
        ),
        row("closed before any byte", |_| String::new(), Close, CUT, CUT),
        row("FIN before any byte", |_| String::new(), Fin, CUT, CUT),
        row("reset before any byte", |_| String::new(), Reset, CUT, CUT),
        row("head cut by a clean close", |_| "HTTP/1.1 200 OK\r\ncontent-le".into(), Close, CUT, CUT),
        row("head cut by a reset", |_| "HTTP/1.1 200 OK\r\ncontent-le".into(), Reset, CUT, CUT),
        row(
            "garbage in mid-body, below TLS",
            |own| format!("{}{LATER}garbage", own.half_chunked()),
            Fin,
            NOT_HTTP,
            BROKEN_HTTP,
        )
        .over_tls(CUT, BROKEN)
        .below(),
        row("[DONE], then silence", |own| own.chunked().replace("0\r\n\r\n", ""), Hold, NEVER, OWN),
        row("opened, then cut", |own| own.opening(), Close, NEVER, CUT),
        row(
            "400, compressed",
            |own| own.sized_by(&["content-encoding: gzip"]).replace("200 OK", "400 X"),
            GoOn,
            UNSAID,
            UNSAID,
        ),
        row("400 whose body is cut", |own| own.half_sized().replace("200 OK", "400 X"), Close, UNSAID, UNSAID),
    ]
}

fn lengths() -> Vec<Fault> {
    fn with(own: &Own, lines: &[&str]) -> String {
        own.head("HTTP/1.1 200 OK", lines) + &own.body()
    }
    vec![
        row("two lengths", |own| own.sized_by(&["content-length: 3"]), GoOn, NOT_HTTP, NOT_HTTP),
        row(
            "the same length twice",
            |own| own.sized().replacen("content-type", "content-length: 9\r\ncontent-type", 1),
            GoOn,
            NOT_HTTP,
            NOT_HTTP,
        ),
        row("a negative length", |own| with(own, &["content-length: -1"]), GoOn, NOT_HTTP, NOT_HTTP),
        row("a length with a sign", |own| with(own, &["content-length: +5"]), GoOn, NOT_HTTP, NOT_HTTP),
        row("a length in two parts", |own| with(own, &["content-length: 5, 5"]), GoOn, NOT_HTTP, NOT_HTTP),
        row("no number for a length", |own| with(own, &["content-length: many"]), GoOn, NOT_HTTP, NOT_HTTP),
        row(
            "a length beyond 64 bits",
            |own| with(own, &["content-length: 18446744073709551616"]),
            GoOn,
            NOT_HTTP,
            NOT_HTTP,
        ),
        row(
            "a huge length, then closed",
            |own| with(own, &["content-length: 18446744073709551615"]),
            Close,
            TOO_LARGE,
            OWN,
        ),
        row("length 0", |own| own.head("HTTP/1.1 200 OK", &["content-length: 0"]), GoOn, NOT_JSON, ENDED),
        row("204", |_| "HTTP/1.1 204 X\r\n\r\n".into(), GoOn, NOT_JSON, ENDED),
        row(
            "204 with a length, no body",
            |_| "HTTP/1.1 204 X\r\ncontent-length: 5\r\n\r\n".into(),
            GoOn,
            NOT_JSON,
            ENDED,
        ),
        row("204 with a body", |_| "HTTP/1.1 204 X\r\ncontent-length: 5\r\n\r\nhello".into(), GoOn, NOT_JSON, ENDED),
        row(
            "204 chunked, no body",
            |_| "HTTP/1.1 204 X\r\ntransfer-encoding: chunked\r\n\r\n".into(),
            GoOn,
            NOT_JSON,
            ENDED,
        ),
        row(
            "304 with a length, no body",
            |_| "HTTP/1.1 304 X\r\ncontent-length: 5\r\n\r\n".into(),
            GoOn,
            REDIRECTED,
            REDIRECTED,
        ),
        row(
            "307",
            |_| "HTTP/1.1 307 X\r\nlocation: /v1/x\r\ncontent-length: 4\r\n\r\naway".into(),
            GoOn,
            REDIRECTED,
            REDIRECTED,
        ),
        row("compressed unasked", |own| own.sized_by(&["content-encoding: gzip"]), GoOn, PACKED, PACKED),
    ]
}

fn chunks() -> Vec<Fault> {
    fn with(own: &Own, lines: &[&str]) -> String {
        own.chunked().replacen("\r\n\r\n", &format!("\r\n{}\r\n\r\n", lines.join("\r\n")), 1)
    }
    fn last(own: &Own, last: &str) -> String {
        own.chunked().replace("0\r\n\r\n", last)
    }
    vec![
        row(
            "chunks and a right length",
            |own| with(own, &[&format!("content-length: {}", own.body().len())]),
            GoOn,
            OWN,
            OWN,
        ),
        row("chunks and a short length", |own| with(own, &["content-length: 3"]), GoOn, OWN, OWN),
        row("chunked twice", |own| with(own, &["transfer-encoding: chunked"]), GoOn, NOT_HTTP, NOT_HTTP),
        row("gzip, chunked", |own| own.chunked().replace("chunked", "gzip, chunked"), GoOn, NOT_HTTP, NOT_HTTP),
        row("HTTP/1.0 in chunks", |own| own.chunked().replacen("1.1", "1.0", 1), GoOn, NOT_HTTP, NOT_HTTP),
        row("extensions and trailers", |own| last(own, "0;x=\"y z\"\r\nx: y\r\nz: a\r\n\r\n"), GoOn, OWN, OWN),
        row(
            "sizes with zeroes and capitals",
            |own| format!("{}{:08X}\r\n{}\r\n000\r\n\r\n", own.half_chunked(), own.rest.len(), own.rest),
            GoOn,
            OWN,
            OWN,
        ),
        row(
            "chunks of one byte",
            |own| {
                own.head("HTTP/1.1 200 OK", &["transfer-encoding: chunked"])
                    + &own.body().chars().map(|c| chunk(&c.to_string())).collect::<String>()
                    + "0\r\n\r\n"
            },
            GoOn,
            OWN,
            OWN,
        ),
        row("no size for a chunk", |own| own.half_chunked() + "oops\r\n", GoOn, NOT_HTTP, BROKEN_HTTP),
        row("a negative size", |own| own.half_chunked() + "-1\r\n", GoOn, NOT_HTTP, BROKEN_HTTP),
        row(
            "a size beyond 64 bits",
            |own| own.half_chunked() + "10000000000000005\r\nhello\r\n",
            GoOn,
            NOT_HTTP,
            BROKEN_HTTP,
        ),
        row("a huge size, then closed", |own| own.half_chunked() + "fffffffffffffff0\r\n\n\n", Close, CUT, BROKEN),
        row("a chunk longer than its size", |own| own.half_chunked() + "1\r\n\n\n\r\n", GoOn, NOT_HTTP, BROKEN_HTTP),
        row("chunks with bare line feeds", |own| own.half_chunked() + "1\n\n\n0\n\n", GoOn, NOT_HTTP, BROKEN_HTTP),
        row("a last chunk with bare line feeds", |own| last(own, "0\r\n\n"), GoOn, NOT_HTTP, OWN),
        row("trailers with bare line feeds", |own| last(own, "0\r\nx: y\n\r\n"), GoOn, NOT_HTTP, OWN),
    ]
}

fn heads() -> Vec<Fault> {
    fn with(own: &Own, line: &str) -> String {
        own.sized_by(&[line])
    }
    vec![
        row(
            "bare line feeds in the head",
            |own| {
                let (head, body) = (own.sized_by(&[]), own.body());
                head[..head.len() - body.len()].replace("\r\n", "\n") + &body
            },
            GoOn,
            OWN,
            OWN,
        ),
        row("empty lines before the head", |own| format!("\r\n\n\r\n{}", own.sized()), GoOn, OWN, OWN),
        row("a status without a reason", |own| own.sized().replacen("200 OK", "200", 1), GoOn, OWN, OWN),
        row("connection: close", |own| with(own, "connection: close"), Close, OWN, OWN),
        row("connection: close, left open", |own| with(own, "connection: close"), Hold, OWN, OWN),
        row("an upgrade on offer", |own| with(own, "upgrade: websocket"), GoOn, OWN, OWN),
        row("connection: upgrade", |own| with(own, "connection: upgrade\r\nupgrade: websocket"), GoOn, OWN, OWN),
        row("90 headers", |own| with(own, &vec!["x: y"; 90].join("\r\n")), GoOn, OWN, OWN),
        row("200 headers", |own| with(own, &vec!["x: y"; 200].join("\r\n")), GoOn, NOT_HTTP, NOT_HTTP),
        row("a head of 100 kB", |own| with(own, &format!("x: {}", "y".repeat(100_000))), GoOn, OWN, OWN),
        row(
            "a head without end",
            |_| format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(200_000)),
            GoOn,
            NOT_HTTP,
            NOT_HTTP,
        ),
        row("a header in two lines", |own| with(own, "x: y\r\n z"), GoOn, NOT_HTTP, NOT_HTTP),
        row("a header with NUL", |own| with(own, "x: \0"), GoOn, NOT_HTTP, NOT_HTTP),
        row("a header without a colon", |own| with(own, "oops"), GoOn, NOT_HTTP, NOT_HTTP),
        row("a lone return in a header", |own| with(own, "x: y\rcontent-length: 3"), GoOn, NOT_HTTP, NOT_HTTP),
        row("status 000", |own| own.sized().replacen("200 OK", "000 X", 1), GoOn, NOT_HTTP, NOT_HTTP),
        row("status 2000", |own| own.sized().replacen("200 OK", "2000 X", 1), GoOn, NOT_HTTP, NOT_HTTP),
        row("another protocol", |_| "SSH-2.0-OpenSSH_9.9\r\n".into(), GoOn, NOT_HTTP, NOT_HTTP),
        row("HTTP/2 unasked", |_| "\0\0\x06\x04\0\0\0\0\0".into(), GoOn, NOT_HTTP, NOT_HTTP),
        row("HTML without a head", |_| "<html>Bad Gateway</html>".into(), Close, NOT_HTTP, NOT_HTTP),
        row("the answer without a head", Own::body, Close, NOT_HTTP, NOT_HTTP),
        row("one line end, then the answer", |own| format!("\n{LATER}{}", own.sized()), GoOn, OWN, OWN),
    ]
}

fn excess() -> Vec<Fault> {
    fn unasked() -> String {
        Own::new("unasked", false).sized()
    }
    vec![
        row("a second answer in the same write", |own| own.sized() + &unasked(), GoOn, OWN, OWN),
        row("a second answer behind chunks", |own| own.chunked() + &unasked(), GoOn, OWN, OWN),
        row("a second answer behind 204", |_| format!("HTTP/1.1 204 X\r\n\r\n{}", unasked()), GoOn, NOT_JSON, ENDED),
        row(
            "a second answer behind an empty one",
            |own| own.head("HTTP/1.1 200 OK", &["content-length: 0"]) + &unasked(),
            GoOn,
            NOT_JSON,
            ENDED,
        ),
        row("a second answer, closed", |own| own.sized_by(&["connection: close"]) + &unasked(), Close, OWN, OWN),
        row("one byte too many", |own| own.sized() + "x", GoOn, OWN, OWN),
        row("one line end too many", |own| own.chunked() + "\r\n", GoOn, OWN, OWN),
    ]
}

fn uploads() -> Vec<Fault> {
    vec![
        row("10 MB refused early, then closed", |_| REFUSAL.into(), Close, REFUSED, REFUSED).early(),
        row("10 MB refused early, then reset", |_| REFUSAL.into(), Reset, REFUSED, REFUSED).early(),
        row("10 MB refused early, held open", |_| REFUSAL.into(), Hold, REFUSED, REFUSED).early(),
        row("10 MB refused early behind 103", |_| format!("HTTP/1.1 103 X\r\n\r\n{REFUSAL}"), Hold, REFUSED, REFUSED)
            .early(),
        row("10 MB answered early, then closed", Own::sized, Close, OWN, OWN).early(),
        row("10 MB answered early, then reset", Own::sized, Reset, OWN, OWN).early(),
        row("10 MB answered early, held open", Own::sized, Hold, OWN, OWN).early(),
        row("10 MB cut early", |_| String::new(), Close, CUT, CUT).early(),
        row("10 MB reset early", |_| String::new(), Reset, CUT, CUT).early(),
    ]
}
