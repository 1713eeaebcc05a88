//! The whole system under a seed, in virtual time: gateway, dispatcher and pool as they are, upstreams and callers drawn,
//! faults in every part, and after every message what must hold is checked.
//!
//! One seed is one run: `plan` draws the configuration, `callers` call, the `world` of upstreams answers by its `scenes`,
//! `chaos` befalls them all, and `record` writes down what happens. The invariants are in `dispatcher/check.rs` (the state
//! between messages), in `world` (what upstreams may see) and in `callers` (what a caller may hear).
//!
//! ```text
//! cargo test --lib simulation                               some hundred seeds
//! FOREBAY_SEEDS=10000 cargo test --lib simulation           more of them
//! FOREBAY_FIRST_SEED=4711 FOREBAY_SEEDS=1 cargo test ...    one again, exactly as it was; FOREBAY_LOG=1 shows all of it
//! ```

mod callers;
mod chaos;
mod plan;
mod record;
mod scenes;
mod world;

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::clock;
use crate::dispatcher::check;
use crate::dispatcher::planted::{self, Bug};
use crate::gateway::{Shared, app};
use crate::messages::{CallId, Cancel};
use crate::pool::transport::MemoryTransport;
use crate::system::Forebay;
use callers::Caller;
use plan::Plan;
use record::{Draw, Record, hear_panics};
use world::World;

/// What a caller says, and hears in its answer.
fn word(nonce: u32) -> String {
    format!("nonce-{nonce:06}")
}

/// Every nonce in a text, with the number of its piece where it has one.
fn nonces(text: &str) -> impl Iterator<Item = (u32, Option<u64>)> + '_ {
    text.match_indices("nonce-").filter_map(|(at, _)| {
        let rest = &text[at + 6..];
        let nonce = rest.get(..6)?.parse().ok()?;
        let piece = rest[6..].strip_prefix('/').and_then(|rest| rest.split(';').next()?.parse().ok());
        Some((nonce, piece))
    })
}

/// One run and what came of it.
struct Run {
    seed: u64,
    record: Record,
    calls: usize,
    /// Messages of the dispatcher, each checked.
    messages: u64,
    /// Times that a breaker has opened.
    opened: u64,
    /// Virtual time.
    took: Duration,
}

impl Run {
    fn of(seed: u64) -> Self {
        Self::with(seed, None)
    }

    fn with(seed: u64, bug: Option<Bug>) -> Self {
        planted::set(bug);
        let run = clock::in_virtual_time(play(seed));
        hear_panics(None);
        planted::set(None);
        run
    }

    fn assert_faultless(&self) {
        let violations = self.record.violations();
        assert!(
            violations.is_empty(),
            "seed {}: {violations:#?}\n{}\nagain: FOREBAY_FIRST_SEED={} FOREBAY_SEEDS=1 cargo test --lib simulation",
            self.seed,
            self.record.tail(),
            self.seed,
        );
    }
}

async fn play(seed: u64) -> Run {
    let mut draw = Draw::new(seed);
    let (record, start) = (Record::new(), clock::now());
    let told = record.clone();
    check::watch(move |what| told.violate(what));
    hear_panics(Some(record.clone()));
    let plan = Plan::draw(&mut draw);
    record.note(format_args!("seed {seed}: {plan:?}"));
    let world = World::new(draw.branch(), record.clone());
    world.put_in_force(&plan);
    let upstreams = Arc::clone(&world);
    let open = move || {
        let upstreams = Arc::clone(&upstreams);
        MemoryTransport::new(move |request| upstreams.send(request))
    };
    let forebay = Forebay::builder(plan.config()).seed(seed).transport(open).start().await.expect("it starts");
    let gateway = Rc::new(actix_web::test::init_service(app(Shared::new(forebay.clone(), None, Arc::default()))).await);

    let (calls, doomed) = (draw.between(20, 80) as usize, draw.one_in(40));
    let drains = draw.one_in(3);
    let length = draw.between(20, 240);
    let waiting = Rc::new(std::cell::RefCell::new(BTreeSet::new()));
    for nonce in 0..calls as u32 {
        // Some come in crowds.
        let at = draw.millis(0, length * 1_000);
        let at = if draw.one_in(3) { Duration::from_secs(at.as_secs() / 20 * 20) } else { at };
        let caller = Caller::draw(nonce, at, &mut draw);
        waiting.borrow_mut().insert(nonce);
        let (work, waiting) =
            (caller.run(Rc::clone(&gateway), forebay.clone(), Arc::clone(&world)), Rc::clone(&waiting));
        actix_rt::spawn(async move {
            work.await;
            waiting.borrow_mut().remove(&nonce);
        });
    }
    let names = plan.upstreams.iter().map(|upstream| upstream.name).collect();
    let outages = actix_rt::spawn(chaos::outages(Arc::clone(&world), names, draw.branch()));
    let changes = actix_rt::spawn(chaos::changes(forebay.clone(), Arc::clone(&world), plan, draw.branch()));
    let deaths = actix_rt::spawn(chaos::deaths(forebay.clone(), Arc::clone(&world), doomed, draw.branch()));
    let failed = {
        let (forebay, world) = (forebay.clone(), Arc::clone(&world));
        actix_rt::spawn(async move {
            forebay.failed().await;
            world.fail();
        })
    };

    if drains {
        let at = draw.millis(0, length * 1_000);
        clock::until(start + at).await;
        world.drain();
        forebay.shutdown(draw.millis(0, 20_000)).await;
        record.note("drained");
    }
    // Reloads and deaths go on as long as anyone waits. A slow reader of a long stream may take ten minutes.
    let patience = clock::now() + Duration::from_secs(3_600);
    while !waiting.borrow().is_empty() && clock::now() < patience {
        clock::until(clock::now() + Duration::from_millis(500)).await;
    }
    record.ensure(waiting.borrow().is_empty(), || format!("nobody answers {:?}", waiting.borrow()));
    for task in [outages, changes, deaths, failed] {
        task.abort();
    }
    clock::until(clock::now() + Duration::from_millis(500)).await;
    world.end();
    if !drains && !world.has_failed() {
        // One more message, so that the end is checked like the rest.
        forebay.dispatcher().do_send(Cancel(CallId::new()));
        let health = forebay.health().await.unwrap_or_default();
        record.ensure((health.waiting, health.in_flight) == (0, 0), || format!("behind the end: {health:?}"));
        let before = clock::now();
        world.drain();
        forebay.shutdown(Duration::from_secs(10)).await;
        record.ensure(clock::now() == before, || "an idle system takes time to drain".into());
    }
    record.ensure(forebay.held() == 0, || format!("{} bytes of bodies are held behind the end", forebay.held()));
    record.ensure(world.open() == 0, || format!("{} exchanges go on behind the end", world.open()));
    let opened = check::opened();
    let messages = check::unwatch();
    Run { seed, record, calls, messages, opened, took: clock::now() - start }
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(otherwise)
}

#[test]
fn whatever_is_drawn_every_call_has_one_end_and_nothing_is_lost() {
    let first = number("FOREBAY_FIRST_SEED", 1);
    let (mut calls, mut messages, mut opened, mut took) = (0, 0, 0, Duration::ZERO);
    let seeds = number("FOREBAY_SEEDS", 100);
    for seed in first..first + seeds {
        let run = Run::of(seed);
        if number("FOREBAY_LOG", 0) == 1 {
            println!("{}", run.record.lines().join("\n"));
        }
        run.assert_faultless();
        calls += run.calls;
        messages += run.messages;
        opened += run.opened;
        took += run.took;
    }
    let hours = took.as_secs_f64() / 3_600.0;
    println!(
        "{seeds} seeds: {calls} calls, {messages} messages checked, {opened} breakers opened, {hours:.1} virtual hours"
    );
    assert!(opened > 0 || seeds < 100, "no breaker has opened: nothing of them is checked");
}

#[test]
fn a_seed_replays_exactly() {
    for seed in [1, 77, 4_711] {
        let (one, other) = (Run::of(seed).record.lines(), Run::of(seed).record.lines());
        let differ = one.iter().zip(&other).position(|(one, other)| one != other);
        assert_eq!(differ.map(|at| (&one[at], &other[at])), None, "seed {seed}");
        assert_eq!(one.len(), other.len());
    }
}

/// Some seed among the first fifty finds `bug`, and says one of `words` of it.
fn is_found(bug: Bug, words: &[&str]) {
    let found = (1..=50).map(|seed| Run::with(seed, Some(bug)).record.violations()).find(|found| !found.is_empty());
    let found = found.unwrap_or_else(|| panic!("{bug:?} is not found"));
    assert!(words.iter().any(|word| found.iter().any(|found| found.contains(word))), "{bug:?} is found as {found:?}");
}

#[test]
fn a_leaked_permit_is_found() {
    is_found(Bug::LeakedPermit, &["permits are held"]);
}

#[test]
fn a_lost_wake_up_is_found() {
    is_found(Bug::LostWakeUp, &["which is open"]);
    is_found(Bug::LateTimer, &["and the timer in"]);
}

#[test]
fn a_call_that_stays_where_nobody_answers_is_found() {
    is_found(Bug::LeftBehind, &["which is broken"]);
}

#[test]
fn a_second_outcome_is_found() {
    is_found(Bug::SecondOutcome, &["ended twice", "behind their end"]);
}

#[test]
fn an_answer_to_the_wrong_asker_is_found() {
    is_found(Bug::MixedUpAnswers, &["hears what is"]);
}
