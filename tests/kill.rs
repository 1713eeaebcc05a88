//! A daemon under mixed load is killed again and again, in the middle of whatever it does: every accepted job ends with
//! exactly one result, none without its attempt, and what may be made at most once is seen at most once.
//!
//! When it is killed is rolled over counted events: so many calls after its start, and a spin of a length that is rolled, too.
//! `FOREBAY_KILLS=200` kills it as often as that, `FOREBAY_SEED` rolls otherwise.
#![cfg(all(feature = "gateway", feature = "sqlite"))]

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/upstream.rs"]
mod upstream;

use std::collections::{HashMap, VecDeque};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use daemon::{Process, chat, delete, get, post};
use forebay::clock::Dice;
use serde_json::{Value, json};
use upstream::{Asked, Upstream};

/// Callers at once.
const CALLERS: usize = 8;

/// Calls that the provider sits on, at most: the next that comes has the first of them answered.
const HELD: usize = 3;

/// The most calls of one life before its kill.
const LONGEST_LIFE: u64 = 16;

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(otherwise)
}

/// A number below `end`.
fn below(dice: &mut Dice, end: u64) -> u64 {
    dice.number() % end
}

/// The provider's book.
struct Book {
    dice: Dice,
    /// The life of the daemon that runs now, and the calls it has made.
    life: usize,
    calls: u64,
    /// After so many of them it is to be killed; tells that it is time.
    kill_after: Option<(u64, Sender<()>)>,
    /// Calls that were not answered yet, and how many it sits on at most.
    held: VecDeque<Asked>,
    most_held: usize,
    /// What was seen, by the job's name: each call's life, and whether it was answered with an error.
    seen: HashMap<String, Vec<(usize, bool)>>,
}

impl Book {
    /// A call has come.
    fn note(&mut self, asked: Asked) {
        let name = asked.said();
        // What one that is dead had sent may be read later.
        let life = asked.header("x-life")[0].parse().unwrap();
        if life != self.life {
            return self.seen.entry(name).or_default().push((life, false));
        }
        let is_once = name.starts_with("once");
        let calls = self.seen.entry(name).or_default();
        let roll = below(&mut self.dice, 100);
        // Not for ever, lest its attempts be used up.
        let fault = if calls.len() < 3 && !is_once { roll } else { 100 };
        calls.push((life, fault < 15));
        match fault {
            0..8 => asked.answer(500, "{\"error\":{\"message\":\"on purpose\"}}"),
            // No 503: it would be taken to have too much to do and be asked for less at once than it sits on.
            8..15 => asked.stream().cut(),
            _ if roll >= 40 => self.held.push_back(asked),
            _ => asked.says("hi"),
        }
        while self.held.len() > self.most_held {
            self.held.pop_front().unwrap().says("hi, by and by");
        }
        self.calls += 1;
        if self.kill_after.as_ref().is_some_and(|(calls, _)| *calls == self.calls) {
            let _ = self.kill_after.take().unwrap().1.send(());
        }
    }
}

fn provider(seed: u64) -> (SocketAddr, Arc<Mutex<Book>>) {
    let book = Book {
        dice: Dice::seeded(seed),
        life: 0,
        calls: 0,
        kill_after: None,
        held: VecDeque::new(),
        most_held: HELD,
        seen: HashMap::new(),
    };
    let book = Arc::new(Mutex::new(book));
    let writes = Arc::clone(&book);
    (Upstream::answering(move |asked| writes.lock().unwrap().note(asked)), book)
}

/// What callers know of a job.
#[derive(Default, Debug)]
struct Known {
    id: Option<String>,
    /// How they saw it end.
    end: Option<Value>,
}

/// A caller's book: jobs by name, and those it still has to do with.
struct Caller {
    number: usize,
    dice: Dice,
    jobs: HashMap<String, Known>,
    open: VecDeque<String>,
    made: usize,
}

impl Caller {
    /// Submits, waits and calls off, until the daemon at `addr` is gone.
    fn live(&mut self, addr: SocketAddr) {
        while self.step(addr).is_some() {}
    }

    /// One job from its submission to its end; nothing when the daemon is gone.
    fn step(&mut self, addr: SocketAddr) -> Option<()> {
        let name = match self.open.front() {
            Some(name) => name.clone(),
            None => {
                let kind = if below(&mut self.dice, 3) == 0 { "once" } else { "job" };
                self.made += 1;
                let name = format!("{kind}-{}-{}", self.number, self.made);
                self.jobs.insert(name.clone(), Known::default());
                self.open.push_back(name.clone());
                name
            }
        };
        let is_once = name.starts_with("once");
        let body: Value = serde_json::from_str(&chat(&name)).unwrap();
        let job = json!({"body": body, "key": name, "at_most_once": is_once});
        let accepted = ask(addr, &post("/v1/jobs", "", job.to_string()))?;
        let id = accepted["id"].as_str().unwrap_or_else(|| panic!("{name} was not accepted: {accepted}")).to_owned();
        let known = self.jobs.get_mut(&name).unwrap();
        let before = known.id.get_or_insert_with(|| id.clone());
        assert_eq!(*before, id, "{name} is the same job, whatever was killed meanwhile");
        if below(&mut self.dice, 12) == 0 {
            let cancelled = ask(addr, delete(&format!("/v1/jobs/{id}")).as_bytes())?;
            assert!(is_end(&cancelled), "{cancelled}");
            known.see(cancelled);
        } else {
            let job = ask(addr, get(&format!("/v1/jobs/{id}?wait=60s")).as_bytes())?;
            assert!(is_end(&job), "{job}");
            known.see(job);
        }
        self.open.pop_front();
        Some(())
    }
}

impl Known {
    /// An end, which stays what it was.
    fn see(&mut self, job: Value) {
        let before = self.end.get_or_insert_with(|| job.clone());
        assert_eq!(*before, job, "a job ends once");
    }
}

fn is_end(job: &Value) -> bool {
    matches!(job["status"].as_str(), Some("succeeded" | "failed" | "cancelled" | "expired" | "unknown"))
}

/// The JSON that `request` is answered with; nothing when the connection ends before.
fn ask(addr: SocketAddr, request: &[u8]) -> Option<Value> {
    let mut stream = TcpStream::connect(addr).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    stream.write_all(request).ok()?;
    let mut read = Vec::new();
    loop {
        let mut piece = [0; 16 * 1024];
        let count = match stream.read(&mut piece) {
            Ok(count @ 1..) => count,
            Ok(_) => return None,
            Err(error) => {
                let is_late = matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut);
                assert!(!is_late, "no answer to {:?}", String::from_utf8_lossy(request));
                return None;
            }
        };
        read.extend_from_slice(&piece[..count]);
        let text = String::from_utf8_lossy(&read);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        if length.is_some_and(|length: usize| body.len() >= length) {
            return Some(serde_json::from_str(body).unwrap_or_else(|_| panic!("{text}")));
        }
    }
}

/// A daemon in `directory` whose calls say which life they are of, and where it listens.
fn start(directory: &Path, provider: SocketAddr, life: usize) -> (Process, SocketAddr) {
    // Connections that are cut make it careful with their account, down to one call at once. The provider sits on a few until
    // another comes: over all keys one more than those always goes.
    let keys: Vec<String> = (0..=HELD).map(|key| format!("sk-kill-{key}")).collect();
    let config = format!(
        "[log]\nlevel = \"warn\"\n[retry]\nbase_delay = \"5ms\"\n[upstreams.up]\nbase_url = \"http://{provider}/v1\"\n\
         api_keys = {keys:?}\nmodels = [\"m\"]\nheaders = {{ x-life = \"{life}\" }}\n"
    );
    std::fs::write(daemon::file(directory), config).unwrap();
    let mut command = daemon::command(directory);
    command.env("FOREBAY__SERVER__LISTEN", "127.0.0.1:0");
    let process = Process::start(command);
    let line = process.line("listening on http://", 0);
    let addr = line.strip_prefix("listening on http://").and_then(|addr| addr.parse().ok());
    (process, addr.unwrap_or_else(|| panic!("{line}")))
}

#[test]
fn whatever_is_killed_when_every_accepted_job_ends_with_exactly_one_result() {
    let (kills, seed) = (number("FOREBAY_KILLS", 20), number("FOREBAY_SEED", 1));
    let mut dice = Dice::seeded(seed);
    let (provider, book) = provider(dice.number());
    let directory = tempfile::tempdir().unwrap();
    let mut callers: Vec<Caller> = (0..CALLERS)
        .map(|number| Caller {
            number,
            dice: Dice::seeded(dice.number()),
            jobs: HashMap::new(),
            open: VecDeque::new(),
            made: 0,
        })
        .collect();

    let (mut found_in_flight, mut in_flight_at_kills) = (0, 0);
    for _ in 0..kills {
        let (life, time_to_kill) = next_life(&book, Some(1 + below(&mut dice, LONGEST_LIFE)));
        let (mut process, addr) = start(directory.path(), provider, life);
        std::thread::scope(|scope| {
            for caller in &mut callers {
                scope.spawn(move || caller.live(addr));
            }
            time_to_kill.recv_timeout(Duration::from_secs(120)).expect("as many calls as were rolled");
            for _ in 0..below(&mut dice, 400_000) {
                std::hint::spin_loop();
            }
            process.kill();
            let in_flight = book.lock().unwrap().held.len();
            found_in_flight += u64::from(in_flight > 0);
            in_flight_at_kills += in_flight;
        });
    }

    // In peace everything comes to its end.
    let (life, _) = next_life(&book, None);
    let (process, addr) = start(directory.path(), provider, life);
    for caller in &mut callers {
        while !caller.open.is_empty() {
            caller.step(addr).expect("nobody kills it any more");
        }
    }
    let (mut jobs, mut statuses, mut extra) = (0, HashMap::<String, usize>::new(), 0);
    let book = book.lock().unwrap();
    for (name, known) in callers.iter().flat_map(|caller| &caller.jobs) {
        let Some(id) = &known.id else { continue };
        jobs += 1;
        let job = ask(addr, get(&format!("/v1/jobs/{id}")).as_bytes()).expect("nobody kills it any more");
        assert!(is_end(&job), "{job}");
        assert_eq!(known.end.as_ref().unwrap_or(&job), &job, "a job ends once");
        let status = job["status"].as_str().unwrap();
        *statuses.entry(status.to_owned()).or_default() += 1;
        let mut seen = book.seen.get(name).cloned().unwrap_or_default();
        seen.sort_by_key(|(life, _)| *life);
        let attempts = job["attempts"].as_u64().unwrap() as usize;
        assert!(seen.len() <= attempts, "{name}: {} calls, {attempts} attempts on record", seen.len());
        if status == "succeeded" {
            assert!(!seen.is_empty() && !job["result"].is_null(), "{name} has a result nobody gave: {job}");
        }
        if name.starts_with("once") {
            assert!(seen.len() <= 1, "{name} may be made at most once: {seen:?}");
        } else {
            assert_ne!(status, "unknown", "{name}");
        }
        // Only what was under way at a kill is asked for again without a fault of the provider's.
        for two in seen.windows(2) {
            let [(life, was_fault), (next_life, _)] = two else { unreachable!() };
            assert!(*was_fault || life < next_life, "{name} was asked for twice in one life: {seen:?}");
            extra += usize::from(!was_fault);
        }
    }
    drop(book);
    process.signal("TERM");
    assert_eq!(process.end().0, Some(0));
    println!(
        "{kills} kills (seed {seed}), {found_in_flight} of them with calls in flight ({in_flight_at_kills} calls): {jobs} jobs, \
         {statuses:?}, {extra} calls made again"
    );
    assert!(found_in_flight * 2 >= kills, "{found_in_flight} of {kills} kills found a call in flight");
}

/// The daemon is about to be started again: its life's number. It is to be killed after so many calls, which is told.
fn next_life(book: &Mutex<Book>, kill_after: Option<u64>) -> (usize, Receiver<()>) {
    let (tell, time_to_kill) = mpsc::channel();
    let mut book = book.lock().unwrap();
    book.life += 1;
    book.calls = 0;
    book.held.clear();
    book.most_held = if kill_after.is_some() { HELD } else { 0 };
    book.kill_after = kill_after.map(|calls| (calls, tell));
    (book.life, time_to_kill)
}
