//! Decrypts on their way to Transit: few requests for many calls, and no delay for a single one.
//!
//! Nearly all that a decrypt costs OpenBao is per request. There are a few lanes, each with one
//! request under way. A call that finds a lane free goes at once and alone; while all lanes are
//! busy calls gather, and the lane that comes free takes what has gathered. Nothing waits for a
//! timer. Calls that want the same share one item from the first of them to its answer.
//!
//! A call waits as long as its own deadline lets it. A request ends early when nobody waits for
//! any of its items.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kms_domain::prepare::PreparedDecrypt;
use openbao_client::transit::{MAX_BATCH, Plaintext, Transit};
use tokio::sync::watch;

use super::{fault::Fault, panic::caught};
use crate::auth::Session;

/// Requests at once.
const LANES: usize = 2;

/// The plaintext, wiped once the last call that asked for it has answered.
type Answer = Result<Arc<Plaintext>, Fault>;

/// The way to Transit. Clones share the lanes.
#[derive(Clone)]
pub struct Lanes(Arc<Shared>);

struct Shared {
    transit: Transit,
    session: Session,
    /// Held for moments only, never while waiting.
    traffic: Mutex<Traffic>,
}

#[derive(Default)]
struct Traffic {
    /// Everything that has no answer yet.
    asked: HashMap<Arc<PreparedDecrypt>, watch::Sender<Option<Answer>>>,
    /// Of these, in order, what no lane has taken. Bounded by the calls at once and the size of a
    /// call.
    gathered: VecDeque<Arc<PreparedDecrypt>>,
    busy_lanes: usize,
}

impl Lanes {
    /// Free lanes to this key.
    #[must_use]
    pub fn new(transit: Transit, session: Session) -> Self {
        Self(Arc::new(Shared {
            transit,
            session,
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

    fn enter(&self, wanted: PreparedDecrypt) -> watch::Receiver<Option<Answer>> {
        let mut traffic = self.0.traffic();
        if let Some(asked) = traffic.asked.get(&wanted) {
            return asked.subscribe();
        }
        let wanted = Arc::new(wanted);
        let (sender, receiver) = watch::channel(None);
        traffic.asked.insert(Arc::clone(&wanted), sender);
        if traffic.busy_lanes < LANES {
            traffic.busy_lanes += 1;
            tokio::spawn(Arc::clone(&self.0).drive(wanted));
        } else {
            traffic.gathered.push_back(wanted);
        }
        receiver
    }
}

impl Shared {
    /// One lane, from the call that found it free until nothing has gathered.
    async fn drive(self: Arc<Self>, first: Arc<PreparedDecrypt>) {
        let mut items = vec![first];
        while !items.is_empty() {
            tokio::select! {
                biased;
                answers = self.ask(&items) => self.traffic().answer(&items, answers),
                () = self.abandoned(&items) => {}
            }
            items = self.traffic().next();
        }
    }

    /// One request for these items.
    async fn ask(&self, items: &[Arc<PreparedDecrypt>]) -> Vec<Answer> {
        let asking = self.session.call(async |token| match items {
            [one] => {
                let data = &one.associated_data;
                let answer = self.transit.decrypt(&token, &one.ciphertext, data).await;
                answer.map(|plaintext| vec![Ok(plaintext)])
            }
            many => self.transit.decrypt_batch(&token, many).await,
        });
        let failed = match caught(asking).await {
            Ok(Ok(results)) => {
                let answers = results.into_iter().map(|result| match result {
                    Ok(plaintext) => Ok(Arc::new(plaintext)),
                    Err(failure) => Err(Fault::Transit(failure.class())),
                });
                return answers.collect();
            }
            Ok(Err(failure)) => Fault::from(failure),
            Err(kind) => Fault::Panic(kind),
        };
        vec![Err(failed); items.len()]
    }

    /// Returns once nobody waits for any of the items, which are then forgotten: the next call
    /// that wants one of them asks anew.
    async fn abandoned(&self, items: &[Arc<PreparedDecrypt>]) {
        loop {
            for item in items {
                let asked = self.traffic().asked.get(item).cloned();
                if let Some(asked) = asked {
                    asked.closed().await;
                }
            }
            // A call may have joined one item while another was waited for.
            if self.traffic().forget_abandoned(items) {
                return;
            }
        }
    }

    fn traffic(&self) -> MutexGuard<'_, Traffic> {
        self.traffic.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Traffic {
    fn answer(&mut self, items: &[Arc<PreparedDecrypt>], answers: Vec<Answer>) {
        for (item, answer) in items.iter().zip(answers) {
            if let Some(asked) = self.asked.remove(item) {
                asked.send_replace(Some(answer));
            }
        }
    }

    /// What the lane that has come free carries next; with nothing it is free.
    fn next(&mut self) -> Vec<Arc<PreparedDecrypt>> {
        let mut items = Vec::new();
        while items.len() < MAX_BATCH
            && let Some(item) = self.gathered.pop_front()
        {
            if !self.forget_abandoned(std::slice::from_ref(&item)) {
                items.push(item);
            }
        }
        if items.is_empty() {
            self.busy_lanes -= 1;
        }
        items
    }

    /// Whether nobody waits for any of the items. Nobody can join them any more, then.
    fn forget_abandoned(&mut self, items: &[Arc<PreparedDecrypt>]) -> bool {
        let waited_for = |item| {
            let asked = self.asked.get(item);
            asked.is_some_and(|asked| asked.receiver_count() > 0)
        };
        let abandoned = !items.iter().any(waited_for);
        if abandoned {
            for item in items {
                self.asked.remove(item);
            }
        }
        abandoned
    }
}
