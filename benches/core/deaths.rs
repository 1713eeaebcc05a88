//! What a death costs: how long a slot is gone, and what a call that panics takes beside one that is answered.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use forebay::transport::{HttpRequest, MemoryTransport};
use forebay::{Config, Forebay, Outcome};

use crate::figure::Figures;
use crate::systems::{PLANTED, chat, on_one_thread, spawn, start, until};

/// From the panic of a slot's attempt to the slot's next attempt, when a call waits for it. A slot's first death only:
/// later ones in a row are replaced later and later, on purpose.
pub(crate) fn restart(figures: &mut Figures) {
    let rounds = if figures.plan.is_quick { 30 } else { 300 };
    let took = on_one_thread(async {
        let mut took = Vec::new();
        for _ in 0..rounds {
            took.push(one_restart().await.as_secs_f64() * 1e6);
        }
        took
    });
    figures.show("from the death of a request actor to the slot's next attempt", took, "µs");
}

async fn one_restart() -> Duration {
    let attempts: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let seen = Arc::clone(&attempts);
    let text = r#"
        [pool]
        threads = 0
        [retry]
        max_attempts = 1
        [upstreams.fatal]
        base_url = "http://fatal.test/v1"
        models = ["fatal"]
        limits = { max_concurrent = 1 }
        "#;
    let config = Config::from_toml(text).unwrap_or_else(|problems| panic!("{problems}"));
    let meet = move || {
        let seen = Arc::clone(&seen);
        MemoryTransport::new(move |_: HttpRequest| {
            let seen = Arc::clone(&seen);
            async move {
                // The second call must be in line when the first one dies.
                tokio::task::yield_now().await;
                seen.lock().expect("never held while it panics").push(Instant::now());
                std::panic::panic_any(PLANTED)
            }
        })
    };
    let forebay = Forebay::builder(config).transport(meet).start().await.expect("the system starts");
    for call in [spawn(&forebay, "fatal"), spawn(&forebay, "fatal")] {
        died(call.await.expect("no panic here"));
    }
    let attempts = attempts.lock().expect("never held while it panics");
    attempts[1] - attempts[0]
}

fn died(outcome: Outcome) {
    assert_eq!(outcome.expect_err("it panics").code(), "worker_crashed");
}

/// Whole calls, one at a time: with a slot in 256 dying at each, none waits for a restart.
pub(crate) fn panicking(figures: &mut Figures) {
    on_one_thread(async {
        let (mut sound, mut fatal, mut ratios) = (vec![], vec![], vec![]);
        for _ in 0..figures.plan.rounds() {
            let forebay = start().await;
            let pool: Vec<_> = (0..256).map(|_| spawn(&forebay, "sound")).collect();
            for call in pool {
                call.await.expect("no panic here").expect("answered");
            }
            until(&forebay, |health| health.slots == 256).await;
            let (mut a, mut b) = (Duration::ZERO, Duration::ZERO);
            for _ in 0..200 {
                let start = Instant::now();
                forebay.call(chat("sound")).await.expect("answered");
                a += start.elapsed();
                let start = Instant::now();
                died(forebay.call(chat("fatal")).await);
                b += start.elapsed();
            }
            sound.push(a.as_secs_f64() * 1e6 / 200.0);
            fatal.push(b.as_secs_f64() * 1e6 / 200.0);
            ratios.push(b.as_secs_f64() / a.as_secs_f64());
        }
        figures.show("a call that is answered", sound, "µs");
        figures.show("a call whose attempt panics", fatal, "µs");
        figures.show("  to the first", ratios, "x");
    });
}
