//! What a waiting call costs in memory: its share of what the process grows by, caller's task and all.

use std::process::Command;

use forebay::Forebay;

use crate::daemon::{Daemon, resident};
use crate::figure::Figures;
use crate::systems::{crowd, on_one_thread, start, until};

const CALLS: usize = 100_000;

/// Embedded, each round in a process of its own: an allocator does not give back all that it once had.
pub(crate) fn embedded(figures: &mut Figures) {
    let (mut each, mut left, mut again) = (vec![], vec![], vec![]);
    for _ in 0..figures.plan.rounds().min(5) {
        let child = Command::new(std::env::current_exe().expect("this program's path"))
            .args(["waiting", &CALLS.to_string()])
            .output()
            .expect("a child process");
        let said = String::from_utf8(child.stdout).expect("three numbers");
        let mut numbers = said.split_whitespace().map(|number| number.parse::<f64>().expect("a number"));
        let mut number = || numbers.next().expect("three numbers") / 1024.0;
        each.push(number());
        left.push(number());
        again.push(number());
    }
    figures.show("a waiting call of 0.1 KB (aim: under 4 KiB)", each, "KiB");
    figures.show("of each, kept by the allocator when all have gone", left, "KiB");
    figures.show("more for each of a second flood", again, "KiB");
}

/// The child's part: bytes for each call that waits, how many of them the allocator keeps behind its end, and how many
/// more a second flood takes, which is what was lost for good.
pub(crate) fn measure_here(calls: String) {
    let calls: usize = calls.parse().expect("a number");
    on_one_thread(async {
        let forebay = start().await;
        crowd(&forebay, "silent", 1_000).await.iter().for_each(tokio::task::JoinHandle::abort);
        until(&forebay, |health| health.waiting + health.in_flight == 0).await;
        let before = resident("self");
        let full = flood(&forebay, calls).await;
        let after = resident("self");
        let second = flood(&forebay, calls).await;
        let share = |more: usize, less: usize| more.saturating_sub(less) / calls;
        println!("{} {} {}", share(full, before), share(after, before), share(second, full));
    });
}

/// The process's bytes while `calls` wait; they have gone when it returns.
async fn flood(forebay: &Forebay, calls: usize) -> usize {
    let waiting = crowd(forebay, "silent", calls).await;
    let full = resident("self");
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
    drop(waiting);
    until(forebay, |health| health.waiting + health.in_flight == 0).await;
    full
}

/// Through the daemon, a connection each.
pub(crate) fn gateway(figures: &mut Figures) {
    // Two for each call here and in the daemon would be too many for the usual limit of 1,024.
    let calls = (open_files().saturating_sub(200)).min(if figures.plan.is_quick { 2_000 } else { 8_000 });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (mut each, mut left) = (vec![], vec![]);
    for _ in 0..3 {
        let (one, stays) = runtime.block_on(crowd_at_the_door(calls));
        each.push(one);
        left.push(stays);
    }
    figures.show(&format!("a call of 0.1 KB that waits, {calls} connections (aim: under 30 KiB)"), each, "KiB");
    figures.show("of each, kept by the allocator when all have gone", left, "KiB");
}

/// KiB for each of `calls` connections whose call waits, and KiB of each that stay when they have gone.
async fn crowd_at_the_door(calls: usize) -> (f64, f64) {
    let daemon = Daemon::start(calls - 1).await;
    daemon.warm(200).await;
    let before = daemon.resident();
    let waiting = daemon.fill(calls).await;
    let full = daemon.resident();
    drop(waiting);
    daemon.settled().await;
    let after = daemon.resident();
    let share = |bytes: usize| bytes as f64 / calls as f64 / 1024.0;
    (share(full - before), share(after.saturating_sub(before)))
}

/// Descriptors this process, and those it starts, may have.
fn open_files() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(1_024)
}
