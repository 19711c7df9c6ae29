//! Calls as kube-apiserver makes them, without a pause, and what became of each.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use kms_node::kms_api::generated::{
    DecryptRequest, EncryptRequest, StatusRequest,
    key_management_service_client::KeyManagementServiceClient,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tonic::{Request, transport::Channel};

use crate::provider::{Provider, to_decrypt};

/// As kube-apiserver has it for each call.
const DEADLINE: Duration = Duration::from_secs(3);
/// A call that is not over by then has missed its deadline.
const LATE: Duration = Duration::from_secs(4);
/// Between the calls of one caller, so that two processors are enough for what is under test.
const PAUSE: Duration = Duration::from_millis(20);
/// What the readers read, so that equal calls are rare.
const SEEDS: usize = 64;

/// Callers at the same time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Callers {
    pub(crate) decrypt: usize,
    pub(crate) encrypt: usize,
}

/// Runs until it is ended.
pub(crate) struct Traffic {
    ending: Arc<AtomicBool>,
    callers: JoinSet<Vec<Call>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    Decrypt,
    Encrypt,
    Status,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Right,
    /// A failure, or a Status that is not healthy.
    Failed,
    /// Other bytes than were encrypted.
    Wrong,
}

#[derive(Debug, Clone, Copy)]
struct Call {
    method: Method,
    began: Instant,
    took: Duration,
    answer: Answer,
}

/// All calls that were made.
pub(crate) struct Record(Vec<Call>);

/// What one fault cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    pub(crate) calls: usize,
    pub(crate) failed: usize,
    pub(crate) wrong: usize,
    /// The longest time without an answer to any call that was made.
    pub(crate) outage: Duration,
    /// From the end of the fault to the begin of the last call that failed.
    pub(crate) recovery: Duration,
    /// From the end of the fault to the last Status that was not healthy.
    pub(crate) status: Duration,
    /// The longest call.
    pub(crate) longest: Duration,
}

impl Traffic {
    /// Encrypts what is to be read, and begins.
    pub(crate) async fn begin(provider: &Provider, callers: Callers) -> Self {
        let mut stored = Vec::new();
        for number in 0..SEEDS {
            let seed = format!("seed {number}");
            let encrypted = provider.encrypt(seed.as_bytes()).await.unwrap();
            stored.push((to_decrypt(&encrypted), Bytes::from(seed)));
        }
        let stored: Arc<[_]> = stored.into();
        let ending = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for (method, count) in [
            (Method::Decrypt, callers.decrypt),
            (Method::Encrypt, callers.encrypt),
            (Method::Status, 1),
        ] {
            for number in 0..count {
                let caller = Caller {
                    method,
                    number,
                    client: provider.client(),
                    stored: Arc::clone(&stored),
                    ending: Arc::clone(&ending),
                };
                tasks.spawn(caller.run());
            }
        }
        Self {
            ending,
            callers: tasks,
        }
    }

    /// Lets the calls under way end.
    pub(crate) async fn end(self) -> Record {
        self.ending.store(true, Ordering::Relaxed);
        Record(self.callers.join_all().await.concat())
    }
}

impl Record {
    /// What a fault cost that lasted from one moment to another.
    pub(crate) fn cost(&self, from: Instant, healed: Instant) -> Cost {
        let calls = || {
            let calls = self.0.iter().filter(|call| call.began + call.took >= from);
            calls.copied()
        };
        let of_data = || calls().filter(|call| call.method != Method::Status);
        let failed = || of_data().filter(|call| call.answer == Answer::Failed);
        let after = |call: Option<Call>| {
            call.map_or(Duration::ZERO, |call| {
                call.began.saturating_duration_since(healed)
            })
        };
        let unhealthy = calls()
            .filter(|call| call.method == Method::Status && call.answer != Answer::Right)
            .max_by_key(|call| call.began);
        Cost {
            calls: of_data().count(),
            failed: failed().count(),
            wrong: of_data()
                .filter(|call| call.answer == Answer::Wrong)
                .count(),
            outage: [Method::Decrypt, Method::Encrypt]
                .map(|method| outage(of_data().filter(|call| call.method == method), from))
                .into_iter()
                .max()
                .unwrap_or_default(),
            recovery: after(failed().max_by_key(|call| call.began)),
            status: after(unhealthy),
            longest: calls().map(|call| call.took).max().unwrap_or_default(),
        }
    }

    /// Calls that failed, of those that began and ended in this time.
    pub(crate) fn failed_between(&self, from: Instant, to: Instant) -> (usize, usize) {
        let within = self
            .0
            .iter()
            .filter(|call| call.began >= from && call.began + call.took < to);
        let failed = within.clone().filter(|call| call.answer != Answer::Right);
        (failed.count(), within.count())
    }
}

/// The longest time between two right answers, from a moment on.
fn outage(calls: impl Iterator<Item = Call>, from: Instant) -> Duration {
    let end = |call: &Call| call.began + call.took;
    let calls: Vec<Call> = calls.collect();
    let right = calls.iter().filter(|call| call.answer == Answer::Right);
    let mut ends: Vec<Instant> = right.map(end).chain([from]).collect();
    ends.extend(calls.iter().map(end).max());
    ends.sort_unstable();
    let gaps = ends
        .windows(2)
        .map(|pair| pair[1].saturating_duration_since(pair[0]));
    gaps.max().unwrap_or_default()
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |duration: Duration| format!("{:.1} s", duration.as_secs_f64());
        write!(
            f,
            "{} of {} | {} | {} | {} | {}",
            self.failed,
            self.calls,
            seconds(self.outage),
            seconds(self.recovery),
            seconds(self.status),
            seconds(self.longest),
        )
    }
}

/// Makes one call after the other.
struct Caller {
    method: Method,
    /// Its place among the callers of the method.
    number: usize,
    client: KeyManagementServiceClient<Channel>,
    stored: Arc<[(DecryptRequest, Bytes)]>,
    ending: Arc<AtomicBool>,
}

impl Caller {
    async fn run(mut self) -> Vec<Call> {
        let mut made = Vec::new();
        for number in 0.. {
            if self.ending.load(Ordering::Relaxed) {
                break;
            }
            let began = Instant::now();
            let answer = timeout(LATE, self.call(number)).await;
            made.push(Call {
                method: self.method,
                began,
                took: began.elapsed(),
                answer: answer.unwrap_or(Answer::Failed),
            });
            sleep(PAUSE).await;
        }
        made
    }

    async fn call(&mut self, number: usize) -> Answer {
        let right = match self.method {
            Method::Decrypt => {
                let Some((request, seed)) = self
                    .stored
                    .get((self.number * 7 + number) % self.stored.len())
                else {
                    return Answer::Wrong;
                };
                let request = within_the_deadline(request.clone());
                let answer = self.client.decrypt(request).await;
                if answer
                    .as_ref()
                    .is_ok_and(|it| it.get_ref().plaintext != seed)
                {
                    return Answer::Wrong;
                }
                answer.is_ok()
            }
            Method::Encrypt => {
                let request = EncryptRequest {
                    plaintext: Bytes::from_static(b"seed"),
                    uid: "traffic".to_owned(),
                };
                self.client
                    .encrypt(within_the_deadline(request))
                    .await
                    .is_ok()
            }
            Method::Status => {
                let request = within_the_deadline(StatusRequest {});
                let status = self.client.status(request).await;
                status.is_ok_and(|status| status.get_ref().healthz == "ok")
            }
        };
        if right { Answer::Right } else { Answer::Failed }
    }
}

fn within_the_deadline<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(DEADLINE);
    request
}
