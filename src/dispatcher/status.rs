//! How everything stands, for the operator: read off the lanes and their accounts, which it leaves as they are.

use std::collections::HashMap;
use std::time::Duration;

use super::ask::{Ask, Group};
use super::desks::Desk;
use super::groups::Groups;
use super::lane::Lane;
use super::switchboard::Switchboard;
use crate::clock::Instant;
use crate::config::Config;
use crate::messages::{
    AccountStatus, ModelStatus, NextStatus, PoolStatus, Priority, RetriesStatus, Status, Tokens, UpstreamStatus,
    UsedStatus, WaitingStatus,
};

/// Models that are shown of one upstream, over all its accounts: each costs a look at its log of sends.
const SHOWN: usize = 256;

const PRIORITIES: [Priority; 3] = [Priority::High, Priority::Normal, Priority::Low];

impl Switchboard {
    /// How things stand here; of the pool and of bodies it knows nothing.
    pub(crate) fn status(&mut self, now: Instant) -> Status {
        let health = self.health(now);
        let config = std::sync::Arc::clone(&self.config);
        let shown = self.lanes.iter_mut().filter(|lane| !lane.desks.is_empty() || lane.waiting > 0);
        let mut upstreams: Vec<UpstreamStatus> = shown.map(|lane| lane.status(&config, now)).collect();
        upstreams.sort_by(|one, other| one.name.cmp(&other.name));
        Status {
            version: env!("CARGO_PKG_VERSION"),
            is_draining: health.is_draining,
            waiting: health.waiting,
            in_flight: health.in_flight,
            repeats_maybe_billed: health.repeats_maybe_billed,
            body_bytes: 0,
            max_body_bytes: config.queue.max_bytes,
            jobs: None,
            pool: PoolStatus { slots: health.slots, restarts: 0, is_unready: health.is_pool_unready },
            upstreams,
        }
    }
}

impl Lane {
    fn status(&mut self, config: &Config, now: Instant) -> UpstreamStatus {
        let [high, normal, low] = self.line.counts;
        let waiting = WaitingStatus {
            capacity: config.queue.capacity,
            high,
            normal,
            low,
            backing_off: self.waiting.saturating_sub(self.line.len() + self.parked.len()),
            parked: self.parked.len(),
        };
        let first_waits_for = self.first_waits_for(now).map(|reason| reason.to_string());
        let retries = RetriesStatus { share: self.retry.retry_budget, left: self.retry_budget.room(now) };
        let firsts = self.firsts();
        let used = self.used();
        let mut room = SHOWN;
        let mut left_out = 0;
        let groups = &self.groups;
        let accounts = self.desks.each().map(|desk| {
            let mut busy = desk.budget.busy_groups(now);
            left_out += busy.len().saturating_sub(room);
            busy.truncate(room);
            room -= busy.len();
            desk.status(&busy, groups, &firsts, now)
        });
        UpstreamStatus {
            name: self.upstream.name.to_string(),
            models: config.upstreams.get(&self.upstream.name).map_or_else(Vec::new, |section| section.models.clone()),
            waiting,
            breaker: self.breaker.status(now),
            first_waits_for,
            retries,
            used,
            accounts: accounts.collect(),
            models_left_out: left_out,
        }
    }

    /// What calls have used and cost, by model.
    fn used(&self) -> Vec<UsedStatus> {
        let names = self.groups.names();
        let name = |group| names.get(group).map_or(Some(Groups::MANY), |name| *name).map(str::to_owned);
        let mut used: Vec<UsedStatus> = self.tallies.iter().map(|(group, tally)| tally.status(name(group))).collect();
        used.sort_by(|one, other| one.model.cmp(&other.model));
        used
    }

    /// What the first call of each queue asks for.
    fn firsts(&self) -> HashMap<(Priority, Group), Ask> {
        let each =
            self.line.heads.iter().filter_map(|(place, group)| Some((place, group, self.line.get(*place, *group)?)));
        each.map(|(place, group, waiting)| ((place.priority, *group), waiting.ask)).collect()
    }
}

impl Desk {
    fn status(
        &mut self,
        groups: &[Group],
        names: &Groups,
        firsts: &HashMap<(Priority, Group), Ask>,
        now: Instant,
    ) -> AccountStatus {
        let wait = |until: Option<Instant>| until.map(|at| at.saturating_duration_since(now).as_secs_f64());
        let names = names.names();
        let models = groups.iter().filter_map(|group| {
            let model = names.get(group).map_or(Some(Groups::MANY), |name| *name);
            let learned = self.budget.learned_of(*group, model.map(str::to_owned), now)?;
            let next = PRIORITIES.map(|priority| {
                let nobodys = Ask { group: *group, tokens: Tokens::default(), priority };
                self.next(firsts.get(&(priority, *group)).unwrap_or(&nobodys), now)
            });
            Some(ModelStatus { learned, next: next.into() })
        });
        let models = models.collect();
        let rests = self.budget.rests_until(now);
        AccountStatus {
            account: self.account.id.to_string(),
            in_flight: self.budget.in_flight(),
            at_once: self.budget.at_once_status(),
            held_for_s: wait(self.budget.held_until(now)),
            rests_for_s: wait(rests.map(|(until, _)| until)),
            rests_why: rests.map(|(_, why)| why.to_string()),
            caps: self.budget.caps_status(now),
            models,
        }
    }

    fn next(&mut self, ask: &Ask, now: Instant) -> NextStatus {
        let reason = self.budget.reason(now, ask);
        let in_s = reason.as_ref().map_or(Some(Duration::ZERO), |reason| reason.wait);
        NextStatus {
            priority: ask.priority,
            tokens: ask.tokens.total(),
            in_s: in_s.map(|wait| wait.as_secs_f64()),
            why: reason.map(|reason| reason.words),
        }
    }
}
