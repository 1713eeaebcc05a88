//! What a refusal means for the budgets of its account, where it does not mean its rate.

use bytes::Bytes;

use super::*;
use crate::dispatcher::groups::Groups;
use crate::messages::{BudgetReading, Dimension, Headers, Priority, Reset, Scope, Sent, Tokens};

const ASK: Ask = Ask { group: Group(0), tokens: Tokens { input: 0, output: 0 }, priority: Priority::Normal };

fn capped(requests_per_minute: Option<u64>) -> Limits {
    Limits { requests_per_minute, ..Limits::default() }
}

/// A refusal that means this, as its answer would be read.
fn pushes_back(pushback: Pushback) -> Failure {
    let mut failure = Failure::new(FailureKind::RateLimited, Sent::Maybe, "", "");
    failure.answer = Some((429, Headers::new(), Bytes::new()));
    failure.pushback = Some(pushback);
    failure
}

fn told(remaining: u64, limit: u64) -> LimitReport {
    let mut reading = BudgetReading::new(Dimension::Requests, Scope::Whole, None);
    (reading.limit, reading.remaining) = (Some(limit), Some(remaining));
    reading.reset = Some(Reset { after: Duration::from_millis(120), grain: Duration::from_millis(1) });
    LimitReport { budgets: vec![reading], cost: None }
}

#[test]
fn growth_and_overload_that_are_refused_cut_no_limit() {
    for pushback in [Pushback::SlowDown, Pushback::Overload] {
        for (is_told, mut now) in [(true, clock::now()), (false, clock::now())] {
            let cap = (!is_told).then_some(600);
            let mut budget = Budget::new(capped(cap), 512, now);
            let limits_of = |budget: &mut Budget, now| {
                let learned = budget.group(Group(0), now);
                (learned.told_limits(), learned.guessed_limits(now))
            };
            if is_told {
                let mut permit = budget.reserve(now, &ASK);
                budget.hear(&mut permit, &told(499, 500), now);
                budget.settle(permit, None, now);
            }
            now += Duration::from_millis(100);
            let before = limits_of(&mut budget, now);
            assert!(before.0.len() + before.1.len() > 0);
            for _ in 0..20 {
                let permit = budget.reserve(now, &ASK);
                budget.failed(permit, &pushes_back(pushback), now);
            }
            assert_eq!(limits_of(&mut budget, now), before, "{pushback:?}");
        }
    }
}

#[test]
fn refused_growth_pauses_the_account_and_sends_one_ahead() {
    let mut now = clock::now();
    let mut budget = Budget::new(capped(None), 512, now);
    for _ in 0..50 {
        let permit = budget.reserve(now, &ASK);
        budget.settle(permit, None, now);
        now += Duration::from_secs(1);
    }
    let volley = [budget.reserve(now, &ASK), budget.reserve(now, &ASK)];
    let sent = now;
    now += Duration::from_millis(100);
    for permit in volley {
        let kept = budget.failed(permit, &pushes_back(Pushback::SlowDown), now);
        assert_eq!(kept, Some(Kept::Account(now + PAUSE)));
    }
    assert_eq!(budget.ready(now, &ASK), Ready::At(now + PAUSE, Wait::Held));
    now += PAUSE;
    let Ready::At(at, why @ Wait::Growth { per_minute: 50 }) = budget.ready(now, &ASK) else {
        panic!("{:?}", budget.ready(now, &ASK))
    };
    assert!(
        at > now && at <= sent + Duration::from_millis(11_500),
        "{:?}: when what was borne has left the minute",
        at - now
    );
    assert_eq!(
        why.to_string(),
        "the provider refuses to have it grow faster than to 50 requests per minute for now (learned)"
    );
    now = sent + Duration::from_secs(15);
    assert_eq!(budget.ready(now, &ASK), Ready::Now);
    let permit = budget.reserve(now, &ASK);
    let kept = budget.failed(permit, &pushes_back(Pushback::SlowDown), now);
    assert_eq!(kept, Some(Kept::Account(now + 2 * PAUSE)), "twice as long in a row");
}

#[test]
fn behind_the_end_of_a_day_one_goes_ahead() {
    let mut now = clock::now();
    let mut budget = Budget::new(capped(None), 512, now);
    let permit = budget.reserve(now, &ASK);
    let mut refusal = pushes_back(Pushback::DailyQuota);
    refusal.hint.after = Some(Duration::from_secs(100));
    let until = now + Duration::from_secs(100);
    let kept = budget.failed(permit, &refusal, now);
    assert_eq!(kept, Some(Kept::Model { group: Group(0), until, is_news: true }));
    assert_eq!(budget.ready(now, &ASK), Ready::At(until, Wait::DayUsedUp));
    let other = Ask { group: Group(7), ..ASK };
    assert_eq!(budget.ready(now, &other), Ready::Now);
    assert_eq!((budget.room_until(now, now, Group(0)).0, budget.kept_until(now, Group(7))), (0, None));
    now = until;
    let mut permit = budget.reserve(now, &ASK);
    assert_eq!(budget.ready(now, &ASK), Ready::At(now + Duration::from_secs(1), Wait::Ramp));
    budget.hear(&mut permit, &LimitReport::default(), now);
    assert_eq!(budget.ready(now, &ASK), Ready::Now);
}

#[test]
fn a_day_that_is_used_up_is_shown_and_outlives_a_restart() {
    let start = clock::now();
    let (mut budget, mut groups) = (Budget::new(capped(None), 512, start), Groups::default());
    let ask = Ask { group: groups.of(Some("m")), ..ASK };
    let permit = budget.reserve(start, &ask);
    let mut refusal = pushes_back(Pushback::DailyQuota);
    refusal.hint.after = Some(Duration::from_secs(40_000));
    budget.failed(permit, &refusal, start);
    let now = start + Duration::from_secs(10_000);
    assert_eq!(budget.busy_groups(now), [ask.group], "though nobody has called it for hours");
    let shown = budget.learned_of(ask.group, None, now).expect("it is known");
    assert_eq!(shown.day_used_up_for_s, Some(30_000.0));
    let mut next = Budget::new(capped(None), 512, now);
    next.recall(&budget.remember(&groups, now), &mut groups, now);
    assert_eq!(next.ready(now, &ask), Ready::At(now + Duration::from_secs(30_000), Wait::DayUsedUp));
    let behind = budget.learned_of(ask.group, None, start + Duration::from_secs(40_000));
    assert_eq!(behind.expect("it is known").day_used_up_for_s, None);
}
