//! Closed loops of calls, and statistics of their times.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

/// A call that must succeed. The number is unique within a block.
pub(crate) type Call = Arc<dyn Fn(usize) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// End of a block: after a number of calls or a time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Block {
    pub(crate) calls: usize,
    pub(crate) time: Duration,
}

/// Times of the calls in a block.
pub(crate) struct Sample {
    /// Sorted in ascending order.
    times: Vec<Duration>,
    took: Duration,
}

impl Block {
    pub(crate) const fn new(calls: usize, time: Duration) -> Self {
        Self { calls, time }
    }

    /// Keeps `in_flight` calls running until the block ends.
    pub(crate) async fn run(self, in_flight: usize, call: &Call) -> Sample {
        let started = Instant::now();
        let next = Arc::new(AtomicUsize::new(0));
        let mut workers = JoinSet::new();
        for _ in 0..in_flight {
            let (call, next) = (Arc::clone(call), Arc::clone(&next));
            workers.spawn(async move {
                let mut times = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= self.calls || started.elapsed() >= self.time {
                        return times;
                    }
                    let begin = Instant::now();
                    call(number).await;
                    times.push(begin.elapsed());
                }
            });
        }
        let times = workers.join_all().await.concat();
        Sample::new(times, started.elapsed())
    }
}

impl Sample {
    pub(crate) fn new(mut times: Vec<Duration>, took: Duration) -> Self {
        assert!(!times.is_empty(), "a block must have time for one call");
        times.sort_unstable();
        Self { times, took }
    }

    pub(crate) fn calls(&self) -> usize {
        self.times.len()
    }

    /// Percentile of the times, in milliseconds.
    pub(crate) fn percentile(&self, percent: usize) -> f64 {
        let rank = (self.times.len() * percent).div_ceil(100);
        self.times[rank.max(1) - 1].as_secs_f64() * 1e3
    }

    pub(crate) fn calls_per_second(&self) -> f64 {
        count(self.times.len()) / self.took.as_secs_f64()
    }
}

/// One side of a comparison: a call, and the block of a round.
#[derive(Clone, Copy)]
pub(crate) struct Side<'c> {
    pub(crate) call: &'c Call,
    pub(crate) in_flight: usize,
    pub(crate) block: Block,
}

/// Runs both sides in turns, so that a drift of the machine affects both equally. The order changes
/// from round to round.
pub(crate) async fn in_turns(
    rounds: usize,
    [one, other]: [Side<'_>; 2],
    mut begun: impl FnMut(usize),
) -> Vec<(Sample, Sample)> {
    let run = async |side: &Side<'_>| side.block.run(side.in_flight, side.call).await;
    let mut samples = Vec::new();
    // The first round is a warm-up.
    for round in 0..=rounds {
        begun(round);
        let (first, second);
        if round % 2 == 0 {
            second = run(&other).await;
            first = run(&one).await;
        } else {
            first = run(&one).await;
            second = run(&other).await;
        }
        if round > 0 {
            samples.push((first, second));
        }
    }
    samples
}

/// The median, or the mean of the middle two values.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        f64::midpoint(values[middle - 1], values[middle])
    }
}

/// A number of things as a floating-point value.
pub(crate) fn count(things: usize) -> f64 {
    f64::from(u32::try_from(things).unwrap())
}
