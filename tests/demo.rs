//! `forebay demo` as a process: the story ends well, its books balance, and Ctrl-C ends it early.
#![cfg(all(feature = "gateway", unix))]

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

fn demo(arguments: &str) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    command.arg("demo").args(arguments.split_whitespace());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// What a demo has printed in the end.
struct Story {
    text: String,
}

impl Story {
    /// Waits for the end, which must be a good one.
    fn of(child: Child) -> Self {
        let output = child.wait_with_output().unwrap();
        let (text, progress) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert_eq!(output.status.code(), Some(0), "{text}{progress}");
        assert!(!text.contains('\x1b') && !progress.contains('\x1b'), "no colours and no cursor in a pipe");
        Self { text }
    }

    /// The table from its heading on.
    fn table(&self) -> Vec<&str> {
        let lines = self.text.lines().skip_while(|line| !line.starts_with("strategy"));
        lines.take_while(|line| !line.is_empty()).collect()
    }

    /// The number of `strategy` below `heading`; each word of a heading is a column of its own in the lower line.
    fn number(&self, strategy: &str, heading: &str) -> u64 {
        let table = self.table();
        let column = table[0].split_whitespace().skip(1).position(|word| word == heading).expect(heading);
        let row = table.iter().find_map(|line| line.strip_prefix(strategy)).expect(strategy);
        row.split_whitespace().nth(column).expect(heading).parse().unwrap()
    }

    /// The number between two pieces of text.
    fn between(&self, before: &str, after: &str) -> u64 {
        let rest = self.text.split_once(before).expect(before).1;
        rest.split_once(after).expect(after).0.parse().unwrap()
    }
}

#[test]
fn two_seeds_give_two_tables_whose_losses_are_the_ledger_s_and_forebay_has_none() {
    let children = [1, 2].map(|seed| demo(&format!("--callers 20 --calls 3 --seed {seed}")));
    let stories = children.map(Story::of);
    for story in &stories {
        let lost = story.number("naive threads", "lost:");
        assert!(lost > 0, "{}", story.text);
        assert_eq!(story.between("threads lost ", " of 60 calls"), lost, "{}", story.text);
        assert_eq!(story.between("ledger counts ", " unanswered"), lost, "{}", story.text);
        let kinds: u64 =
            ["reset", "timeout", "429", "5xx"].iter().map(|kind| story.number("naive threads", kind)).sum();
        assert_eq!(kinds, lost, "{}", story.text);
        assert_eq!(story.number("naive threads", "made"), 60);
        for strategy in ["naive threads", "semaphore + token bucket", "forebay"] {
            let ends = ["answered", "lost:", "up"].map(|end| story.number(strategy, end));
            assert_eq!((ends.iter().sum::<u64>(), ends[2]), (60, 0), "{}", story.text);
        }
        assert_eq!(story.number("forebay", "lost:"), 0, "{}", story.text);
    }
    assert_ne!(stories[0].table(), stories[1].table());
}

#[test]
fn ctrl_c_in_mid_run_is_exit_code_130() {
    let mut child = demo("--callers 20 --calls 1000");
    let mut progress = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    progress.read_line(&mut line).unwrap();
    assert!(line.starts_with("naive threads"), "{line}");
    Command::new("kill").args(["-s", "INT", &child.id().to_string()]).status().unwrap();
    let mut rest = String::new();
    progress.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest}");
    assert!(rest.ends_with("interrupted\n"), "{rest}");
    let mut out = String::new();
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    assert!(!out.contains("strategy"), "no table of what did not happen: {out}");
}

#[test]
fn what_cannot_be_played_is_exit_code_2() {
    for arguments in ["--callers 0", "--callers 201", "--calls 0", "--seed x"] {
        let output = demo(arguments).wait_with_output().unwrap();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{arguments}");
    }
}
