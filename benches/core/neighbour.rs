//! What the calls of an upstream that is well suffer beside thousands that wait for one that is silent.

use std::time::{Duration, Instant};

use forebay::Forebay;

use crate::figure::Figures;
use crate::systems::{chat, crowd, on_one_thread, start};

pub(crate) fn run(figures: &mut Figures) {
    on_one_thread(async {
        let (alone, beside) = (start().await, start().await);
        crowd(&beside, "silent", 5_020).await;
        let (mut without, mut with, mut ratios) = (vec![], vec![], vec![]);
        let calls = if figures.plan.is_quick { 300 } else { 1_000 };
        for _ in 0..figures.plan.rounds() {
            let (a, b) = p99s(&alone, &beside, calls).await;
            without.push(a);
            with.push(b);
            ratios.push(b / a);
        }
        figures.show("p99 of a call a millisecond, nothing else there", without, "µs");
        figures.show("p99 of a call a millisecond, 5,000 wait for another upstream", with, "µs");
        figures.compare("  to the first", ratios, 1.5);
    });
}

/// The 99th percentile, in µs, of a call through each system every millisecond: one after the other within each.
async fn p99s(alone: &Forebay, beside: &Forebay, calls: usize) -> (f64, f64) {
    let mut tick = tokio::time::interval(Duration::from_millis(1));
    let (mut without, mut with) = (Vec::with_capacity(calls), Vec::with_capacity(calls));
    for number in 0..calls {
        tick.tick().await;
        // Who goes first changes: the first is the colder one.
        if number % 2 == 0 {
            without.push(time(alone).await);
            with.push(time(beside).await);
        } else {
            with.push(time(beside).await);
            without.push(time(alone).await);
        }
    }
    (p99(without), p99(with))
}

async fn time(forebay: &Forebay) -> f64 {
    let start = Instant::now();
    forebay.call(chat("well")).await.expect("answered");
    start.elapsed().as_secs_f64() * 1e6
}

fn p99(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() * 99 / 100]
}
