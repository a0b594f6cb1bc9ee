//! The few places where whole numbers become fractions and back.
#![expect(
    clippy::float_arithmetic,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "figures for people: 53 bits are more than they read"
)]

use crate::model::Random;

/// As a fraction, to 53 bits.
pub(super) const fn float(number: u64) -> f64 {
    number as f64
}

/// The nearest whole number; 0 below it, the largest above the range.
pub(super) fn rounded(number: f64) -> u64 {
    number.round() as u64
}

/// `part` of `whole`; 0 of nothing.
pub(super) fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        float(part) / float(whole)
    }
}

/// `count` in `nanos` as a number per second.
pub(super) fn per_second(count: u64, nanos: u64) -> u64 {
    rounded(ratio(count, nanos) * 1e9)
}

/// Nanoseconds as seconds.
pub(super) fn seconds(nanos: u64) -> f64 {
    float(nanos) / 1e9
}

/// Nanoseconds as milliseconds.
pub(super) fn millis(nanos: u64) -> f64 {
    float(nanos) / 1e6
}

/// To three digits behind the point, so that reports do not show noise.
pub(super) fn to_thousandths(number: f64) -> f64 {
    (number * 1e3).round() / 1e3
}

/// Uniform in [0, 1).
pub(super) fn fraction(random: &mut Random) -> f64 {
    float(random.u64() >> 11) / float(1 << 53)
}
