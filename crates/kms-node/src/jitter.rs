//! Jitter: desynchronizes the retries of many nodes after a common outage.

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    time::Duration,
};

/// Three to five quarters of `pause`, at random.
#[must_use]
pub fn spread(pause: Duration) -> Duration {
    spread_by(pause, random_unit())
}

/// The shortest result of [`drift`] for `interval`.
#[must_use]
pub fn shortest(interval: Duration) -> Duration {
    drift_by(interval, 0.0)
}

/// Three quarters of `interval` to all of it, at random: the regular calls of nodes drift apart after
/// a common start or outage, and none comes later than configured.
#[must_use]
pub fn drift(interval: Duration) -> Duration {
    drift_by(interval, random_unit())
}

fn drift_by(interval: Duration, unit: f64) -> Duration {
    interval.mul_f64(0.75 + 0.25 * unit)
}

fn spread_by(pause: Duration, unit: f64) -> Duration {
    pause.mul_f64(0.75 + 0.5 * unit)
}

/// A random value from 0 to 1, from the random hash keys of the standard library.
fn random_unit() -> f64 {
    let random = RandomState::new().build_hasher().finish();
    let high = u32::try_from(random >> 32).unwrap_or(u32::MAX);
    f64::from(high) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The most of 100 nodes, in step at first, whose probe is in the same second.
    fn in_the_fullest_second(intervals: u32) -> usize {
        let mut due = [Duration::ZERO; 100]
            .map(|at| (0..intervals).fold(at, |at, _| at + drift(Duration::from_secs(30))));
        due.sort();
        let within = |first: &Duration| {
            due.iter()
                .filter(|at| (*first..*first + Duration::from_secs(1)).contains(at))
                .count()
        };
        due.iter().map(within).max().unwrap_or_default()
    }

    #[test]
    fn a_hundred_nodes_in_step_drift_apart() {
        let fullest = [0, 1, 10, 100].map(in_the_fullest_second);
        println!("nodes in the fullest second after 0, 1, 10, 100 intervals of 30 s: {fullest:?}");
        assert_eq!(fullest[0], 100);
        assert!(
            fullest[1] < 35 && fullest[2] < 25 && fullest[3] < 20,
            "{fullest:?}"
        );
    }

    #[test]
    fn the_spread_is_a_quarter() {
        let pause = Duration::from_secs(8);
        assert_eq!(spread_by(pause, 0.0), Duration::from_secs(6));
        assert_eq!(spread_by(pause, 1.0), Duration::from_secs(10));
        assert_eq!(drift_by(pause, 0.0), Duration::from_secs(6));
        assert_eq!(drift_by(pause, 1.0), pause);
        let units: Vec<f64> = (0..100).map(|_| random_unit()).collect();
        assert!(units.iter().all(|unit| (0.0..=1.0).contains(unit)));
        assert!(units.iter().any(|unit| *unit < 0.5) && units.iter().any(|unit| *unit > 0.5));
    }
}
