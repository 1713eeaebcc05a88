//! What a run has shown, and the measures taken of it.

use std::collections::VecDeque;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use forebay::simulator::limits::Charge;

use super::aims::{self, Finding};
use super::clients::Client;
use super::provider::{Arrival, Fate, Job};
use super::scenario::{Scenario, Service};

/// After so long nothing that is learned at the start excuses a refusal any more.
pub const SETTLED_SECONDS: f64 = 120.0;

/// From here on a silent provider's faults are told from its limit.
pub const FOUND_SECONDS: f64 = 600.0;

/// Bursts before this second teach; what they have taught must hold from then on. It lies before the third burst.
pub const TAUGHT_SECONDS: f64 = 240.0;

/// The minute in which a bucket's first filling is spent.
pub const FIRST_MINUTE: f64 = 60.0;

/// A finished run.
pub struct Run {
    /// What was played.
    pub scenario: Scenario,
    /// By whom.
    pub client: Client,
    /// With which dice.
    pub seed: u64,
    /// Every call, in the order in which they were made.
    pub jobs: Vec<Job>,
    /// Every attempt, in the order of arrival.
    pub log: Vec<Arrival>,
    /// Real time it took.
    pub took: Duration,
}

impl Run {
    /// Arrivals of the scenario's own time; what comes after it is the end of what was under way.
    pub fn arrivals(&self, from: f64) -> impl Iterator<Item = &Arrival> {
        let (from, to) = (Duration::from_secs_f64(from), Duration::from_secs_f64(self.scenario.seconds));
        self.log.iter().filter(move |arrival| (from..to).contains(&arrival.at))
    }

    /// What an arrival was charged, in tokens.
    fn charge(&self, arrival: &Arrival) -> u64 {
        self.jobs[arrival.job].ask.charge(self.scenario.provider.limits.charge)
    }

    fn of_fate(&self, fate: Fate, from: f64) -> impl Iterator<Item = &Arrival> {
        self.arrivals(from).filter(move |arrival| arrival.fate == fate)
    }

    /// What was accepted from `from` on as a share of what could have been: of the true limit, or of the user's cap where
    /// that is lower; of calls or tokens, whichever comes nearer.
    pub fn utilisation(&self, from: f64) -> f64 {
        let truth = &self.scenario.provider;
        let (calls_cap, tokens_cap) = self.scenario.caps;
        let (mut calls, mut tokens) = (0.0, 0.0);
        for arrival in self.arrivals(from).filter(|arrival| arrival.fate.is_let_in()) {
            calls += 1.0;
            tokens += self.charge(arrival) as f64;
        }
        let allowed = |per_minute: f64, cap: Option<u64>| {
            let cap = cap.map_or(f64::INFINITY, |cap| cap as f64);
            let mut changes: Vec<f64> = self.scenario.events.iter().map(|(at, _)| at.max(from)).collect();
            changes.extend([from, self.scenario.seconds]);
            changes.sort_by(f64::total_cmp);
            let pieces = changes.windows(2).map(|piece| {
                let per_minute = (per_minute * self.scenario.factor(piece[0])).min(cap);
                per_minute * (piece[1] - piece[0]) / 60.0
            });
            pieces.sum::<f64>()
        };
        f64::max(calls / allowed(truth.requests(), calls_cap), tokens / allowed(truth.tokens(), tokens_cap))
    }

    /// The share of a server's slots that carried calls which were answered.
    pub fn slots_used(&self, from: f64) -> Option<f64> {
        let slots = match self.scenario.provider.service {
            Service::Endless => return None,
            Service::Slots { count, .. } => count,
            Service::Queue { slots } => slots,
        };
        let held = |arrival: &Arrival| {
            let (began, end) = (arrival.at + arrival.queued, Duration::from_secs_f64(self.scenario.seconds));
            let from = Duration::from_secs_f64(from);
            (began + arrival.held).min(end).saturating_sub(began.max(from)).as_secs_f64()
        };
        let used: f64 = self.of_fate(Fate::Accepted, 0.0).map(held).sum();
        Some(used / (f64::from(slots) * (self.scenario.seconds - from)))
    }

    /// How much longer answers took than they would have alone, in the mean; and the 99th percentile of the time in line.
    pub fn slowdown(&self, from: f64) -> (f64, f64) {
        let (mut queued, mut held) = (Vec::new(), 0.0);
        for arrival in self.of_fate(Fate::Accepted, from) {
            queued.push(arrival.queued.as_secs_f64());
            held += arrival.held.as_secs_f64();
        }
        (1.0 + queued.iter().sum::<f64>() / held, percentile(&mut queued, 0.99))
    }

    /// Attempts from `from` on.
    pub fn attempts(&self, from: f64) -> usize {
        self.arrivals(from).count()
    }

    /// Attempts sent away for a limit, of whatever kind.
    pub fn refused(&self, from: f64) -> usize {
        self.of_fate(Fate::Limited, from).count() + self.of_fate(Fate::Full, from).count()
    }

    /// The same as a share of attempts.
    pub fn refused_share(&self, from: f64) -> f64 {
        self.refused(from) as f64 / self.attempts(from).max(1) as f64
    }

    /// Calls whose caller got an error, with the error.
    pub fn lost(&self) -> impl Iterator<Item = (&Job, &str)> {
        self.jobs.iter().filter_map(|job| match &job.ended {
            Some((_, Err(error))) => Some((job, error.as_str())),
            _ => None,
        })
    }

    /// Calls that had no end at all.
    pub fn stuck(&self) -> usize {
        self.jobs.iter().filter(|job| job.ended.is_none()).count()
    }

    /// Seconds from the caller's hand to the sending of the attempt that was accepted, of the urgent calls or the others.
    pub fn waits(&self, is_urgent: bool, from: f64) -> Vec<f64> {
        let jobs = self.jobs.iter().filter(|job| job.is_urgent == is_urgent && job.submitted.as_secs_f64() >= from);
        jobs.filter_map(|job| Some((job.sent? - job.submitted).as_secs_f64())).collect()
    }

    /// The same of all calls, whoever waits for them.
    pub fn all_waits(&self) -> Vec<f64> {
        [self.waits(false, 0.0), self.waits(true, 0.0)].concat()
    }

    /// All that is asked of it, held or not.
    pub fn findings(&self) -> Vec<Finding> {
        aims::findings(self)
    }

    /// The most that arrived of one process within any 60 s, as a share of the user's caps: of calls all attempts, of tokens
    /// what `usage` says, by which a cap is kept.
    pub fn worst_minute(&self) -> f64 {
        let (calls_cap, tokens_cap) = self.scenario.caps;
        let worst = |process: usize, cost: &dyn Fn(&Arrival) -> f64, cap: u64| {
            let (mut window, mut sum, mut worst) = (VecDeque::new(), 0.0, 0.0);
            for arrival in self.log.iter().filter(|arrival| self.jobs[arrival.job].process == process) {
                while window.front().is_some_and(|(at, _)| arrival.at - *at >= Duration::from_secs(60)) {
                    sum -= window.pop_front().map_or(0.0, |(_, cost)| cost);
                }
                window.push_back((arrival.at, cost(arrival)));
                sum += cost(arrival);
                worst = f64::max(worst, sum);
            }
            worst / cap as f64
        };
        let used = |arrival: &Arrival| match arrival.fate {
            fate if fate.is_let_in() => self.jobs[arrival.job].ask.charge(Charge::Usage) as f64,
            _ => 0.0,
        };
        let of_process = |process| {
            let calls = calls_cap.map(|cap| worst(process, &|_| 1.0, cap));
            calls.into_iter().chain(tokens_cap.map(|cap| worst(process, &used, cap)))
        };
        (0..self.scenario.processes).flat_map(of_process).fold(0.0, f64::max)
    }

    /// Jain's index over what each process got: 1 is even, 1/n is all to one.
    pub fn fairness(&self) -> f64 {
        let mut shares = vec![0.0; self.scenario.processes];
        for arrival in self.of_fate(Fate::Accepted, 0.0) {
            shares[self.jobs[arrival.job].process] += self.charge(arrival) as f64;
        }
        let sum: f64 = shares.iter().sum();
        sum * sum / (shares.len() as f64 * shares.iter().map(|share| share * share).sum::<f64>())
    }

    /// A number that two runs share when their logs are the same.
    pub fn print(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for arrival in &self.log {
            (arrival.at, arrival.job, arrival.fate).hash(&mut hasher);
        }
        for job in &self.jobs {
            (job.process, job.submitted, job.sent).hash(&mut hasher);
            job.ended.as_ref().map(|(at, end)| (at, end.is_ok())).hash(&mut hasher);
        }
        hasher.finish()
    }
}

/// The value below which a share `p` of them lies; 0 of none.
pub fn percentile(values: &mut [f64], p: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(((values.len() as f64 * p) as usize).min(values.len().saturating_sub(1))).copied().unwrap_or(0.0)
}

impl Run {
    /// A line for each of the first few calls that had a bad end, or none.
    fn ends(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const FEW: usize = 3;
        let stories = self.jobs.iter().enumerate().filter_map(|(number, job)| {
            let end = match &job.ended {
                Some((_, Ok(()))) => return None,
                Some((at, Err(error))) => format!("lost after {:.3} s: {error}", (*at - job.submitted).as_secs_f64()),
                None => "has no end".to_owned(),
            };
            Some((number, job, end))
        });
        for (number, job, end) in stories.filter(|_| self.client == Client::Forebay).take(FEW) {
            let fates: Vec<Fate> =
                self.log.iter().filter(|arrival| arrival.job == number).map(|arrival| arrival.fate).collect();
            let (at, tokens) = (job.submitted.as_secs_f64(), job.ask.charge(self.scenario.provider.limits.charge));
            let fates = if fates.len() > 9 { format!("{} attempts", fates.len()) } else { format!("{fates:?}") };
            write!(f, "\n    call {number} of {tokens} tokens, made at {at:.3} s, {fates}, {end}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Run {
    /// One line with all measures that the scenario has, and one for each bound that does not hold.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |share: f64| 100.0 * share;
        write!(f, "{:<24} {:<9} seed {:<2}", self.scenario.name, self.client.name(), self.seed)?;
        // A short scenario has no time to settle in.
        let settled = if self.scenario.seconds > SETTLED_SECONDS { SETTLED_SECONDS } else { 0.0 };
        match self.slots_used(settled) {
            Some(used) => write!(f, " slots {:5.1} %", percent(used))?,
            None => {
                let (all, later) = (self.utilisation(0.0), self.utilisation(FIRST_MINUTE));
                write!(f, " util {:5.1} % (from 60 s {:5.1})", percent(all), percent(later))?;
            }
        }
        write!(f, "  429s {:>4} {:5.2} %", self.refused(0.0), percent(self.refused_share(0.0)))?;
        let late = (self.refused(settled), percent(self.refused_share(settled)));
        write!(f, " (from 120 s {:>3} {:4.2} %)", late.0, late.1)?;
        write!(f, "  lost {:>3}  stuck {}", self.lost().count(), self.stuck())?;
        for (whose, is_urgent) in [("wait", false), ("urgent", true)] {
            let mut waits = self.waits(is_urgent, 0.0);
            if !waits.is_empty() {
                let (p50, p99) = (percentile(&mut waits, 0.5), percentile(&mut waits, 0.99));
                write!(f, "  {whose} {p50:.3}/{p99:.3} s")?;
            }
        }
        if matches!(self.scenario.provider.service, Service::Queue { .. }) {
            let (slower, p99) = self.slowdown(settled);
            write!(f, "  latency x{slower:.2}, in line p99 {p99:.1} s")?;
        }
        if self.scenario.caps != (None, None) {
            write!(f, "  worst 60 s {:.1} % of cap", percent(self.worst_minute()))?;
        }
        if self.scenario.processes > 1 {
            write!(f, "  J {:.2}", self.fairness())?;
        }
        write!(f, "  [{} ms]", self.took.as_millis())?;
        for broken in self.findings().iter().filter(|finding| self.client == Client::Forebay && !finding.holds()) {
            write!(f, "\n    BROKEN {broken}")?;
        }
        self.ends(f)
    }
}
