//! Lengths of time as upstreams write them: `7.66s`, `2m59.56s`, `120ms`, `20 seconds`, `1.5`.

use std::time::Duration;

/// No upstream is waited for longer: a greater length is a slip of theirs, or hostile.
pub(crate) const LONGEST: Duration = Duration::from_secs(7 * 86_400);

/// The length that `text` begins with, a number with a unit or several behind each other; `None` when there is none.
/// Bounded by [`LONGEST`].
pub(crate) fn leading(text: &str) -> Option<Duration> {
    let (mut rest, mut sum) = (text.trim_ascii_start(), None);
    while let Some((part, behind)) = part(rest) {
        sum = Some(sum.unwrap_or(Duration::ZERO).saturating_add(part).min(LONGEST));
        rest = behind;
    }
    sum
}

/// `text` as a plain number of `unit`s; `None` when it is none, negative, infinite or not a number. Bounded by
/// [`LONGEST`].
pub(crate) fn plain(text: &str, unit: Duration) -> Option<Duration> {
    let number: f64 = text.trim_ascii().parse().ok()?;
    // Rust reads `inf` and `nan`, too.
    if number.is_finite() && number >= 0.0 { Some(times(number, unit)) } else { None }
}

fn times(number: f64, unit: Duration) -> Duration {
    let seconds = (number * unit.as_secs_f64()).min(LONGEST.as_secs_f64());
    Duration::try_from_secs_f64(seconds).unwrap_or(LONGEST)
}

/// One number with its unit, and what is behind them.
fn part(text: &str) -> Option<(Duration, &str)> {
    let digits = text.find(|char: char| !char.is_ascii_digit() && char != '.').unwrap_or(text.len());
    let number: f64 = text[..digits].parse().ok()?;
    let behind = &text[digits..];
    // A space may stand before a unit that is a word.
    let word = behind.strip_prefix(' ').unwrap_or(behind);
    let letters = word.find(|char: char| !char.is_ascii_alphabetic()).unwrap_or(word.len());
    let unit = match &*word[..letters].to_ascii_lowercase() {
        "ns" => Duration::from_nanos(1),
        "us" => Duration::from_micros(1),
        "ms" | "msec" | "millisecond" | "milliseconds" => Duration::from_millis(1),
        "s" | "sec" | "secs" | "second" | "seconds" => Duration::from_secs(1),
        "m" | "min" | "mins" | "minute" | "minutes" => Duration::from_secs(60),
        "h" | "hr" | "hour" | "hours" => Duration::from_secs(3_600),
        "d" | "day" | "days" => Duration::from_secs(86_400),
        _ => return None,
    };
    Some((times(number, unit), &word[letters..]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lengths_are_read_as_upstreams_write_them() {
        for (text, millis) in [
            ("1s", 1_000),
            ("6m0s", 360_000),
            ("12ms.", 12),
            ("6.2s. Visit", 6_200),
            ("2m59.56s", 179_560),
            ("1d2h3m4s", 93_784_000),
            (" 20 seconds.", 20_000),
            ("1 minute", 60_000),
            ("0s", 0),
            ("99999999999999999999d", 604_800_000),
        ] {
            assert_eq!(leading(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "soon", "5", "5 apples", "1.2.3s", "-1s", ".s", "5  s"] {
            assert_eq!(leading(text), None, "{text}");
        }
    }

    #[test]
    fn plain_numbers_are_bounded_and_never_negative() {
        let second = Duration::from_secs(1);
        for (text, expected) in [
            ("0", Some(0)),
            ("-0", Some(0)),
            (" 1.5 ", Some(1_500)),
            ("1e300", Some(604_800_000)),
            ("-1", None),
            ("nan", None),
            ("inf", None),
            ("1e999", None),
            ("1s", None),
            ("", None),
        ] {
            assert_eq!(plain(text, second), expected.map(Duration::from_millis), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic_and_bounded(text in ".{0,40}", number in "[0-9.]{1,30} ?(ms|s|m|h|d|x)") {
            for text in [&text, &number] {
                prop_assert!(leading(text).is_none_or(|length| length <= LONGEST));
                prop_assert!(plain(text, Duration::from_millis(1)).is_none_or(|length| length <= LONGEST));
            }
        }
    }
}
