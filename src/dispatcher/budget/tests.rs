//! What an account may do, by its caps, holds and rests.

mod pushed_back;
pub(super) mod refusals;
pub(super) mod said;

use std::time::Duration;

use super::refusals::PAUSE;
use super::rest::REST;
use super::*;
use crate::clock;
use crate::messages::{Failure, FailureKind, LimitReport, Priority, Pushback, Tokens};

fn asks(tokens: u64) -> Ask {
    Ask { group: Group(0), tokens: Tokens { input: tokens, output: 0 }, priority: Priority::Normal }
}

fn limits(requests: Option<u64>, tokens: Option<u64>, concurrent: Option<usize>) -> Limits {
    Limits { requests_per_minute: requests, tokens_per_minute: tokens, max_concurrent: concurrent }
}

#[test]
fn a_permit_gives_its_place_back_however_it_ends() {
    let now = clock::now();
    let mut budget = Budget::new(limits(None, None, Some(1)), 512, now);
    let permit = budget.reserve(now, &asks(0));
    assert_eq!(budget.ready(now, &asks(0)), Ready::WhenOneEnds);
    drop(permit);
    assert_eq!(budget.ready(now, &asks(0)), Ready::Now);
    let permit = budget.reserve(now, &asks(0));
    budget.settle(permit, Some(Tokens { input: 7, output: 0 }), now);
    assert_eq!(budget.in_flight(), 0);
}

#[test]
fn usage_replaces_the_estimate() {
    let now = clock::now();
    let mut budget = Budget::new(limits(None, Some(6_000), None), 512, now);
    let permit = budget.reserve(now, &asks(5_000));
    assert!(matches!(budget.ready(now, &asks(2_000)), Ready::At(_, Wait::Cap { .. })));
    budget.settle(permit, Some(Tokens { input: 10, output: 0 }), now);
    assert_eq!(budget.ready(now, &asks(2_000)), Ready::Now);
    assert_eq!(budget.remaining_tokens(now).map(|left| left.remaining), Some(5_990));
}

#[test]
fn a_call_larger_than_the_cap_never_fits() {
    let now = clock::now();
    let mut budget = Budget::new(limits(None, Some(100), None), 512, now);
    let beyond = Beyond { counted: Counted::Tokens, limit: 100, is_configured: true, until: None };
    assert_eq!(budget.ready(now, &asks(101)), Ready::Never(beyond));
}

#[test]
fn a_hold_keeps_the_account_and_releases_it_paced() {
    let now = clock::now();
    let mut budget = Budget::new(limits(None, None, None), 512, now);
    let until = now + Duration::from_secs(5);
    budget.hold(now, until);
    budget.hold(now, now + Duration::from_secs(1));
    assert_eq!(budget.ready(now, &asks(0)), Ready::At(until, Wait::Held), "a shorter hold does not end a longer one");
    let permit = budget.reserve(until, &asks(0));
    assert!(matches!(budget.ready(until, &asks(0)), Ready::At(_, Wait::Ramp)));
    drop(permit);
    let later = until + Duration::from_secs(20);
    assert_eq!(budget.ready(later, &asks(0)), Ready::Now);
}

#[test]
fn a_refused_key_rests_twice_as_long_each_time_up_to_an_hour() {
    let mut now = clock::now();
    let mut budget = Budget::new(Limits::default(), 512, now);
    let mut rests = Vec::new();
    for _ in 0..8 {
        assert!(budget.rest(Rest::Refused, now).is_some());
        assert_eq!(budget.rest(Rest::Refused, now), None, "what was under way when the rest began");
        let Ready::Resting(until, Rest::Refused) = budget.ready(now, &asks(0)) else { panic!("it rests") };
        rests.push((until - now).as_secs());
        now = until;
    }
    assert_eq!(rests, [60, 120, 240, 480, 960, 1_920, 3_600, 3_600]);
    budget.wake(now);
    budget.rest(Rest::Refused, now);
    assert_eq!(budget.ready(now, &asks(0)), Ready::Resting(now + REST, Rest::Refused));
}

#[test]
fn a_first_cap_counts_the_minute_before_it() {
    let now = clock::now();
    let mut budget = Budget::new(limits(None, None, None), 512, now);
    for _ in 0..50 {
        drop(budget.reserve(now, &asks(0)));
    }
    budget.reconfigure(limits(Some(60), None, None), 512);
    assert_eq!(budget.remaining_requests(now).map(|left| left.remaining), Some(10));
    budget.reconfigure(limits(None, None, None), 512);
    budget.reconfigure(limits(Some(55), None, None), 512);
    assert_eq!(budget.remaining_requests(now).map(|left| left.remaining), Some(5));
}

#[test]
fn a_new_limit_keeps_what_was_used() {
    let now = clock::now();
    let mut budget = Budget::new(limits(Some(600), None, None), 512, now);
    for _ in 0..5 {
        drop(budget.reserve(now, &asks(0)));
    }
    budget.reconfigure(limits(Some(6), None, None), 512);
    assert_eq!(budget.remaining_requests(now).map(|left| left.remaining), Some(1));
}
