//! Moments as upstreams write them: epochs, RFC 3339, HTTP dates; and how far away they are by the upstream's own clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::waits::{self, LONGEST};
use crate::messages::{Headers, Reset};

const SECOND: Duration = Duration::from_secs(1);

/// A bare number above it is an epoch in seconds, not a length of time: it would be thirty years.
const EPOCH: f64 = 1e9;

/// A bare number above it is an epoch in milliseconds.
const EPOCH_MILLIS: f64 = 1e12;

/// When the answer was given, by the upstream's own clock: ours may be wrong. `now` stands in for a missing `Date`.
pub(crate) fn answered_at(headers: &Headers, now: SystemTime) -> SystemTime {
    headers.get("date").and_then(http_date).unwrap_or(now)
}

/// `text` as an HTTP date.
pub(crate) fn http_date(text: &str) -> Option<SystemTime> {
    httpdate::parse_http_date(text.trim_ascii()).ok()
}

/// How long it is until `moment`; nothing when it has passed. Bounded by [`LONGEST`].
pub(crate) fn between(from: SystemTime, moment: SystemTime) -> Duration {
    moment.duration_since(from).unwrap_or(Duration::ZERO).min(LONGEST)
}

/// The reset that `text` tells in whichever form: a length of time with units, bare seconds, an epoch, RFC 3339 or an HTTP
/// date, the last three measured from when the answer was given. `None` when it is none of them, or negative.
pub(crate) fn reset(text: &str, headers: &Headers, now: SystemTime) -> Option<Reset> {
    let text = text.trim_ascii();
    // `Date` is told in whole seconds, so whatever is measured from it is no finer.
    let until = |moment| Reset { after: between(answered_at(headers, now), moment), grain: SECOND };
    if let Ok(number) = text.parse::<f64>() {
        return match number {
            _ if !number.is_finite() => None,
            _ if number > EPOCH_MILLIS => Some(until(epoch(number / 1e3))),
            _ if number > EPOCH => Some(until(epoch(number))),
            _ => waits::plain(text, SECOND).map(|after| Reset { after, grain: grain(text) }),
        };
    }
    if let Some(after) = waits::leading(text) {
        return Some(Reset { after, grain: Duration::from_millis(1) });
    }
    rfc3339(text).or_else(|| http_date(text)).map(until)
}

/// What one more in the last place of a plain number of seconds is worth.
fn grain(number: &str) -> Duration {
    let places = number.split_once('.').map_or(0, |(_, places)| places.len());
    Duration::from_nanos(10u64.pow(9 - u32::try_from(places.min(9)).unwrap_or(9)))
}

fn epoch(seconds: f64) -> SystemTime {
    let since = Duration::try_from_secs_f64(seconds).ok();
    since.and_then(|since| UNIX_EPOCH.checked_add(since)).unwrap_or(UNIX_EPOCH + Duration::from_secs(1 << 36))
}

/// `text` as RFC 3339: `2024-01-30T18:30:00Z`, fractions and offsets included. Only from 1970 on.
fn rfc3339(text: &str) -> Option<SystemTime> {
    let bytes = text.as_bytes();
    let digits = |from: usize, to: usize| -> Option<u64> {
        let part = bytes.get(from..to)?;
        part.iter().try_fold(0, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + u64::from(byte - b'0')))
    };
    let is = |place: usize, expected: &[u8]| bytes.get(place).is_some_and(|byte| expected.contains(byte));
    if !(is(4, b"-") && is(7, b"-") && is(10, b"Tt ") && is(13, b":") && is(16, b":")) {
        return None;
    }
    let (year, month, day) = (digits(0, 4)?, digits(5, 7)?, digits(8, 10)?);
    let (hour, minute, second) = (digits(11, 13)?, digits(14, 16)?, digits(17, 19)?);
    // A leap second is the 60th.
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 || year < 1970
    {
        return None;
    }
    let mut place = 19;
    let mut nanos = 0;
    if is(place, b".") {
        let start = place + 1;
        place = start + bytes[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let kept = place.min(start + 9);
        nanos = digits(start, kept)? * 10u64.pow(9 - u32::try_from(kept - start).ok()?);
    }
    let offset = match bytes.get(place)? {
        b'Z' | b'z' if bytes.len() == place + 1 => 0,
        sign @ (b'+' | b'-') if bytes.len() == place + 6 && is(place + 3, b":") => {
            let (hours, minutes) = (digits(place + 1, place + 3)?, digits(place + 4, place + 6)?);
            let seconds = i64::try_from(hours * 3_600 + minutes * 60).ok()?;
            if *sign == b'+' { seconds } else { -seconds }
        }
        _ => return None,
    };
    let seconds = days_since_1970(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second;
    let seconds = u64::try_from(i64::try_from(seconds).ok()? - offset).ok()?;
    UNIX_EPOCH.checked_add(Duration::new(seconds, u32::try_from(nanos).ok()?))
}

/// Days from 1970-01-01 to a day of the Gregorian calendar, not before it.
pub(super) fn days_since_1970(year: u64, month: u64, day: u64) -> u64 {
    // The year begins in March, so that a leap day is the last of it.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let before_year = 365 * year + year / 4 - year / 100 + year / 400;
    // From 0000-03-01 to 1970-01-01 it is 719,468 days.
    before_year + (153 * month + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use http::header::{DATE, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    fn now() -> SystemTime {
        http_date("Fri, 21 Aug 2026 12:00:00 GMT").unwrap()
    }

    fn dated(date: &'static str) -> Headers {
        [(DATE, HeaderValue::from_static(date))].into_iter().collect()
    }

    #[test]
    fn resets_are_read_in_every_form() {
        for (text, millis, grain_millis) in [
            ("1s", 1_000, 1),
            ("6m0s", 360_000, 1),
            ("12ms", 12, 1),
            ("2m59.56s", 179_560, 1),
            ("1d2h3m4s", 93_784_000, 1),
            ("38s", 38_000, 1),
            ("0.5s", 500, 1),
            ("0", 0, 1_000),
            ("25", 25_000, 1_000),
            ("7.6", 7_600, 100),
            ("1787313630", 30_000, 1_000),
            ("1787313630000", 30_000, 1_000),
            ("1787313630.5", 30_500, 1_000),
            ("1000000000", 604_800_000, 1_000),
            ("1000000001", 0, 1_000),
            ("1e300", 604_800_000, 1_000),
            ("2026-08-21T12:00:30Z", 30_000, 1_000),
            ("2026-08-21T12:00:30.250Z", 30_250, 1_000),
            ("2026-08-21t14:00:30+02:00", 30_000, 1_000),
            ("2026-08-21 06:30:30-05:30", 30_000, 1_000),
            ("2026-08-21T11:59:59Z", 0, 1_000),
            ("2099-01-01T00:00:00Z", 604_800_000, 1_000),
            ("Fri, 21 Aug 2026 12:00:30 GMT", 30_000, 1_000),
        ] {
            let expected = Reset { after: Duration::from_millis(millis), grain: Duration::from_millis(grain_millis) };
            assert_eq!(reset(text, &Headers::new(), now()), Some(expected), "{text}");
        }
        for text in [
            "",
            "-1",
            "NaN",
            "inf",
            "soon",
            "-5s",
            "1969-12-31T23:59:59Z",
            "2026-13-01T00:00:00Z",
            "2026-08-21T12:00:30",
            "2026-08-21T12:00:30.Zé",
            "1970-01-01T00:00:00+01:00",
        ] {
            assert_eq!(reset(text, &Headers::new(), now()), None, "{text}");
        }
    }

    #[test]
    fn dates_are_measured_by_the_upstreams_own_clock() {
        let headers = dated("Fri, 21 Aug 2026 13:00:00 GMT");
        for text in ["2026-08-21T13:00:05Z", "1787317205", "Fri, 21 Aug 2026 13:00:05 GMT"] {
            assert_eq!(reset(text, &headers, now()).map(|reset| reset.after), Some(Duration::from_secs(5)), "{text}");
        }
    }

    #[test]
    fn the_calendar_knows_leap_years() {
        for (text, days) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1970-03-01T00:00:00Z", 59),
            ("2000-02-29T00:00:00Z", 11_016),
            ("2024-12-31T00:00:00Z", 20_088),
            ("9999-12-31T00:00:00Z", 2_932_896),
        ] {
            assert_eq!(rfc3339(text), Some(UNIX_EPOCH + Duration::from_secs(days * 86_400)), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic_and_bounded(
            text in ".{0,40}",
            date in "[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}:[0-9]{2}(\\.[0-9]{0,12})?(Z|[+-][0-9]{2}:[0-9]{2}|é)?",
            number: f64,
        ) {
            for text in [text, date, number.to_string()] {
                let reset = reset(&text, &Headers::new(), now());
                prop_assert!(reset.is_none_or(|reset| reset.after <= LONGEST && reset.grain <= SECOND));
            }
        }

        #[test]
        fn every_moment_is_read_back(seconds in 0u64..253_402_300_799) {
            let moment = UNIX_EPOCH + Duration::from_secs(seconds);
            // HTTP dates are written by somebody else's calendar.
            let date = httpdate::fmt_http_date(moment);
            let month = 1 + "JanFebMarAprMayJunJulAugSepOctNovDec".find(&date[8..11]).unwrap() / 3;
            let text = format!("{}-{month:02}-{}T{}Z", &date[12..16], &date[5..7], &date[17..25]);
            prop_assert_eq!(rfc3339(&text), Some(moment));
        }
    }
}
