//! The flags of `forebay simulate` that say how the provider limits its callers.

use std::time::Duration;

use clap::{ArgGroup, Args, ValueEnum};

use crate::config::parse_duration;
use crate::simulator::limits::{Acceleration, Charge, HeaderStyle, Rate, RetryAfter};
use crate::simulator::{Beyond, Change, Settings};

/// All limits are of each API key.
#[derive(Args, Debug)]
#[command(next_help_heading = "Limits, of each API key")]
#[command(group = ArgGroup::new("minute").args(["requests_per_minute", "tokens_per_minute"]).multiple(true))]
#[command(group = ArgGroup::new("requests").args(["requests_per_second", "requests_per_minute"]).multiple(true))]
#[command(group = ArgGroup::new("rates").multiple(true)
    .args(["requests_per_second", "requests_per_minute", "tokens_per_minute"]))]
pub(super) struct LimitArgs {
    /// Requests a second, as a bucket; beyond it 429
    #[arg(long, value_name = "N")]
    requests_per_second: Option<u64>,
    /// Requests a minute
    #[arg(long, value_name = "N")]
    requests_per_minute: Option<u64>,
    /// Tokens a minute
    #[arg(long, value_name = "N")]
    tokens_per_minute: Option<u64>,
    /// How the limits per minute are counted: `bucket` refills all the time and holds a minute's worth, `sliding` counts the
    /// last 60 s, `fixed` counts in minutes that begin nobody knows when (the seed does), and `fixed=10s` or `fixed=1s` in
    /// windows of that length, each with its share of the minute's limit [default: bucket]
    #[arg(long, value_name = "KIND", value_parser = counting, requires = "minute")]
    counting: Option<CountingArg>,
    /// How much time's worth of requests a bucket holds and so may come at once [default: 1s of --requests-per-second, 1m of
    /// --requests-per-minute]
    #[arg(long, value_name = "TIME", value_parser = parse_duration, requires = "requests")]
    burst: Option<Duration>,
    /// Counts the requests of --requests-per-minute once more, in fixed windows of this length of which headers say nothing
    #[arg(long, value_name = "TIME", value_parser = parse_duration, requires = "requests_per_minute")]
    hidden_window: Option<Duration>,
    /// A refused call costs a request all the same
    #[arg(long, requires = "requests")]
    rejects_count: bool,
    /// What a call is charged in tokens
    #[arg(long, value_name = "HOW", value_enum, default_value_t = ChargeArg::Usage)]
    charge: ChargeArg,
    /// 429 `slow_down` for a minute of more than N requests that is more than one and a half times the busiest one of the 15
    /// minutes before it
    #[arg(long, value_name = "N")]
    slow_down_above: Option<u64>,
    /// How much a minute may be of the busiest one before, in per cent [default: 150]
    #[arg(long, value_name = "PERCENT", requires = "slow_down_above")]
    slow_down_growth: Option<u32>,
    /// Calls in flight
    #[arg(long, value_name = "N")]
    max_concurrent: Option<u32>,
    /// What a call beyond --max-concurrent gets
    #[arg(long, value_name = "HOW", value_enum, default_value_t = BeyondArg::Refuse)]
    beyond: BeyondArg,
    /// Calls worked on at a time; the others wait in a line without end and are answered late, never refused
    #[arg(long, value_name = "N")]
    workers: Option<u32>,
    /// Whether and how answers and 429s say where the limits stand
    #[arg(long, value_name = "HOW", value_enum, default_value_t = HeadersArg::Openai)]
    limit_headers: HeadersArg,
    /// Whether and how a limit's 429 says when to come back
    #[arg(long, value_name = "HOW", value_enum, default_value_t = RetryAfterArg::Exact)]
    limit_retry_after: RetryAfterArg,
    /// From TIME after the start on all limits of requests and tokens are FACTOR times what these flags say: 2m=0.5 halves
    /// them, 4m=1 restores them; may be repeated
    #[arg(long, value_name = "TIME=FACTOR", value_parser = change, requires = "rates")]
    scale_limits: Vec<Change>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum CountingArg {
    #[default]
    Bucket,
    Sliding,
    Fixed(Duration),
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ChargeArg {
    /// What the answer's `usage` says
    Usage,
    /// The prompt and `max_tokens` for each answer, however short it turns out; its usage when it names none
    Reserved,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum BeyondArg {
    /// 429 without Retry-After
    Refuse,
    /// A connection reset
    Reset,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum HeadersArg {
    /// x-ratelimit-* with resets such as 1.5s or 6m0s
    Openai,
    /// The same with resets in whole seconds
    Azure,
    /// Nothing
    None,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RetryAfterArg {
    /// Retry-After in whole seconds, and retry-after-ms
    Exact,
    /// Retry-After in whole seconds, rounded up
    Seconds,
    /// Nothing, in the message neither
    None,
}

fn counting(text: &str) -> Result<CountingArg, String> {
    match (text, text.strip_prefix("fixed=")) {
        ("bucket", _) => Ok(CountingArg::Bucket),
        ("sliding", _) => Ok(CountingArg::Sliding),
        ("fixed", _) => Ok(CountingArg::Fixed(Duration::from_secs(60))),
        (_, Some(window)) => parse_duration(window).map(CountingArg::Fixed),
        _ => Err("it must be `bucket`, `sliding`, `fixed` or `fixed=TIME`".to_owned()),
    }
}

fn change(text: &str) -> Result<Change, String> {
    let (after, factor) = text.split_once('=').ok_or("it must be TIME=FACTOR, such as 2m=0.5")?;
    let factor = factor.parse().map_err(|_| format!("`{factor}` is not a factor"))?;
    Ok(Change { after: parse_duration(after)?, factor })
}

impl LimitArgs {
    /// Writes the limits into `settings`.
    ///
    /// # Errors
    /// When flags contradict each other.
    pub(super) fn apply(&self, settings: &mut Settings) -> Result<(), String> {
        let counting = self.counting.unwrap_or_default();
        if self.burst.is_some() && self.requests_per_second.is_none() && counting != CountingArg::Bucket {
            return Err("--burst is what a bucket holds; --counting asks for none".to_owned());
        }
        let burst = |rate: Rate| self.burst.map_or(rate, |burst| rate.with_burst(burst));
        let counted = |rate: Rate| match counting {
            CountingArg::Bucket => rate,
            CountingArg::Sliding => rate.sliding(),
            CountingArg::Fixed(window) => rate.in_windows(window),
        };
        let limits = &mut settings.limits;
        let per_minute = self.requests_per_minute.map(Rate::per_minute);
        limits.requests_per_second = self.requests_per_second.map(Rate::per_second).map(burst);
        limits.requests_per_minute = per_minute.map(burst).map(counted);
        limits.tokens_per_minute = self.tokens_per_minute.map(Rate::per_minute).map(counted);
        limits.hidden_requests = per_minute.zip(self.hidden_window).map(|(rate, window)| rate.in_windows(window));
        limits.rejects_count = self.rejects_count;
        limits.charge = match self.charge {
            ChargeArg::Usage => Charge::Usage,
            ChargeArg::Reserved => Charge::Reserved,
        };
        limits.acceleration = self.slow_down_above.map(|floor| {
            let usual = Acceleration::above(floor);
            Acceleration { growth_percent: self.slow_down_growth.unwrap_or(usual.growth_percent), ..usual }
        });
        limits.max_concurrent = self.max_concurrent;
        limits.workers = self.workers;
        limits.headers = match self.limit_headers {
            HeadersArg::Openai => HeaderStyle::OpenAi,
            HeadersArg::Azure => HeaderStyle::Azure,
            HeadersArg::None => HeaderStyle::None,
        };
        limits.retry_after = match self.limit_retry_after {
            RetryAfterArg::Exact => RetryAfter::Exact,
            RetryAfterArg::Seconds => RetryAfter::Seconds,
            RetryAfterArg::None => RetryAfter::Absent,
        };
        settings.changes.clone_from(&self.scale_limits);
        settings.beyond_concurrency = match self.beyond {
            BeyondArg::Refuse => Beyond::Refuse,
            BeyondArg::Reset => Beyond::Reset,
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::simulator::limits::{Counting, Limits};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: LimitArgs,
    }

    /// The settings of a command line, or what is wrong with it.
    fn read(line: &str) -> Result<Settings, String> {
        let words = ["simulate"].into_iter().chain(line.split_whitespace());
        let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        let mut settings = Settings::default();
        line.args.apply(&mut settings)?;
        settings.check()?;
        Ok(settings)
    }

    fn limits(line: &str) -> Limits {
        read(line).unwrap().limits
    }

    #[test]
    fn no_flag_limits_nothing() {
        assert_eq!(limits(""), Limits::default());
    }

    #[test]
    fn limits_per_minute_are_counted_in_every_way() {
        let minute = |line: &str| {
            let limits = limits(&format!("--requests-per-minute 600 --tokens-per-minute 60000 {line}"));
            let (requests, tokens) = (limits.requests_per_minute.unwrap(), limits.tokens_per_minute.unwrap());
            assert_eq!(requests.counting, tokens.counting, "{line}");
            (requests.counting, requests.capacity(), tokens.capacity())
        };
        let seconds = Duration::from_secs;
        assert_eq!(minute(""), (Counting::Bucket { burst: seconds(60) }, 600, 60_000));
        assert_eq!(minute("--counting sliding"), (Counting::Sliding, 600, 60_000));
        assert_eq!(minute("--counting fixed"), (Counting::Fixed { window: seconds(60) }, 600, 60_000));
        assert_eq!(minute("--counting fixed=10s"), (Counting::Fixed { window: seconds(10) }, 100, 10_000));
        assert_eq!(minute("--counting fixed=1s"), (Counting::Fixed { window: seconds(1) }, 10, 1_000));
    }

    #[test]
    fn every_flag_of_the_limits_says_what_it_means() {
        let all = limits(
            "--requests-per-second 20 --burst 2s --requests-per-minute 600 --hidden-window 10s --rejects-count \
             --charge reserved --slow-down-above 100 --slow-down-growth 200 --max-concurrent 9 --workers 3 \
             --limit-headers azure --limit-retry-after seconds",
        );
        let expected = Limits {
            requests_per_second: Some(Rate::per_second(20).with_burst(Duration::from_secs(2))),
            requests_per_minute: Some(Rate::per_minute(600).with_burst(Duration::from_secs(2))),
            hidden_requests: Some(Rate::per_minute(600).in_windows(Duration::from_secs(10))),
            rejects_count: true,
            charge: Charge::Reserved,
            acceleration: Some(Acceleration { growth_percent: 200, ..Acceleration::above(100) }),
            max_concurrent: Some(9),
            workers: Some(3),
            headers: HeaderStyle::Azure,
            retry_after: RetryAfter::Seconds,
            ..Limits::default()
        };
        assert_eq!(all, expected);
        let none = limits("--limit-headers none --limit-retry-after none");
        assert_eq!((none.headers, none.retry_after), (HeaderStyle::None, RetryAfter::Absent));
        let changes = read("--requests-per-minute 60 --scale-limits 2m=0.5 --scale-limits 4m=1").unwrap().changes;
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        assert_eq!(changes, [Change { after: minutes(2), factor: 0.5 }, Change { after: minutes(4), factor: 1.0 }]);
    }

    #[test]
    fn flags_that_cannot_be_meant_are_refused_with_the_cure() {
        for (line, says) in [
            ("--counting sliding", "--requests-per-minute"),
            ("--requests-per-second 5 --counting fixed", "--tokens-per-minute"),
            ("--requests-per-minute 60 --counting often", "`fixed=TIME`"),
            ("--requests-per-minute 60 --counting fixed=0s", "shorter than 1ms"),
            ("--requests-per-minute 60 --counting fixed=2m", "at most as long"),
            ("--requests-per-minute 59 --counting fixed=1s", "less than one"),
            ("--requests-per-minute 59 --hidden-window 1s", "less than one"),
            ("--requests-per-minute 60 --counting sliding --burst 1s", "a bucket holds"),
            ("--tokens-per-minute 60 --burst 1s", "--requests-per-second"),
            ("--requests-per-second 5 --hidden-window 1s", "--requests-per-minute"),
            ("--rejects-count", "--requests-per-minute"),
            ("--slow-down-growth 200", "--slow-down-above"),
            ("--slow-down-above 0", "at least 1"),
            ("--workers 0", "leave it out"),
            ("--scale-limits 1m=0.5", "--requests-per-minute"),
            ("--requests-per-minute 60 --scale-limits 1m", "TIME=FACTOR"),
            ("--requests-per-minute 60 --scale-limits 1m=half", "not a factor"),
            ("--requests-per-minute 60 --scale-limits 1m=0", "above 0"),
            ("--requests-per-minute 60 --scale-limits 1m=NaN", "above 0"),
            ("--requests-per-minute 60 --counting fixed=1s --scale-limits 1m=0.5", "less than one"),
        ] {
            let problem = read(line).expect_err(line);
            assert!(problem.contains(says), "{line}: {problem}");
        }
    }
}
