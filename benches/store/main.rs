//! What durability costs: one figure a function, on a store in a temporary folder.
//!
//! `cargo bench --bench store`, or `-- --quick`, or `-- WORD` for the figures whose name has the word in it. How fast the disk
//! is decides the absolute figures, so the reader judges them, beside a bare `fsync` of the same minute; where an aim is a ratio,
//! both sides take turns within a round and a broken aim makes the exit code 1.

#[path = "../core/figure.rs"]
#[allow(dead_code)] // its plan serves more figures than these
mod figure;

use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use figure::{Figures, Plan};
use forebay::Measured;

const BODY: usize = 2_048;
const ANSWER: usize = 4_096;
/// As many jobs are in flight in the figures of claims.
const WINDOW: usize = 64;
/// As often each depth has its turn within a round.
const TURNS: usize = 8;

fn main() {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("restart") {
        return restart_here(Path::new(&arguments.next().expect("a file")));
    }
    let mut figures = Figures::new(Plan::read(std::env::args().skip(1)));
    figures.take("fsync", fsync);
    figures.take("submits", submits);
    figures.take("depths", depths);
    if figures.is_broken() {
        std::process::exit(1);
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, work)
}

/// What the disk does at best: a page written and synced, by nobody else.
fn fsync(figures: &mut Figures) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut file = std::fs::File::create(folder.path().join("pages")).expect("a file");
    let (mut rates, mut worst) = (vec![], vec![]);
    for _ in 0..figures.plan.rounds() {
        let mut took = vec![];
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(300) {
            let one = Instant::now();
            file.write_all(&[7; 4096]).and_then(|()| file.sync_data()).expect("a disk that works");
            took.push(one.elapsed());
        }
        rates.push(took.len() as f64 / start.elapsed().as_secs_f64());
        worst.push(p99_ms(took));
    }
    figures.show("pages written and synced, one after another", rates, "/s");
    figures.show("  p99", worst, "ms");
}

/// Durable submissions: each waits for its own before it makes the next.
fn submits(figures: &mut Figures) {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Measured::open(&folder.path().join("store.db"));
    let length = Duration::from_millis(if figures.plan.is_quick { 500 } else { 2_000 });
    for submitters in [1, 64, 1_024] {
        let (mut rates, mut worst) = (vec![], vec![]);
        for _ in 0..figures.plan.rounds().min(5) {
            let (took, seconds) = block_on(async {
                let start = Instant::now();
                let tasks: Vec<_> = (0..submitters)
                    .map(|_| tokio::task::spawn_local(submit_for(store.clone(), start, length)))
                    .collect();
                let mut took = vec![];
                for task in tasks {
                    took.extend(task.await.expect("a submitter"));
                }
                (took, start.elapsed().as_secs_f64())
            });
            rates.push(took.len() as f64 / seconds);
            worst.push(p99_ms(took));
        }
        figures.show(&format!("durable submissions of 2 KiB, {submitters} at a time"), rates, "/s");
        figures.show("  p99", worst, "ms");
    }
    block_on(store.close());
}

async fn submit_for(store: Measured, start: Instant, length: Duration) -> Vec<Duration> {
    let mut took = vec![];
    while start.elapsed() < length {
        let one = Instant::now();
        store.submit(BODY).await;
        took.push(one.elapsed());
    }
    took
}

/// Claims and ends at two depths, in turns; then what a process with the deeper one weighs and how fast it starts.
fn depths(figures: &mut Figures) {
    let few = 1_000;
    let many = if figures.plan.is_quick { 100_000 } else { 1_000_000 };
    let folder = tempfile::tempdir().expect("a folder");
    let files = [folder.path().join("few.db"), folder.path().join("many.db")];
    let stores = [few, many].into_iter().zip(&files).map(|(depth, file)| {
        let store = Measured::open(file);
        block_on(store.fill(0..depth, 1_024));
        store
    });
    let stores: Vec<_> = stores.collect();
    let jobs = if figures.plan.is_quick { 128 } else { 512 };
    let mut made = [few, many];
    let (mut rates, mut worst, mut ratios) = ([vec![], vec![]], [vec![], vec![]], vec![]);
    for _ in 0..figures.plan.rounds() {
        let mut times = [(vec![], 0.0), (vec![], 0.0)];
        // Many short turns, and who goes first changes: both meet the same moods of the disk.
        for turn in (0..TURNS).flat_map(|turn| [turn % 2, 1 - turn % 2]) {
            let (took, seconds) = block_on(finish(&stores[turn], jobs));
            times[turn].0.extend(took);
            times[turn].1 += seconds;
            block_on(stores[turn].fill(made[turn]..made[turn] + jobs, 1_024));
            made[turn] += jobs;
        }
        ratios.push(times[1].1 / times[0].1);
        for (turn, (took, seconds)) in times.into_iter().enumerate() {
            rates[turn].push((TURNS * jobs) as f64 / seconds);
            worst[turn].push(p99_ms(took));
        }
    }
    for (depth, (rates, worst)) in [few, many].iter().zip(rates.into_iter().zip(worst)) {
        figures.show(&format!("claimed, started and finished, {WINDOW} in flight, {depth} queued"), rates, "/s");
        figures.show("  p99 of start and finish", worst, "ms");
    }
    figures.compare("as long at the greater depth as at the lesser", ratios, 1.5);
    stores.iter().for_each(|store| block_on(store.close()));
    restart(figures, &files[1], many);
}

/// `jobs` jobs through a window, as the dispatcher takes them; how long each start and finish took, and all of it.
async fn finish(store: &Measured, jobs: usize) -> (Vec<Duration>, f64) {
    let start = Instant::now();
    let mut took = vec![];
    for _ in 0..jobs / WINDOW {
        let claimed = store.claim(WINDOW).await;
        assert_eq!(claimed.len(), WINDOW);
        let tasks: Vec<_> = claimed
            .into_iter()
            .map(|job| {
                let store = store.clone();
                tokio::task::spawn_local(async move {
                    let one = Instant::now();
                    store.start_and_finish(job, ANSWER).await;
                    one.elapsed()
                })
            })
            .collect();
        for task in tasks {
            took.push(task.await.expect("an attempt"));
        }
    }
    (took, start.elapsed().as_secs_f64())
}

/// In a process of its own: until the first jobs are claimed, and its memory then.
fn restart(figures: &mut Figures, file: &Path, depth: usize) {
    let (mut seconds, mut mebibytes) = (vec![], vec![]);
    for _ in 0..figures.plan.rounds().min(5) {
        let program = std::env::current_exe().expect("this program's path");
        let child = Command::new(program).arg("restart").arg(file).output().expect("a child process");
        let said = String::from_utf8(child.stdout).expect("two numbers");
        let mut numbers = said.split_whitespace().map(|number| number.parse::<f64>().expect("a number"));
        seconds.push(numbers.next().expect("seconds"));
        mebibytes.push(numbers.next().expect("mebibytes"));
    }
    figures.show(&format!("opened, counted and first jobs claimed, {depth} queued"), seconds, "s");
    figures.show("the process then, after 640 jobs (aim: under 100)", mebibytes, "MiB");
}

fn restart_here(file: &Path) {
    let start = Instant::now();
    block_on(async {
        let store = Measured::open(file);
        store.ready().await;
        let claimed = store.claim(WINDOW).await;
        let seconds = start.elapsed().as_secs_f64();
        for job in claimed {
            store.start_and_finish(job, ANSWER).await;
        }
        finish(&store, 9 * WINDOW).await;
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kibibytes = resident.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
        println!("{seconds} {}", kibibytes.unwrap_or(f64::NAN) / 1_024.0);
        store.close().await;
    });
}

fn p99_ms(mut took: Vec<Duration>) -> f64 {
    took.sort_unstable();
    took[(took.len() * 99 / 100).min(took.len() - 1)].as_secs_f64() * 1_000.0
}
