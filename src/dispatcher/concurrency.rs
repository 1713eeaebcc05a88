//! How many attempts an account takes at once, where nobody says: found out, remembered, and tried again now and then.
//!
//! *Known* is only what was refused and what was taken. It starts with [`START`] and grows by one for every attempt that
//! was taken while the window was full, until something is refused: a 429 that the rate cannot explain, or a connection
//! that is refused or reset at once. Then the number in flight is what the account takes, and from there it *creeps*:
//! one probe at a time goes beyond the window; one that is refused doubles the wait for the next, one that is taken lets
//! the window grow again. Faults at random must not starve it, so a single refusal below the full window teaches
//! nothing: two in a row do. An attempt that was refused while it was alone teaches that the number is not to blame,
//! and gives back what was taken before; 429s while more at once were taken are the rate's ([`loads`]). After an
//! overload half of what went before goes, and grows back.
//!
//! A server may also refuse nothing and only become slow: that is [`Knee`]'s part. The window is the least of what
//! refusals, the knee and the operator's cap allow.

mod attempt;
mod loads;
mod memory;

use std::time::Duration;

pub(crate) use self::attempt::{End, Mark, Room};
use self::loads::Loads;
pub(crate) use self::memory::Learned;
use super::knee::{Knee, Seen};
use crate::clock::Instant;

/// In flight at once on an account of which nothing is known.
const START: usize = 16;
/// A connection lost sooner than this after the send was not wanted; one lost later broke.
const FAST: Duration = Duration::from_secs(1);
/// A probe that was not refused for so long is taken: answers may be minutes away. Where refusals take longer, so does
/// patience.
const PATIENCE: Duration = Duration::from_secs(2);
const LONGEST_PATIENCE: Duration = Duration::from_secs(60);
/// After the first refusal, which may have been chance, a probe follows soon.
const SOON: Duration = Duration::from_secs(1);
/// Between probes that are refused.
const FIRST_WAIT: Duration = Duration::from_secs(5);
const LONGEST_WAIT: Duration = Duration::from_secs(120);
/// One attempt in so many may be a probe that is refused.
const PROBED: u32 = 150;
/// So many probes in a row that are taken show that there is far more room than was believed.
const STREAK: u32 = 3;
/// Nobody takes more at once.
const SANE: usize = 1 << 20;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Growth {
    /// One more for every attempt that was taken, until so many.
    Fast { until: usize },
    /// The first refusal may have been chance: a probe that is taken lets it grow as before.
    Checking,
    /// One probe at a time.
    Creeping,
}

#[derive(Clone, Copy, Debug)]
struct Probe {
    number: u64,
    sent: Instant,
}

/// Refusals without an attempt between that was sent after the last cut and taken.
#[derive(Clone, Copy, Debug)]
struct Episode {
    /// The window before it.
    window: usize,
}

/// How many at once, for one account.
#[derive(Debug)]
pub(crate) struct Concurrency {
    /// The operator's cap, or what there is of slots.
    most: usize,
    /// What refusals, and their absence, have taught.
    limit: usize,
    growth: Growth,
    /// The probe that is out.
    probe: Option<Probe>,
    probe_at: Instant,
    patience: Duration,
    /// How long after a refused probe the next is due.
    probe_wait: Duration,
    /// Attempts started until a probe was refused last, and when that was.
    probed: (u64, Instant),
    /// Probes taken since one was refused.
    streak: u32,
    /// Attempts started so far; an attempt's number is how many started before it.
    started: u64,
    /// Attempts of lower numbers were sent before the last cut.
    cut: u64,
    /// An attempt sent since then was taken.
    was_taken: bool,
    /// The last attempt that filled the window.
    full: Option<u64>,
    /// The last attempt that was refused, of those sent after the last cut.
    refused: Option<u64>,
    /// How many were in flight when one was refused last.
    refused_at: Option<usize>,
    episode: Option<Episode>,
    loads: Loads,
    /// The provider tells of its limits.
    is_told: bool,
    knee: Knee,
}

impl Concurrency {
    /// Nothing is known, but that it may never be more than `most` (at least one).
    pub(crate) fn new(most: usize, now: Instant) -> Self {
        Self {
            most: most.max(1),
            limit: START,
            growth: Growth::Fast { until: usize::MAX },
            probe: None,
            probe_at: now,
            patience: PATIENCE,
            probe_wait: FIRST_WAIT,
            probed: (0, now),
            streak: 0,
            started: 0,
            cut: 0,
            was_taken: false,
            full: None,
            refused: None,
            refused_at: None,
            episode: None,
            loads: Loads::default(),
            is_told: false,
            knee: Knee::default(),
        }
    }

    /// Another upper bound from now on. What was learned stays learned; what is in flight above it ends as it will.
    pub(crate) fn set_most(&mut self, most: usize) {
        self.most = most.max(1);
    }

    /// Whether the provider tells of its limits: then they bound it, and the number only starts without a leap.
    pub(crate) fn set_told(&mut self, is_told: bool) {
        self.is_told = is_told;
    }

    /// A rate keeps calls back.
    pub(crate) fn kept_by_rate(&mut self, now: Instant) {
        self.knee.kept_by_rate(now);
    }

    /// How many may be in flight, probes aside: 1 to `most`.
    pub(crate) fn window(&self) -> usize {
        self.limit.min(self.knee.limit()).clamp(1, self.most)
    }

    /// The upper bound.
    pub(crate) fn most(&self) -> usize {
        self.most
    }

    /// How many may be in flight, a probe with them.
    pub(crate) fn at_most(&self) -> usize {
        (self.window() + 1).min(self.most)
    }

    /// When a probe that is out is taken for taken, which makes room: the one thing that time alone changes.
    pub(crate) fn probe_settles_at(&self) -> Option<Instant> {
        self.probe.map(|probe| probe.sent + self.patience)
    }

    /// May one more start now, beside `in_flight`?
    pub(crate) fn ready(&mut self, now: Instant, in_flight: usize) -> Room {
        self.settle_probe(now);
        let window = self.window();
        if in_flight < window {
            return Room::Go;
        }
        // Beyond the window goes a probe only, one at a time, and only where refusals are what bounds it.
        let is_beyond = in_flight > window + usize::from(self.probe.is_some());
        if self.is_growing() || is_beyond || window < self.limit || window == self.most {
            return Room::WhenOneEnds;
        }
        let due = self.probe_settles_at().unwrap_or(self.probe_at);
        if due > now { Room::At(due) } else { Room::Go }
    }

    /// An attempt starts; `in_flight` counts it. Attempts of one `kind` are alike in how long they take (a model,
    /// streamed or not).
    pub(crate) fn started(&mut self, now: Instant, in_flight: usize, kind: u32) -> Mark {
        self.settle_probe(now);
        let (number, window) = (self.started, self.window());
        self.started += 1;
        if !self.is_growing() && in_flight > window && self.probe.is_none() && now >= self.probe_at {
            self.probe = Some(Probe { number, sent: now });
        }
        let is_top = in_flight >= window;
        if is_top {
            self.full = Some(number);
        }
        let is_growing =
            self.growth == (Growth::Fast { until: usize::MAX }) && window == self.limit && window < self.most;
        let sample = self.knee.started(in_flight, window, is_growing, kind);
        let sure_load = in_flight.saturating_sub(self.loads.on_the_wire(now));
        Mark { number, sent: now, load: in_flight, sure_load, is_top, is_heard: false, sample }
    }

    /// The first of an answer has come: the attempt was taken, and the window may be wider. `took` as in
    /// [`End::Answered`].
    pub(crate) fn heard(&mut self, mark: &mut Mark, took: Option<Duration>, now: Instant) {
        if std::mem::replace(&mut mark.is_heard, true) {
            return;
        }
        self.settle_probe(now);
        self.loads.note(mark.sent, mark.sure_load, now);
        if self.is_probe(mark) {
            self.probe_taken(now);
        } else {
            self.taken(mark, now);
        }
        if mark.number >= self.cut {
            self.was_taken = true;
            self.episode = None;
        }
        let seen = took.map_or(Seen::Untimed, Seen::Took);
        self.knee.ended(&mut mark.sample, seen, self.limit.min(self.most), now);
    }

    /// An attempt has ended and left `in_flight` others. Says whether it is a sign of too many at once: a 429 without a
    /// time that is not is the rate's.
    pub(crate) fn ended(&mut self, mut mark: Mark, end: End, now: Instant, in_flight: usize) -> bool {
        self.settle_probe(now);
        let is_sign = match end {
            End::Answered { took } => {
                self.heard(&mut mark, took, now);
                false
            }
            End::Rejected { rate_is_suspect } => {
                let is_rate = rate_is_suspect || self.loads.contradict(mark.load, now);
                let is_likely = self.is_probe(&mark) || !is_rate;
                is_likely && self.refused(&mark, now, in_flight)
            }
            End::Lost if !self.is_told && !mark.is_heard && now.saturating_duration_since(mark.sent) < FAST => {
                self.refused(&mark, now, in_flight)
            }
            End::Overloaded if self.is_probe(&mark) => self.refused(&mark, now, in_flight),
            End::Overloaded => {
                if mark.number >= self.cut {
                    self.start_over(now);
                }
                false
            }
            End::Lost | End::Unrelated => false,
        };
        if self.is_probe(&mark) {
            // It ended without saying anything.
            self.probe = None;
            self.probe_at = now + if end == End::Unrelated { Duration::ZERO } else { SOON };
        }
        self.knee.ended(&mut mark.sample, Seen::Nothing, self.limit.min(self.most), now);
        is_sign
    }

    /// After an overload or a hold: half of what went before, at most [`START`] where no limit has shown, and back to it
    /// by one for every attempt that is taken.
    pub(crate) fn start_over(&mut self, now: Instant) {
        let window = self.window();
        let until = match self.growth {
            // The same overload still.
            Growth::Fast { until } if until < usize::MAX && !self.was_taken => until,
            _ => window,
        };
        let half = (window / 2).max(1);
        self.limit = if self.refused_at.is_none() { half.min(START) } else { half };
        self.growth = Growth::Fast { until };
        self.probe_at = now + SOON;
        self.cut();
    }

    /// Attempts sent so far say little of what may go from now on.
    fn cut(&mut self) {
        self.cut = self.started;
        self.was_taken = false;
    }

    fn is_growing(&self) -> bool {
        matches!(self.growth, Growth::Fast { .. })
    }

    fn is_probe(&self, mark: &Mark) -> bool {
        self.probe.is_some_and(|probe| probe.number == mark.number)
    }

    /// A probe that is out for long was not refused. It also may never be heard of again: it must not keep others back.
    pub(crate) fn settle_probe(&mut self, now: Instant) {
        if self.probe_settles_at().is_some_and(|at| at <= now) {
            self.probe_taken(now);
        }
    }

    /// There is room for one more. Chance may have made it: slots are free for a moment when answers are on their way.
    fn probe_taken(&mut self, now: Instant) {
        self.probe = None;
        self.limit += 1;
        self.probe_at = now + SOON;
        self.streak += 1;
        if self.streak >= STREAK || self.growth == Growth::Checking {
            self.growth = Growth::Fast { until: usize::MAX };
            self.probe_wait = FIRST_WAIT;
        }
    }

    /// There is no more room than was believed: it is tried again later and later, but not so late that it would cost far
    /// less than one attempt in [`PROBED`].
    fn probe_refused(&mut self, now: Instant) {
        let (started, since) = std::mem::replace(&mut self.probed, (self.started, now));
        let each =
            now.saturating_duration_since(since) / u32::try_from(self.started - started).unwrap_or(u32::MAX).max(1);
        let longest = (each * PROBED).clamp(FIRST_WAIT, LONGEST_WAIT);
        self.streak = 0;
        self.growth = Growth::Creeping;
        self.probe_wait = (self.probe_wait * 2).min(longest);
        self.probe_at = now + self.probe_wait;
    }

    fn taken(&mut self, mark: &Mark, now: Instant) {
        let Growth::Fast { until } = self.growth else { return };
        // What the knee, the cap or the rate keeps back shows nothing of what would be refused.
        // Of a provider that tells of its limits the number is no news: the window is but a start that is not a leap.
        let shows = self.was_full(mark) || (self.is_told && until == usize::MAX);
        if shows && self.window() == self.limit && self.limit < self.most {
            self.limit += 1;
            if self.limit >= until {
                self.growth = Growth::Creeping;
                self.probe_at = now + SOON;
            }
        }
    }

    /// Whether the window has been full since the attempt started.
    fn was_full(&self, mark: &Mark) -> bool {
        self.full.is_some_and(|full| mark.number <= full)
    }

    /// An attempt was refused in a way that the number in flight may explain. Says whether it does.
    fn refused(&mut self, mark: &Mark, now: Instant, in_flight: usize) -> bool {
        let is_probe = self.is_probe(mark);
        if mark.load <= 1 && mark.number + 1 == self.started {
            // One is never too many. Where several were refused before it, that was not for their number either.
            if let Some(episode) = self.episode.filter(|episode| episode.window > self.limit) {
                self.growth = Growth::Fast { until: episode.window };
            }
            return false;
        }
        let late = now.saturating_duration_since(mark.sent) * 2;
        self.patience = self.patience.max(late).min(LONGEST_PATIENCE);
        let window = self.window();
        self.episode.get_or_insert(Episode { window });
        if is_probe {
            self.refused_at = Some(mark.load);
            self.probe = None;
            self.probe_refused(now);
        } else if mark.number < self.cut {
            // Sent before the cut: there was still one too many.
            self.limit = self.limit.min(in_flight.max(window.saturating_sub(1))).max(1);
            self.probe_at = self.probe_at.max(now + self.probe_wait);
        } else {
            let is_in_a_row = self.refused.is_some_and(|before| mark.number.abs_diff(before) <= 2);
            self.refused = Some(mark.number);
            let is_growing = self.is_growing();
            // What has just been found is on trial: there, one refusal is enough.
            let is_on_trial = self.streak > 0 && mark.is_top;
            if is_in_a_row || is_on_trial || (is_growing && self.was_full(mark)) {
                self.refused_at = Some(mark.load);
                self.limit = in_flight.min(if is_growing { window } else { window - 1 }).max(1);
                self.cut();
                if is_growing {
                    self.growth = Growth::Checking;
                    self.streak = 0;
                    self.probe_at = now + SOON;
                } else if is_on_trial {
                    self.probe_refused(now);
                } else {
                    self.probe_at = now + FIRST_WAIT;
                }
            }
        }
        true
    }
}

#[cfg(test)]
mod tests;
