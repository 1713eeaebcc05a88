//! Is the upstream there at all? A breaker tells an upstream that fails every call from one that fails some, so that calls
//! do not queue up for what will not answer them.
//!
//! It opens when [`ROW`] attempts in a row have failed and nothing was answered for [`SILENCE`], over all accounts and
//! models of the upstream. While it is open calls go elsewhere or end at once; one call a second may go there all the same,
//! as a probe, and the first answer of any attempt closes it. Without callers nothing is probed, and nothing needs to be:
//! the first call that comes after a second is the probe.
//!
//! What counts is whether somebody is there ([`Sign`]), not whether a call succeeded: a 400 is an answer. So is a 429: it
//! says that the upstream lives and counts, and what it asks for is the budget's business. A rate limit never opens a
//! breaker, and breaks a row of failures.

use std::time::Duration;

use crate::clock::Instant;
use crate::messages::{AttemptEnd, BreakerStatus, Failure, FailureKind};

/// So many attempts fail in a row.
const ROW: u32 = 20;

/// And so long nothing is answered.
const SILENCE: Duration = Duration::from_secs(10);

/// Between one probe and the next, whether that has come back or not: one that hangs must not keep it open.
const PAUSE: Duration = Duration::from_secs(1);

/// What the end of an attempt says of the upstream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Sign {
    /// It answered, if only to refuse.
    Life,
    /// It failed, in these words.
    Failure(String),
    /// Nothing: the attempt was called off, or failed on our side.
    Nothing,
}

impl Sign {
    pub(crate) fn of(end: &AttemptEnd) -> Self {
        match end {
            AttemptEnd::Answered { .. } | AttemptEnd::Streamed { broken: None, .. } => Sign::Life,
            AttemptEnd::Streamed { broken: Some(failure), .. } | AttemptEnd::Failed(failure) => {
                Self::of_failure(failure)
            }
            AttemptEnd::Aborted | AttemptEnd::Withheld(_) => Sign::Nothing,
        }
    }

    fn of_failure(failure: &Failure) -> Self {
        match failure.kind {
            FailureKind::Crashed | FailureKind::Untranslatable => return Sign::Nothing,
            FailureKind::RateLimited | FailureKind::OutOfQuota | FailureKind::KeyRefused => return Sign::Life,
            _ => {}
        }
        match failure.status() {
            Some(408 | 409) => Sign::Failure(failure.message.clone()),
            Some(400..=499) => Sign::Life,
            _ => Sign::Failure(failure.message.clone()),
        }
    }
}

/// An upstream's breaker.
#[derive(Clone, Debug, Default)]
pub(crate) struct Breaker {
    /// Attempts that have failed since one was answered.
    failed: u32,
    /// Since when nothing was answered although it was asked: from the last answer on, or from the start of the first
    /// attempt of the row where that is later. A lull is no silence.
    silent_since: Option<Instant>,
    answered: Option<Instant>,
    /// The last failure, for callers.
    last: String,
    open: Option<Open>,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    since: Instant,
    /// When the next probe may go.
    probe_at: Instant,
}

impl Breaker {
    /// An attempt was answered. Gives how long the breaker was open, if it was.
    pub(crate) fn answered(&mut self, now: Instant) -> Option<Duration> {
        let was_open = self.open.map(|open| now.saturating_duration_since(open.since));
        *self = Self { answered: Some(now), ..Self::default() };
        was_open
    }

    /// An attempt that had started at `asked` has failed.
    pub(crate) fn failed(&mut self, asked: Instant, why: String) {
        if self.failed == 0 {
            self.silent_since = Some(self.answered.map_or(asked, |answered| answered.max(asked)));
        }
        self.failed = self.failed.saturating_add(1);
        self.last = why;
    }

    /// Opens when it is time to. Says whether it has opened just now.
    pub(crate) fn opens(&mut self, now: Instant) -> bool {
        let opens = self.opens_at().is_some_and(|at| at <= now);
        if opens {
            self.open = Some(Open { since: now, probe_at: now + PAUSE });
        }
        opens
    }

    /// When it will open unless something is answered before; `None` when more must fail first, or it is open.
    pub(crate) fn opens_at(&self) -> Option<Instant> {
        let is_near = self.open.is_none() && self.failed >= ROW;
        self.silent_since.filter(|_| is_near).map(|since| since + SILENCE)
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// How long until a call may go as a probe; `None` when the breaker is closed, or one may go now.
    pub(crate) fn probe_in(&self, now: Instant) -> Option<Duration> {
        let wait = self.open?.probe_at.saturating_duration_since(now);
        Some(wait).filter(|wait| !wait.is_zero())
    }

    /// A call goes as a probe.
    pub(crate) fn probe(&mut self, now: Instant) {
        if let Some(open) = &mut self.open {
            open.probe_at = now + PAUSE;
        }
    }

    /// How many failed in a row, how long nothing was answered, and the last failure.
    pub(crate) fn why(&self, now: Instant) -> (u32, Duration, &str) {
        let silent = self.silent_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        (self.failed, silent, &self.last)
    }

    pub(crate) fn status(&self, now: Instant) -> BreakerStatus {
        let seconds = |since: Instant| now.saturating_duration_since(since).as_secs_f64();
        BreakerStatus {
            is_open: self.is_open(),
            failed_in_a_row: self.failed,
            silent_for_s: self.silent_since.map(seconds),
            open_for_s: self.open.map(|open| seconds(open.since)),
            next_probe_in_s: self.open.map(|open| open.probe_at.saturating_duration_since(now).as_secs_f64()),
            last_failure: self.silent_since.map(|_| self.last.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::messages::{Headers, LimitReport, Phase, Sent};
    use bytes::Bytes;

    fn s(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    fn after(count: u32, asked: Instant) -> Breaker {
        let mut breaker = Breaker::default();
        (0..count).for_each(|_| breaker.failed(asked, "cut".into()));
        breaker
    }

    #[test]
    fn it_opens_behind_twenty_failures_in_a_row_and_ten_seconds_without_an_answer() {
        let start = clock::now();
        for (failures, silence, opens) in [(19, 100.0, false), (20, 9.9, false), (20, 10.0, true), (50, 10.0, true)] {
            let mut breaker = after(failures, start);
            assert_eq!(breaker.opens(start + s(silence)), opens, "{failures} failures, {silence} s");
            assert_eq!(breaker.is_open(), opens);
            assert!(!breaker.opens(start + s(silence)), "it opens once");
        }
        assert_eq!(after(20, start).opens_at(), Some(start + SILENCE));
        assert_eq!(after(19, start).opens_at(), None);
    }

    #[test]
    fn an_answer_breaks_the_row_and_the_silence_and_a_lull_is_no_silence() {
        let start = clock::now();
        let mut breaker = after(19, start);
        assert_eq!(breaker.answered(start + s(9.0)), None, "it was not open");
        (0..20).for_each(|_| breaker.failed(start, "cut".into()));
        assert!(!breaker.opens(start + s(18.9)), "those began before the answer");
        assert!(breaker.opens(start + s(19.0)));
        let mut idle = Breaker::default();
        idle.answered(start);
        let now = start + s(3_600.0);
        (0..20).for_each(|_| idle.failed(now, "cut".into()));
        assert!(!idle.opens(now), "an hour without calls is no hour of silence");
    }

    #[test]
    fn one_call_a_second_may_go_as_a_probe_and_any_answer_closes_it() {
        let start = clock::now();
        let mut breaker = after(20, start);
        assert_eq!(breaker.probe_in(start), None, "it is closed");
        assert!(breaker.opens(start + SILENCE));
        let opened = start + SILENCE;
        assert_eq!(breaker.probe_in(opened + s(0.25)), Some(s(0.75)));
        assert_eq!(breaker.probe_in(opened + s(7.0)), None, "nobody called, and the next call may go");
        breaker.probe(opened + s(7.0));
        breaker.failed(opened + s(7.0), "refused".into());
        assert_eq!(breaker.probe_in(opened + s(7.0)), Some(s(1.0)));
        assert_eq!(breaker.why(opened + s(8.0)), (21, s(18.0), "refused"));
        breaker.probe(opened + s(8.0));
        assert_eq!(breaker.answered(opened + s(8.5)), Some(s(8.5)));
        assert!(!breaker.is_open() && breaker.opens_at().is_none());
    }

    #[test]
    fn a_429_and_every_other_4xx_but_408_and_409_are_signs_of_life() {
        let answer = |status| {
            let mut failure = Failure::new(FailureKind::Status, Sent::Maybe, "", "");
            failure.answer = Some((status, Headers::new(), Bytes::new()));
            AttemptEnd::Failed(failure)
        };
        for status in [400, 402, 403, 404, 413, 418, 422, 429] {
            assert_eq!(Sign::of(&answer(status)), Sign::Life, "{status}");
        }
        for status in [301, 307, 408, 409, 500, 502, 503, 504, 529] {
            assert_eq!(Sign::of(&answer(status)), Sign::Failure(String::new()), "{status}");
        }
        let failed = |kind| Sign::of(&AttemptEnd::Failed(Failure::new(kind, Sent::Maybe, "", "")));
        use FailureKind::*;
        for kind in [Unreachable, Certificate, Cut, Timeout(Phase::FirstByte), Malformed, TooLarge, StreamError] {
            assert_eq!(failed(kind), Sign::Failure(String::new()), "{kind:?}");
        }
        for kind in [RateLimited, OutOfQuota, KeyRefused] {
            assert_eq!(failed(kind), Sign::Life, "{kind:?}");
        }
        for kind in [Crashed, Untranslatable] {
            assert_eq!(failed(kind), Sign::Nothing, "{kind:?}");
        }
        assert_eq!(Sign::of(&AttemptEnd::Aborted), Sign::Nothing);
        let (headers, limits) = (Headers::new(), LimitReport::default());
        let answered = AttemptEnd::Answered { status: 200, headers, body: Bytes::new(), usage: None, limits };
        assert_eq!(Sign::of(&answered), Sign::Life);
        let broken = Some(Failure::new(Cut, Sent::Maybe, "cut", ""));
        assert_eq!(Sign::of(&AttemptEnd::Streamed { usage: None, broken }), Sign::Failure("cut".into()));
    }
}
