//! A provider that refuses traffic because it grew too fast, though it is within its limits.
//!
//! *Known* are the most calls of ours within a minute that it has borne, and since when. *Believed* is that it bears a
//! little more than what it bore a while before: providers say "by half in a quarter of an hour", and some compare with the
//! minute before. So the while is short at first, and twice as long whenever growth was refused again. Behind a refusal it
//! bears what it bore then. What was not used does not grow.

use std::collections::VecDeque;
use std::time::Duration;

use super::cap;
use super::memory::{ago, sane};
use super::sends::{Counted, ENOUGH, Sends};
use super::wait::Wait;
use crate::clock::Instant;
use crate::messages::GrowthBudget;

const MINUTE: Duration = Duration::from_secs(60);

/// The while, at first and at most.
const SHORTEST: Duration = MINUTE;
const LONGEST: Duration = Duration::from_secs(900);

/// What is borne a while later, of what was borne. Half as much again is what providers name.
const MORE: f64 = 0.4;

/// The parts of the while: the increase comes bit by bit over a quarter of it, so that a refusal hits few calls.
const PARTS: u32 = 64;
const RISE_PARTS: f64 = 16.0;

/// A refusal of less than this share of what was believed is not of growth: what was borne once is not borne any more.
const OF_GROWTH: f64 = 0.8;

/// So few calls within a minute no provider takes for traffic that grows: behind a refusal for others' growth they still go.
const LEAST: f64 = 3.0;

/// So many calls within a minute were borne, for the first time then.
#[derive(Clone, Copy, Debug)]
struct Mark {
    at: Instant,
    most: f64,
}

#[derive(Debug)]
pub(super) struct Growth {
    /// Rising; the last may move on yet.
    marks: VecDeque<Mark>,
    /// The while.
    lag: Duration,
    refused_at: Instant,
}

impl Growth {
    /// Growth was refused at `now`, when `borne` calls had gone within the minute before.
    pub(super) fn refused(borne: f64, now: Instant) -> Self {
        Self { marks: VecDeque::from([Mark { at: now, most: borne }]), lag: SHORTEST, refused_at: now }
    }

    /// As it is shown and kept.
    pub(super) fn remember(&self, now: Instant) -> GrowthBudget {
        GrowthBudget {
            requests_per_minute: self.most(now),
            over_s: self.lag.as_secs_f64(),
            refused_s_ago: now.saturating_duration_since(self.refused_at).as_secs_f64(),
        }
    }

    /// Takes up what was kept: what was borne then counts as borne since the refusal. Nonsense is bounded.
    pub(super) fn recall(kept: &GrowthBudget, now: Instant) -> Self {
        let lag = Duration::from_secs_f64(sane(kept.over_s, SHORTEST.as_secs_f64()..=LONGEST.as_secs_f64(), 60.0));
        let at = ago(now, kept.refused_s_ago);
        let most = sane(kept.requests_per_minute, 1.0..=1e9, 1.0);
        Self { marks: VecDeque::from([Mark { at: now, most }]), lag, refused_at: at }
    }

    /// Growth was refused again, of a call that was `sent` then.
    pub(super) fn refuse(&mut self, borne: f64, sent: Instant, now: Instant) {
        let believed = self.most(now);
        if sent <= self.refused_at {
            // Of the same volley: of all that were refused the first knows what was borne.
            self.marks.iter_mut().for_each(|mark| mark.most = mark.most.min(borne));
            return;
        }
        if borne >= OF_GROWTH * believed {
            self.lag = (self.lag * 2).min(LONGEST);
        }
        self.refused_at = now;
        self.marks.clear();
        self.marks.push_back(Mark { at: now, most: borne.min(believed) });
    }

    /// The last step of what is borne, which rises step by step, and the next.
    fn steps(&self, now: Instant) -> (Instant, Instant) {
        let part = self.lag / PARTS;
        let gone = now.saturating_duration_since(self.refused_at).as_nanos() / part.as_nanos().max(1);
        let step = self.refused_at + part * u32::try_from(gone).unwrap_or(u32::MAX);
        (step, step + part)
    }

    /// How many calls within a minute are borne, by what is believed.
    fn most(&self, now: Instant) -> f64 {
        let (step, _) = self.steps(now);
        let part = (self.lag / PARTS).as_secs_f64();
        let grown = |mark: &Mark| {
            let risen = step.saturating_duration_since(mark.at + self.lag).as_secs_f64() / part;
            mark.most * (1.0 + MORE * (risen / RISE_PARTS).min(1.0))
        };
        self.marks.iter().map(grown).fold(LEAST, f64::max)
    }

    /// When one more call may go; `now` when at once. It may turn out later then, never sooner.
    pub(super) fn ready_at(&self, now: Instant, sends: &Sends) -> Instant {
        // A refusal slows its growth for good, so that it is as careful as a cap.
        let span = cap::MINUTE;
        let own = sends.since(now - span, Counted::Requests) as f64;
        let excess = own + 1.0 - self.most(now);
        if excess <= ENOUGH {
            return now;
        }
        let (_, next) = self.steps(now);
        sends.reached_about(now - span, excess, Counted::Requests).map_or(next, |at| next.min(at + span))
    }

    /// What keeps a call, in words.
    pub(super) fn wait(&self, now: Instant) -> Wait {
        Wait::Growth { per_minute: self.most(now) as u64 }
    }

    /// A call goes now, and is in the log already.
    pub(super) fn sent(&mut self, now: Instant, sends: &Sends) {
        let most = sends.since(now - MINUTE, Counted::Requests) as f64;
        if self.marks.back().is_some_and(|last| most <= last.most) {
            return;
        }
        // Few are kept: the last moves on until the one before it is a sixteenth of the while old.
        if self.marks.len() > 1 && now < self.marks[self.marks.len() - 2].at + self.lag / 16 {
            self.marks.pop_back();
        }
        self.marks.push_back(Mark { at: now, most });
        // Of those that have risen in full the last says all.
        while self.marks.len() > 1 && self.marks[1].at + self.lag + self.lag / 4 <= now {
            self.marks.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::dispatcher::budget::sends::Cost;

    /// Sends whenever it may until `until`; gives how many went in each minute.
    fn send_until(growth: &mut Growth, sends: &mut Sends, start: Instant, until: Instant) -> Vec<u64> {
        let mut minutes = Vec::new();
        let mut now = start;
        while now < until {
            let at = growth.ready_at(now, sends);
            if at > now {
                now = at;
                continue;
            }
            sends.push(now, Cost { requests: 1, ..Cost::default() });
            growth.sent(now, sends);
            let minute = (now - start).as_secs() as usize / 60;
            minutes.resize(minutes.len().max(minute + 1), 0);
            minutes[minute] += 1;
            now += Duration::from_millis(50);
        }
        minutes
    }

    #[test]
    fn growth_goes_on_by_less_than_half_in_its_while_and_the_while_doubles_with_each_refusal() {
        let start = clock::now();
        let mut sends = Sends::default();
        let mut growth = Growth::refused(100.0, start);
        let minutes = send_until(&mut growth, &mut sends, start, start + Duration::from_secs(600));
        assert!(minutes.windows(2).all(|two| two[1] as f64 <= 1.5 * two[0].max(100) as f64), "{minutes:?}");
        assert!(minutes[0] == 100 && minutes[9] > 400, "{minutes:?}");
        let now = start + Duration::from_secs(600);
        let had = growth.most(now);
        growth.refuse(had, now, now);
        assert_eq!(growth.lag, 2 * SHORTEST);
        growth.refuse(had - 5.0, now, now);
        assert_eq!((growth.lag, growth.most(now)), (2 * SHORTEST, had - 5.0), "one volley is one refusal");
        assert_eq!(growth.most(now + 2 * SHORTEST), had - 5.0);
        for n in 1..9 {
            let now = now + Duration::from_secs(n);
            growth.refuse(growth.most(now), now, now);
        }
        assert_eq!(growth.lag, LONGEST);
    }

    #[test]
    fn what_is_not_used_does_not_grow_and_its_refusal_teaches_no_slower_growth() {
        let start = clock::now();
        let mut growth = Growth::refused(100.0, start);
        let later = start + Duration::from_secs(7_200);
        assert!((growth.most(later) - 140.0).abs() < 1e-9);
        growth.refuse(60.0, later, later);
        assert_eq!((growth.most(later), growth.lag), (60.0, SHORTEST));
    }

    #[test]
    fn a_provider_that_bears_half_more_than_a_quarter_of_an_hour_before_refuses_few_calls() {
        let start = clock::now();
        let (mut sends, mut growth) = (Sends::default(), None::<Growth>);
        let (mut now, mut refused) = (start, Vec::new());
        // How many its minutes had, each told when it ends with a call.
        let mut minutes: VecDeque<(Instant, f64)> = VecDeque::new();
        let (mut before, mut last) = (0.0f64, 0.0);
        let until = start + Duration::from_secs(3 * 3_600);
        while now < until {
            if let Some(at) = growth.as_ref().map(|growth| growth.ready_at(now, &sends)).filter(|at| *at > now) {
                now = at;
                continue;
            }
            while let Some((_, most)) = minutes.front().copied().filter(|(at, _)| *at + LONGEST <= now) {
                before = before.max(most);
                minutes.pop_front();
            }
            let had = sends.since(now - MINUTE, Counted::Requests) as f64;
            if had + 1.0 > (1.5 * before).max(100.0) {
                refused.push((now - start).as_secs());
                match &mut growth {
                    Some(growth) => growth.refuse(had, now, now),
                    None => growth = Some(Growth::refused(had, now)),
                }
                now += Duration::from_millis(500);
                continue;
            }
            sends.push(now, Cost { requests: 1, ..Cost::default() });
            sends.forget(now - 2 * MINUTE);
            minutes.push_back((now, had + 1.0));
            last = had + 1.0;
            if let Some(growth) = &mut growth {
                growth.sent(now, &sends);
            }
            now += Duration::from_millis(50);
        }
        assert!(refused.len() <= 8 && last > 300.0, "{last} a minute in the end, refused at {refused:?}");
    }

    #[test]
    fn an_answer_holds_until_the_time_it_names() {
        let start = clock::now();
        let mut sends = Sends::default();
        let mut growth = Growth::refused(20.0, start);
        send_until(&mut growth, &mut sends, start, start + Duration::from_secs(100));
        let mut now = start + Duration::from_secs(100);
        for _ in 0..1_000 {
            let named = growth.ready_at(now, &sends);
            if named > now {
                let between = now + (named - now).mul_f64(0.9);
                assert!(growth.ready_at(between, &sends) >= named, "at {:?}", now - start);
            }
            now += Duration::from_millis(137);
        }
    }
}
