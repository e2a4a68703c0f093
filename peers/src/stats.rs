//! Medians, and how sure they are.

/// The median of samples, which are put in order.
pub(crate) fn median_of(samples: &mut [u64]) -> u64 {
    if samples.is_empty() {
        return 0;
    }
    let middle = samples.len() / 2;
    *samples.select_nth_unstable(middle).1
}

/// The median of a few.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

/// A 95 % interval of the median: the order statistics that it lies between with that probability, whatever the
/// distribution. With fewer than six values the least and the greatest, which is less.
pub(crate) fn interval(values: &[f64]) -> [f64; 2] {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    if n == 0 {
        return [f64::NAN; 2];
    }
    // The chance that at most `k` of `n` lie below the median.
    let mut term = 0.5_f64.powi(i32::try_from(n).unwrap_or(i32::MAX));
    let mut below = term;
    let mut k = 0;
    while k < n / 2 {
        term *= (n - k) as f64 / (k + 1) as f64;
        if 2.0 * (below + term) > 0.05 {
            break;
        }
        below += term;
        k += 1;
    }
    [sorted[k], sorted[n - 1 - k]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_has_the_order_statistics_of_the_tables() {
        let values = |n: u32| (1..=n).map(f64::from).collect::<Vec<_>>();
        // From tables of the sign test: 7 values give the extremes, 9 the second, 15 the fourth.
        assert_eq!(interval(&values(7)), [1.0, 7.0]);
        assert_eq!(interval(&values(9)), [2.0, 8.0]);
        assert_eq!(interval(&values(15)), [4.0, 12.0]);
        assert_eq!(interval(&values(3)), [1.0, 3.0]);
    }

    #[test]
    fn a_median_is_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median_of(&mut [5, 1, 9]), 5);
    }
}
