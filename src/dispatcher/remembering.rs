//! What outlives the process: what was learned of every account, and for how long it is parked. Whoever keeps it asks every now
//! and then, for a few accounts at a time (a large one takes a millisecond to write down), and gives it back to the first
//! dispatcher of the next process.

use std::collections::HashMap;
use std::time::Duration;

use ring::digest::{Context, SHA256};

use super::budget;
use super::desks::Desk;
use super::lane::Lane;
use super::switchboard::Switchboard;
use crate::clock::{self, Instant};
use crate::messages::{Account, AskMemories, Memory, Recollection};
use crate::telemetry::events;

/// When an account was last asked for, and whether it must be kept before its turn.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Keeping {
    asked: Option<Instant>,
    /// Calls were under way then: what their answers taught came later.
    was_waiting: bool,
    /// It has been parked since: the next process must not run into that again.
    pub(super) is_urgent: bool,
}

impl Desk {
    /// How urgent it is to keep it; nothing when there is nothing new.
    fn is_due(&self, now: Instant, every: Duration) -> Option<(bool, Option<Instant>)> {
        let Keeping { asked, was_waiting, is_urgent } = self.keeping;
        let has_sent = || self.budget.sent_at().is_some_and(|sent| asked.is_none_or(|asked| sent >= asked));
        let is_busy = was_waiting || has_sent();
        let is_due = is_urgent || is_busy && asked.is_none_or(|asked| asked + every <= now);
        is_due.then_some((!is_urgent, asked))
    }
}

impl Switchboard {
    /// What is worth keeping of at most `most` accounts.
    pub(crate) fn memories(&mut self, ask: AskMemories, now: Instant) -> Vec<Memory> {
        let mut due = Vec::new();
        for (lane, way_out) in self.lanes.iter_mut().enumerate() {
            let desks = way_out.desks.each().enumerate();
            due.extend(desks.filter_map(|(desk, it)| Some((it.is_due(now, ask.every)?, lane, desk))));
        }
        due.sort_unstable();
        due.truncate(ask.most);
        due.into_iter().filter_map(|(_, lane, desk)| self.lanes[lane].memory(desk, now)).collect()
    }

    /// Takes up what an earlier process kept. What cannot be read is left out: it is learned anew.
    pub(super) fn recall(&mut self, recollections: Vec<Recollection>, now: Instant) {
        let mut kept: HashMap<String, Recollection> =
            recollections.into_iter().map(|it| (it.memory.account.clone(), it)).collect();
        for lane in &mut self.lanes {
            lane.recall(&mut kept, now);
        }
    }
}

impl Lane {
    /// The account has been parked: that is kept before its turn.
    pub(super) fn keep(&mut self, account: &Account) {
        if let Some(desk) = self.desks.of(account) {
            desk.keeping.is_urgent = true;
        }
    }

    fn memory(&mut self, desk: usize, now: Instant) -> Option<Memory> {
        // Asked, not changed: nothing that calls are decided by.
        let desk = self.desks.each().nth(desk)?;
        desk.keeping = Keeping { asked: Some(now), was_waiting: desk.budget.in_flight() > 0, is_urgent: false };
        let learned = serde_json::to_vec(&desk.budget.remember(&self.groups, now)).ok()?;
        Some(Memory { account: name(&desk.account), learned: learned.into() })
    }

    fn recall(&mut self, kept: &mut HashMap<String, Recollection>, now: Instant) {
        for index in 0..self.desks.len() {
            let desk = self.desks.at(index);
            let Some(Recollection { memory, ago }) = kept.remove(&name(&desk.account)) else { continue };
            let learned: budget::Memory = match serde_json::from_slice(&memory.learned) {
                Ok(learned) => learned,
                Err(error) => {
                    events::memory_unreadable(&desk.account.id, &error);
                    continue;
                }
            };
            desk.budget.recall(&learned, &mut self.groups, clock::before(now, ago));
            for group in self.groups.names().into_keys() {
                if let Some(until) = desk.budget.used_up_until(now, group) {
                    let latest = self.used_up.entry(group).or_insert(until);
                    *latest = until.max(*latest);
                }
            }
        }
    }
}

/// Under what an account is kept: another key or another address is another account.
fn name(account: &Account) -> String {
    let mut context = Context::new(&SHA256);
    context.update(account.upstream.base_url.as_bytes());
    context.update(&[0]);
    context.update(account.key.as_ref().map_or("", |key| key.expose()).as_bytes());
    let print = context.finish();
    let hex: String = print.as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}/{hex}", account.upstream.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatcher::turn::stage::{Script, Stage, refused, too_many};
    use crate::messages::Priority::Normal;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// The first `count` attempts fail so, the others are answered after a second.
    fn at_first(count: u32, failure: impl Fn() -> crate::messages::Failure + 'static) -> Script {
        let mut made = 0;
        Box::new(move |_, _| {
            made += 1;
            (s(1), if made <= count { Err(failure()) } else { Ok(()) })
        })
    }

    #[test]
    fn an_account_held_by_the_upstreams_word_stays_held_over_a_restart() {
        let mut stage = Stage::new("api_keys = [\"sk-stage-000\"]", 1, at_first(1, || too_many(s(600))));
        stage.call("m", 10, Normal);
        stage.run_until(stage.now + s(2));
        let held_at = stage.now - s(1);
        let mut stage = stage.killed(s(60));
        stage.call("m", 10, Normal);
        stage.run_out();
        let (ended, outcome) = &stage.ended[&0];
        assert!(outcome.is_ok());
        let waited = (*ended - held_at).as_secs_f64();
        assert!((601.0..603.0).contains(&waited), "{waited}");
    }

    #[test]
    fn a_key_that_rests_does_not_wake_by_a_restart() {
        let mut stage = Stage::new("api_keys = [\"sk-stage-000\"]", 1, at_first(1, refused));
        stage.call("m", 10, Normal);
        stage.run_until(stage.now + s(2));
        let mut stage = stage.killed(s(20));
        stage.call("m", 10, Normal);
        stage.run_until(stage.now + s(1));
        let error = stage.ended[&0].1.as_ref().expect_err("the key rests");
        assert!(error.to_string().contains("rests"), "{error}");
        let mut stage = stage.killed(s(40));
        stage.call("m", 10, Normal);
        stage.run_out();
        assert!(stage.ended[&0].1.is_ok(), "it has rested its minute");
    }

    #[test]
    fn what_was_sent_counts_against_a_cap_over_a_restart() {
        let upstream = "api_keys = [\"sk-stage-000\"]\nlimits = { requests_per_minute = 10 }";
        let mut stage = Stage::new(upstream, 1, at_first(0, refused));
        (0..10).for_each(|_| _ = stage.call("m", 10, Normal));
        stage.run_until(stage.now + s(2));
        let sent = stage.starts.len();
        let (first, mut stage) = (stage.now - s(2), stage.killed(s(5)));
        (0..10).for_each(|_| _ = stage.call("m", 10, Normal));
        stage.run_until(first + s(59));
        assert!(sent > 0 && sent + stage.starts.len() <= 10, "{sent} and {} within a minute", stage.starts.len());
        stage.run_out();
    }

    #[test]
    fn few_accounts_are_asked_for_at_a_time_and_those_that_were_parked_first() {
        let keys: Vec<String> = (0..9).map(|key| format!("sk-stage-{key:09}")).collect();
        let upstream = format!("api_keys = {keys:?}\nlimits = {{ max_concurrent = 1 }}");
        let mut made = 0;
        let script: Script = Box::new(move |_, _| {
            made += 1;
            (s(1), if made == 7 { Err(too_many(s(900))) } else { Ok(()) })
        });
        let mut stage = Stage::new(&upstream, 1, script);
        (0..9).for_each(|_| _ = stage.call("m", 10, Normal));
        let held = stage.starts[6].1.clone();
        stage.run_until(stage.now + s(2));
        let ask = AskMemories { most: 2, every: s(5) };
        let now = stage.now;
        let asked: Vec<Vec<Memory>> = (0..6).map(|_| stage.board.memories(ask, now)).collect();
        assert_eq!(asked.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 2, 2, 1, 0]);
        let desk = stage.board.lanes[0].desks.iter().find(|desk| desk.account.id.to_string() == held);
        assert_eq!(asked[0][0].account, name(&desk.expect("an account").account), "the parked one first");
        let all: std::collections::BTreeSet<&str> =
            asked.iter().flatten().map(|memory| memory.account.as_str()).collect();
        assert_eq!(all.len(), 9, "each once");
        assert!(all.iter().all(|name| !name.contains("sk-")), "{all:?}");
        assert!(stage.board.memories(ask, now + s(60)).is_empty(), "nothing has happened since");
    }
}
