//! What an account says of itself: to the operator in numbers, to a call that waits in words.

use std::fmt;
use std::time::Duration;

use super::cap::Cap;
use super::{Ask, Budget, Group, Learned, Ready, Rest, Wait};
use crate::clock::Instant;
use crate::dispatcher::lane::seconds;
use crate::messages::{AtOnceStatus, CapStatus, LearnedModel};

/// Models that were not called for so long are not shown, unless their day's quota is used up.
const LONG: Duration = Duration::from_secs(3_600);

/// What keeps a call.
#[derive(Debug)]
pub(crate) struct Reason {
    /// In a word: the same for as long as it is the same thing.
    pub(crate) kind: &'static str,
    pub(crate) words: String,
    /// How long, where that is known.
    pub(crate) wait: Option<Duration>,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)?;
        self.wait.map_or(Ok(()), |wait| write!(f, ", the next call may go in {}", seconds(wait)))
    }
}

impl Budget {
    /// What would keep a call that asks for this; `None` when it could go. Asking changes nothing: nobody may make the
    /// call.
    pub(crate) fn reason(&mut self, now: Instant, ask: &Ask) -> Option<Reason> {
        let had = self.groups.get(&ask.group).map(Learned::limited_at);
        let ready = self.ready(now, ask);
        match had {
            Some(at) => self.group(ask.group, now).set_limited_at(at),
            None => _ = self.groups.remove(&ask.group),
        }
        let (kind, words, until) = match ready {
            Ready::Now => return None,
            Ready::At(at, Wait::Held) => ("held", self.held_in_words(ask.group, now), Some(at)),
            Ready::At(at, why) => (why.kind(), why.to_string(), Some(at)),
            Ready::WhenOneEnds => {
                let words = format!("its {} calls are in flight: it {}", self.in_flight(), self.concurrency.in_words());
                ("full", words, None)
            }
            Ready::Resting(at, why) => ("resting", format!("{why}; its key rests"), Some(at)),
            Ready::Never(beyond) => ("never", beyond.to_string(), None),
        };
        let words = match self.reported.in_words(now).filter(|_| kind != "told") {
            Some(said) => format!("{words} (the provider says: {said})"),
            None => words,
        };
        Some(Reason { kind, words, wait: until.map(|at| at.saturating_duration_since(now)) })
    }

    /// That the upstream's word holds it, and which of its budgets that may be for.
    fn held_in_words(&self, group: Group, now: Instant) -> String {
        let scarcest = self.groups.get(&group).and_then(|learned| learned.scarcest(now));
        match scarcest {
            Some(told) => format!("{}; {told}", Wait::Held),
            None => Wait::Held.to_string(),
        }
    }

    /// Until when its key rests, and why.
    pub(crate) fn rests_until(&self, now: Instant) -> Option<(Instant, Rest)> {
        self.rests.at(now)
    }

    pub(crate) fn at_once_status(&self) -> AtOnceStatus {
        AtOnceStatus {
            limit: self.concurrency.window(),
            most: self.concurrency.most(),
            why: self.concurrency.in_words(),
        }
    }

    pub(crate) fn caps_status(&self, now: Instant) -> Vec<CapStatus> {
        let status = |cap: &Cap| {
            let left = cap.remaining(now, &self.sends);
            CapStatus {
                counts: cap.counted.dimension(),
                limit_per_minute: cap.per_minute,
                used: cap.used(now, &self.sends),
                left: left.remaining,
                whole_in_s: left.reset.as_secs_f64(),
            }
        };
        [&self.requests, &self.tokens].into_iter().flatten().map(status).collect()
    }

    /// When it was last called.
    pub(crate) fn sent_at(&self) -> Option<Instant> {
        self.groups.values().filter_map(Learned::sent_at).max()
    }

    /// The groups that were called within the last hour or whose day's quota is used up, the latest call first.
    pub(crate) fn busy_groups(&self, now: Instant) -> Vec<Group> {
        let sent_at = |(group, learned): (&Group, &Learned)| Some((learned.sent_at()?, *group));
        let is_shown = |(at, group): &(Instant, Group)| *at + LONG > now || self.used_up_until(now, *group).is_some();
        let mut busy: Vec<_> = self.groups.iter().filter_map(sent_at).filter(is_shown).collect();
        busy.sort_by(|one, other| other.cmp(one));
        busy.into_iter().map(|(_, group)| group).collect()
    }

    /// What was learned of a group, which goes by the name of `model`.
    pub(crate) fn learned_of(&self, group: Group, model: Option<String>, now: Instant) -> Option<LearnedModel> {
        self.groups.get(&group).map(|learned| learned.remember(model, now))
    }
}
