//! Quantities with the unit that suits each: three digits that mean something.

/// `812 ns`, `4.31 us`, `31.0 ms`, `2.50 s`.
pub(crate) fn time(nanoseconds: f64) -> String {
    scaled(nanoseconds, 1000.0, &["ns", "us", "ms", "s"])
}

/// `950 kB/s`, `1.20 GB/s`: powers of 1000, as for all rates.
pub(crate) fn rate(bytes_per_s: f64) -> String {
    scaled(bytes_per_s, 1000.0, &["B/s", "kB/s", "MB/s", "GB/s", "TB/s"])
}

/// `812 /s`, `1.20 M/s`.
pub(crate) fn frequency(per_s: f64) -> String {
    scaled(per_s, 1000.0, &["/s", "k/s", "M/s", "G/s"])
}

/// `512 B`, `4.00 MiB`, `31.4 GiB`: powers of 1024, as for all amounts of memory.
pub(crate) fn memory(bytes: u64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "three digits are printed")]
    let bytes = bytes as f64;
    scaled(bytes, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"])
}

/// A plain number with as many digits as mean something: `0`, `2`, `1.50`, `256`.
pub(crate) fn number(value: f64) -> String {
    if (value - value.round()).abs() < 0.005 {
        return format!("{value:.0}");
    }
    digits(value)
}

/// `14 times`, `1.3 times`.
pub(crate) fn times(ratio: f64) -> String {
    if ratio >= 9.95 { format!("{ratio:.0} times") } else { format!("{ratio:.1} times") }
}

fn scaled(value: f64, step: f64, units: &[&str]) -> String {
    if !value.is_finite() {
        return "?".to_owned();
    }
    let mut value = value;
    let mut unit = 0;
    // 999.6 would be printed as 1000 of the smaller unit.
    while value.abs() >= step - 0.5 && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    let shown = if unit == 0 && (value - value.round()).abs() < 0.005 {
        format!("{value:.0}")
    } else {
        digits(value)
    };
    format!("{shown} {}", units[unit])
}

/// Three digits.
fn digits(value: f64) -> String {
    match value.abs() {
        v if v >= 99.95 => format!("{value:.0}"),
        v if v >= 9.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_unit_suits_the_value() {
        for (value, text) in [
            (0.0, "0 ns"),
            (0.4, "0.40 ns"),
            (88.25, "88.2 ns"),
            (812.0, "812 ns"),
            (999.4, "999 ns"),
            (999.6, "1.00 us"),
            (4312.0, "4.31 us"),
            (99_960.0, "100 us"),
            (31_000_000.0, "31.0 ms"),
            (2.5e9, "2.50 s"),
            (3.6e12, "3600 s"),
            (f64::NAN, "?"),
        ] {
            assert_eq!(time(value), text, "{value}");
        }
        assert_eq!(rate(1.204e9), "1.20 GB/s");
        assert_eq!(rate(950_000.0), "950 kB/s");
        assert_eq!(frequency(1_234_567.0), "1.23 M/s");
        assert_eq!(memory(4 << 20), "4.00 MiB");
        assert_eq!(number(2.0), "2");
        assert_eq!(number(1.5), "1.50");
        assert_eq!(times(14.2), "14 times");
        assert_eq!(times(1.25), "1.2 times");
    }

    proptest! {
        // Beyond the end of this range comes 1000 s, for which there is no larger unit.
        #[test]
        fn a_time_is_short_and_never_a_thousand_of_a_unit(ns in 0.0_f64..999.4e9) {
            let text = time(ns);
            prop_assert!(text.len() <= 7, "{}", text);
            prop_assert!(!text.starts_with("1000 "), "{}", text);
        }
    }
}
