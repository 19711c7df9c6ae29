//! Number of decrypt requests in flight, by the distance of OpenBao.
//!
//! Beside OpenBao two lanes are enough: more would divide the calls into more requests, each of which
//! costs OpenBao computing time. Over a network a request mostly waits, and calls that find all lanes
//! busy would wait with it, for nothing. The distance is the shortest of the recent durations: it
//! contains the least work.

use std::{mem, time::Duration};

/// Lanes beside OpenBao.
pub(super) const LEAST: usize = 2;
/// Lanes at any distance, half of the requests that one OpenBao gets at a time.
const MOST: u128 = 8;
/// Distance for each further lane, in milliseconds.
const FURTHER: u128 = 4;
/// Durations in half a window.
const HALF: u32 = 64;

/// Shortest of the last 64 to 128 durations.
#[derive(Debug)]
pub(super) struct Distance {
    former: Duration,
    current: Duration,
    noted: u32,
}

impl Default for Distance {
    fn default() -> Self {
        Self {
            former: Duration::MAX,
            current: Duration::MAX,
            noted: 0,
        }
    }
}

impl Distance {
    /// Notes the duration of an answered request.
    pub(super) fn note(&mut self, took: Duration) {
        self.current = self.current.min(took);
        self.noted += 1;
        if self.noted == HALF {
            self.former = mem::replace(&mut self.current, Duration::MAX);
            self.noted = 0;
        }
    }

    /// From 2 to 8; 2 before the first answer.
    pub(super) fn lanes(&self) -> usize {
        let shortest = self.former.min(self.current);
        if shortest == Duration::MAX {
            return LEAST;
        }
        let lanes = LEAST as u128 + shortest.as_millis() / FURTHER;
        usize::try_from(lanes.min(MOST)).unwrap_or(LEAST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_recent_request_decides() {
        let mut distance = Distance::default();
        assert_eq!(distance.lanes(), 2);
        for (millis, lanes) in [(900, 8), (20, 7), (9, 4), (3, 2), (500, 2)] {
            distance.note(Duration::from_millis(millis));
            assert_eq!(distance.lanes(), lanes, "after {millis} ms");
        }
        // OpenBao moved away: the short times are forgotten.
        for _ in 0..2 * HALF {
            distance.note(Duration::from_millis(21));
        }
        assert_eq!(distance.lanes(), 7);
    }
}
