//! How far a run is, in words.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Instant;
use crate::messages::Meta;

/// The rate is that of so much time; of less at the beginning.
const WINDOW: Duration = Duration::from_secs(60);

/// How often what has ended is noted.
const STEP: Duration = Duration::from_secs(1);

/// What has come of the lines so far.
#[derive(Clone, Default, Debug)]
pub(super) struct Tally {
    /// Lines of IN, where they have been counted.
    pub(super) lines: Option<u64>,
    /// Answered by runs before this one.
    pub(super) before: u64,
    /// Answered by this one.
    pub(super) answered: u64,
    /// Failed in this one.
    pub(super) failed: u64,
    tokens: u64,
    cost_usd: f64,
    /// Answers that have a price, and that have none.
    priced: u64,
    unpriced: u64,
}

impl Tally {
    /// Nothing yet, of so many lines of which runs before have answered some.
    pub(super) fn new(lines: Option<u64>, before: u64) -> Self {
        Self { lines, before, ..Self::default() }
    }

    /// A line has its answer.
    pub(super) fn answer(&mut self, meta: &Meta) {
        self.answered += 1;
        self.tokens += meta.usage.map_or(0, |usage| usage.total());
        match meta.cost_usd {
            Some(cost) => (self.cost_usd, self.priced) = (self.cost_usd + cost, self.priced + 1),
            None => self.unpriced += 1,
        }
    }

    /// Lines that this run has brought to their end.
    fn ended(&self) -> u64 {
        self.answered + self.failed
    }

    /// One line of progress, `rate` lines a second.
    pub(super) fn line(&self, rate: Option<f64>) -> String {
        let done = grouped(self.before + self.answered);
        let mut words = match self.lines {
            Some(lines) => format!("{done} of {} done", grouped(lines)),
            None => format!("{done} done"),
        };
        if self.failed > 0 {
            words += &format!(", {} failed", grouped(self.failed));
        }
        if let Some(rate) = rate {
            words += &format!("  {}", pace(rate));
        }
        words += &format!("  {} tokens", short(self.tokens));
        if self.priced > 0 {
            words += &format!("  {}", dollars(self.cost_usd));
        }
        let left = self.lines.map(|lines| lines.saturating_sub(self.before + self.ended()));
        if let (Some(left @ 1..), Some(rate)) = (left, rate.filter(|rate| *rate > 0.0)) {
            words +=
                &format!("  {} left", time(Duration::try_from_secs_f64(left as f64 / rate).unwrap_or(Duration::MAX)));
        }
        words
    }

    /// What this run has brought, for the last line.
    pub(super) fn sum(&self, took: Duration) -> String {
        let mut words = format!("{} answered", grouped(self.answered));
        if self.failed > 0 {
            words += &format!(", {} failed", grouped(self.failed));
        }
        if self.before > 0 {
            words += &format!(", {} there before", grouped(self.before));
        }
        words += &format!("; {} tokens", grouped(self.tokens));
        if self.priced > 0 {
            words += &format!(", {}", dollars(self.cost_usd));
            if self.unpriced > 0 {
                words += &format!(" (answers without a price: {})", grouped(self.unpriced));
            }
        }
        format!("{words}; {}", time(took))
    }
}

/// How fast lines end.
#[derive(Debug)]
pub(super) struct Pace {
    /// When so many had ended, a step apart; the first may lie before the window.
    notes: VecDeque<(Instant, u64)>,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { notes: [(now, 0)].into() }
    }

    /// Lines a second, of late; `None` before there is anything to go by.
    pub(super) fn rate(&mut self, tally: &Tally, now: Instant) -> Option<f64> {
        if self.notes.back().is_none_or(|(at, _)| *at + STEP <= now) {
            self.notes.push_back((now, tally.ended()));
        }
        while self.notes.get(1).is_some_and(|(at, _)| *at + WINDOW <= now) {
            self.notes.pop_front();
        }
        let (since, ended) = *self.notes.front()?;
        let time = now.saturating_duration_since(since);
        (time >= STEP && tally.ended() > 0).then(|| (tally.ended() - ended) as f64 / time.as_secs_f64())
    }
}

/// A rate in the unit that gives it a whole part.
fn pace(rate: f64) -> String {
    match rate {
        rate if rate >= 10.0 => format!("{rate:.0}/s"),
        rate if rate >= 1.0 => format!("{rate:.1}/s"),
        rate if rate * 60.0 >= 1.0 => format!("{:.0}/min", rate * 60.0),
        rate => format!("{:.0}/h", rate * 3_600.0),
    }
}

/// Digits in groups of three.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number with three figures.
fn short(number: u64) -> String {
    let units = [(1e9, "G"), (1e6, "M"), (1e3, "k")];
    match units.into_iter().find(|(unit, _)| number as f64 >= *unit) {
        None => number.to_string(),
        Some((unit, name)) => match number as f64 / unit {
            part if part < 10.0 => format!("{part:.2}{name}"),
            part if part < 100.0 => format!("{part:.1}{name}"),
            part => format!("{part:.0}{name}"),
        },
    }
}

fn dollars(amount: f64) -> String {
    if amount < 1.0 { format!("US$ {amount:.4}") } else { format!("US$ {amount:.2}") }
}

/// A duration by its two greatest units.
pub(super) fn time(time: Duration) -> String {
    let seconds = time.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (1_000.., ..) => "years".to_owned(),
        (1.., ..) => format!("{days}d {hours}h"),
        (0, 1.., _) => format!("{hours}h {minutes}m"),
        (0, 0, 1..) => format!("{minutes}m {}s", seconds % 60),
        _ => format!("{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::messages::Usage;

    fn answered(cost_usd: Option<f64>) -> Meta {
        let usage = Some(Usage { input_tokens: 1_000, output_tokens: 234, ..Usage::default() });
        Meta { usage, cost_usd, ..Meta::default() }
    }

    #[test]
    fn a_line_says_done_failed_rate_tokens_cost_and_what_is_left() {
        let mut tally = Tally { lines: Some(50_000), before: 10_000, ..Tally::default() };
        assert_eq!(tally.line(None), "10,000 of 50,000 done  0 tokens");
        (0..2_000).for_each(|_| tally.answer(&answered(Some(0.001))));
        tally.failed = 3;
        let line = tally.line(Some(40.0));
        assert_eq!(line, "12,000 of 50,000 done, 3 failed  40/s  2.47M tokens  US$ 2.00  15m 49s left");
        tally.lines = None;
        assert_eq!(tally.line(Some(0.02)), "12,000 done, 3 failed  1/min  2.47M tokens  US$ 2.00");
    }

    #[test]
    fn a_line_fits_a_terminal_and_says_no_price_where_there_is_none() {
        let mut tally = Tally { lines: Some(1_000_000), before: 888_888, failed: 88_888, ..Tally::default() };
        tally.answer(&answered(Some(99_999.0)));
        assert!(tally.line(Some(0.01)).len() < 90, "{}", tally.line(Some(0.01)));
        let mut tally = Tally { lines: Some(1), ..Tally::default() };
        tally.answer(&answered(None));
        assert_eq!(tally.line(Some(1.0)), "1 of 1 done  1.0/s  1.23k tokens");
        assert_eq!(tally.sum(Duration::from_secs(3_700)), "1 answered; 1,234 tokens; 1h 1m");
        tally.answer(&answered(Some(0.5)));
        let sum = "2 answered; 2,468 tokens, US$ 0.5000 (answers without a price: 1); 0s";
        assert_eq!(tally.sum(Duration::ZERO), sum);
    }

    #[test]
    fn the_rate_is_that_of_the_last_minute() {
        let start = clock::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let (mut pace, mut tally) = (Pace::new(start), Tally::default());
        assert_eq!(pace.rate(&tally, at(0)), None);
        for second in 1..=100 {
            tally.answered += 2;
            assert_eq!(pace.rate(&tally, at(second)), Some(2.0));
        }
        for second in 101..=160 {
            pace.rate(&tally, at(second));
        }
        assert_eq!(pace.rate(&tally, at(160)), Some(0.0), "nothing ended for a minute");
        assert!(tally.line(Some(0.0)).contains("0/h"));
    }

    #[test]
    fn numbers_and_times_are_short() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([9, 1_234, 45_678, 999_000, 7_654_321].map(short), ["9", "1.23k", "45.7k", "999k", "7.65M"]);
        let times = [5, 65, 7_300, 90_000, 1 << 40].map(|seconds| time(Duration::from_secs(seconds)));
        assert_eq!(times, ["5s", "1m 5s", "2h 1m", "1d 1h", "years"]);
    }
}
