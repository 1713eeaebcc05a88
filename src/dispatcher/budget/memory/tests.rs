//! What is remembered, written down, read and taken up again, decides as what it was.

use proptest::prelude::*;

use super::*;
use crate::config::Limits;
use crate::dispatcher::ask::{Ask, Group};
use crate::dispatcher::budget::rest::RestMemory;
use crate::dispatcher::budget::tests::refusals::too_fast;
use crate::dispatcher::budget::{Permit, Ready};
use crate::dispatcher::check::cases;
use crate::messages::{
    BudgetReading, Dimension, LearnedBudget, LimitReport, LimiterKind, Period, Priority, Reset, Scope, Tokens,
};

const LIMIT: f64 = 600.0;

fn s(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// What the provider of a scenario runs and says.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Provider {
    Bucket,
    /// A window that starts at the first call.
    Window,
    /// A day's quota beside.
    Day,
    /// It refuses every eightieth call, and says nothing.
    Silent,
    /// A bucket that refuses every eightieth call though there is room.
    Hidden,
}

struct World {
    provider: Provider,
    start: Instant,
    level: f64,
    at: Instant,
    calls: u32,
}

impl World {
    fn reading(limit: f64, left: f64, reset: f64, period: Option<Period>) -> BudgetReading {
        let mut reading = BudgetReading::new(Dimension::Requests, Scope::Whole, period);
        (reading.limit, reading.remaining) = (Some(limit as u64), Some(left.max(0.0) as u64));
        reading.reset = Some(Reset { after: s(reset), grain: s(0.001) });
        reading
    }

    /// The answer to a call: what it says of the limits, and whether it is refused.
    fn answer(&mut self, now: Instant) -> (LimitReport, bool) {
        self.calls += 1;
        let (passed, since) = ((now - self.at).as_secs_f64(), (now - self.start).as_secs_f64());
        self.at = now;
        let is_odd = self.calls.is_multiple_of(80);
        let budgets = match self.provider {
            Provider::Silent => vec![],
            Provider::Bucket | Provider::Hidden => {
                self.level = (self.level + passed * LIMIT / 60.0).min(LIMIT) - 1.0;
                vec![Self::reading(LIMIT, self.level, (LIMIT - self.level) * 60.0 / LIMIT, None)]
            }
            Provider::Window | Provider::Day => {
                let into = since % 60.0;
                self.level = if into < passed { LIMIT - 1.0 } else { self.level - 1.0 };
                let day = Self::reading(5_000.0, 5_000.0 - f64::from(self.calls), 40_000.0 - since, Some(Period::DAY));
                let minute = Self::reading(LIMIT, self.level, 60.0 - into, None);
                vec![if self.provider == Provider::Day { day } else { minute }]
            }
        };
        let is_refused = is_odd && matches!(self.provider, Provider::Silent | Provider::Hidden);
        (LimitReport { budgets, cost: None }, is_refused)
    }
}

/// Takes the answer in, and the call's tokens, of which half were needed.
fn take(
    budget: &mut Budget,
    mut permit: Permit,
    tokens: Tokens,
    (report, is_refused): &(LimitReport, bool),
    now: Instant,
) {
    if *is_refused {
        let mut failure = too_fast(Some(s(1.0)));
        failure.limits = report.clone();
        budget.failed(permit, &failure, now);
    } else {
        budget.hear(&mut permit, report, now);
        budget.settle(permit, Some(Tokens { input: tokens.input / 2, output: tokens.output / 2 }), now);
    }
}

fn written_and_read(memory: &Memory) -> Memory {
    let text = serde_json::to_string(memory).expect("it can be written");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn is_alike(one: Ready, other: Ready, now: Instant) -> bool {
    let wait = |ready: Ready| match ready {
        Ready::Now => Some(Duration::ZERO),
        Ready::At(at, _) => Some(at.saturating_duration_since(now)),
        _ => None,
    };
    match (wait(one), wait(other)) {
        // The log is kept in 256 parts of a minute.
        (Some(one), Some(other)) => one.abs_diff(other) < s(0.3),
        _ => std::mem::discriminant(&one) == std::mem::discriminant(&other),
    }
}

fn priority(number: u8) -> Priority {
    [Priority::High, Priority::Normal, Priority::Low][usize::from(number % 3)]
}

proptest! {
    #![proptest_config(cases(32))]
    #[test]
    fn a_recalled_account_decides_like_the_one_before(
        provider in prop::sample::select(vec![
            Provider::Bucket, Provider::Window, Provider::Day, Provider::Silent, Provider::Hidden,
        ]),
        cap in prop::option::of(60u64..900),
        before in prop::collection::vec((0u8..3, 0u64..40, 0.0f64..0.4), 20..400),
        pause in 0.0f64..20.0,
        after in prop::collection::vec((0u8..3, 0u64..40, 0.0f64..0.4), 1..150),
    ) {
        let start = clock::now();
        let mut world = World { provider, start, level: LIMIT, at: start, calls: 0 };
        let limits = Limits { requests_per_minute: cap, ..Limits::default() };
        let fresh = || Budget::new(limits, 512, start);
        let (mut one, mut groups) = (fresh(), Groups::default());
        let group = groups.of(Some("m"));
        let mut now = start;
        for (number, tokens, gap) in before {
            now += s(gap);
            let tokens = Tokens { input: tokens, output: tokens };
            let ask = Ask { group, tokens, priority: priority(number) };
            if one.ready(now, &ask) == Ready::Now {
                let permit = one.reserve(now, &ask);
                take(&mut one, permit, tokens, &world.answer(now), now);
            }
        }
        // Refusals in a row and the ramp behind them are not kept: they are over by then.
        now += s(if matches!(provider, Provider::Silent | Provider::Hidden) { 45.0 } else { 0.0 } + pause);
        let memory = written_and_read(&one.remember(&groups, now));
        let mut names = Groups::default();
        names.of(Some("another"));
        let mut other = fresh();
        other.recall(&memory, &mut names, now);
        let named = names.of(Some("m"));
        for (number, tokens, gap) in after {
            now += s(gap);
            let tokens = Tokens { input: tokens, output: tokens };
            let asks = |group: Group| Ask { group, tokens, priority: priority(number) };
            for number in 0..3 {
                let asks = |group: Group| Ask { priority: priority(number), ..asks(group) };
                let (had, has) = (one.ready(now, &asks(group)), other.ready(now, &asks(named)));
                prop_assert!(is_alike(had, has, now), "at {:?}: {had:?}, then {has:?}\n{memory:#?}", now - start);
            }
            if one.ready(now, &asks(group)) == Ready::Now {
                let answer = world.answer(now);
                if answer.1 {
                    // What it teaches depends on what went before it to the moment, and the log is coarser than that.
                    break;
                }
                let permit = one.reserve(now, &asks(group));
                take(&mut one, permit, tokens, &answer, now);
                let permit = other.reserve(now, &asks(named));
                take(&mut other, permit, tokens, &answer, now);
            }
        }
    }

    #[test]
    fn nonsense_is_bounded_and_never_closes_an_account(
        numbers in prop::collection::vec(
            prop::sample::select(vec![
                0.0, -1.0, 1.0, 60.0, 1e9, -1e9, 1e300, -1e300, f64::NAN, f64::INFINITY, f64::NEG_INFINITY,
            ]),
            28,
        ),
        counts in prop::collection::vec(prop::sample::select(vec![0, 1, 600, u64::MAX]), 4),
        kind in prop::sample::select(vec![LimiterKind::Bucket, LimiterKind::Window, LimiterKind::Quota]),
    ) {
        let now = clock::now();
        let (mut budget, mut groups) = (Budget::new(Limits::default(), 512, now), Groups::default());
        let memory = nonsense(&numbers, &counts, kind, now);
        budget.recall(&memory, &mut groups, now);
        let group = groups.of(Some("m"));
        let ask = Ask { group, tokens: Tokens::default(), priority: Priority::Low };
        let mut at = now;
        for _ in 0..2_000 {
            match budget.ready(at, &ask) {
                Ready::Now => {
                    let permit = budget.reserve(at, &ask);
                    budget.settle(permit, None, at);
                    budget.remember(&groups, at);
                    return Ok(());
                }
                Ready::At(then, _) | Ready::Resting(then, _) => at = then.max(at + Duration::from_millis(100)),
                other => return Err(TestCaseError::fail(format!("{other:?} of {memory:#?}"))),
            }
            prop_assert!(at < now + s(2.0 * LONGEST_S), "it is closed by {memory:#?}");
        }
        prop_assert!(false, "it asks to come again and again, of {memory:#?}");
    }
}

/// What something else may have written in our place.
fn nonsense(numbers: &[f64], counts: &[u64], kind: LimiterKind, now: Instant) -> Memory {
    let mut sane = Budget::new(Limits::default(), 512, now);
    let mut groups = Groups::default();
    let group = groups.of(Some("m"));
    let ask = Ask { group, tokens: Tokens::default(), priority: Priority::Low };
    let mut permit = sane.reserve(now, &ask);
    let report = LimitReport { budgets: vec![World::reading(LIMIT, 10.0, 59.0, None)], cost: None };
    sane.hear(&mut permit, &report, now);
    sane.settle(permit, None, now);
    let mut memory = sane.remember(&groups, now);
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, t, u, v, w, x, y, z, aa, bb, cc] = numbers else {
        panic!("28 numbers")
    };
    let learned = &mut memory.models[0].learned;
    (learned.input_times, learned.output_times) = (*a, *b);
    learned.idle_s = Some(*b);
    learned.day_used_up_for_s = Some(*c);
    let LearnedBudget::Told(told) = &mut learned.budgets[0] else { panic!("it is told of") };
    (told.limit, told.kind) = (counts[0], kind);
    (told.period_s, told.left, told.margin, told.others) = (*c, *d, *e, *f);
    (told.whole_in_s, told.heard_s_ago, told.low_turn_in_s, told.high_s_ago) = (Some(*g), *h, *i, Some(*j));
    (told.signs.vote, told.signs.watched_s, told.signs.longest_reset_s, told.signs.perhaps_s) = (*k, *l, *m, Some(*n));
    let guess = crate::messages::GuessedBudget {
        counts: Dimension::Requests,
        limit_per_minute: *o,
        window_s: *p,
        left: *q,
        plateau_per_minute: *r,
        plateau_in_s: *t,
        way_back_s: *u,
        usual_way_back_s: *v,
        top_per_minute: Some(*w),
        refused_s_ago: Some(*x),
        low_turn_in_s: *y,
    };
    learned.budgets.extend([LearnedBudget::Guessed(guess.clone()), LearnedBudget::Hidden(guess.clone())]);
    learned.budgets.push(LearnedBudget::Growth(crate::messages::GrowthBudget {
        requests_per_minute: *a,
        over_s: *b,
        refused_s_ago: *y,
    }));
    learned.faults = Some(crate::messages::UsualFaults { share: *z, s_ago: *aa });
    learned.inspected = Some(crate::messages::InspectedRefusals {
        s_ago: *bb,
        doubt: *cc,
        calls: counts[2] as u32,
        refused: counts[3] as u32,
        refused_s_ago: Some(*aa),
    });
    (memory.held_for_s, memory.rests) = (Some(*y), RestMemory::new(Some(*a), *b));
    for log in [&mut memory.log, &mut memory.models[0].log] {
        *log = vec![Past::new(*c, counts[2], counts[3]); 3];
    }
    memory
}
