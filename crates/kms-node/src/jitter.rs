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

    #[test]
    fn the_spread_is_a_quarter() {
        let pause = Duration::from_secs(8);
        assert_eq!(spread_by(pause, 0.0), Duration::from_secs(6));
        assert_eq!(spread_by(pause, 1.0), Duration::from_secs(10));
        let units: Vec<f64> = (0..100).map(|_| random_unit()).collect();
        assert!(units.iter().all(|unit| (0.0..=1.0).contains(unit)));
        assert!(units.iter().any(|unit| *unit < 0.5) && units.iter().any(|unit| *unit > 0.5));
    }
}
