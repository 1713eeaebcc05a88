//! A storm of crashes: whatever kills request actors, wherever they are, each call has one end and its own.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;

use super::{chat, echo, hear, prompt_of, streamed};
use crate::clock::{self, in_virtual_time};
use crate::pool::transport::{HttpRequest, HttpResponse, MemoryTransport};
use crate::{Config, Forebay};

const CALLS: usize = 10_000;
const SLOTS: usize = 64;

/// What befalls the first attempt of every tenth call, by turns; the texts are what is planted in the pool.
const CRASHES: [&str; 4] =
    ["panic in the handler", "panic in the future", "panic while decoding", "terminate the actor"];

/// Call `n`: every second one asks for a stream, and so do half of the doomed ones.
fn prompt(n: usize) -> String {
    let doom = if n % 10 < 1 { CRASHES[n / 20 % 4] } else { "nothing" };
    format!("call {n}, {doom}.")
}

fn is_stream(n: usize) -> bool {
    n / 10 % 2 == n % 2
}

/// What upstreams have seen.
#[derive(Default)]
struct Seen {
    attempts: AtomicUsize,
    open: AtomicUsize,
    most: AtomicUsize,
    /// The prompts whose first attempt has come.
    asked: Mutex<std::collections::HashSet<String>>,
}

/// Echoes the prompt, unless that dooms its first attempt.
async fn answer(seen: Arc<Seen>, request: HttpRequest) -> HttpResponse {
    struct Open(Arc<Seen>);
    impl Drop for Open {
        fn drop(&mut self) {
            self.0.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
    seen.attempts.fetch_add(1, Ordering::Relaxed);
    let open = seen.open.fetch_add(1, Ordering::Relaxed) + 1;
    seen.most.fetch_max(open, Ordering::Relaxed);
    let open = Open(Arc::clone(&seen));
    clock::until(clock::now() + Duration::from_millis(20)).await;
    let mut prompt = prompt_of(&request);
    if seen.asked.lock().unwrap().insert(prompt.clone()) {
        assert!(!prompt.contains("panic in the future"), "a planted panic in a future");
    } else {
        prompt = prompt.replace("panic while decoding", "now well");
    }
    echo(&request, &prompt, open).await
}

async fn system(seen: &Arc<Seen>) -> Forebay {
    let text = format!(
        "[pool]\nthreads = 0\n[queue]\ncapacity = {CALLS}\n[retry]\nmax_attempts = 3\n\
         [upstreams.up]\nbase_url = \"http://u.test/v1\"\nmodels = [\"m\"]\nlimits = {{ max_concurrent = {SLOTS} }}"
    );
    let seen = Arc::clone(seen);
    let open = move || {
        let seen = Arc::clone(&seen);
        MemoryTransport::new(move |request| {
            let answer = answer(Arc::clone(&seen), request);
            async move { Ok(answer.await) }
        })
    };
    Forebay::builder(Config::from_toml(&text).unwrap()).transport(open).seed(1).start().await.unwrap()
}

#[test]
fn a_thousand_crashes_among_ten_thousand_calls_leave_each_call_one_end_and_every_slot() {
    in_virtual_time(async {
        let seen = Arc::<Seen>::default();
        let forebay = system(&seen).await;
        let ends = Cell::new(0);
        let calls = (0..CALLS).map(|n| {
            let (forebay, ends) = (&forebay, &ends);
            async move {
                let request = if is_stream(n) { streamed(&prompt(n)) } else { chat(&prompt(n)) };

                let heard = hear(forebay, request).await;
                ends.set(ends.get() + 1);
                heard
            }
        });
        let outcomes = join_all(calls).await;
        assert_eq!(ends.get(), CALLS);

        let doomed: Vec<usize> = (0..CALLS).filter(|n| !prompt(*n).contains("nothing")).collect();
        assert_eq!(doomed.len(), 1_000);
        assert_eq!(doomed.iter().filter(|n| is_stream(**n)).count(), 500);
        let mut broken = 0;
        for (n, outcome) in outcomes.iter().enumerate() {
            let prompt = prompt(n);
            // Both befall a stream behind its first content.
            let breaks = is_stream(n) && (prompt.contains("decoding") || prompt.contains("terminate"));
            match outcome {
                Err("worker_crashed") if breaks => broken += 1,
                Ok(heard) if !breaks => {
                    assert!(
                        heard.contains(&format!("call {n},")) && heard.matches("call").count() == 1,
                        "{n}: {heard}"
                    );
                }
                other => panic!("{prompt} has {other:?}"),
            }
        }
        assert_eq!(broken, 250);
        // A handler that panics has asked nobody; every other crash but those of broken streams made a second attempt.
        assert_eq!(seen.attempts.load(Ordering::Relaxed), CALLS + 500);
        assert!(forebay.health().await.unwrap().is_pool_unready, "so many deaths are told");

        // The last restarts have been waited out: every slot is there, and all of them can be used at once.
        clock::until(clock::now() + Duration::from_secs(10)).await;
        seen.most.store(0, Ordering::Relaxed);
        let again = join_all((0..2 * SLOTS).map(|n| hear(&forebay, chat(&format!("again {n}"))))).await;
        assert!(again.iter().all(Result::is_ok));
        assert_eq!(seen.most.load(Ordering::Relaxed), SLOTS);
        clock::until(clock::now() + Duration::from_secs(120)).await;
        let health = forebay.health().await.unwrap();
        assert_eq!((health.in_flight, health.waiting, health.is_pool_unready), (0, 0, false));
    });
}
