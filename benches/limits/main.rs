//! How near to a provider's true limits calls flow, and at what price: scenarios in virtual time, four clients.
//!
//! `cargo bench --bench limits` prints the tables and checks forebay's bounds (`world/aims.rs`); a broken one makes the exit
//! code 1. Nothing in it depends on the machine but how long it takes. To see one cell, or some, alone, a line each:
//!
//! ```sh
//! FOREBAY_ONLY=tpm/sliding cargo bench --profile tune --bench limits     # the profile is built in seconds
//! FOREBAY_ONLY=blind FOREBAY_SEEDS=5 cargo bench --profile tune --bench limits
//! FOREBAY_ONLY=rpm/,queue FOREBAY_CLIENTS=naive,forebay cargo bench --profile tune --bench limits
//! ```
//!
//! `FOREBAY_ONLY` is names of scenarios, or parts of names, with commas between them (`/` is in all of them); forebay alone
//! plays then, unless `FOREBAY_CLIENTS` names others. `FOREBAY_SEEDS` is how many seeds each cell is played with: 1 where
//! it is not set; in tables the mean of all stands, and every run is held to the bounds. `FOREBAY_SEED` is the first.
//!
//! `FOREBAY_ONLY=whatever/7` plays the seventh of the schedules that `tests/limits.rs` draws, and shows what is in it.
//!
//! `FOREBAY_SOCKETS=300` plays each limiter over real sockets instead, for so many seconds, all at the same time.

#[path = "../support/helper.rs"]
mod helper;
mod sockets;
mod tables;
mod world;

use world::catalogue;
use world::clients::Client;
use world::run::Run;
use world::scenario::Scenario;

/// What is played.
struct Plan {
    /// The seeds, each cell with all of them.
    seeds: std::ops::Range<u64>,
    /// Bounds that did not hold.
    broken: Vec<String>,
}

impl Plan {
    fn read() -> Self {
        let number = |name: &str| std::env::var(name).ok().map_or(1, |text| text.parse().expect("a number"));
        let first = number("FOREBAY_SEED");
        Self { seeds: first..first + number("FOREBAY_SEEDS"), broken: Vec::new() }
    }

    /// Plays one cell with every seed, and holds forebay to its bounds.
    fn play(&mut self, scenario: &Scenario, client: Client) -> Vec<Run> {
        let runs: Vec<Run> = self.seeds.clone().map(|seed| world::run(scenario, client, seed)).collect();
        for run in runs.iter().filter(|_| client == Client::Forebay) {
            let broken = run.findings().into_iter().filter(|finding| !finding.holds());
            self.broken.extend(broken.map(|finding| format!("{} seed {}: {finding}", scenario.name, run.seed)));
        }
        runs
    }

    /// Holds one more figure to a bound.
    fn hold(&mut self, what: &str, value: f64, most: f64) {
        if value > most {
            self.broken.push(format!("{what}: {value:.4}, at most {most}"));
        }
    }

    /// A line for each run.
    fn lines(&mut self, only: &str) {
        let clients = std::env::var("FOREBAY_CLIENTS").unwrap_or_else(|_| "forebay".to_owned());
        let is_asked = |name: &str| only.split(',').any(|part| name.contains(part));
        for schedule in only.split(',').filter_map(|part| part.strip_prefix("whatever/")) {
            let seed = schedule.parse().expect("a schedule's number");
            let scenario = catalogue::whatever(seed);
            println!("{scenario:#?}\n{}", world::run(&scenario, Client::Forebay, seed));
        }
        for scenario in catalogue::all().iter().filter(|scenario| is_asked(&scenario.name)) {
            for client in Client::ALL.into_iter().filter(|client| clients.split(',').any(|name| name == client.name()))
            {
                self.play(scenario, client).iter().for_each(|run| println!("{run}"));
            }
        }
    }
}

fn main() {
    let mut plan = Plan::read();
    match (std::env::var("FOREBAY_SOCKETS"), std::env::var("FOREBAY_ONLY")) {
        (Ok(seconds), _) => sockets::print(&mut plan, seconds.parse().expect("seconds")),
        (_, Ok(only)) => plan.lines(&only),
        _ => tables::print(&mut plan),
    }
    if !plan.broken.is_empty() {
        println!("\nBROKEN, {} of the bounds:", plan.broken.len());
        plan.broken.iter().for_each(|broken| println!("  {broken}"));
        std::process::exit(1);
    }
    println!("\nAll bounds hold.");
}
