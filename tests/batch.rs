//! `forebay batch` as a process: what it makes of a file, and of a signal, a kill, a full disk in mid-run.
#![cfg(all(feature = "gateway", unix))]

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/upstream.rs"]
mod upstream;

use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use daemon::Process;
use forebay::simulator::{Running, Settings, Simulator, expected_echo};
use serde_json::{Value, json};
use upstream::Upstream;

/// A folder with a configuration, whose `in.jsonl` becomes its `out.jsonl`.
struct Ground {
    folder: tempfile::TempDir,
}

impl Ground {
    fn new(upstream: SocketAddr, more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = format!(
            r#"
            [retry]
            base_delay = "20ms"
            [upstreams.up]
            base_url = "http://{upstream}/v1"
            api_keys = ["sk-test-0000000001"]
            models = ["m"]
            prices.m = {{ input = 1.0, output = 2.0 }}
            {more}
            "#
        );
        std::fs::write(folder.path().join("test.toml"), config).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, lines: &[String]) {
        std::fs::write(self.path("in.jsonl"), lines.join("\n")).unwrap();
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn has(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
        command.arg("batch").args(arguments.split(' ')).args(["-c", "test.toml"]);
        command.current_dir(self.folder.path()).env_clear();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn start(&self) -> Process {
        Process::start(self.command("in.jsonl -o out.jsonl"))
    }

    /// Runs it to its end: the exit code, and what it said.
    fn run(&self) -> (i32, String) {
        let (code, said) = self.start().end();
        (code.expect("an exit code"), said)
    }

    /// OUT, line by line.
    fn out(&self) -> Vec<Value> {
        lines(&self.read("out.jsonl"))
    }
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

fn chat(id: usize, prompt: &str) -> String {
    let body = json!({"model": "m", "messages": [{"role": "user", "content": prompt}]});
    json!({"custom_id": format!("line-{id}"), "method": "POST", "url": "/v1/chat/completions", "body": body})
        .to_string()
}

fn chats(count: usize) -> Vec<String> {
    (0..count).map(|id| chat(id, &format!("prompt {id}"))).collect()
}

fn provider(change: impl FnOnce(&mut Settings)) -> Running {
    let mut settings = Settings::default();
    change(&mut settings);
    Simulator::bind("127.0.0.1:0".parse().unwrap(), settings).unwrap().start_thread().unwrap()
}

fn said_in(line: &Value) -> &str {
    line["response"]["body"]["choices"][0]["message"]["content"].as_str().unwrap_or_default()
}

#[test]
fn out_has_a_line_for_each_of_in_in_its_order_and_a_rerun_has_nothing_to_do() {
    let provider = provider(|settings| settings.latency = (Duration::ZERO, Duration::from_millis(20)));
    let ground = Ground::new(provider.address(), "");
    let mut lines = chats(200);
    lines.insert(3, String::new());
    lines.push(r#"{"custom_id":"embedding","url":"/v1/embeddings","body":{"model":"m","input":"x"}}"#.to_owned());
    let text = format!("\u{feff}{}", lines.join("\r\n"));
    std::fs::write(ground.path("in.jsonl"), text).unwrap();
    let (code, said) = ground.run();
    assert_eq!(code, 0, "{said}");
    let out = ground.out();
    assert_eq!(out.len(), 201);
    for (id, line) in out[..200].iter().enumerate() {
        assert_eq!((&line["custom_id"], &line["error"]), (&format!("line-{id}").into(), &Value::Null));
        assert_eq!(line["response"]["status_code"], 200);
        assert_eq!(said_in(line), expected_echo(&format!("prompt {id}")));
        assert!(line["id"].as_str().unwrap().starts_with("batch_req_"));
        assert!(line["response"]["request_id"].as_str().is_some_and(|id| !id.is_empty()));
    }
    assert!(out[200]["response"]["body"]["data"].is_array());
    assert!(!ground.has("out.jsonl.partial") && !ground.has("out.jsonl.partial.new"));
    let sum = said.lines().last().unwrap();
    assert!(sum.starts_with("201 answered; ") && sum.contains(" tokens, US$ 0."), "{said}");
    assert!(said.contains("0 of 201 done"), "{said}");
    assert!(!said.contains('\x1b'), "no cursor in a pipe");

    let before = (ground.read("out.jsonl"), provider.ledger().requests);
    let (code, said) = ground.run();
    assert_eq!((code, &*said), (0, "nothing to do: all 201 lines are answered in out.jsonl\n"));
    assert_eq!((ground.read("out.jsonl"), provider.ledger().requests), before);
    assert!(!ground.has("out.jsonl.partial"));
}

#[test]
fn lines_that_fail_have_an_error_and_are_tried_again_by_the_same_command() {
    let provider = provider(|_| ());
    let ground = Ground::new(provider.address(), "");
    let prompt = |id: usize| match id % 10 {
        3 => format!("[[fault:status-400]] prompt {id}"),
        _ => format!("prompt {id}"),
    };
    ground.write(&(0..50).map(|id| chat(id, &prompt(id))).collect::<Vec<_>>());
    let (code, said) = ground.run();
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("failed: 5 of 50 lines, which have an `error`; the same command tries them again"), "{said}");
    let out = ground.out();
    assert_eq!(out.len(), 50);
    for (id, line) in out.iter().enumerate() {
        assert_eq!(line["custom_id"], format!("line-{id}"));
        if id % 10 == 3 {
            assert_eq!(line["response"]["status_code"], 400, "{line}");
            assert!(line["response"]["body"]["error"].is_object(), "{line}");
            assert!(line["error"]["code"].is_string() && line["error"]["message"].is_string(), "{line}");
        } else {
            assert_eq!(line["error"], Value::Null);
        }
    }
    let asked = provider.ledger().requests;
    let (code, said) = ground.run();
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("answered already: 45") && said.contains("failed before, tried again: 5"), "{said}");
    assert_eq!(provider.ledger().requests, asked + 5);
    let again = ground.out();
    for (id, (line, before)) in again.iter().zip(&out).enumerate() {
        assert_eq!(said_in(line), expected_echo(&prompt(id)), "{line}");
        assert!(id % 10 == 3 || line == before, "what was good stays as it was");
    }
}

#[test]
fn a_line_that_was_changed_is_asked_again_and_one_of_another_batch_is_left_alone() {
    let provider = provider(|_| ());
    let ground = Ground::new(provider.address(), "");
    ground.write(&chats(3));
    assert_eq!(ground.run().0, 0);
    ground.write(&[chat(2, "prompt 2"), chat(1, "something else")]);
    let (code, said) = ground.run();
    assert_eq!(code, 0, "{said}");
    for told in [
        "answered already: 1",
        "changed since they were asked, asked again: 1",
        "not in IN any more (it will be without them): 1",
    ] {
        assert!(said.contains(told), "{told}: {said}");
    }
    let out: Vec<_> = ground.out().iter().map(|line| said_in(line).to_owned()).collect();
    assert_eq!(out, [expected_echo("prompt 2"), expected_echo("something else")]);

    ground.write(&[chat(7, "prompt 7")]);
    let before = ground.read("out.jsonl");
    let (code, said) = ground.run();
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("answers no line of IN"), "{said}");
    assert_eq!(ground.read("out.jsonl"), before);
    assert!(!ground.has("out.jsonl.partial"));
}

#[test]
fn bad_input_is_a_line_for_each_problem_and_exit_code_2_before_any_call() {
    let provider = provider(|_| ());
    let ground = Ground::new(provider.address(), "");
    let streamed = chat(4, "x").replace(r#""model""#, r#""stream":true,"model""#);
    let unserved = chat(5, "x").replace(r#""m""#, r#""gpt-9""#);
    ground.write(&[chat(1, "x"), "{".into(), chat(1, "y"), streamed, unserved]);
    let (code, said) = ground.run();
    assert_eq!(code, 2, "{said}");
    let begin: Vec<_> = said.lines().map(|line| line.split(": ").take(2).collect::<Vec<_>>().join(": ")).collect();
    assert_eq!(begin, ["2", "3", "4", "5"].map(|line| format!("forebay: in.jsonl:{line}")), "{said}");
    for words in ["line 1", "stream", "\"gpt-9\""] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert_eq!(provider.ledger().requests, 0);
    assert!(!ground.has("out.jsonl") && !ground.has("out.jsonl.partial"));

    for (arguments, words) in [
        ("none.jsonl -o out.jsonl", "cannot read none.jsonl"),
        ("in.jsonl -o in.jsonl", "written over"),
        (". -o out.jsonl", "is a folder"),
        ("in.jsonl", "--output"),
    ] {
        let (code, said) = Process::start(ground.command(arguments)).end();
        assert_eq!(code, Some(2), "{arguments}: {said}");
        assert!(said.contains(words), "{arguments}: {said}");
    }
}

#[test]
fn ctrl_c_lets_what_is_in_flight_finish_and_the_same_command_goes_on_from_there() {
    for signal in ["INT", "TERM"] {
        let upstream = Upstream::held();
        let ground = Ground::new(upstream.addr, "limits = { max_concurrent = 2 }");
        ground.write(&chats(6));
        let process = ground.start();
        let in_flight = [upstream.next(), upstream.next()];
        process.signal(signal);
        process.line("interrupted: calls in flight are waited for", 0);
        let mut asked: Vec<_> = in_flight.iter().map(|asked| asked.said()).collect();
        in_flight.into_iter().for_each(|asked| asked.says("here"));
        let (code, said) = process.end();
        assert_eq!(code, Some(130), "{said}");
        assert!(said.contains("2 of 6 lines are answered; the same command goes on from here"), "{said}");
        assert!(upstream.is_quiet(), "no line has begun since");
        assert_eq!(lines(&ground.read("out.jsonl.partial")).len(), 2);
        assert!(!ground.has("out.jsonl"));

        let process = ground.start();
        for _ in 0..4 {
            let next = upstream.next();
            asked.push(next.said());
            next.says("there");
        }
        let (code, said) = process.end();
        assert_eq!(code, Some(0), "{said}");
        asked.sort();
        assert_eq!(asked, (0..6).map(|id| format!("prompt {id}")).collect::<Vec<_>>(), "each line once");
        assert_eq!(ground.out().len(), 6);
        assert!(!ground.has("out.jsonl.partial"));
    }
}

#[test]
fn a_second_signal_ends_at_once_and_keeps_what_has_ended() {
    let upstream = Upstream::held();
    let ground = Ground::new(upstream.addr, "limits = { max_concurrent = 2 }");
    ground.write(&chats(6));
    let process = ground.start();
    upstream.next().says("here");
    let _in_flight = [upstream.next(), upstream.next()];
    process.signal("INT");
    process.line("calls in flight are waited for", 0);
    process.signal("INT");
    let (code, said) = process.end();
    assert_eq!(code, Some(130), "{said}");
    assert!(said.contains("ended at once: 1 of 6 lines are answered; the same command"), "{said}");
    assert_eq!(lines(&ground.read("out.jsonl.partial")).len(), 1);
}

#[test]
fn of_two_runs_to_one_out_the_second_is_refused_and_others_run_beside_it() {
    let upstream = Upstream::held();
    let ground = Ground::new(upstream.addr, "");
    ground.write(&chats(1));
    let first = ground.start();
    let asked = upstream.next();
    let (code, said) = ground.run();
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("another forebay batch is writing") && said.contains("out.jsonl"), "{said}");
    let beside = Process::start(ground.command("in.jsonl -o beside.jsonl"));
    upstream.next().says("beside");
    assert_eq!(beside.end().0, Some(0));
    asked.says("here");
    assert_eq!(first.end().0, Some(0));
    assert_eq!(said_in(&lines(&ground.read("out.jsonl"))[0]), "here");
}

#[test]
fn stdin_and_stdout_carry_a_batch_through_a_pipe() {
    let provider = provider(|_| ());
    let ground = Ground::new(provider.address(), "");
    let run = |input: String| {
        let mut child = ground.command("- -o -").stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), lines(&String::from_utf8(output.stdout).unwrap()), said)
    };
    let (code, out, said) = run(chats(40).join("\n"));
    assert_eq!((code, out.len()), (Some(0), 40), "{said}");
    let echoed: HashSet<_> = out.iter().map(said_in).collect();
    assert!((0..40).all(|id| echoed.contains(&*expected_echo(&format!("prompt {id}")))), "{out:?}");

    let (code, out, said) = run(format!("{}\nnonsense\n{}\n", chat(1, "x"), chat(1, "y")));
    assert_eq!((code, out.len()), (Some(1), 3), "{said}");
    let mut codes: Vec<_> = out.iter().map(|line| line["error"]["code"].as_str().unwrap_or("answered")).collect();
    codes.sort_unstable();
    assert_eq!(codes, ["answered", "duplicate_custom_id", "invalid_json_line"]);
    let files = std::fs::read_dir(ground.folder.path()).unwrap().count();
    assert_eq!(files, 1, "only the configuration");
}

#[test]
fn a_pipe_into_a_file_goes_on_as_a_file_does() {
    let upstream = Upstream::held();
    let ground = Ground::new(upstream.addr, "limits = { max_concurrent = 1 }");
    let start = || {
        let mut command = ground.command("- -o out.jsonl");
        ground.write(&chats(3));
        command.stdin(std::fs::File::open(ground.path("in.jsonl")).unwrap());
        Process::start(command)
    };
    let process = start();
    upstream.next().says("here");
    let _held = upstream.next();
    process.signal("INT");
    process.line("are waited for", 0);
    process.signal("INT");
    assert_eq!(process.end().0, Some(130));
    let process = start();
    upstream.next().says("there");
    upstream.next().says("there");
    let (code, said) = process.end();
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(ground.out().iter().map(said_in).collect::<Vec<_>>(), ["here", "there", "there"]);
}

#[test]
fn where_every_key_is_refused_no_line_fails_and_it_says_what_to_mend() {
    let asked_by = Upstream::answering(|asked| {
        asked.answer(401, r#"{"error":{"message":"Incorrect API key provided","code":"invalid_api_key"}}"#);
    });
    let ground = Ground::new(asked_by, "limits = { max_concurrent = 2 }");
    ground.write(&chats(500));
    let (code, said) = ground.run();
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("nobody answers for m: up answered 401: Incorrect API key provided"), "{said}");
    assert!(said.contains("0 of 500 lines are answered; mend that; the same command goes on"), "{said}");
    assert!(!ground.has("out.jsonl") && !ground.has("out.jsonl.partial"));
    assert!(!said.contains("sk-test"), "{said}");
}

#[test]
fn a_disk_that_is_full_keeps_what_there_was_room_for_and_the_rest_is_asked_later() {
    let provider = provider(|_| ());
    let ground = Ground::new(provider.address(), "limits = { max_concurrent = 4 }");
    ground.write(&chats(200));
    let mut limited = Command::new("sh");
    // A file may not grow beyond 16 blocks; whoever ignores the signal gets an error instead.
    let script = "trap '' XFSZ; ulimit -f 16; exec \"$0\" batch in.jsonl -o out.jsonl -c test.toml";
    limited.args(["-c", script, env!("CARGO_BIN_EXE_forebay")]).current_dir(ground.folder.path()).env_clear();
    limited.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let (code, said) = Process::start(limited).end();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("forebay: cannot write") && said.contains("out.jsonl.partial"), "{said}");
    let kept = ground.read("out.jsonl.partial");
    assert!(kept.ends_with('\n'), "nothing is torn");
    let kept = lines(&kept).len();
    assert!(kept > 0 && kept < 200, "{kept}");
    let (code, said) = ground.run();
    assert_eq!(code, 0, "{said}");
    assert!(said.contains(&format!("answered already: {kept}\n")), "{said}");
    assert_eq!(ground.out().len(), 200);
}

#[test]
fn killed_again_and_again_it_ends_with_each_line_once_and_asks_little_twice() {
    const LINES: usize = 400;
    const IN_FLIGHT: u64 = 4;
    let provider = provider(|settings| settings.latency = (Duration::from_millis(1), Duration::from_millis(15)));
    let ground = Ground::new(provider.address(), &format!("limits = {{ max_concurrent = {IN_FLIGHT} }}"));
    ground.write(&chats(LINES));
    let ended = |text: &str| text.matches('\n').count();
    let (mut kills, mut at_work) = (0, 0);
    for more in (1..=20).map(|round| round * 7 % 20) {
        let enough = ended(&ground.read("out.jsonl.partial")) + more;
        let mut child = ground.command("in.jsonl -o out.jsonl").stderr(Stdio::null()).spawn().unwrap();
        while child.try_wait().unwrap().is_none() && ended(&ground.read("out.jsonl.partial")) < enough {
            std::thread::yield_now();
        }
        let in_flight = provider.ledger().in_flight;
        child.kill().unwrap();
        if child.wait().unwrap().code().is_none() {
            kills += 1;
            at_work += u64::from(in_flight > 0);
        }
        let text = ground.read("out.jsonl.partial");
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let ids: Vec<_> = lines(whole).iter().map(|line| line["custom_id"].as_str().unwrap().to_owned()).collect();
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len(), "no line is there twice");
    }
    let (code, said) = ground.run();
    assert_eq!(code, 0, "{said}");
    let out = ground.out();
    assert_eq!(out.len(), LINES);
    for (id, line) in out.iter().enumerate() {
        assert_eq!(
            (&line["custom_id"], said_in(line)),
            (&format!("line-{id}").into(), &*expected_echo(&format!("prompt {id}")))
        );
    }
    let answers: BTreeMap<_, _> = provider.ledger().prompts;
    assert_eq!(answers.len(), LINES);
    let twice = answers.values().map(|times| times - 1).sum::<u64>();
    println!("{kills} kills, {at_work} with calls in flight, {twice} answers were paid for twice");
    assert!(kills >= 15 && at_work * 2 >= kills, "{kills} kills, {at_work} with calls in flight");
    assert!(twice <= kills * IN_FLIGHT, "{twice} of {kills} kills");
}
