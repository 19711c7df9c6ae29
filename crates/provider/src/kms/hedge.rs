//! Hedging: a request that takes longer than nearly all before it is made again on another connection,
//! and the first answer counts. Encrypt names its version and decrypt changes nothing, so both may be
//! asked twice.
//!
//! The bound is learned, so an OpenBao that is slow as a whole is not asked twice for long. Until it
//! is learned, `MOST_LATE` limits the additional requests.
//!
//! Requests have no timers of their own, each of which would cost system calls: one task looks at all of
//! them, and ends when there are none.

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

/// Overdue requests at once whose question was asked again.
const MOST_LATE: usize = 4;

/// Between looks at the requests under way.
const TICK: Duration = Duration::from_millis(10);

/// The greatest bound, in milliseconds.
const MOST: u64 = 1000;
/// Upper ends of the classes of durations, in milliseconds. The first is the least bound: below it a
/// second request costs more than it saves.
const CLASSES: [u64; 12] = [50, 65, 85, 110, 150, 200, 260, 350, 450, 600, 800, MOST];
/// The class of the bound before anything is learned.
const FIRST_GUESS: usize = 6;
/// Durations after which the older half loses half its weight.
const HALF_LIFE: u32 = 512;

/// Decides when a request is overdue, and counts those that are.
#[derive(Debug)]
pub struct Hedges {
    /// Held for moments only, never while waiting.
    durations: Mutex<Durations>,
    under_way: Mutex<UnderWay>,
    /// A message for each look.
    ticks: watch::Sender<()>,
    late: AtomicUsize,
    begun: Counter,
}

#[derive(Debug, Default)]
struct UnderWay {
    requests: usize,
    ticking: bool,
}

/// A request under way, until it is dropped.
#[derive(Debug)]
pub(super) struct Watched {
    hedges: Arc<Hedges>,
    since: Instant,
    ticks: watch::Receiver<()>,
}

/// An overdue request whose question is asked again. Frees its place when dropped.
#[derive(Debug)]
pub(super) struct Late(Arc<Hedges>);

impl Hedges {
    /// Nothing learned yet. `begun` counts the additional requests.
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

    /// The time after which a request is overdue: that which about 99 % of the recent ones took, from
    /// 50 ms to 1 s.
    #[must_use]
    pub fn bound(&self) -> Duration {
        self.durations().bound()
    }

    /// Overdue requests that still wait for an answer.
    #[must_use]
    pub fn late(&self) -> usize {
        self.late.load(Ordering::Relaxed)
    }

    /// Additional requests since the start.
    #[must_use]
    pub fn begun(&self) -> u64 {
        self.begun.get()
    }

    /// A request begins.
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

    /// A request was answered.
    pub(super) fn answered(&self, took: Duration) {
        self.durations().note(took);
    }

    /// The right to ask again, unless as many requests as permitted are overdue already.
    pub(super) fn begin(self: &Arc<Self>) -> Option<Late> {
        let more = |late| (late < MOST_LATE).then_some(late + 1);
        self.late
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .ok()?;
        self.begun.inc();
        Some(Late(Arc::clone(self)))
    }

    /// Asks, and once more when the answer is overdue. A failure counts when no other answer can come.
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
        let mut second = pin!(timed());
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
    /// Returns once the request is overdue, and later once it is overdue again.
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

/// How many requests took how long, the recent ones with more weight.
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
        // A percent of slow ones does not raise it, several do at once.
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

    /// Answers in turn after this many milliseconds each.
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
