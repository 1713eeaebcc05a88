//! The same over real sockets and in real time: `forebay serve` in front of `forebay simulate`, against each limiter at
//! once, beside its twin in virtual time.
//!
//! A limit of twelve thousand calls a minute presses the calls of two hours at five hundred into five minutes, and finds
//! what virtual time cannot: real timers are late, each time. What a limiter counts in stays a minute: that is what is to
//! be learned.

use std::net::SocketAddr;
use std::time::Duration;

use forebay::simulator::prompt_hash;
use futures_util::future::join_all;

use super::Plan;
use super::helper::Helper;
use super::tables::{head, named, row};
use super::world;
use super::world::catalogue::{KINDS, LIVELY_PER_MINUTE, lively};
use super::world::clients::Client;
use super::world::provider::windows;
use super::world::scenario::{Kind, Scenario};

/// Of both.
const SEED: u64 = 1;
const KEY: &str = "sk-bench-0000000001";

/// How far both may lie apart, in points of the limit.
const APART_POINTS: f64 = 2.0;

/// One account over real sockets, from the limiter to the callers.
struct Account {
    scenario: Scenario,
    simulator: Helper,
    gateway: Helper,
    _directory: tempfile::TempDir,
}

/// What came of it.
struct Outcome {
    used: f64,
    refused: u64,
    lost: usize,
}

/// Plays every limiter for so long.
pub(crate) fn print(plan: &mut Plan, seconds: f64) {
    head(
        &format!(
            "Over real sockets, {seconds:.0} s beside as much virtual time: used of the limit %, 429s, calls lost"
        ),
        &named(&["limiter", "real", "virtual", "apart"]),
    );
    let scenarios = KINDS.map(|kind| lively(kind).lasting(seconds));
    let real = actix_rt::System::new().block_on(async {
        let accounts = scenarios.iter().cloned().map(Account::start);
        let runs = accounts.map(|account| actix_rt::spawn(account.run()));
        join_all(runs).await.into_iter().map(|run| run.expect("no panic")).collect::<Vec<_>>()
    });
    for (scenario, real) in scenarios.iter().zip(real) {
        let twin = &world::run(scenario, Client::Forebay, SEED);
        let used = 100.0 * twin.utilisation(0.0);
        let apart = (100.0 * real.used - used).abs();
        row([
            scenario.limiter().to_owned(),
            format!("{:.1}, {}, {}", 100.0 * real.used, real.refused, real.lost),
            format!("{used:.1}, {}, {}", twin.refused(0.0), twin.lost().count()),
            format!("{apart:.1}"),
        ]);
        plan.hold(&format!("{} over sockets: points apart", scenario.name), apart, APART_POINTS);
        plan.hold(&format!("{} over sockets: calls lost", scenario.name), real.lost as f64, 0.0);
    }
}

impl Account {
    fn start(scenario: Scenario) -> Self {
        let counting = match scenario.provider.kind {
            Kind::Bucket => "bucket",
            Kind::Sliding => "sliding",
            Kind::Minute => "fixed",
            Kind::Tens => "fixed=10s",
            Kind::Ones => "fixed=1s",
        };
        let (requests, latency) = (LIVELY_PER_MINUTE.to_string(), format!("{}s", scenario.work.service));
        // Windows begin where those of the twin do: of one more minute that is cut off at the end more may be used.
        let of_key =
            u64::from_str_radix(&prompt_hash(&format!("Bearer {KEY}")), 16).expect("sixteen hexadecimal digits");
        let seed = (windows(SEED) ^ of_key).to_string();
        let flags = [
            ["--requests-per-minute", &requests, "--counting", counting].as_slice(),
            &["--latency", &latency, "--rejects-count", "--seed", &seed],
        ]
        .concat();
        let simulator = Helper::simulator(&flags);
        let (gateway, directory) = Helper::forebay(&format!(
            "[upstreams.up]\nbase_url = \"http://{}/v1\"\napi_keys = [\"{KEY}\"]\nmodels = [\"*\"]\n",
            simulator.addr
        ));
        Self { scenario, simulator, gateway, _directory: directory }
    }

    async fn run(self) -> Outcome {
        let until = tokio::time::Instant::now() + Duration::from_secs_f64(self.scenario.seconds);
        let callers = (0..self.scenario.backlog).map(|_| actix_rt::spawn(call(self.gateway.addr, until)));
        let callers: Vec<_> = callers.collect();
        tokio::time::sleep_until(until).await;
        let ledger = ledger(self.simulator.addr).await;
        let lost = join_all(callers).await.into_iter().map(|caller| caller.expect("no panic")).sum();
        let number = |name: &str| ledger[name].as_u64().unwrap_or_else(|| panic!("{name} in {ledger}"));
        let allowed = self.scenario.provider.requests() * self.scenario.seconds / 60.0;
        Outcome { used: number("admitted") as f64 / allowed, refused: number("limit_429s"), lost }
    }
}

/// One caller of low priority, until time is up; how many of its calls failed.
async fn call(gateway: SocketAddr, until: tokio::time::Instant) -> usize {
    const BODY: &str =
        r#"{"model":"m","max_tokens":20,"messages":[{"role":"user","content":"calls that wait their turn"}]}"#;
    let client = awc::Client::builder().timeout(Duration::from_secs(600)).finish();
    let mut lost = 0;
    while tokio::time::Instant::now() < until {
        let request = client.post(format!("http://{gateway}/v1/chat/completions"));
        let request = request.insert_header(("x-forebay-priority", "low")).content_type("application/json");
        let answered = match request.send_body(BODY).await {
            Ok(mut answer) => answer.status().is_success() && answer.body().await.is_ok(),
            Err(_) => false,
        };
        lost += usize::from(!answered);
    }
    lost
}

/// What the simulator has seen so far.
async fn ledger(simulator: SocketAddr) -> serde_json::Value {
    let url = format!("http://{simulator}/simulator/ledger");
    let mut answer = awc::Client::default().get(url).send().await.expect("the ledger");
    answer.json().limit(1 << 24).await.expect("JSON")
}
