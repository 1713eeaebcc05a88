//! What the core costs when much waits, fails or dies: one figure a file, each on the public face.
//!
//! `cargo bench --bench core`, or `-- --quick`, or `-- WORD` for the figures whose name has the word in it. Medians over
//! rounds, least and greatest beside them. What is compared takes turns within a round and is given as a ratio within it:
//! the machine's moods then hit both. Where an aim is a ratio, a broken one makes the exit code 1; where it is an
//! absolute figure, the reader judges.

mod daemon;
mod deaths;
mod decisions;
mod figure;
mod memory;
mod neighbour;
mod retries;
mod systems;

use figure::{Figures, Plan};

fn main() {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("waiting") {
        return memory::measure_here(arguments.next().expect("how many calls"));
    }
    let plan = Plan::read(std::env::args().skip(1));
    // Panics are what some figures are about: they need no report.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.payload().downcast_ref::<&str>() != Some(&systems::PLANTED) {
            report(panic);
        }
    }));
    let mut figures = Figures::new(plan);
    figures.take("retries", retries::run);
    figures.take("neighbour", neighbour::run);
    figures.take("decisions", decisions::run);
    figures.take("memory embedded", memory::embedded);
    figures.take("memory gateway", memory::gateway);
    figures.take("restart", deaths::restart);
    figures.take("panic", deaths::panicking);
    if figures.is_broken() {
        std::process::exit(1);
    }
}
