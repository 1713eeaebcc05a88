//! A world in virtual time: a provider with limits of a known kind, callers, and a client between them.
//!
//! One thread, tokio's paused clock, all dice from one seed: the same seed gives the same log. The provider, its limiter
//! and the callers are the world's; the client under test is the real one, actors and all. Shared by `tests/limits.rs`,
//! which asserts the bounds, and `benches/limits`, which prints the table.
#![allow(dead_code, unreachable_pub, missing_docs)] // tests and bench each use their part

pub mod aims;
pub mod catalogue;
pub mod chance;
pub mod clients;
pub mod provider;
pub mod run;
pub mod scenario;
pub mod work;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use forebay::clock::{self, Dice};
use tokio::task::JoinSet;

use self::chance::dice;
use self::clients::{Client, Way};
use self::provider::Provider;
use self::run::Run;
use self::scenario::{Event, Scenario};
use self::work::Ask;

/// How long the calls under way at the end of a scenario may take to their own end. Whoever has none by then never will.
const LAST_ENDS: Duration = Duration::from_secs(1_800);

/// How long a caller that was refused at once waits.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);

/// Runs a scenario with one client and one seed.
pub fn run(scenario: &Scenario, client: Client, seed: u64) -> Run {
    let began = std::time::Instant::now();
    let runtime =
        || tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    let mut run = actix_rt::System::with_tokio_rt(runtime).block_on(play(scenario.clone(), client, seed));
    run.took = began.elapsed();
    run
}

/// One process: callers of the backlog, and those who come in bursts.
struct Process {
    number: usize,
    way: Rc<dyn Way>,
    provider: Arc<Provider>,
    dice: RefCell<Dice>,
    is_closing: Cell<bool>,
}

impl Process {
    async fn call(&self, is_urgent: bool, ask: Ask) {
        let job = self.provider.submit(self.number, is_urgent, ask);
        let end = self.way.call(job).await;
        self.provider.ended(job, end);
    }
}

async fn play(scenario: Scenario, client: Client, seed: u64) -> Run {
    let provider = Provider::new(&scenario, seed);
    let mut processes = Vec::new();
    for number in 0..scenario.processes {
        let way = clients::open(client, &scenario, &provider, dice(seed, 100 + number as u64)).await;
        let dice = RefCell::new(dice(seed, 200 + number as u64));
        let provider = Arc::clone(&provider);
        processes.push(Rc::new(Process { number, way, provider, dice, is_closing: Cell::new(false) }));
    }
    let start = clock::now();
    let mut callers = JoinSet::new();
    for process in &processes {
        for _ in 0..scenario.backlog {
            callers.spawn_local(backlog(Rc::clone(process), scenario.clone()));
        }
    }
    for (at, event) in &scenario.events {
        clock::until(start + Duration::from_secs_f64(*at)).await;
        happens(*event, &scenario, &provider, &processes, &mut callers);
    }
    clock::until(start + Duration::from_secs_f64(scenario.seconds)).await;
    processes.iter().for_each(|process| process.is_closing.set(true));
    let ends = async {
        while let Some(end) = callers.join_next().await {
            end.expect("no caller panics");
        }
    };
    tokio::select! {
        () = ends => {}
        () = clock::until(clock::now() + LAST_ENDS) => {}
    }
    callers.shutdown().await;
    for process in &processes {
        process.way.close().await;
    }
    let (jobs, log) = provider.close();
    Run { scenario, client, seed, jobs, log, took: Duration::ZERO }
}

/// One caller of the backlog: the next call when the one before has ended.
async fn backlog(process: Rc<Process>, scenario: Scenario) {
    // Threads do not start at one instant.
    let stagger = Duration::from_secs_f64(0.05 * process.dice.borrow_mut().fraction());
    clock::until(clock::now() + stagger).await;
    while !process.is_closing.get() {
        let (ask, began) = (scenario.work.draw(&mut process.dice.borrow_mut()), clock::now());
        process.call(scenario.is_urgent, ask).await;
        // Who is refused at once comes again all the same, or no time would pass at all.
        if clock::now() == began {
            clock::until(began + REFUSED_PAUSE).await;
        }
    }
}

fn happens(
    event: Event,
    scenario: &Scenario,
    provider: &Provider,
    processes: &[Rc<Process>],
    callers: &mut JoinSet<()>,
) {
    match event {
        Event::Burst(number, calls) => {
            let process = &processes[number];
            for _ in 0..calls {
                let (process, ask) = (Rc::clone(process), scenario.work.draw(&mut process.dice.borrow_mut()));
                callers.spawn_local(async move { process.call(true, ask).await });
            }
        }
        Event::Huge(tokens) => {
            let process = Rc::clone(&processes[0]);
            let ask = scenario.work.sized(tokens, &mut process.dice.borrow_mut());
            callers.spawn_local(async move { process.call(false, ask).await });
        }
        Event::Limits(factor) => provider.scale(factor),
    }
}
