//! What one message costs beside so many calls that back off, or wait.

use std::time::{Duration, Instant};

use forebay::Forebay;

use crate::figure::Figures;
use crate::systems::{chat, crowd, on_one_thread, start};

const CROWD: usize = 100_000;

/// Flat: what a deeper tree and a colder cache cost is borne, a scan of what waits (5 ms for 100,000) is not.
const FLAT: f64 = 2.0;

pub(crate) fn run(figures: &mut Figures) {
    on_one_thread(async {
        let (nothing, retries, waiting) = (start().await, start().await, start().await);
        crowd(&retries, "ill", CROWD).await;
        crowd(&waiting, "silent", CROWD).await;
        let systems = [nothing, retries, waiting];
        let (mut messages, mut calls) = ([vec![], vec![], vec![]], [vec![], vec![], vec![]]);
        let count = if figures.plan.is_quick { 500 } else { 3_000 };
        for round in 0..figures.plan.rounds() {
            for turn in 0..systems.len() {
                let which = (turn + round) % systems.len();
                messages[which].push(message(&systems[which], count).await);
                calls[which].push(call(&systems[which], count).await);
            }
        }
        for (what, values) in [("a message", messages), ("a call", calls)] {
            let [alone, retries, waiting] = values;
            let over = |values: &[f64]| values.iter().zip(&alone).map(|(many, none)| many / none).collect();
            let (of_retries, of_waiting) = (over(&retries), over(&waiting));
            figures.show(&format!("{what} and its answer, nothing else there"), alone, "µs");
            figures.show(&format!("{what} and its answer, 100,000 pending retries"), retries, "µs");
            figures.compare("  to the first", of_retries, FLAT);
            figures.show(&format!("{what} and its answer, 100,000 waiting calls"), waiting, "µs");
            figures.compare("  to the first", of_waiting, FLAT);
        }
    });
}

/// µs for a message to the dispatcher and back.
async fn message(forebay: &Forebay, count: u32) -> f64 {
    let start = Instant::now();
    for _ in 0..count {
        forebay.health().await.expect("the dispatcher answers");
    }
    per(start.elapsed(), count)
}

/// µs for a call that is answered at once: some six messages through the dispatcher, a slot and back.
async fn call(forebay: &Forebay, count: u32) -> f64 {
    let start = Instant::now();
    for _ in 0..count {
        forebay.call(chat("well")).await.expect("answered");
    }
    per(start.elapsed(), count)
}

fn per(took: Duration, count: u32) -> f64 {
    took.as_secs_f64() * 1e6 / f64::from(count)
}
