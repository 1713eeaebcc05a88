//! The story this program was written for, against the daemon as a process and over real sockets: many callers, a
//! provider that limits, resets, stalls and fails, and nothing lost, mixed up or silently short; and what of a call goes up
//! and comes back, byte by byte.
#![cfg(all(feature = "gateway", unix))]

#[path = "support/daemon.rs"]
mod daemon;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use daemon::{Caller, Daemon, End, Reply, chat, post};
use forebay::simulator::{Fault, Odds, Rate, Running, Settings, Simulator, expected_echo, prompt_hash};
use serde_json::Value;

const CHAT: &str = "/v1/chat/completions";
const KEY: &str = "sk-configured-0123456789";
/// An upstream of unknown limits is approached gently after it has said 429, which is shown elsewhere and takes seconds.
const KNOWN_LIMITS: &str = "limits = { requests_per_minute = 60000 }";
const THREADS: usize = 20;
const CALLS: usize = 5;

fn provider(change: impl FnOnce(&mut Settings)) -> Running {
    let mut settings = Settings::default();
    settings.chunk_gap = Duration::ZERO;
    change(&mut settings);
    Simulator::bind("127.0.0.1:0".parse().unwrap(), settings).unwrap().start_thread().unwrap()
}

/// A daemon in front of `upstream`, which serves `m`; `more` is added behind the upstream's own keys.
fn daemon(upstream: SocketAddr, more: &str) -> Daemon {
    Daemon::start(&format!(
        r#"
        [pool]
        threads = 2
        [log]
        level = "warn"
        [retry]
        base_delay = "20ms"
        max_attempts = 10
        # So many faults at once would wait for the budget, which is shown elsewhere.
        retry_budget = 1.0
        [upstreams.up]
        base_url = "http://{upstream}/v1"
        api_keys = ["{KEY}"]
        models = ["m"]
        first_byte_timeout = "1s"
        answer_timeout = "1s"
        idle_timeout = "1s"
        headers = {{ "x-team" = "ml" }}
        {more}
        "#
    ))
}

/// Every thread has a connection of its own and makes its calls one after the other; what each of them brought.
fn callers(daemon: &Daemon, body: impl Fn(&str) -> String + Sync) -> Vec<(String, Reply)> {
    let caller = |thread: usize| {
        let mut connection = daemon.connect();
        let mut brought = Vec::new();
        for call in 0..CALLS {
            let prompt = format!("thread {thread}, call {call}");
            let reply = connection.ask(post(CHAT, "", body(&prompt)));
            // A stream that broke has taken its connection with it.
            if reply.end == End::Short {
                connection = daemon.connect();
            }
            brought.push((prompt, reply));
        }
        brought
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || caller(thread))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

fn streamed(prompt: &str) -> String {
    let messages = serde_json::json!([{"role": "user", "content": prompt}]);
    serde_json::json!({"model": "m", "stream": true, "messages": messages}).to_string()
}

#[test]
fn twenty_callers_lose_nothing_to_a_provider_that_limits_resets_stalls_and_fails() {
    const LIMIT: u64 = 50;
    let provider = provider(|settings| {
        let faults = [Fault::Reset, Fault::RateLimitedBare, Fault::Status(500), Fault::Stall, Fault::RateLimited];
        settings.odds = faults.into_iter().fold(Odds::none(), |odds, fault| odds.with(fault, 0.03));
        settings.limits.requests_per_second = Some(Rate::per_second(LIMIT));
        settings.latency = (Duration::from_millis(5), Duration::from_millis(25));
    });
    let daemon = daemon(provider.address(), &format!("limits = {{ requests_per_minute = {} }}", LIMIT * 60));
    let brought = callers(&daemon, chat);
    assert_eq!(brought.len(), THREADS * CALLS);
    let mut retried = 0;
    for (prompt, reply) in &brought {
        assert_eq!(reply.status, 200, "lost: {prompt}: {}", reply.text());
        assert_eq!(reply.content(), expected_echo(prompt), "mixed up");
        retried += u64::from(reply.header("x-forebay-attempts") != Some("1"));
    }
    let ledger = provider.ledger();
    assert_eq!((ledger.limit_429s, ledger.limited), (0, 0), "the limit was exceeded");
    assert_eq!((ledger.answered, ledger.prompts.len()), (100, 100), "each prompt is answered, and once");
    assert!(retried > 0 && ledger.faulted > 0, "no fault struck, so nothing was shown");
    assert_eq!(ledger.requests, 100 + ledger.faulted, "an attempt for each answer and each fault");
}

/// How a stream ended; any other end is a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// Complete, and right.
    Whole,
    /// Begun, then visibly broken.
    Broken,
    /// Refused with a status, before anything was sent.
    Refused,
}

/// Reads the end of a stream as a careful client would.
fn ended(prompt: &str, reply: &Reply) -> Ended {
    let told = format!("{prompt}: {} {:?} {}", reply.status, reply.end, reply.text());
    let error = |data: &str| serde_json::from_str::<Value>(data).is_ok_and(|event| event["error"].is_object());
    if reply.status != 200 {
        assert!(reply.status >= 429 && error(&reply.text()), "{told}");
        return Ended::Refused;
    }
    let (events, expected) = (reply.events(), expected_echo(prompt));
    let errors = events.iter().filter(|data| error(data)).count();
    if errors > 0 {
        assert!(errors == 1 && error(events.last().unwrap()), "an error event is the last: {told}");
        assert_eq!(reply.end, End::Short, "an error event has an unclean end behind it: {told}");
        assert!(expected.starts_with(&reply.content()), "mixed up: {told}");
        let code = &serde_json::from_str::<Value>(events.last().unwrap()).unwrap()["error"]["code"];
        assert!(code.is_string() || code.is_null(), "{told}");
        return Ended::Broken;
    }
    assert_eq!(reply.end, End::Complete, "broken without a word: {told}");
    assert_eq!(reply.content(), expected, "silently short, or mixed up: {told}");
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"), "{told}");
    assert!(events.iter().any(|data| data.contains("\"finish_reason\":\"stop\"")), "{told}");
    assert!(!reply.text().contains("\"usage\":{"), "the caller did not ask for usage: {told}");
    Ended::Whole
}

#[test]
fn a_stream_is_whole_or_visibly_broken_whatever_strikes_it_and_a_whole_answer_is_always_whole() {
    let provider = provider(|settings| settings.retry_after = Duration::from_millis(100));
    let others = daemon(provider.address(), KNOWN_LIMITS);
    // An account out of credit rests, and with it every call that has no other.
    let poor = daemon(provider.address(), KNOWN_LIMITS);
    // Behind the first content there is no way back; a fault that leaves none behind is cured by another attempt.
    let late = ["reset-body", "cut-body", "cut-unframed", "unfinished", "truncated-json", "error-midway", "stall-body"];
    let hopeless = ["quota", "redirect"];
    std::thread::scope(|scope| {
        for fault in Fault::named().map(|fault| fault.to_string()).chain(["status-500".into(), "status-529".into()]) {
            let daemon = if fault == "quota" { &poor } else { &others };
            scope.spawn(move || {
                let expected = match () {
                    () if late.contains(&&*fault) => Ended::Broken,
                    () if hopeless.contains(&&*fault) => Ended::Refused,
                    () => Ended::Whole,
                };
                let prompt = format!("stream [[fault:{fault}]]");
                let reply = daemon.ask(post(CHAT, "", streamed(&prompt)));
                assert_eq!(ended(&prompt, &reply), expected, "{prompt}: {}", reply.text());
                // Twice on the same connection: what is left over from the first answer must not be in the second.
                let mut connection = daemon.connect();
                for n in 0..2 {
                    let prompt = format!("whole {n} [[fault:{fault}]]");
                    let reply = connection.ask(post(CHAT, "", chat(&prompt)));
                    match hopeless.contains(&&*fault) {
                        true => assert!(reply.status >= 429 && reply.json()["error"].is_object(), "{}", reply.text()),
                        false => assert_eq!(reply.content(), expected_echo(&prompt), "{}", reply.text()),
                    }
                }
            });
        }
    });
    assert_eq!(provider.ledger().redirects_followed, 0);
}

#[test]
fn of_a_hundred_streams_through_faults_none_is_silently_short_or_mixed_up() {
    let provider = provider(|settings| {
        let faults = Fault::named().filter(|fault| !matches!(fault, Fault::Quota | Fault::Redirect));
        settings.odds = faults.fold(Odds::none(), |odds, fault| odds.with(fault, 0.02));
        settings.retry_after = Duration::from_millis(100);
        settings.latency = (Duration::ZERO, Duration::from_millis(20));
    });
    let daemon = daemon(provider.address(), KNOWN_LIMITS);
    let brought = callers(&daemon, streamed);
    let ledger = provider.ledger();
    let mut ends = [0, 0, 0];
    for (prompt, reply) in &brought {
        let end = ended(prompt, reply);
        ends[end as usize] += 1;
        let answered = ledger.prompts.get(&prompt_hash(prompt)).copied();
        assert_eq!(answered, (end == Ended::Whole).then_some(1), "what the provider knows of {prompt}: {end:?}");
    }
    let [whole, broken, refused] = ends;
    assert_eq!((whole + broken, refused), (100, 0), "{ends:?}");
    assert!(broken > 0 && whole > broken, "{ends:?}");
}

/// A request as the upstream saw it: its head's lines, names in lower case, and its body.
#[derive(Debug)]
struct Seen {
    line: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Seen {
    fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(have, _)| have == name).map(|(_, value)| value.as_str()).collect()
    }
}

/// An upstream that records every request to the byte and gives each the same answer.
struct Recorder {
    addr: SocketAddr,
    seen: mpsc::Receiver<Seen>,
}

impl Recorder {
    fn start(answer: impl Into<Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (addr, answer, (tell, seen)) = (listener.local_addr().unwrap(), answer.into(), mpsc::channel());
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let (tell, answer) = (tell.clone(), answer.clone());
                std::thread::spawn(move || record(stream, &answer, &tell));
            }
        });
        Self { addr, seen }
    }

    fn next(&self) -> Seen {
        self.seen.recv_timeout(Duration::from_secs(60)).unwrap()
    }
}

fn record(mut stream: TcpStream, answer: &[u8], tell: &mpsc::Sender<Seen>) {
    let mut buffer = Vec::new();
    let mut piece = [0; 16 * 1024];
    loop {
        let end = buffer.windows(4).position(|four| four == b"\r\n\r\n");
        if let Some(end) = end {
            let head = String::from_utf8(buffer[..end].to_vec()).unwrap();
            let (line, lines) = head.split_once("\r\n").unwrap();
            let lines = lines.lines().filter_map(|line| line.split_once(": "));
            let headers: Vec<_> = lines.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
            let length =
                headers.iter().find(|(name, _)| name == "content-length").map(|(_, length)| length.parse::<usize>());
            let whole = end + 4 + length.expect("a body of known length").unwrap();
            if buffer.len() >= whole {
                let body = buffer[end + 4..whole].to_vec();
                buffer.drain(..whole);
                let _ = tell.send(Seen { line: line.to_owned(), headers, body });
                if stream.write_all(answer).is_err() {
                    return;
                }
                continue;
            }
        }
        match stream.read(&mut piece) {
            Ok(read @ 1..) => buffer.extend_from_slice(&piece[..read]),
            _ => return,
        }
    }
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{headers}content-length: {length}\r\n\r\n{body}")
}

const GOOD: &str = " {\"z\":12345678901234567890123, \"choices\" : [{\"index\":0,\"message\":{\"role\":\"assistant\",\
                    \"content\":\"\\u0041\\/\"},\"finish_reason\":\"stop\"}],\"a\":1.0,\"a\":1e400,\"s\":\"\\ud800\"}\r\n";

#[test]
fn bodies_pass_byte_for_byte_both_ways() {
    let recorder = Recorder::start(answer("200 OK", "", GOOD));
    let daemon = daemon(recorder.addr, "");
    let odd = concat!(
        " \r\n{\"zzz\":98765432109876543210987654321, \"model\" : \"m\",\t\"a\":1.0,\"b\":1,\"a\":2, \"n\":1e0,\"f\":-0.0,\"g\":1E+2,",
        "\"messages\":[ {\"role\":\"user\",\"content\":\"\\u00e9\\/\\ud83d\\ude00 \\ud800 ü\u{1f600}\u{feff}\"} ],",
        "\"api_base\":\"http://evil.example\",\"\":null,\"stream\":false,\"big\":1e999,\"deep\":[[[{}]]]} \n"
    );
    let large = chat(&"0123456789abcdef\\u0000\u{20ac}".repeat(50_000));
    let mut connection = daemon.connect();
    for body in [odd, &large, &chat(""), "{\"messages\":[],\"model\":\"m\",\"stream\":null}"] {
        let reply = connection.ask(post(CHAT, "content-type: application/json\r\n", body));
        assert_eq!((reply.status, reply.text().as_str()), (200, GOOD));
        let seen = recorder.next();
        assert_eq!(seen.line, "POST /v1/chat/completions HTTP/1.1");
        assert!(seen.body == body.as_bytes(), "changed: {}", String::from_utf8_lossy(&seen.body));
    }
    // The same in chunks, some of a single byte, whose extensions and trailers are nobody's business.
    let mut request = format!("POST {CHAT} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n").into_bytes();
    for piece in
        odd.as_bytes().chunks(7).flat_map(|seven| seven.split_at_checked(1).map_or([seven, b""], |(a, b)| [a, b]))
    {
        if !piece.is_empty() {
            request.extend_from_slice(format!("{:X};x=y\r\n", piece.len()).as_bytes());
            request.extend_from_slice(piece);
            request.extend_from_slice(b"\r\n");
        }
    }
    request.extend_from_slice(b"0\r\n\r\n");
    assert_eq!(connection.ask(request).text(), GOOD);
    assert!(recorder.next().body == odd.as_bytes());
    for (path, body) in [
        ("/v1/embeddings", "{\"input\":[[1,2],[3]],\"model\":\"m\",\"encoding_format\":\"base64\"}"),
        ("/v1/completions", "{\"model\":\"m\",\"prompt\":[1,2,3],\"echo\":true}"),
        ("/v1/moderations", "{\"input\":\"no model\"}"),
        ("/v1/responses", "{\"prompt\":{\"id\":\"p\"}}"),
        ("/openai/v1/chat/completions", odd),
    ] {
        let reply = connection.ask(post(path, "", body));
        assert_eq!((reply.status, reply.text().as_str()), (200, GOOD), "{path}");
        let seen = recorder.next();
        assert_eq!(seen.line, format!("POST {} HTTP/1.1", path.trim_start_matches("/openai")));
        assert!(seen.body == body.as_bytes(), "{path}: {}", String::from_utf8_lossy(&seen.body));
    }
}

#[test]
fn a_streamed_chats_body_is_changed_only_where_usage_is_asked_for() {
    let events = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hi\"},\"finish_reason\":\"stop\"}]}\n\n\
                  data: [DONE]\n\n";
    let reply = answer("200 OK", "", events).replace("application/json", "text/event-stream");
    let recorder = Recorder::start(reply);
    let daemon = daemon(recorder.addr, "");
    let asked = r#"{ "z":1.0,"model":"m", "stream":true,"messages":[],"stream_options":{"include_usage":true,"x":1}}"#;
    let silent = r#"{ "z":12345678901234567890,"model":"m", "stream":true,"messages":[]}"#;
    assert_eq!(daemon.ask(post(CHAT, "", asked)).text(), events);
    assert!(recorder.next().body == asked.as_bytes());
    assert_eq!(daemon.ask(post(CHAT, "", silent)).text(), events);
    let body = String::from_utf8(recorder.next().body).unwrap();
    assert_eq!(body.replacen(r#""stream_options":{"include_usage":true},"#, "", 1), silent);
}

#[test]
fn the_callers_key_and_cookies_stay_here_and_the_configured_key_goes_up() {
    let recorder = Recorder::start(answer("200 OK", "", GOOD));
    let daemon = daemon(recorder.addr, "");
    let strange = "strange-secret";
    let secret_names = [
        "authorization",
        "x-api-key",
        "api-key",
        "x-goog-api-key",
        "cookie",
        "cookie2",
        "proxy-authorization",
        "x-forwarded-for",
        "x-real-ip",
        "forwarded",
        "x-stainless-lang",
        "x-amz-security-token",
        "x-custom",
        "x-team",
        "idempotency-key",
        "openai-hop",
        "referer",
        "user-agent",
    ];
    let strange_lines: String = secret_names.iter().map(|name| format!("{name}: {strange}\r\n")).collect();
    let passed = [
        ("content-type", "application/json; charset=utf-8"),
        ("accept", "application/json, */*;q=0.1"),
        ("openai-organization", "org-1"),
        ("openai-beta", "assistants=v2"),
        ("anthropic-version", "2023-06-01"),
        ("x-goog-user-project", "p"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ];
    let passed_lines: String = passed.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let hop =
        "connection: keep-alive, openai-hop\r\nkeep-alive: timeout=5\r\nte: trailers\r\naccept-encoding: gzip, br\r\n";
    let reply = daemon.ask(post(CHAT, &format!("{strange_lines}{passed_lines}{hop}"), chat("hi")));
    assert_eq!(reply.status, 200, "{}", reply.text());
    let seen = recorder.next();
    assert!(!format!("{seen:?}").contains(strange), "{seen:?}");
    for (name, value) in passed {
        assert_eq!(seen.all(name), [value], "{seen:?}");
    }
    assert_eq!(seen.all("authorization"), [format!("Bearer {KEY}")]);
    assert_eq!(seen.all("x-team"), ["ml"]);
    assert_eq!(seen.all("host"), [recorder.addr.to_string()]);
    assert_eq!(seen.all("accept-encoding"), ["identity"]);
    assert_eq!(seen.all("content-length").len(), 1);
    for name in ["te", "keep-alive", "transfer-encoding", "expect", "upgrade"] {
        assert!(seen.all(name).is_empty(), "{name}: {seen:?}");
    }
}

#[test]
fn what_concerns_the_account_or_the_connection_does_not_come_back() {
    let theirs = "set-cookie: session=1\r\nset-cookie: b=2\r\nx-ratelimit-limit-requests: 7\r\nx-ratelimit-remaining-tokens: 1\r\n\
                  anthropic-ratelimit-requests-limit: 7\r\nretry-after: 3600\r\nretry-after-ms: 3600000\r\nx-should-retry: true\r\n\
                  x-forebay-attempts: 99\r\nx-forebay-secret: 1\r\nx-request-id: theirs\r\nkeep-alive: timeout=5\r\n\
                  connection: keep-alive, x-hop\r\nx-hop: 1\r\nopenai-processing-ms: 12\r\nopenai-version: 2020-10-01\r\nx-other: kept\r\n";
    let whole = answer("200 OK", theirs, GOOD);
    let refusal = format!("{{\"error\":{{\"message\":\"Incorrect API key provided: {KEY}\",\"code\":null}}}}");
    let refused = answer("400 Bad Request", theirs, &refusal);
    for (answer, status) in [(whole, 200), (refused, 400)] {
        let recorder = Recorder::start(answer);
        let daemon = daemon(recorder.addr, "limits = { requests_per_minute = 600, tokens_per_minute = 100000 }");
        let reply = daemon.ask(post(CHAT, "", chat("hi")));
        assert_eq!(reply.status, status, "{}", reply.text());
        let all = |name: &str| -> Vec<&str> {
            reply.headers.iter().filter(|(have, _)| have == name).map(|(_, value)| value.as_str()).collect()
        };
        for name in ["set-cookie", "anthropic-ratelimit-requests-limit", "x-forebay-secret", "x-hop", "keep-alive"] {
            assert!(all(name).is_empty(), "{name}: {reply:?}");
        }
        // Some SDKs sleep whatever an error tells them.
        let patience = if status == 200 { (vec![], vec![]) } else { (vec!["60"], vec!["60000"]) };
        assert_eq!((all("retry-after"), all("retry-after-ms")), patience);
        assert!(matches!(all("x-request-id")[..], [id] if id.starts_with("req_")), "{reply:?}");
        assert_eq!(all("x-forebay-upstream"), ["up"]);
        assert_eq!(all("x-forebay-attempts"), ["1"]);
        assert!(matches!(all("x-forebay-queued-ms")[..], [ms] if ms.parse::<u64>().is_ok()), "{reply:?}");
        // Forebay's own budget, not the account's.
        assert_eq!(all("x-ratelimit-limit-requests"), ["600"]);
        assert_eq!(all("x-ratelimit-limit-tokens"), ["100000"]);
        assert_eq!((all("x-ratelimit-remaining-requests").len(), all("x-ratelimit-reset-tokens").len()), (1, 1));
        assert_eq!(
            (all("openai-processing-ms"), all("openai-version"), all("x-other")),
            (vec!["12"], vec!["2020-10-01"], vec!["kept"])
        );
        assert_eq!(all("content-type"), ["application/json"]);
        assert_eq!(all("x-should-retry"), if status == 200 { vec![] } else { vec!["false"] });
        if status == 400 {
            assert_eq!(reply.text(), refusal.replace(KEY, "***"));
        }
    }
}

/// A caller that goes away frees its place upstream, in the middle of a stream and before an answer.
#[test]
fn a_caller_that_hangs_up_leaves_nothing_in_flight() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let provider = provider(|_| {});
    let daemon = daemon(provider.address(), "limits = { max_concurrent = 1 }");
    for body in [chat("[[fault:stall x9]]"), streamed("[[fault:stall x9]]"), streamed("[[fault:stall-body x9]]")] {
        let mut caller: Caller = daemon.connect();
        caller.send(post(CHAT, "", body));
        let patience = Duration::from_secs(60);
        let until = |in_flight| {
            let reached = provider.until(move |ledger| ledger.in_flight == in_flight);
            runtime.block_on(async { tokio::time::timeout(patience, reached).await }).expect("in time")
        };
        until(1);
        drop(caller);
        until(0);
    }
    // The only place is free again.
    assert_eq!(daemon.ask(post(CHAT, "", chat("next"))).content(), expected_echo("next"));
}
