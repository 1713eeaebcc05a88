//! What an operator wants to hear once: that a limit was learned, or is another by now, or that refusals are of none.
//!
//! Said when it is new, and when it has changed for good: what moves all the time is worth a line a minute at most.

use std::collections::HashMap;
use std::time::Duration;

use super::{Budget, Group};
use crate::clock::Instant;
use crate::messages::{Dimension, LimiterKind, Scope};

/// Between two lines about one thing.
const BETWEEN: Duration = Duration::from_secs(60);

/// Between two lines about faults that go on.
const AGAIN: Duration = Duration::from_secs(3_600);

/// What is found out by trial is another when it is off by this share.
const OTHER: f64 = 0.2;

/// Whose limit it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Whose {
    Told(Scope),
    Guessed,
    Hidden,
}

/// A limit as it stands.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Fact {
    pub(crate) whose: Whose,
    pub(crate) counts: Dimension,
    pub(crate) limit: f64,
    pub(crate) kind: LimiterKind,
    pub(crate) period: Duration,
}

impl Fact {
    fn is_other_than(&self, said: &Fact) -> bool {
        let is_off = (self.limit / said.limit - 1.0).abs() > OTHER;
        match self.whose {
            // Together's follows what was answered lately.
            Whose::Told(Scope::Dynamic) => is_off,
            Whose::Told(_) => (self.limit, self.kind, self.period) != (said.limit, said.kind, said.period),
            _ => is_off || self.period != said.period,
        }
    }
}

/// Something that was not said before.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum News {
    /// A limit, and what was said of it before.
    Limit(Fact, Option<Fact>),
    /// So many at once are taken.
    AtOnce(usize),
    /// Such a share is refused for no limit.
    Faults(f64),
}

/// What was said, and when.
#[derive(Debug, Default)]
pub(super) struct Said {
    limits: HashMap<(Group, Whose, Dimension), (Fact, Instant)>,
    at_once: Option<(usize, Instant)>,
    faults: HashMap<Group, Instant>,
}

impl Budget {
    /// What is new of the account since it was last asked, as far as calls of `group` can have shown it.
    pub(crate) fn news(&mut self, group: Group, now: Instant) -> Vec<News> {
        let mut news = Vec::new();
        for fact in self.groups.get(&group).into_iter().flat_map(|learned| learned.facts()) {
            let key = (group, fact.whose, fact.counts);
            let said = self.said.limits.get(&key);
            if said.is_none_or(|(said, at)| *at + BETWEEN <= now && fact.is_other_than(said)) {
                news.push(News::Limit(fact, said.map(|(said, _)| *said)));
                self.said.limits.insert(key, (fact, now));
            }
        }
        if let Some(found) = self.concurrency.found() {
            let is_off = |said: usize| (found as f64 / said as f64 - 1.0).abs() > OTHER;
            if self.said.at_once.is_none_or(|(said, at)| at + BETWEEN <= now && is_off(said)) {
                news.push(News::AtOnce(found));
                self.said.at_once = Some((found, now));
            }
        }
        if let Some(share) = self.groups.get(&group).and_then(|learned| learned.faults(now))
            && self.said.faults.get(&group).is_none_or(|at| *at + AGAIN <= now)
        {
            news.push(News::Faults(share));
            self.said.faults.insert(group, now);
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::config::Limits;
    use crate::dispatcher::ask::Ask;
    use crate::dispatcher::budget::tests::refusals::too_fast;
    use crate::messages::{BudgetReading, LimitReport, Priority, Reset, Tokens};

    const ASK: Ask = Ask { group: Group(7), tokens: Tokens { input: 0, output: 0 }, priority: Priority::Normal };

    /// Calls, one every `gap`, to a bucket of so many a minute; gives what is new.
    fn calls(budget: &mut Budget, now: &mut Instant, count: u32, gap: Duration, limit: u64) -> Vec<News> {
        let mut news = Vec::new();
        let used = (limit as f64 * 0.2) as u64;
        for _ in 0..count {
            *now += gap;
            let mut permit = budget.reserve(*now, &ASK);
            let mut reading = BudgetReading::new(Dimension::Requests, Scope::Whole, None);
            (reading.limit, reading.remaining) = (Some(limit), Some(limit - used));
            let (after, grain) = (Duration::from_secs(12), Duration::from_millis(1));
            reading.reset = Some(Reset { after, grain });
            budget.hear(&mut permit, &LimitReport { budgets: vec![reading], cost: None }, *now);
            budget.settle(permit, None, *now);
            news.extend(budget.news(ASK.group, *now));
        }
        news
    }

    #[test]
    fn a_limit_its_kind_and_its_change_are_news_once_however_many_calls_are_made() {
        let mut now = clock::now();
        let mut budget = Budget::new(Limits::default(), 512, now);
        let each = Duration::from_millis(500);
        let known = calls(&mut budget, &mut now, 600, each, 500);
        let limits: Vec<_> = known
            .iter()
            .map(|news| match news {
                News::Limit(fact, was) => (fact.limit, fact.kind, was.map(|was| was.kind)),
                News::AtOnce(_) | News::Faults(_) => panic!("nothing was refused"),
            })
            .collect();
        use LimiterKind::{Bucket, Window};
        assert_eq!(limits, [(500.0, Window, None), (500.0, Bucket, Some(Window))]);
        let changed = calls(&mut budget, &mut now, 600, each, 250);
        let [News::Limit(fact, Some(was))] = changed[..] else { panic!("{changed:?}") };
        assert_eq!((fact.limit, was.limit, fact.whose), (250.0, 500.0, Whose::Told(Scope::Whole)));
    }

    #[test]
    fn what_changes_with_every_call_is_news_once_a_minute() {
        let mut now = clock::now();
        let mut budget = Budget::new(Limits::default(), 512, now);
        let mut news = 0;
        for n in 0..600u64 {
            news += calls(&mut budget, &mut now, 1, Duration::from_millis(500), 500 + n).len();
        }
        assert!((4..=6).contains(&news), "{news} lines in five minutes");
    }

    #[test]
    fn faults_are_news_once_an_hour() {
        let mut now = clock::now();
        let mut budget = Budget::new(Limits::default(), 512, now);
        let mut shares = Vec::new();
        for n in 1..20_000 {
            now += Duration::from_millis(250);
            let permit = budget.reserve(now, &ASK);
            if n % 20 == 0 {
                budget.failed(permit, &too_fast(Some(Duration::from_secs(1))), now);
            } else {
                budget.settle(permit, None, now);
            }
            shares.extend(budget.news(ASK.group, now).into_iter().filter_map(|news| match news {
                News::Faults(share) => Some(share),
                _ => None,
            }));
        }
        assert_eq!(shares.len(), 2, "in 83 minutes: {shares:?}");
        assert!(shares.iter().all(|share| (0.03..0.07).contains(share)), "{shares:?}");
    }
}
