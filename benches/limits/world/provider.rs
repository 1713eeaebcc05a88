//! The provider: wire, admission at arrival, service, answer; and the log of all that arrived.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use forebay::clock::{self, Dice, Instant};
use forebay::simulator::limits::{Headers, Meter, Refusal, Scarce, Workers};
use forebay::transport::{BodyStream, HttpResponse, Scripted, TransportError};
use forebay::{FailureKind, Sent};
use futures_util::StreamExt as _;
use futures_util::stream;
use http::header::{HeaderName, HeaderValue};
use tokio::sync::oneshot;

use super::chance::{dice, exponential};
use super::scenario::{Full, Scenario, Service};
use super::work::Ask;

/// The wire, each way: at least so long, and so much longer on average.
const WIRE_SECONDS: f64 = 0.020;
const JITTER_SECONDS: f64 = 0.015;

/// How soon a call too many is reset.
const RESET_AFTER: Duration = Duration::from_millis(50);

/// One call, from its caller's hand to its end.
#[derive(Clone, Debug)]
pub struct Job {
    /// Whose it is.
    pub process: usize,
    /// Whether somebody waits for it, or it is of the backlog.
    pub is_urgent: bool,
    /// What it asks for.
    pub ask: Ask,
    /// When its caller handed it over.
    pub submitted: Duration,
    /// When the attempt that was accepted was sent.
    pub sent: Option<Duration>,
    /// When and how it ended for its caller.
    pub ended: Option<(Duration, Result<(), String>)>,
}

/// What became of an attempt.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Fate {
    /// Taken and answered.
    Accepted,
    /// Over a limit.
    Limited,
    /// No slot was free.
    Full,
    /// Taken, and broken on the way.
    Broken,
    /// Taken, and refused for no reason.
    Accident,
}

impl Fate {
    /// Whether it counts against the limits.
    pub fn is_let_in(self) -> bool {
        !matches!(self, Fate::Limited | Fate::Full)
    }
}

/// One attempt as the provider saw it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Arrival {
    /// When it came.
    pub at: Duration,
    /// Which job it was for.
    pub job: usize,
    /// What became of it.
    pub fate: Fate,
    /// How long it waited for a slot.
    pub queued: Duration,
    /// How long it held one.
    pub held: Duration,
}

/// A provider that all processes of a run share.
pub struct Provider {
    start: Instant,
    scenario: Scenario,
    state: Mutex<State>,
}

struct State {
    meter: Meter,
    /// Where calls stand in line for a slot.
    workers: Option<Workers<oneshot::Sender<()>>>,
    wire: Dice,
    faults: Dice,
    jobs: Vec<Job>,
    log: Vec<Arrival>,
}

/// What an attempt meets at the door.
enum Door {
    /// It is served, if nothing goes wrong.
    Open(Option<Mishap>),
    /// It is served when this says so.
    Line(oneshot::Receiver<()>),
    /// Not now.
    Shut(Refusal),
}

/// What goes wrong though there is room.
enum Mishap {
    /// The connection breaks behind this share of the service.
    Breaks(f64),
    /// It is refused all the same.
    Refused,
}

/// A place taken; free again when dropped, even if the caller hangs up.
struct Place(Arc<Provider>);

impl Drop for Place {
    fn drop(&mut self) {
        let state = &mut *self.0.state();
        state.meter.leave();
        // Whoever has hung up in line is passed over.
        while let Some(next) = state.workers.as_mut().and_then(Workers::leave) {
            if next.send(()).is_ok() {
                break;
            }
        }
    }
}

/// Decides where fixed windows begin.
pub fn windows(seed: u64) -> u64 {
    dice(seed, 1).number()
}

impl Provider {
    /// The provider of `scenario`.
    pub fn new(scenario: &Scenario, seed: u64) -> Arc<Self> {
        let (start, truth) = (clock::now(), &scenario.provider);
        let state = State {
            meter: Meter::new(&truth.limits, windows(seed), start),
            workers: truth.limits.workers.map(Workers::new),
            wire: dice(seed, 2),
            faults: dice(seed, 3),
            jobs: Vec::new(),
            log: Vec::new(),
        };
        Arc::new(Self { start, scenario: scenario.clone(), state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }

    /// The time since the run began.
    pub fn now(&self) -> Duration {
        clock::now() - self.start
    }

    /// A caller hands over a job.
    pub fn submit(&self, process: usize, is_urgent: bool, ask: Ask) -> usize {
        let submitted = self.now();
        let jobs = &mut self.state().jobs;
        jobs.push(Job { process, is_urgent, ask, submitted, sent: None, ended: None });
        jobs.len() - 1
    }

    /// What a job asks for.
    pub fn ask(&self, job: usize) -> Ask {
        self.state().jobs[job].ask.clone()
    }

    /// Whether somebody waits for it.
    pub fn is_urgent(&self, job: usize) -> bool {
        self.state().jobs[job].is_urgent
    }

    /// A job has ended for its caller.
    pub fn ended(&self, job: usize, end: Result<(), String>) {
        let now = self.now();
        self.state().jobs[job].ended = Some((now, end));
    }

    /// The limits are this multiple of the original ones from now on.
    pub fn scale(&self, factor: f64) {
        let limits = self.scenario.provider.limits.scaled(factor);
        self.state().meter.set(&limits, clock::now());
    }

    /// All jobs and all arrivals; what comes later is not seen any more.
    pub fn close(&self) -> (Vec<Job>, Vec<Arrival>) {
        let mut state = self.state();
        (std::mem::take(&mut state.jobs), std::mem::take(&mut state.log))
    }

    async fn wire(&self) {
        let seconds = WIRE_SECONDS + exponential(&mut self.state().wire, JITTER_SECONDS);
        pass(clock::now(), seconds).await;
    }

    /// One attempt, from the moment it leaves its client.
    pub async fn exchange(self: Arc<Self>, job: usize) -> Result<HttpResponse, TransportError> {
        let sent = self.now();
        self.wire().await;
        let (door, headers, entry) = self.arrive(job, sent);
        let mishap = match door {
            Door::Shut(refusal) if refusal.scarce == Scarce::Concurrency && self.resets() => {
                clock::until(clock::now() + RESET_AFTER).await;
                return Err(reset());
            }
            Door::Shut(refusal) => {
                self.wire().await;
                return Ok(self.refusal(&refusal, headers));
            }
            Door::Line(turn) => {
                turn.await.map_err(|_| reset())?;
                None
            }
            Door::Open(mishap) => mishap,
        };
        let (place, began, ask) = (Place(Arc::clone(&self)), clock::now(), self.begins(entry));
        match mishap {
            Some(Mishap::Breaks(share)) => {
                pass(began, ask.service * share).await;
                return Err(reset());
            }
            Some(Mishap::Refused) => {
                self.wire().await;
                let response = with_headers(refused(), headers);
                return Ok(with_headers(response, vec![("retry-after", "1".to_owned())]));
            }
            None => {}
        }
        if let Some(first) = ask.first {
            pass(began, first.min(ask.service)).await;
            self.wire().await;
            return Ok(with_headers(events(ask, began, place), headers));
        }
        pass(began, ask.service).await;
        drop(place);
        self.wire().await;
        Ok(with_headers(Scripted::json(200, whole(&ask)), headers))
    }

    fn resets(&self) -> bool {
        matches!(self.scenario.provider.service, Service::Slots { full: Full::Reset, .. })
    }

    /// An attempt is at the door. Says what it meets, what answers say of the limits, and where it stands in the log.
    fn arrive(&self, job: usize, sent: Duration) -> (Door, Headers, usize) {
        let (now, at) = (clock::now(), self.now());
        let state = &mut *self.state();
        let tokens = state.jobs[job].ask.charge(self.scenario.provider.limits.charge);
        let (fate, door) = match state.meter.enter(tokens, now) {
            Err(refusal) if refusal.scarce == Scarce::Concurrency => (Fate::Full, Door::Shut(refusal)),
            Err(refusal) => (Fate::Limited, Door::Shut(refusal)),
            Ok(()) => {
                let (faults, chance) = (self.scenario.provider.faults, state.faults.fraction());
                let mishap = match chance {
                    _ if chance < faults.broken => Some(Mishap::Breaks(state.faults.fraction())),
                    _ if chance < faults.broken + faults.refused => Some(Mishap::Refused),
                    _ => None,
                };
                let (told, turn) = oneshot::channel();
                let stands_in_line = state.workers.as_mut().is_some_and(|workers| workers.enter(told).is_none());
                let fate = match mishap {
                    Some(Mishap::Breaks(_)) => Fate::Broken,
                    Some(Mishap::Refused) => Fate::Accident,
                    None => Fate::Accepted,
                };
                (fate, if stands_in_line { Door::Line(turn) } else { Door::Open(mishap) })
            }
        };
        if fate == Fate::Accepted {
            state.jobs[job].sent = Some(sent);
        }
        let held = match &door {
            Door::Open(Some(Mishap::Breaks(share))) => state.jobs[job].ask.service * share,
            Door::Open(None) | Door::Line(_) => state.jobs[job].ask.service,
            Door::Open(Some(Mishap::Refused)) | Door::Shut(_) => 0.0,
        };
        let held = Duration::from_secs_f64(held);
        state.log.push(Arrival { at, job, fate, queued: Duration::ZERO, held });
        (door, state.meter.headers(now), state.log.len() - 1)
    }

    /// An attempt that was let in has its slot.
    fn begins(&self, entry: usize) -> Ask {
        let now = self.now();
        let state = &mut *self.state();
        let arrival = &mut state.log[entry];
        arrival.queued = now - arrival.at;
        state.jobs[arrival.job].ask.clone()
    }

    fn refusal(&self, refusal: &Refusal, headers: Headers) -> HttpResponse {
        let limits = &self.scenario.provider.limits;
        // Who says nothing in headers says nothing in words either.
        let body = if self.scenario.provider.tells() {
            Scripted::json(429, refusal.body(limits, "m").to_string())
        } else {
            refused()
        };
        with_headers(with_headers(body, headers), refusal.headers(limits))
    }
}

/// A refusal that says nothing.
fn refused() -> HttpResponse {
    let error = r#"{"error":{"message":"Too many requests.","type":"rate_limit_error","code":"rate_limit_exceeded"}}"#;
    Scripted::json(429, error.to_owned())
}

/// Waits until so many seconds behind `began`.
async fn pass(began: Instant, seconds: f64) {
    clock::until(began + Duration::from_secs_f64(seconds)).await;
}

fn reset() -> TransportError {
    TransportError::new(FailureKind::Cut, Sent::Maybe, "connection reset by the scenario")
}

fn with_headers(mut response: HttpResponse, headers: Headers) -> HttpResponse {
    for (name, value) in headers {
        let value = HeaderValue::try_from(value).expect("a header value");
        response.headers.push(HeaderName::from_static(name), value);
    }
    response
}

fn whole(ask: &Ask) -> String {
    let choices = r#"[{"index":0,"message":{"role":"assistant","content":"ok"},"finish_reason":"stop"}]"#;
    let usage = ask.usage();
    format!(r#"{{"id":"chatcmpl-1","object":"chat.completion","model":"m","choices":{choices},"usage":{usage}}}"#)
}

/// A stream whose first content is there now and whose rest comes when its service is over.
fn events(ask: Ask, began: Instant, place: Place) -> HttpResponse {
    const HEAD: &str = r#"data: {"id":"chatcmpl-1","object":"chat.completion.chunk","model":"m","choices":"#;
    let first = format!("{HEAD}[{{\"index\":0,\"delta\":{{\"content\":\"ok\"}}}}]}}\n\n");
    let stop = format!("{HEAD}[{{\"index\":0,\"delta\":{{}},\"finish_reason\":\"stop\"}}]}}\n\n");
    let rest = format!("{stop}{HEAD}[],\"usage\":{}}}\n\ndata: [DONE]\n\n", ask.usage());
    let last = stream::once(async move {
        pass(began, ask.service).await;
        drop(place);
        Ok(Bytes::from(rest))
    });
    let mut response = Scripted::events(Vec::new());
    let body: BodyStream = Box::pin(stream::iter([Ok(Bytes::from(first))]).chain(last));
    response.body = body;
    response
}
