//! What holds for every limiter, whatever its kind.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use proptest::prelude::*;

use super::*;
use crate::clock::{self, Instant};
use crate::messages::{BudgetReading, Dimension, FailureKind, Pushback};
use crate::providers::classify::classify;

const NANO: Duration = Duration::from_nanos(1);
const MINUTE: Duration = Duration::from_secs(60);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn meter(limits: Limits) -> (Meter, Instant) {
    let now = clock::now();
    (Meter::new(&limits, 1, now), now)
}

fn requests(rate: Rate) -> Limits {
    Limits { requests_per_minute: Some(rate), ..Limits::default() }
}

fn tokens(rate: Rate) -> Limits {
    Limits { tokens_per_minute: Some(rate), ..Limits::default() }
}

/// The wait of a call that must be refused.
fn wait(meter: &mut Meter, tokens: u64, now: Instant) -> Duration {
    meter.enter(tokens, now).unwrap_err().wait.unwrap()
}

/// How many of `calls` calls at once are granted.
fn volley(meter: &mut Meter, calls: usize, now: Instant) -> usize {
    (0..calls).filter(|_| meter.enter(0, now).is_ok()).count()
}

/// A rate of any kind; periods are short, so that a schedule crosses many of them.
fn any_rate() -> impl Strategy<Value = Rate> {
    let window = prop::sample::select(vec![1_000u64, 500, 250]);
    (3u64..40, 0u8..4, 0u64..2_000, window).prop_map(|(amount, kind, burst, window)| {
        let rate = Rate::new(amount, ms(1_000));
        match kind {
            0 => rate,
            1 => rate.with_burst(ms(burst)),
            2 => rate.sliding(),
            // A window must leave at least one.
            _ => rate.in_windows(ms(if amount < 4 { 1_000 } else { window })),
        }
    })
}

fn any_limits() -> impl Strategy<Value = Limits> {
    let acceleration = prop::option::of((1u64..20, 100u32..300)).prop_map(|figures| {
        figures.map(|(floor, growth_percent)| Acceleration {
            floor,
            growth_percent,
            minute: ms(1_000),
            memory: ms(3_000),
        })
    });
    let rate = || prop::option::of(any_rate());
    (rate(), rate(), rate(), rate(), any::<bool>(), acceleration).prop_map(
        |(second, minute, hidden, tokens, rejects_count, acceleration)| Limits {
            requests_per_second: second,
            requests_per_minute: minute,
            hidden_requests: hidden,
            tokens_per_minute: tokens,
            rejects_count,
            acceleration,
            ..Limits::default()
        },
    )
}

/// The most that may be granted from a grant on for so long, its end not included.
fn most_in(rate: &Rate, span: Duration) -> u64 {
    match rate.counting {
        // A full bucket, and what comes in meanwhile.
        Counting::Bucket { burst } => rate.worth(rate.depth(burst) + span.as_nanos()),
        Counting::Sliding => rate.capacity() * u64::try_from(span.as_nanos().div_ceil(rate.per.as_nanos())).unwrap(),
        // A span that begins within a window touches one more than fit into it.
        Counting::Fixed { window } => {
            rate.capacity() * u64::try_from(span.as_nanos().div_ceil(window.as_nanos()) + 1).unwrap()
        }
    }
}

proptest! {
    #[test]
    fn no_span_of_any_length_is_granted_more_than_the_rate_allows(
        limits in any_limits(), seed: u64, calls in prop::collection::vec((0u64..120, 0u64..12), 1..300),
    ) {
        let start = clock::now();
        let mut meter = Meter::new(&limits, seed, start);
        let mut now = start;
        let mut granted: Vec<(Instant, u64)> = Vec::new();
        for (pause, tokens) in calls {
            now += ms(pause);
            if meter.enter(tokens, now).is_ok() {
                granted.push((now, tokens));
            }
        }
        for (scarce, rate) in limits.rates() {
            let Some(rate) = rate else { continue };
            for span in [1, 250, 500, 999, 1_000, 1_001, 2_500].map(ms) {
                for (n, (first, _)) in granted.iter().enumerate() {
                    let within = granted[n..].iter().take_while(|(at, _)| *at < *first + span);
                    let sum: u64 = within.map(|(_, tokens)| if scarce == Scarce::Tokens { *tokens } else { 1 }).sum();
                    prop_assert!(sum <= most_in(&rate, span), "{sum} in {span:?} of {rate:?}");
                }
            }
        }
        prop_assert_eq!(meter.calls().0, granted.len() as u64);
    }

    #[test]
    fn a_call_at_exactly_the_told_time_is_granted_and_one_a_nanosecond_sooner_is_not(
        limits in any_limits(), seed: u64, calls in prop::collection::vec((0u64..50_000_000, 0u64..12), 1..200),
    ) {
        let start = clock::now();
        let mut meter = Meter::new(&limits, seed, start);
        let mut now = start;
        for (pause, tokens) in calls {
            now += Duration::from_nanos(pause);
            let Err(refusal) = meter.enter(tokens, now) else { continue };
            let Some(wait) = refusal.wait else {
                let most = limits.tokens_per_minute.unwrap().capacity();
                prop_assert!(refusal.scarce == Scarce::Tokens && tokens > most, "never: {refusal:?}");
                continue;
            };
            prop_assert!(wait > Duration::ZERO);
            prop_assert_eq!(meter.clone().enter(tokens, now + wait), Ok(()), "{:?}", refusal);
            prop_assert!(meter.clone().enter(tokens, now + wait - NANO).is_err(), "{refusal:?}");
        }
    }

    #[test]
    fn as_much_as_headers_show_is_granted_and_no_more(
        rate in any_rate(), seed: u64, calls in prop::collection::vec(0u64..80_000_000, 1..100),
    ) {
        let start = clock::now();
        let mut meter = Meter::new(&tokens(rate), seed, start);
        let mut now = start;
        for pause in calls {
            now += Duration::from_nanos(pause);
            let reading = meter.readings(now)[0];
            prop_assert_eq!((reading.limit, reading.used() + reading.remaining), (rate.capacity(), rate.capacity()));
            prop_assert!(meter.clone().enter(reading.remaining, now).is_ok(), "{reading:?}");
            prop_assert!(meter.clone().enter(reading.remaining + 1, now).is_err(), "{reading:?}");
            // At its reset a bucket is full and a window is fresh; of a log something has come back.
            let later = meter.readings(now + reading.reset)[0];
            match rate.counting {
                Counting::Sliding => prop_assert!(reading.used() == 0 || later.remaining > reading.remaining),
                _ => prop_assert_eq!(later.remaining, later.limit),
            }
            let _ = meter.enter(1 + reading.remaining / 3, now);
        }
    }

    #[test]
    fn who_never_goes_before_the_told_time_uses_a_limit_up(rate in any_rate(), seed: u64, rejects_count: bool) {
        let start = clock::now();
        let mut meter = Meter::new(&Limits { rejects_count, ..requests(rate) }, seed, start);
        let (mut now, end) = (start, start + ms(20_000));
        // Forty a second at most, a refusal for each; a limiter that grants without end would not let time pass.
        for _ in 0..4_000 {
            if now < end && let Err(refusal) = meter.enter(0, now) {
                now += refusal.wait.unwrap();
            }
        }
        prop_assert!(now >= end);
        let standing = meter.standings(end)[0];
        // A refusal that costs a request is one refusal for each grant; what is free is granted to the last one.
        let least = if rejects_count { 0.3 } else { 0.95 };
        prop_assert!(standing.utilisation >= least, "{standing:?}");
        // What lies in the bucket or in a window cut by the start is on top of what is offered meanwhile.
        prop_assert!(standing.granted as f64 <= standing.offered + 1.0 + 2.0 * rate.capacity() as f64, "{standing:?}");
    }
}

#[test]
fn a_burst_is_granted_and_the_next_call_is_told_exactly_when_to_come_back() {
    let (mut meter, now) = meter(requests(Rate::per_second(20)));
    assert_eq!(volley(&mut meter, 30, now), 20);
    assert_eq!(wait(&mut meter, 0, now), ms(50));
    assert!(meter.enter(1, now + ms(50) - NANO).is_err());
    assert_eq!(meter.enter(1, now + ms(50)), Ok(()));
    assert!(meter.enter(1, now + ms(50)).is_err());
}

#[test]
fn a_bucket_without_a_burst_gives_one_at_a_time() {
    let (mut meter, start) = meter(requests(Rate::per_second(7).with_burst(Duration::ZERO)));
    let granted: Vec<u64> = (0..3_000).filter(|n| meter.enter(1, start + ms(*n)).is_ok()).collect();
    assert!(granted.windows(8).all(|eight| eight[7] - eight[0] >= 1_000));
    assert_eq!(granted.len(), 21);
}

#[test]
fn a_sliding_minute_gives_back_what_was_taken_a_minute_later() {
    let (mut meter, start) = meter(tokens(Rate::per_minute(100).sliding()));
    for (second, cost) in [(0, 40), (10, 30), (20, 30)] {
        assert_eq!(meter.enter(cost, start + ms(second * 1_000)), Ok(()));
    }
    let now = start + ms(30_000);
    assert_eq!(wait(&mut meter, 40, now), ms(30_000), "the first 40 are enough");
    assert_eq!(wait(&mut meter, 41, now), ms(40_000));
    let reading = meter.readings(now)[0];
    assert_eq!((reading.remaining, reading.reset), (0, ms(30_000)), "the oldest is the next to leave");
    assert_eq!(meter.readings(start + ms(65_000))[0].remaining, 40);
    assert_eq!(meter.readings(start + ms(80_000))[0].reset, Duration::ZERO, "nothing is left to leave");
}

#[test]
fn a_fixed_minute_begins_where_only_the_seed_knows() {
    let now = clock::now();
    let ends: Vec<Duration> = (0..20)
        .map(|seed| {
            let mut meter = Meter::new(&requests(Rate::per_minute(10).fixed()), seed, now);
            assert_eq!(volley(&mut meter, 20, now), 10);
            let wait = wait(&mut meter, 0, now);
            assert_eq!(meter.readings(now)[0].reset, wait);
            assert_eq!(volley(&mut meter, 20, now + wait), 10, "all at once when the window ends");
            assert_eq!(meter.readings(now + wait)[0].reset, MINUTE);
            wait
        })
        .collect();
    assert!(ends.iter().all(|end| *end <= MINUTE));
    assert!(ends.iter().min().unwrap() < &ms(15_000) && ends.iter().max().unwrap() > &ms(45_000), "{ends:?}");
    let again = Meter::new(&requests(Rate::per_minute(10).fixed()), 0, now);
    assert_eq!(again.readings(now)[0].reset, ends[0], "the same seed, the same window");
}

#[test]
fn windows_of_ten_seconds_have_a_sixth_of_the_minute_and_say_so() {
    let (mut meter, now) = meter(requests(Rate::per_minute(500).in_windows(ms(10_000))));
    assert_eq!(volley(&mut meter, 100, now), 83);
    let reading = meter.readings(now)[0];
    assert_eq!((reading.limit, reading.remaining), (83, 0));
    assert!(reading.reset <= ms(10_000));
    let rate = Rate::per_minute(500).in_windows(ms(1_000));
    assert_eq!((rate.capacity(), rate.steady_per_second()), (8, 8.0));
}

#[test]
fn a_hidden_window_refuses_what_headers_show_room_for() {
    let hidden = Rate::per_minute(60).in_windows(ms(10_000));
    let (mut meter, now) = meter(Limits { hidden_requests: Some(hidden), ..requests(Rate::per_minute(60)) });
    assert_eq!(volley(&mut meter, 10, now), 10);
    let refusal = meter.enter(0, now).unwrap_err();
    assert_eq!(refusal.scarce, Scarce::HiddenRequests);
    assert_eq!(meter.readings(now).len(), 1);
    assert_eq!((meter.readings(now)[0].limit, meter.readings(now)[0].remaining), (60, 50));
    assert_eq!(volley(&mut meter, 20, now + refusal.wait.unwrap()), 10);
}

#[test]
fn a_refused_call_costs_nothing_or_a_request() {
    for (rejects_count, left) in [(false, 4), (true, 3)] {
        let both = Limits { requests_per_minute: Some(Rate::per_minute(5)), ..tokens(Rate::per_minute(100)) };
        let (mut meter, now) = meter(Limits { rejects_count, ..both });
        assert_eq!(meter.enter(80, now), Ok(()));
        let refusal = meter.enter(30, now).unwrap_err();
        assert_eq!((refusal.scarce, refusal.wait), (Scarce::Tokens, Some(ms(6_000))));
        assert_eq!(meter.readings(now)[0].remaining, left);
        assert_eq!(meter.readings(now)[1].remaining, 20, "a refused call takes no tokens");
        assert_eq!((0..9).filter(|_| meter.enter(5, now).is_ok()).count(), usize::try_from(left).unwrap());
    }
}

#[test]
fn who_hammers_where_rejects_count_is_never_let_in_again() {
    for rate in [Rate::per_minute(60), Rate::per_minute(60).sliding()] {
        let (mut meter, start) = meter(Limits { rejects_count: true, ..requests(rate) });
        assert_eq!(volley(&mut meter, 61, start), 60);
        let hammered = (1..1_200).filter(|n| meter.enter(0, start + ms(n * 100)).is_ok()).count();
        assert_eq!(hammered, 0, "{rate:?}");
        let last = start + ms(119_900);
        let wait = wait(&mut meter, 0, last);
        let longest = if rate.counting == Counting::Sliding { MINUTE } else { ms(1_000) };
        assert!(wait <= longest, "no bucket is emptier than empty: {wait:?} of {rate:?}");
        assert_eq!(meter.enter(0, last + wait), Ok(()), "patience is rewarded");
    }
}

#[test]
fn a_call_larger_than_the_limit_never_fits() {
    for rate in [Rate::per_minute(100), Rate::per_minute(100).sliding(), Rate::per_minute(100).fixed()] {
        let (mut meter, now) = meter(tokens(rate));
        let refusal = meter.enter(101, now).unwrap_err();
        assert_eq!((refusal.scarce, refusal.wait), (Scarce::Tokens, None));
        assert!(meter.enter(u64::MAX, now).is_err());
        assert_eq!(meter.enter(100, now), Ok(()));
    }
}

#[test]
fn a_place_in_flight_is_free_again_when_its_call_leaves() {
    let (mut meter, now) = meter(Limits { max_concurrent: Some(1), ..Limits::default() });
    assert_eq!(meter.enter(1, now), Ok(()));
    let refusal = meter.enter(1, now).unwrap_err();
    assert_eq!((refusal.scarce, refusal.wait), (Scarce::Concurrency, None));
    assert_eq!((meter.in_flight(), meter.calls()), (1, (1, 1)));
    meter.leave();
    assert_eq!(meter.enter(1, now), Ok(()));
}

#[test]
fn traffic_may_grow_by_half_in_a_quarter_of_an_hour() {
    let (mut meter, start) = meter(Limits { acceleration: Some(Acceleration::above(100)), ..Limits::default() });
    assert_eq!(volley(&mut meter, 150, start), 100, "the floor is free");
    let refusal = meter.enter(0, start).unwrap_err();
    assert_eq!((refusal.scarce, refusal.wait), (Scarce::Acceleration, Some(MINUTE)));
    let next = start + MINUTE;
    assert_eq!(volley(&mut meter, 200, next), 150, "half as much again");
    assert_eq!(volley(&mut meter, 300, next + MINUTE), 225);
    // The busiest minute is forgotten sixteen minutes after it began, and what came before it too.
    assert_eq!(volley(&mut meter.clone(), 400, next + MINUTE * 16), 337);
    assert_eq!(volley(&mut meter, 400, next + MINUTE * 17), 100);
}

#[test]
fn a_wait_looks_ahead_to_what_will_be_forgotten_by_then() {
    let rule = Acceleration { floor: 1, growth_percent: 200, minute: ms(10_000), memory: ms(10_000) };
    let limits = Limits { acceleration: Some(rule), ..tokens(Rate::new(1, ms(9_000)).sliding()) };
    let (mut meter, start) = meter(limits);
    assert_eq!(meter.enter(1, start), Ok(()));
    assert_eq!(meter.enter(1, start + ms(12_000)), Ok(()));
    // At 21 s there will be a token, but the first call is forgotten since 20 s, and the second counts until 22 s.
    let refusal = meter.enter(1, start + ms(19_000)).unwrap_err();
    assert_eq!((refusal.scarce, refusal.wait), (Scarce::Acceleration, Some(ms(3_000))));
}

#[test]
fn a_bucket_of_another_depth_is_as_full_as_before() {
    let (mut meter, now) = meter(requests(Rate::per_minute(60)));
    assert_eq!(volley(&mut meter, 20, now), 20);
    meter.set(&requests(Rate::per_minute(60).with_burst(ms(30_000))), now);
    let reading = meter.readings(now)[0];
    assert_eq!((reading.limit, reading.remaining, reading.reset), (30, 20, ms(10_000)));
}

#[test]
fn a_halved_bucket_stays_as_full_as_it_was_and_is_whole_again_when_restored() {
    let whole = tokens(Rate::per_minute(600));
    let (mut meter, start) = meter(whole);
    assert_eq!(meter.enter(300, start), Ok(()));
    let now = start + ms(15_000);
    meter.set(&whole.scaled(0.5), now);
    let reading = meter.readings(now)[0];
    assert_eq!((reading.limit, reading.remaining, reading.reset), (300, 225, ms(15_000)));
    assert_eq!(meter.enter(225, now), Ok(()));
    assert_eq!(wait(&mut meter, 5, now), ms(1_000), "five a second now");
    meter.set(&whole, now + ms(30_000));
    assert_eq!(meter.readings(now + ms(30_000))[0].remaining, 300);
    let standing = meter.standings(now + ms(30_000))[0];
    assert_eq!((standing.granted, standing.offered), (525, 150.0 + 150.0));
}

#[test]
fn a_halved_log_and_window_keep_what_was_taken() {
    for rate in [Rate::per_minute(100).sliding(), Rate::per_minute(100).fixed()] {
        let (mut meter, now) = meter(requests(rate));
        assert_eq!(volley(&mut meter, 60, now), 60);
        let reset = meter.readings(now)[0].reset;
        meter.set(&requests(rate).scaled(0.5), now);
        let reading = meter.readings(now)[0];
        assert_eq!((reading.limit, reading.remaining, reading.reset), (50, 0, reset), "{rate:?}");
        assert_eq!(volley(&mut meter, 100, now + reset), 50);
        meter.set(&requests(rate), now + reset);
        assert_eq!(volley(&mut meter, 100, now + reset), 50);
    }
}

#[test]
fn a_limit_counted_in_a_new_way_knows_nothing_of_the_old() {
    let (mut meter, now) = meter(requests(Rate::per_minute(10)));
    assert_eq!(volley(&mut meter, 20, now), 10);
    meter.set(&requests(Rate::per_minute(10).sliding()), now);
    assert_eq!(volley(&mut meter, 20, now), 10);
    assert_eq!(meter.standings(now)[0].granted, 20, "its account goes on");
    meter.set(&Limits::default(), now);
    assert_eq!(volley(&mut meter, 20, now), 20);
}

#[test]
fn the_headers_follow_the_counters() {
    let limits = Limits { requests_per_second: Some(Rate::per_second(20)), ..tokens(Rate::per_minute(60_000)) };
    let (mut meter, now) = meter(limits);
    for _ in 0..3 {
        meter.enter(500, now).unwrap();
    }
    let lines = |meter: &Meter| -> Vec<String> {
        meter.headers(now).into_iter().map(|(name, value)| format!("{name}: {value}")).collect()
    };
    assert_eq!(
        lines(&meter),
        [
            "x-ratelimit-limit-requests: 20",
            "x-ratelimit-remaining-requests: 17",
            "x-ratelimit-reset-requests: 150ms",
            "x-ratelimit-limit-tokens: 60000",
            "x-ratelimit-remaining-tokens: 58500",
            "x-ratelimit-reset-tokens: 1.5s",
        ]
    );
    meter.set(&Limits { headers: HeaderStyle::Azure, ..limits }, now);
    let resets = |line: &String| line.contains("reset");
    assert_eq!(
        lines(&meter).into_iter().filter(resets).collect::<Vec<_>>(),
        ["x-ratelimit-reset-requests: 1", "x-ratelimit-reset-tokens: 2"]
    );
    meter.set(&Limits { headers: HeaderStyle::None, ..limits }, now);
    assert!(lines(&meter).is_empty());
}

#[test]
fn of_two_counters_of_requests_the_one_nearer_to_its_end_speaks() {
    let both = Limits { requests_per_second: Some(Rate::per_second(20)), ..requests(Rate::per_minute(30)) };
    let (mut meter, start) = meter(both);
    assert_eq!(volley(&mut meter, 5, start), 5);
    assert_eq!(meter.readings(start)[0].limit, 20);
    assert_eq!(volley(&mut meter, 15, start + ms(1_000)), 15);
    assert_eq!(meter.readings(start + ms(1_800))[0].limit, 30);
}

#[test]
fn a_429_says_in_the_provider_s_words_what_ran_out() {
    let now = clock::now();
    let message = |limits: &Limits, calls: &[u64]| {
        let mut meter = Meter::new(limits, 1, now);
        let refusal = calls.iter().find_map(|tokens| meter.enter(*tokens, now).err()).expect("a refusal");
        let error = refusal.body(limits, "m")["error"].clone();
        let headers = refusal.headers(limits).len();
        let word = |name: &str| error[name].as_str().unwrap().to_owned();
        (word("message"), word("type"), word("code"), headers)
    };
    let said =
        |text: &str, kind: &str, code: &str, headers| (text.to_owned(), kind.to_owned(), code.to_owned(), headers);
    let two = requests(Rate::per_minute(2));
    assert_eq!(
        message(&two, &[0, 0, 0]),
        said(
            "Rate limit reached for m on requests per min (RPM): Limit 2, Used 2, Requested 1. Please try again in 30s.",
            "requests",
            "rate_limit_exceeded",
            2
        )
    );
    assert_eq!(
        message(&Limits { retry_after: RetryAfter::Absent, ..tokens(Rate::per_minute(100).sliding()) }, &[80, 30]),
        said(
            "Rate limit reached for m on tokens per min (TPM): Limit 100, Used 80, Requested 30.",
            "tokens",
            "rate_limit_exceeded",
            0
        )
    );
    let (text, ..) = message(&tokens(Rate::per_minute(100)), &[130]);
    assert!(text.starts_with("Request too large for m on tokens per min (TPM): Limit 100, Requested 130."), "{text}");
    let hidden = Rate::per_minute(600).in_windows(ms(100));
    let windowed = Limits { retry_after: RetryAfter::Seconds, hidden_requests: Some(hidden), ..Limits::default() };
    assert_eq!(
        message(&windowed, &[0, 0]).0,
        "Rate limit reached for m on requests. Please try again in 1s.",
        "no figures of what nobody shall know"
    );
    let growth = Limits { acceleration: Some(Acceleration::above(1)), ..Limits::default() };
    let (text, kind, code, headers) = message(&growth, &[0, 0]);
    assert_eq!((kind.as_str(), code.as_str(), headers), ("rate_limit_error", "slow_down", 0), "{text}");
    assert!(!text.contains("try again"), "{text}");
    let (_, kind, _, headers) = message(&Limits { max_concurrent: Some(1), ..Limits::default() }, &[0, 0]);
    assert_eq!((kind.as_str(), headers), ("requests", 0));
}

#[test]
fn forebay_reads_a_429_as_it_is_meant() {
    let per_minute = Limits { requests_per_minute: Some(Rate::per_minute(2)), ..tokens(Rate::per_minute(90)) };
    let hidden = Limits { hidden_requests: Some(Rate::per_minute(6).in_windows(ms(10_000))), ..per_minute };
    let growth = Limits { acceleration: Some(Acceleration::above(1)), ..per_minute };
    let concurrent = Limits { max_concurrent: Some(1), ..per_minute };
    // The limits, the tokens of two calls and of the one that is refused, and what its refusal means.
    let cases = [
        (per_minute, [10, 10, 10], Pushback::Rate),
        (per_minute, [60, 0, 40], Pushback::Rate),
        (per_minute, [10, 10, 91], Pushback::NeverFits),
        (hidden, [10, 10, 10], Pushback::Rate),
        (growth, [10, 10, 10], Pushback::SlowDown),
        (concurrent, [10, 10, 10], Pushback::Rate),
    ];
    for (limits, calls, meaning) in cases {
        for headers in [HeaderStyle::OpenAi, HeaderStyle::Azure, HeaderStyle::None] {
            for retry_after in [RetryAfter::Exact, RetryAfter::Seconds, RetryAfter::Absent] {
                let limits = Limits { headers, retry_after, ..limits };
                let (mut meter, now) = meter(limits);
                let refusal = calls.into_iter().find_map(|tokens| meter.enter(tokens, now).err()).expect("a refusal");
                let lines = [meter.headers(now), refusal.headers(&limits)].concat();
                let lines = lines.into_iter().map(|(name, value)| {
                    (HeaderName::from_static(name), HeaderValue::try_from(value).expect("a header"))
                });
                let body = Bytes::from(refusal.body(&limits, "m").to_string());
                let failure = classify(429, &lines.collect(), &body, SystemTime::UNIX_EPOCH);
                let context = format!("{refusal:?} {headers:?} {retry_after:?} {body:?}");
                assert_eq!((failure.kind, failure.pushback), (FailureKind::RateLimited, Some(meaning)), "{context}");
                assert_eq!(failure.hint.after, refusal.told(&limits), "{context}");
                for reading in meter.readings(now) {
                    let dimension =
                        if reading.scarce == Scarce::Tokens { Dimension::Tokens } else { Dimension::Requests };
                    let of_this = |budget: &&BudgetReading| budget.dimension == dimension;
                    let told = failure.limits.budgets.iter().find(of_this);
                    if headers != HeaderStyle::None {
                        let told = told.expect(&context);
                        let reset = told.reset.expect(&context);
                        assert_eq!((told.limit, told.remaining), (Some(reading.limit), Some(reading.remaining)));
                        assert!(reset.after >= reading.reset && reset.after - reading.reset < reset.grain, "{context}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_reserved_call_is_charged_what_it_might_have_used() {
    assert_eq!(Charge::Usage.tokens(10, 20, Some(500)), 30);
    assert_eq!(Charge::Reserved.tokens(10, 20, Some(500)), 510);
    assert_eq!(Charge::Reserved.tokens(10, 20, None), 30);
    assert_eq!(Charge::Reserved.tokens(10, 20, Some(u64::MAX)), u64::MAX);
}

#[test]
fn limits_that_cannot_be_are_refused() {
    let windows = |amount, ms| requests(Rate::per_minute(amount).in_windows(Duration::from_millis(ms)));
    let growth = |change: fn(&mut Acceleration)| {
        let mut rule = Acceleration::above(1);
        change(&mut rule);
        Limits { acceleration: Some(rule), ..Limits::default() }
    };
    let broken = [
        requests(Rate::per_minute(0)),
        tokens(Rate::per_minute(2_000_000_000)),
        requests(Rate::new(1, Duration::ZERO)),
        requests(Rate::new(1, Duration::MAX)),
        requests(Rate::per_minute(1).with_burst(Duration::MAX)),
        windows(60, 0),
        windows(60, 60_001),
        windows(59, 1_000),
        growth(|rule| rule.floor = 0),
        growth(|rule| rule.minute = Duration::ZERO),
        growth(|rule| rule.memory = Duration::MAX),
        Limits { max_concurrent: Some(0), ..Limits::default() },
        Limits { workers: Some(0), ..Limits::default() },
    ];
    for limits in broken {
        assert!(limits.check().is_err(), "{limits:?}");
    }
    let sound = [windows(60, 1_000), windows(60, 60_000), growth(|_| ()), Limits::default()];
    assert!(sound.iter().all(|limits| limits.check() == Ok(())));
}
