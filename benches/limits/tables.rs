//! The tables: one for each kind of question.

use super::Plan;
use super::world::catalogue::{self, BURSTS, KINDS, LIMITED};
use super::world::clients::Client;
use super::world::run::{Run, SETTLED_SECONDS, TAUGHT_SECONDS, percentile};
use super::world::scenario::{Full, Scenario};

/// Prints all of them.
pub(crate) fn print(plan: &mut Plan) {
    clients(plan);
    bursts(plan);
    blind(plan);
    slots(plan);
    queue(plan);
    caps(plan);
}

/// The mean of a measure over all seeds.
fn mean(runs: &[Run], measure: impl Fn(&Run) -> f64) -> f64 {
    runs.iter().map(measure).sum::<f64>() / runs.len() as f64
}

fn percent(runs: &[Run], measure: impl Fn(&Run) -> f64) -> f64 {
    100.0 * mean(runs, measure)
}

pub(crate) fn row(cells: impl IntoIterator<Item = String>) {
    println!("| {} |", cells.into_iter().collect::<Vec<_>>().join(" | "));
}

pub(crate) fn head(title: &str, columns: &[String]) {
    println!("\n{title}\n");
    row(columns.iter().cloned());
    row(columns.iter().map(|_| "---".to_owned()));
}

pub(crate) fn named(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Every scenario, limiter and client.
fn clients(plan: &mut Plan) {
    let mut columns = named(&["scenario"]);
    columns.extend(Client::ALL.map(|client| client.name().to_owned()));
    head(
        "Used of the limit %, 429s, calls lost, 99th percentile of waits in s (J: how evenly processes share)",
        &columns,
    );
    for name in LIMITED {
        for kind in KINDS {
            let scenario = catalogue::scenario(name, kind).expect("a scenario of that name");
            let mut cells = vec![scenario.name.clone()];
            cells.extend(Client::ALL.map(|client| cell(&plan.play(&scenario, client))));
            row(cells);
        }
    }
}

fn cell(runs: &[Run]) -> String {
    let (used, refused) = (percent(runs, |run| run.utilisation(0.0)), mean(runs, |run| run.refused(0.0) as f64));
    let (lost, wait) =
        (mean(runs, |run| run.lost().count() as f64), mean(runs, |run| percentile(&mut run.all_waits(), 0.99)));
    let shared = match runs[0].scenario.processes {
        1 => String::new(),
        _ => format!(" (J {:.2})", mean(runs, Run::fairness)),
    };
    let stuck = match mean(runs, |run| run.stuck() as f64) {
        0.0 => String::new(),
        stuck => format!(", {stuck:.0} without an end"),
    };
    format!("{used:.1}, {refused:.0}, {lost:.0}, {wait:.1}{shared}{stuck}")
}

fn bursts(plan: &mut Plan) {
    let mut columns = named(&["limiter", "processes", "backlog"]);
    columns.extend(BURSTS.map(|calls| calls.to_string()));
    head("Bursts: waits p50 / p99 in s, 429s while it learns / later", &columns);
    for (kind, hidden) in catalogue::burst_limiters() {
        for processes in [1, 4] {
            for backlog in [false, true] {
                let scenarios = BURSTS.map(|calls| catalogue::burst(kind, hidden, processes, backlog, calls));
                let limiter = scenarios[0].limiter().to_owned();
                let mut cells = vec![limiter, processes.to_string(), if backlog { "yes" } else { "no" }.to_owned()];
                cells.extend(scenarios.iter().map(|scenario| {
                    let runs = plan.play(scenario, Client::Forebay);
                    let wait = |p| mean(&runs, |run| percentile(&mut run.waits(true, 60.0), p));
                    let later = mean(&runs, |run| run.refused(TAUGHT_SECONDS) as f64);
                    let first = mean(&runs, |run| run.refused(0.0) as f64) - later;
                    format!("{:.2} / {:.2}, {first:.0} / {later:.0}", wait(0.5), wait(0.99))
                }));
                row(cells);
            }
        }
    }
}

fn blind(plan: &mut Plan) {
    let mut columns = named(&["limiter", "Retry-After"]);
    columns.extend(catalogue::BLIND_CAPS.map(|cap| cap.map_or("no cap".to_owned(), |factor| format!("cap x{factor}"))));
    head("Without headers: used %, 429s of attempts after two minutes % (number before)", &columns);
    for kind in KINDS {
        for told in catalogue::TOLD {
            let scenarios = catalogue::BLIND_CAPS.map(|cap| catalogue::blind(kind, told, cap));
            let mut cells = vec![kind.name().to_owned(), catalogue::told(told).to_owned()];
            cells.extend(scenarios.iter().map(|scenario| {
                let runs = plan.play(scenario, Client::Forebay);
                let before = mean(&runs, |run| (run.refused(0.0) - run.refused(SETTLED_SECONDS)) as f64);
                let late = percent(&runs, |run| run.refused_share(SETTLED_SECONDS));
                format!("{:.1}, {late:.2} ({before:.0})", percent(&runs, |run| run.utilisation(0.0)))
            }));
            row(cells);
        }
    }
}

fn slots(plan: &mut Plan) {
    let columns = named(&["slots", "429, no faults", "429, 3 % faults", "reset, no faults", "reset, 3 % faults"]);
    head("Unknown concurrency: slots used %, refused of attempts % (after two minutes), calls lost", &columns);
    for count in catalogue::SLOTS {
        let scenarios = [(Full::Refuse, 0.0), (Full::Refuse, 0.03), (Full::Reset, 0.0), (Full::Reset, 0.03)]
            .map(|(full, faults)| catalogue::slots(count, full, faults));
        let cells = scenarios.iter().map(|scenario| {
            let runs = plan.play(scenario, Client::Forebay);
            let refused = |from| percent(&runs, |run| run.refused_share(from));
            let (used, lost) = (used_slots(&runs), mean(&runs, |run| run.lost().count() as f64));
            format!("{used:.1}, {:.2} ({:.2}), {lost:.0}", refused(0.0), refused(SETTLED_SECONDS))
        });
        row([count.to_string()].into_iter().chain(cells));
    }
}

fn used_slots(runs: &[Run]) -> f64 {
    percent(runs, |run| run.slots_used(0.0).unwrap_or(0.0))
}

fn queue(plan: &mut Plan) {
    let columns = named(&["slots", "used %", "mean latency, of that unloaded", "p99 in the server's line, s"]);
    head("A server that only slows down", &columns);
    for slots in catalogue::QUEUES {
        let runs = plan.play(&catalogue::queue(slots), Client::Forebay);
        let (latency, line) = (mean(&runs, |run| run.slowdown(0.0).0), mean(&runs, |run| run.slowdown(0.0).1));
        row([slots.to_string(), format!("{:.1}", used_slots(&runs)), format!("{latency:.2}"), format!("{line:.1}")]);
    }
}

fn caps(plan: &mut Plan) {
    let mut columns = named(&["limiter", "headers"]);
    columns.extend(catalogue::CAPS.map(|cap| format!("cap {cap}")));
    head("A user's cap on an account of 500: used of the lower one %, most in 60 s of the cap %, 429s", &columns);
    for kind in KINDS {
        for headers in [true, false] {
            let scenarios: [Scenario; 4] = catalogue::CAPS.map(|cap| catalogue::cap(kind, headers, cap));
            let cells = scenarios.iter().map(|scenario| {
                let runs = plan.play(scenario, Client::Forebay);
                let (used, worst) = (percent(&runs, |run| run.utilisation(0.0)), percent(&runs, Run::worst_minute));
                format!("{used:.1}, {worst:.1}, {:.0}", mean(&runs, |run| run.refused(0.0) as f64))
            });
            row([kind.name().to_owned(), if headers { "yes" } else { "no" }.to_owned()].into_iter().chain(cells));
        }
    }
}
