//! What all connections of a simulator share: settings, the ledger, and what each API key has used.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use super::answers::{Spent, Stamp};
use super::ask::Kind;
use super::faults::{self, Draw};
use super::http::Headers;
use super::ledger::{Ledger, Visit};
use super::limits::{Meter, Refusal};
use super::settings::Settings;
use crate::clock::{self, Instant, WallClock};

/// More keys than this share one account, so that keys cannot fill the memory.
const MAX_KEYS: usize = 10_000;

/// One API key's standing.
#[derive(Debug)]
struct Account {
    meter: Meter,
    /// Until when it was last told to wait.
    hold: Option<Instant>,
}

/// Shared by all connections.
#[derive(Debug)]
pub(super) struct Provider {
    pub(super) settings: Settings,
    pub(super) ledger: Arc<Ledger>,
    pub(super) address: SocketAddr,
    accounts: Mutex<HashMap<u64, Account>>,
    wall: WallClock,
}

impl Provider {
    pub(super) fn new(settings: Settings, address: SocketAddr) -> Self {
        Self {
            ledger: Arc::new(Ledger::new(settings.limits)),
            settings,
            address,
            accounts: Mutex::default(),
            wall: WallClock::new(),
        }
    }

    fn account<T>(&self, key: u64, with: impl FnOnce(&mut Account) -> T) -> T {
        let mut accounts: MutexGuard<'_, _> = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let known = accounts.contains_key(&key) || accounts.len() < MAX_KEYS;
        let fresh = || Account { meter: Meter::new(&self.settings.limits, clock::now()), hold: None };
        with(accounts.entry(if known { key } else { 0 }).or_insert_with(fresh))
    }

    /// A call's head was read: its number, its place in the ledger, and what chance has in store for it.
    pub(super) fn arrived(&self, kind: Kind, key: u64) -> (u64, Visit, Draw) {
        let now = clock::now();
        let too_early = self.account(key, |account| account.hold.is_some_and(|until| now < until));
        let (number, visit) = self.ledger.arrived(kind, key, too_early, now);
        let settings = &self.settings;
        (number, visit, faults::draw(settings.seed, number, &settings.odds, settings.latency))
    }

    /// Lets a call pass the limits, or says why not. Its place is free again when the guard is dropped.
    pub(super) fn admit(self: &Arc<Self>, key: u64, spent: Spent) -> Result<Place, Refusal> {
        self.account(key, |account| account.meter.enter(spent.total(), clock::now()))?;
        Ok(Place { provider: self.clone(), key })
    }

    /// `key` is told to wait for `wait`.
    pub(super) fn hold(&self, key: u64, wait: Duration) {
        let until = clock::now() + wait.min(Duration::from_secs(86_400));
        self.account(key, |account| account.hold = account.hold.max(Some(until)));
    }

    /// The rate-limit headers of `key` now.
    pub(super) fn headers(&self, key: u64) -> Headers {
        self.account(key, |account| account.meter.headers(clock::now()))
    }

    pub(super) fn stamp(&self, number: u64) -> Stamp {
        Stamp { number, created: self.unix_seconds(), chunks: self.settings.chunks }
    }

    pub(super) fn unix_seconds(&self) -> u64 {
        self.wall.at(clock::now()).duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }
}

/// A granted call's place among those in flight.
#[derive(Debug)]
pub(super) struct Place {
    provider: Arc<Provider>,
    key: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.provider.account(self.key, |account| account.meter.leave());
    }
}
