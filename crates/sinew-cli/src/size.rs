//! Sizes and durations as they are written on the command line, and printed back.

use std::fmt;
use std::time::Duration;

/// The largest size that the command takes: a gibibyte. The workers hold a few buffers of it.
const LARGEST: u64 = 1 << 30;

/// The longest time for one row.
const LONGEST: Duration = Duration::from_secs(3600);

/// A number of bytes: `64`, `4K`, `1M`. The letters are powers of 1024.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Size(pub(crate) usize);

impl Size {
    /// As in a sentence: `64 bytes`, `4 KiB`, `100 MiB`.
    pub(crate) fn spoken(self) -> String {
        let text = self.to_string();
        match text.strip_suffix(['K', 'M', 'G']) {
            Some(number) => format!("{number} {}iB", &text[number.len()..]),
            None if self.0 == 1 => "1 byte".to_owned(),
            None => format!("{text} bytes"),
        }
    }
}

/// Reads a size.
pub(crate) fn parse_size(text: &str) -> Result<Size, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        _ => return Err(not_a_size(text)),
    };
    if number.is_empty() {
        return Err(not_a_size(text));
    }
    // All digits, so the only thing wrong with it can be its magnitude.
    let bytes = number.parse::<u64>().ok().and_then(|n| n.checked_mul(1 << shift));
    match bytes {
        Some(0) => {
            Err("a message of 0 bytes cannot be told from an end; the least is 1".to_owned())
        }
        Some(bytes @ 1..=LARGEST) => usize::try_from(bytes).map(Size).map_err(|e| e.to_string()),
        _ => Err(format!("{text} is too much; the most is 1G")),
    }
}

fn not_a_size(text: &str) -> String {
    format!("{text:?} is no size; write bytes as 64, or powers of 1024 as 4K, 1M")
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0;
        for (shift, unit) in [(30, "G"), (20, "M"), (10, "K")] {
            if bytes != 0 && bytes.is_multiple_of(1 << shift) {
                return f.pad(&format!("{}{unit}", bytes >> shift));
            }
        }
        f.pad(&bytes.to_string())
    }
}

/// Reads a time: `500us`, `200ms`, `2s`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let nanoseconds: u64 = match unit {
        "us" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        _ => return Err(not_a_time(text)),
    };
    if number.is_empty() {
        return Err(not_a_time(text));
    }
    let total = number.parse::<u64>().ok().and_then(|n| n.checked_mul(nanoseconds));
    match total.map(Duration::from_nanos) {
        Some(Duration::ZERO) => Err("no time is left to measure in; the least is 1us".to_owned()),
        Some(time) if time <= LONGEST => Ok(time),
        _ => Err(format!("{text} is too long; the most for one row is 3600s")),
    }
}

fn not_a_time(text: &str) -> String {
    format!("{text:?} is no time; write 500us, 200ms or 2s")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        for (text, bytes) in [
            ("1", 1),
            ("64", 64),
            ("4K", 4096),
            ("4k", 4096),
            ("4KiB", 4096),
            ("64K", 65_536),
            ("1M", 1 << 20),
            ("1G", 1 << 30),
            ("0064", 64),
        ] {
            assert_eq!(parse_size(text), Ok(Size(bytes)), "{text}");
        }
    }

    #[test]
    fn a_size_can_be_spoken() {
        assert_eq!(Size(1).spoken(), "1 byte");
        assert_eq!(Size(64).spoken(), "64 bytes");
        assert_eq!(Size(100 << 20).spoken(), "100 MiB");
        assert_eq!(Size(50_000_001).spoken(), "50000001 bytes");
    }

    #[test]
    fn what_is_no_size_is_refused_with_the_reason() {
        for (text, reason) in [
            ("0", "cannot be told from an end"),
            ("0K", "cannot be told from an end"),
            ("", "is no size"),
            ("K", "is no size"),
            ("-1", "is no size"),
            ("+1", "is no size"),
            ("1.5K", "is no size"),
            ("64 ", "is no size"),
            ("4KB", "is no size"),
            ("4T", "is no size"),
            ("0x40", "is no size"),
            ("٤", "is no size"),
            ("2G", "too much"),
            ("1073741825", "too much"),
            ("18446744073709551616", "too much"),
            ("18014398509481984K", "too much"),
        ] {
            let error = parse_size(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused_with_the_reason() {
        assert_eq!(parse_duration("200ms"), Ok(Duration::from_millis(200)));
        assert_eq!(parse_duration("2s"), Ok(Duration::from_secs(2)));
        for (text, reason) in [
            ("0s", "no time is left"),
            ("200", "is no time"),
            ("ms", "is no time"),
            ("1.5s", "is no time"),
            ("1h", "is no time"),
            ("3601s", "too long"),
            ("99999999999999999999s", "too long"),
        ] {
            let error = parse_duration(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn a_size_printed_is_read_back(bytes in 1_usize..=1 << 30) {
            prop_assert_eq!(parse_size(&Size(bytes).to_string()), Ok(Size(bytes)));
        }

        #[test]
        fn a_round_size_is_printed_short(count in 1_usize..1024, shift in prop::sample::select(vec![0, 10, 20])) {
            let text = Size(count << shift).to_string();
            prop_assert!(text.len() <= 5, "{}", text);
            prop_assert_eq!(parse_size(&text), Ok(Size(count << shift)));
        }

        #[test]
        fn any_text_is_a_size_or_an_error_of_one_line(text in ".*") {
            match parse_size(&text) {
                Ok(size) => prop_assert!(size.0 >= 1 && size.0 <= 1 << 30),
                Err(error) => prop_assert!(!error.is_empty() && !error.contains('\n')),
            }
        }

        #[test]
        fn any_text_is_a_time_or_an_error_of_one_line(text in ".*") {
            match parse_duration(&text) {
                Ok(time) => prop_assert!(!time.is_zero() && time <= LONGEST),
                Err(error) => prop_assert!(!error.is_empty() && !error.contains('\n')),
            }
        }

        #[test]
        fn numbers_with_units_are_times(count in 1_u64..3600, unit in prop::sample::select(vec!["us", "ms", "s"])) {
            let text = format!("{count}{unit}");
            prop_assert!(parse_duration(&text).is_ok());
        }
    }
}
