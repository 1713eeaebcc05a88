//! When a webhook is tried again, and when it is given up: the schedule that Standard Webhooks gives as its example, some
//! three days long.

use std::time::Duration;

use crate::clock::Dice;

const fn minutes(n: u64) -> Duration {
    Duration::from_secs(60 * n)
}

/// The wait behind each failed attempt. The first attempt is made at once, and behind the last there is no wait.
const WAITS: [Duration; 9] = [
    Duration::from_secs(5),
    minutes(5),
    minutes(30),
    minutes(2 * 60),
    minutes(5 * 60),
    minutes(10 * 60),
    minutes(14 * 60),
    minutes(20 * 60),
    minutes(24 * 60),
];

/// The longest wait that a receiver can ask for.
const LONGEST_ASKED: Duration = minutes(24 * 60);

/// By which share a wait is longer or shorter than it stands above: what has failed together shall not come again together.
const JITTER: f64 = 0.2;

/// What an answer means for its delivery.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// The receiver has it.
    Delivered,
    /// Not now; perhaps later.
    Failed,
    /// The receiver wants none of it, ever.
    Unwanted,
}

/// What an answer with `status` means: any 2xx is a yes, 410 a final no. A redirect is a failure like any other, for
/// nobody has agreed to where it leads.
pub(super) fn judge(status: u16) -> Verdict {
    match status {
        200..=299 => Verdict::Delivered,
        410 => Verdict::Unwanted,
        _ => Verdict::Failed,
    }
}

/// How long to wait behind the failed attempt number `made` (from 1), where the receiver has perhaps `asked` to be left
/// alone for some time; `None` when that was the last.
pub(super) fn wait(made: u32, asked: Option<Duration>, dice: &mut Dice) -> Option<Duration> {
    let usual = WAITS.get(usize::try_from(made).ok()?.checked_sub(1)?)?;
    let jittered = usual.mul_f64(1.0 - JITTER + 2.0 * JITTER * dice.fraction());
    Some(asked.map_or(jittered, |asked| asked.min(LONGEST_ASKED).max(jittered)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_webhook_is_tried_ten_times_within_some_three_days() {
        let mut dice = Dice::seeded(1);
        for round in 0..100 {
            let (mut made, mut sum) = (1, Duration::ZERO);
            while let Some(wait) = wait(made, None, &mut dice) {
                let usual = WAITS[made as usize - 1];
                assert!(wait >= usual.mul_f64(0.8) && wait <= usual.mul_f64(1.2), "{wait:?} for {usual:?}");
                (made, sum) = (made + 1, sum + wait);
            }
            assert_eq!(made, 10, "round {round}");
            let days = sum.as_secs_f64() / 86_400.0;
            assert!((2.5..3.8).contains(&days), "{days}");
        }
    }

    #[test]
    fn what_failed_together_comes_again_apart() {
        let mut dice = Dice::seeded(2);
        let mut waits: Vec<_> = (0..100).map(|_| wait(2, None, &mut dice).unwrap()).collect();
        waits.sort();
        assert!(waits[99] - waits[0] > minutes(1), "{:?} to {:?}", waits[0], waits[99]);
    }

    #[test]
    fn a_receiver_is_left_alone_for_as_long_as_it_asks_but_for_no_more_than_a_day() {
        let mut dice = Dice::seeded(3);
        assert_eq!(wait(1, Some(minutes(1)), &mut dice), Some(minutes(1)), "longer than the usual");
        let short = wait(2, Some(Duration::from_secs(1)), &mut dice).unwrap();
        assert!(short >= minutes(4), "never sooner than the usual: {short:?}");
        assert_eq!(wait(1, Some(Duration::from_secs(365 * 86_400)), &mut dice), Some(LONGEST_ASKED));
        assert_eq!(wait(10, Some(minutes(1)), &mut dice), None, "nor more often");
    }

    #[test]
    fn numbers_that_no_attempt_has_end_it() {
        let mut dice = Dice::seeded(4);
        for made in [0, 10, 11, u32::MAX] {
            assert_eq!(wait(made, None, &mut dice), None, "{made}");
        }
    }

    #[test]
    fn only_2xx_is_a_yes_and_only_410_a_final_no() {
        for status in 0..=999 {
            let expected = match status {
                200..=299 => Verdict::Delivered,
                410 => Verdict::Unwanted,
                _ => Verdict::Failed,
            };
            assert_eq!(judge(status), expected, "{status}");
        }
    }
}
