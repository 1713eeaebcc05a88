//! Durations and sizes as the contract writes them: `1.5s`, `16MiB`.
//!
//! Both are exact: no float is involved, so `0.1s` is 100 ms to the nanosecond and a huge size is refused, not rounded.

use std::time::Duration;

/// Nanoseconds of each unit of time.
const TIMES: [(&str, u128); 5] = [
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60 * 1_000_000_000),
    ("h", 3_600 * 1_000_000_000),
    ("d", 86_400 * 1_000_000_000),
];

/// Bytes of each unit of size; no unit is bytes.
const SIZES: [(&str, u128); 10] = [
    ("", 1),
    ("B", 1),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_secs(365 * 86_400);

/// Digits that keep every product below `u128::MAX`; no honest number is longer.
const MAX_DIGITS: usize = 18;

/// Reads a duration: digits, with one dot where wanted, and `ms`, `s`, `m`, `h` or `d`; 1 ms to 365 d.
///
/// # Errors
/// What is wrong and how to write it, without the text itself, which may come from anyone.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    const FORM: &str = "is not a duration; write digits and ms, s, m, h or d, such as \"30s\"";
    let nanos = scaled(text, &TIMES).ok_or(FORM)?;
    let duration = u64::try_from(nanos).map(Duration::from_nanos).unwrap_or(Duration::MAX);
    if duration < SHORTEST {
        return Err("is shorter than 1ms; write at least \"1ms\", or leave it out (0 never means unlimited)".into());
    }
    if duration > LONGEST {
        return Err("is longer than 365d; write at most \"365d\"".into());
    }
    Ok(duration)
}

/// Reads a size in bytes: digits, with one dot where wanted, and `KiB`, `MiB`, `GiB`, `TiB` (powers of 1024), `KB`,
/// `MB`, `GB`, `TB` (powers of 1000), `B` or nothing; at least 1 byte.
///
/// # Errors
/// What is wrong and how to write it, without the text itself.
pub fn parse_size(text: &str) -> Result<usize, String> {
    const FORM: &str = "is not a size; write bytes or digits and KiB, MiB, GiB, KB, MB or GB, such as \"16MiB\"";
    let bytes = scaled(text, &SIZES).ok_or(FORM)?;
    if bytes == 0 {
        return Err("is less than 1 byte; write a size, or leave the key out (0 never means unlimited)".into());
    }
    usize::try_from(bytes).map_err(|_| "is more than this machine can address; write a smaller size".into())
}

/// `text` in the smallest unit, rounded down; `None` when it is no number with one of `units`.
fn scaled(text: &str, units: &[(&str, u128)]) -> Option<u128> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let &(_, scale) = units.iter().find(|(name, _)| *name == unit)?;
    let (whole, fraction) = match number.split_once('.') {
        Some((_, "")) => return None,
        Some(parts) => parts,
        None => (number, "0"),
    };
    // A second dot would be left in the fraction and fails to parse there.
    if whole.is_empty() || whole.len() > MAX_DIGITS || fraction.len() > MAX_DIGITS {
        return None;
    }
    let places = u32::try_from(fraction.len()).ok()?;
    let (whole, fraction) = (whole.parse::<u128>().ok()?, fraction.parse::<u128>().ok()?);
    Some(whole * scale + fraction * scale / 10u128.pow(places))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_exactly() {
        for (text, millis) in [
            ("1ms", 1),
            ("1.5s", 1_500),
            ("0.1s", 100),
            ("0.001s", 1),
            ("010s", 10_000),
            ("10m", 600_000),
            ("2h", 7_200_000),
            ("365d", 31_536_000_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in [
            "",
            "s",
            "30",
            "30 s",
            " 30s",
            "30s ",
            "-1s",
            "+1s",
            "1e3s",
            "1..5s",
            "1.5.5s",
            ".5s",
            "1.s",
            "1S",
            "1w",
            "1us",
            "∞",
            "1m30s",
            "99999999999999999999999999999999999999999s",
        ] {
            assert!(parse_duration(text).is_err_and(|e| e.contains("is not a duration")), "{text}");
        }
    }

    #[test]
    fn durations_end_at_one_millisecond_and_a_year() {
        for text in ["0s", "0ms", "0.9ms", "0.0001s"] {
            assert!(parse_duration(text).is_err_and(|e| e.contains("1ms")), "{text}");
        }
        for text in ["365.1d", "366d", "999999999999999999d"] {
            assert!(parse_duration(text).is_err_and(|e| e.contains("365d")), "{text}");
        }
    }

    #[test]
    fn sizes_are_read_exactly() {
        for (text, bytes) in [
            ("1", 1),
            ("17B", 17),
            ("16MiB", 16 << 20),
            ("1.5KiB", 1_536),
            ("1GiB", 1 << 30),
            ("2KB", 2_000),
            ("3MB", 3_000_000),
            ("1GB", 1_000_000_000),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "MiB", "16 MiB", "-1", "16mib", "16M", "1.2.3MiB", "0x10", "99999999999999999TiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        for text in ["0", "0MiB", "0.1B"] {
            assert!(parse_size(text).is_err_and(|e| e.contains("0 never means unlimited")), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_readers_panic(text in "\\PC*") {
            let _ = parse_duration(&text);
            let _ = parse_size(&text);
        }

        #[test]
        fn digits_and_dots_never_overflow(text in "[0-9.]{0,40}(ms|s|d|TiB)?") {
            let _ = parse_duration(&text);
            let _ = parse_size(&text);
        }
    }
}
