//! What forebay costs: CPU of the whole gateway per call and per streamed chunk, beside a bare actix-web + awc
//! pass-through built here.
//!
//! `cargo bench --bench overhead`, or `-- --quick`. Gateway, pass-through and upstream are processes of their own on
//! 127.0.0.1; the load comes from this one. Only the CPU of gateway and pass-through is counted, as Linux accounts for
//! it, so neither load nor upstream enters. Both take turns within each round, and ratios are taken within a round: the
//! machine's moods then hit both. Nothing is asserted; the exit code is 0 whatever the figures.

#[path = "../support/helper.rs"]
mod helper;
mod load;
mod pass_through;
mod processes;
mod upstream;

use std::time::Duration;

use load::{Ask, Load};
use processes::{Contender, Helper};

/// What is measured: a label, how many connections, what they ask for.
const CASES: [(&str, usize, Ask); 6] = [
    ("call, 1 at a time", 1, Ask::Whole),
    ("call, 8 at a time", 8, Ask::Whole),
    ("call, 64 at a time", 64, Ask::Whole),
    ("chunk, 1 ms apart, 32 streams", 32, Ask::Paced { chunks: 250 }),
    ("chunk, burst, a write each", 4, Ask::Burst { chunks: 2_000, per_write: 1 }),
    ("chunk, burst, 64 to a write", 4, Ask::Burst { chunks: 20_000, per_write: 64 }),
];

/// Turns that each contender has within a round.
const TURNS: usize = 3;

fn main() {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("upstream") => upstream::run(),
        Some("pass-through") => pass_through::run(&arguments.next().expect("the upstream's address")),
        first => {
            let rest: Vec<String> = first.map(str::to_owned).into_iter().chain(arguments).collect();
            compare(&Plan::read(&rest));
        }
    }
}

/// How thorough the comparison is.
struct Plan {
    rounds: usize,
    turn: Duration,
    /// Only the cases whose label has this in it.
    only: Option<String>,
}

impl Plan {
    fn read(arguments: &[String]) -> Self {
        let (rounds, turn) = match arguments.iter().any(|argument| argument == "--quick") {
            true => (3, Duration::from_millis(100)),
            false => (7, Duration::from_millis(350)),
        };
        // cargo itself says `--bench`.
        let only = arguments.iter().find(|argument| !argument.starts_with("--")).cloned();
        Self { rounds, turn, only }
    }
}

fn compare(plan: &Plan) {
    let upstream = Helper::start("upstream", &[]);
    let forebay = Contender::forebay(upstream.addr);
    let bare = Contender::bare(upstream.addr);
    println!(
        "\nCPU µs of the process; medians of {} rounds, ratio within the round [least .. greatest]\n",
        plan.rounds
    );
    println!("{:<32} {:>9} {:>13} {:>7}", "", "forebay", "pass-through", "ratio");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for (label, connections, ask) in CASES {
        if plan.only.as_ref().is_some_and(|only| !label.contains(only.as_str())) {
            continue;
        }
        let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        runtime.block_on(async {
            let mut to_forebay = Load::connect(forebay.addr(), connections, ask).await;
            let mut to_bare = Load::connect(bare.addr(), connections, ask).await;
            // Connections to the upstream, buffers and caches come with the first turn, which does not count.
            turn(&forebay, &mut to_forebay, plan.turn).await;
            turn(&bare, &mut to_bare, plan.turn).await;
            for round in 0..plan.rounds {
                let (mut a, mut b) = (Cost::default(), Cost::default());
                for number in 0..TURNS {
                    // Who goes first changes, too.
                    if (round + number) % 2 == 0 {
                        a += turn(&forebay, &mut to_forebay, plan.turn).await;
                        b += turn(&bare, &mut to_bare, plan.turn).await;
                    } else {
                        b += turn(&bare, &mut to_bare, plan.turn).await;
                        a += turn(&forebay, &mut to_forebay, plan.turn).await;
                    }
                }
                ours.push(a.per_unit_us());
                theirs.push(b.per_unit_us());
                ratios.push(a.per_unit_us() / b.per_unit_us());
            }
        });
        let (median, least, greatest) = spread(&mut ratios);
        let (ours, theirs) = (spread(&mut ours).0, spread(&mut theirs).0);
        println!("{label:<32} {ours:>9.2} {theirs:>13.2} {median:>7.2} [{least:.2} .. {greatest:.2}]");
    }
    println!("\naims: at most 1.3 a call, 1.15 a chunk");
}

/// CPU spent on so many calls or chunks.
#[derive(Default)]
struct Cost {
    cpu: Duration,
    units: usize,
}

impl Cost {
    fn per_unit_us(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.units as f64
    }
}

impl std::ops::AddAssign for Cost {
    fn add_assign(&mut self, more: Self) {
        self.cpu += more.cpu;
        self.units += more.units;
    }
}

async fn turn(contender: &Contender, load: &mut Load, lasting: Duration) -> Cost {
    let before = contender.cpu();
    let units = load.run(lasting).await;
    Cost { cpu: contender.cpu() - before, units }
}

/// Median, least, greatest.
fn spread(values: &mut [f64]) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    (values[values.len() / 2], values[0], values[values.len() - 1])
}
