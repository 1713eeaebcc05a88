//! When the day ends in California: Gemini's quotas of a day come back at midnight Pacific time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::moments::days_since_1970;

const HOUR: u64 = 3_600;
const DAY: u64 = 86_400;
/// After which the calendar repeats itself.
const DAYS_OF_400_YEARS: u64 = 146_097;

/// How long it is from `now` to the next midnight in Pacific time.
pub(super) fn until_midnight(now: SystemTime) -> Duration {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let today = now.as_secs() / DAY;
    // Midnight there is seven or eight hours behind that of UTC: today's may still come.
    let midnight = [today, today + 1].map(|day| Duration::from_secs(midnight(day)));
    midnight.into_iter().find(|midnight| *midnight > now).unwrap_or(now + Duration::from_secs(DAY)) - now
}

/// The midnight with which a day begins there, in seconds since 1970. The day is counted from 1970-01-01, as a date.
fn midnight(day: u64) -> u64 {
    day * DAY + if is_summer(day) { 7 * HOUR } else { 8 * HOUR }
}

/// Whether summer time is in force at the midnight with which `day` begins. It comes and goes at two in the night, on the
/// second Sunday of March and the first of November.
fn is_summer(day: u64) -> bool {
    // Off by one at most.
    let mut year = 1970 + day * 400 / DAYS_OF_400_YEARS;
    while day >= days_since_1970(year + 1, 1, 1) {
        year += 1;
    }
    while day < days_since_1970(year, 1, 1) {
        year -= 1;
    }
    sunday_from(days_since_1970(year, 3, 8)) < day && day <= sunday_from(days_since_1970(year, 11, 1))
}

/// The first Sunday that is not before `day`.
fn sunday_from(day: u64) -> u64 {
    // 1970-01-01 was a Thursday.
    day + (7 - (day + 4) % 7) % 7
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::providers::moments::http_date;

    #[test]
    fn midnight_in_california_is_found_on_both_sides_of_its_summer_time() {
        for (now, seconds) in [
            // Winter: midnight is at 08:00 UTC.
            ("Thu, 15 Jan 2026 07:59:59 GMT", 1),
            ("Thu, 15 Jan 2026 08:00:00 GMT", 24 * HOUR),
            ("Thu, 15 Jan 2026 12:00:00 GMT", 20 * HOUR),
            // Summer: at 07:00.
            ("Fri, 21 Aug 2026 06:30:00 GMT", HOUR / 2),
            ("Fri, 21 Aug 2026 12:00:00 GMT", 19 * HOUR),
            // The night of 8 March has no hour from two to three; its day still begins in winter.
            ("Sun, 08 Mar 2026 07:00:00 GMT", HOUR),
            ("Sun, 08 Mar 2026 08:00:00 GMT", 23 * HOUR),
            // That of 1 November has it twice; its day still begins in summer.
            ("Sun, 01 Nov 2026 06:00:00 GMT", HOUR),
            ("Sun, 01 Nov 2026 07:00:00 GMT", 25 * HOUR),
            // 2027: 14 March and 7 November.
            ("Sat, 13 Mar 2027 12:00:00 GMT", 20 * HOUR),
            ("Sun, 14 Mar 2027 12:00:00 GMT", 19 * HOUR),
            ("Sun, 07 Nov 2027 12:00:00 GMT", 20 * HOUR),
        ] {
            assert_eq!(until_midnight(http_date(now).unwrap()), Duration::from_secs(seconds), "{now}");
        }
    }

    proptest! {
        #[test]
        fn it_is_never_far_away(seconds in 0..u64::from(u32::MAX) * 64) {
            let wait = until_midnight(UNIX_EPOCH + Duration::from_secs(seconds));
            prop_assert!(Duration::ZERO < wait && wait <= Duration::from_secs(25 * HOUR));
        }

        #[test]
        fn any_clock_is_borne(before in 0..u64::from(u32::MAX)) {
            prop_assert!(until_midnight(UNIX_EPOCH - Duration::from_secs(before)) <= Duration::from_secs(25 * HOUR));
        }
    }
}
