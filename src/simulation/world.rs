//! The upstreams: they answer, fail, stall, cut, refuse and crash as drawn, echo each caller's nonce, and see to it that
//! nobody asks more of them than the limits in force allow.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::plan::{Caps, Plan};
use super::record::{Draw, Record};
use super::scenes::{Scene, Weather};
use crate::clock::{self, Instant};
use crate::pool::transport::{HttpRequest, HttpResponse, TransportError};

const MINUTE: Duration = Duration::from_secs(60);

/// What was in force a moment ago may still be on its way.
const MOMENT: Duration = Duration::from_millis(2);

type Key = (String, String);

/// What the upstreams remember of one caller's request.
#[derive(Default, Debug)]
pub(super) struct Seen {
    /// Exchanges made.
    pub(super) exchanges: u32,
    /// Under way now.
    pub(super) open: u32,
    /// Error statuses given to it.
    pub(super) statuses: BTreeSet<u16>,
    /// It was given a whole answer, or the end of a stream of so many pieces.
    pub(super) answered: Option<u64>,
    /// An exchange of it panicked.
    pub(super) panicked: bool,
}

struct State {
    draw: Draw,
    weather: BTreeMap<String, Weather>,
    /// Upstreams that are away, whatever the weather.
    away: BTreeSet<String>,
    refused: BTreeSet<String>,
    in_force: VecDeque<(Instant, BTreeMap<Key, Caps>)>,
    sent: BTreeMap<Key, VecDeque<(Instant, u64)>>,
    in_flight: BTreeMap<Key, usize>,
    seen: BTreeMap<u32, Seen>,
    over: bool,
    has_refused: bool,
    draining: bool,
    failed: bool,
}

/// All upstreams.
pub(super) struct World {
    state: Mutex<State>,
    pub(super) record: Record,
}

/// One exchange, under way until it is dropped.
pub(super) struct Exchange {
    world: Arc<World>,
    key: Key,
    pub(super) nonce: u32,
    pub(super) is_stream: bool,
    number: u32,
    entered: Instant,
    pub(super) panics_when_dropped: bool,
}

impl World {
    pub(super) fn new(draw: Draw, record: Record) -> Arc<Self> {
        let state = State {
            draw,
            weather: BTreeMap::new(),
            away: BTreeSet::new(),
            refused: BTreeSet::new(),
            in_force: VecDeque::new(),
            sent: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            seen: BTreeMap::new(),
            over: false,
            has_refused: false,
            draining: false,
            failed: false,
        };
        Arc::new(Self { state: Mutex::new(state), record })
    }

    /// Never held over a planted panic.
    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn put_in_force(&self, plan: &Plan) {
        let account = |name: &str, key: &String| (name.to_owned(), key.clone());
        let caps = plan.upstreams.iter().flat_map(|up| up.keys.iter().map(|key| (account(up.name, key), up.caps)));
        self.with(|state| {
            state.in_force.push_front((clock::now(), caps.collect()));
            state.in_force.truncate(4);
        });
    }

    pub(super) fn set_weather(&self, upstream: &str, weather: Weather) {
        self.record.note(format_args!("weather of {upstream}: {weather:?}"));
        self.with(|state| state.weather.insert(upstream.to_owned(), weather));
    }

    /// An upstream goes away, or comes back.
    pub(super) fn set_away(&self, upstream: &str, is_away: bool) {
        self.record.note(format_args!("{upstream} {}", if is_away { "goes away" } else { "is back" }));
        self.with(|state| match is_away {
            true => state.away.insert(upstream.to_owned()),
            false => state.away.remove(upstream),
        });
    }

    /// Refuses a key that was accepted, or the other way round.
    pub(super) fn turn_key(&self, key: &str) {
        let accepted = self.with(|state| {
            state.has_refused = true;
            state.refused.remove(key) || !state.refused.insert(key.to_owned())
        });
        self.record.note(format_args!("key {key} is {}", if accepted { "accepted" } else { "refused" }));
    }

    pub(super) fn has_refused(&self) -> bool {
        self.with(|state| state.has_refused)
    }

    pub(super) fn drain(&self) {
        self.record.note("drain");
        self.with(|state| state.draining = true);
    }

    pub(super) fn is_draining(&self) -> bool {
        self.with(|state| state.draining)
    }

    /// The system has given up.
    pub(super) fn fail(&self) {
        self.record.note("given up");
        self.with(|state| state.failed = true);
    }

    pub(super) fn has_failed(&self) -> bool {
        self.with(|state| state.failed)
    }

    /// From now on nothing panics any more.
    pub(super) fn end(&self) {
        self.with(|state| state.over = true);
    }

    pub(super) fn look<T>(&self, nonce: u32, look: impl FnOnce(&mut Seen) -> T) -> T {
        self.with(|state| look(state.seen.entry(nonce).or_default()))
    }

    /// Exchanges under way.
    pub(super) fn open(&self) -> usize {
        self.with(|state| state.in_flight.values().sum())
    }

    /// The transport: notes the exchange, checks that it may be, and plays what is drawn for it.
    pub(super) fn send(
        self: &Arc<Self>,
        request: HttpRequest,
    ) -> impl Future<Output = Result<HttpResponse, TransportError>> + use<> {
        let body = String::from_utf8_lossy(&request.body).into_owned();
        let nonce = super::nonces(&body).next().expect("every caller says its nonce").0;
        let bearer = request.headers.get("authorization").and_then(|value| value.strip_prefix("Bearer "));
        let key = (request.upstream.name.to_string(), bearer.unwrap_or_default().to_owned());
        let is_stream = body.contains("\"stream\":true");
        let exchange = self.enter(nonce, is_stream, key.clone());
        let (scene, latency) = self.with(|state| {
            let weather = match state.away.contains(&key.0) {
                true => Weather::Down,
                false => state.weather.get(&key.0).copied().unwrap_or(Weather::Fine),
            };
            let scene = if state.refused.contains(&key.1) {
                Scene::Status(401, None)
            } else {
                Scene::draw(weather, is_stream, &mut state.draw)
            };
            (scene, state.draw.millis(1, 900))
        });
        let number = exchange.number;
        self.record.note(format_args!("  {} {} asked by {nonce}, exchange {number}: {scene:?}", key.0, key.1));
        scene.play(exchange, latency)
    }

    fn enter(self: &Arc<Self>, nonce: u32, is_stream: bool, key: Key) -> Exchange {
        let now = clock::now();
        let mut wrong = Vec::new();
        let after_kill = self.record.killed_within(MOMENT);
        let number = self.with(|state| {
            let caps = |(since, plan): &(Instant, BTreeMap<Key, Caps>)| (*since, plan.get(&key).copied());
            // In force now, or until a moment ago.
            let mut in_force = Vec::new();
            for (since, caps) in state.in_force.iter().map(caps) {
                in_force.extend(caps);
                if since + MOMENT < now {
                    break;
                }
            }
            let most = |cap: fn(&Caps) -> Option<u64>| in_force.iter().map(|caps| cap(caps).unwrap_or(u64::MAX)).max();
            let in_flight = state.in_flight.entry(key.clone()).or_default();
            *in_flight += 1;
            let sent = state.sent.entry(key.clone()).or_default();
            while sent.front().is_some_and(|(at, _)| *at + MINUTE <= now) {
                sent.pop_front();
            }
            sent.push_back((now, 0));
            let requests = sent.len() as u64;
            match most(|caps| caps.requests) {
                None => wrong.push(format!("{key:?} is asked, and is not configured")),
                Some(cap) if requests > cap => {
                    wrong.push(format!("{key:?} is asked {requests} times in 60 s, cap {cap}"))
                }
                Some(_) => {}
            }
            let concurrent = in_force.iter().map(|caps| caps.concurrent).max().unwrap_or_default();
            if *in_flight > concurrent && !after_kill {
                wrong.push(format!("{key:?} has {in_flight} in flight, cap {concurrent}"));
            }
            let seen = state.seen.entry(nonce).or_default();
            seen.exchanges += 1;
            seen.open += 1;
            if seen.open > 1 && !after_kill {
                wrong.push(format!("call {nonce} is asked {} times at once", seen.open));
            }
            if seen.answered.is_some() && !after_kill {
                wrong.push(format!("call {nonce} is asked again behind its answer"));
            }
            seen.exchanges
        });
        wrong.into_iter().for_each(|wrong| self.record.violate(wrong));
        Exchange { world: Arc::clone(self), key, nonce, is_stream, number, entered: now, panics_when_dropped: false }
    }
}

impl Exchange {
    pub(super) fn gives_status(&self, status: u16) {
        self.world.look(self.nonce, |seen| seen.statuses.insert(status));
    }

    pub(super) fn panics(&self) {
        self.world.look(self.nonce, |seen| seen.panicked = true);
    }

    /// The answer is out, complete, of so many pieces; it cost so many tokens.
    pub(super) fn answered(&self, pieces: u64, tokens: u64) {
        self.world.look(self.nonce, |seen| seen.answered = Some(pieces));
        let now = clock::now();
        let (used, cap) = self.world.with(|state| {
            let sent = state.sent.entry(self.key.clone()).or_default();
            if let Some((_, cost)) = sent.iter_mut().find(|(at, cost)| *at == self.entered && *cost == 0) {
                *cost = tokens;
            }
            let used: u64 = sent.iter().filter(|(at, _)| *at + MINUTE > now).map(|(_, tokens)| tokens).sum();
            // A lowered cap does not undo what was used: the greatest of late is the one to keep.
            let caps = state.in_force.iter().filter_map(|(_, plan)| plan.get(&self.key));
            (used, caps.map(|caps| caps.tokens.unwrap_or(u64::MAX)).max())
        });
        self.world.record.ensure(cap.is_none_or(|cap| used <= cap), || {
            format!("{:?} has used {used} tokens in 60 s, cap {cap:?}", self.key)
        });
    }

    pub(super) fn note(&self, text: &str) {
        self.world.record.note(format_args!("  {} to {}: {text}", self.key.0, self.nonce));
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let (nonce, key) = (self.nonce, &self.key);
        let over = self.world.with(|state| {
            *state.in_flight.entry(key.clone()).or_default() -= 1;
            state.seen.entry(nonce).or_default().open -= 1;
            state.over
        });
        self.note("over");
        // A panic during a panic would end the process.
        if self.panics_when_dropped && !over && !std::thread::panicking() {
            self.panics();
            panic!("a planted panic in a drop");
        }
    }
}
