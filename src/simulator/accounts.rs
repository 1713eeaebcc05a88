//! The API keys that have called, each with limits of its own. Time is a parameter.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::sync::oneshot;

use super::limits::{Limits, Meter, Reading, Refusal, Workers};
use super::settings::{Change, Settings};
use super::snapshot::{KeyStanding, Slots};
use crate::clock::{self, Instant};

/// More keys than this share one account, so that keys cannot fill the memory.
const MAX_KEYS: usize = 10_000;
/// So many keys a snapshot tells of.
const MAX_TOLD: usize = 100;
/// The longest anyone is held to have been told to wait.
const MAX_HOLD: Duration = Duration::from_secs(86_400);

/// All keys, and the limits in force.
#[derive(Debug)]
pub(super) struct Accounts {
    keys: HashMap<u64, Account>,
    seed: u64,
    /// The limits as they were set.
    limits: Limits,
    /// What the rates are multiplied by now.
    factor: f64,
    /// What they will be multiplied by, the next first.
    changes: VecDeque<(Instant, f64)>,
}

impl Accounts {
    pub(super) fn new(settings: &Settings, now: Instant) -> Self {
        let mut changes = settings.changes.clone();
        changes.sort_by_key(|change| change.after);
        Self {
            keys: HashMap::new(),
            seed: settings.seed,
            limits: settings.limits,
            factor: 1.0,
            changes: changes.into_iter().map(|Change { after, factor }| (clock::after(now, after), factor)).collect(),
        }
    }

    /// The account of `key`.
    pub(super) fn of(&mut self, key: u64, now: Instant) -> &mut Account {
        self.catch_up(now);
        let known = self.keys.contains_key(&key) || self.keys.len() < MAX_KEYS;
        let (limits, number) = (self.in_force(), self.keys.len());
        // Windows begin elsewhere for every key, and where they do is the seed's.
        let fresh = || Account::new(number, &limits, self.seed ^ key, now);
        self.keys.entry(if known { key } else { 0 }).or_insert_with(fresh)
    }

    fn in_force(&self) -> Limits {
        if self.factor == 1.0 { self.limits } else { self.limits.scaled(self.factor) }
    }

    /// Carries out the changes that are due, each as of its own moment.
    fn catch_up(&mut self, now: Instant) {
        while let Some((at, factor)) = self.changes.front().copied().filter(|(at, _)| *at <= now) {
            self.changes.pop_front();
            self.factor = factor;
            self.tell(at);
        }
    }

    /// Other limits for all keys from now on.
    pub(super) fn set(&mut self, limits: Limits, now: Instant) {
        self.catch_up(now);
        self.limits = limits;
        self.tell(now);
    }

    fn tell(&mut self, now: Instant) {
        let limits = self.in_force();
        self.keys.values_mut().for_each(|account| account.set(&limits, now));
    }

    /// The limits in force, and how far the first keys have used them, in the order of their first calls.
    pub(super) fn standings(&mut self, now: Instant) -> (Limits, Vec<KeyStanding>) {
        self.catch_up(now);
        let mut accounts: Vec<&mut Account> =
            self.keys.values_mut().filter(|account| account.number < MAX_TOLD).collect();
        accounts.sort_by_key(|account| account.number);
        let standings = accounts.into_iter().map(|account| account.standing(now)).collect();
        (self.in_force(), standings)
    }
}

/// One API key's standing.
#[derive(Debug)]
pub(super) struct Account {
    /// Which key it was to call first.
    number: usize,
    meter: Meter,
    /// Without end where there is no limit of workers.
    workers: Workers<Waiting>,
    occupancy: Occupancy,
    /// Until when it was last told to wait.
    hold: Option<Instant>,
    next_ticket: u64,
}

/// A call in line for a worker.
#[derive(Debug)]
struct Waiting {
    ticket: u64,
    turn: oneshot::Sender<()>,
}

/// A call that was let in: the caller of [`Account::enter`] must end it with [`Account::leave`].
#[derive(Debug)]
pub(super) struct Ticket {
    number: u64,
    /// Fires when a worker takes the call; `None` when one did at once.
    pub(super) turn: Option<oneshot::Receiver<()>>,
}

/// What became of a call at the limits, and where they stood at that moment, as headers tell it.
#[derive(Debug)]
pub(super) struct Entry {
    /// The limits that were in force.
    pub(super) limits: Limits,
    pub(super) readings: Vec<Reading>,
    pub(super) result: Result<Ticket, Refusal>,
}

impl Account {
    fn new(number: usize, limits: &Limits, seed: u64, now: Instant) -> Self {
        Self {
            number,
            meter: Meter::new(limits, seed, now),
            workers: Workers::new(limits.workers.unwrap_or(u32::MAX)),
            occupancy: Occupancy::new(limits, now),
            hold: None,
            next_ticket: 0,
        }
    }

    fn set(&mut self, limits: &Limits, now: Instant) {
        self.occupancy.settle(self.workers.busy(), now);
        self.occupancy.limit = Occupancy::limit(limits);
        self.meter.set(limits, now);
        self.workers.set(limits.workers.unwrap_or(u32::MAX));
        while let Some(next) = self.workers.begin() {
            next.call();
        }
        self.occupancy.note(&self.workers);
    }

    /// Lets a call charged with `tokens` in, or not.
    pub(super) fn enter(&mut self, tokens: u64, now: Instant) -> Entry {
        let result = self.meter.enter(tokens, now).map(|()| {
            self.occupancy.settle(self.workers.busy(), now);
            let (ticket, (turn, called)) = (self.next_ticket, oneshot::channel());
            self.next_ticket += 1;
            let has_begun = self.workers.enter(Waiting { ticket, turn }).is_some();
            self.occupancy.note(&self.workers);
            Ticket { number: ticket, turn: (!has_begun).then_some(called) }
        });
        Entry { limits: *self.meter.limits(), readings: self.meter.readings(now), result }
    }

    /// A call that was let in is over, or gave up in line.
    pub(super) fn leave(&mut self, ticket: &Ticket, now: Instant) {
        self.meter.leave();
        self.occupancy.settle(self.workers.busy(), now);
        if !self.workers.abandon(|waiting| waiting.ticket == ticket.number)
            && let Some(next) = self.workers.leave()
        {
            next.call();
        }
    }

    /// It is told to wait.
    pub(super) fn hold(&mut self, wait: Duration, now: Instant) {
        self.hold = self.hold.max(Some(now + wait.min(MAX_HOLD)));
    }

    /// Whether a call now comes before the time it was told.
    pub(super) fn is_too_early(&self, now: Instant) -> bool {
        self.hold.is_some_and(|until| now < until)
    }

    /// The limits in force, and where those stand now that headers tell of.
    pub(super) fn told(&self, now: Instant) -> (Limits, Vec<Reading>) {
        (*self.meter.limits(), self.meter.readings(now))
    }

    fn standing(&mut self, now: Instant) -> KeyStanding {
        self.occupancy.settle(self.workers.busy(), now);
        let (granted, refused) = self.meter.calls();
        KeyStanding { granted, refused, limits: self.meter.standings(now), slots: self.occupancy.slots(&self.workers) }
    }
}

impl Waiting {
    /// It is the call's turn. Who left is about to say so: its place is kept until then.
    fn call(self) {
        let _ = self.turn.send(());
    }
}

/// How much of its slots a key has used: workers, or places in flight.
#[derive(Debug)]
struct Occupancy {
    limit: Option<u32>,
    since: Instant,
    /// Slots times seconds, used and there.
    used: f64,
    offered: f64,
    peak_busy: usize,
    peak_waiting: usize,
}

impl Occupancy {
    fn new(limits: &Limits, now: Instant) -> Self {
        Self { limit: Self::limit(limits), since: now, used: 0.0, offered: 0.0, peak_busy: 0, peak_waiting: 0 }
    }

    fn limit(limits: &Limits) -> Option<u32> {
        limits.workers.into_iter().chain(limits.max_concurrent).min()
    }

    /// So many were busy until now.
    fn settle(&mut self, busy: usize, now: Instant) {
        let seconds = now.saturating_duration_since(self.since).as_secs_f64();
        self.used += busy as f64 * seconds;
        self.offered += self.limit.map_or(0.0, |limit| f64::from(limit) * seconds);
        self.since = self.since.max(now);
    }

    /// So many are busy and in line now.
    fn note(&mut self, workers: &Workers<Waiting>) {
        self.peak_busy = self.peak_busy.max(workers.busy());
        self.peak_waiting = self.peak_waiting.max(workers.waiting());
    }

    fn slots(&self, workers: &Workers<Waiting>) -> Option<Slots> {
        self.limit.map(|limit| Slots {
            limit,
            busy: workers.busy(),
            peak_busy: self.peak_busy,
            waiting: workers.waiting(),
            peak_waiting: self.peak_waiting,
            utilisation: if self.offered > 0.0 { self.used / self.offered } else { 0.0 },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::limits::{Rate, Scarce};
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn accounts(change: impl FnOnce(&mut Settings)) -> (Accounts, Instant) {
        let (mut settings, now) = (Settings::default(), clock::now());
        change(&mut settings);
        (Accounts::new(&settings, now), now)
    }

    #[test]
    fn keys_have_limits_of_their_own_and_are_told_of_in_the_order_of_their_first_calls() {
        let (mut accounts, now) = accounts(|settings| settings.limits.requests_per_minute = Some(Rate::per_minute(60)));
        for (key, calls) in [(9, 30), (1, 70), (5, 1)] {
            for _ in 0..calls {
                let _ = accounts.of(key, now).enter(0, now);
            }
        }
        let (_, standings) = accounts.standings(now + seconds(60));
        let figures: Vec<_> =
            standings.iter().map(|key| (key.granted, key.refused, key.limits[0].utilisation)).collect();
        assert_eq!(figures, [(30, 0, 0.5), (60, 10, 1.0), (1, 0, 1.0 / 60.0)]);
    }

    #[test]
    fn changes_are_carried_out_at_their_own_time_even_where_nobody_called_meanwhile() {
        let (mut accounts, start) = accounts(|settings| {
            settings.limits.requests_per_minute = Some(Rate::per_minute(60));
            settings.changes =
                vec![Change { after: seconds(120), factor: 1.0 }, Change { after: seconds(60), factor: 0.5 }];
        });
        assert!(accounts.of(1, start).enter(0, start).result.is_ok());
        let limit = |accounts: &mut Accounts, at| {
            accounts.standings(start + seconds(at)).0.requests_per_minute.map(|rate| rate.amount)
        };
        assert_eq!(limit(&mut accounts, 59), Some(60));
        assert_eq!(limit(&mut accounts, 60), Some(30));
        let entry = accounts.of(2, start + seconds(60)).enter(0, start + seconds(60));
        assert_eq!(entry.readings[0].limit, 30, "a new key meets the limit of the day");
        let (limits, standings) = accounts.standings(start + seconds(180));
        assert_eq!(limits.requests_per_minute, Some(Rate::per_minute(60)));
        assert_eq!(standings[0].limits[0].offered, 60.0 + 30.0 + 60.0);
    }

    #[test]
    fn a_place_in_line_is_called_when_a_worker_is_free_and_gone_when_its_call_gives_up() {
        let (mut accounts, now) = accounts(|settings| settings.limits.workers = Some(1));
        let account = accounts.of(1, now);
        let mut tickets: Vec<Ticket> = (0..4).map(|_| account.enter(0, now).result.unwrap()).collect();
        assert!(tickets[0].turn.is_none(), "the first is worked on at once");
        let is_called = |ticket: &mut Ticket| ticket.turn.as_mut().unwrap().try_recv().is_ok();
        account.leave(&tickets[2], now);
        assert!(!is_called(&mut tickets[1]), "who gives up frees no worker");
        account.leave(&tickets[0], now + seconds(6));
        assert!(is_called(&mut tickets[1]) && !is_called(&mut tickets[3]));
        account.leave(&tickets[1], now + seconds(6));
        assert!(is_called(&mut tickets[3]));
        account.leave(&tickets[3], now + seconds(9));
        let slots = account.standing(now + seconds(12)).slots.unwrap();
        assert_eq!((slots.busy, slots.waiting, slots.peak_busy, slots.peak_waiting), (0, 0, 1, 3));
        assert_eq!(slots.utilisation, 0.75);
    }

    #[test]
    fn more_workers_call_those_in_line_and_no_limit_calls_all() {
        let (mut accounts, now) = accounts(|settings| settings.limits.workers = Some(1));
        let mut tickets: Vec<Ticket> = (0..5).map(|_| accounts.of(1, now).enter(0, now).result.unwrap()).collect();
        let mut called = |accounts: &mut Accounts, workers| {
            accounts.set(Limits { workers, ..Limits::default() }, now);
            let turns = tickets.iter_mut().filter_map(|ticket| ticket.turn.as_mut());
            turns.filter_map(|turn| turn.try_recv().ok()).count()
        };
        assert_eq!(called(&mut accounts, Some(3)), 2);
        assert_eq!(called(&mut accounts, None), 2);
    }

    #[test]
    fn who_comes_before_the_told_time_is_seen() {
        let (mut accounts, now) = accounts(|settings| settings.limits.requests_per_second = Some(Rate::per_second(1)));
        let account = accounts.of(1, now);
        assert!(account.enter(0, now).result.is_ok());
        let refusal = account.enter(0, now).result.unwrap_err();
        assert_eq!(refusal.scarce, Scarce::Requests);
        account.hold(refusal.wait.unwrap(), now);
        assert!(account.is_too_early(now) && !account.is_too_early(now + seconds(1)));
    }
}
