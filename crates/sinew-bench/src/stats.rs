//! Distributions, medians, and the interval in which a median lies.

use hdrhistogram::Histogram;

use crate::report::Distribution;

/// The longest time a histogram holds: a minute. What is longer counts as that.
const LONGEST_NS: u64 = 60_000_000_000;

/// Nanoseconds of many samples, at three significant digits.
#[derive(Debug)]
pub(crate) struct Samples(Histogram<u64>);

impl Samples {
    pub(crate) fn new() -> Self {
        Self(Histogram::new_with_bounds(1, LONGEST_NS, 3).expect("constant bounds are valid"))
    }

    pub(crate) fn record(&mut self, ns: u64) {
        self.0.saturating_record(ns);
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    /// Pairs of value and count, as they travel from a worker to the supervisor.
    pub(crate) fn to_pairs(&self) -> Vec<(u64, u64)> {
        self.0.iter_recorded().map(|v| (v.value_iterated_to(), v.count_at_value())).collect()
    }

    pub(crate) fn add_pairs(&mut self, pairs: &[(u64, u64)]) {
        for &(value, count) in pairs {
            self.0.saturating_record_n(value, count);
        }
    }

    /// The summary, each value divided by `unit`: how many messages one sample stands for.
    pub(crate) fn distribution(&self, unit: f64) -> Distribution {
        if self.0.is_empty() {
            return Distribution::default();
        }
        #[expect(clippy::cast_precision_loss, reason = "a minute of nanoseconds is exact in f64")]
        let at = |quantile: f64| self.0.value_at_quantile(quantile) as f64 / unit;
        #[expect(clippy::cast_precision_loss, reason = "as above")]
        Distribution {
            min: self.0.min() as f64 / unit,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: self.0.max() as f64 / unit,
            mean: self.0.mean() / unit,
        }
    }
}

/// The median; of an even number the mean of the two in the middle. NaN of nothing.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// The interval that holds the median of the population with a probability of at least 95 %,
/// whatever its distribution: two order statistics, whose ranks follow from the binomial
/// distribution with p = 1/2 (e.g. Conover, Practical Nonparametric Statistics, 3.2).
pub(crate) fn median_interval(values: &[f64]) -> Option<[f64; 2]> {
    let n = values.len();
    // With fewer than six values not even the extremes reach 95 %.
    if n < 6 {
        return None;
    }
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    // The largest k with P(X < k) <= 2.5 %: the interval runs from the k-th least to the k-th most.
    let mut term = 0.5_f64.powi(i32::try_from(n).ok()?);
    let mut below = 0.0;
    let mut k = 0;
    while below + term <= 0.025 {
        below += term;
        k += 1;
        #[expect(clippy::cast_precision_loss, reason = "counts of batches are small")]
        {
            term *= (n - k + 1) as f64 / k as f64;
        }
    }
    let low = k.checked_sub(1)?;
    Some([sorted[low], sorted[n - 1 - low]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_of_a_median_uses_the_known_ranks() {
        // Tabulated: n = 15 takes the 4th and the 12th, n = 21 the 6th and the 16th.
        let values = |n: u32| (1..=n).map(f64::from).collect::<Vec<_>>();
        assert_eq!(median_interval(&values(6)), Some([1.0, 6.0]));
        assert_eq!(median_interval(&values(15)), Some([4.0, 12.0]));
        assert_eq!(median_interval(&values(21)), Some([6.0, 16.0]));
        assert_eq!(median_interval(&values(5)), None);
    }

    #[test]
    fn medians() {
        assert!(median(&[]).is_nan());
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn samples_survive_the_way_to_the_supervisor() {
        let mut near = Samples::new();
        for ns in [1, 1, 5, 1_000, 70_000_000_000] {
            near.record(ns);
        }
        let mut far = Samples::new();
        far.add_pairs(&near.to_pairs());
        assert_eq!(far.count(), 5);
        assert_eq!(far.distribution(1.0).p50, near.distribution(1.0).p50);
        assert_eq!(far.distribution(1.0).min, 1.0);
    }
}
