//! Another load is tried: what do the times do?
//!
//! Behind a queue the times go with the load, without one they do not. So in logarithms the times' change is compared with
//! the load's: near 1 there is a queue at both loads, near 0 there is none, and between them the knee lies between the
//! loads.

use super::AIM;
use super::cohort::Point;

/// A cut is at least so deep, because what a smaller one does to the times is not seen, and at most so deep.
const CUT: f64 = 0.6;
const DEEPEST: f64 = 0.25;
/// The other way: so much more is tried.
const RAISE: f64 = 1.3;
/// The times fell with the load if they fell by this share of it: there may still be a queue.
const IN_STEP: f64 = 0.7;
/// They did not fall if they fell by less than this, and did not rise if they rose by less than that.
const FELL: f64 = 0.35;
const ROSE: f64 = 0.25;
/// They rose by so much more than the load that it is plain to see: what is timed is mostly waiting.
const PLAIN: f64 = 2.0;
/// Loads that are less apart, as a logarithm, say nothing.
const APART: f64 = 0.1;

#[derive(Clone, Copy, PartialEq, Debug)]
enum Way {
    /// Cut; so much is known to be too much.
    Down {
        too_much: f64,
        is_first: bool,
    },
    Up,
}

/// The load was changed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trial {
    way: Way,
    from: Point,
    /// The limit before.
    pub(super) before: Option<usize>,
    /// What the times came to so far.
    so_far: Option<Point>,
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Verdict {
    /// It is not clear yet.
    Unclear(Trial),
    /// The times fell in step: there was a queue, and there may be one still.
    Deeper(Trial),
    /// They did not fall: there is no queue, and the floor is what they are.
    NoQueue { floor: Point },
    /// There was a queue, and there is none now.
    Queue { limit: usize, floor: Point, is_sure: bool },
    /// They rose with the load.
    TooHigh { load: f64 },
    /// They did not rise with the load.
    NotTooHigh { floor: Point },
    /// The load did not follow: there is too little to do.
    Nothing,
}

impl Trial {
    pub(super) fn down(from: Point, before: Option<usize>) -> Self {
        Self { way: Way::Down { too_much: f64::INFINITY, is_first: true }, from, before, so_far: None }
    }

    pub(super) fn up(from: Point, before: Option<usize>) -> Self {
        Self { way: Way::Up, from, before, so_far: None }
    }

    /// The limit to try.
    pub(super) fn limit(&self) -> usize {
        let load = self.from.load;
        let limit = match self.way {
            Way::Down { .. } => (load * (AIM / self.from.above.exp()).clamp(DEEPEST, CUT)).ceil(),
            Way::Up => (load * RAISE).floor().max(load.floor() + 1.0),
        };
        (limit as usize).max(1)
    }

    /// The times are these now. `needed` attempts make a good mean; `is_sure`: the floor was seen without a queue.
    pub(super) fn judge(self, point: Point, needed: usize, is_sure: bool) -> Verdict {
        let point = self.so_far.map_or(point, |so_far| so_far.with(point));
        let unclear = Self { so_far: Some(point), ..self };
        let is_few = point.count < needed as f64;
        let from = self.from;
        let apart = (from.load / point.load).ln();
        let went = (from.above - point.above) / apart;
        let Way::Down { too_much, is_first } = self.way else {
            return match went {
                _ if apart > -APART => Verdict::Nothing,
                _ if is_few && went < PLAIN => Verdict::Unclear(unclear),
                _ if went < ROSE => Verdict::NotTooHigh { floor: Point { load: point.load, ..from.with(point) } },
                _ => Verdict::TooHigh { load: point.load },
            };
        };
        // With one in flight there is nothing left to cut.
        let went = if apart > APART { went } else { 0.0 };
        let is_at_floor = is_sure && point.above <= AIM.ln();
        if went >= IN_STEP && !is_at_floor && point.load > 1.5 {
            let way = Way::Down { too_much: from.load, is_first: false };
            return Verdict::Deeper(Self { way, from: point, before: self.before, so_far: None });
        }
        let fell = went >= FELL;
        let error = from.error.hypot(point.error) / apart.max(APART);
        if is_few && (fell || !is_first || went + error > IN_STEP) {
            // What is about to be believed is worth a closer look.
            return Verdict::Unclear(unclear);
        }
        if !fell && is_first {
            return Verdict::NoQueue { floor: Point { load: from.load, ..from.with(point) } };
        }
        let aim = from.load * AIM * (point.above - from.above).exp();
        let too_much = if fell { from.load } else { too_much };
        let limit = aim.min(too_much).max(point.load).round();
        // One that is known already is only corrected downwards.
        let above = if is_at_floor { point.above.min(0.0) } else { point.above };
        Verdict::Queue { limit: limit as usize, floor: Point { above, ..point }, is_sure: went < 0.5 || is_at_floor }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many in flight, whose times are so many times the floor.
    fn point(load: f64, slowness: f64) -> Point {
        let (above, error, count) = (slowness.ln(), 0.05, 100.0);
        Point { load, above, error, count, needed: 50, is_full: true, is_growing: false }
    }

    #[test]
    fn times_that_do_not_fall_with_the_load_are_the_floor_and_no_queue() {
        let trial = Trial::down(point(40.0, 2.0), Some(40));
        assert_eq!(trial.limit(), 23);
        let Verdict::NoQueue { floor } = trial.judge(point(24.0, 2.0), 50, false) else { panic!("no queue") };
        assert!((floor.above - 2.0_f64.ln()).abs() < 1e-9);
        assert_eq!((floor.load, trial.before), (40.0, Some(40)));
    }

    #[test]
    fn times_that_fall_in_step_are_cut_deeper_until_they_do_not() {
        let trial = Trial::down(point(40.0, 4.0), None);
        let Verdict::Deeper(trial) = trial.judge(point(20.0, 2.0), 50, false) else { panic!("a queue still") };
        assert_eq!(trial.limit(), 12);
        let Verdict::Deeper(trial) = trial.judge(point(12.0, 1.2), 50, false) else { panic!("maybe still") };
        let Verdict::Queue { limit, is_sure, .. } = trial.judge(point(8.0, 1.0), 50, false) else { panic!("the end") };
        assert_eq!((limit, is_sure), (12, true), "ten can be worked at");
    }

    #[test]
    fn where_the_floor_is_known_times_that_are_down_to_it_are_enough() {
        let trial = Trial::down(point(15.0, 1.5), Some(15));
        let Verdict::Queue { limit, floor, .. } = trial.judge(point(9.0, 1.0), 50, true) else { panic!("a queue") };
        assert_eq!((limit, floor.above), (12, 0.0));
    }

    #[test]
    fn few_attempts_are_looked_at_more_closely() {
        let few = Point { count: 20.0, error: 0.2, ..point(9.0, 1.0) };
        let trial = Trial::down(point(15.0, 1.5), Some(15));
        let Verdict::Unclear(trial) = trial.judge(few, 50, true) else { panic!("too few") };
        let Verdict::Unclear(trial) = trial.judge(few, 50, true) else { panic!("too few still") };
        assert!(matches!(trial.judge(few, 50, true), Verdict::Queue { .. }), "together they are enough");
    }

    #[test]
    fn a_higher_load_is_too_high_if_the_times_rise_with_it() {
        let trial = Trial::up(point(10.0, 1.2), Some(10));
        assert_eq!(trial.limit(), 13);
        assert!(matches!(trial.judge(point(13.0, 1.5), 50, true), Verdict::TooHigh { .. }));
        assert!(matches!(trial.judge(point(13.0, 1.22), 50, true), Verdict::NotTooHigh { .. }));
        assert!(matches!(trial.judge(point(10.0, 1.2), 50, true), Verdict::Nothing));
    }

    #[test]
    fn one_in_flight_is_not_cut_any_more() {
        let trial = Trial::down(point(1.0, 3.0), Some(1));
        assert_eq!(trial.limit(), 1);
        assert!(matches!(trial.judge(point(1.0, 3.0), 50, true), Verdict::NoQueue { .. }));
    }
}
