//! What refusals do to an account, and what its answers are worth.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::dispatcher::budget::refusals::{IN_A_ROW, SCOUTS_FOR};
use crate::dispatcher::check::cases;
use crate::messages::{BudgetReading, Dimension, Headers, Reset, Scope, Sent, Tokens};

/// A 429 for the rate that names its time, or does not.
pub(in super::super) fn too_fast(named: Option<Duration>) -> Failure {
    let mut failure = Failure::new(FailureKind::RateLimited, Sent::Maybe, "too fast", "scripted");
    failure.pushback = Some(Pushback::Rate);
    failure.answer = Some((429, Headers::default(), Bytes::new()));
    failure.hint.after = named;
    failure
}

const SECOND: Duration = Duration::from_secs(1);

/// An account of a cap that nothing here comes near, so that a rate is known and no ramp follows a hold.
fn capped(now: Instant) -> Budget {
    Budget::new(limits(Some(60_000), None, None), 512, now)
}

fn held_until(kept: Option<Kept>) -> Instant {
    match kept {
        Some(Kept::Account(until)) => until,
        other => panic!("the account is held: {other:?}"),
    }
}

/// A call goes as soon as it may, and is refused at once. Gives for how long the account is held.
fn refused(budget: &mut Budget, now: &mut Instant, named: Option<Duration>) -> Duration {
    while let Ready::At(at, _) = budget.ready(*now, &asks(0)) {
        *now = at;
    }
    let permit = budget.reserve(*now, &asks(0));
    let held = held_until(budget.failed(permit, &too_fast(named), *now));
    assert_eq!(budget.ready(*now, &asks(0)), Ready::At(held, Wait::Held));
    held - *now
}

#[test]
fn refusals_in_a_row_that_name_no_time_hold_the_account_for_longer_and_longer() {
    let mut now = clock::now();
    let mut budget = capped(now);
    let held: Vec<u128> = (0..6).map(|_| refused(&mut budget, &mut now, None).as_millis()).collect();
    assert_eq!(held, [500, 1_000, 2_000, 4_000, 8_000, 8_000]);
    now += IN_A_ROW;
    assert_eq!(refused(&mut budget, &mut now, None), PAUSE, "a new row");
}

#[test]
fn a_time_that_is_named_is_kept_and_by_a_silent_provider_at_least_the_pause_of_the_row() {
    let mut now = clock::now();
    let mut budget = capped(now);
    let held: Vec<u64> = (0..5).map(|_| refused(&mut budget, &mut now, Some(2 * SECOND)).as_secs()).collect();
    assert_eq!(held, [2, 2, 2, 4, 8]);
    now += IN_A_ROW;
    assert_eq!(refused(&mut budget, &mut now, Some(30 * SECOND)), 30 * SECOND);
}

#[test]
fn a_refusals_own_time_overrules_a_reset_that_is_far_for_the_call_that_was_refused() {
    let mut none_left = BudgetReading::new(Dimension::Requests, Scope::Whole, None);
    (none_left.limit, none_left.remaining) = (Some(500), Some(0));
    none_left.reset = Some(Reset { after: 360 * SECOND, grain: SECOND });
    for named in [Some(SECOND), None] {
        let now = clock::now();
        let mut budget = Budget::new(limits(None, None, None), 512, now);
        let permit = budget.reserve(now, &asks(10));
        let mut failure = too_fast(named);
        failure.limits = LimitReport { budgets: vec![none_left], cost: None };
        let until = held_until(budget.failed(permit, &failure, now));
        let ready = |budget: &mut Budget| budget.ready(until, &asks(10));
        let is_far = |ready| matches!(ready, Ready::At(at, Wait::Told { .. }) if at >= now + 360 * SECOND);
        if named.is_none() {
            assert!(is_far(ready(&mut budget)));
            continue;
        }
        assert_eq!((until, ready(&mut budget)), (now + SECOND, Ready::Now));
        let permit = budget.reserve(until, &asks(10));
        assert!(is_far(ready(&mut budget)), "one was promised");
        // Refused again, it may come again; and so on until it is taken.
        let until = held_until(budget.failed(permit, &failure, until));
        assert_eq!(budget.ready(until, &asks(10)), Ready::Now);
    }
}

#[test]
fn the_refusals_of_a_volley_are_one() {
    let start = clock::now();
    let mut budget = capped(start);
    let volley: Vec<Permit> = (0..16).map(|_| budget.reserve(start, &asks(0))).collect();
    for (n, permit) in volley.into_iter().enumerate() {
        let now = start + Duration::from_millis(n as u64);
        assert_eq!(held_until(budget.failed(permit, &too_fast(Some(SECOND)), now)), now + SECOND);
    }
    assert_eq!(budget.in_flight(), 0);
}

#[test]
fn behind_refusals_in_a_row_one_call_goes_ahead_and_the_others_wait_for_word_of_it() {
    let mut now = clock::now();
    let mut budget = capped(now);
    let ready = |budget: &mut Budget, at: Instant| budget.ready(at, &asks(0));
    let held = refused(&mut budget, &mut now, Some(SECOND));
    now += held;
    // A lone refusal sends nobody ahead.
    let pair = [budget.reserve(now, &asks(0)), budget.reserve(now, &asks(0))];
    assert_eq!(ready(&mut budget, now), Ready::Now);
    pair.into_iter().for_each(|permit| budget.settle(permit, None, now));
    let held = refused(&mut budget, &mut now, Some(SECOND));
    now += held;
    let mut scout = budget.reserve(now, &asks(0));
    assert_eq!(ready(&mut budget, now), Ready::At(now + SCOUTS_FOR, Wait::Ramp));
    // A refusal would have come by then.
    assert_eq!(ready(&mut budget, now + SCOUTS_FOR), Ready::Now);
    budget.hear(&mut scout, &LimitReport::default(), now + SECOND / 10);
    assert_eq!(ready(&mut budget, now + SECOND / 10), Ready::Now);
}

#[test]
fn a_hold_of_an_account_whose_rate_is_known_is_followed_by_no_ramp() {
    let now = clock::now();
    let mut budget = capped(now);
    let permit = budget.reserve(now, &asks(0));
    let until = held_until(budget.failed(permit, &too_fast(Some(5 * SECOND)), now));
    assert_eq!(
        (until, budget.kept_until(now, Group(0)), budget.kept_until(until, Group(0))),
        (now + 5 * SECOND, Some(until), None)
    );
    for _ in 0..10 {
        assert_eq!(budget.ready(until, &asks(0)), Ready::Now);
        drop(budget.reserve(until, &asks(0)));
    }
}

#[test]
fn what_is_held_or_rests_has_room_for_nobody_until_then() {
    let now = clock::now();
    let mut budget = Budget::new(limits(Some(100), None, None), 512, now);
    budget.hold(now, now + 5 * SECOND);
    assert_eq!(budget.room_until(now, now + 4 * SECOND, Group(0)), (0, 0));
    assert_eq!(budget.room_until(now, now + 6 * SECOND, Group(0)).0, 100);
    budget.rest(Rest::Refused, now);
    assert_eq!(budget.room_until(now, now + 6 * SECOND, Group(0)), (0, 0));
    assert!(budget.room_until(now, now + 60 * SECOND, Group(0)).0 >= 100);
}

#[test]
fn permits_of_a_dispatcher_that_has_died_take_nothing_from_its_successor() {
    let now = clock::now();
    let mut budget = Budget::new(limits(Some(10), None, None), 512, now);
    let before = budget.reserve(now, &asks(0));
    budget.forget_in_flight();
    let after = budget.reserve(now, &asks(0));
    drop(before);
    assert_eq!(budget.in_flight(), 1);
    assert_eq!(budget.remaining_requests(now).map(|left| left.remaining), Some(8), "what it used stays used");
    drop(after);
    assert_eq!(budget.in_flight(), 0);
}

/// What happens in a schedule: after so many milliseconds a call of so many tokens starts, of low priority or not, and ends
/// well (0), with a 429 that names a time (1) or none (2), or goes on (3).
type Step = (u64, u64, bool, u8);

fn schedules() -> impl Strategy<Value = Vec<Step>> {
    let wait = prop_oneof![Just(0), 0u64..2_000];
    let end = prop_oneof![5 => Just(0u8), 1 => Just(1), 1 => Just(2), 2 => Just(3)];
    prop::collection::vec((wait, 0u64..1_500, any::<bool>(), end), 1..60)
}

fn played(is_capped: bool, steps: &[Step]) -> (Budget, Instant, Vec<Permit>) {
    let mut now = clock::now();
    let limits = if is_capped { limits(Some(60), Some(6_000), Some(20)) } else { limits(None, None, None) };
    let (mut budget, mut open) = (Budget::new(limits, 512, now), Vec::new());
    for (wait, tokens, is_low, end) in steps {
        now += Duration::from_millis(*wait);
        let priority = if *is_low { Priority::Low } else { Priority::Normal };
        let permit = budget.reserve(now, &Ask { priority, ..asks(*tokens) });
        match end {
            0 => budget.settle(permit, Some(Tokens { input: tokens / 2, output: 1 }), now),
            1 => _ = budget.failed(permit, &too_fast(Some(3 * SECOND)), now),
            2 => _ = budget.failed(permit, &too_fast(None), now),
            _ => open.push(permit),
        }
    }
    (budget, now, open)
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn an_answer_holds_until_the_time_it_names_and_a_larger_call_never_goes_sooner(
        is_capped: bool, steps in schedules(), tokens in (0u64..3_000, 0u64..3_000), is_low: bool
    ) {
        const ROUNDING: Duration = Duration::from_micros(10);
        let (mut budget, now, open) = played(is_capped, &steps);
        let priority = if is_low { Priority::Low } else { Priority::Normal };
        let [small, large] = [tokens.0.min(tokens.1), tokens.0.max(tokens.1)].map(|tokens| Ask { priority, ..asks(tokens) });
        if let Ready::At(then, _) = budget.ready(now, &small) {
            let step = ((then - now) / 300).max(Duration::from_millis(1));
            let mut look = now;
            while look + ROUNDING < then {
                let says = budget.ready(look, &small);
                prop_assert!(matches!(says, Ready::At(at, _) if at + ROUNDING >= then), "{:?} ahead: {says:?}", then - look);
                look += step;
            }
        }
        match (budget.ready(now, &small), budget.ready(now, &large)) {
            (Ready::At(small, _), Ready::At(large, _)) => prop_assert!(small <= large + ROUNDING),
            (_, Ready::Now) => prop_assert_eq!(budget.ready(now, &small), Ready::Now),
            _ => {}
        }
        drop(open);
    }
}

#[test]
fn what_broke_on_its_way_counts_as_sent_and_what_never_left_does_not() {
    for (sent, left) in [(Sent::Maybe, 7), (Sent::No, 8)] {
        let now = clock::now();
        let mut budget = Budget::new(limits(None, None, None), 512, now);
        let mut permit = budget.reserve(now, &asks(0));
        let mut reading = BudgetReading::new(Dimension::Requests, Scope::Whole, None);
        (reading.limit, reading.remaining) = (Some(10), Some(8));
        reading.reset = Some(Reset { after: 60 * SECOND, grain: Duration::ZERO });
        let report = LimitReport { budgets: vec![reading], ..LimitReport::default() };
        budget.hear(&mut permit, &report, now + SECOND);
        budget.settle(permit, None, now + SECOND);
        let permit = budget.reserve(now + SECOND, &asks(0));
        let failure = Failure::new(FailureKind::Cut, sent, "broken", "scripted");
        budget.failed(permit, &failure, now + 2 * SECOND);
        let goes = (0..10)
            .take_while(|_| {
                matches!(budget.ready(now + 3 * SECOND, &asks(0)), Ready::Now)
                    .then(|| drop(budget.reserve(now + 3 * SECOND, &asks(0))))
                    .is_some()
            })
            .count();
        assert_eq!(goes, left, "{sent:?}");
    }
}
