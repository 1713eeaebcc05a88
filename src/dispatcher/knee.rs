//! How many at once a server takes that refuses nothing and only becomes slow: the knee of its times.
//!
//! With fewer in flight than it can work at, a server's times do not depend on the number. With more, the rest queue: the
//! times rise in step with the number, and no more is done. So the times of cohorts are compared ([`cohort`]) with the
//! *floor*, what they are without a queue; a seventh above it is aimed at, where a server is hardly ever idle.
//!
//! Times well above the floor have two explanations, a queue or longer answers, and they are told apart by trying
//! ([`trial`]): with fewer in flight a queue becomes shorter, and longer answers do not. If the times fell there was a
//! queue, and the limit goes to where they are a seventh above the floor. If they did not, they are the new floor and the
//! limit is what it was; that is not tried again so soon. A trial costs throughput, so a level that was calm lately is
//! gone back to first.
//!
//! A floor may be wrong, too. If it is too high, there is a queue that nobody sees: it is looked into now and then by a
//! cut. If it is too low, there seems to be one where there is none: that is looked into by going higher.
//!
//! Durations may be whatever shows a queue: whole answers, or the time to a stream's first event.

mod cohort;
mod trial;

use std::collections::VecDeque;
use std::time::Duration;

use self::cohort::{Cohort, Floor, Point};
use self::trial::{Trial, Verdict};
use crate::clock::Instant;

/// Cohorts that may wait for their last attempts; when there are more, the oldest is judged as it is.
const OPEN: usize = 16;
/// Times so much above the floor are looked into.
const SLOW: f64 = 1.4;
/// What is aimed at.
const AIM: f64 = 1.15;
/// Below this there is no queue to speak of, and room for more.
const CALM: f64 = 1.1;
/// The times of shorter answers.
const SHORT: f64 = 0.8;
/// A level is long what it is after so many good means.
const LONG: f64 = 6.0;
/// The fewest attempts from which anything is believed that does not have to be believed soon.
const FEW: usize = 48;
/// A calm level is gone back to for so long.
const FRESH: Duration = Duration::from_secs(300);
/// Longer answers are not looked into again so soon after a cut that was of no use, twice as long each time; and a level
/// that was too much is not gone to again.
const COOL: Duration = Duration::from_secs(60);
const LONGEST_COOL: Duration = Duration::from_secs(1_800);
/// But with so much more in flight they are.
const BEYOND: f64 = 1.5;
/// A floor is looked into after so long: one that may be of times with a queue in them, and one that was not.
const UNSURE_FOR: Duration = Duration::from_secs(180);
const SURE_FOR: Duration = Duration::from_secs(900);
/// Where there are not callers enough to fill the window, so many at once are needed for a queue worth looking into.
const CROWD: f64 = 16.0;
/// Behind a call that a rate has kept back there is no queue for so long.
const KEPT_FOR: Duration = Duration::from_secs(10);

/// An attempt's place in its cohort.
#[derive(Debug)]
pub(crate) struct Sample {
    /// `None` once its time is known, or known not to come.
    cohort: Option<u64>,
    kind: u32,
}

/// What there is to see of an attempt.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Seen {
    /// It was answered, and took so long.
    Took(Duration),
    /// It was answered, and nobody says how long that took.
    Untimed,
    /// It ended otherwise.
    Nothing,
}

/// Waits, each twice as long as the one before.
#[derive(Clone, Copy, Debug)]
struct Patience {
    until: Option<Instant>,
    load: f64,
    next: Duration,
}

impl Patience {
    const NEW: Self = Self { until: None, load: 0.0, next: COOL };

    fn start(&mut self, now: Instant, load: f64) {
        (self.until, self.load) = (Some(now + self.next), load);
        self.next = (self.next * 2).min(LONGEST_COOL);
    }

    fn is_on(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }
}

/// How many at once keep the times near their floor.
#[derive(Debug)]
pub(crate) struct Knee {
    limit: Option<usize>,
    trial: Option<Trial>,
    cohorts: VecDeque<Cohort>,
    /// The number of the first of `cohorts`.
    first: u64,
    floor: Floor,
    /// The most in flight at which the floor was seen, and from how many attempts.
    floor_load: f64,
    floor_count: f64,
    /// The floor was seen where times did not fall any more.
    is_sure: bool,
    check_at: Option<Instant>,
    /// What the times usually are above the floor, at the limit.
    usual: f64,
    was_slow: bool,
    /// The last limit at which there was no queue to speak of.
    calm: Option<(usize, Instant)>,
    /// A limit that was too much, though the one below was calm.
    too_much: Patience,
    /// What the times came to since the limit changed.
    level: Option<Point>,
    /// A limit beyond which the times rose with the load.
    too_high: Patience,
    /// A load at which a cut was of no use.
    no_use: Patience,
    /// How many attempts make a good mean.
    needed: usize,
    /// When a rate last kept a call back.
    kept_at: Option<Instant>,
}

impl Default for Knee {
    fn default() -> Self {
        Self {
            limit: None,
            trial: None,
            cohorts: VecDeque::new(),
            first: 0,
            floor: Floor::default(),
            floor_load: 0.0,
            floor_count: 0.0,
            is_sure: false,
            check_at: None,
            usual: 0.0,
            was_slow: false,
            calm: None,
            too_much: Patience::NEW,
            level: None,
            too_high: Patience::NEW,
            no_use: Patience::NEW,
            needed: FEW,
            kept_at: None,
        }
    }
}

impl Knee {
    /// The limit that was remembered.
    pub(crate) fn recall(&mut self, limit: Option<usize>) {
        self.trial = None;
        self.set_limit(limit);
    }

    /// At most so many at once; `usize::MAX` while no knee has shown.
    pub(crate) fn limit(&self) -> usize {
        self.limit.unwrap_or(usize::MAX)
    }

    /// A rate keeps calls back, the user's or the provider's: a server that keeps up with it has no queue.
    pub(crate) fn kept_by_rate(&mut self, now: Instant) {
        self.kept_at = Some(now);
    }

    /// An attempt starts, as one of `load` in a window of `window`; `is_growing`: with every answer.
    pub(crate) fn started(&mut self, load: usize, window: usize, is_growing: bool, kind: u32) -> Sample {
        if self.cohorts.back().is_none_or(Cohort::is_complete) {
            // While it grows, or is cut, soon is better than exact.
            let needed = match (is_growing, self.trial) {
                (true, _) => 0,
                (false, Some(_)) => self.needed / 2,
                (false, None) => self.needed,
            };
            self.cohorts.push_back(Cohort::new(load.max(needed), is_growing));
        }
        let number = self.first + self.cohorts.len() as u64 - 1;
        let kind = self.cohorts.back_mut().map_or(kind, |cohort| cohort.start(load, load >= window, kind));
        Sample { cohort: Some(number), kind }
    }

    /// What there is to see of an attempt has been seen; only the first time counts. `room` is what else bounds the window.
    pub(crate) fn ended(&mut self, sample: &mut Sample, seen: Seen, room: usize, now: Instant) {
        let Some(number) = sample.cohort.take() else { return };
        let at = number.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        let Some(cohort) = at.and_then(|at| self.cohorts.get_mut(at)) else { return };
        cohort.end(sample.kind, seen);
        while self.cohorts.front().is_some_and(Cohort::is_over) || self.cohorts.len() > OPEN {
            let Some(cohort) = self.cohorts.pop_front() else { break };
            self.first += 1;
            if cohort.is_untimed() {
                self.let_go(room);
                continue;
            }
            let Some(point) = self.floor.measure(cohort) else { continue };
            // A queue makes times alike, but not the mean of few of them surer: they share their waits.
            self.needed = point.needed.max(FEW);
            match self.trial {
                Some(trial) => self.settle(trial, point, room, now),
                None => self.watch(point, room, now),
            }
        }
    }

    /// Another limit: attempts that are under way say nothing of it.
    fn set_limit(&mut self, limit: Option<usize>) {
        self.limit = limit.map(|limit| limit.max(1));
        self.level = None;
        self.was_slow = false;
        self.first += self.cohorts.len() as u64;
        self.cohorts.clear();
    }

    /// The floor is what these times are.
    fn set_floor(&mut self, point: Point, is_sure: bool) {
        self.floor.shift(point.above);
        (self.floor_load, self.floor_count) = (point.load, point.count);
        self.usual = 0.0;
        (self.is_sure, self.check_at) = (is_sure, None);
    }

    /// Times are not told any more: without them no limit can be held.
    fn let_go(&mut self, room: usize) {
        let before = self.trial.take().map_or(self.limit, |trial| trial.before);
        self.set_limit(before.map(|limit| (limit as f64 * BEYOND).ceil() as usize).filter(|limit| *limit < room));
    }

    /// What a cohort says of the floor where nothing was cut.
    fn learn_floor(&mut self, point: Point) {
        if self.floor_count == 0.0 {
            self.set_floor(point, false);
        } else if point.above < SHORT.ln() {
            // Shorter answers. What there was of a queue is in them still.
            self.floor.shift(point.above - self.usual);
            self.floor_count = point.count;
            self.is_sure = false;
        } else if point.above < 0.0 || point.load <= self.floor_load {
            self.floor_count = (self.floor_count + point.count).min(cohort::REMEMBERED);
            self.floor.shift(point.above * (point.count / self.floor_count).min(1.0));
            if self.limit.is_none() {
                self.floor_load = self.floor_load.max(point.load);
            }
        }
    }

    fn watch(&mut self, point: Point, room: usize, now: Instant) {
        self.learn_floor(point);
        let is_kept = self.kept_at.is_some_and(|at| now < at + KEPT_FOR);
        if !point.is_full && (is_kept || point.load < CROWD) {
            return;
        }
        let is_slow = point.above > SLOW.ln() + point.error;
        // Once may be chance; while it grows with every answer there is no time to lose.
        let is_slow_still = is_slow && (std::mem::replace(&mut self.was_slow, is_slow) || point.is_growing);
        let is_known = self.no_use.is_on(now) && point.load < self.no_use.load * BEYOND;
        let Some(limit) = self.limit else {
            if is_slow_still && !is_known {
                self.start(Trial::down(point, None));
            }
            return;
        };
        if !point.is_full {
            return;
        }
        let check_at = now + if self.is_sure { SURE_FOR } else { UNSURE_FOR };
        let check_at = self.check_at.map_or(check_at, |at| at.min(check_at));
        self.check_at = Some(check_at);
        let calm = self.calm.filter(|(calm, at)| *calm < limit && now < *at + FRESH);
        match calm {
            Some((calm, _)) if is_slow => {
                self.too_much.start(now, limit as f64);
                self.calm = None;
                self.set_limit(Some(calm));
            }
            _ if (is_slow_still && !is_known) || now >= check_at => self.start(Trial::down(point, self.limit)),
            _ => self.go_on(point, limit, room, now),
        }
    }

    /// The times at `limit` are as they should be, or nearly.
    fn go_on(&mut self, point: Point, limit: usize, room: usize, now: Instant) {
        self.usual += 0.3 * (point.above - self.usual);
        let level = self.level.map_or(point, |level| level.with(point));
        self.level = Some(level);
        if point.above < CALM.ln() {
            self.calm = Some((limit, now));
            let aim = limit as f64 * AIM / point.above.exp().max(1.0) / 1.05;
            let mut wider = (aim as usize).max(limit + 1);
            if self.too_much.is_on(now) {
                wider = wider.min((self.too_much.load as usize).saturating_sub(1)).max(limit);
            }
            if wider > limit {
                self.level = None;
            }
            self.limit = Some(wider).filter(|wider| *wider < room);
        } else if level.above >= CALM.ln() && level.count >= LONG * self.needed as f64 && !self.too_high.is_on(now) {
            // It looks like a short queue, but so does a floor that is too low.
            let trial = Trial::up(level, self.limit);
            if trial.limit() < room {
                self.start(trial);
            }
        }
    }

    fn start(&mut self, trial: Trial) {
        self.calm = None;
        self.set_limit(Some(trial.limit()));
        self.trial = Some(trial);
    }

    /// A cohort of a trial is over.
    fn settle(&mut self, trial: Trial, point: Point, room: usize, now: Instant) {
        let verdict = trial.judge(point, self.needed, self.is_sure);
        self.trial = None;
        match verdict {
            Verdict::Unclear(trial) => self.trial = Some(trial),
            Verdict::Deeper(trial) => self.start(trial),
            Verdict::NoQueue { floor } => {
                self.no_use.start(now, floor.load);
                let proven = (floor.load * BEYOND) as usize;
                self.set_limit(trial.before.or(Some(proven)).filter(|limit| *limit < room));
                self.set_floor(floor, true);
            }
            Verdict::Queue { limit, floor, is_sure } => {
                self.no_use = Patience::NEW;
                self.set_limit(Some(limit));
                self.set_floor(floor, is_sure);
            }
            Verdict::TooHigh { load } => {
                self.too_high.start(now, load);
                self.set_limit(trial.before);
            }
            Verdict::NotTooHigh { floor } => {
                self.too_high = Patience::NEW;
                self.set_limit(self.limit);
                self.set_floor(floor, false);
            }
            Verdict::Nothing => self.set_limit(trial.before),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn where_a_rate_keeps_calls_back_slow_answers_are_no_queue() {
        for is_kept in [false, true] {
            let (mut now, mut knee) = (clock::now(), Knee::default());
            let mut answer = |knee: &mut Knee, seconds| {
                for _ in 0..200 {
                    if is_kept {
                        knee.kept_by_rate(now);
                    }
                    let mut sample = knee.started(20, 512, false, 0);
                    now += Duration::from_millis(100);
                    knee.ended(&mut sample, Seen::Took(Duration::from_secs(seconds)), 512, now);
                }
            };
            answer(&mut knee, 1);
            assert_eq!(knee.limit(), usize::MAX);
            answer(&mut knee, 2);
            assert_eq!(knee.limit() == usize::MAX, is_kept, "{}", knee.limit());
        }
    }
}
