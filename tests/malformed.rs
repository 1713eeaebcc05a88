//! Malformed and hostile requests, sent raw to the daemon as a process: each meets its row of the error table or HTTP's
//! own refusal, none hurts the daemon, none reaches the upstream, and no key or prompt is ever in the log.
#![cfg(all(feature = "gateway", unix))]

#[path = "support/daemon.rs"]
mod daemon;

use std::net::Shutdown;
use std::time::Duration;

use daemon::{Caller, Daemon, End, Reply, chat, post};
use forebay::simulator::{Running, Settings, Simulator, expected_echo};

const UPSTREAM_KEY: &str = "sk-upstream-canary-0123456789";
const TENANT_KEY: &str = "tenant-canary-abcdef0123456789";
/// What a caller sent by mistake may be the key of something else.
const STRANGE_KEY: &str = "sk-strange-canary-9876543210";
const PROMPT: &str = "prompt-canary-5555";

const CHAT: &str = "/v1/chat/completions";
const MAX_BODY: usize = 256 * 1024;

/// What must come back.
#[derive(Clone, Copy, Debug)]
enum Meets {
    /// A row of the error table.
    Row(u16, &'static str),
    /// The same, and the connection's end behind it.
    Shut(u16, &'static str),
    /// HTTP itself refuses: this status, no more said, and the connection's end.
    Http(u16),
    /// The connection's end without a word: there is nobody, or nothing, to answer.
    End,
    /// Odd, but good: served without a word to the upstream.
    Served(u16),
}
use Meets::{Http, Row, Served, Shut};

/// How the request is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Plain,
    /// Nothing follows: the caller has closed its half.
    ThenClose,
    /// The caller resets the connection and wants no answer.
    ThenReset,
    /// It is a HEAD request.
    Head,
}

struct Case {
    name: String,
    request: Vec<u8>,
    way: Way,
    meets: Meets,
}

/// The cases so far.
#[derive(Default)]
struct Table(Vec<Case>);

impl Table {
    fn raw(&mut self, name: &str, request: impl AsRef<[u8]>, meets: Meets) {
        self.0.push(Case { name: name.into(), request: request.as_ref().to_vec(), way: Way::Plain, meets });
    }

    fn sent(&mut self, name: &str, way: Way, request: impl AsRef<[u8]>, meets: Meets) {
        self.0.push(Case { name: name.into(), request: request.as_ref().to_vec(), way, meets });
    }

    /// A chat whose body is no call.
    fn body(&mut self, name: &str, body: impl AsRef<[u8]>) {
        self.raw(name, post(CHAT, "", body), Row(400, "invalid_request"));
    }

    /// A good chat with these header lines.
    fn headers(&mut self, lines: &str, meets: Meets) {
        self.raw(&format!("{lines:?}"), post(CHAT, lines, chat(PROMPT)), meets);
    }

    /// A good chat, sent elsewhere.
    fn path(&mut self, path: &str, meets: Meets) {
        self.raw(&format!("path {path:.60}"), post(path, "", chat(PROMPT)), meets);
    }

    /// A request line and head lines of one's own, behind them `rest`.
    fn head(&mut self, lines: &[&str], rest: &str, meets: Meets) {
        let name: String = lines.join(" | ").chars().take(100).collect();
        self.raw(&name, format!("{}\r\n\r\n{rest}", lines.join("\r\n")), meets);
    }
}

fn bodies(table: &mut Table) {
    table.body("no body", "");
    table.body("white space", " \r\n\t");
    table.body("a word", "hello");
    table.body("an array", "[]");
    table.body("a chat in an array", format!("[{}]", chat(PROMPT)));
    for scalar in ["\"text\"", "17", "true", "null", "-0.5e3"] {
        table.body(&format!("the scalar {scalar}"), scalar);
    }
    table.body("a broken object", "{\"model\":\"m\",\"messages\":[");
    table.body("words behind the object", format!("{} x", chat(PROMPT)));
    table.body("two objects", chat(PROMPT).repeat(2));
    table.body("single quotes", "{'model':'m','messages':[]}");
    table.body("a comma too many", "{\"model\":\"m\",\"messages\":[],}");
    table.body("not a number", "{\"model\":\"m\",\"messages\":[],\"temperature\":NaN}");
    table.body("a leading zero", "{\"model\":\"m\",\"messages\":[],\"n\":01}");
    table.body("a comment", "{\"model\":\"m\",/* */\"messages\":[]}");
    table.body("a bare control character", "{\"model\":\"m\",\"messages\":[\"a\nb\"]}");
    table.body("a NUL behind the object", format!("{}\0", chat(PROMPT)));
    let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    table.body("200 levels", format!("{{\"model\":\"m\",\"messages\":{}}}", deep(200)));
    table.body("100000 levels", format!("{{\"model\":\"m\",\"messages\":{}}}", deep(100_000)));
    table.body("100000 levels without end", format!("{{\"model\":\"m\",\"messages\":{}", "[".repeat(100_000)));
    table.body("100000 objects without end", "{\"a\":".repeat(50_000));
    table.body("200 levels of an unknown field", format!("{{\"model\":\"m\",\"messages\":[],\"x\":{}}}", deep(200)));
    table.body("invalid UTF-8", b"{\"model\":\"m\",\"messages\":[\"\xff\xfe\"]}");
    table.body("an overlong encoding", b"{\"model\":\"m\",\"messages\":[\"\xc0\xaf\"]}");
    table.body("a surrogate in UTF-8", b"{\"model\":\"m\",\"messages\":[\"\xed\xa0\x80\"]}");
    let utf16: Vec<u8> = chat(PROMPT).encode_utf16().flat_map(u16::to_le_bytes).collect();
    table.body("UTF-16", utf16);
    table.body("a byte order mark", format!("\u{feff}{}", chat(PROMPT)));
    table.body("a form", "model=m&messages=[]");
    table.body("two models", "{\"model\":\"m\",\"messages\":[],\"model\":\"m\"}");
    table.body("two models, one spelt with an escape", "{\"model\":\"m\",\"messages\":[],\"mod\\u0065l\":\"other\"}");
    table.body("two streams", "{\"model\":\"m\",\"messages\":[],\"stream\":false,\"stream\":true}");
    for limit in ["max_tokens", "max_completion_tokens", "max_output_tokens"] {
        let body = format!("{{\"model\":\"m\",\"messages\":[],\"{limit}\":1,\"{limit}\":2}}");
        table.body(&format!("two {limit}"), body);
    }
    for model in ["null", "7", "true", "[]", "[\"m\"]", "{}", "\"\"", "\"\\ud800\""] {
        table.body(&format!("model {model}"), format!("{{\"model\":{model},\"messages\":[]}}"));
    }
    for messages in ["null", "{}", "\"hi\"", "1", "false"] {
        table.body(&format!("messages {messages}"), format!("{{\"model\":\"m\",\"messages\":{messages}}}"));
    }
    for stream in ["1", "0", "\"true\"", "[]", "{}"] {
        let body = format!("{{\"model\":\"m\",\"messages\":[],\"stream\":{stream}}}");
        table.body(&format!("stream {stream}"), body);
    }
    table.body("no model", "{\"messages\":[]}");
    table.body("no messages", "{\"model\":\"m\"}");
    for path in ["/v1/completions", "/v1/embeddings"] {
        table.raw(&format!("no model at {path}"), post(path, "", "{\"input\":\"a\"}"), Row(400, "invalid_request"));
    }
    for path in ["/v1/responses", "/v1/moderations"] {
        let body = "{\"input\":\"a\",\"model\":null}";
        table.raw(&format!("model null at {path}"), post(path, "", body), Row(400, "invalid_request"));
    }
    for model in ["other", "nowhere/m", "../m", "M", "m ", "m\\u0000"] {
        let body = format!("{{\"model\":\"{model}\",\"messages\":[]}}");
        table.raw(&format!("unknown model {model:?}"), post(CHAT, "", body), Row(404, "model_not_found"));
    }
    let long = format!("{{\"model\":\"{}\",\"messages\":[]}}", "m".repeat(100_000));
    table.raw("a model of 100 kB", post(CHAT, "", long), Row(404, "model_not_found"));
}

fn headers(table: &mut Table) {
    let invalid = Row(400, "invalid_request");
    for value in ["soon", "", "0s", "-1s", "30", "1.2.3s", "366d", "1e3s", "30s, 40s", "\u{663}s"] {
        table.headers(&format!("x-forebay-timeout: {value}\r\n"), invalid);
    }
    for value in ["urgent", "", "1", "high, low"] {
        table.headers(&format!("x-forebay-priority: {value}\r\n"), invalid);
    }
    for coding in ["gzip", "br", "deflate", "identity, gzip", "nonsense"] {
        table.headers(&format!("content-encoding: {coding}\r\n"), invalid);
    }
    for origin in ["https://evil.example", "null", "", "http://localhost.evil.example", "file://", "http://localhost:1"]
    {
        table.headers(&format!("origin: {origin}\r\n"), Row(403, "forbidden"));
    }
    table.headers("origin: http://localhost\r\norigin: https://evil.example\r\n", Row(403, "forbidden"));
    let rebound = ["GET /v1/models HTTP/1.1", "host: evil.example", "origin: http://evil.example"];
    table.head(&rebound, "", Row(403, "forbidden"));
    let preflight = ["OPTIONS /v1/chat/completions HTTP/1.1", "host: localhost", "origin: https://evil.example"];
    table.head(&[&preflight[..], &["access-control-request-method: POST"]].concat(), "", Row(403, "forbidden"));
    table.headers("upgrade: websocket\r\nconnection: upgrade\r\n", invalid);
    let websocket = ["GET /v1/models HTTP/1.1", "host: localhost", "connection: Upgrade", "upgrade: WebSocket"];
    table.head(&websocket, "", invalid);
    table.raw("a header of 1 MB", post(CHAT, &format!("x-a: {}\r\n", "a".repeat(1 << 20)), chat(PROMPT)), Http(431));
    let many: String = (0..200).map(|n| format!("x-{n}: 1\r\n")).collect();
    table.raw("200 headers", post(CHAT, &many, chat(PROMPT)), Http(431));
    for host in ["a/healthz?x=", "a#", "a b", "user@localhost", "[::1", "localhost:port", "a\\b", "\u{e4}"] {
        table.head(&["GET /v1/models HTTP/1.1", &format!("host: {host}")], "", invalid);
    }
    table.head(&["GET /v1/models HTTP/1.1"], "", Http(400));
    table.head(&["GET /v1/models HTTP/1.1", "host: a", "host: b"], "", Http(400));
    for line in ["nonsense", "a b: c", "x-a : b", ": b", "x-a: b\0", "x-a: b\rc", "x-a: b\r\n c"] {
        table.head(&["GET /v1/models HTTP/1.1", "host: a", line], "", Http(400));
    }
}

fn paths(table: &mut Table) {
    let unknown = Row(404, "unknown_url");
    for path in [
        "/",
        "/v1",
        "/v1/",
        "/v2/chat/completions",
        "/chat/completions",
        "//v1/chat/completions",
        "/v1//chat/completions",
        "/v1/chat/completions/",
        "/v1/chat/completions;x",
        "/v1/chat/completions%00",
        "/v1/chat%2fcompletions",
        "/v1/chat%2Fcompletions",
        "/v1/./chat/completions",
        "/v1/%2e/chat/completions",
        "/v1/%2e%2e/v1/chat/completions",
        "/v1/../v1/chat/completions",
        "/healthz/../v1/chat/completions",
        "/v1/chat/completions%20",
        "/V1/CHAT/COMPLETIONS",
        "/v1/audio/speech",
        "/v1/complete",
        "/simulator/ledger",
        "/.env",
        "/%",
        "/%zz",
        "/%ff%fe",
        "*",
    ] {
        table.path(path, unknown);
    }
    let long = format!("/v1/{}", "a".repeat(20_000));
    table.path(&long, unknown);
    table.path(&format!("/v1/{}", "a".repeat(1 << 20)), Http(431));
    table.path("/v1/chat/ completions", Http(400));
    table.path("", Http(400));
    table.head(&["GET /v1/models/none HTTP/1.1", "host: a"], "", Row(404, "model_not_found"));
    table.head(&["GET /v1/models/..%2f..%2fhealthz HTTP/1.1", "host: a"], "", Row(404, "model_not_found"));
}

fn methods(table: &mut Table) {
    let wrong = Row(405, "method_not_allowed");
    for method in ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "ANNOUNCE", "post", "QUERY"] {
        table.head(&[&format!("{method} /v1/chat/completions HTTP/1.1"), "host: a"], "", wrong);
    }
    for path in ["/v1/models", "/v1/models/m", "/healthz", "/readyz"] {
        table.path(path, wrong);
    }
    for path in [CHAT, "/v1/embeddings"] {
        table.sent(
            &format!("HEAD {path}"),
            Way::Head,
            format!("HEAD {path} HTTP/1.1\r\nhost: a\r\n\r\n"),
            Row(405, "method_not_allowed"),
        );
    }
    table.head(&["CONNECT api.openai.com:443 HTTP/1.1", "host: api.openai.com:443"], "", wrong);
    table.head(&["CONNECT /v1/models HTTP/1.1", "host: a"], "", wrong);
    table.head(&["GET http://evil.example/v1/nothing HTTP/1.1", "host: a"], "", Row(404, "unknown_url"));
    table.head(&["G\u{cb}T /v1/models HTTP/1.1", "host: a"], "", Http(400));
    table.head(&["PRI * HTTP/2.0"], "SM\r\n\r\n", Http(400));
    table.head(&["GET /v1/models HTTP/3.0", "host: a"], "", Http(400));
    table.head(&["GET /v1/models"], "", Http(400));
    table.head(&["GET /v1/models HTTP/1.1 more", "host: a"], "", Http(400));
}

/// Where one message ends and the next begins.
fn framing(table: &mut Table) {
    let body = chat(PROMPT);
    let length = body.len();
    let chunked = format!("{length:x}\r\n{body}\r\n0\r\n\r\n");
    let framed = |lines: &str, rest: &str| format!("POST {CHAT} HTTP/1.1\r\nhost: a\r\n{lines}\r\n\r\n{rest}");
    let length_line = format!("content-length: {length}");
    for lines in [
        &format!("{length_line}\r\ntransfer-encoding: chunked"),
        &format!("transfer-encoding: chunked\r\n{length_line}"),
        "transfer-encoding: chunked, identity",
        "transfer-encoding: xchunked",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
        "transfer-encoding: \u{b}chunked",
        "transfer-encoding: gzip, chunked",
    ] {
        table.raw(&format!("chunks framed by {lines:?}"), framed(lines, &chunked), Http(400));
    }
    let http10 = framed("transfer-encoding: chunked", &chunked).replace("HTTP/1.1", "HTTP/1.0");
    table.raw("chunks in HTTP/1.0", http10, Http(400));
    for lines in [
        &format!("{length_line}\r\n{length_line}"),
        &format!("{length_line}\r\ncontent-length: 1"),
        &format!("{length_line}, {length}"),
        &format!("content-length: +{length}"),
        &format!("content-length: 0x{length:x}"),
        "content-length: -1",
        "content-length: ",
        "content-length: 1.5",
        "content-length: 99999999999999999999999",
        &format!("content-length : {length}"),
    ] {
        table.raw(&format!("framed by {lines:?}"), framed(lines, &body), Http(400));
    }
    let invalid = Row(400, "invalid_request");
    for (name, rest) in [
        ("a chunk size that is none", "zz\r\n".to_owned()),
        ("a chunk size below zero", "-1\r\n".to_owned()),
        ("a chunk size of 80 bits", format!("{}\r\n", "f".repeat(20))),
        ("a chunk size in hexadecimal notation", format!("0x{length:x}\r\n{body}\r\n0\r\n\r\n")),
        ("a chunk longer than its size", format!("5\r\n{body}\r\n0\r\n\r\n")),
        ("an empty chunk size", format!("\r\n{body}\r\n0\r\n\r\n")),
    ] {
        table.raw(name, framed("transfer-encoding: chunked", &rest), invalid);
    }
    // A call hidden in the body of a refused one must not be taken for the next.
    let hidden = String::from_utf8(post(CHAT, "", chat(PROMPT))).unwrap();
    let too_large = Row(413, "body_too_large");
    table.raw("a call in a body too large", framed(&format!("content-length: {}", MAX_BODY + 1), &hidden), too_large);
    table.raw("a body announced as 99 GB", framed("content-length: 99000000000", ""), too_large);
    table.raw("99 GB and a question", framed("content-length: 99000000000\r\nexpect: 100-continue", ""), too_large);
    let chunk = format!("8000\r\n{}\r\n", "a".repeat(0x8000));
    table.raw("a chunked body too large", framed("transfer-encoding: chunked", &chunk.repeat(9)), too_large);
    table.raw("a body one byte too large", post(CHAT, "", vec![b' '; MAX_BODY + 1]), too_large);
    table.raw("a body as large as allowed", post(CHAT, "", vec![b' '; MAX_BODY]), invalid);
    table.raw("a call in the body of a call to nowhere", post("/nowhere", "", &hidden), Row(404, "unknown_url"));
    table.raw("a call in a body that is no call", post(CHAT, "", &hidden), invalid);
    table.raw(
        "a call in the body of a GET",
        format!("GET /v1/models HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{hidden}", hidden.len()),
        Served(200),
    );
    // What looks like a call behind broken framing is none, and neither is what a laxer reader would find in the head.
    let shut = Shut(400, "invalid_request");
    for (name, chunk) in [
        ("a chunk size with a sign", format!("+{length:x}\r\n{body}\r\n")),
        ("a chunk size behind a space", format!(" {length:x}\r\n{body}\r\n")),
        ("a chunk size with an underscore", format!("{length:x}_0\r\n{body}\r\n")),
        ("a chunk size in two words", format!("{length:x} 0\r\n{body}\r\n")),
        ("a chunk size that ends with a bare LF", format!("{length:x}\n{body}\r\n")),
        ("a chunk size that ends with a bare CR", format!("{length:x}\r{body}\r\n")),
        ("a chunk extension with a bare LF", format!("{length:x};a=\n{body}\r\n")),
        ("a chunk that ends with a bare LF", format!("{length:x}\r\n{body}\n")),
        ("a chunk that ends without a line's end", format!("{length:x}\r\n{body}")),
        ("a chunk size with a NUL", format!("{length:x}\0\r\n{body}\r\n")),
        ("a chunk size that wraps round 64 bits", format!("1{length:016x}\r\n{body}\r\n")),
    ] {
        let rest = format!("{chunk}0\r\n\r\n{hidden}");
        table.raw(name, framed("transfer-encoding: chunked", &rest), shut);
    }
    for lines in [
        "transfer-encoding: chunked;q=1",
        "transfer-encoding: \"chunked\"",
        "transfer-encoding: chunked,",
        "transfer-encoding: , chunked",
        "transfer-encoding: chunked\u{a0}",
        "transfer-encoding: identity",
        "transfer-encoding:",
        "transfer-encoding : chunked",
        " transfer-encoding: chunked",
        "x-a: b\r\n\ttransfer-encoding: chunked",
        "x-a: b\rtransfer-encoding: chunked",
        &format!("transfer-encoding: identity\r\n{length_line}"),
        &format!("transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n{length_line}"),
    ] {
        table.raw(
            &format!("chunks and a call framed by {lines:?}"),
            framed(lines, &format!("{chunked}{hidden}")),
            Http(400),
        );
    }
    for lines in [
        format!("content-length: {length}\r\ncontent-length: 0{length}"),
        format!("content-length: {length},"),
        format!("content-length: {length};"),
        format!("content-length: {length} 0"),
        format!("content-length: {length}e0"),
        format!("content-length: \u{ff11}{length}"),
        format!("content-length: -{length}"),
        format!("content-length:\r\n {length}"),
    ] {
        table.raw(
            &format!("a call behind a body framed by {lines:?}"),
            framed(&lines, &format!("{body}{hidden}")),
            Http(400),
        );
    }
    let old = |lines: &str| framed(lines, &format!("{chunked}{hidden}")).replacen("HTTP/1.1", "HTTP/1.0", 1);
    table.raw("chunks and a call in HTTP/1.0", old("transfer-encoding: chunked\r\nconnection: keep-alive"), Http(400));
    table.raw(
        "chunks, a length and a call in HTTP/1.0",
        old(&format!("{length_line}\r\ntransfer-encoding: chunked")),
        Http(400),
    );
    // A bare LF ends a line, as RFC 9112 allows: the head is read as one, and what follows it is its body.
    let bare = format!("POST /nowhere HTTP/1.1\nhost: a\ncontent-length: {}\n\n{hidden}", hidden.len());
    table.raw("a head of bare LFs with a call in its body", bare, Row(404, "unknown_url"));
    table.head(&["GET /healthz HTTP/1.1\nhost: a"], "", Served(200));
    table.raw("lengths on lines of bare LF", framed(&format!("{length_line}\ncontent-length: 1"), &body), Http(400));
    let close = Way::ThenClose;
    table.sent("half a request line", close, "POST /v1/ch", Meets::End);
    table.sent("half a head", close, format!("POST {CHAT} HTTP/1.1\r\nhost: a\r\ncontent-le"), Meets::End);
    table.sent("half a body", close, framed(&format!("content-length: {}", length + 1), &body), invalid);
    table.sent("half a chunk", close, framed("transfer-encoding: chunked", &format!("fff\r\n{body}")), invalid);
    table.sent(
        "chunks without the last",
        close,
        framed("transfer-encoding: chunked", &format!("{length:x}\r\n{body}\r\n")),
        invalid,
    );
    let reset = Way::ThenReset;
    table.sent("half a body and a reset", reset, framed(&format!("content-length: {}", length + 1), &body), Meets::End);
    table.sent("half a head and a reset", reset, format!("POST {CHAT} HTTP/1.1\r\nhost: a\r\n"), Meets::End);
    table.sent("nothing at all", close, "", Meets::End);
    table.sent("nothing but line ends", close, "\r\n\r\n\r\n", Meets::End);
    table.raw("a TLS greeting", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", Http(400));
    table.raw("an SSH greeting", "SSH-2.0-OpenSSH_9.9\r\n\r\n", Http(400));
    table.raw("an answer", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Http(400));
    table.raw("a PROXY line", "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\nGET /healthz HTTP/1.1\r\nhost: a\r\n\r\n", Http(400));
}

fn keys(table: &mut Table) {
    let wrong = Row(401, "invalid_api_key");
    table.headers("", wrong);
    let long = format!("authorization: Bearer {}\r\n", "a".repeat(50_000));
    for line in [
        &format!("authorization: Bearer {STRANGE_KEY}\r\n"),
        &format!("x-api-key: {STRANGE_KEY}\r\n"),
        &format!("api-key: {TENANT_KEY}\r\n"),
        &format!("x-goog-api-key: {TENANT_KEY}\r\n"),
        &format!("cookie: authorization={TENANT_KEY}\r\n"),
        &format!("authorization: {TENANT_KEY}\r\n"),
        &format!("authorization: Bearer{TENANT_KEY}\r\n"),
        &format!("authorization: Basic {TENANT_KEY}\r\n"),
        &format!("authorization: Bearer {TENANT_KEY}x\r\n"),
        &format!("authorization: Bearer {}\r\n", &TENANT_KEY[1..]),
        &format!("authorization: Bearer {}\r\n", TENANT_KEY.to_uppercase()),
        &format!("authorization: Bearer {TENANT_KEY}, Bearer {TENANT_KEY}\r\n"),
        &format!("authorization: Bearer {UPSTREAM_KEY}\r\n"),
        &format!("authorization: Bearer {STRANGE_KEY}\r\nx-api-key: {STRANGE_KEY}\r\n"),
        "authorization: Bearer\r\n",
        "authorization: Bearer ' OR '1'='1\r\n",
        "authorization: Bearer \u{e4}\u{f6}\r\n",
        "x-api-key: \r\n",
        &long,
    ] {
        table.headers(line, wrong);
    }
    table.path(&format!("{CHAT}?api_key={TENANT_KEY}&key={TENANT_KEY}"), wrong);
    for path in ["/nowhere", "/", "//healthz", "/healthz/", "/%68ealthz", "/healthz;x", "/v1/models"] {
        table.path(path, wrong);
    }
    table.head(&["GET /v1/models HTTP/1.1", "host: a"], "", wrong);
    table.head(&["GET http://a/healthz/../v1/models HTTP/1.1", "host: a"], "", wrong);
    table.raw("no key and no JSON", post(CHAT, "", "{"), wrong);
    table.raw("no key and too much", post(CHAT, "", vec![b' '; MAX_BODY + 1]), wrong);
    for line in [format!("authorization: Bearer {TENANT_KEY}\r\n"), format!("x-api-key: {TENANT_KEY}\r\n")] {
        table.raw("a good key and no JSON", post(CHAT, &line, "{"), Row(400, "invalid_request"));
        table.raw("a good key and no such path", post("/nowhere", &line, "{}"), Row(404, "unknown_url"));
        let unknown = "{\"model\":\"other\",\"messages\":[]}";
        table.raw("a good key and no such model", post(CHAT, &line, unknown), Row(404, "model_not_found"));
        table.raw(
            "a good key and a bad header",
            post(CHAT, &format!("{line}x-forebay-timeout: x\r\n"), chat(PROMPT)),
            Row(400, "invalid_request"),
        );
    }
}

/// What is wrong with `reply`, if anything.
fn judge(case: &Case, reply: &Reply, caller: &mut Caller) -> Result<(), String> {
    let fail = |what: &str| Err(what.to_owned());
    match case.meets {
        Row(status, code) | Shut(status, code) => {
            if reply.status != status {
                return fail("another status");
            }
            if reply.end != End::Complete {
                return fail("the answer is cut off");
            }
            if case.way != Way::Head {
                let body = reply.json();
                let error = &body["error"];
                if !reply.header("content-type").is_some_and(|kind| kind.starts_with("application/json")) {
                    return fail("it is not announced as JSON");
                }
                if error["code"] != code {
                    return fail("another code");
                }
                if error["message"].as_str().is_none_or(str::is_empty) || !error["type"].is_string() {
                    return fail("no message or no type");
                }
                if !(error["param"].is_string() || error["param"].is_null()) {
                    return fail("`param` is neither a string nor null");
                }
                if body.as_object().map(|body| body.len()) != Some(1)
                    || error.as_object().map(|error| error.len()) != Some(4)
                {
                    return fail("not OpenAI's envelope");
                }
            }
            if !reply.header("x-request-id").is_some_and(|id| id.starts_with("req_")) {
                return fail("no x-request-id");
            }
            let final_error = (400..500).contains(&status) && status != 408 && status != 429;
            if (reply.header("x-should-retry") == Some("false")) != final_error {
                return fail("x-should-retry");
            }
            if reply.header("x-forebay-attempts").is_some_and(|attempts| attempts != "0") {
                return fail("an attempt was made");
            }
            if status == 405 && !case.name.starts_with("CONNECT") && reply.header("allow").is_none() {
                return fail("no `allow`");
            }
            if status == 401 && reply.header("www-authenticate").is_none() {
                return fail("no `www-authenticate`");
            }
            if matches!(case.meets, Shut(..)) && !caller.is_over() {
                return fail("the connection goes on");
            }
            Ok(())
        }
        Http(status) => match reply.status == status {
            false => fail("another status"),
            true if !caller.is_over() => fail("the connection goes on"),
            true => Ok(()),
        },
        Meets::End if reply.status != 0 => fail("an answer"),
        Meets::End if !reply.body.is_empty() => fail("bytes that are no answer"),
        Meets::End => Ok(()),
        Served(status) if reply.status == status && reply.end == End::Complete => Ok(()),
        Served(_) => fail("not served"),
    }
}

/// A provider in front of which a daemon stands, and how many good calls went through.
struct Rig {
    provider: Running,
    daemon: Daemon,
    good: u64,
    /// The header line with which a good call gets in.
    key: String,
}

impl Rig {
    fn start(more: &str, key: &str) -> Self {
        let simulator = Simulator::bind("127.0.0.1:0".parse().unwrap(), Settings::default()).unwrap();
        let provider = simulator.start_thread().unwrap();
        let config = format!(
            r#"
            [server]
            max_body = {MAX_BODY}
            [pool]
            threads = 2
            [log]
            level = "trace,actix_http=trace"
            [upstreams.up]
            base_url = "{}"
            api_keys = ["{UPSTREAM_KEY}"]
            models = ["m"]
            {more}
            "#,
            provider.base_url()
        );
        Self { provider, daemon: Daemon::start(&config), good: 0, key: key.to_owned() }
    }

    /// The daemon lives and a good call works.
    fn check(&mut self) -> Result<(), String> {
        if !self.daemon.is_alive() {
            return Err("the daemon is dead".into());
        }
        let mut caller = self.daemon.connect();
        let health = caller.ask("GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n");
        if health.status != 200 {
            return Err(format!("/healthz is {}", health.status));
        }
        self.good += 1;
        let text = format!("{PROMPT} {}", self.good);
        let reply = caller.ask(post(CHAT, &self.key, chat(&text)));
        if reply.status != 200 || reply.content() != expected_echo(&text) {
            return Err(format!("a good call is answered {} {}", reply.status, reply.text()));
        }
        Ok(())
    }

    /// Sends every case, and collects all that is wrong.
    fn run(&mut self, table: &Table) -> Vec<String> {
        let mut wrong = Vec::new();
        for case in &table.0 {
            let mut caller = self.daemon.connect();
            let reply = match case.way {
                Way::Head => caller.head(&case.request),
                Way::Plain => caller.ask(&case.request),
                Way::ThenReset => {
                    caller.send(&case.request);
                    socket2::SockRef::from(&caller.stream).set_linger(Some(Duration::ZERO)).unwrap();
                    caller = self.daemon.connect();
                    caller.stream.shutdown(Shutdown::Write).unwrap();
                    caller.reply()
                }
                Way::ThenClose => {
                    caller.send(&case.request);
                    caller.stream.shutdown(Shutdown::Write).unwrap();
                    caller.reply()
                }
            };
            let text: String = reply.text().chars().take(300).collect();
            let tell = |what: String| {
                format!(
                    "{}: {what}; expected {:?}, got {} {:?} {text}",
                    case.name, case.meets, reply.status, reply.headers
                )
            };
            if let Err(what) = judge(case, &reply, &mut caller) {
                wrong.push(tell(what));
            }
            for secret in [UPSTREAM_KEY, TENANT_KEY, STRANGE_KEY] {
                let sent = case.request.windows(secret.len()).any(|window| window == secret.as_bytes());
                if format!("{:?} {}", reply.headers, reply.text()).contains(secret) {
                    wrong.push(tell(format!("the answer shows a key (sent by the caller: {sent})")));
                }
            }
            drop(caller);
            if let Err(what) = self.check() {
                wrong.push(tell(format!("afterwards {what}")));
                break;
            }
        }
        wrong
    }

    /// Ends the daemon and adds what is wrong with its end, its log and the upstream's ledger.
    fn end(self, wrong: &mut Vec<String>) {
        let ledger = self.provider.ledger();
        let (code, log) = self.daemon.stop();
        if code != Some(0) {
            wrong.push(format!("the daemon's exit code is {code:?}"));
        }
        if ledger.requests != self.good || ledger.answered != self.good {
            wrong.push(format!("{} good calls, but the upstream saw {ledger:?}", self.good));
        }
        for line in log.lines() {
            for secret in [UPSTREAM_KEY, TENANT_KEY, STRANGE_KEY, PROMPT] {
                if line.contains(secret) {
                    wrong.push(format!("the log shows {secret}: {line}"));
                }
            }
            if line.contains("panicked") {
                wrong.push(format!("a panic: {line}"));
            }
        }
        if !log.contains("\"TRACE\"") {
            wrong.push("the log is not at level trace".into());
        }
        let lines = log.lines().filter(|line| line.contains("\"call\"")).count();
        if u64::try_from(lines).unwrap() < self.good {
            wrong.push(format!("{lines} lines of calls in the log, {} good calls", self.good));
        }
    }
}

fn none_wrong(wrong: &[String]) {
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_malformed_request_meets_its_refusal_and_hurts_nobody() {
    let mut rig = Rig::start("", "");
    // These two take the daemon's 20 s of patience; the table is gone through meanwhile.
    let mut silent = rig.daemon.connect();
    silent.send(format!("POST {CHAT} HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n{{"));
    let mut endless = rig.daemon.connect();
    endless.send(format!("POST {CHAT} HTTP/1.1\r\nhost: a\r\nx-a"));
    let mut table = Table::default();
    bodies(&mut table);
    headers(&mut table);
    paths(&mut table);
    methods(&mut table);
    framing(&mut table);
    assert!(table.0.len() >= 50, "only {} cases", table.0.len());
    let mut wrong = rig.run(&table);
    let slow_body = silent.reply();
    if slow_body.status != 408 || slow_body.json()["error"]["code"] != "body_timeout" {
        wrong.push(format!("a silent body: {slow_body:?}"));
    }
    let slow_head = endless.reply();
    if !matches!(slow_head.status, 0 | 408) || !endless.is_over() {
        wrong.push(format!("a silent head: {slow_head:?}"));
    }
    if let Err(what) = rig.check() {
        wrong.push(what);
    }
    rig.end(&mut wrong);
    none_wrong(&wrong);
}

#[test]
fn without_a_tenants_key_nothing_gets_in_and_no_key_is_shown() {
    let tenants = format!("[tenants.team]\nkey = \"{TENANT_KEY}\"\n");
    for key in [format!("authorization: Bearer {TENANT_KEY}\r\n"), format!("x-api-key: {TENANT_KEY}\r\n")] {
        let mut rig = Rig::start(&tenants, &key);
        let mut table = Table::default();
        keys(&mut table);
        let mut wrong = rig.run(&table);
        rig.end(&mut wrong);
        none_wrong(&wrong);
    }
}

/// Answers go to the requests in the order of these, whatever is wrong with some of them.
#[test]
fn malformed_calls_on_one_connection_do_not_shift_the_answers_of_good_ones() {
    let mut rig = Rig::start("", "");
    let mut caller = rig.daemon.connect();
    let bad = [
        (post(CHAT, "", "{"), 400),
        (post(CHAT, "", "{\"model\":\"other\",\"messages\":[]}"), 404),
        (b"DELETE /v1/chat/completions HTTP/1.1\r\nhost: a\r\n\r\n".to_vec(), 405),
        (b"GET /nowhere HTTP/1.1\r\nhost: a\r\n\r\n".to_vec(), 404),
    ];
    for (n, (request, _)) in bad.iter().enumerate() {
        caller.send([request.clone(), post(CHAT, "", chat(&format!("good {n}")))].concat());
    }
    let mut wrong = Vec::new();
    for (n, (_, status)) in bad.iter().enumerate() {
        let refusal = caller.reply();
        let answer = caller.reply();
        rig.good += 1;
        if refusal.status != *status || answer.content() != expected_echo(&format!("good {n}")) {
            wrong.push(format!("{n}: {refusal:?} {answer:?}"));
        }
    }
    rig.end(&mut wrong);
    none_wrong(&wrong);
}
