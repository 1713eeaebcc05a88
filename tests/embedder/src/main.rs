//! A program with forebay in it. Prints a line for each thing it checks; the first that does not hold ends it with an
//! error. Run it with `cargo run --locked --manifest-path tests/embedder/Cargo.toml`.

mod checks;
mod process;
mod upstream;

use std::future::Future;
use std::time::Duration;

/// Whatever takes longer has gone wrong.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs one check and says that it held.
async fn check(name: &str, work: impl Future<Output = ()>) {
    if tokio::time::timeout(PATIENCE, work).await.is_err() {
        eprintln!("no end in sight: {name}");
        std::process::exit(1);
    }
    println!("ok: {name}");
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let before = process::State::take();
    check("the tree of packages has no actix-web in it", checks::the_tree_is_small()).await;
    check("handle and futures may go to any thread", checks::all_may_be_sent()).await;
    check("300 calls from many threads each get their own answer", checks::calls()).await;
    check("the dispatcher takes calls as messages", checks::messages()).await;
    check("a stream brings its events in order and ends", checks::streams()).await;
    check("calls and streams go over HTTP", checks::http()).await;
    check("a transport that panics anywhere leaves every call its outcome", checks::panics()).await;
    check("a dropped call and a dropped stream end their exchange", checks::drops()).await;
    check("a shutdown drains, and tells those who come late", checks::shutdown()).await;
    check("a shutdown whose time is over ends what is left", checks::impatient_shutdown()).await;
    check("two systems in one process know nothing of each other", checks::two_systems()).await;
    check("no thread is left when the last handle is gone", process::no_thread_is_left()).await;
    before.assert_unchanged();
    println!("ok: panic hook, signal handlers, crypto provider and subscriber are as they were");
}
