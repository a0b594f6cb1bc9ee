//! Numbers, times and lists as people write them on a command line.
#![expect(
    clippy::float_arithmetic,
    reason = "1.5M and 99.9 are what people write"
)]

use super::numbers::rounded;

/// `100`, `10k`, `1.5M`, `2_000`.
pub fn parse_count(text: &str) -> Result<u64, String> {
    let plain: String = text.chars().filter(|c| *c != '_' && *c != ',').collect();
    let (digits, factor) = match plain.strip_suffix(['k', 'K']) {
        Some(digits) => (digits, 1e3),
        None => match plain.strip_suffix('M') {
            Some(digits) => (digits, 1e6),
            None => (plain.as_str(), 1.0),
        },
    };
    let number = parse_plain(digits).ok_or_else(|| format!("`{text}` is no number"))?;
    let count = number * factor;
    if count.fract() == 0.0 && count < 1e15 {
        Ok(rounded(count))
    } else {
        Err(format!("`{text}` is no whole number below 10^15"))
    }
}

/// `500ms`, `30s`, `2m`, `1h`; a bare number is seconds. In milliseconds.
pub fn parse_duration_ms(text: &str) -> Result<u64, String> {
    let units = [("ms", 1.0), ("s", 1e3), ("m", 60e3), ("h", 3_600e3)];
    let found = units
        .iter()
        .find_map(|(unit, factor)| text.strip_suffix(unit).map(|digits| (digits, *factor)));
    let (digits, factor) = found.unwrap_or((text, 1e3));
    let number = parse_plain(digits).ok_or_else(|| format!("`{text}` is no duration"))?;
    let ms = number * factor;
    if ms < 1e12 {
        Ok(rounded(ms))
    } else {
        Err(format!("`{text}` is too long"))
    }
}

/// `50us`, `5ms`, `1s`, in nanoseconds. A unit is needed.
pub(super) fn parse_latency_ns(text: &str) -> Result<u64, String> {
    let units = [("ns", 1.0), ("us", 1e3), ("ms", 1e6), ("s", 1e9)];
    let found = units
        .iter()
        .find_map(|(unit, factor)| text.strip_suffix(unit).map(|digits| (digits, *factor)));
    let (digits, factor) = found.ok_or_else(|| format!("`{text}` needs a unit: us, ms or s"))?;
    let number = parse_plain(digits).ok_or_else(|| format!("`{text}` is no duration"))?;
    Ok(rounded((number * factor).min(1e18)))
}

/// `50,99,99.9`: each above 0 and at most 100.
pub fn parse_percentiles(text: &str) -> Result<Vec<f64>, String> {
    let one = |part: &str| match parse_plain(part.trim()) {
        Some(number) if 0.0 < number && number <= 100.0 => Ok(number),
        Some(_) | None => Err(format!("`{part}` is no percentile")),
    };
    text.split(',').map(one).collect()
}

/// Digits with at most one point: no sign, no exponent, no `inf`.
pub(super) fn parse_plain(text: &str) -> Option<f64> {
    let plain = text.chars().all(|c| c.is_ascii_digit() || c == '.');
    text.parse().ok().filter(|_| plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_suffixes_and_no_fractions() {
        for (text, count) in [
            ("0", 0),
            ("17", 17),
            ("10k", 10_000),
            ("1.5M", 1_500_000),
            ("2_000", 2_000),
            ("1,000", 1_000),
        ] {
            assert_eq!(parse_count(text), Ok(count), "{text}");
        }
        for wrong in ["", "k", "-1", "1.0005k", "1e3", "inf", "NaN", "1G", "1..2"] {
            assert!(parse_count(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn durations_have_units() {
        for (text, ms) in [
            ("250ms", 250),
            ("30s", 30_000),
            ("2", 2_000),
            ("1.5s", 1_500),
            ("2m", 120_000),
            ("1h", 3_600_000),
        ] {
            assert_eq!(parse_duration_ms(text), Ok(ms), "{text}");
        }
        for wrong in ["", "s", "-1s", "1d", "ms5", "99999999999h"] {
            assert!(parse_duration_ms(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parse_latency_ns("1.5ms"), Ok(1_500_000));
        assert_eq!(parse_latency_ns("40us"), Ok(40_000));
        assert!(parse_latency_ns("5").is_err());
    }

    #[test]
    fn percentiles_are_above_0_and_at_most_100() {
        assert_eq!(
            parse_percentiles("50, 99.9,100"),
            Ok(vec![50.0, 99.9, 100.0])
        );
        for wrong in ["", "0", "101", "50,", "p50"] {
            assert!(parse_percentiles(wrong).is_err(), "{wrong}");
        }
    }
}
