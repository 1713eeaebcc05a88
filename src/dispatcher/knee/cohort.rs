//! Attempts that were sent one after another, what their times came to, and the floor they are measured from.
//!
//! A cohort is judged when nearly all of it has ended: the first to end are the short ones, so a mean over those that end
//! in some span of time would say that all is well while a queue grows.

use super::Seen;

/// The fewest attempts, and the most, whose times are a cohort.
pub(super) const SIZE: std::ops::RangeInclusive<usize> = 16..=256;
/// A cohort's mean is to be known to this share, where there is time to wait for it.
const PRECISION: f64 = 0.07;
/// Kinds told apart; those beyond share one.
const KINDS: usize = 32;
const OTHERS: u32 = u32::MAX;
/// A floor's mean is of no more attempts than this, so that it follows what changes slowly.
pub(super) const REMEMBERED: f64 = 400.0;

/// Times of one kind: logarithms of seconds.
#[derive(Clone, Copy, Debug)]
struct Times {
    kind: u32,
    outstanding: usize,
    count: f64,
    sum: f64,
    squares: f64,
    longest: f64,
}

impl Times {
    fn add(&mut self, time: f64, count: f64) {
        self.count += count;
        self.sum += count * time;
        self.squares += count * time * time;
        self.longest = self.longest.max(time);
    }

    fn mean(&self) -> f64 {
        self.sum / self.count
    }

    /// The sum of the squares of what they are off their mean.
    fn scatter(&self) -> f64 {
        (self.squares - self.sum * self.sum / self.count).max(0.0)
    }
}

#[derive(Debug)]
pub(super) struct Cohort {
    size: usize,
    started: usize,
    outstanding: usize,
    loads: f64,
    untimed: usize,
    /// How many had the window full.
    full: usize,
    /// It was sent while the window grew with every answer.
    is_growing: bool,
    times: Vec<Times>,
}

impl Cohort {
    pub(super) fn new(size: usize, is_growing: bool) -> Self {
        let size = size.clamp(*SIZE.start(), *SIZE.end());
        Self { size, started: 0, outstanding: 0, loads: 0.0, untimed: 0, full: 0, is_growing, times: Vec::new() }
    }

    pub(super) fn is_complete(&self) -> bool {
        self.started >= self.size
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_complete() && self.outstanding <= self.size / 8
    }

    /// One more has started, as one of `load`. Says what kind it is taken for.
    pub(super) fn start(&mut self, load: usize, is_full: bool, kind: u32) -> u32 {
        self.started += 1;
        self.outstanding += 1;
        self.loads += load as f64;
        self.full += usize::from(is_full);
        let is_known = self.times.iter().any(|times| times.kind == kind);
        let kind = if is_known || self.times.len() < KINDS { kind } else { OTHERS };
        if !self.times.iter().any(|times| times.kind == kind) {
            let longest = f64::NEG_INFINITY;
            self.times.push(Times { kind, outstanding: 0, count: 0.0, sum: 0.0, squares: 0.0, longest });
        }
        if let Some(times) = self.of(kind) {
            times.outstanding += 1;
        }
        kind
    }

    /// What there is to see of one of a `kind` that [`Self::start`] has named.
    pub(super) fn end(&mut self, kind: u32, seen: Seen) {
        self.outstanding -= 1;
        self.untimed += usize::from(seen == Seen::Untimed);
        let Some(times) = self.of(kind) else { return };
        times.outstanding -= 1;
        if let Seen::Took(took) = seen {
            times.add(took.as_secs_f64().max(1e-4).ln(), 1.0);
        }
    }

    /// Most were answered, but of how long that took nothing is told.
    pub(super) fn is_untimed(&self) -> bool {
        self.untimed * 2 > self.size
    }

    fn of(&mut self, kind: u32) -> Option<&mut Times> {
        self.times.iter_mut().find(|times| times.kind == kind)
    }
}

/// What a cohort came to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    /// The mean in flight, of which each was one.
    pub(super) load: f64,
    /// Times above the floor, as a logarithm, and the error of that.
    pub(super) above: f64,
    pub(super) error: f64,
    /// Attempts whose times they are.
    pub(super) count: f64,
    /// How many would make a mean of [`PRECISION`].
    pub(super) needed: usize,
    /// The window was full most of the time: it is what bounds the load.
    pub(super) is_full: bool,
    pub(super) is_growing: bool,
}

impl Point {
    /// Two cohorts at the same load are one.
    pub(super) fn with(self, other: Self) -> Self {
        let count = self.count + other.count;
        let share = other.count / count;
        let mean = |one: f64, other: f64| one + (other - one) * share;
        Self {
            load: mean(self.load, other.load),
            above: mean(self.above, other.above),
            error: (self.error * (1.0 - share)).hypot(other.error * share),
            count,
            ..other
        }
    }
}

/// The times without a queue: a mean of logarithms of seconds for each kind, and of how many attempts it is.
#[derive(Debug, Default)]
pub(super) struct Floor(Vec<(u32, f64, f64)>);

impl Floor {
    fn of(&self, kind: u32) -> Option<f64> {
        self.0.iter().find(|(known, ..)| *known == kind).map(|(_, floor, _)| *floor)
    }

    /// How far a cohort is above the floor. Kinds that are not known yet are taken to be as far above theirs as the
    /// others. `None` if nearly none of it came to an end that says something.
    pub(super) fn measure(&mut self, mut cohort: Cohort) -> Option<Point> {
        cohort.times.retain(|times| times.count > 0.0);
        for times in &mut cohort.times {
            // What is still under way will take longer than the rest.
            times.add(times.longest, times.outstanding as f64);
        }
        let count: f64 = cohort.times.iter().map(|times| times.count).sum();
        if count < *SIZE.start() as f64 / 2.0 {
            return None;
        }
        let known = cohort.times.iter().filter_map(|times| Some((times, self.of(times.kind)?)));
        let (weight, sum) = known.fold((0.0, 0.0), |(weight, sum), (times, floor)| {
            (weight + times.count, sum + times.count * (times.mean() - floor))
        });
        let above = if weight > 0.0 { sum / weight } else { 0.0 };
        let mut fresh = Vec::new();
        for times in &cohort.times {
            // What one kind is above the others is its floor's error, if it is no chance.
            let seen = times.mean() - above;
            match self.0.iter_mut().find(|(known, ..)| *known == times.kind) {
                Some((_, floor, of)) => {
                    *of = (*of + times.count).min(REMEMBERED);
                    *floor += (seen - *floor) * (times.count / *of);
                }
                None => fresh.push((times.kind, seen, times.count)),
            }
        }
        fresh.truncate(KINDS.saturating_sub(self.0.len()));
        self.0.append(&mut fresh);
        let scatter: f64 = cohort.times.iter().map(Times::scatter).sum();
        let needed = (scatter / count / (PRECISION * PRECISION)).ceil() as usize;
        Some(Point {
            load: cohort.loads / cohort.started as f64,
            above,
            error: scatter.sqrt() / count,
            count,
            needed: needed.clamp(*SIZE.start(), *SIZE.end()),
            is_full: cohort.full * 2 >= cohort.started,
            is_growing: cohort.is_growing,
        })
    }

    /// All floors rise by so much.
    pub(super) fn shift(&mut self, by: f64) {
        for (_, floor, _) in &mut self.0 {
            *floor += by;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Sixteen of each kind that took so many seconds each, give or take.
    fn cohort(load: usize, kinds: &[(u32, f64)]) -> Cohort {
        let mut cohort = Cohort::new(16 * kinds.len(), false);
        for (kind, seconds) in kinds {
            for n in 0..16 {
                let kind = cohort.start(load, true, *kind);
                cohort.end(kind, Seen::Took(Duration::from_secs_f64(seconds * (0.9 + 0.2 * f64::from(n) / 15.0))));
            }
        }
        cohort
    }

    #[test]
    fn a_cohort_waits_for_its_long_answers_but_not_for_the_very_last() {
        let mut cohort = Cohort::new(1, false);
        let kinds: Vec<u32> = (0..16).map(|_| cohort.start(16, true, 7)).collect();
        assert!(cohort.is_complete());
        for (at, kind) in kinds.into_iter().enumerate() {
            assert_eq!(cohort.is_over(), at >= 14);
            cohort.end(kind, Seen::Took(Duration::from_secs(1 + at as u64)));
        }
    }

    #[test]
    fn kinds_are_measured_each_from_its_own_floor() {
        let mut floor = Floor::default();
        let above = |floor: &mut Floor, cohort| floor.measure(cohort).expect("it says something").above;
        assert_eq!(above(&mut floor, cohort(4, &[(1, 1.0), (2, 30.0)])), 0.0);
        assert!(above(&mut floor, cohort(4, &[(2, 30.0)])).abs() < 1e-9, "another mix is not another time");
        let twice = above(&mut floor, cohort(4, &[(1, 2.0), (3, 5.0)]));
        assert!((twice - 2.0_f64.ln()).abs() < 1e-9);
        let both = above(&mut floor, cohort(4, &[(1, 2.0), (3, 5.0)]));
        assert!((both - 2.0_f64.ln()).abs() < 1e-9, "a new kind is taken to be as slow as the others");
    }

    #[test]
    fn what_failed_says_nothing_and_what_is_untimed_says_so() {
        let mut failed = Cohort::new(16, false);
        let mut untimed = Cohort::new(16, false);
        for _ in 0..16 {
            let kind = failed.start(1, true, 0);
            failed.end(kind, Seen::Nothing);
            let kind = untimed.start(1, true, 0);
            untimed.end(kind, Seen::Untimed);
        }
        assert!(!failed.is_untimed() && untimed.is_untimed());
        assert!(Floor::default().measure(failed).is_none());
    }

    #[test]
    fn ever_new_kinds_do_not_fill_the_memory() {
        let mut floor = Floor::default();
        for kind in 0..1_000 {
            let mut cohort = cohort(1, &[(kind, 1.0)]);
            for other in 0..1_000 {
                let kind = cohort.start(1, true, other);
                cohort.end(kind, Seen::Took(Duration::from_secs(1)));
            }
            assert!(cohort.times.len() <= KINDS + 1);
            floor.measure(cohort);
        }
        assert!(floor.0.len() <= KINDS + 1);
    }
}
