//! Twenty virtual minutes of one account: calls without end, a wire, and a server that takes so many at once.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use super::super::{Concurrency, End, Mark, Room};
use crate::clock::{self, Dice, Instant};

/// What the server does with one too many.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Beyond {
    /// 429 without a time.
    Rejects,
    /// Resets the connection.
    Resets,
    /// Lets it wait.
    Queues,
}

/// What changes in mid-run.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Change {
    Capacity(usize),
    /// The median of a call's work.
    Median(f64),
    /// 503 to whatever comes, or no more.
    Overload(bool),
    /// Connections are refused, or no more.
    Down(bool),
    /// Calls that callers have, at most, in flight and waiting together.
    Demand(usize),
}

#[derive(Clone, Debug)]
pub(super) struct Scene {
    pub(super) capacity: usize,
    pub(super) beyond: Beyond,
    /// The share of calls whose connection is lost at a random moment of the work.
    pub(super) faults: f64,
    pub(super) median: f64,
    pub(super) sigma: f64,
    /// Kinds of calls: their share, and how much longer their work is.
    pub(super) kinds: &'static [(f64, f64)],
    /// Answers are streams: the first byte comes after this share of the work, and is what is measured.
    pub(super) first_byte: Option<f64>,
    /// So many a second are taken, half a minute's worth at once; the others get a 429 without a time.
    pub(super) rate: Option<f64>,
    pub(super) most: usize,
    pub(super) changes: Vec<(f64, Change)>,
    pub(super) seconds: f64,
}

impl Scene {
    pub(super) fn new(capacity: usize, beyond: Beyond) -> Self {
        Self {
            capacity,
            beyond,
            faults: 0.0,
            median: 4.0,
            sigma: 0.5,
            kinds: &[(1.0, 1.0)],
            first_byte: None,
            rate: None,
            most: 512,
            changes: Vec::new(),
            seconds: 1_200.0,
        }
    }
}

/// What a minute of the run came to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Minute {
    /// Seconds of work done for calls that were answered.
    pub(super) worked: f64,
    /// Seconds of work the server could have done.
    pub(super) could: f64,
    pub(super) answered: f64,
    pub(super) refused: f64,
    pub(super) faulted: f64,
    /// 429s that were not taken for a sign of too many.
    pub(super) disowned: f64,
    /// Seconds from send to answer, of calls sent in this minute, and what their work alone took.
    pub(super) took: f64,
    pub(super) alone: f64,
    pub(super) window: usize,
}

pub(super) fn sum(minutes: &[Minute]) -> Minute {
    minutes.iter().fold(Minute::default(), |sum, one| Minute {
        worked: sum.worked + one.worked,
        could: sum.could + one.could,
        answered: sum.answered + one.answered,
        refused: sum.refused + one.refused,
        faulted: sum.faulted + one.faulted,
        disowned: sum.disowned + one.disowned,
        took: sum.took + one.took,
        alone: sum.alone + one.alone,
        window: one.window,
    })
}

impl Minute {
    /// Work done, in percent of what could be.
    pub(super) fn used(&self) -> f64 {
        100.0 * self.worked / self.could
    }

    /// Attempts refused, in percent.
    pub(super) fn refusals(&self) -> f64 {
        100.0 * self.refused / (self.refused + self.answered + self.faulted).max(1.0)
    }

    /// How many times what an unloaded server would take.
    pub(super) fn slowness(&self) -> f64 {
        self.took / self.alone
    }
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Arrives(u64),
    Finishes(u64),
    Heard(u64),
    Back(u64),
    Wakes,
    Changes(usize),
    Minute,
}

#[derive(Debug)]
struct CallState {
    mark: Option<Mark>,
    sent: f64,
    work: f64,
    end: End,
    heard: Option<Duration>,
    is_fault: bool,
}

pub(super) struct World {
    scene: Scene,
    dice: Dice,
    start: Instant,
    now: f64,
    /// By nanosecond, then in the order in which they were planned.
    events: BTreeMap<(u64, u64), Event>,
    sequence: u64,
    pub(super) concurrency: Concurrency,
    in_flight: usize,
    calls: HashMap<u64, CallState>,
    next: u64,
    woken_at: Option<f64>,
    held_until: f64,
    /// Between two sends, once a rate was blamed.
    gap: f64,
    demand: usize,
    most: usize,
    // The server.
    capacity: usize,
    median: f64,
    busy: usize,
    /// What the rate has left, and since when.
    level: (f64, f64),
    queue: VecDeque<u64>,
    is_overloaded: bool,
    is_down: bool,
    could_since: f64,
    pub(super) minutes: Vec<Minute>,
}

impl World {
    pub(super) fn run(scene: Scene, seed: u64) -> Self {
        let start = clock::now();
        let mut world = Self {
            dice: Dice::seeded(seed),
            start,
            now: 0.0,
            events: BTreeMap::new(),
            sequence: 0,
            concurrency: Concurrency::new(scene.most, start),
            in_flight: 0,
            calls: HashMap::new(),
            next: 0,
            woken_at: None,
            held_until: 0.0,
            gap: 0.0,
            demand: usize::MAX,
            most: scene.most,
            capacity: scene.capacity,
            median: scene.median,
            busy: 0,
            level: (30.0 * scene.rate.unwrap_or(0.0), 0.0),
            queue: VecDeque::new(),
            is_overloaded: false,
            is_down: false,
            could_since: 0.0,
            minutes: vec![Minute::default()],
            scene,
        };
        for (index, (at, _)) in world.scene.changes.clone().into_iter().enumerate() {
            world.at(at, Event::Changes(index));
        }
        world.at(60.0, Event::Minute);
        world.pump();
        while let Some(((nanos, _), event)) = world.events.pop_first() {
            world.now = nanos as f64 / 1e9;
            if world.now >= world.scene.seconds {
                break;
            }
            world.happens(event);
        }
        world.now = world.scene.seconds;
        world.count_could();
        world.note_window();
        world
    }

    fn at(&mut self, at: f64, event: Event) {
        self.sequence += 1;
        self.events.insert(((at.max(self.now) * 1e9).ceil() as u64, self.sequence), event);
    }

    fn instant(&self) -> Instant {
        self.start + Duration::from_secs_f64(self.now)
    }

    fn wire(&mut self) -> f64 {
        0.02 - 0.015 * (1.0 - self.dice.fraction()).ln()
    }

    fn normal(&mut self) -> f64 {
        let (a, b) = (1.0 - self.dice.fraction(), self.dice.fraction());
        (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()
    }

    fn minute(&mut self) -> &mut Minute {
        self.minutes.last_mut().expect("the first is there from the start")
    }

    fn count_could(&mut self) {
        let idle = self.is_overloaded || self.is_down;
        let could = if idle {
            0.0
        } else {
            (self.now - self.could_since) * self.capacity.min(self.demand).min(self.most) as f64
        };
        self.could_since = self.now;
        self.minute().could += could;
    }

    fn note_window(&mut self) {
        let window = self.concurrency.window();
        self.minute().window = window;
    }

    fn pump(&mut self) {
        while self.in_flight < self.demand && self.now >= self.held_until {
            let now = self.instant();
            match self.concurrency.ready(now, self.in_flight) {
                Room::Go => {
                    self.send();
                    if self.gap > 0.0 {
                        self.held_until = self.now + self.gap;
                        self.at(self.held_until, Event::Wakes);
                    }
                }
                Room::At(at) => {
                    assert!(at > now, "what is due now may go now");
                    let at = (at - self.start).as_secs_f64() + 1e-9;
                    if self.woken_at.is_none_or(|woken| woken > at || woken < self.now) {
                        self.woken_at = Some(at);
                        self.at(at, Event::Wakes);
                    }
                    return;
                }
                Room::WhenOneEnds => {
                    assert!(self.in_flight > 0, "stuck: nothing is in flight and nothing may go");
                    return;
                }
            }
        }
    }

    fn send(&mut self) {
        let mut roll = self.dice.fraction();
        let kinds = self.scene.kinds;
        let index = kinds.iter().position(|(share, _)| {
            roll -= share;
            roll < 0.0
        });
        let kind = index.unwrap_or(0);
        let work = self.median * kinds[kind].1 * (self.scene.sigma * self.normal()).exp();
        let is_fault = self.dice.fraction() < self.scene.faults;
        let work = if is_fault { work * self.dice.fraction() } else { work.min(60.0 * kinds[kind].1) };
        self.in_flight += 1;
        let mark = Some(self.concurrency.started(self.instant(), self.in_flight, kind as u32));
        let (id, sent) = (self.next, self.now);
        self.next += 1;
        let end = End::Answered { took: None };
        self.calls.insert(id, CallState { mark, sent, work, end, heard: None, is_fault });
        let at = self.now + self.wire();
        self.at(at, Event::Arrives(id));
    }

    /// The server answers.
    fn back(&mut self, id: u64, end: End, after: f64) {
        self.calls.get_mut(&id).expect("it is in flight").end = end;
        let at = self.now + after + self.wire();
        self.at(at, Event::Back(id));
    }

    fn is_over_rate(&mut self) -> bool {
        let Some(rate) = self.scene.rate else { return false };
        let level = (self.level.0 + rate * (self.now - self.level.1)).min(30.0 * rate);
        let is_over = level < 1.0;
        self.level = (if is_over { level } else { level - 1.0 }, self.now);
        is_over
    }

    fn work_on(&mut self, id: u64) {
        self.busy += 1;
        let call = &self.calls[&id];
        let (until, is_fault) = (self.now + call.work, call.is_fault);
        if let (Some(share), false) = (self.scene.first_byte, is_fault) {
            let at = self.now + share * (until - self.now) + self.wire();
            self.at(at.min(until), Event::Heard(id));
        }
        self.at(until, Event::Finishes(id));
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Arrives(id) => {
                if self.is_down || self.is_overloaded {
                    let end = if self.is_down { End::Lost } else { End::Overloaded };
                    // A caller does not come back at once: the dispatcher holds and backs off.
                    self.back(id, end, 0.2);
                } else if self.is_over_rate() {
                    self.minute().refused += 1.0;
                    self.back(id, End::Rejected { rate_is_suspect: false }, 0.03);
                } else if self.busy < self.capacity {
                    self.work_on(id);
                } else {
                    match self.scene.beyond {
                        Beyond::Queues => self.queue.push_back(id),
                        Beyond::Rejects => {
                            self.minute().refused += 1.0;
                            self.back(id, End::Rejected { rate_is_suspect: false }, 0.03);
                        }
                        Beyond::Resets => {
                            self.minute().refused += 1.0;
                            self.back(id, End::Lost, 0.03);
                        }
                    }
                }
            }
            Event::Finishes(id) => {
                self.busy -= 1;
                let call = &self.calls[&id];
                let (work, is_fault) = (call.work, call.is_fault);
                if is_fault {
                    self.minute().faulted += 1.0;
                    self.back(id, End::Lost, 0.0);
                } else {
                    self.minute().worked += work;
                    self.back(id, End::Answered { took: None }, 0.0);
                }
                self.serve_queue();
            }
            Event::Heard(id) => {
                let now = self.instant();
                let Some(call) = self.calls.get_mut(&id) else { return };
                let took = Duration::from_secs_f64(self.now - call.sent);
                call.heard = Some(took);
                if let Some(mark) = &mut call.mark {
                    self.concurrency.heard(mark, Some(took), now);
                }
                self.pump();
            }
            Event::Back(id) => {
                let mut call = self.calls.remove(&id).expect("it is in flight");
                self.in_flight -= 1;
                let took = self.now - call.sent;
                if let End::Answered { .. } = call.end {
                    call.end = End::Answered { took: Some(Duration::from_secs_f64(took)) };
                    let sent = (call.sent / 60.0) as usize;
                    let minute = &mut self.minutes[sent];
                    minute.took += took;
                    minute.alone += call.work;
                    self.minute().answered += 1.0;
                }
                let mark = call.mark.take().expect("an attempt ends once");
                let (now, in_flight) = (self.instant(), self.in_flight);
                let is_sign = self.concurrency.ended(mark, call.end, now, in_flight);
                if !is_sign && matches!(call.end, End::Rejected { .. }) {
                    self.minute().disowned += 1.0;
                    // The rate's part takes it up: a pause, and a little less than what the server took lately.
                    let lately = self.minutes.iter().rev().take(2).map(|minute| minute.answered).sum::<f64>();
                    let seconds = (self.now % 60.0) + if self.minutes.len() > 1 { 60.0 } else { 0.0 };
                    self.gap = seconds / lately.max(1.0) / 0.95;
                    self.held_until = self.now + 1.0;
                    self.at(self.held_until, Event::Wakes);
                }
                self.pump();
            }
            Event::Wakes => {
                if self.woken_at.is_some_and(|at| at <= self.now) {
                    self.woken_at = None;
                }
                self.pump();
            }
            Event::Changes(index) => {
                self.count_could();
                match self.scene.changes[index].1 {
                    Change::Capacity(capacity) => self.capacity = capacity,
                    Change::Median(median) => self.median = median,
                    Change::Overload(is_on) => self.is_overloaded = is_on,
                    Change::Down(is_on) => self.is_down = is_on,
                    Change::Demand(demand) => self.demand = demand,
                }
                self.serve_queue();
                self.pump();
            }
            Event::Minute => {
                self.count_could();
                self.note_window();
                self.minutes.push(Minute::default());
                let next = self.now + 60.0;
                self.at(next, Event::Minute);
            }
        }
        assert!((1..=512).contains(&self.concurrency.window()));
    }

    fn serve_queue(&mut self) {
        while self.busy < self.capacity
            && let Some(next) = self.queue.pop_front()
        {
            self.work_on(next);
        }
    }
}
