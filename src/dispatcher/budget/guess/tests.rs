use proptest::prelude::*;

use super::*;
use crate::clock;
use crate::dispatcher::budget::sends::Cost;
use crate::dispatcher::budget::tests::said::{self, ROUNDING, s};
use crate::dispatcher::check::cases;

/// A guess and the log of what was sent. Times are seconds from its start.
struct Rig {
    start: Instant,
    sends: Sends,
    guess: Guess,
}

impl Rig {
    fn new(guess: impl Fn(Instant) -> Guess) -> Self {
        let start = clock::now();
        Self { start, sends: Sends::default(), guess: guess(start) }
    }

    /// So many a minute, which nobody has refused.
    fn unrefused(per_minute: f64) -> Self {
        Self::new(|start| Guess::unrefused(Counted::Requests, per_minute, start))
    }

    /// So many a minute were delivered when one was refused at the start.
    fn refused(per_minute: f64) -> Self {
        Self::new(|start| Guess::refused(Counted::Requests, per_minute, f64::INFINITY, Guess::FLAT_AFTER, start))
    }

    fn at(&self, seconds: f64) -> Instant {
        self.start + s(seconds)
    }

    fn limit(&self, at: f64) -> f64 {
        self.guess.limit(self.at(at))
    }

    fn ready_at(&self, at: f64, cost: u64, priority: Priority) -> f64 {
        (self.guess.ready_at(self.at(at), cost, priority, &self.sends) - self.start).as_secs_f64()
    }

    fn send(&mut self, at: f64, cost: u64, priority: Priority) -> Ticket {
        self.guess.spend(self.at(at), cost, priority, f64::INFINITY);
        self.sends.push(self.at(at), Cost { requests: cost, ..Cost::default() })
    }

    /// As many of `cost` as may go until `end`: when each went.
    fn fill(&mut self, cost: u64, priority: Priority, end: f64) -> Vec<f64> {
        let (mut at, mut times) = (0.0, Vec::new());
        loop {
            let ready = self.ready_at(at, cost, priority);
            if ready > end {
                return times;
            }
            if ready > at {
                at = ready + 1e-9;
                continue;
            }
            self.send(at, cost, priority);
            times.push(at);
        }
    }

    fn refuse(&mut self, sent: f64, ticket: Ticket, at: f64, told: Option<f64>) {
        self.guess.cut(self.at(at), self.at(sent), ticket, told.map(s), &self.sends);
    }
}

#[track_caller]
fn assert_near(one: f64, other: f64) {
    assert!((one - other).abs() <= 1e-3 * other.abs().max(1.0), "{one} is not {other}");
}

fn most_within(times: &[f64], seconds: f64) -> usize {
    let from = |first: f64| times.iter().filter(|at| **at >= first && **at < first + seconds).count();
    times.iter().map(|first| from(*first)).max().unwrap_or_default()
}

#[test]
fn a_refused_limit_comes_back_flat_where_the_refusal_was_and_grows_steeply_far_from_it() {
    let rig = Rig::refused(600.0);
    assert_near(rig.limit(0.0), CUT * 600.0);
    assert_near(rig.limit(60.0), 600.0);
    assert!((599.0..=600.0).contains(&rig.limit(50.0)) && (600.0..601.0).contains(&rig.limit(70.0)));
    assert_near(rig.limit(120.0), 660.0);
    assert_near(rig.limit(100_000.0), Curve::MOST * 600.0);
    assert!((0..3_000).all(|n| rig.limit(f64::from(n)) <= rig.limit(f64::from(n) + 1.0)), "it never shrinks by itself");
    let mut topped = Rig::refused(600.0);
    topped.guess.set_top(610.0);
    assert_near(topped.limit(100_000.0), 610.0);
}

#[test]
fn one_that_was_never_refused_is_the_limit_it_was_given_while_it_is_not_used() {
    let mut rig = Rig::unrefused(600.0);
    assert_near(rig.limit(0.0), 600.0);
    rig.guess.idle(s(3_600.0));
    assert_near(rig.limit(3_600.0), 600.0);
    assert!(!rig.guess.was_refused());
}

#[test]
fn a_refusal_cuts_to_what_was_delivered_where_that_is_far_less_and_else_to_what_was_believed() {
    let cut = |calls: u64| {
        let mut rig = Rig::unrefused(600.0);
        let ticket = rig.send(9.0, calls, Priority::Normal);
        rig.refuse(9.0, ticket, 9.0, None);
        (rig.limit(9.0), rig.limit(69.0))
    };
    let (now, then) = cut(60);
    assert_near(now, CUT * 360.0);
    assert_near(then, 360.0);
    // Next to all was delivered, or so little that it cannot have been the rate.
    assert_near(cut(95).1, 600.0);
    assert_near(cut(10).1, 600.0);
}

#[test]
fn the_refusals_of_a_volley_cut_once_and_a_named_wait_is_not_taken_off_the_way_back() {
    let mut rig = Rig::unrefused(600.0);
    let ticket = rig.send(1.0, 100, Priority::Normal);
    rig.refuse(1.0, ticket, 1.0, Some(30.0));
    let limit = rig.limit(91.0);
    assert_near(limit, 600.0);
    assert!(rig.limit(31.0) < CUT * 600.0 + 1.0, "the way back begins when it may go again");
    rig.refuse(1.0, ticket, 4.9, Some(30.0));
    assert_near(rig.limit(91.0), limit);
    rig.refuse(1.0, ticket, 5.1, Some(30.0));
    assert!(rig.limit(91.0) < limit);
}

#[test]
fn where_refusals_without_a_time_follow_each_other_the_way_back_takes_longer() {
    let mut rig = Rig::unrefused(600.0);
    let mut at = 0.0;
    let mut ways = Vec::new();
    for _ in 0..10 {
        let ticket = rig.send(at, 1, Priority::Normal);
        rig.refuse(at, ticket, at, None);
        ways.push(rig.guess.curve.flat_after.as_secs_f64());
        at += 10.0;
    }
    assert!(ways[0] == 60.0 && ways.is_sorted() && ways[9] == 240.0, "{ways:?}");
    // A rest between them, or a time that is named, begins anew.
    let ticket = rig.send(at + 30.0, 1, Priority::Normal);
    rig.refuse(at + 30.0, ticket, at + 30.0, None);
    assert_near(rig.guess.curve.flat_after.as_secs_f64(), 60.0);
}

#[test]
fn it_is_kept_over_ten_seconds_and_used_in_full() {
    let mut rig = Rig::refused(600.0);
    let times = rig.fill(1, Priority::Normal, 60.0);
    assert!(most_within(&times, 10.0) <= 100, "{}", most_within(&times, 10.0));
    assert!((540..600).contains(&times.len()), "{} of what it was on average", times.len());
    let mut rig = Rig::unrefused(600.0);
    let times = rig.fill(1, Priority::Normal, 29.9);
    assert!(most_within(&times, 10.0) <= 101 && times.len() >= 295, "{}", times.len());
}

#[test]
fn calls_that_are_large_beside_ten_seconds_are_kept_over_the_minute_too() {
    let mut rig = Rig::refused(600.0);
    let times = rig.fill(90, Priority::Normal, 59.9);
    assert!(most_within(&times, 60.0) * 90 <= 600, "{times:?}");
    assert!(times.len() >= 5, "one more than fits may go into ten seconds: {times:?}");
    // What is larger than all goes when there is nothing beside it.
    let mut rig = Rig::refused(60.0);
    rig.send(0.0, 1, Priority::Normal);
    let ready = rig.ready_at(1.0, 1_000, Priority::Normal);
    assert!((10.0..61.0).contains(&ready), "{ready}");
    assert_near(rig.ready_at(100.0, 1_000, Priority::Normal), 100.0);
}

#[test]
fn a_hidden_limit_is_taken_for_one_of_a_second_where_ten_had_room() {
    let of_calls = |times: [(f64, u64); 2]| {
        let mut rig =
            Rig::new(|start| Guess::refused(Counted::Requests, 600.0, 600.0, Guess::FLAT_AFTER, start - s(60.0)));
        let ticket = times.map(|(at, calls)| rig.send(at, calls, Priority::Normal))[1];
        let (sent, now) = (rig.at(times[1].0), rig.at(times[1].0 + 0.1));
        rig.guess.cut_or_shorten(now, sent, ticket, None, &rig.sends);
        rig.guess.window()
    };
    assert_eq!(of_calls([(1.0, 10), (9.0, 12)]), Guess::SHORT, "a second's worth and more within one");
    assert_eq!(of_calls([(1.0, 90), (9.0, 12)]), Guess::WINDOW, "ten seconds' worth, too: that explains it");
    assert_eq!(of_calls([(1.0, 3), (9.0, 3)]), Guess::WINDOW, "so little explains nothing");
}

#[test]
fn low_priority_comes_evenly_and_as_fast_as_the_limit() {
    let mut rig = Rig::unrefused(600.0);
    let times = rig.fill(1, Priority::Low, 29.9);
    assert!(most_within(&times, 1.0) <= 16, "{}", most_within(&times, 1.0));
    assert!(times.len() >= 295, "{}", times.len());
}

/// What happens in a schedule: after so many milliseconds a call of such a cost and priority, which may be refused with a
/// time or without.
type Step = (u64, u64, bool, Option<Option<u64>>);

fn schedules() -> impl Strategy<Value = Vec<Step>> {
    let refusal = prop::option::weighted(0.2, prop::option::of(0u64..20));
    prop::collection::vec((prop_oneof![Just(0), 0u64..3_000], 0u64..150, any::<bool>(), refusal), 1..40)
}

fn played(kind: usize, steps: &[Step]) -> (Rig, f64) {
    let mut rig = match kind {
        0 => Rig::unrefused(300.0),
        1 => Rig::refused(300.0),
        _ => Rig::new(|start| Guess::refused(Counted::Requests, 300.0, 300.0, Guess::FLAT_AFTER, start)),
    };
    let mut at = 0.0;
    for (gap, cost, is_low, refusal) in steps {
        at += *gap as f64 / 1_000.0;
        let ticket = rig.send(at, *cost, if *is_low { Priority::Low } else { Priority::Normal });
        if let Some(told) = refusal {
            let (sent, now, told) = (rig.at(at), rig.at(at + 0.05), told.map(Duration::from_secs));
            match kind {
                2 => rig.guess.cut_or_shorten(now, sent, ticket, told, &rig.sends),
                _ => rig.guess.cut(now, sent, ticket, told, &rig.sends),
            }
            at += 0.05;
        }
    }
    (rig, at)
}

#[test]
fn where_the_limit_comes_close_to_a_whole_number_of_calls_the_time_is_named_once_and_for_all() {
    let mut rig = Rig::refused(2.0);
    rig.guess.curve.from = rig.at(20.0);
    for at in [1.0, 30.0] {
        rig.send(at, 1, Priority::Normal);
    }
    // The first leaves the minute before the limit is back at two calls, to which it comes ever more slowly.
    let then = said::holds(rig.at(31.0), |now| rig.guess.ready_at(now, 1, Priority::Normal, &rig.sends));
    let then = (then.expect("it holds") - rig.start).as_secs_f64();
    assert!((75.0..80.0).contains(&then), "{then}");
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn what_is_said_of_a_call_holds_until_the_time_it_names(
        kind in 0usize..3, steps in schedules(), cost in 0u64..400, is_low: bool
    ) {
        let (rig, at) = played(kind, &steps);
        let priority = if is_low { Priority::Low } else { Priority::Normal };
        let says = |now| rig.guess.ready_at(now, cost, priority, &rig.sends);
        let then = said::holds(rig.at(at), says)?;
        prop_assert!(says(then + ROUNDING) <= then + ROUNDING, "and then it goes");
    }

    #[test]
    fn a_larger_call_is_never_ready_sooner(
        kind in 0usize..3, steps in schedules(), costs in (0u64..400, 0u64..400), is_low: bool
    ) {
        let (rig, at) = played(kind, &steps);
        let priority = if is_low { Priority::Low } else { Priority::Normal };
        let (small, large) = (costs.0.min(costs.1), costs.0.max(costs.1));
        prop_assert!(rig.ready_at(at, small, priority) <= rig.ready_at(at, large, priority) + 1e-5);
    }
}
