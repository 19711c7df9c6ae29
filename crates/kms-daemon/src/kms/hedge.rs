//! Hedging: a request slower than nearly all recent ones is sent again on another connection, and
//! the first answer counts. Repeating is safe: encrypt names its key version, and decrypt is
//! read-only.
//!
//! The time limit is learned, so duplicate requests soon stop when OpenBao as a whole is slow.
//! Until then, `MOST_LATE` limits the additional requests.
//!
//! A timer per request would cost system calls. Instead, one task checks all requests in flight,
//! and ends when there are none.

use std::{
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use prometheus_client::metrics::counter::Counter;
use tokio::{
    select,
    sync::watch,
    time::{Instant, sleep},
};

/// Maximum number of overdue requests with a duplicate.
const MOST_LATE: usize = 4;

/// Interval between checks of the requests in flight.
const TICK: Duration = Duration::from_millis(10);

/// The largest time limit, in milliseconds.
const MOST: u64 = 1000;
/// Upper ends of the duration classes, in milliseconds. The first is the smallest time limit: below
/// it, a second request costs more than it saves.
const CLASSES: [u64; 12] = [50, 65, 85, 110, 150, 200, 260, 350, 450, 600, 800, MOST];
/// The initial class of the time limit.
const FIRST_GUESS: usize = 6;
/// Number of durations after which all counts are halved.
const HALF_LIFE: u32 = 512;

/// Detects overdue requests and counts them.
#[derive(Debug)]
pub struct Hedges {
    /// Locked briefly, never across an await.
    durations: Mutex<Durations>,
    under_way: Mutex<UnderWay>,
    /// One message for each check.
    ticks: watch::Sender<()>,
    late: AtomicUsize,
    begun: Counter,
}

#[derive(Debug, Default)]
struct UnderWay {
    requests: usize,
    ticking: bool,
}

/// A request in flight, until it is dropped.
#[derive(Debug)]
pub(super) struct Watched {
    hedges: Arc<Hedges>,
    since: Instant,
    ticks: watch::Receiver<()>,
}

/// An overdue request with a duplicate. Dropping it frees its slot.
#[derive(Debug)]
pub(super) struct Late(Arc<Hedges>);

impl Hedges {
    /// Creates an untrained instance. `begun` counts the additional requests.
    #[must_use]
    pub fn new(begun: Counter) -> Arc<Self> {
        Arc::new(Self {
            durations: Mutex::default(),
            under_way: Mutex::default(),
            ticks: watch::Sender::new(()),
            late: AtomicUsize::new(0),
            begun,
        })
    }

    /// The age at which a request is overdue: about the 99th percentile of recent durations,
    /// between 50 ms and 1 s.
    #[must_use]
    pub fn bound(&self) -> Duration {
        self.durations().bound()
    }

    /// Overdue requests still waiting for an answer.
    #[must_use]
    pub fn late(&self) -> usize {
        self.late.load(Ordering::Relaxed)
    }

    /// Additional requests since the start.
    #[must_use]
    pub fn begun(&self) -> u64 {
        self.begun.get()
    }

    /// Begins to watch a request.
    pub(super) fn watch(self: &Arc<Self>) -> Watched {
        let ticks = self.ticks.subscribe();
        let mut under_way = self.under_way();
        under_way.requests += 1;
        if !under_way.ticking {
            under_way.ticking = true;
            tokio::spawn(Arc::clone(self).tick());
        }
        Watched {
            hedges: Arc::clone(self),
            since: Instant::now(),
            ticks,
        }
    }

    async fn tick(self: Arc<Self>) {
        loop {
            sleep(TICK).await;
            self.ticks.send_replace(());
            let mut under_way = self.under_way();
            if under_way.requests == 0 {
                under_way.ticking = false;
                return;
            }
        }
    }

    /// Records the duration of an answered request.
    pub(super) fn answered(&self, took: Duration) {
        self.durations().note(took);
    }

    /// Acquires a slot for a duplicate request; `None` at the limit of overdue requests.
    pub(super) fn begin(self: &Arc<Self>) -> Option<Late> {
        let more = |late| (late < MOST_LATE).then_some(late + 1);
        self.late
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .ok()?;
        self.begun.inc();
        Some(Late(Arc::clone(self)))
    }

    /// Runs `ask`, and a second time if the answer is overdue. The first success counts. A failure
    /// counts only if no other attempt is running.
    pub(super) async fn race<T, E, F>(self: &Arc<Self>, ask: impl Fn() -> F) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>>,
    {
        let timed = async || {
            let began = Instant::now();
            let answer = ask().await;
            if answer.is_ok() {
                self.answered(began.elapsed());
            }
            answer
        };

        let mut watched = self.watch();
        let mut first = pin!(timed());
        select! {
            biased;
            answer = &mut first => return answer,
            () = watched.overdue() => {}
        }

        let Some(_late) = self.begin() else {
            return first.await;
        };

        // On the heap: hardly any request has a second one.
        let mut second = Box::pin(timed());
        select! {
            answer = &mut first => match answer {
                Ok(answer) => Ok(answer),
                Err(_) => second.await,
            },
            answer = &mut second => match answer {
                Ok(answer) => Ok(answer),
                Err(_) => first.await,
            },
        }
    }

    fn durations(&self) -> MutexGuard<'_, Durations> {
        self.durations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn under_way(&self) -> MutexGuard<'_, UnderWay> {
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched {
    /// Returns when the request is overdue, and again after each further time limit.
    pub(super) async fn overdue(&mut self) {
        while self.ticks.changed().await.is_ok() {
            if self.since.elapsed() >= self.hedges.bound() {
                self.since = Instant::now();
                return;
            }
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.hedges.under_way().requests -= 1;
    }
}

impl Drop for Late {
    fn drop(&mut self) {
        self.0.late.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Histogram of durations, weighted towards recent ones.
#[derive(Debug)]
struct Durations {
    counts: [u32; CLASSES.len()],
    total: u32,
}

impl Default for Durations {
    fn default() -> Self {
        let counts = std::array::from_fn(|class| u32::from(class == FIRST_GUESS));
        Self { counts, total: 1 }
    }
}

impl Durations {
    fn note(&mut self, took: Duration) {
        let took = took.as_millis();
        let class = CLASSES.iter().position(|end| took <= u128::from(*end));
        let count = match class {
            Some(class) => self.counts.get_mut(class),
            None => self.counts.last_mut(),
        };
        if let Some(count) = count {
            *count += 1;
            self.total += 1;
        }

        if self.total >= HALF_LIFE {
            self.counts.iter_mut().for_each(|count| *count /= 2);
            self.total = self.counts.iter().sum();
        }
    }

    fn bound(&self) -> Duration {
        let mut above = self.total;
        let within = self.counts.iter().zip(CLASSES).find(|(count, _)| {
            above -= **count;
            above * 100 <= self.total
        });
        Duration::from_millis(within.map_or(MOST, |(_, end)| end))
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, collections::VecDeque};

    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn hedges() -> Arc<Hedges> {
        Hedges::new(Counter::default())
    }

    #[test]
    fn the_bound_follows_the_slowest_percent_within_its_limits() {
        let hedges = hedges();
        assert_eq!(hedges.bound(), ms(260));
        (0..200).for_each(|_| hedges.answered(ms(3)));
        assert_eq!(hedges.bound(), ms(50));
        // One percent of slow requests leaves the limit unchanged; several percent raise it at
        // once.
        hedges.answered(ms(500));
        assert_eq!(hedges.bound(), ms(50));
        (0..20).for_each(|_| hedges.answered(ms(500)));
        assert_eq!(hedges.bound(), ms(600));
        (0..100).for_each(|_| hedges.answered(ms(9000)));
        assert_eq!(hedges.bound(), ms(1000));
        // Slow times are forgotten.
        (0..10_000).for_each(|_| hedges.answered(ms(3)));
        assert_eq!(hedges.bound(), ms(50));
    }

    #[test]
    fn few_requests_are_late_at_once() {
        let hedges = hedges();
        let mut late: Vec<_> = (0..MOST_LATE).map(|_| hedges.begin().unwrap()).collect();
        assert!(hedges.begin().is_none());
        late.pop();
        assert!(hedges.begin().is_some());
        assert_eq!(hedges.begun(), 5);
    }

    /// Answers in turn, each after its number of milliseconds.
    async fn race(hedges: &Arc<Hedges>, script: &[(u64, Result<u8, u8>)]) -> Result<u8, u8> {
        let script = RefCell::new(script.iter().copied().collect::<VecDeque<_>>());
        let race = hedges.race(|| {
            let (after, answer) = script.borrow_mut().pop_front().unwrap();
            async move {
                sleep(ms(after)).await;
                answer
            }
        });
        race.await
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_answer_counts_and_a_failure_only_as_the_last() {
        const NEVER: u64 = 1 << 40;
        for (script, expected, took) in [
            (&[(200, Ok(1))][..], Ok(1), 200),
            (&[(200, Err(1))], Err(1), 200),
            (&[(NEVER, Ok(1)), (5, Ok(2))], Ok(2), 265),
            (&[(300, Ok(1)), (NEVER, Ok(2))], Ok(1), 300),
            (&[(300, Err(1)), (100, Ok(2))], Ok(2), 360),
            (&[(400, Ok(1)), (100, Err(2))], Ok(1), 400),
            (&[(400, Err(1)), (100, Err(2))], Err(1), 400),
        ] {
            let began = Instant::now();
            let hedges = hedges();
            assert_eq!(race(&hedges, script).await, expected, "{script:?}");
            assert_eq!(began.elapsed().as_millis(), took, "{script:?}");
            assert_eq!(hedges.late(), 0);
        }
    }
}
