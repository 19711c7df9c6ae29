//! Decrypts on their way to Transit: few requests for many calls, and no delay for a single one.
//!
//! Nearly all that a decrypt costs OpenBao is per request. There are a few lanes, each with one
//! request under way. A call that finds a lane free goes at once and alone; while all lanes are
//! busy calls gather, and the lane that comes free takes what has gathered. Nothing waits for a
//! timer. Calls that want the same share one item from the first of them to its answer.
//!
//! A request that is overdue leaves its lane: its items are the first that the lane carries next, on
//! another connection, and the first answer counts. So a lost answer costs the calls of one request
//! some milliseconds, and the other calls nothing.
//!
//! A call waits as long as its own deadline lets it. A request ends early when nobody waits for
//! any of its items.

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
use openbao_client::transit::{MAX_BATCH, Plaintext, Transit};
use tokio::{runtime::Handle, select, sync::watch, time::Instant};

use super::{
    fault::Fault,
    hedge::{Hedges, Late},
    panic::caught,
};
use crate::auth::Session;

/// Requests at once, beside those that are overdue.
const LANES: usize = 2;

/// The plaintext, wiped once the last call that asked for it has answered.
type Answer = Result<Arc<Plaintext>, Fault>;

/// The way to Transit. Clones share the lanes.
#[derive(Clone)]
pub struct Lanes(Arc<Shared>);

/// A look at the lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LanesStatus {
    /// Lanes with a request under way, of 2.
    pub busy_lanes: usize,
    /// Overdue requests that have left their lane.
    pub late_requests: usize,
    /// Items that wait for a lane.
    pub gathered: usize,
    /// Requests made because another was overdue, since the start.
    pub hedges: u64,
    /// Age at which a request is overdue.
    pub overdue_after: Duration,
}

struct Shared {
    transit: Transit,
    session: Session,
    hedges: Arc<Hedges>,
    /// Held for moments only, never while waiting.
    traffic: Mutex<Traffic>,
}

/// One ciphertext to decrypt, and all calls that want it.
struct Item {
    wanted: Arc<PreparedDecrypt>,
    answer: watch::Sender<Option<Answer>>,
    /// Requests under way or to come that may answer it.
    requests: AtomicUsize,
}

#[derive(Default)]
struct Traffic {
    /// Everything that has no answer yet.
    asked: HashMap<Arc<PreparedDecrypt>, Arc<Item>>,
    /// Of these, in order, what a lane carries next. Bounded by the calls at once and the size of a
    /// call.
    gathered: VecDeque<Arc<Item>>,
    busy_lanes: usize,
}

impl Lanes {
    /// Free lanes to this key.
    #[must_use]
    pub fn new(transit: Transit, session: Session, hedges: Arc<Hedges>) -> Self {
        Self(Arc::new(Shared {
            transit,
            session,
            hedges,
            traffic: Mutex::default(),
        }))
    }

    /// Decrypts. Dropping the future gives up this call alone.
    ///
    /// # Errors
    /// That of the item, or of the request that carried it.
    pub async fn decrypt(&self, wanted: PreparedDecrypt) -> Answer {
        let mut answer = self.enter(wanted);
        match answer.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(answer)) => answer.clone(),
            // A lane ends unanswered only together with the process.
            Ok(None) | Err(_) => Err(Fault::Deadline),
        }
    }

    /// The present state.
    #[must_use]
    pub fn status(&self) -> LanesStatus {
        let hedges = &self.0.hedges;
        let traffic = self.0.traffic();
        LanesStatus {
            busy_lanes: traffic.busy_lanes,
            late_requests: hedges.late(),
            gathered: traffic.gathered.len(),
            hedges: hedges.begun(),
            overdue_after: hedges.bound(),
        }
    }

    fn enter(&self, wanted: PreparedDecrypt) -> watch::Receiver<Option<Answer>> {
        let mut traffic = self.0.traffic();
        if let Some(asked) = traffic.asked.get(&wanted) {
            return asked.answer.subscribe();
        }
        let (answer, receiver) = watch::channel(None);
        let item = Arc::new(Item {
            wanted: Arc::new(wanted),
            answer,
            requests: AtomicUsize::new(1),
        });
        traffic
            .asked
            .insert(Arc::clone(&item.wanted), Arc::clone(&item));
        traffic.gathered.push_back(item);
        if traffic.busy_lanes < LANES {
            traffic.busy_lanes += 1;
            drop(traffic);
            self.0.occupy();
        }
        receiver
    }
}

impl Shared {
    /// Starts the next request of a lane that has become free; without items the lane stays free.
    fn occupy(self: &Arc<Self>) {
        let items = self.traffic().next();
        // At the end of the process there is no runtime, and nobody who waits.
        if let (false, Ok(runtime)) = (items.is_empty(), Handle::try_current()) {
            let place = Place {
                shared: Arc::clone(self),
                late: None,
            };
            runtime.spawn(place.serve(items));
        }
    }

    /// One request for these items.
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
        self.hedges.answered(began.elapsed());
        Ok(answers.collect())
    }

    /// Returns once nobody waits for any of the items, which are then forgotten: the next call
    /// that wants one of them asks anew.
    async fn abandoned(&self, items: &[Arc<Item>]) {
        loop {
            for item in items {
                item.answer.closed().await;
            }
            // A call may have joined one item while another was waited for.
            let mut traffic = self.traffic();
            if !items.iter().any(|item| item.is_wanted()) {
                items.iter().for_each(|item| traffic.forget(item));
                return;
            }
        }
    }

    fn traffic(&self) -> MutexGuard<'_, Traffic> {
        self.traffic.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of one request: a lane, or beside the lanes once it is overdue. Freed when dropped, in
/// whatever way the request ends.
struct Place {
    shared: Arc<Shared>,
    late: Option<Late>,
}

impl Place {
    /// Carries these items and hands over their answers.
    async fn serve(mut self, items: Vec<Arc<Item>>) {
        let answers = match caught(self.carry(&items)).await {
            Ok(answers) => answers,
            Err(kind) => Some(Err(Fault::Panic(kind))),
        };
        if let Some(answers) = answers {
            self.shared.traffic().answer(&items, answers);
        }
    }

    /// `None` when nobody waits any more.
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

    /// Gives up the lane and has it carry the items once more, unless too many requests are overdue.
    fn leave_lane(&mut self, items: &[Arc<Item>]) {
        self.late = self.shared.hedges.begin();
        if self.late.is_some() {
            self.shared.traffic().ask_again(items);
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
    /// Whether a call waits for it that has no answer yet.
    fn is_wanted(&self) -> bool {
        self.answer.receiver_count() > 0 && self.answer.borrow().is_none()
    }
}

impl Traffic {
    /// Hands over the answers of one request. That it failed as a whole is no answer to an item for
    /// which another request is under way or to come.
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
            self.gathered.push_front(Arc::clone(item));
        }
    }

    /// What the lane that has come free carries next; with nothing it is free.
    fn next(&mut self) -> Vec<Arc<Item>> {
        let mut items = Vec::new();
        while items.len() < MAX_BATCH
            && let Some(item) = self.gathered.pop_front()
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

    /// Nobody can join the item any more.
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
    use crate::{auth::SessionSettings, clock::SystemClock};

    const HOUR: Duration = Duration::from_secs(3600);
    const SOON: Duration = Duration::from_secs(60);

    struct Granting;

    impl Login for Granting {
        fn log_in(&self, _: SystemTime, _: Duration) -> Pending<'_, Result<Grant, LoginFailure>> {
            Box::pin(ready(Ok(Grant {
                token: Token::new("t".to_owned().into()).ok().unwrap(),
                lease: Lease {
                    duration: HOUR,
                    renewable: false,
                },
                credential_expires: SystemTime::UNIX_EPOCH,
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
    fn a_failed_request_is_no_answer_while_another_may_bring_one() {
        let asked = |traffic: &mut Traffic| {
            let item = Arc::new(Item {
                wanted: Arc::new(wanted("vault:v1:AAEC")),
                answer: watch::Sender::new(None),
                requests: AtomicUsize::new(1),
            });
            traffic
                .asked
                .insert(Arc::clone(&item.wanted), Arc::clone(&item));
            let call = item.answer.subscribe();
            traffic.ask_again(std::slice::from_ref(&item));
            (item, call)
        };
        let failed = || Err(Fault::Deadline);
        let refused = || Ok(vec![Err(Fault::Mismatch)]);
        for (first, second, expected) in [
            (failed(), refused(), Fault::Mismatch),
            (refused(), failed(), Fault::Mismatch),
            (failed(), failed(), Fault::Deadline),
        ] {
            let mut traffic = Traffic::default();
            let (item, call) = asked(&mut traffic);
            let only_failed = first.is_err();
            traffic.answer(std::slice::from_ref(&item), first);
            assert_eq!(call.borrow().is_none(), only_failed);
            traffic.answer(std::slice::from_ref(&item), second);
            assert!(matches!(&*call.borrow(), Some(Err(fault)) if *fault == expected));
            assert!(traffic.asked.is_empty());
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
        let (session, task) = Session::new(settings, Box::new(Granting), clock, Arc::new(|_| {}));
        tokio::spawn(task.run());
        let hedges = Hedges::new(Counter::default());
        let lanes = Lanes::new(Transit::new(client, &path, SOON), session, hedges);
        for _ in 0..=LANES {
            let calls = async {
                tokio::join!(
                    lanes.decrypt(wanted("vault:v1:AAEC")),
                    lanes.decrypt(wanted("vault:v1:AAED")),
                    lanes.decrypt(wanted("vault:v1:AAEE")),
                )
            };
            let (first, second, third) = timeout(SOON, calls).await.unwrap();
            for answer in [first, second, third] {
                assert!(matches!(answer, Err(Fault::Panic(_))));
            }
        }
        let status = lanes.status();
        assert_eq!((status.busy_lanes, status.gathered), (0, 0));
    }
}
