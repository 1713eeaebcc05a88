//! What a waiting call costs in memory: its share of what the process grows by, caller's task and all.

use std::process::Command;

use forebay::Forebay;

use crate::daemon::{Daemon, resident};
use crate::figure::Figures;
use crate::systems::{crowd, on_one_thread, start, until};

const CALLS: usize = 100_000;

/// Floods of one daemon, one behind the other.
const FLOODS: usize = 5;

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
    // A descriptor each, here and in the daemon: as many as the limit allows.
    let calls = (open_files().saturating_sub(200)).min(if figures.plan.is_quick { 2_000 } else { 5_000 });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (mut each, mut left, mut again) = (vec![], vec![], vec![]);
    for _ in 0..3 {
        let (one, kept, more) = runtime.block_on(crowd_at_the_door(calls));
        each.push(one);
        left.push(kept);
        again.push(more);
    }
    figures.show(&format!("a call of 0.1 KB that waits, {calls} connections (aim: under 30)"), each, "KiB");
    figures.show("of each, kept by the allocator when all have gone", left, "KiB");
    figures.show("more for each of a fifth flood than of the fourth", again, "KiB");
}

/// KiB for each of `calls` connections whose call waits, KiB of each that the allocator keeps when they have gone, and
/// KiB more for each of the last flood of [`FLOODS`]: the first ones leave the allocator's heap in pieces.
async fn crowd_at_the_door(calls: usize) -> (f64, f64, f64) {
    let daemon = Daemon::start(calls - 1).await;
    daemon.warm(200).await;
    let before = daemon.resident();
    let full = daemon.fill(calls).await;
    let after = daemon.resident();
    let mut peaks = vec![full];
    for _ in 1..FLOODS {
        peaks.push(daemon.fill(calls).await);
    }
    let share = |more: usize, less: usize| more.saturating_sub(less) as f64 / calls as f64 / 1024.0;
    (share(full, before), share(after, before), share(peaks[FLOODS - 1], peaks[FLOODS - 2]))
}

/// Descriptors this process, and those it starts, may have.
fn open_files() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(1_024)
}
