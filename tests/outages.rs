//! An upstream dies under load and comes back: the daemon as a process, two simulators as processes, one of them killed.
#![cfg(all(feature = "gateway", unix))]

#[path = "support/daemon.rs"]
mod daemon;

use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use daemon::{Daemon, End, Process, Reply, post};
use forebay::simulator::expected_echo;
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const CALLERS: usize = 12;
/// What each call has, and none may need.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A provider as a process, and where it listens.
fn provider(listen: &str) -> (Process, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    command.args(["simulate", "--listen", listen, "--latency", "2ms-20ms", "--chunks", "20", "--chunk-gap", "5ms"]);
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let process = Process::start(command);
    let line = process.line("listening on http://", 0);
    let address = line.trim_start_matches("listening on http://").trim_end_matches("/v1").to_owned();
    (process, address)
}

fn daemon(first: &str, second: &str) -> Daemon {
    Daemon::start(&format!(
        r#"
        [pool]
        threads = 2
        [log]
        level = "info"
        [retry]
        base_delay = "20ms"
        [upstreams.first]
        base_url = "http://{first}/v1"
        models = ["a"]
        limits = {{ max_concurrent = 16 }}
        [upstreams.second]
        base_url = "http://{second}/v1"
        models = ["b"]
        limits = {{ max_concurrent = 16 }}
        [routes.smart]
        targets = ["first/a", "second/b"]
        "#
    ))
}

fn body(prompt: &str, is_stream: bool) -> String {
    json!({"model": "smart", "stream": is_stream, "messages": [{"role": "user", "content": prompt}]}).to_string()
}

fn ask(prompt: &str, is_stream: bool) -> Vec<u8> {
    post(CHAT, &format!("x-forebay-timeout: {}s\r\n", TIMEOUT.as_secs()), body(prompt, is_stream))
}

/// One call and what became of it.
struct Made {
    prompt: String,
    is_stream: bool,
    reply: Reply,
    took: Duration,
}

/// Callers that go on until they are told to stop.
#[derive(Default)]
struct Load {
    is_over: AtomicBool,
    by_first: AtomicUsize,
    made: Mutex<Vec<Made>>,
}

impl Load {
    fn caller(&self, daemon: &Daemon, number: usize) {
        let mut connection = daemon.connect();
        for n in 0.. {
            if self.is_over.load(Relaxed) {
                return;
            }
            let (prompt, is_stream) = (format!("caller {number}, call {n}"), n % 4 == 3);
            let start = Instant::now();
            let reply = connection.ask(ask(&prompt, is_stream));
            let took = start.elapsed();
            // A stream that broke has taken its connection with it.
            if reply.end == End::Short {
                connection = daemon.connect();
            }
            if reply.header("x-forebay-upstream") == Some("first") {
                self.by_first.fetch_add(1, Relaxed);
            }
            self.made.lock().unwrap().push(Made { prompt, is_stream, reply, took });
        }
    }

    /// Waits until the first upstream has answered so many more calls.
    fn until_first_answers(&self, more: usize) {
        let before = self.by_first.load(Relaxed);
        let start = Instant::now();
        while self.by_first.load(Relaxed) < before + more {
            assert!(start.elapsed() < TIMEOUT, "the first upstream answers nothing");
            std::thread::yield_now();
        }
    }
}

/// Stops the load however the test ends: its threads are waited for.
struct Over<'a>(&'a Load);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.is_over.store(true, Relaxed);
    }
}

/// The error event at the end of a stream, if that is how it ended.
fn error_event(reply: &Reply) -> Option<Value> {
    let last = reply.events().pop()?;
    let last: Value = serde_json::from_str(&last).ok()?;
    last["error"].is_object().then_some(last)
}

#[test]
fn a_kill_of_one_of_two_upstreams_under_load_costs_begun_streams_their_end_and_no_call_its_answer() {
    let (first, address) = provider("127.0.0.1:0");
    let (_second, other) = provider("127.0.0.1:0");
    let daemon = daemon(&address, &other);
    let load = Load::default();
    let broken = std::thread::scope(|scope| {
        for number in 0..CALLERS {
            let (load, daemon) = (&load, &daemon);
            scope.spawn(move || load.caller(daemon, number));
        }
        let _over = Over(&load);
        load.until_first_answers(100);
        // One stream has surely begun when the kill comes: its provider stalls behind the first content.
        let mut begun = daemon.connect();
        begun.send(ask("a long story [[fault:stall-body]]", true));
        begun.wait_for("\"content\":");
        first.signal("KILL");
        let broken = begun.reply();
        drop(first);
        daemon.until_logged("breaker opened");
        daemon.until_logged("breaker probes");
        let (_first, _) = provider(&address);
        daemon.until_logged("breaker closed");
        load.until_first_answers(100);
        load.is_over.store(true, Relaxed);
        broken
    });
    assert_eq!((broken.status, broken.end), (200, End::Short), "{}", broken.text());
    let event = error_event(&broken).unwrap_or_else(|| panic!("it ends without a word: {}", broken.text()));
    assert_eq!(event["error"]["code"], "upstream_unavailable", "{event}");

    let made = load.made.into_inner().unwrap();
    let (mut took, mut streams_broken) = (Vec::new(), 1);
    for Made { prompt, is_stream, reply, took: length } in &made {
        let told = || format!("{prompt}: {} {:?} after {length:?}: {}", reply.status, reply.end, reply.text());
        assert_eq!(reply.status, 200, "{}", told());
        let is_begun = *is_stream && reply.end == End::Short;
        match is_begun {
            true => {
                assert!(error_event(reply).is_some() && !reply.text().contains("[DONE]"), "{}", told());
                assert_eq!(reply.header("x-forebay-upstream"), Some("first"), "{}", told());
                streams_broken += 1;
            }
            false => assert_eq!((reply.content(), reply.end), (expected_echo(prompt), End::Complete), "{}", told()),
        }
        took.push(*length);
    }
    assert!(streams_broken <= CALLERS + 1, "only what had begun when the kill came: {streams_broken}");
    took.sort();
    let (p99, longest) = (took[took.len() * 99 / 100], took[took.len() - 1]);
    assert!(longest < TIMEOUT, "{longest:?}");

    let (code, said) = daemon.stop();
    assert_eq!(code, Some(0));
    let lines: Vec<Value> = said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let breaker = |line: &&Value| line["message"].as_str().is_some_and(|message| message.starts_with("breaker "));
    let way: Vec<&Value> = lines.iter().filter(breaker).collect();
    assert!(way.iter().all(|line| line["upstream"] == "first"), "{way:#?}");
    let words: Vec<&str> = way.iter().map(|line| line["message"].as_str().unwrap()).collect();
    let (opened, closed) = (words.first().unwrap(), words.last().unwrap());
    assert!(opened.starts_with("breaker opened") && closed.starts_with("breaker closed"), "{words:#?}");
    let probes = &words[1..words.len() - 1];
    assert!(!probes.is_empty() && probes.iter().all(|word| *word == "breaker probes"), "{words:#?}");
    assert!(way[0]["failed_in_a_row"].as_u64() >= Some(20) && way[0]["silent_s"].as_f64() >= Some(10.0), "{way:#?}");
    assert_eq!(way[way.len() - 1]["why"], "it has answered");
    println!(
        "{} calls, 0 errors, {streams_broken} begun streams broken with an error event, p99 {p99:?}, longest {longest:?}; \
         breaker open for {} s behind {} s of silence, {} probes",
        made.len(),
        way[way.len() - 1]["open_s"],
        way[0]["silent_s"],
        probes.len(),
    );
}
