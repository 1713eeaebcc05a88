//! Why calls wait, and what was learned of the limits that they wait for: to callers in their errors, to the operator in
//! the log. The log hears each thing once, not for each call.

use std::time::Duration;

use super::ask::{Ask, Group};
use super::budget::{Fact, News, Reason, Whose};
use super::desks::Desk;
use super::lane::Lane;
use crate::clock::Instant;
use crate::messages::Account;
use crate::telemetry::events::{self, LimitLearned};

/// So many accounts are named where a call's wait is explained.
const TOLD: usize = 3;

/// What waits for the same thing is said again so much later.
const SAID_AGAIN: Duration = Duration::from_secs(60);

impl Lane {
    /// What keeps a call that asks for this waiting here, in words: at the accounts where it may go soonest.
    pub(crate) fn explain(&mut self, now: Instant, ask: &Ask) -> String {
        let mut reasons = self.reasons(now, ask);
        if reasons.is_empty() {
            return "its budget allows too few calls in that time".into();
        }
        reasons.sort_by_key(|(desk, reason)| (reason.wait.is_none(), reason.wait, *desk));
        let said =
            reasons.iter().take(TOLD).map(|(desk, reason)| format!("{}: {reason}", self.desks.get(*desk).account.id));
        let mut said = said.collect::<Vec<_>>().join("; ");
        if let Some(more @ 1..) = reasons.len().checked_sub(TOLD) {
            said.push_str(&format!("; and {more} more accounts"));
        }
        said
    }

    /// What keeps a call that asks for this from each account that cannot take it.
    fn reasons(&mut self, now: Instant, ask: &Ask) -> Vec<(usize, Reason)> {
        let reason = |(index, desk): (usize, &mut Desk)| Some((index, desk.budget.reason(now, ask)?));
        self.desks.each().enumerate().filter_map(reason).collect()
    }

    /// Says what the first in line waits for, when that is another thing than before.
    pub(super) fn tell_why_it_waits(&mut self, now: Instant) {
        if !events::waits_are_heard() {
            return;
        }
        let Some(reason) = self.first_waits_for(now) else { return };
        if self.said.is_none_or(|(kind, at)| kind != reason.kind || at + SAID_AGAIN <= now) {
            self.said = Some((reason.kind, now));
            events::waits(&self.upstream.name, &reason);
        }
    }

    /// Says what is new of an account since a call of `group` ended there.
    pub(super) fn tell_news(&mut self, account: &Account, group: Group, now: Instant) {
        let Some(desk) = self.desks.of(account) else { return };
        for news in desk.budget.news(group, now) {
            match news {
                News::Limit(fact, was) => {
                    events::limit_learned(&account.id, self.groups.name(group), &learned(&fact, was.as_ref()));
                }
                News::AtOnce(found) => events::at_once_found(&account.id, found),
                News::Faults(share) => events::refuses_for_no_limit(&account.id, self.groups.name(group), share),
            }
        }
    }

    /// What the first call in line waits for, at the account where it may go soonest.
    pub(super) fn first_waits_for(&mut self, now: Instant) -> Option<Reason> {
        let (place, group) = self.line.head_behind(None)?;
        let ask = self.line.get(place, group)?.ask;
        let reasons = self.reasons(now, &ask).into_iter();
        // Where an account could take it, it waits for a slot.
        if reasons.len() < self.desks.len() {
            return None;
        }
        let soonest = reasons.min_by_key(|(desk, reason)| (reason.wait.is_none(), reason.wait, *desk));
        soonest.map(|(_, reason)| reason)
    }
}

fn learned(fact: &Fact, was: Option<&Fact>) -> LimitLearned {
    let whose = match fact.whose {
        Whose::Told(_) => "told by the provider",
        Whose::Guessed => "learned from its refusals",
        Whose::Hidden => "hidden: it refuses where by its own word there is room",
    };
    let is_less = was.is_some_and(|was| was.period == fact.period && fact.limit < was.limit);
    let Fact { counts, kind, limit, period, .. } = *fact;
    let is_worse = matches!(fact.whose, Whose::Hidden) || is_less;
    LimitLearned { whose, counts, kind, limit, was: was.map(|was| was.limit), period, is_worse }
}
