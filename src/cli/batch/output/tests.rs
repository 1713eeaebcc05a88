//! What a run leaves behind, and what the next one makes of it, cut off wherever it may be.

use super::super::plan;
use super::*;
use crate::messages::{ErrorKind, Headers, Outcome};
use crate::providers::batch_line::{self, line_id};

/// OUT in a folder of its own.
struct Place {
    folder: tempfile::TempDir,
}

fn key(number: u8) -> Key {
    Key { name: plan::name(&format!("line {number}")), id: u128::from(number) << 64 | 7 }
}

fn keys(numbers: impl IntoIterator<Item = u8>) -> Vec<Key> {
    numbers.into_iter().map(key).collect()
}

/// A line of OUT; what it says is `say`.
fn line(number: u8, is_answer: bool, say: &str) -> Vec<u8> {
    let body = serde_json::json!({"say": say}).to_string().into();
    let outcome: Outcome = match is_answer {
        true => Ok(crate::messages::Answer {
            status: 200,
            headers: Headers::new(),
            body: crate::messages::AnswerBody::Whole(body),
            meta: Default::default(),
        }),
        false => Err(crate::messages::Error::new(ErrorKind::DeadlineExceeded, say)),
    };
    batch_line::ended(&line_id(key(number).id), &format!("line {number}"), "req_1", &outcome)
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn out(&self) -> PathBuf {
        self.folder.path().join("out.jsonl")
    }

    fn partial(&self) -> PathBuf {
        self.folder.path().join("out.jsonl.partial")
    }

    fn open(&self) -> Output {
        Output::open(&self.out()).unwrap()
    }

    fn refused(&self) -> String {
        match Output::open(&self.out()).err().unwrap() {
            Refused::Foreign(problem) => format!("foreign: {problem}"),
            Refused::Locked(problem) => format!("locked: {problem}"),
            Refused::Failed(problem) => format!("failed: {problem}"),
        }
    }

    fn files(&self) -> Vec<String> {
        let names = fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<_> = names.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

#[test]
fn lines_come_in_the_order_of_their_ends_and_leave_in_that_of_in() {
    let place = Place::new();
    let mut output = place.open();
    for number in [3, 1, 2] {
        output.add(key(number), number != 2, &line(number, number != 2, "x")).unwrap();
    }
    assert_eq!(
        fs::read(place.partial()).unwrap(),
        [line(3, true, "x"), line(1, true, "x"), line(2, false, "x")].concat()
    );
    assert_eq!(output.ends(&keys(1..=3)), (2, 1));
    output.finish(&keys(1..=3)).unwrap();
    assert_eq!(fs::read(place.out()).unwrap(), [line(1, true, "x"), line(2, false, "x"), line(3, true, "x")].concat());
    assert_eq!(place.files(), ["out.jsonl"]);
}

#[test]
fn cut_at_any_byte_what_was_whole_stays_and_nothing_is_torn_or_double() {
    let lines: Vec<_> = (1..=2).map(|number| line(number, true, "x")).collect();
    let whole = lines.concat();
    for cut in 0..=whole.len() {
        let place = Place::new();
        fs::write(place.partial(), &whole[..cut]).unwrap();
        let mut output = place.open();
        let kept = whole[..cut].iter().filter(|byte| **byte == b'\n').count();
        assert_eq!(fs::read(place.partial()).unwrap(), lines[..kept].concat(), "cut at {cut}");
        assert_eq!(output.ends(&keys(1..=2)), (kept as u64, 0));
        for number in 1..=2 {
            if !output.is_answered(key(number).id) {
                output.add(key(number), true, &line(number, true, "x")).unwrap();
            }
        }
        output.finish(&keys(1..=2)).unwrap();
        assert_eq!(fs::read(place.out()).unwrap(), whole, "cut at {cut}");
    }
}

#[test]
fn an_answer_counts_before_any_error_and_of_errors_the_last() {
    let place = Place::new();
    let mut output = place.open();
    for (number, is_answer, say) in [(1, false, "a"), (2, false, "a"), (1, true, "b"), (2, false, "b"), (1, false, "c")]
    {
        output.add(key(number), is_answer, &line(number, is_answer, say)).unwrap();
    }
    drop(output);
    let output = place.open();
    assert!(output.is_answered(key(1).id) && !output.is_answered(key(2).id));
    output.finish(&keys([1, 2])).unwrap();
    assert_eq!(fs::read(place.out()).unwrap(), [line(1, true, "b"), line(2, false, "b")].concat());
}

#[test]
fn a_rerun_takes_what_is_good_from_out_and_replaces_it_in_one_step() {
    let place = Place::new();
    fs::write(place.out(), [line(1, true, "a"), line(2, false, "a"), line(3, true, "a")].concat()).unwrap();
    let mut output = place.open();
    let asked = keys([1, 2, 3]);
    assert_eq!(output.compare(&asked), Match { answered: 2, failed: 1, ..Match::default() });
    assert!(!output.is_done(&asked) && !output.is_of_another(&asked));
    output.add(key(2), true, &line(2, true, "b")).unwrap();
    let before = fs::read(place.out()).unwrap();
    assert_eq!(
        before,
        [line(1, true, "a"), line(2, false, "a"), line(3, true, "a")].concat(),
        "untouched till the end"
    );
    output.finish(&asked).unwrap();
    assert_eq!(fs::read(place.out()).unwrap(), [line(1, true, "a"), line(2, true, "b"), line(3, true, "a")].concat());
    let output = place.open();
    assert!(output.is_done(&asked) && !output.is_done(&keys([2, 1, 3])));
    output.leave().unwrap();
    assert_eq!(place.files(), ["out.jsonl"], "nothing was added, nothing is left");
}

#[test]
fn killed_between_the_renaming_and_the_clearing_up_it_is_as_if_done() {
    let place = Place::new();
    for file in [place.out(), place.partial()] {
        fs::write(file, [line(1, true, "a"), line(2, true, "a")].concat()).unwrap();
    }
    fs::write(place.folder.path().join("out.jsonl.partial.new"), "half of a").unwrap();
    let output = place.open();
    assert!(output.is_done(&keys([1, 2])));
    output.discard().unwrap();
    assert_eq!(place.files(), ["out.jsonl"]);
}

#[test]
fn lines_that_changed_or_went_are_told_from_those_of_another_batch() {
    let place = Place::new();
    fs::write(place.out(), [line(1, true, "a"), line(2, true, "a"), line(3, true, "a")].concat()).unwrap();
    let output = place.open();
    let changed = Key { id: 99, ..key(2) };
    let found = output.compare(&[key(1), changed]);
    assert_eq!(found, Match { answered: 1, changed: 1, gone: 1, ..Match::default() });
    assert!(!output.is_of_another(&[key(1), changed]));
    assert!(output.is_of_another(&[changed]) && output.is_of_another(&[]));
}

#[test]
fn what_is_not_ours_is_not_touched() {
    let place = Place::new();
    for text in ["precious\n", "{\"custom_id\":\"a\"}\n"] {
        fs::write(place.out(), [&line(1, true, "a")[..], text.as_bytes()].concat()).unwrap();
        let refused = place.refused();
        assert!(refused.starts_with("foreign: ") && refused.contains("out.jsonl:2: "), "{refused}");
        assert_eq!(place.files(), ["out.jsonl"]);
    }
    fs::remove_file(place.out()).unwrap();
    for text in ["precious", "precious\nmore", "{\"id\":\"x\"}\n"] {
        fs::write(place.partial(), text).unwrap();
        assert!(place.refused().starts_with("foreign: "), "{text}");
        assert_eq!(fs::read_to_string(place.partial()).unwrap(), text);
    }
    fs::remove_file(place.partial()).unwrap();
    fs::create_dir(place.out()).unwrap();
    assert!(place.refused().contains("is no file"));
}

#[test]
fn a_line_that_a_power_cut_has_spoilt_is_asked_again() {
    let place = Place::new();
    let spoilt = [&line(1, true, "a")[..], b"\0\0\0\n", &line(3, true, "a"), b"\0\0"].concat();
    fs::write(place.partial(), spoilt).unwrap();
    let mut output = place.open();
    assert_eq!((output.unreadable(), output.ends(&keys(1..=3))), (1, (2, 0)));
    output.add(key(2), true, &line(2, true, "b")).unwrap();
    output.finish(&keys(1..=3)).unwrap();
    assert_eq!(fs::read(place.out()).unwrap(), [line(1, true, "a"), line(2, true, "b"), line(3, true, "a")].concat());
}

#[test]
fn of_two_runs_to_one_out_the_second_is_refused_and_named() {
    let place = Place::new();
    let output = place.open();
    let refused = place.refused();
    assert!(refused.starts_with("locked: ") && refused.contains("out.jsonl.partial"), "{refused}");
    output.discard().unwrap();
    assert!(Output::open(&place.out()).is_ok());
}

#[cfg(unix)]
#[test]
fn a_link_stays_a_link_and_who_may_read_out_stays_the_same() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = Place::new();
    let real = place.folder.path().join("real.jsonl");
    fs::write(&real, line(1, false, "a")).unwrap();
    fs::set_permissions(&real, fs::Permissions::from_mode(0o600)).unwrap();
    std::os::unix::fs::symlink(&real, place.out()).unwrap();
    let mut output = place.open();
    output.add(key(1), true, &line(1, true, "b")).unwrap();
    output.finish(&keys([1])).unwrap();
    assert!(fs::symlink_metadata(place.out()).unwrap().is_symlink());
    assert_eq!(fs::read(&real).unwrap(), line(1, true, "b"));
    assert_eq!(fs::metadata(&real).unwrap().permissions().mode() & 0o777, 0o600);
}
