//! What every budget's word must keep, whoever's it is.

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use crate::clock::Instant;

/// Before it rounding counts for nothing.
pub(in crate::dispatcher::budget) const ROUNDING: Duration = Duration::from_micros(10);

pub(in crate::dispatcher::budget) fn s(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// Until the time that is named `now` the word `says` names no earlier one. Gives that time.
pub(in crate::dispatcher::budget) fn holds(
    now: Instant,
    says: impl Fn(Instant) -> Instant,
) -> Result<Instant, TestCaseError> {
    let then = says(now);
    prop_assert!(then >= now);
    let step = ((then - now) / 500).max(Duration::from_millis(1));
    let mut look = now;
    while look + ROUNDING < then {
        prop_assert!(says(look) + ROUNDING >= then, "{:?} ahead it is {:?} early", then - look, then - says(look));
        look += step;
    }
    Ok(then)
}
