//! What the provider saw and did: the other side's truth, against which a client's story can be checked.
//!
//! Every call ends in exactly one way: answered, faulted, limited, refused or abandoned; or it is still in flight.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::answers::Spent;
use super::ask::Kind;
use super::faults::Fault;
use super::limits::Scarce;
use super::snapshot::{Busiest, Snapshot};
use crate::clock::Instant;

/// More bodies, prompts or keys than this are not told apart any more, so that a long run needs bounded memory.
const MAX_FOLLOWED: usize = 200_000;
/// More calls than this in one window are not counted: a rate no test runs at.
const MAX_IN_WINDOW: usize = 2_000_000;

/// How a call ended.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    /// The hash of the prompt whose good answer is complete.
    Answered(u64),
    Faulted(Fault),
    /// What ran out, and whether a 429 says so.
    Limited(Scarce, bool),
    Refused,
    Abandoned,
}

#[derive(Debug)]
struct Window {
    span: Duration,
    moments: VecDeque<(Instant, u64)>,
    sum: u64,
    most: u64,
}

impl Window {
    fn new(seconds: u64) -> Self {
        Self { span: Duration::from_secs(seconds), moments: VecDeque::new(), sum: 0, most: 0 }
    }

    fn add(&mut self, amount: u64, now: Instant) {
        // A moment exactly one span ago is out: a window is half open.
        let is_out = |(first, _): &&(Instant, u64)| now.saturating_duration_since(*first) >= self.span;
        while let Some((_, gone)) = self.moments.front().filter(is_out) {
            self.sum -= gone;
            self.moments.pop_front();
        }
        if self.moments.len() < MAX_IN_WINDOW {
            self.moments.push_back((now, amount));
            self.sum += amount;
        }
        self.most = self.most.max(self.sum);
    }
}

#[derive(Debug)]
struct Traffic {
    arrived: [Window; 2],
    granted: [Window; 2],
    tokens: Window,
}

impl Default for Traffic {
    fn default() -> Self {
        let windows = || [Window::new(1), Window::new(60)];
        Self { arrived: windows(), granted: windows(), tokens: Window::new(60) }
    }
}

#[derive(Debug, Default)]
struct Books {
    open: Snapshot,
    traffic: HashMap<u64, Traffic>,
    /// Of each body: attempts seen, attempts admitted.
    bodies: HashMap<u64, (u32, u32)>,
    prompts: HashMap<u64, u64>,
}

impl Books {
    fn traffic(&mut self, key: u64) -> &mut Traffic {
        let known = self.traffic.contains_key(&key) || self.traffic.len() < MAX_FOLLOWED;
        self.traffic.entry(if known { key } else { 0 }).or_default()
    }
}

/// The books, shared by all connections.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    books: Mutex<Books>,
    /// Counts changes, so that one can wait for a state instead of asking again and again.
    changes: watch::Sender<u64>,
}

impl Ledger {
    fn books(&self) -> MutexGuard<'_, Books> {
        // Nothing panics while it holds the books; if it did, counters would still be counters.
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, write: impl FnOnce(&mut Books) -> T) -> T {
        let result = write(&mut self.books());
        self.changes.send_modify(|changes| *changes += 1);
        result
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(super) fn connected(&self) {
        self.change(|books| books.open.connections += 1);
    }

    pub(super) fn redirect_followed(&self) {
        self.change(|books| books.open.redirects_followed += 1);
    }

    /// A call's head was read: its number, and the guard that ends it.
    pub(super) fn arrived(self: &Arc<Self>, kind: Kind, key: u64, too_early: bool, now: Instant) -> (u64, Visit) {
        let number = self.change(|books| {
            books.traffic(key).arrived.iter_mut().for_each(|window| window.add(1, now));
            let open = &mut books.open;
            let number = open.requests;
            open.requests += 1;
            open.too_early += u64::from(too_early);
            *open.endpoints.entry(kind.name()).or_default() += 1;
            open.in_flight += 1;
            open.peak_in_flight = open.peak_in_flight.max(open.in_flight);
            number
        });
        (number, Visit { ledger: self.clone(), ended: false, answered: false })
    }

    /// A call's body was read.
    pub(super) fn read(&self, body: u64) {
        self.change(|books| {
            let full = books.bodies.len() >= MAX_FOLLOWED && !books.bodies.contains_key(&body);
            if !full {
                let (seen, _) = books.bodies.entry(body).or_default();
                *seen = seen.saturating_add(1);
                let attempt = *seen;
                *books.open.attempts.entry(attempt).or_default() += 1;
            }
        });
    }

    /// The limits let a call pass, charged with so many tokens; the answer is how many attempts of its body they let pass
    /// before.
    pub(super) fn admitted(&self, key: u64, body: u64, spent: Spent, charged: u64, now: Instant) -> u32 {
        self.change(|books| {
            let traffic = books.traffic(key);
            traffic.granted.iter_mut().for_each(|window| window.add(1, now));
            traffic.tokens.add(charged, now);
            books.open.admitted += 1;
            books.open.tokens.prompt += spent.prompt;
            books.open.tokens.completion += spent.completion;
            books.bodies.get_mut(&body).map_or(0, |(_, admitted)| {
                *admitted = admitted.saturating_add(1);
                *admitted - 1
            })
        })
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let books = self.books();
        let most =
            |of: fn(&Traffic) -> &Window| books.traffic.values().map(|traffic| of(traffic).most).max().unwrap_or(0);
        let calls = |of| usize::try_from(most(of)).unwrap_or(usize::MAX);
        Snapshot {
            busiest: Busiest {
                arrived_in_1s: calls(|traffic| &traffic.arrived[0]),
                arrived_in_60s: calls(|traffic| &traffic.arrived[1]),
                granted_in_1s: calls(|traffic| &traffic.granted[0]),
                granted_in_60s: calls(|traffic| &traffic.granted[1]),
                tokens_in_60s: most(|traffic| &traffic.tokens),
            },
            prompts: books.prompts.iter().map(|(hash, answers)| (format!("{hash:016x}"), *answers)).collect(),
            ..books.open.clone()
        }
    }
}

/// One call in flight. Dropped without an end, it was abandoned.
#[derive(Debug)]
pub(super) struct Visit {
    ledger: Arc<Ledger>,
    ended: bool,
    answered: bool,
}

impl Visit {
    /// A harmless fault was carried out.
    pub(super) fn disturbed(&self, fault: Fault) {
        self.ledger.change(|books| *books.open.injected.entry(fault.to_string()).or_default() += 1);
    }

    /// The call's end is decided; only the first one counts. It stays in flight until the guard is dropped.
    pub(super) fn end(&mut self, end: End) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        self.answered = matches!(end, End::Answered(_));
        self.ledger.change(|books| {
            let open = &mut books.open;
            match end {
                End::Answered(prompt) => {
                    open.answered += 1;
                    if books.prompts.contains_key(&prompt) || books.prompts.len() < MAX_FOLLOWED {
                        *books.prompts.entry(prompt).or_default() += 1;
                    } else {
                        open.prompts_not_followed += 1;
                    }
                }
                End::Faulted(fault) => {
                    open.faulted += 1;
                    *open.injected.entry(fault.to_string()).or_default() += 1;
                }
                End::Limited(scarce, said) => {
                    open.limited += 1;
                    open.limit_429s += u64::from(said);
                    *match scarce {
                        Scarce::Requests => &mut open.limited_by.requests,
                        Scarce::Tokens => &mut open.limited_by.tokens,
                        Scarce::HiddenRequests => &mut open.limited_by.hidden_requests,
                        Scarce::Acceleration => &mut open.limited_by.acceleration,
                        Scarce::Concurrency => &mut open.limited_by.concurrency,
                    } += 1;
                }
                End::Refused => open.refused += 1,
                End::Abandoned => open.abandoned += 1,
            }
        });
    }
}

impl Visit {
    /// The answer that was entered could not be sent after all.
    pub(super) fn take_back(&mut self, prompt: u64) {
        if !std::mem::take(&mut self.answered) {
            return;
        }
        self.ledger.change(|books| {
            books.open.answered -= 1;
            books.open.abandoned += 1;
            match books.prompts.get_mut(&prompt) {
                Some(1) => drop(books.prompts.remove(&prompt)),
                Some(answers) => *answers -= 1,
                None => books.open.prompts_not_followed = books.open.prompts_not_followed.saturating_sub(1),
            }
        });
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.end(End::Abandoned);
        self.ledger.change(|books| books.open.in_flight -= 1);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::snapshot::Tokens;
    use super::*;
    use crate::clock;

    const SPENT: Spent = Spent { prompt: 3, completion: 4 };

    fn ledger() -> Arc<Ledger> {
        Arc::default()
    }

    #[test]
    fn every_call_ends_in_exactly_one_way() {
        let (ledger, now) = (ledger(), clock::now());
        let ends = [
            Some(End::Answered(7)),
            Some(End::Faulted(Fault::Stall)),
            Some(End::Limited(Scarce::Tokens, true)),
            Some(End::Limited(Scarce::Concurrency, false)),
            Some(End::Refused),
            Some(End::Abandoned),
            None,
        ];
        let mut visits = Vec::new();
        for end in ends {
            let (_, mut visit) = ledger.arrived(Kind::Chat, 1, false, now);
            if let Some(end) = end {
                visit.end(end);
                visit.end(End::Refused);
            }
            visits.push(visit);
        }
        assert_eq!((ledger.snapshot().in_flight, ledger.snapshot().peak_in_flight), (7, 7));
        drop(visits);
        let seen = ledger.snapshot();
        assert_eq!((seen.requests, seen.in_flight), (7, 0));
        assert_eq!((seen.answered, seen.faulted, seen.limited, seen.refused, seen.abandoned), (1, 1, 2, 1, 2));
        assert_eq!((seen.limit_429s, seen.limited_by.tokens, seen.limited_by.concurrency), (1, 1, 1));
        assert_eq!(seen.prompts, BTreeMap::from([("0000000000000007".to_owned(), 1)]));
    }

    #[test]
    fn an_answer_that_could_not_be_sent_is_taken_back_once() {
        let (ledger, now) = (ledger(), clock::now());
        let mut visits: Vec<Visit> = (0..3).map(|_| ledger.arrived(Kind::Chat, 1, false, now).1).collect();
        visits[0].end(End::Answered(7));
        visits[1].end(End::Answered(7));
        visits[1].take_back(7);
        visits[1].take_back(7);
        visits[2].take_back(7);
        let seen = ledger.snapshot();
        assert_eq!((seen.answered, seen.abandoned, seen.prompts["0000000000000007"]), (1, 1, 1));
        visits[0].take_back(7);
        assert_eq!((ledger.snapshot().answered, ledger.snapshot().prompts.len()), (0, 0));
    }

    #[test]
    fn the_busiest_window_slides_and_is_of_one_key() {
        let (ledger, start) = (ledger(), clock::now());
        let at = |ms| start + Duration::from_millis(ms);
        // Two seconds on the clock hold two each; the second between 900 and 1900 holds four of key 1.
        for (key, ms) in [(1, 0), (1, 900), (1, 1_000), (2, 1_100), (1, 1_200), (1, 1_899), (1, 1_900), (1, 30_000)] {
            let _ = ledger.arrived(Kind::Chat, key, false, at(ms));
            ledger.admitted(key, 0, SPENT, 10, at(ms));
        }
        let busiest = ledger.snapshot().busiest;
        assert_eq!((busiest.arrived_in_1s, busiest.granted_in_1s), (4, 4));
        assert_eq!((busiest.arrived_in_60s, busiest.granted_in_60s, busiest.tokens_in_60s), (7, 7, 70));
        assert_eq!(ledger.snapshot().tokens, Tokens { prompt: 24, completion: 32 });
    }

    #[test]
    fn attempts_of_one_body_are_told_apart_and_limited_ones_use_up_no_order() {
        let (ledger, now) = (ledger(), clock::now());
        for body in [1, 1, 2, 1] {
            ledger.read(body);
        }
        assert_eq!(ledger.snapshot().attempts, BTreeMap::from([(1, 2), (2, 1), (3, 1)]));
        assert_eq!(ledger.admitted(1, 1, SPENT, 7, now), 0);
        assert_eq!(ledger.admitted(1, 1, SPENT, 7, now), 1);
        assert_eq!(ledger.admitted(1, 2, SPENT, 7, now), 0);
    }
}
