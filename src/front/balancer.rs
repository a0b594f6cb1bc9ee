//! Which router takes the next frame.
//!
//! It only chooses: who is up and how busy each is, it is told. The choice is a function of the
//! seed and of the frames so far.

use crate::model::{Random, to_u64, to_usize};

/// How a balancer spreads frames over routers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// Uniformly at random.
    Random,
    /// The one with fewer operations in flight of two taken at random.
    #[default]
    LeastLoad,
    /// One after the other.
    RoundRobin,
}

/// A router that a frame may go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Route {
    /// The router in this process, without a socket.
    Own,
    /// The router behind a link.
    Remote(u16),
}

/// A router that is up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    /// Which.
    pub(super) route: Route,
    /// Operations that it has not answered yet.
    pub(super) load: u32,
    /// It takes one more frame now.
    pub(super) has_room: bool,
}

/// Chooses routers.
#[derive(Debug)]
pub(super) struct Balancer {
    strategy: Strategy,
    random: Random,
    last: Option<Route>,
}

impl Balancer {
    pub(super) fn new(strategy: Strategy, seed: u64) -> Self {
        Self {
            strategy,
            random: Random::new(seed),
            last: None,
        }
    }

    /// One of `candidates`, which are in ascending order; `None` when there are none.
    pub(super) fn pick(&mut self, candidates: &[Candidate]) -> Option<Route> {
        let (first, rest) = candidates.split_first()?;
        if rest.is_empty() {
            self.last = Some(first.route);
            return Some(first.route);
        }
        let picked = match self.strategy {
            Strategy::Random => self.one_of(candidates),
            Strategy::LeastLoad => self.less_loaded(candidates),
            Strategy::RoundRobin => candidates
                .iter()
                .find(|candidate| self.last < Some(candidate.route))
                .unwrap_or(first),
        };
        self.last = Some(picked.route);
        Some(picked.route)
    }

    fn one_of<'a>(&mut self, candidates: &'a [Candidate]) -> &'a Candidate {
        &candidates[to_usize(self.random.below(to_u64(candidates.len())))]
    }

    /// Two different ones at random, then the one with less to do: almost as even as asking all,
    /// and balancers that see the same figures do not all run to the same router.
    fn less_loaded<'a>(&mut self, candidates: &'a [Candidate]) -> &'a Candidate {
        let count = to_u64(candidates.len());
        let first = self.random.below(count);
        let other = (first + 1 + self.random.below(count - 1)) % count;
        let (first, other) = (&candidates[to_usize(first)], &candidates[to_usize(other)]);
        if other.load < first.load {
            other
        } else {
            first
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(loads: &[u32]) -> Vec<Candidate> {
        (0_u16..)
            .zip(loads)
            .map(|(index, load)| Candidate {
                route: if index == 0 {
                    Route::Own
                } else {
                    Route::Remote(index)
                },
                load: *load,
                has_room: true,
            })
            .collect()
    }

    fn counts(strategy: Strategy, loads: &[u32], pick_count: u32) -> Vec<u32> {
        let candidates = candidates(loads);
        let mut balancer = Balancer::new(strategy, 7);
        let mut counts = vec![0; loads.len()];
        for _ in 0..pick_count {
            let picked = balancer.pick(&candidates).unwrap();
            let at = candidates.iter().position(|c| c.route == picked).unwrap();
            counts[at] += 1;
        }
        counts
    }

    #[test]
    fn random_is_about_even() {
        for count in counts(Strategy::Random, &[0; 4], 4_000) {
            assert!((900..1_100).contains(&count), "{count} of 1000");
        }
    }

    #[test]
    fn round_robin_is_exactly_even_and_skips_who_is_down() {
        assert_eq!(counts(Strategy::RoundRobin, &[9, 0, 5], 300), [100; 3]);
        let mut up = candidates(&[0; 4]);
        up.remove(2);
        let mut balancer = Balancer::new(Strategy::RoundRobin, 0);
        let picked: Vec<_> = (0..6).map(|_| balancer.pick(&up).unwrap()).collect();
        let (own, one, three) = (Route::Own, Route::Remote(1), Route::Remote(3));
        assert_eq!(picked, [own, one, three, own, one, three]);
    }

    #[test]
    fn least_load_takes_the_idler_of_two() {
        assert_eq!(counts(Strategy::LeastLoad, &[1, 0], 100), [0, 100]);
        // The busiest of three never wins a comparison, the idlest always does.
        let counts = counts(Strategy::LeastLoad, &[2, 1, 0], 3_000);
        assert_eq!(counts[0], 0);
        assert!((900..1_100).contains(&counts[1]), "{counts:?}");
        // Equal loads: about even.
        for count in self::counts(Strategy::LeastLoad, &[3; 3], 3_000) {
            assert!((900..1_100).contains(&count), "{count} of 1000");
        }
    }

    #[test]
    fn nobody_is_nobody() {
        assert_eq!(Balancer::new(Strategy::Random, 1).pick(&[]), None);
    }
}
