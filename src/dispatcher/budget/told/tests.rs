use proptest::prelude::*;

use super::*;
use crate::clock;
use crate::dispatcher::budget::tests::said::{self, s};
use crate::dispatcher::check::cases;

/// A budget and the log of what was sent. Times are seconds from its start.
struct Rig {
    start: Instant,
    sends: Sends,
    unanswered: Unanswered,
    told: Told,
}

impl Rig {
    /// Of 600 a minute, all of which are left at the start.
    fn new(is_bucket: bool) -> Self {
        Self::of(is_bucket, 60.0, 600.0, Counted::Requests)
    }

    fn of(is_bucket: bool, period: f64, limit: f64, counted: Counted) -> Self {
        let (start, mut sends, unanswered) = (clock::now(), Sends::default(), Unanswered::new());
        // The response that told of it first was to a call that cost next to nothing.
        let ticket = sends.push(start, Cost::default());
        let first = Snapshot { ticket, sent: start, limit, remaining: limit, reset: None, heard: start, promise: None };
        let mut told = Told::new(counted, None, first, &sends, &unanswered);
        told.kind = Kind::proven(is_bucket, s(period), start);
        Self { start, sends, unanswered, told }
    }

    fn at(&self, seconds: f64) -> Instant {
        self.start + s(seconds)
    }

    fn level(&self, at: f64) -> f64 {
        self.told.level(self.at(at), &self.sends)
    }

    fn ready_at(&self, at: f64, cost: u64, priority: Priority) -> f64 {
        let ready = self.told.ready_at(self.at(at), cost, priority, f64::INFINITY, &self.sends);
        (ready - self.start).as_secs_f64()
    }

    fn sends_by(&mut self, priority: Priority, at: f64, cost: u64) -> (Ticket, Instant, Cost) {
        let now = self.at(at);
        self.told.spend(now, cost, priority, f64::INFINITY, &self.sends);
        let cost = Cost { requests: cost, input: cost, ..Cost::default() };
        let ticket = self.sends.push(now, cost);
        self.told.sent(now, ticket, &self.sends);
        self.unanswered.insert(ticket, (now, cost));
        (ticket, now, cost)
    }

    fn send(&mut self, at: f64, cost: u64) -> (Ticket, Instant, Cost) {
        self.sends_by(Priority::Normal, at, cost)
    }

    /// The response to an attempt comes: so much is left.
    fn answer(&mut self, (ticket, sent, cost): (Ticket, Instant, Cost), at: f64, remaining: f64) {
        let limit = self.told.limit();
        let reset = self.told.newest.reset;
        let new = Snapshot { ticket, sent, limit, remaining, reset, heard: self.at(at), promise: None };
        self.told.hear(new, &self.sends, &self.unanswered);
        self.unanswered.remove(&ticket);
        self.told.answered(ticket, sent, cost);
    }
}

#[track_caller]
fn assert_near(one: f64, other: f64) {
    assert!((one - other).abs() < 1e-2, "{one} is not {other}");
}

#[test]
fn a_bucket_is_rolled_forward_over_what_comes_in_and_what_was_sent() {
    let mut rig = Rig::new(true);
    let first = rig.send(1.0, 500);
    rig.answer(first, 1.5, 100.0);
    assert_near(rig.level(1.5), 105.0);
    let second = rig.send(2.0, 40);
    assert_near(rig.level(3.0), 80.0);
    // Five more are gone than was thought: perhaps others take some.
    rig.answer(second, 3.0, 65.0);
    assert!((0.5..1.5).contains(&rig.told.others), "{}", rig.told.others);
    assert_near(rig.level(3.0), 75.0 - rig.told.others);
}

#[test]
fn a_bucket_never_holds_more_than_its_limit() {
    let mut rig = Rig::new(true);
    let first = rig.send(1.0, 1);
    rig.send(11.0, 50);
    assert_near(rig.level(1_000.0), 600.0);
    // Full by the time of the second: what would have come in meanwhile is lost.
    rig.answer(first, 12.0, 599.0);
    assert_near(rig.level(12.0), 560.0);
}

#[test]
fn a_response_to_an_earlier_call_says_nothing_new() {
    for is_bucket in [true, false] {
        let mut rig = Rig::new(is_bucket);
        let (early, late) = (rig.send(1.0, 10), rig.send(2.0, 10));
        rig.answer(late, 3.0, 400.0);
        let level = rig.level(4.0);
        rig.answer(early, 3.5, 590.0);
        assert_near(rig.level(4.0), level);
    }
}

#[test]
fn of_a_volley_the_lowest_counts_in_whatever_order_its_responses_come() {
    // What each was told is left; the provider may have seen them in another order than they left in.
    for told in [[599.0, 598.0, 597.0], [597.0, 599.0, 598.0], [598.0, 597.0, 599.0]] {
        let levels = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]].map(|order| {
            let mut rig = Rig::new(true);
            let volley = [1.0, 1.001, 1.002].map(|at| rig.send(at, 1));
            for (n, which) in order.into_iter().enumerate() {
                rig.answer(volley[which], 1.01 + 0.001 * n as f64, told[which]);
                assert!(rig.level(1.02) <= 597.2, "never more than is left: {}", rig.level(1.02));
            }
            rig.level(1.02)
        });
        assert!(levels.iter().all(|level| (level - levels[0]).abs() < 0.5 && *level > 594.0), "{told:?}: {levels:?}");
    }
}

#[test]
fn what_came_in_while_a_request_was_on_its_way_is_not_believed_twice() {
    let mut rig = Rig::of(true, 1.0, 20.0, Counted::Requests);
    let prompt = rig.send(1.0, 10);
    rig.answer(prompt, 1.05, 10.0);
    // A tenth of a second on its way: two more are left than there were when it left.
    let late = rig.send(1.1, 1);
    rig.answer(late, 1.25, 10.0 + 2.0 - 1.0 + 2.0);
    let on_time = |at: f64| 10.0 + 20.0 * (at - 1.0) - 1.0;
    assert!((on_time(1.3)..on_time(1.3) + 0.6).contains(&rig.level(1.3)), "{}", rig.level(1.3));
    // Where there is more indeed, it is believed before long.
    for n in 1..=10 {
        let at = 1.3 + 0.1 * f64::from(n);
        let call = rig.send(at, 2);
        rig.answer(call, at + 0.01, 16.0);
    }
    assert!((15.5..16.3).contains(&rig.level(2.31)), "{}", rig.level(2.31));
}

#[test]
fn a_send_that_was_overtaken_is_not_known_to_the_newest_snapshot() {
    let mut rig = Rig::new(true);
    let [behind, before, newest] = [1.0, 1.0, 1.3].map(|at| rig.send(at, 1));
    rig.answer(newest, 1.4, 300.0);
    let level = rig.level(1.5);
    rig.answer(behind, 1.42, 299.0);
    assert_near(rig.level(1.5), level - 1.0);
    rig.answer(before, 1.43, 301.0);
    assert_near(rig.level(1.5), level - 1.0);
}

#[test]
fn what_others_use_is_taken_off_until_it_is_no_longer_believed() {
    let mut rig = Rig::new(true);
    // All but ten a second is used by others, who take fifteen.
    for n in 1..=20 {
        let at = f64::from(n);
        let call = rig.send(at, 1);
        rig.answer(call, at + 0.1, 600.0 - at * (1.0 + 15.0 - 10.0));
    }
    let left = 600.0 - 20.0 * 6.0;
    assert!((rig.told.others - 15.0).abs() < 1.5, "{}", rig.told.others);
    assert!((rig.level(23.0) - (left - 3.0 * 5.0)).abs() < 6.0, "{}", rig.level(23.0));
    assert_near(rig.level(80.0), 600.0);
}

#[test]
fn a_bucket_of_a_second_does_not_wait_until_it_is_full_for_others() {
    let mut rig = Rig::of(true, 1.0, 20.0, Counted::Requests);
    // Ten a second of ours, and of twenty that flow in others take half as many.
    for n in 1..=40 {
        let at = 0.1 * f64::from(n);
        let call = rig.send(at, 1);
        rig.answer(call, at + 0.05, (20.0 - 0.5 * f64::from(n)).max(10.0));
    }
    assert!(rig.told.is_of_others(), "{}", rig.told.others);
    assert!(rig.ready_at(4.1, 1, Priority::Normal) < 5.0, "{}", rig.ready_at(4.1, 1, Priority::Normal));
}

#[test]
fn a_window_comes_back_bit_by_bit_or_as_a_whole_when_a_response_shows_it() {
    let mut rig = Rig::new(false);
    for n in 0..10 {
        let call = rig.send(f64::from(n), 60);
        rig.answer(call, f64::from(n) + 0.1, 540.0 - 60.0 * f64::from(n));
    }
    assert_near(rig.level(59.0), 0.0);
    assert_near(rig.level(60.0 + GUARD.as_secs_f64() + 1.0), 120.0);
    let call = rig.send(61.2, 1);
    rig.answer(call, 61.3, 599.0);
    assert_near(rig.level(61.4), 599.0);
}

#[test]
fn of_a_window_what_others_have_used_is_gone_for_a_period() {
    let mut rig = Rig::new(false);
    let call = rig.send(1.0, 1);
    rig.answer(call, 1.1, 399.0);
    assert_near(rig.level(2.0), 399.0 - 200.0 / 60.0 * 1.0 + 0.0_f64.max(200.0 / 60.0));
    assert!(rig.level(40.0) <= 399.0);
    assert_near(rig.level(62.0), 600.0);
}

#[test]
fn a_provider_that_keeps_what_it_reserved_for_an_answer_is_counted_so() {
    for kept in [400.0, 100.0] {
        let mut rig = Rig::of(false, 10.0, 60_000.0, Counted::Tokens);
        let short = Cost { requests: 1, input: 100, output: 100, reserved: 400 };
        for n in 1..=10 {
            let now = rig.at(0.2 * f64::from(n));
            let ticket = rig.sends.push(now, short);
            rig.told.sent(now, ticket, &rig.sends);
            rig.answer((ticket, now, short), 0.2 * f64::from(n) + 0.1, 60_000.0 - f64::from(n) * (100.0 + kept));
        }
        // As if all answers were under way still.
        (0..10).for_each(|_| _ = rig.sends.push(rig.at(2.2), short));
        assert_near(rig.level(2.3), 60_000.0 - 20.0 * (100.0 + kept));
    }
}

#[test]
fn a_long_window_waits_for_its_reset_and_is_not_spread() {
    let mut rig = Rig::of(false, 86_400.0, 100.0, Counted::Requests);
    rig.told.newest.reset = Some(Reset { after: s(3_600.0), grain: s(1.0) });
    let call = rig.sends_by(Priority::Low, 1.0, 98);
    rig.answer(call, 2.0, 2.0);
    for at in [3.0, 3.0] {
        assert_near(rig.ready_at(at, 1, Priority::Low), at);
        rig.sends_by(Priority::Low, at, 1);
    }
    assert_near(rig.level(4.0), 0.0);
    let reset = 2.0 + 3_600.0 + 1.0;
    assert_near(rig.ready_at(4.0, 1, Priority::Normal), reset);
    assert_near(rig.ready_at(reset - 1.0, 1, Priority::Normal), reset);
    assert_near(rig.level(reset), 100.0);
}

#[test]
fn a_window_that_is_waited_for_as_a_whole_does_not_come_back_twice() {
    let mut rig = Rig::new(false);
    // Twenty, and a reset of less than a second: a window of a second or a bucket, for all one knows.
    let call = rig.send(0.0, 1);
    let reset = Some(Reset { after: s(0.4), grain: s(0.001) });
    let (ticket, sent, _) = call;
    let told = Snapshot { ticket, sent, limit: 20.0, remaining: 12.0, reset, heard: rig.at(0.1), promise: None };
    rig.told.kind = Kind::new(None, rig.start);
    rig.told.hear(told, &rig.sends, &rig.unanswered);
    assert!(rig.told.kind.ends_whole() && rig.told.kind.is_open());
    for _ in 0..12 {
        rig.send(0.2, 1);
    }
    // Of a window nothing is back before its reset, and no more then than this second has left of it.
    let whole = 0.4 + 0.001 + GUARD.as_secs_f64();
    assert_near(rig.level(whole - 0.01), 0.0);
    assert_near(rig.ready_at(0.2, 1, Priority::Normal), whole);
    assert_near(rig.level(whole), 20.0 - 13.0);
    // Of a bucket no more comes back than twenty a second.
    let (mut at, mut went) = (whole, 0);
    while at < whole + 10.0 {
        rig.send(at, 1);
        went += 1;
        at = rig.ready_at(at, 1, Priority::Normal);
    }
    assert!((170..=12 + 200).contains(&went), "{went}");
    assert_near(rig.level(whole + 60.0), 20.0 - 20.0 * GUARD.as_secs_f64());
}

#[test]
fn what_may_be_a_bucket_or_a_window_yet_is_so_when_it_is_recalled() {
    let mut rig = Rig::of(false, 60.0, 20.0, Counted::Requests);
    rig.told.kind = Kind::new(None, rig.start);
    rig.told.newest.reset = Some(Reset { after: s(0.9), grain: s(0.001) });
    for n in 1..=12 {
        let call = rig.send(0.02 * f64::from(n), 1);
        rig.answer(call, 0.1 + 0.02 * f64::from(n), 20.0 - f64::from(n));
    }
    rig.send(0.5, 4);
    let now = rig.at(0.6);
    let kept = rig.told.remember(crate::messages::Scope::Whole, now, &rig.sends);
    let recalled = Told::recall(&kept, now, &rig.sends).unwrap();
    assert!(rig.told.kind.is_open() && recalled.kind.is_open());
    for at in [0.6, 0.9, 1.2, 1.5, 9.0] {
        assert_near(recalled.level(rig.at(at), &rig.sends), rig.level(at));
        for cost in [1, 6, 20] {
            let ready = recalled.ready_at(rig.at(at), cost, Priority::Normal, f64::INFINITY, &rig.sends);
            assert_near((ready - rig.start).as_secs_f64(), rig.ready_at(at, cost, Priority::Normal));
        }
    }
}

#[test]
fn as_much_as_the_belief_was_wrong_by_is_kept_back() {
    let mut rig = Rig::new(true);
    let call = rig.send(1.0, 580);
    rig.answer(call, 1.0, 20.0);
    let reserve = 10.0 * RESERVE_SECONDS;
    assert_near(rig.ready_at(1.0, 15, Priority::Normal), 1.0);
    rig.told.margin = Margin::known(8.0);
    assert_near(rig.ready_at(1.0, (20.0 - reserve - 8.0) as u64, Priority::Normal), 1.0);
    assert_near(rig.ready_at(1.0, (20.0 - reserve - 8.0) as u64 + 1, Priority::Normal), 1.1);
    // A level that was 50 lower than believed raises it; what is larger than all goes when all is there.
    let call = rig.send(2.0, 1);
    let believed = rig.level(2.0);
    rig.answer(call, 2.0, believed - 50.0);
    assert!(rig.told.margin.get() > 8.0);
    let whole = rig.ready_at(2.0, 600, Priority::Normal);
    assert!(whole.is_finite() && whole < 70.0, "{whole}");
}

#[test]
fn of_a_short_bucket_is_kept_back_what_comes_in_while_a_call_is_late() {
    let mut rig = Rig::of(true, 1.0, 20.0, Counted::Requests);
    rig.send(1.0, 1);
    assert_near(rig.ready_at(1.0, 16, Priority::Normal), 1.0);
    assert!(rig.ready_at(1.0, 17, Priority::Normal) > 1.0);
}

#[test]
fn low_priority_leaves_a_third_of_a_bucket_and_goes_at_its_rate() {
    let mut rig = Rig::new(true);
    let (mut at, mut sent, mut left, mut most) = (0.0, 0, 600.0_f64, 0.0_f64);
    while at < 300.0 {
        let then = rig.ready_at(at, 1, Priority::Low);
        left = (left + 10.0 * (then - at)).min(600.0) - 1.0;
        at = then;
        let call = rig.sends_by(Priority::Low, at, 1);
        most = most.max(rig.told.pace(rig.at(at), f64::INFINITY, &rig.sends));
        sent += 1;
        rig.answer(call, at + 0.01, left);
    }
    assert!(most <= BUCKET_HASTE * 10.0, "never much faster than it fills: {most}");
    assert!(rig.level(at) > 180.0 && rig.level(at) < 230.0, "{}", rig.level(at));
    let used = f64::from(sent) / (10.0 * 300.0 + 400.0);
    assert!((0.98..1.01).contains(&used), "all of the rate and what is beyond the third: {used}");
    assert_near(rig.ready_at(at, 150, Priority::Normal), at);
}

#[test]
fn low_priority_leaves_a_tenth_of_a_window_while_others_come() {
    let mut rig = Rig::new(false);
    rig.send(0.0, 400);
    let ready = |rig: &Rig, at, cost, priority| rig.ready_at(at, cost, priority) <= at;
    assert!(ready(&rig, 1.0, 140, Priority::Low) && !ready(&rig, 1.0, 141, Priority::Low));
    assert!(ready(&rig, 1.0, 200, Priority::Normal));
    // None of the others came for a minute: all of it is for low priority.
    let mut rig = Rig::new(false);
    rig.sends_by(Priority::Low, 0.0, 1);
    assert!(ready(&rig, 61.0, 600, Priority::Low));
}

#[test]
fn behind_a_large_call_that_was_waited_for_nobody_waits_long_again() {
    let mut rig = Rig::new(false);
    rig.sends_by(Priority::Low, 0.0, 300);
    assert_near(rig.ready_at(0.0, 1, Priority::Low), 3.0);
    rig.told.refused(rig.at(0.5));
    assert_near(rig.ready_at(0.5, 1, Priority::Low), 0.5);
}

/// What happens in a schedule: after so many milliseconds a call of such a cost and priority, whose answer says that such a
/// part is left, or none comes.
type Step = (u64, u64, bool, Option<f64>);

fn schedules() -> impl Strategy<Value = Vec<Step>> {
    let answer = prop::option::weighted(0.7, 0.0f64..1.0);
    prop::collection::vec((prop_oneof![Just(0), 0u64..3_000], 0u64..150, any::<bool>(), answer), 1..40)
}

/// A bucket or a window of a second, for all one knows.
const OPEN: usize = 7;

fn played(kind: usize, steps: &[Step]) -> (Rig, f64) {
    let counted = if kind.is_multiple_of(2) { Counted::Requests } else { Counted::Input };
    let kinds = [
        (true, 60.0),
        (true, 10.0),
        (false, 60.0),
        (false, 10.0),
        (false, 1.0),
        (true, 1.0),
        (false, 3_600.0),
        (false, 1.0),
    ];
    let (is_bucket, period) = kinds[kind];
    let mut rig = Rig::of(is_bucket, period, 300.0, counted);
    rig.told.newest.reset = Some(Reset { after: s(0.5 * period), grain: s(0.001) });
    if kind == OPEN {
        rig.told.kind = Kind::new(None, rig.start);
        rig.told.kind.hear(rig.start, 300.0, 1.0, rig.told.newest.reset);
    }
    let mut at = 0.0;
    for (gap, cost, is_low, answer) in steps {
        at += *gap as f64 / 1_000.0;
        // A call of low priority does not go before its turn; others may, by a belief that has changed since.
        let is_low = *is_low && rig.ready_at(at, *cost, Priority::Low) <= at;
        let call = rig.sends_by(if is_low { Priority::Low } else { Priority::Normal }, at, *cost);
        if let Some(left) = answer {
            at += 0.05;
            rig.answer(call, at, (left * 300.0).round());
        }
    }
    (rig, at)
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn what_is_said_of_a_call_holds_until_the_time_it_names(
        kind in 0usize..8, steps in schedules(), cost in 0u64..400, is_low: bool
    ) {
        let (rig, at) = played(kind, &steps);
        let priority = if is_low { Priority::Low } else { Priority::Normal };
        let says = |now| rig.told.ready_at(now, cost, priority, f64::INFINITY, &rig.sends);
        said::holds(rig.at(at), says)?;
    }

    #[test]
    fn whoever_asks_again_at_the_time_that_is_named_goes_before_long(
        kind in 0usize..7, steps in schedules(), cost in 0u64..400, is_low: bool
    ) {
        // Not a window of an hour, which nobody waits for here.
        let (rig, mut at) = played(if kind == 6 { OPEN } else { kind }, &steps);
        let priority = if is_low { Priority::Low } else { Priority::Normal };
        let (start, mut asked) = (at, 0);
        loop {
            let then = rig.ready_at(at, cost, priority);
            if then <= at { break }
            at = then + 1e-6;
            asked += 1;
            prop_assert!(asked < 30 && at < start + 400.0, "asked {asked} times, {} s", at - start);
        }
    }

    #[test]
    fn a_larger_call_is_never_ready_sooner(
        kind in 0usize..8, steps in schedules(), costs in (0u64..400, 0u64..400), is_low: bool
    ) {
        let (rig, at) = played(kind, &steps);
        let priority = if is_low { Priority::Low } else { Priority::Normal };
        let (small, large) = (costs.0.min(costs.1), costs.0.max(costs.1));
        prop_assert!(rig.ready_at(at, small, priority) <= rig.ready_at(at, large, priority) + 1e-5);
    }
}
