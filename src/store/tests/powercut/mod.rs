//! What a power cut leaves. A child process (this test's own executable) works on a store while `tests/powercut/recorder.c`
//! writes down what it sends to the disk and when the disk said that it has it. Cuts are then made through the record: of what
//! was not synced by then, nothing, all, some, or torn pieces are there; the store is opened on that, and asked for everything
//! that the child was told is done.

mod load;
mod record;

use std::path::{Path, PathBuf};
use std::process::Command;

use self::load::{Ack, check};
use self::record::Record;
use crate::clock::Dice;
use crate::store::planted::Point;

/// Compiles the recorder; whoever links Rust has a C compiler.
fn recorder(folder: &Path) -> PathBuf {
    let library = folder.join("recorder.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/powercut/recorder.c");
    let compiled =
        Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).args([&library, &source]).arg("-ldl").status();
    assert!(compiled.unwrap().success());
    library
}

/// A child that works on the store in `folder`, not yet started.
fn child(folder: &Path) -> Command {
    let mut child = Command::new(std::env::current_exe().unwrap());
    let name = format!("{}::load::works_in_a_child", module_path!().split_once("::").unwrap().1);
    child.args([&name, "--exact", "--ignored", "--test-threads", "1"]).env("FOREBAY_TEST_FOLDER", folder);
    child.env("RUST_BACKTRACE", "0").stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    child
}

/// Cuts the power `cuts` times; gives how often something was lost, with the first of it.
fn losses(is_synced: bool, cuts: u64) -> (usize, Option<String>) {
    let folder = tempfile::tempdir().unwrap();
    let works = folder.path().join("works");
    std::fs::create_dir(&works).unwrap();
    let log = folder.path().join("record");
    let mut child = child(&works);
    child.env("LD_PRELOAD", recorder(folder.path())).env("FOREBAY_RECORD", &log).env("FOREBAY_RECORD_DIR", &works);
    if !is_synced {
        child.env("FOREBAY_TEST_BLIND", "1");
    }
    assert!(child.status().unwrap().success());
    let record = Record::read(&log, &works);
    let mut dice = Dice::seeded(7);
    let mut lost = Vec::new();
    for cut in 0..cuts {
        let left = tempfile::tempdir().unwrap();
        let at = usize::try_from(dice.number()).unwrap() % record.len();
        let acks = record.cut(at, cut % 4, &mut dice, left.path());
        if let Err(what) = check(left.path(), &acks) {
            lost.push(format!("cut {cut} at event {at} of {}: {what}", record.len()));
        }
    }
    assert!(record.acks() > 500, "{} acknowledgements", record.acks());
    (lost.len(), lost.into_iter().next())
}

#[test]
fn nothing_acknowledged_is_lost_in_any_of_150_power_cuts() {
    assert_eq!(losses(true, 150), (0, None));
}

#[test]
fn the_same_cuts_find_what_is_lost_without_waiting_for_the_disk() {
    let (lost, first) = losses(false, 60);
    assert!(lost > 5, "the harness is blind: {lost} losses, {first:?}");
}

#[test]
fn nothing_acknowledged_is_lost_wherever_the_process_dies() {
    let points = [
        (Point::BeforeRename, 1),
        (Point::AfterRename, 1),
        (Point::InMigration, 2),
        (Point::BeforeCommit, 40),
        (Point::AfterCommit, 40),
        (Point::InClaim, 30),
        (Point::InFinish, 30),
        (Point::InRescue, 2),
        (Point::InPrune, 2),
    ];
    for (point, count) in points {
        let folder = tempfile::tempdir().unwrap();
        let mut child = child(folder.path());
        let died = child.env("FOREBAY_TEST_DIE", format!("{point:?}:{count}")).status().unwrap();
        assert!(!died.success(), "{point:?} was not reached");
        check(folder.path(), &load::acks(folder.path())).unwrap_or_else(|lost| panic!("{point:?}: {lost}"));
    }
}

/// Lets the k-th call of a kind fail in a child, and looks what is left.
fn failing(recorder: &Path, what: &str, at: u32, errno: i32) -> Vec<Ack> {
    let folder = tempfile::tempdir().unwrap();
    let works = folder.path().join("works");
    std::fs::create_dir(&works).unwrap();
    let mut child = child(&works);
    child.env("LD_PRELOAD", recorder).env("FOREBAY_RECORD_DIR", &works);
    child.env("FOREBAY_FAIL", format!("{what}:{at}:{errno}"));
    assert!(child.status().unwrap().success(), "{what} {at}");
    let acks = load::acks(&works);
    check(&works, &acks).unwrap_or_else(|lost| panic!("{what} {at}: {lost}"));
    acks
}

#[test]
fn a_disk_that_fails_once_loses_nothing_and_ends_the_store() {
    const EIO: i32 = 5;
    let folder = tempfile::tempdir().unwrap();
    let recorder = recorder(folder.path());
    for at in [1, 2, 3, 5, 8, 13, 21, 34, 55, 89] {
        for what in ["write", "sync"] {
            let acks = failing(&recorder, what, at, EIO);
            let is_refused = matches!(acks.last(), Some(Ack::Refused | Ack::Failed));
            assert!(is_refused, "{what} {at}: {:?}", acks.last());
        }
    }
}

#[test]
fn a_full_disk_takes_nothing_new_and_keeps_what_was_paid_for() {
    const ENOSPC: i32 = 28;
    let folder = tempfile::tempdir().unwrap();
    let recorder = recorder(folder.path());
    let mut kept = 0;
    for at in [100, 150, 210, 280, 360] {
        let acks = failing(&recorder, "write", at, ENOSPC);
        let full = acks.iter().position(|ack| matches!(ack, Ack::Full));
        let after = &acks[full.unwrap_or_else(|| panic!("{at}: it was never full"))..];
        kept += after.iter().filter(|ack| matches!(ack, Ack::Finished(..))).count();
        // The second round is the next opening's, which finds room again.
        let (first, second): (Vec<_>, Vec<_>) =
            after.iter().filter_map(Ack::submitted).partition(|number| *number < 1_000);
        assert!(first.is_empty() && !second.is_empty(), "{at}: {first:?} were taken by a full disk, then {second:?}");
    }
    assert!(kept > 0, "results are stored when the ballast has been let go");
}
