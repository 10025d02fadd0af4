//! From the program's buckets to a histogram, without losing anything: they are the histogram's own.

use hdrhistogram::Histogram;

/// How many buckets there are (`BUCKETS` of the program): values below 2^36 ns, which is where the histogram's end.
pub(super) const BUCKETS: u32 = 27_648;
/// Buckets of each power of two: 1,024 keep three significant digits, as in `HdrHistogram`.
const PER_POWER: u64 = 1_024;

/// The lowest latency of bucket `bucket`, ns.
fn lowest(bucket: u32) -> u64 {
    let bucket = u64::from(bucket);
    // Up to 2,047 each value is its own bucket.
    let shift = (bucket / PER_POWER).saturating_sub(1);
    (bucket - shift * PER_POWER) << shift
}

/// Records what bucket `bucket` counted.
pub(super) fn record(histogram: &mut Histogram<u64>, bucket: u32, count: u64) {
    if count > 0 {
        histogram.saturating_record_n(lowest(bucket), count);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sink::record::latency_histogram;

    /// As the program computes it.
    fn bucket_of(latency: u64) -> u32 {
        let latency = latency.clamp(1, (1 << 36) - 1);
        let shift = 64 - (latency >> 11).leading_zeros();
        (u64::from(shift) * 1_024 + (latency >> shift)) as u32
    }

    #[test]
    fn buckets_follow_each_other_without_a_hole() {
        for bucket in 1..BUCKETS {
            let lowest = lowest(bucket);
            assert_eq!((bucket_of(lowest), bucket_of(lowest - 1)), (bucket, bucket_of(lowest).max(2) - 1));
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_on_the_way(latencies in proptest::collection::vec(0_u64..1 << 36, 1..50), shift in 0_u32..36) {
            let (mut direct, mut converted) = (latency_histogram().unwrap(), latency_histogram().unwrap());
            let mut counts = std::collections::BTreeMap::<u32, u64>::new();
            for latency in latencies {
                let latency = u64::max(latency >> shift, 1);
                direct.saturating_record(latency);
                *counts.entry(bucket_of(latency)).or_default() += 1;
            }
            for (bucket, count) in counts {
                record(&mut converted, bucket, count);
            }
            for quantile in [0.0, 0.5, 0.99, 1.0] {
                prop_assert_eq!(direct.value_at_quantile(quantile), converted.value_at_quantile(quantile));
            }
            prop_assert_eq!(direct, converted);
        }
    }
}
