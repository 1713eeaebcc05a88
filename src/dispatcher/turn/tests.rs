//! Turns as the whole switchboard gives them, on a stage of its own.

use std::time::Duration;

use proptest::prelude::*;

use super::stage::{Script, Stage, cut, refused, too_many};
use super::{AHEAD, PATIENCE};
use crate::dispatcher::check::cases;
use crate::messages::Priority::{self, High, Low, Normal};

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Every attempt is answered after `millis`.
fn steady(millis: u64) -> Script {
    Box::new(move |_, _| (Duration::from_millis(millis), Ok(())))
}

fn limits(accounts: usize, tokens: u64, concurrent: usize) -> String {
    let keys: Vec<String> = (0..accounts).map(|key| format!("sk-stage-{key:09}")).collect();
    format!("api_keys = {keys:?}\nlimits = {{ tokens_per_minute = {tokens}, max_concurrent = {concurrent} }}")
}

/// The order in which the calls started.
fn order(stage: &Stage) -> Vec<u32> {
    stage.starts.iter().map(|(number, _)| *number).collect()
}

#[test]
fn a_call_that_does_not_fit_holds_no_smaller_one_behind_it() {
    let mut stage = Stage::new(&limits(1, 6_000, 100), 1, steady(1_000));
    // The minute's tokens go at once in part: a call larger than a second's worth leaves a debt.
    let first = stage.call("m", 3_000, Normal);
    stage.run_until(stage.now + s(29));
    let (large, small) = (stage.call("m", 5_000, Normal), stage.call("m", 10, Normal));
    stage.run_until(stage.now + s(2));
    assert_eq!(order(&stage), [first, small], "{}", stage.tail());
    stage.run_out();
    assert_eq!(order(&stage), [first, small, large]);
}

#[test]
fn only_the_first_few_of_a_queue_are_looked_at() {
    let mut stage = Stage::new(&limits(1, 6_000, 100), 1, steady(1_000));
    stage.call("m", 3_000, Normal);
    stage.run_until(stage.now + s(29));
    for _ in 0..AHEAD {
        stage.call("m", 5_000, Normal);
    }
    let beyond = stage.call("m", 10, Normal);
    stage.run_until(stage.now + s(2));
    assert!(!order(&stage).contains(&beyond));
    let another_model = stage.call("n", 10, Normal);
    stage.run_until(stage.now + s(2));
    assert!(order(&stage).contains(&another_model));
    stage.run_out();
}

#[test]
fn ten_thousand_calls_of_one_model_that_must_wait_hold_no_call_of_another() {
    let mut stage = Stage::new(&limits(1, 6_000, 100), 1, steady(1_000));
    stage.call("m", 3_000, Normal);
    stage.run_until(stage.now + s(29));
    (0..10_000).for_each(|_| _ = stage.call("m", 5_000, Normal));
    stage.run_until(stage.now + Duration::from_millis(500));
    let other = stage.call("n", 10, Normal);
    assert_eq!(stage.starts.last().map(|(number, _)| *number), Some(other), "it goes at once");
    assert_eq!(stage.waiting(), 10_000);
}

#[test]
fn a_call_goes_to_the_account_where_it_fits() {
    let mut stage = Stage::new(&limits(2, 6_000, 100), 1, steady(60_000));
    let (one, two, three) =
        (stage.call("m", 5_500, Normal), stage.call("m", 100, Normal), stage.call("m", 5_000, Normal));
    // The third fits at neither at once; a bucket that is in debt is not waited for.
    stage.run_until(stage.now + s(3));
    let accounts: Vec<(u32, &str)> = stage.starts.iter().map(|(number, account)| (*number, account.as_str())).collect();
    assert_eq!(accounts, [(one, "up#1"), (two, "up#2"), (three, "up#2")], "{}", stage.tail());
}

/// A flood of small calls that take each token as it comes, and a large one among them.
fn large_in_a_flood(accounts: usize, flood: Priority, flood_model: &str) -> (u32, Stage) {
    let mut stage = Stage::new(&limits(accounts, 6_000, 100), 1, steady(100));
    for _ in 0..20 * accounts {
        stage.call(flood_model, 90, flood);
    }
    let large = stage.call("m", 5_900, Normal);
    for _ in 0..350 * accounts {
        stage.call(flood_model, 90, flood);
        stage.run_until(stage.now + Duration::from_millis(500 / accounts as u64));
    }
    (large, stage)
}

#[test]
fn a_large_call_is_passed_so_often_and_no_more() {
    for (accounts, flood, model) in
        [(1, Normal, "m"), (1, Normal, "n"), (1, Low, "m"), (1, Low, "n"), (3, Normal, "m"), (3, Low, "n")]
    {
        let (large, stage) = large_in_a_flood(accounts, flood, model);
        let at = order(&stage).iter().position(|number| *number == large);
        let at = at.unwrap_or_else(|| panic!("beside {accounts} {flood:?} {model} it starves\n{}", stage.tail()));
        let passed = order(&stage)[..at].iter().filter(|number| **number > large).count();
        assert!(passed > 10, "it is passed at all: {passed}");
        if accounts == 1 {
            assert!(passed <= PATIENCE as usize, "beside {flood:?} {model} it is passed {passed} times");
        }
    }
}

#[test]
fn higher_priorities_go_first_whatever_waits_below() {
    let (large, stage) = large_in_a_flood(1, High, "m");
    assert!(!order(&stage).contains(&large));
}

/// A call of a schedule: its wait behind the one before in milliseconds, its model, tokens and priority.
type Arrival = (u64, u8, u64, u8);

fn arrivals(most: usize) -> impl Strategy<Value = Vec<Arrival>> {
    let tokens = prop_oneof![4 => 1u64..200, 2 => 200u64..2_000, 1 => 2_000u64..5_900];
    prop::collection::vec((prop_oneof![Just(0), 0u64..3_000], 0u8..4, tokens, 0u8..3), 1..most)
}

fn play(stage: &mut Stage, arrivals: &[Arrival]) {
    for (wait, model, tokens, priority) in arrivals {
        stage.run_until(stage.now + Duration::from_millis(*wait));
        stage.call(&format!("model-{model}"), *tokens, [High, Normal, Low][*priority as usize]);
    }
    stage.run_out();
}

/// A run in which attempts fail in every way, drawn from `seed`: what happened, and how long it took.
fn stormy(accounts: usize, tokens: u64, concurrent: usize, seed: u64, arrivals: &[Arrival]) -> Stage {
    let mut dice = crate::clock::Dice::seeded(seed);
    let script: Script = Box::new(move |_, _| {
        let took = dice.up_to(s(5)) + Duration::from_millis(1);
        let end = match dice.number() % 16 {
            0 => Err(too_many(dice.up_to(s(20)))),
            1 => Err(cut()),
            2 => Err(refused()),
            _ => Ok(()),
        };
        (took, end)
    });
    let retry = "\nretry = { max_attempts = 100000, retry_budget = 1.0 }";
    let mut stage = Stage::new(&(limits(accounts, tokens, concurrent) + retry), seed, script);
    play(&mut stage, arrivals);
    stage
}

proptest! {
    #![proptest_config(cases(10))]

    /// Time goes to what is due and to the ends of attempts only: a wake-up that is lost would leave a call for good.
    #[test]
    fn every_call_goes_in_the_end(accounts in 1usize..9, concurrent in 1usize..5, arrivals in arrivals(120)) {
        let mut stage = Stage::new(&limits(accounts, 6_000, concurrent), 1, steady(700));
        play(&mut stage, &arrivals);
        prop_assert!(stage.ended.values().all(|(_, end)| end.is_ok()));
        prop_assert_eq!(stage.starts.len(), arrivals.len());
    }

    /// On one account, whose caps are what all wait for.
    #[test]
    fn the_first_of_a_queue_is_passed_so_often_and_no_more(concurrent in 1usize..5, arrivals in arrivals(200)) {
        let mut stage = Stage::new(&limits(1, 6_000, concurrent), 1, steady(200));
        play(&mut stage, &arrivals);
        let order = order(&stage);
        let queue = |number: u32| { let (_, model, _, priority) = arrivals[number as usize]; (priority, model) };
        for (at, number) in order.iter().enumerate() {
            // Since the last of those before it in its queue has gone.
            let ahead = |other: &u32| *other < *number && queue(*other) == queue(*number);
            let first_since = order[..at].iter().rposition(ahead).map_or(0, |place| place + 1);
            let behind = |other: &&u32| **other > *number && queue(**other).0 >= queue(*number).0;
            let passing: Vec<u32> = order[first_since..at].iter().filter(behind).copied().collect();
            let is_alike = |other: &&u32| queue(**other).1 == queue(*number).1;
            let alike = passing.iter().filter(is_alike).count();
            prop_assert!(alike <= PATIENCE as usize, "{} was passed {} times", number, alike);
            // Those of other models take what it waits for only where that is the cap, and not its model's own pace.
            prop_assert!(passing.len() <= 2 * PATIENCE as usize, "{} was passed {} times", number, passing.len());
        }
    }

    #[test]
    fn whatever_fails_every_call_has_its_end_and_a_seed_gives_the_same_log(
        accounts in 1usize..9, concurrent in 1usize..5, seed in 0u64..1_000, arrivals in arrivals(60)
    ) {
        let one = stormy(accounts, 6_000, concurrent, seed, &arrivals).log.clone();
        let other = stormy(accounts, 6_000, concurrent, seed, &arrivals).log.clone();
        prop_assert_eq!(one, other);
    }
}
