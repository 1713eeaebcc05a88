//! How many decisions a second there are on whose turn it is, and at which account, with 1, 100 and 10,000 calls that wait
//! and 1, 10 and 100 accounts. What goes with a decision is counted too. Where no account can take a call, that is a call
//! that comes and goes: two messages, and a look at the line for each. Where they are open, it is a whole call.
//!
//! The time of each is given as a ratio to that with one call and one account. It may grow like the logarithm of either.

use std::cell::Cell;
use std::future::ready;
use std::rc::Rc;
use std::time::{Duration, Instant};

use forebay::transport::{HttpRequest, HttpResponse, MemoryTransport, Scripted, TransportError};
use forebay::{Config, Endpoint, Forebay, Request};
use tokio::task::{JoinHandle, spawn_local};

use crate::figure::Figures;
use crate::systems::{ANSWER, on_one_thread, until};

const WAITING: [usize; 3] = [1, 100, 10_000];
const ACCOUNTS: [usize; 3] = [1, 10, 100];

/// Attempts under way at a time, all accounts together.
const IN_FLIGHT: usize = 100;

/// A step of ten in accounts and of a hundred in waiting calls may cost a fifth each; a scan would cost tenfold.
const LOGARITHMIC: f64 = 2.0;

/// What keeps the calls waiting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wait {
    /// Every account has its calls in flight, and none is ever answered.
    Busy,
    /// Every account is held for an hour by a Retry-After.
    Held,
    /// Every account has used up its minute's tokens; calls are of all sizes.
    UsedUp,
    /// Nothing but the calls before them: all are answered at once.
    Turn,
}

pub(crate) fn run(figures: &mut Figures) {
    let kinds =
        [(Wait::Busy, "all busy"), (Wait::Held, "all held"), (Wait::UsedUp, "all used up"), (Wait::Turn, "all open")];
    for (wait, label) in kinds {
        let cells: Vec<(usize, usize)> =
            WAITING.iter().flat_map(|waiting| ACCOUNTS.iter().map(|accounts| (*waiting, *accounts))).collect();
        let mut took: Vec<Vec<f64>> = vec![Vec::new(); cells.len()];
        on_one_thread(async {
            let count = if figures.plan.is_quick { 1_000 } else { 4_000 };
            for round in 0..figures.plan.rounds() {
                for turn in 0..cells.len() {
                    let which = (turn + round) % cells.len();
                    let (waiting, accounts) = cells[which];
                    // One at a time: a crowd whose calls have their turns never rests.
                    let crowd = Crowd::start(wait, waiting, accounts).await;
                    took[which].push(crowd.measure(count).await);
                    crowd.stop().await;
                }
            }
        });
        let first = took[0].clone();
        for ((waiting, accounts), took) in cells.into_iter().zip(took) {
            let ratios: Vec<f64> = took.iter().zip(&first).map(|(took, first)| took / first).collect();
            let per_second = took.iter().map(|micros| wait.decisions() * 1e6 / micros).collect();
            figures.show(&format!("{label}; {waiting} wait, {accounts} accounts"), per_second, "/s");
            if (waiting, accounts) != (1, 1) {
                figures.compare("  to one call and one account", ratios, LOGARITHMIC);
            }
        }
    }
}

impl Wait {
    /// Looks at the line that one measured step takes: when a call comes and when it goes.
    fn decisions(self) -> f64 {
        if self == Wait::Turn { 1.0 } else { 2.0 }
    }

    fn limits(self, accounts: usize) -> String {
        match self {
            Wait::Busy => "max_concurrent = 1".into(),
            Wait::Held => String::new(),
            Wait::UsedUp => "tokens_per_minute = 1000000, max_concurrent = 100".into(),
            Wait::Turn => format!("max_concurrent = {}", IN_FLIGHT / accounts),
        }
    }
}

/// A system in which so many calls wait.
struct Crowd {
    wait: Wait,
    forebay: Forebay,
    waiting: Vec<JoinHandle<()>>,
    answered: Rc<Cell<usize>>,
}

impl Crowd {
    async fn start(wait: Wait, waiting: usize, accounts: usize) -> Self {
        let keys: Vec<String> = (0..accounts).map(|key| format!("sk-bench-{key:09}")).collect();
        let text = format!(
            "[pool]\nthreads = 0\n[queue]\ncapacity = 200000\ndefault_timeout = \"24h\"\n\
             [upstreams.up]\nbase_url = \"http://up.test/v1\"\nmodels = [\"*\"]\nanswer_timeout = \"24h\"\n\
             api_keys = {keys:?}\nlimits = {{ {} }}\n",
            wait.limits(accounts)
        );
        let config = Config::from_toml(&text).unwrap_or_else(|problems| panic!("{problems}"));
        let transport = move || MemoryTransport::new(move |request| meet(wait, request));
        let forebay = Forebay::builder(config).transport(transport).start().await.expect("the system starts");
        let mut crowd = Self { wait, forebay, waiting: Vec::new(), answered: Rc::default() };
        crowd.fill(waiting, accounts).await;
        crowd
    }

    /// Has every account taken, and so many calls wait.
    async fn fill(&mut self, waiting: usize, accounts: usize) {
        let forebay = self.forebay.clone();
        match self.wait {
            Wait::Held => {
                for _ in 0..accounts {
                    let call = self.spawn(chat(100));
                    until(&forebay, |health| (health.waiting, health.in_flight) == (1, 0)).await;
                    call.abort();
                    until(&forebay, |health| health.waiting == 0).await;
                }
            }
            Wait::Busy | Wait::UsedUp => {
                for n in 1..=accounts {
                    let call = self.spawn(chat(990_000));
                    self.waiting.push(call);
                    until(&forebay, |health| health.in_flight == n).await;
                }
            }
            Wait::Turn => {
                for _ in 0..waiting + IN_FLIGHT {
                    let call = self.spawn_again_and_again();
                    self.waiting.push(call);
                }
                return;
            }
        }
        for n in 0..waiting {
            let call = self.spawn(chat(size(n)));
            self.waiting.push(call);
        }
        until(&forebay, |health| health.waiting == waiting).await;
    }

    fn spawn(&self, request: Request) -> JoinHandle<()> {
        let forebay = self.forebay.clone();
        spawn_local(async move { drop(forebay.call(request).await) })
    }

    /// Calls again whenever it is answered.
    fn spawn_again_and_again(&self) -> JoinHandle<()> {
        let (forebay, answered, request) = (self.forebay.clone(), Rc::clone(&self.answered), chat(100));
        spawn_local(async move {
            loop {
                // The last of them end with their system.
                if forebay.call(request.clone()).await.is_err() {
                    break;
                }
                answered.set(answered.get() + 1);
            }
        })
    }

    async fn stop(self) {
        self.waiting.iter().for_each(JoinHandle::abort);
        self.forebay.shutdown(Duration::ZERO).await;
    }

    /// µs for each of `count` steps.
    async fn measure(&self, count: usize) -> f64 {
        let requests: Vec<Request> = (0..16).map(|n| chat(size(n))).collect();
        if self.wait == Wait::Turn {
            // Until every one of them has come in, and every slot is there.
            while self.answered.get() < self.waiting.len() {
                tokio::task::yield_now().await;
            }
        }
        let (start, before) = (Instant::now(), self.answered.get());
        if self.wait == Wait::Turn {
            while self.answered.get() < before + count {
                tokio::task::yield_now().await;
            }
            return start.elapsed().as_secs_f64() * 1e6 / (self.answered.get() - before) as f64;
        }
        for n in 1..=count {
            let mut call = Box::pin(self.forebay.call(requests[n % requests.len()].clone()));
            tokio::select! {
                biased;
                end = &mut call => panic!("it had to wait: {end:?}"),
                () = ready(()) => {}
            }
            drop(call);
            // Now and then the dispatcher has its turn: it deals with one after the other, and answers behind the last.
            if n % 50 == 0 {
                self.forebay.health().await.expect("the dispatcher answers");
            }
        }
        start.elapsed().as_secs_f64() * 1e6 / count as f64
    }
}

async fn meet(wait: Wait, _: HttpRequest) -> Result<HttpResponse, TransportError> {
    match wait {
        Wait::Busy | Wait::UsedUp => std::future::pending().await,
        Wait::Held => Ok(Scripted::with(Scripted::json(429, "{}"), "retry-after", "3600")),
        Wait::Turn => Ok(Scripted::json(200, ANSWER)),
    }
}

/// Answers of any size, none of them small.
fn size(n: usize) -> usize {
    200_000 + n * 7_919 % 100_000
}

fn chat(tokens: usize) -> Request {
    let body = format!(r#"{{"model":"m","max_tokens":{tokens},"messages":[{{"role":"user","content":"My turn?"}}]}}"#);
    Request::new(Endpoint::ChatCompletions, body).expect("a good body")
}
