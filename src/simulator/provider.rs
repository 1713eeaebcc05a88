//! What all connections of a simulator share: settings, the ledger, and what each API key has used.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::oneshot;

use super::accounts::{Account, Accounts, Ticket};
use super::answers::Stamp;
use super::ask::Kind;
use super::faults::{self, Draw};
use super::ledger::{Ledger, Visit};
use super::limits::{HeaderStyle, Limits, Reading, Refusal};
use super::settings::Settings;
use super::snapshot::Snapshot;
use crate::clock::{self, Instant, WallClock};

/// Shared by all connections.
#[derive(Debug)]
pub(super) struct Provider {
    pub(super) settings: Settings,
    pub(super) ledger: Arc<Ledger>,
    pub(super) address: SocketAddr,
    accounts: Mutex<Accounts>,
    wall: WallClock,
}

impl Provider {
    pub(super) fn new(settings: Settings, address: SocketAddr) -> Self {
        Self {
            ledger: Arc::default(),
            accounts: Mutex::new(Accounts::new(&settings, clock::now())),
            settings,
            address,
            wall: WallClock::new(),
        }
    }

    /// Time is read behind the lock, so that no account ever sees it run backwards.
    fn accounts<T>(&self, with: impl FnOnce(&mut Accounts, Instant) -> T) -> T {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        with(&mut accounts, clock::now())
    }

    fn account<T>(&self, key: u64, with: impl FnOnce(&mut Account, Instant) -> T) -> T {
        self.accounts(|accounts, now| with(accounts.of(key, now), now))
    }

    /// A call's head was read: its number, its place in the ledger, and what chance has in store for it.
    pub(super) fn arrived(&self, kind: Kind, key: u64) -> (u64, Visit, Draw) {
        let (too_early, now) = self.account(key, |account, now| (account.is_too_early(now), now));
        let (number, visit) = self.ledger.arrived(kind, key, too_early, now);
        let settings = &self.settings;
        (number, visit, faults::draw(settings.seed, number, &settings.odds, settings.latency))
    }

    /// Lets a call charged with `tokens` pass the limits, or says why not, and what headers tell of them at that moment.
    pub(super) fn admit(self: &Arc<Self>, key: u64, tokens: u64) -> (Told, Result<Place, Turned>) {
        let (entry, at) = self.account(key, |account, now| (account.enter(tokens, now), now));
        let place = |ticket| Place { provider: self.clone(), key, at, ticket };
        let turned = |refusal| Turned { refusal, limits: entry.limits };
        let told = Told { style: entry.limits.headers, readings: entry.readings, at: self.wall.at(at) };
        (told, entry.result.map(place).map_err(turned))
    }

    /// `key` is told to wait for `wait`.
    pub(super) fn hold(&self, key: u64, wait: Duration) {
        self.account(key, |account, now| account.hold(wait, now));
    }

    /// What headers tell of the limits of `key` now.
    pub(super) fn told(&self, key: u64) -> Told {
        let ((limits, readings), at) = self.account(key, |account, now| (account.told(now), now));
        Told { style: limits.headers, readings, at: self.wall.at(at) }
    }

    /// Other limits for all keys from now on.
    pub(super) fn set_limits(&self, limits: Limits) {
        self.accounts(|accounts, now| accounts.set(limits, now));
    }

    /// The ledger now, with the limits in force and how far they are used.
    pub(super) fn snapshot(&self) -> Snapshot {
        let (limits, keys) = self.accounts(|accounts, now| accounts.standings(now));
        Snapshot { limits, keys, ..self.ledger.snapshot() }
    }

    pub(super) fn stamp(&self, number: u64) -> Stamp {
        Stamp { number, created: self.unix_seconds(), chunks: self.settings.chunks }
    }

    pub(super) fn unix_seconds(&self) -> u64 {
        self.wall.at(clock::now()).duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }
}

/// Where limits stood at a moment, to be told in headers.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) style: HeaderStyle,
    pub(super) readings: Vec<Reading>,
    pub(super) at: SystemTime,
}

/// A call beyond a limit, and the limits then in force.
#[derive(Debug)]
pub(super) struct Turned {
    pub(super) refusal: Refusal,
    pub(super) limits: Limits,
}

/// A granted call's place among those in flight, and at or before a worker; free again when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    provider: Arc<Provider>,
    key: u64,
    /// When it was granted.
    pub(super) at: Instant,
    ticket: Ticket,
}

impl Place {
    /// What fires when a worker takes the call; `None` when one has.
    pub(super) fn turn(&mut self) -> Option<oneshot::Receiver<()>> {
        self.ticket.turn.take()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.provider.account(self.key, |account, now| account.leave(&self.ticket, now));
    }
}
