//! Whether a silent provider refuses for a limit at all.
//!
//! Where a limit is guessed and kept, one call in a hundred is refused at most. *Known* is how many went and how many were
//! refused, since the guess had its time to find its limit. *Believed* is that these are faults, once all that went lately
//! makes a share of faults clearly likelier than that of a limit: however slowly calls go by then, they are refused as before.
//! It is a sequential test that may begin anew at any call (E. S. Page, "Continuous inspection schemes", Biometrika 41, 1954).

use std::time::Duration;

use crate::clock::Instant;
use crate::dispatcher::budget::memory::{ago, away, sane};
use crate::dispatcher::budget::sends::{Counted, Sends};
use crate::messages::InspectedRefusals;

/// A guess has this time from its first cut on to find its limit.
const SETTLES: Duration = Duration::from_secs(60);
/// The share that is refused where a limit is kept, and where it is faults.
const OF_LIMIT: f64 = 0.01;
const OF_FAULTS: f64 = 0.04;
/// How clearly all that went must speak for faults, as the logarithm of how much likelier they make it.
const CLEARLY: f64 = 6.0;

#[derive(Debug, Default)]
pub(super) struct Inspection {
    /// When a guess was cut first.
    since: Option<Instant>,
    /// The logarithm of how much likelier faults than a limit make what went. It begins anew where it would fall below 0: what
    /// went before the faults says nothing of them.
    doubt: f64,
    /// Since it began anew.
    went: u32,
    refused: u32,
    /// When the last was refused.
    last: Option<Instant>,
}

impl Inspection {
    pub(super) fn remember(&self, now: Instant) -> Option<InspectedRefusals> {
        Some(InspectedRefusals {
            s_ago: away(self.since?, now),
            doubt: self.doubt,
            calls: self.went,
            refused: self.refused,
            refused_s_ago: self.last.map(|last| away(last, now)),
        })
    }

    /// Takes up what was remembered, bounded.
    pub(super) fn recall(kept: InspectedRefusals, now: Instant) -> Self {
        Self {
            since: Some(ago(now, kept.s_ago)),
            doubt: sane(kept.doubt, 0.0..=CLEARLY, 0.0),
            went: kept.calls,
            refused: kept.refused.min(kept.calls),
            last: kept.refused_s_ago.map(|s| ago(now, s)),
        }
    }

    /// A guess is cut.
    pub(super) fn begin(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    fn has_begun(&self, now: Instant) -> bool {
        self.since.is_some_and(|since| now > since + SETTLES)
    }

    /// A call goes.
    pub(super) fn goes(&mut self, now: Instant) {
        if self.has_begun(now) {
            self.went = self.went.saturating_add(1);
            self.weigh((1.0 - OF_FAULTS) / (1.0 - OF_LIMIT));
        }
    }

    /// Whether the refusal of a call that was `sent` then, and is not logged any more, follows upon another with none taken in
    /// between.
    pub(super) fn is_in_a_row(&self, sent: Instant, sends: &Sends) -> bool {
        self.last.is_some_and(|last| last < sent && sends.between(last, sent, Counted::Requests) == 0)
    }

    /// A call that was `sent` then was refused, and is not logged any more. Gives the share that is refused by fault, when that
    /// has become clear. Of refusals in a row and of a volley one counts: they may have one cause.
    pub(super) fn refused(&mut self, sent: Instant, now: Instant, sends: &Sends) -> Option<f64> {
        let counts = !self.is_in_a_row(sent, sends);
        if self.last.is_some_and(|last| sent <= last) {
            return None;
        }
        self.last = Some(now);
        if !counts || !self.has_begun(now) {
            return None;
        }
        self.refused = self.refused.saturating_add(1);
        self.weigh(OF_FAULTS / OF_LIMIT);
        let share = f64::from(self.refused) / f64::from(self.went.max(self.refused));
        (self.doubt >= CLEARLY).then(|| {
            self.begin_anew();
            share
        })
    }

    fn weigh(&mut self, likelier: f64) {
        self.doubt += likelier.ln();
        if self.doubt <= 0.0 {
            self.begin_anew();
        }
    }

    fn begin_anew(&mut self) {
        (self.doubt, self.went, self.refused) = (0.0, 0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::dispatcher::budget::sends::Cost;

    const CALL: Cost = Cost { requests: 1, input: 100, output: 0, reserved: 0 };

    /// Five calls a second, from the first cut on.
    struct Rig {
        inspection: Inspection,
        sends: Sends,
        now: Instant,
    }

    impl Rig {
        fn new() -> Self {
            let (mut inspection, now) = (Inspection::default(), clock::now());
            inspection.begin(now);
            Self { inspection, sends: Sends::default(), now }
        }

        fn settled() -> Self {
            let mut rig = Self::new();
            rig.now += SETTLES + Duration::from_nanos(1);
            rig
        }

        fn call(&mut self, is_refused: bool) -> Option<f64> {
            self.now += Duration::from_millis(200);
            self.inspection.goes(self.now);
            if is_refused {
                return self.inspection.refused(self.now, self.now, &self.sends);
            }
            self.sends.push(self.now, CALL);
            None
        }

        /// Which call of so many makes it clear, if one in `each` is refused, and what share it is then.
        fn clear_at(&mut self, calls: u32, each: u32) -> Option<(u32, f64)> {
            (1..=calls).find_map(|n| self.call(n % each == 0).map(|share| (n, share)))
        }
    }

    #[test]
    fn a_limit_that_is_kept_is_never_taken_for_faults() {
        assert_eq!(Rig::settled().clear_at(100_000, 100), None);
    }

    #[test]
    fn one_in_twenty_is_faults_whatever_went_before() {
        let mut rig = Rig::settled();
        assert_eq!(rig.clear_at(5_000, 100), None);
        let (calls, share) = rig.clear_at(200, 20).expect("faults");
        assert!(calls >= 100, "five may be chance: {calls}");
        assert!((0.04..0.07).contains(&share), "{share}");
        let (again, _) = rig.clear_at(200, 20).expect("faults that go on are seen again and again");
        assert!(again >= 100, "{again}");
    }

    #[test]
    fn what_is_refused_in_a_row_is_refused_once() {
        let mut rig = Rig::settled();
        for n in 0..400 {
            assert_eq!(rig.call(n % 40 < 6), None, "one wall in forty calls");
        }
    }

    #[test]
    fn a_guess_has_its_time_to_find_the_limit() {
        let calls = (SETTLES.as_secs_f64() / 0.2) as u32;
        assert_eq!(Rig::new().clear_at(calls, 5), None);
        let mut begun_never = Rig { inspection: Inspection::default(), ..Rig::new() };
        assert_eq!(begun_never.clear_at(10_000, 5), None, "nothing is guessed");
    }
}
