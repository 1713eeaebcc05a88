//! The scenarios by name.

use forebay::clock::Dice;
use forebay::simulator::limits::{Acceleration, Charge, HeaderStyle, Limits, Rate, RetryAfter};

use super::chance::dice;
use super::scenario::{Event, Faults, Full, Kind, Provider, Scenario, Service};
use super::work::Work;

/// Ten minutes.
pub const SECONDS: f64 = 600.0;

/// The limiters that every scenario is played against.
pub const KINDS: [Kind; 4] = [Kind::Bucket, Kind::Sliding, Kind::Minute, Kind::Tens];

/// The small account, on which calls run out first.
const FEW_REQUESTS: (u64, u64) = (500, 10_000_000);

/// The account on which tokens run out first.
const FEW_TOKENS: (u64, u64) = (5_000, 400_000);

/// As many callers as the article has threads: more than any of the limits lets work at once.
const CALLERS: usize = 50;

/// Callers of an endless line.
const MANY: usize = 400;

/// Sizes of bursts.
pub const BURSTS: [usize; 3] = [10, 50, 200];

/// How refusals of blind accounts say when to come again.
pub const TOLD: [RetryAfter; 3] = [RetryAfter::Exact, RetryAfter::Seconds, RetryAfter::Absent];

/// Caps on blind accounts, as multiples of the true limit.
pub const BLIND_CAPS: [Option<f64>; 4] = [Some(0.5), Some(1.0), Some(2.0), None];

/// Slots of servers that send away one too many.
pub const SLOTS: [u32; 3] = [5, 20, 100];

/// Slots of servers that only slow down.
pub const QUEUES: [u32; 3] = [8, 32, 128];

/// As much goes wrong on a bad day.
const FAULTS: Faults = Faults { broken: 0.05, refused: 0.05 };

/// Caps of the user's, in calls a minute.
pub const CAPS: [u64; 4] = [100, 250, 500, 1_000];

/// The names of the scenarios with a limiter.
pub const LIMITED: [&str; 26] = [
    "rpm",
    "tpm",
    "tpm_stream",
    "cap_exact",
    "cap_2x_high",
    "cap_2x_low",
    "halved",
    "shared4",
    "shared4_stream",
    "blind",
    "blind_x1",
    "blind_2x_high",
    "blind_2x_low",
    "uncounted",
    "reserved",
    "whole_seconds",
    "untold",
    "rounded",
    "huge",
    "over",
    "never",
    "accelerated",
    "faulty",
    "faulty_blind",
    "lone",
    "lone_blind",
];

/// The scenario of this name against this limiter.
pub fn scenario(name: &str, kind: Kind) -> Option<Scenario> {
    let tokens = |factor: f64| (None, Some((FEW_TOKENS.1 as f64 * factor) as u64));
    let mut scene = base(kind, Work::TOKENS, FEW_TOKENS);
    match name {
        "rpm" => scene = base(kind, Work::REQUESTS, FEW_REQUESTS),
        "tpm" => {}
        "tpm_stream" => scene.work = Work { noise: 0.01, ..Work::TOKENS.streamed() },
        "cap_exact" => scene.caps = tokens(1.0),
        "cap_2x_high" => (scene.caps, scene.belief) = (tokens(2.0), 2.0),
        "cap_2x_low" => (scene.caps, scene.belief) = (tokens(0.5), 0.5),
        "halved" => scene.events = vec![(200.0, Event::Limits(0.5)), (400.0, Event::Limits(1.0))],
        "shared4" => scene.processes = 4,
        "shared4_stream" => (scene.processes, scene.work) = (4, Work::TOKENS.streamed()),
        "blind" => scene.provider.limits.headers = HeaderStyle::None,
        "blind_x1" => (scene.provider.limits.headers, scene.caps) = (HeaderStyle::None, tokens(1.0)),
        "blind_2x_high" => {
            (scene.provider.limits.headers, scene.caps, scene.belief) = (HeaderStyle::None, tokens(2.0), 2.0)
        }
        "blind_2x_low" => {
            (scene.provider.limits.headers, scene.caps, scene.belief) = (HeaderStyle::None, tokens(0.5), 0.5)
        }
        "uncounted" => scene.provider.limits.rejects_count = false,
        "reserved" => scene.work.written = 0.3,
        "whole_seconds" => scene.provider.limits.retry_after = RetryAfter::Seconds,
        "rounded" => {
            scene.provider.limits.headers = HeaderStyle::Azure;
            scene.provider.limits.retry_after = RetryAfter::Seconds;
        }
        "untold" => scene.provider.limits.retry_after = RetryAfter::Absent,
        // As a prompt of a hundred thousand tokens is to an account of four hundred thousand a minute; a call that is larger
        // than all of it, but not by so much that an estimate could tell; and one that beyond doubt is.
        "huge" => scene.events = vec![(240.0, Event::Huge(0.3 * scene.provider.most_tokens_at_once()))],
        "over" => scene.events = vec![(300.0, Event::Huge(1.5 * scene.provider.most_tokens_at_once()))],
        "never" => scene.events = vec![(300.0, Event::Huge(3.0 * scene.provider.most_tokens_at_once()))],
        "accelerated" => {
            scene = base(kind, Work::REQUESTS, FEW_REQUESTS);
            scene.provider.limits.acceleration = Some(Acceleration::above(FEW_REQUESTS.0 / 5));
        }
        "faulty" | "faulty_blind" => {
            scene = base(kind, Work::REQUESTS, FEW_REQUESTS);
            (scene.is_urgent, scene.provider.faults) = (true, FAULTS);
            if name == "faulty_blind" {
                scene.provider.limits.headers = HeaderStyle::None;
                scene.seconds = 2.0 * SECONDS;
            }
        }
        "lone" | "lone_blind" => {
            scene = base(kind, Work::REQUESTS, FEW_REQUESTS);
            if name == "lone_blind" {
                scene.provider.limits.headers = HeaderStyle::None;
            }
            scene.backlog = 0;
            scene.events = (0..10).map(|n| (7.0 + 57.0 * n as f64, Event::Burst(0, 1))).collect();
        }
        _ => return None,
    }
    scene.name = format!("{name}/{}", kind.name());
    Some(scene)
}

/// Bursts of `calls` normal calls some two minutes apart, beside a backlog or onto an idle account.
pub fn burst(kind: Kind, hidden: Option<Kind>, processes: usize, backlog: bool, calls: usize) -> Scenario {
    let mut scene = base(kind, Work::REQUESTS.streamed(), FEW_REQUESTS);
    scene.provider.limits.hidden_requests = hidden.map(|hidden| hidden.per_minute(FEW_REQUESTS.0));
    scene.seconds = 1_200.0;
    scene.processes = processes;
    scene.backlog = if backlog { CALLERS } else { 0 };
    // The first is small, since it teaches.
    let size = |n: usize| if n == 0 { calls.min(10) } else { calls };
    scene.events = (0..9).map(|n| (10.0 + 123.0 * n as f64, Event::Burst(n % processes, size(n)))).collect();
    let hidden = hidden.map_or(String::new(), |hidden| format!("+{}", hidden.name()));
    let beside = if backlog { "busy" } else { "idle" };
    scene.name = format!("burst{calls}x{processes}-{beside}/{}{hidden}", kind.name());
    scene
}

/// An account without headers, with a cap at a multiple of its limit or none.
pub fn blind(kind: Kind, retry_after: RetryAfter, cap: Option<f64>) -> Scenario {
    let mut scene = base(kind, Work::TOKENS, FEW_TOKENS);
    scene.seconds = 900.0;
    scene.provider.limits.headers = HeaderStyle::None;
    scene.provider.limits.retry_after = retry_after;
    scene.caps.1 = cap.map(|factor| (FEW_TOKENS.1 as f64 * factor) as u64);
    let told = told(retry_after);
    let cap = cap.map_or("none".to_owned(), |factor| format!("x{factor}"));
    scene.name = format!("blind-{told}-{cap}/{}", kind.name());
    scene
}

/// How a refusal says when to come again, in a word.
pub fn told(how: RetryAfter) -> &'static str {
    match how {
        RetryAfter::Exact => "exact",
        RetryAfter::Seconds => "whole",
        _ => "absent",
    }
}

/// A server with an unknown number of slots.
pub fn slots(count: u32, full: Full, faults: f64) -> Scenario {
    let mut scene = unlimited();
    scene.provider.limits.max_concurrent = Some(count);
    scene.provider.service = Service::Slots { count, full };
    scene.provider.faults.broken = faults;
    let full = if full == Full::Reset { "reset" } else { "429" };
    scene.name = format!("slots{count}/{full}-{:.0}%", 100.0 * faults);
    scene
}

/// A server that takes everything and only gets slower.
pub fn queue(slots: u32) -> Scenario {
    let mut scene = unlimited();
    scene.provider.limits.workers = Some(slots);
    scene.provider.service = Service::Queue { slots };
    scene.name = format!("queue/{slots}");
    scene
}

/// A bucket that holds a second of two processes' normal calls, in small bursts all the time.
pub fn second() -> Scenario {
    let mut scene = unlimited();
    scene.work = Work::REQUESTS;
    scene.provider.limits.requests_per_second = Some(Rate::per_second(20));
    scene.provider.limits.headers = HeaderStyle::OpenAi;
    (scene.seconds, scene.backlog, scene.processes) = (200.0, 0, 2);
    scene.events = (0..150).map(|n| (1.3 * f64::from(n), Event::Burst(n as usize % 2, 15))).collect();
    scene.name = "second/bucket".to_owned();
    scene
}

/// A provider of twenty calls a second that says so nowhere: not in headers, and in refusals only that it is whole seconds.
/// Fifty callers of normal calls that take a moment each, with a cap at its limit or none: what the article's threads do.
pub fn silent(cap: bool) -> Scenario {
    let mut scene = unlimited();
    scene.work = Work { service: 0.15, spread: 0.3, ..Work::REQUESTS };
    scene.provider.limits.requests_per_second = Some(Rate::per_second(20));
    scene.provider.limits.requests_per_minute = Some(Rate::per_second(20));
    scene.provider.limits.retry_after = RetryAfter::Seconds;
    (scene.seconds, scene.backlog, scene.is_urgent) = (300.0, CALLERS, true);
    scene.caps.0 = cap.then_some(1_200);
    scene.name = format!("silent{}/bucket", if cap { "-capped" } else { "" });
    scene
}

/// What the article's threads meet: a provider of twenty calls a second that says so, and one call in ten goes wrong.
pub fn faulty_second() -> Scenario {
    let mut scene = silent(true);
    scene.provider.limits.headers = HeaderStyle::OpenAi;
    scene.provider.faults = FAULTS;
    scene.name = "faulty-second/bucket".to_owned();
    scene
}

/// A user's cap on calls, on an account of 500 a minute, with two bursts in between.
pub fn cap(kind: Kind, headers: bool, cap: u64) -> Scenario {
    let mut scene = base(kind, Work::REQUESTS, FEW_REQUESTS);
    if !headers {
        scene.provider.limits.headers = HeaderStyle::None;
    }
    scene.caps.0 = Some(cap);
    scene.events = vec![(200.0, Event::Burst(0, 60)), (400.0, Event::Burst(0, 60))];
    let headers = if headers { "told" } else { "blind" };
    scene.name = format!("cap{cap}-{headers}/{}", kind.name());
    scene
}

/// Calls a minute of the scenario that is played over real sockets as well, and its callers.
pub const LIVELY_PER_MINUTE: u64 = 12_000;
const LIVELY_CALLERS: usize = 400;

/// Many calls of a second each, against a limit on calls alone.
pub fn lively(kind: Kind) -> Scenario {
    let mut scene = base(kind, Work { service: 1.0, spread: 0.0, ..Work::REQUESTS }, (LIVELY_PER_MINUTE, 1));
    scene.provider.limits.tokens_per_minute = None;
    scene.backlog = LIVELY_CALLERS;
    scene.name = format!("lively/{}", kind.name());
    scene
}

/// A provider that limits neither calls nor tokens, and callers of an endless line.
fn unlimited() -> Scenario {
    let mut scene = base(Kind::Bucket, Work::TOKENS, FEW_TOKENS);
    scene.provider.limits = Limits::default();
    scene.provider.limits.headers = HeaderStyle::None;
    scene.seconds = 1_200.0;
    scene.backlog = MANY;
    scene
}

fn base(kind: Kind, work: Work, (requests, tokens): (u64, u64)) -> Scenario {
    let mut limits = Limits::default();
    limits.requests_per_minute = Some(kind.per_minute(requests));
    limits.tokens_per_minute = Some(kind.per_minute(tokens));
    limits.charge = Charge::Reserved;
    limits.rejects_count = true;
    Scenario {
        name: String::new(),
        work,
        seconds: SECONDS,
        provider: Provider { kind, limits, service: Service::Endless, faults: Faults::default() },
        processes: 1,
        backlog: CALLERS,
        is_urgent: false,
        events: Vec::new(),
        caps: (None, None),
        belief: 1.0,
    }
}

/// The limiters that bursts come onto, and what they hide.
pub fn burst_limiters() -> [(Kind, Option<Kind>); 7] {
    [
        (Kind::Bucket, None),
        (Kind::Bucket, Some(Kind::Tens)),
        (Kind::Bucket, Some(Kind::Ones)),
        (Kind::Sliding, None),
        (Kind::Minute, None),
        (Kind::Tens, None),
        (Kind::Ones, None),
    ]
}

/// Any provider, callers and events, drawn from a seed: small enough that all that is begun can end within minutes.
pub fn whatever(seed: u64) -> Scenario {
    let mut dice = dice(seed, 300);
    let dice = &mut dice;
    let kind = *pick(dice, &[Kind::Bucket, Kind::Sliding, Kind::Minute, Kind::Tens]);
    let work = *pick(dice, &[Work::REQUESTS, Work::TOKENS, Work::REQUESTS.streamed(), Work::TOKENS.streamed()]);
    let account = (*pick(dice, &[60, 200, 1_000]), *pick(dice, &[100_000, 400_000, 10_000_000]));
    let mut scene = base(kind, work, account);
    scene.name = format!("whatever/{seed}");
    scene.seconds = 30.0 + 120.0 * dice.fraction();
    scene.processes = *pick(dice, &[1, 1, 2]);
    scene.backlog = *pick(dice, &[0, 1, 20]);
    scene.work.written = *pick(dice, &[0.3, 1.0]);
    let limits = &mut scene.provider.limits;
    limits.headers = *pick(dice, &[HeaderStyle::OpenAi, HeaderStyle::Azure, HeaderStyle::None]);
    limits.retry_after = *pick(dice, &TOLD);
    limits.rejects_count = *pick(dice, &[false, true]);
    limits.charge = *pick(dice, &[Charge::Reserved, Charge::Usage]);
    limits.hidden_requests = pick(dice, &[None, None, Some(Kind::Tens)]).map(|kind| kind.per_minute(account.0));
    limits.acceleration = *pick(dice, &[None, None, Some(Acceleration::above(30))]);
    scene.provider.service = *pick(
        dice,
        &[
            Service::Endless,
            Service::Slots { count: 3, full: Full::Refuse },
            Service::Slots { count: 3, full: Full::Reset },
            Service::Queue { slots: 3 },
        ],
    );
    match scene.provider.service {
        Service::Endless => {}
        Service::Slots { count, .. } => {
            limits.max_concurrent = Some(count);
            scene.provider.faults.broken = 0.03;
        }
        Service::Queue { slots } => limits.workers = Some(slots),
    }
    scene.caps = (*pick(dice, &[None, None, Some(40)]), *pick(dice, &[None, None, Some(200_000)]));
    for _ in 0..4 {
        let at = scene.seconds * dice.fraction();
        let process = (dice.number() % scene.processes as u64) as usize;
        let huge = [0.45, 1.5].map(|share| Event::Huge((share * scene.provider.most_tokens_at_once()).min(600_000.0)));
        let burst = Event::Burst(process, *pick(dice, &[1, 5, 30]));
        scene
            .events
            .push((at, *pick(dice, &[burst, burst, burst, huge[0], huge[1], Event::Limits(0.5), Event::Limits(2.0)])));
    }
    scene.events.sort_by(|(one, _), (other, _)| one.total_cmp(other));
    scene
}

fn pick<'a, T>(dice: &mut Dice, from: &'a [T]) -> &'a T {
    &from[(dice.number() % from.len() as u64) as usize]
}

/// Every scenario.
pub fn all() -> Vec<Scenario> {
    let mut all = Vec::new();
    for name in LIMITED {
        all.extend(KINDS.into_iter().filter_map(|kind| scenario(name, kind)));
    }
    for (kind, hidden) in burst_limiters() {
        for processes in [1, 4] {
            for backlog in [false, true] {
                all.extend(BURSTS.map(|calls| burst(kind, hidden, processes, backlog, calls)));
            }
        }
    }
    for kind in KINDS {
        for told in TOLD {
            all.extend(BLIND_CAPS.map(|cap| blind(kind, told, cap)));
        }
    }
    for count in SLOTS {
        for full in [Full::Refuse, Full::Reset] {
            all.extend([0.0, 0.03].map(|faults| slots(count, full, faults)));
        }
    }
    all.extend(QUEUES.map(queue));
    all.extend(KINDS.map(lively));
    all.push(second());
    all.extend([true, false].map(silent));
    all.push(faulty_second());
    for kind in KINDS {
        for headers in [true, false] {
            all.extend(CAPS.map(|calls| cap(kind, headers, calls)));
        }
    }
    all
}
