//! Batches decrypt calls to Transit: few requests for many calls, without delay for a single call.
//!
//! The cost of a decrypt in OpenBao is almost entirely per request. The batcher has two lanes, more
//! with a distant OpenBao, each with at most one request in flight. A free lane sends at once, with
//! all calls that have arrived together. While all lanes are busy, calls queue up for the next free
//! lane. A batch is at most an equal share of all calls without an answer: with everything in one
//! request, OpenBao and the provider would wait for each other. The batcher has no timer.
//! Concurrent calls for the same ciphertext share one item.
//!
//! An overdue request leaves its lane. Its items go to the front of the queue, are sent again on
//! another connection, and the first answer counts. A lost response therefore delays only the calls
//! of its own request, by some milliseconds.
//!
//! Each call waits until its own deadline. A request is canceled once all calls for its items are
//! gone.

use std::{
    collections::{HashMap, VecDeque},
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use kms_domain::prepare::PreparedDecrypt;
use kms_node::auth::Session;
use openbao_client::transit::{MAX_BATCH, Plaintext, Transit};
use tokio::{runtime::Handle, select, sync::watch, time::Instant};

use super::{
    fault::Fault,
    hedge::{Hedges, Late},
    lanes::Distance,
    panic::caught,
};

/// The plaintext, wiped when the last waiting call has its response.
type Answer = Result<Arc<Plaintext>, Fault>;

/// Batches and deduplicates decrypt calls. Clones share the queue.
#[derive(Clone)]
pub struct DecryptBatcher(Arc<Shared>);

/// Snapshot of the batcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatcherStatus {
    /// Lanes with a request in flight, of 2 to 8.
    pub busy_lanes: usize,
    /// Overdue requests outside the lanes.
    pub late_requests: usize,
    /// Items in the queue.
    pub pending: usize,
    /// Additional requests for overdue ones, since the start.
    pub hedges: u64,
    /// Age at which a request is overdue.
    pub overdue_after: Duration,
}

struct Shared {
    transit: Transit,
    session: Session,
    hedges: Arc<Hedges>,
    /// Locked briefly, never across an await.
    queue: Mutex<Queue>,
}

/// One ciphertext to decrypt, with all calls waiting for it.
struct Item {
    wanted: Arc<PreparedDecrypt>,
    answer: watch::Sender<Option<Answer>>,
    /// Running and planned requests for this item.
    requests: AtomicUsize,
}

#[derive(Default)]
struct Queue {
    /// All items without an answer.
    asked: HashMap<Arc<PreparedDecrypt>, Arc<Item>>,
    /// Items to send next, in order. Bounded by the limits on concurrent calls and on the size of a
    /// call.
    pending: VecDeque<Arc<Item>>,
    busy_lanes: usize,
    distance: Distance,
}

impl DecryptBatcher {
    /// Creates a batcher with an empty queue.
    #[must_use]
    pub fn new(transit: Transit, session: Session, hedges: Arc<Hedges>) -> Self {
        Self(Arc::new(Shared {
            transit,
            session,
            hedges,
            queue: Mutex::default(),
        }))
    }

    /// Decrypts one ciphertext. Dropping the future cancels this call only.
    ///
    /// # Errors
    /// The failure of the item, or of the request sent for it.
    pub async fn decrypt(&self, wanted: PreparedDecrypt) -> Answer {
        let mut answer = self.enter(wanted);
        match answer.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(answer)) => answer.clone(),
            // A lane ends without an answer only at the end of the process.
            Ok(None) | Err(_) => Err(Fault::Deadline),
        }
    }

    #[must_use]
    pub fn status(&self) -> BatcherStatus {
        let hedges = &self.0.hedges;
        let queue = self.0.queue();
        BatcherStatus {
            busy_lanes: queue.busy_lanes,
            late_requests: hedges.late(),
            pending: queue.pending.len(),
            hedges: hedges.begun(),
            overdue_after: hedges.bound(),
        }
    }

    fn enter(&self, wanted: PreparedDecrypt) -> watch::Receiver<Option<Answer>> {
        let mut queue = self.0.queue();
        if let Some(asked) = queue.asked.get(&wanted) {
            return asked.answer.subscribe();
        }

        let (answer, receiver) = watch::channel(None);
        let item = Arc::new(Item {
            wanted: Arc::new(wanted),
            answer,
            requests: AtomicUsize::new(1),
        });

        queue
            .asked
            .insert(Arc::clone(&item.wanted), Arc::clone(&item));
        queue.pending.push_back(item);

        if queue.busy_lanes < queue.distance.lanes() {
            queue.busy_lanes += 1;
            drop(queue);
            self.0.occupy();
        }
        receiver
    }
}

impl Shared {
    /// Starts the next request of a lane. Its task takes the queue when it runs, behind all calls
    /// that have arrived by then; with an empty queue, the lane becomes free.
    fn occupy(self: &Arc<Self>) {
        // At the end of the process, the runtime and all waiting calls are gone.
        if let Ok(runtime) = Handle::try_current() {
            let shared = Arc::clone(self);
            runtime.spawn(async move {
                let items = shared.queue().next();
                if !items.is_empty() {
                    let place = Place { shared, late: None };
                    place.serve(items).await;
                }
            });
        }
    }

    /// Sends one request for these items.
    async fn ask(&self, items: &[Arc<Item>]) -> Result<Vec<Answer>, Fault> {
        let began = Instant::now();
        let many: Vec<&PreparedDecrypt> = items.iter().map(|item| &*item.wanted).collect();

        let asking = self.session.call(async |token| match many[..] {
            [one] => {
                let data = &one.associated_data;
                let answer = self.transit.decrypt(&token, &one.ciphertext, data).await;
                answer.map(|plaintext| vec![Ok(plaintext)])
            }
            _ => self.transit.decrypt_batch(&token, &many).await,
        });

        let answers = asking.await?.into_iter().map(|result| match result {
            Ok(plaintext) => Ok(Arc::new(plaintext)),
            Err(failure) => Err(Fault::Transit(failure.class())),
        });
        let took = began.elapsed();
        self.hedges.answered(took);
        self.queue().distance.note(took);
        Ok(answers.collect())
    }

    /// Returns once all calls for these items are gone. The items are then forgotten, so the next
    /// call for one of them starts a new request.
    async fn abandoned(&self, items: &[Arc<Item>]) {
        loop {
            for item in items {
                item.answer.closed().await;
            }
            // A call may have joined one item during the wait for another.
            let mut queue = self.queue();
            if !items.iter().any(|item| item.is_wanted()) {
                items.iter().for_each(|item| queue.forget(item));
                return;
            }
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The position of one request: a lane, or outside the lanes once it is overdue. Dropping it frees
/// the lane, however the request ends.
struct Place {
    shared: Arc<Shared>,
    late: Option<Late>,
}

impl Place {
    /// Sends these items and distributes their answers.
    async fn serve(mut self, items: Vec<Arc<Item>>) {
        let answers = match caught(pin!(self.carry(&items))).await {
            Ok(answers) => answers,
            Err(kind) => Some(Err(Fault::Panic(kind))),
        };
        if let Some(answers) = answers {
            self.shared.queue().answer(&items, answers);
        }
    }

    /// `None` when all calls are gone.
    async fn carry(&mut self, items: &[Arc<Item>]) -> Option<Result<Vec<Answer>, Fault>> {
        let shared = Arc::clone(&self.shared);
        let mut asking = pin!(shared.ask(items));
        let mut abandoned = pin!(shared.abandoned(items));
        let mut watched = shared.hedges.watch();
        loop {
            select! {
                biased;
                answers = &mut asking => return Some(answers),
                () = &mut abandoned => return None,
                () = watched.overdue(), if self.late.is_none() => self.leave_lane(items),
            }
        }
    }

    /// Frees the lane and queues the items again, unless the limit of overdue requests is reached.
    fn leave_lane(&mut self, items: &[Arc<Item>]) {
        self.late = self.shared.hedges.begin();
        if self.late.is_some() {
            self.shared.queue().ask_again(items);
            self.shared.occupy();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.late.is_none() {
            self.shared.occupy();
        }
    }
}

impl Item {
    /// Whether a call still waits for the answer.
    fn is_wanted(&self) -> bool {
        self.answer.receiver_count() > 0 && self.answer.borrow().is_none()
    }
}

impl Queue {
    /// Distributes the answers of one request. The failure of a whole request is ignored for an
    /// item with another running or planned request.
    fn answer(&mut self, items: &[Arc<Item>], answers: Result<Vec<Answer>, Fault>) {
        let failed = answers.as_ref().err().copied();
        let mut answers = answers.unwrap_or_default().into_iter();
        for item in items {
            let others = item.requests.fetch_sub(1, Ordering::Relaxed) > 1;
            let answer = match (answers.next(), failed) {
                (Some(answer), _) => answer,
                (None, _) if others => continue,
                (None, failed) => Err(failed.unwrap_or(Fault::InvalidTransitAnswer)),
            };
            item.answer.send_if_modified(|answered| {
                let first = answered.is_none();
                if first {
                    *answered = Some(answer);
                }
                first
            });
            self.forget(item);
        }
    }

    fn ask_again(&mut self, items: &[Arc<Item>]) {
        for item in items.iter().rev().filter(|item| item.is_wanted()) {
            item.requests.fetch_add(1, Ordering::Relaxed);
            self.pending.push_front(Arc::clone(item));
        }
    }

    /// The next batch of a lane: at most its share of the items without an answer. An empty batch
    /// marks the lane as free; with fewer lanes than before the others send the rest.
    fn next(&mut self) -> Vec<Arc<Item>> {
        let mut items = Vec::new();
        let lanes = self.distance.lanes();
        let most = if self.busy_lanes > lanes {
            0
        } else {
            self.asked.len().div_ceil(lanes).clamp(1, MAX_BATCH)
        };
        while items.len() < most
            && let Some(item) = self.pending.pop_front()
        {
            if item.is_wanted() {
                items.push(item);
            } else {
                self.forget(&item);
            }
        }

        if items.is_empty() {
            self.busy_lanes -= 1;
        }
        items
    }

    /// Prevents later calls from joining the item.
    fn forget(&mut self, item: &Arc<Item>) {
        let asked = self.asked.get(&item.wanted);
        if asked.is_some_and(|asked| Arc::ptr_eq(asked, item)) {
            self.asked.remove(&item.wanted);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::ready, time::SystemTime};

    use kms_domain::{
        aad::AssociatedData,
        ciphertext::TransitCiphertext,
        scope::{KeyName, MountPath, TransitKeyPath},
    };
    use openbao_client::{
        client::Client,
        failure::Failure,
        login::{Grant, Login, LoginFailure, Pending, Renewal},
        token::{Lease, Token},
    };
    use prometheus_client::metrics::counter::Counter;
    use testkit::fake::FakeOpenBao;
    use tokio::time::timeout;

    use super::*;
    use crate::kms::lanes;
    use kms_node::{auth::SessionSettings, clock::SystemClock};

    const HOUR: Duration = Duration::from_secs(3600);
    const SOON: Duration = Duration::from_secs(60);

    struct Granting;

    impl Login for Granting {
        fn check(&self, _: SystemTime) -> Pending<'_, Result<Option<SystemTime>, LoginFailure>> {
            Box::pin(ready(Ok(None)))
        }

        fn log_in(&self, _: SystemTime, _: Duration) -> Pending<'_, Result<Grant, LoginFailure>> {
            Box::pin(ready(Ok(Grant {
                token: Token::new("t".to_owned().into()).ok().unwrap(),
                lease: Lease {
                    duration: HOUR,
                    renewable: false,
                    uses: None,
                },
                credential_expires: None,
            })))
        }

        fn renew<'a>(
            &'a self,
            _: &'a Token,
            _: Duration,
            _: Duration,
        ) -> Pending<'a, Result<Renewal, Failure>> {
            Box::pin(std::future::pending())
        }
    }

    fn wanted(ciphertext: &str) -> PreparedDecrypt {
        PreparedDecrypt {
            ciphertext: TransitCiphertext::parse(ciphertext.as_bytes()).unwrap(),
            associated_data: AssociatedData::status_probe(),
        }
    }

    #[test]
    fn calls_that_arrive_together_are_shared_equally_among_the_lanes() {
        let mut queue = Queue {
            busy_lanes: 2,
            ..Queue::default()
        };
        let calls: Vec<_> = (0..65)
            .map(|number| {
                let item = Arc::new(Item {
                    wanted: Arc::new(wanted(&format!("vault:v1:AA{number:02}"))),
                    answer: watch::Sender::new(None),
                    requests: AtomicUsize::new(1),
                });
                let asked = (Arc::clone(&item.wanted), Arc::clone(&item));
                queue.asked.insert(asked.0, asked.1);
                queue.pending.push_back(Arc::clone(&item));
                item.answer.subscribe()
            })
            .collect();
        let (first, second) = (queue.next(), queue.next());
        assert_eq!((first.len(), second.len()), (33, 32));
        queue.answer(&first, Err(Fault::Deadline));
        assert!(queue.next().is_empty());
        assert_eq!(queue.busy_lanes, 1);

        // An item without a call, whose request failed, takes no place in the queue.
        drop(calls);
        queue.asked.clear();
        queue.pending.extend(second);
        assert!(queue.next().is_empty());
        assert!(queue.pending.is_empty());
    }

    #[test]
    fn a_failed_request_is_no_answer_while_another_may_bring_one() {
        let asked = |queue: &mut Queue| {
            let item = Arc::new(Item {
                wanted: Arc::new(wanted("vault:v1:AAEC")),
                answer: watch::Sender::new(None),
                requests: AtomicUsize::new(1),
            });
            queue
                .asked
                .insert(Arc::clone(&item.wanted), Arc::clone(&item));
            let call = item.answer.subscribe();
            queue.ask_again(std::slice::from_ref(&item));
            (item, call)
        };
        let failed = || Err(Fault::Deadline);
        let refused = || Ok(vec![Err(Fault::Mismatch)]);
        for (first, second, expected) in [
            (failed(), refused(), Fault::Mismatch),
            (refused(), failed(), Fault::Mismatch),
            (failed(), failed(), Fault::Deadline),
        ] {
            let mut queue = Queue::default();
            let (item, call) = asked(&mut queue);
            let only_failed = first.is_err();
            queue.answer(std::slice::from_ref(&item), first);
            assert_eq!(call.borrow().is_none(), only_failed);
            queue.answer(std::slice::from_ref(&item), second);
            assert!(matches!(&*call.borrow(), Some(Err(fault)) if *fault == expected));
            assert!(queue.asked.is_empty());
        }
    }

    #[tokio::test]
    async fn a_panic_frees_its_lane_and_is_the_answer_of_its_calls() {
        let fake = FakeOpenBao::start([]).await;
        let hook = Arc::new(|_: &_| panic!("scripted"));
        let client = Client::new(fake.endpoint(), hook).unwrap();
        let path = TransitKeyPath {
            mount_path: MountPath::parse("transit").unwrap(),
            key_name: KeyName::parse("etcd").unwrap(),
        };
        let settings = SessionSettings {
            login_before_token_expiry: Duration::ZERO,
            token_renewal_increment: HOUR,
            login_timeout: SOON,
        };
        let clock = Arc::new(SystemClock);
        let (session, task) = Session::new(settings, Arc::new(Granting), clock, Arc::new(|_| {}));
        tokio::spawn(task.run());
        let hedges = Hedges::new(Counter::default());
        let batcher = DecryptBatcher::new(Transit::new(client, &path, SOON), session, hedges);
        for _ in 0..=lanes::LEAST {
            let calls = async {
                tokio::join!(
                    batcher.decrypt(wanted("vault:v1:AAEC")),
                    batcher.decrypt(wanted("vault:v1:AAED")),
                    batcher.decrypt(wanted("vault:v1:AAEE")),
                )
            };
            let (first, second, third) = timeout(SOON, calls).await.unwrap();
            for answer in [first, second, third] {
                assert!(matches!(answer, Err(Fault::Panic(_))));
            }
        }
        let status = batcher.status();
        assert_eq!((status.busy_lanes, status.pending), (0, 0));
    }
}
