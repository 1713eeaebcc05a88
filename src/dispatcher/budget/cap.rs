//! A cap of the user's: never more in any minute, whatever the provider would allow.

use std::time::Duration;

use super::sends::{Counted, Sends};
use crate::clock::Instant;
use crate::messages::Remaining;

/// What "a minute" is kept as: half a second more than sixty, so that a cap also holds at the upstream's end of the
/// wire, where calls may arrive a little closer together than they left.
pub(crate) const MINUTE: Duration = Duration::from_millis(60_500);

/// At most `per_minute` within any [`MINUTE`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Cap {
    pub(super) counted: Counted,
    pub(super) per_minute: u64,
}

impl Cap {
    /// What counts against it now.
    pub(super) fn used(&self, now: Instant, sends: &Sends) -> u64 {
        sends.since(now - MINUTE, self.counted)
    }

    /// Per second.
    pub(super) fn rate(&self) -> f64 {
        self.per_minute as f64 / 60.0
    }

    /// When `cost` more may be used, `now` when at once. What those under way may cost beyond what they are counted with is
    /// the `margin`: it goes when they end, not with time. What is more than the cap goes when there is nothing beside it.
    pub(super) fn ready_at(&self, now: Instant, cost: u64, margin: u64, sends: &Sends) -> Instant {
        let used = self.used(now, sends);
        let excess = used.saturating_add(cost).saturating_add(margin).saturating_sub(self.per_minute).min(used);
        if excess == 0 {
            return now;
        }
        sends.reached(now - MINUTE, excess, self.counted).map_or(now, |at| at + MINUTE)
    }

    /// The most that can be used from `now` until `deadline`, if nothing else interferes.
    pub(super) fn room_until(&self, now: Instant, deadline: Instant, sends: &Sends) -> u64 {
        let used = self.used(now, sends);
        let back = sends.between(now - MINUTE, deadline - MINUTE, self.counted);
        let minutes = deadline.saturating_duration_since(now).as_nanos() / MINUTE.as_nanos();
        let renewed = self.per_minute.saturating_mul(u64::try_from(minutes).unwrap_or(u64::MAX));
        (self.per_minute + back).saturating_sub(used).saturating_add(renewed)
    }

    pub(super) fn remaining(&self, now: Instant, sends: &Sends) -> Remaining {
        let reset = sends.last_at().map_or(Duration::ZERO, |at| (at + MINUTE).saturating_duration_since(now));
        let remaining = self.per_minute.saturating_sub(self.used(now, sends));
        Remaining { limit: self.per_minute, remaining, reset }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::dispatcher::budget::sends::Cost;
    use proptest::prelude::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn cap(per_minute: u64) -> Cap {
        Cap { counted: Counted::Tokens, per_minute }
    }

    fn tokens(input: u64) -> Cost {
        Cost { requests: 1, input, ..Cost::default() }
    }

    #[test]
    fn what_was_used_comes_back_after_a_minute_and_no_sooner() {
        let (start, cap, mut sends) = (clock::now(), cap(2), Sends::default());
        sends.push(start, tokens(1));
        sends.push(start + s(10), tokens(1));
        let now = start + s(20);
        assert_eq!(cap.ready_at(now, 0, 0, &sends), now);
        assert_eq!(cap.ready_at(now, 1, 0, &sends), start + MINUTE);
        assert_eq!(cap.ready_at(now, 1, 1, &sends), start + s(10) + MINUTE);
        assert_eq!(cap.ready_at(now, 2, 0, &sends), start + s(10) + MINUTE);
        assert_eq!(cap.ready_at(now, 3, 9, &sends), start + s(10) + MINUTE, "more than the cap goes alone");
        assert_eq!(cap.used(start + MINUTE, &sends), 1);
    }

    #[test]
    fn what_turns_out_smaller_makes_room_at_once() {
        let (start, cap, mut sends) = (clock::now(), cap(100), Sends::default());
        let ticket = sends.push(start, tokens(90));
        assert_eq!(cap.ready_at(start, 20, 0, &sends), start + MINUTE);
        sends.settle(ticket, tokens(90), tokens(30));
        assert_eq!(cap.ready_at(start, 20, 0, &sends), start);
        assert_eq!(cap.remaining(start, &sends).remaining, 70);
    }

    #[test]
    fn what_is_left_and_when_all_is_back_is_told() {
        let (start, cap, mut sends) = (clock::now(), cap(10), Sends::default());
        assert_eq!(cap.remaining(start, &sends), Remaining { limit: 10, remaining: 10, reset: s(0) });
        sends.push(start, tokens(4));
        sends.push(start + s(5), tokens(40));
        let left = cap.remaining(start + s(6), &sends);
        assert_eq!(left, Remaining { limit: 10, remaining: 0, reset: MINUTE - s(1) });
    }

    proptest! {
        #[test]
        fn no_minute_ever_holds_more_than_the_cap_and_a_call_waits_no_longer_than_for_that(
            per_minute in 1u64..20, gaps in prop::collection::vec((0u64..9_000, 1u64..6), 1..200)
        ) {
            let (cap, mut sends, mut now) = (cap(per_minute), Sends::default(), clock::now());
            let mut sent: Vec<(Instant, u64)> = Vec::new();
            for (gap, cost) in gaps {
                now += Duration::from_millis(gap);
                let within = |at: Instant| -> u64 {
                    sent.iter().filter(|(when, _)| *when + MINUTE > at && *when <= at).map(|(_, cost)| cost).sum()
                };
                if cost > per_minute {
                    continue;
                }
                let at = cap.ready_at(now, cost, 0, &sends);
                prop_assert!(within(at) + cost <= per_minute);
                let before = at - Duration::from_micros(1);
                prop_assert!(at == now || within(before) + cost > per_minute, "it could go sooner");
                now = at;
                sends.push(now, tokens(cost));
                sent.push((now, cost));
            }
        }

        #[test]
        fn room_until_a_deadline_is_never_less_than_what_really_fits(
            per_minute in 1u64..10, deadline in 0u64..400, spacing in 1u64..9
        ) {
            let (start, cap, mut sends) = (clock::now(), cap(per_minute), Sends::default());
            let (deadline, mut now) = (start + s(deadline), start);
            for _ in 0..per_minute {
                sends.push(now, tokens(1));
                now += s(spacing);
            }
            let promised = cap.room_until(now, deadline, &sends);
            let mut fitted = 0;
            while let Some(at) = Some(cap.ready_at(now, 1, 0, &sends)).filter(|at| *at <= deadline) {
                sends.push(at, tokens(1));
                now = at;
                fitted += 1;
            }
            prop_assert!(promised >= fitted, "promised {promised}, fitted {fitted}");
        }
    }
}
