//! What forebay must show in a scenario: bounds on the measures of a run.
//!
//! Figures count from the first second, cold start included, unless they say otherwise.

use std::fmt;

use forebay::simulator::limits::{Charge, RetryAfter};

use super::provider::Job;
use super::run::{FIRST_MINUTE, FOUND_SECONDS, Run, SETTLED_SECONDS, TAUGHT_SECONDS, percentile};
use super::scenario::{Event, Faults, Kind, Scenario, Service};

/// A handful of refusals.
const HANDFUL: f64 = 10.0;

/// How long a call that takes a third of what the limiter allows at once may stand behind small ones.
const HUGE_WAIT_SECONDS: f64 = 120.0;

/// One measure and its bound.
#[derive(Debug)]
pub struct Finding {
    what: &'static str,
    value: f64,
    least: f64,
    most: f64,
}

impl Finding {
    /// Whether the bound holds. What is not a number holds nothing.
    pub fn holds(&self) -> bool {
        self.value >= self.least && self.value <= self.most
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:.4}, ", self.what, self.value)?;
        match (self.least.is_finite(), self.most.is_finite()) {
            (true, _) => write!(f, "at least {}", self.least),
            (false, _) => write!(f, "at most {}", self.most),
        }
    }
}

fn least(what: &'static str, value: f64, least: f64) -> Finding {
    Finding { what, value, least, most: f64::INFINITY }
}

fn most(what: &'static str, value: f64, most: f64) -> Finding {
    Finding { what, value, least: f64::NEG_INFINITY, most }
}

/// How the user's cap lies to the provider's limit on the same thing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cap {
    Below,
    At,
    /// Above, or there is none.
    Above,
}

fn cap_of(scenario: &Scenario) -> Cap {
    let truth = &scenario.provider;
    let (calls, tokens) = scenario.caps;
    let ratio = |cap: Option<u64>, limit: f64| cap.map_or(f64::INFINITY, |cap| cap as f64 / limit);
    let lowest = ratio(calls, truth.requests()).min(ratio(tokens, truth.tokens()));
    match lowest {
        lowest if lowest < 1.0 => Cap::Below,
        lowest if lowest > 1.0 => Cap::Above,
        _ => Cap::At,
    }
}

fn names_no_time(scenario: &Scenario) -> bool {
    scenario.provider.limits.retry_after == RetryAfter::Absent
}

/// A refusal that names no time uses up an attempt of its call, and five end it: in a minute-long wall a few calls run into
/// that many, and of calls that go wrong by chance one.
fn losses(scenario: &Scenario) -> f64 {
    let is_faulty = scenario.provider.service == Service::Endless && scenario.provider.faults != Faults::default();
    match scenario.provider.tells() {
        false if names_no_time(scenario) => 3.0,
        _ => f64::from(u8::from(is_faulty)),
    }
}

fn can_ever_fit(scenario: &Scenario, job: &Job) -> bool {
    job.ask.charge(scenario.provider.limits.charge) as f64 <= scenario.provider.most_tokens_at_once()
}

/// Whether it is too large, but not beyond doubt: estimates err high, and what is not twice too large may fit for all one
/// knows, until the provider has said that it does not.
fn is_doubtful(scenario: &Scenario, job: &Job) -> bool {
    let is_twice = job.ask.charge(Charge::Usage) as f64 > 2.0 * scenario.provider.most_tokens_at_once();
    !can_ever_fit(scenario, job) && !is_twice
}

/// All that is asked of a run, held or not.
pub fn findings(run: &Run) -> Vec<Finding> {
    let scenario = &run.scenario;
    let lost = run.lost().filter(|(job, _)| can_ever_fit(scenario, job)).count();
    let mut all = vec![
        most("calls whose caller got an error", lost as f64, losses(scenario)),
        most("calls without an end", run.stuck() as f64, 0.0),
    ];
    match scenario.provider.service {
        Service::Slots { .. } => all.extend([
            least("slots used", run.slots_used(0.0).unwrap_or(0.0), 0.95),
            most("share of attempts refused", run.refused_share(0.0), 0.02),
        ]),
        Service::Queue { .. } => all.extend([
            least("slots used", run.slots_used(0.0).unwrap_or(0.0), 0.95),
            most("mean latency, of that unloaded", run.slowdown(0.0).0, 1.5),
        ]),
        Service::Endless => limits(run, &mut all),
    }
    if scenario.caps != (None, None) {
        all.push(most("most in any 60 s, of the cap", run.worst_minute(), 1.0));
    }
    if scenario.backlog == 0 && scenario.events.iter().all(|(_, event)| matches!(event, Event::Burst(_, 1))) {
        let longest = run.waits(true, 0.0).into_iter().fold(0.0, f64::max);
        all.push(most("longest wait of a lone call, s", longest, 0.0));
    }
    for job in run.jobs.iter().filter(|job| job.ask.prompt as f64 > scenario.work.longest) {
        huge(run, job, &mut all);
    }
    all
}

/// Calls that flow against a limiter.
fn limits(run: &Run, all: &mut Vec<Finding>) {
    let scenario = &run.scenario;
    let truth = &scenario.provider;
    let (kind, cap, bursts) = (truth.kind, cap_of(scenario), scenario.bursts());
    let is_halved = scenario.events.iter().any(|(_, event)| matches!(event, Event::Limits(_)));
    let is_alone = scenario.processes == 1;
    let is_busy = scenario.backlog > 0;
    let is_capped = scenario.caps != (None, None);
    if truth.limits.acceleration.is_some() {
        // Doing as it likes leaves three quarters of the limit: growth by half a minute at most.
        all.push(least("share of the limit used", run.utilisation(0.0), 0.5));
        all.push(most("share of attempts refused", run.refused_share(0.0), 0.02));
        return;
    }
    if truth.faults != Faults::default() {
        if !truth.tells() {
            // Faults are told from a limit by their share alone, and that takes minutes; and the limit itself is found behind as
            // many refusals as stand out from them.
            all.push(least("share of the limit used after ten minutes", run.utilisation(FOUND_SECONDS), 0.6));
            all.push(most("share of attempts refused", run.refused_share(0.0), 0.03));
            return;
        }
        // Each refusal holds the account for the second that it names, and some two in a second are believed for a while.
        all.push(least("share of the limit used", run.utilisation(0.0), 0.8));
        all.push(most("share of attempts refused", run.refused_share(0.0), 0.002));
        return;
    }
    if truth.limits.requests_per_second.is_some() && is_busy {
        all.push(least("share of the limit used", run.utilisation(0.0), 0.6));
        all.push(least("share of the limit used after a minute", run.utilisation(FIRST_MINUTE), 0.8));
        all.push(most("share of attempts refused", run.refused_share(0.0), 0.02));
        return;
    }
    if truth.limits.requests_per_second.is_some() {
        let mut waits = run.waits(true, 0.0);
        all.push(most("99th percentile of waits, s", percentile(&mut waits, 0.99), 3.0));
        all.push(most("share of attempts refused", run.refused_share(0.0), 0.01));
        return;
    }
    // Windows of a second are learned as hidden ones are: by their refusals.
    if truth.limits.hidden_requests.is_some() || kind == Kind::Ones {
        if is_alone {
            let later = run.refused(TAUGHT_SECONDS);
            all.push(most("429s while it learns the window", (run.refused(0.0) - later) as f64, HANDFUL));
            all.push(most("429s when it knows the window", later as f64, 0.0));
            if is_busy && kind == Kind::Ones {
                all.push(least("share of the limit used", run.utilisation(0.0), 0.8));
            }
        }
        return;
    }
    if kind == Kind::Bucket && truth.tells() && is_alone && bursts.is_some_and(|calls| calls > 1) && !is_capped {
        waits(run, bursts.unwrap_or(0), all);
    }
    let used = match (truth.tells(), kind) {
        _ if !is_busy => None,
        _ if cap == Cap::Below => Some(0.97),
        (true, Kind::Bucket) if cap == Cap::At => Some(0.97),
        (true, Kind::Sliding | Kind::Minute) if cap == Cap::At && bursts.is_none() => Some(0.97),
        (false, Kind::Tens) => Some(0.90),
        (false, _) => Some(0.92),
        (true, Kind::Bucket) => Some(0.99),
        // Uncoordinated processes on windows, and windows that keep a tenth free for bursts, have no bound of their own.
        (true, _) if !is_alone || bursts.is_some() => None,
        (true, Kind::Tens) => Some(if is_halved { 0.94 } else { 0.96 }),
        (true, _) => Some(if is_halved { 0.95 } else { 0.98 }),
    };
    // A call that is larger than a window, but may fit for all one knows, goes when all of a window is there: for as long
    // nothing else does.
    let was_let_go =
        |job: &&Job| is_doubtful(scenario, job) && job.ended.as_ref().is_some_and(|(at, _)| *at > job.submitted);
    let drained = run.jobs.iter().filter(was_let_go).count() as f64;
    let given_up = if kind == Kind::Tens { drained * 10.0 / scenario.seconds } else { 0.0 };
    all.extend(used.map(|used| least("share of the limit used", run.utilisation(0.0), used - given_up)));
    if cap == Cap::Below || (truth.tells() && kind == Kind::Bucket) {
        // Whoever asks for what does not fit learns it from a refusal or two.
        let excused = run.jobs.iter().filter(|job| is_doubtful(scenario, job)).count() * 2;
        all.push(most("429s", run.refused(0.0) as f64, excused as f64));
    } else if truth.tells() && is_alone {
        all.push(most("share of attempts refused", run.refused_share(0.0), 0.002));
    } else if !truth.tells() {
        all.push(most("share of attempts refused after two minutes", run.refused_share(SETTLED_SECONDS), 0.01));
    }
}

/// Bursts onto a bucket. The first one, small, teaches.
fn waits(run: &Run, calls: usize, all: &mut Vec<Finding>) {
    let is_busy = run.scenario.backlog > 0;
    let mut waits = run.waits(true, 60.0);
    all.push(most("median wait of a call in a burst, s", percentile(&mut waits, 0.5), 0.0));
    if calls == 50 {
        let bound = if is_busy { 0.1 } else { 1.2 };
        all.push(most("99th percentile of waits in a burst, s", percentile(&mut waits, 0.99), bound));
    }
}

/// One huge call among small ones, or one too large for any minute.
fn huge(run: &Run, job: &Job, all: &mut Vec<Finding>) {
    if can_ever_fit(&run.scenario, job) {
        let wait = job.sent.map_or(f64::INFINITY, |sent| (sent - job.submitted).as_secs_f64());
        all.push(most("wait of a huge call, s", wait, HUGE_WAIT_SECONDS));
        return;
    }
    let end = match &job.ended {
        Some((at, Err(_))) => (*at - job.submitted).as_secs_f64(),
        _ => f64::INFINITY,
    };
    if is_doubtful(&run.scenario, job) {
        all.push(most("wait of a call that does not fit for its refusal, s", end, HUGE_WAIT_SECONDS));
    } else {
        let is_told =
            job.ended.as_ref().is_some_and(|(_, end)| end.as_ref().is_err_and(|error| error.contains("tokens")));
        all.push(most("wait of a call that can never fit for its refusal, s", end, 0.0));
        all.push(least("its refusal says why", f64::from(u8::from(is_told)), 1.0));
    }
}
