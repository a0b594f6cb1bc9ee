//! Draws users by a distribution, from a seeded stream.
#![expect(clippy::float_arithmetic, reason = "shares are fractions")]

use super::Distribution;
use super::numbers::{float, fraction, rounded};
use crate::model::Random;

/// Draws indices below a count.
#[derive(Clone, Debug)]
pub(super) enum Sampler {
    Uniform { count: u64 },
    Zipf(Zipf),
    Hot { count: u64, hot: u64, share: f64 },
}

impl Sampler {
    /// Over `count` users, which must not be 0.
    pub(super) fn new(distribution: Distribution, count: u32) -> Self {
        assert!(0 < count);
        let count = u64::from(count);
        match distribution {
            Distribution::Uniform => Self::Uniform { count },
            Distribution::Zipf(theta) => Self::Zipf(Zipf::new(count, theta)),
            Distribution::Hot {
                count: hot,
                percent,
            } => Self::Hot {
                count,
                hot: u64::from(hot).min(count),
                share: percent / 100.0,
            },
        }
    }

    /// The next index. The lower ones are the frequent ones: user ids are hashed anyway, so
    /// neighbours do not share a node.
    pub(super) fn draw(&self, random: &mut Random) -> u64 {
        match self {
            Self::Uniform { count } => random.below(*count),
            Self::Zipf(zipf) => zipf.draw(random),
            Self::Hot { count, hot, share } => {
                if hot == count || fraction(random) < *share {
                    random.below(*hot)
                } else {
                    hot + random.below(count - hot)
                }
            }
        }
    }
}

/// Zipf's law by rejection-inversion (Hoermann and Derflinger, 1996): exact for any exponent above
/// 0, without tables, with less than one rejected draw in ten.
#[derive(Clone, Debug)]
pub(super) struct Zipf {
    count: f64,
    theta: f64,
    low: f64,
    high: f64,
    /// Draws whose distance to their whole number is no larger are taken without a test.
    sure: f64,
}

impl Zipf {
    fn new(count: u64, theta: f64) -> Self {
        let count = float(count);
        Self {
            count,
            theta,
            low: area(1.5, theta) - 1.0,
            high: area(count + 0.5, theta),
            sure: 2.0 - area_inverse(area(2.5, theta) - 2.0_f64.powf(-theta), theta),
        }
    }

    fn draw(&self, random: &mut Random) -> u64 {
        loop {
            let at = self.high + fraction(random) * (self.low - self.high);
            let exact = area_inverse(at, self.theta);
            let rank = exact.round().clamp(1.0, self.count);
            let taken = rank - exact <= self.sure
                || area(rank + 0.5, self.theta) - rank.powf(-self.theta) <= at;
            if taken {
                return rounded(rank) - 1;
            }
        }
    }
}

/// The integral of x^-theta, up to a constant.
fn area(x: f64, theta: f64) -> f64 {
    let log = x.ln();
    log * growth((1.0 - theta) * log)
}

fn area_inverse(area: f64, theta: f64) -> f64 {
    let t = (area * (1.0 - theta)).max(-1.0);
    (area * log_growth(t)).exp()
}

/// (e^x - 1) / x, steady around 0.
fn growth(x: f64) -> f64 {
    if 1e-8 < x.abs() {
        x.exp_m1() / x
    } else {
        1.0 + x / 2.0
    }
}

/// ln(1 + x) / x, steady around 0.
fn log_growth(x: f64) -> f64 {
    if 1e-8 < x.abs() {
        x.ln_1p() / x
    } else {
        1.0 - x / 2.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(distribution: Distribution, users: u32, draws: u32) -> Vec<u32> {
        let sampler = Sampler::new(distribution, users);
        let mut random = Random::new(7);
        let mut counts = vec![0; crate::model::to_usize(u64::from(users))];
        for _ in 0..draws {
            counts[crate::model::to_usize(sampler.draw(&mut random))] += 1;
        }
        counts
    }

    #[test]
    fn the_same_seed_draws_the_same_users() {
        for text in ["uniform", "zipf:0.99", "hot:10:90"] {
            let sampler = Sampler::new(text.parse().unwrap(), 1_000);
            let draw = |seed| {
                let mut random = Random::new(seed);
                (0..100)
                    .map(|_| sampler.draw(&mut random))
                    .collect::<Vec<_>>()
            };
            assert_eq!(draw(3), draw(3), "{text}");
            assert_ne!(draw(3), draw(4), "{text}");
        }
    }

    #[test]
    fn zipf_gives_each_rank_its_share() {
        // Against the law itself, summed up the slow way.
        for theta in [0.5, 0.99, 1.0, 1.5, 3.0] {
            let (users, draws) = (100, 400_000);
            let counts = counts(Distribution::Zipf(theta), users, draws);
            let total: f64 = (1..=users).map(|k| f64::from(k).powf(-theta)).sum();
            for rank in [1_u32, 2, 3, 10, 50, 100] {
                let expected = f64::from(draws) * f64::from(rank).powf(-theta) / total;
                let found = f64::from(counts[crate::model::to_usize(u64::from(rank) - 1)]);
                // Five standard deviations.
                let bound = 5.0 * expected.sqrt() + 1.0;
                assert!(
                    (found - expected).abs() < bound,
                    "theta {theta} rank {rank}: {found} instead of {expected}"
                );
            }
        }
    }

    #[test]
    fn hot_users_get_their_share_and_no_more() {
        let distribution = "hot:10:80".parse().unwrap();
        let counts = counts(distribution, 1_000, 100_000);
        let hot: u32 = counts[..10].iter().sum();
        assert!((79_000..81_000).contains(&hot), "{hot}");
        // More hot users than users: all are hot.
        let all = Sampler::new("hot:50:80".parse().unwrap(), 5);
        let mut random = Random::new(1);
        assert!((0..1_000).all(|_| all.draw(&mut random) < 5));
    }

    #[test]
    fn uniform_reaches_everybody() {
        let counts = counts(Distribution::Uniform, 100, 100_000);
        assert!(counts.iter().all(|count| (800..1_200).contains(count)));
    }
}
