//! The switchboard on its own in made-up time: no actors, no sockets. Time goes from event to event: the next arrival,
//! the next end of an attempt, what the switchboard itself has due. What it forgets to wake for never happens.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::clock::{self, Dice, Instant};
use crate::config::Config;
use crate::dispatcher::switchboard::{Order, Switchboard};
use crate::dispatcher::{Admission, Legacy, Submit, check};
use crate::messages::{
    AskMemories, AttemptEnd, AttemptId, Attempted, CallId, Endpoint, Error, Failure, FailureKind, Headers, LimitReport,
    Outcome, Priority, Recollection, Request, SeatId, Sent, SlotId,
};

/// How an attempt ends, and after how long.
pub(in crate::dispatcher) type Script = Box<dyn FnMut(u32, &Request) -> (Duration, Result<(), Failure>)>;

type UnderWay = (SlotId, AttemptId, Result<(), Failure>);

pub(in crate::dispatcher) struct Stage {
    pub(in crate::dispatcher) board: Switchboard,
    pub(in crate::dispatcher) now: Instant,
    start: Instant,
    admission: Arc<Admission>,
    script: Script,
    /// Attempts under way, by their end; those of one instant in order of start.
    under_way: BTreeMap<(Instant, u64), UnderWay>,
    started: u64,
    slots: u32,
    /// A call's number, in order of submission.
    numbers: BTreeMap<CallId, u32>,
    waiting: BTreeMap<u32, oneshot::Receiver<Outcome>>,
    /// What happened, by time.
    pub(in crate::dispatcher) log: Vec<String>,
    /// Calls in the order of their starts, each with its account.
    pub(in crate::dispatcher) starts: Vec<(u32, String)>,
    pub(in crate::dispatcher) ended: BTreeMap<u32, (Instant, Result<(), Error>)>,
    problems: Rc<RefCell<Vec<String>>>,
}

/// So many slots there are at most, whatever is asked for.
const MOST_SLOTS: u32 = 200;

/// With more calls than this a look at everything behind every message takes too long.
const MOST_CHECKED: usize = 400;

impl Stage {
    pub(in crate::dispatcher) fn new(upstream: &str, seed: u64, script: Script) -> Self {
        let text = format!(
            "[queue]\ncapacity = 100000\nmax_bytes = \"1GiB\"\ndefault_timeout = \"24h\"\n\
             [upstreams.up]\nbase_url = \"http://u.test\"\nmodels = [\"*\"]\n{upstream}"
        );
        let config = Config::from_toml(&text).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
        Self::with(Arc::new(config), seed, &Legacy::default(), clock::now(), script)
    }

    /// Another process, `after` this one was killed: all it knows is what was kept a moment before.
    pub(in crate::dispatcher) fn killed(mut self, after: Duration) -> Self {
        let ask = AskMemories { most: usize::MAX, every: Duration::ZERO };
        let memories = self.board.memories(ask, self.now).into_iter();
        let recollections = memories.map(|memory| Recollection { memory, ago: after }).collect();
        let script = std::mem::replace(&mut self.script, Box::new(|_, _| unreachable!("it is killed")));
        let (config, now) = (Arc::clone(&self.board.config), self.now + after);
        drop(self);
        Self::with(config, 1, &Legacy::of_earlier(recollections), now, script)
    }

    fn with(config: Arc<Config>, seed: u64, legacy: &Legacy, now: Instant, script: Script) -> Self {
        let problems: Rc<RefCell<Vec<String>>> = Rc::default();
        let told = Rc::clone(&problems);
        check::watch(move |what| told.borrow_mut().push(what));
        Self {
            admission: Admission::new(&config),
            board: Switchboard::new(config, Dice::seeded(seed), legacy, now),
            now,
            start: now,
            script,
            under_way: BTreeMap::new(),
            started: 0,
            slots: 0,
            numbers: BTreeMap::new(),
            waiting: BTreeMap::new(),
            log: Vec::new(),
            starts: Vec::new(),
            ended: BTreeMap::new(),
            problems,
        }
    }

    /// A call comes in that may need so many tokens of an answer; gives its number.
    pub(in crate::dispatcher) fn call(&mut self, model: &str, tokens: u64, priority: Priority) -> u32 {
        let body = format!(r#"{{"model":"{model}","max_tokens":{tokens},"messages":[]}}"#);
        let request = Request::new(Endpoint::ChatCompletions, body).expect("a good body").with_priority(priority);
        let (id, number) = (CallId::new(), self.numbers.len() as u32);
        let (reply, outcome) = oneshot::channel();
        self.numbers.insert(id, number);
        self.waiting.insert(number, outcome);
        let admitted = self.admission.admit(1).expect("there is room");
        self.note(format_args!("call {number}: {tokens} of {model}, {priority:?}"));
        self.board.run_due(self.now);
        self.board
            .accept(Submit { id, request: Arc::new(request), admitted, seat: None, durable: None, reply }, self.now);
        self.settle();
        number
    }

    fn note(&mut self, what: std::fmt::Arguments<'_>) {
        self.log.push(format!("{:?} {what}", self.now - self.start));
    }

    /// Carries out what the switchboard says until it says no more, and checks what must hold.
    fn settle(&mut self) {
        loop {
            let orders = self.board.take_orders(self.now);
            if orders.is_empty() {
                break;
            }
            for order in orders {
                match order {
                    Order::Run(run) => {
                        let number = self.numbers[&run.id.call];
                        let (took, end) = (self.script)(number, &run.request);
                        self.started += 1;
                        self.under_way.insert((self.now + took, self.started), (run.slot, run.id, end));
                        self.note(format_args!("run {number} at {}", run.account.id));
                        self.starts.push((number, run.account.id.to_string()));
                    }
                    Order::Abort(_) => {}
                    Order::NeedSlots(need) => {
                        while (self.slots as usize) < need.total && self.slots < MOST_SLOTS {
                            self.board.slot_up(SlotId { index: self.slots, generation: 0 }, SeatId(0), self.now);
                            self.slots += 1;
                        }
                    }
                }
            }
        }
        // Who is in the ledger has no outcome yet; thousands of callers are not asked for each message.
        let outcomes =
            self.waiting.iter_mut().filter(|_| self.board.ledger.len() < self.numbers.len() - self.ended.len());
        let ended: Vec<(u32, Outcome)> =
            outcomes.filter_map(|(number, reply)| Some((*number, reply.try_recv().ok()?))).collect();
        for (number, outcome) in ended {
            self.waiting.remove(&number);
            let outcome = outcome.map(drop);
            self.note(format_args!("end {number}: {:?}", outcome.as_ref().map_err(Error::code)));
            self.ended.insert(number, (self.now, outcome));
        }
        if self.waiting.len() > MOST_CHECKED {
            return;
        }
        let armed = self.board.next_due();
        check::observe(&mut self.board, self.now, armed);
        let problems = self.problems.take();
        assert!(problems.is_empty(), "{problems:#?}\n{}", self.tail());
    }

    pub(in crate::dispatcher) fn tail(&self) -> String {
        self.log[self.log.len().saturating_sub(60)..].join("\n")
    }

    /// When something happens next of itself.
    pub(in crate::dispatcher) fn next(&self) -> Option<Instant> {
        let end = self.under_way.first_key_value().map(|((at, _), _)| *at);
        end.into_iter().chain(self.board.next_due()).min()
    }

    /// Lets everything happen until `until`, and stands there.
    pub(in crate::dispatcher) fn run_until(&mut self, until: Instant) {
        while let Some(next) = self.next().filter(|next| *next <= until) {
            self.now = self.now.max(next);
            self.board.run_due(self.now);
            if let Some(first) = self.under_way.first_entry().filter(|first| first.key().0 <= self.now) {
                let (slot, id, end) = first.remove();
                self.board
                    .attempted(Attempted { slot, id, end: end.map_or_else(AttemptEnd::Failed, answered) }, self.now);
            }
            self.settle();
        }
        self.now = self.now.max(until);
    }

    /// Lets everything happen until every call has had its end.
    pub(in crate::dispatcher) fn run_out(&mut self) {
        while !self.waiting.is_empty() {
            let next =
                self.next().unwrap_or_else(|| panic!("{:?} wait for nothing\n{}", self.waiting.keys(), self.tail()));
            self.run_until(next);
        }
    }

    pub(in crate::dispatcher) fn waiting(&self) -> usize {
        self.board.lanes[0].line.len()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        check::unwatch();
    }
}

fn answered((): ()) -> AttemptEnd {
    let (headers, limits) = (Headers::new(), LimitReport::default());
    AttemptEnd::Answered { status: 200, headers, body: Bytes::new(), usage: None, limits }
}

/// The upstream says: come again after `after`.
pub(in crate::dispatcher) fn too_many(after: Duration) -> Failure {
    let mut failure = Failure::new(FailureKind::RateLimited, Sent::Maybe, "too many", "");
    failure.answer = Some((429, Headers::new(), Bytes::new()));
    failure.hint.after = Some(after);
    failure
}

/// The upstream is ill.
pub(in crate::dispatcher) fn cut() -> Failure {
    Failure::new(FailureKind::Cut, Sent::Maybe, "cut", "")
}

/// The upstream refuses the key.
pub(in crate::dispatcher) fn refused() -> Failure {
    let mut failure = Failure::new(FailureKind::KeyRefused, Sent::Maybe, "refused", "");
    failure.answer = Some((401, Headers::new(), Bytes::new()));
    failure
}
