//! Clients of several API servers of one cluster: confirmed texts, failed calls, and the longest
//! time without a successful call.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use kube::{
    Api, Client, Config,
    api::{DynamicObject, Patch, PatchParams},
};
use tokio::{
    runtime,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use super::{ControlPlane, Kind, WITHIN, kind};
use crate::wait::wait_until;

const CLIENTS: usize = 16;
/// Time between two calls of one client: about 100 calls a second in all.
const PACE: Duration = Duration::from_millis(160);
/// A call without an answer fails after this time.
const DEADLINE: Duration = Duration::from_secs(10);
/// Reads at a time of [`Load::lost_or_wrong`].
const READERS: usize = 16;

/// The possible texts of each object. `None` is a missing object: its creation failed. A failed
/// write leaves two possible texts, and its object is never written again.
type Expected = BTreeMap<(Kind, String), Vec<Option<String>>>;

/// The objects of all runs of the clients so far.
#[derive(Default)]
pub struct Load {
    expected: Arc<Mutex<Expected>>,
    runs: usize,
}

/// The clients of one run, on a thread of their own: a test that waits for a command delays none of
/// their calls.
pub struct Running {
    shared: Arc<Shared>,
    thread: JoinHandle<Record>,
}

/// State of a run that all its clients share.
#[derive(Default)]
struct Shared {
    ending: AtomicBool,
    succeeded: AtomicU64,
}

/// Calls of one run.
#[derive(Debug, Default)]
pub struct Record {
    /// All calls.
    pub calls: u64,
    /// Calls with an error or without an answer within 10 s.
    pub failed: u64,
    /// Reads with another text than the confirmed one.
    pub wrong: u64,
    /// Longest time of one client from one successful call to the next one; at least the pause
    /// between two calls, 0.16 s.
    pub longest: Duration,
    /// Numbers of the failed calls, by the place of their API server and the beginning of their
    /// error.
    pub errors: BTreeMap<(usize, String), u64>,
}

impl Load {
    /// Starts the clients: each writes and reads Secrets, `ConfigMap`s and custom resources of its
    /// own through all API servers in turn.
    ///
    /// # Panics
    /// When the thread cannot be started.
    pub fn begin(&mut self, servers: &[ControlPlane]) -> Running {
        self.runs += 1;
        let run = self.runs;
        let servers: Vec<Config> = servers.iter().map(ControlPlane::client_config).collect();
        let expected = Arc::clone(&self.expected);
        let shared = Arc::<Shared>::default();
        let of_thread = Arc::clone(&shared);
        let clients = async move {
            let mut clients = JoinSet::new();
            for number in 0..CLIENTS {
                let servers = servers.iter().cloned();
                let client = LoadClient {
                    name: format!("run-{run}-{number}"),
                    number,
                    servers: servers.map(|it| Client::try_from(it).unwrap()).collect(),
                    expected: Arc::clone(&expected),
                    renamed: 0,
                };
                clients.spawn(client.work(Arc::clone(&of_thread)));
            }
            Record::sum(clients.join_all().await)
        };
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.unwrap();
        let thread = thread::spawn(move || runtime.block_on(clients));
        Running { shared, thread }
    }

    /// Number of the objects.
    #[must_use]
    pub fn objects(&self) -> usize {
        lock(&self.expected).len()
    }

    /// A copy of the expectation, for [`Self::return_to`].
    #[must_use]
    pub fn remember(&self) -> Self {
        Self {
            expected: Arc::new(Mutex::new(lock(&self.expected).clone())),
            runs: self.runs,
        }
    }

    /// Expects the objects of an earlier time, after the restore of a backup.
    pub fn return_to(&mut self, earlier: Self) {
        self.expected = earlier.expected;
    }

    /// Reads every object through every API server, and returns those that are missing, unreadable,
    /// or have another text than the confirmed one.
    ///
    /// # Panics
    /// When a reader panics.
    pub async fn lost_or_wrong(&self, servers: &[ControlPlane]) -> Vec<String> {
        let expected: Vec<_> = lock(&self.expected).clone().into_iter().collect();
        let mut readers = JoinSet::new();
        for server in servers {
            let client = server.client();
            let url = server.endpoint();
            for part in 0..READERS {
                let objects = expected.iter().skip(part).step_by(READERS).cloned();
                let objects: Vec<_> = objects.collect();
                let (client, url) = (client.clone(), url.clone());
                readers.spawn(async move {
                    let mut bad = Vec::new();
                    for ((kind, name), possible) in objects {
                        match read(&client, kind, &name).await {
                            Ok(text) if possible.contains(&text) => {}
                            Ok(text) => bad.push(format!("{kind:?} {name} at {url}: {text:?}")),
                            Err(error) => bad.push(format!("{kind:?} {name} at {url}: {error}")),
                        }
                    }
                    bad
                });
            }
        }
        readers.join_all().await.concat()
    }
}

impl Running {
    /// Waits until this many further calls have succeeded.
    ///
    /// # Panics
    /// When they take minutes.
    pub async fn pass(&self, calls: u64) {
        let succeeded = || self.shared.succeeded.load(Ordering::Relaxed);
        let enough = succeeded() + calls;
        wait_until(WITHIN, "successful calls", async || succeeded() >= enough).await;
    }

    /// Ends the clients after their current calls.
    ///
    /// # Panics
    /// When a client panics.
    #[must_use]
    pub fn end(self) -> Record {
        self.shared.ending.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

impl Record {
    fn sum(records: Vec<Self>) -> Self {
        let mut all = Self::default();
        for record in records {
            all.calls += record.calls;
            all.failed += record.failed;
            all.wrong += record.wrong;
            all.longest = all.longest.max(record.longest);
            for (error, number) in record.errors {
                *all.errors.entry(error).or_default() += number;
            }
        }
        all
    }
}

struct LoadClient {
    name: String,
    number: usize,
    servers: Vec<Client>,
    expected: Arc<Mutex<Expected>>,
    /// Names given up after failed writes.
    renamed: usize,
}

impl LoadClient {
    async fn work(mut self, shared: Arc<Shared>) -> Record {
        let mut record = Record::default();
        let mut pace = interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut succeeded = Instant::now();
        // A write and then a read of each kind, the read through the next server.
        for step in 0.. {
            pace.tick().await;
            if shared.ending.load(Ordering::Relaxed) {
                break;
            }
            let kind = Kind::ALL[step / 2 % Kind::ALL.len()];
            let place = (self.number + step + step / 6) % self.servers.len();
            let server = self.servers[place].clone();
            let outcome = match step % 2 {
                0 => self.write(&server, kind, step).await,
                _ => self.read(&server, kind, &mut record.wrong).await,
            };

            record.calls += 1;
            match outcome {
                Ok(()) => {
                    shared.succeeded.fetch_add(1, Ordering::Relaxed);
                    record.longest = record.longest.max(succeeded.elapsed());
                    succeeded = Instant::now();
                }
                Err(error) => {
                    record.failed += 1;
                    let error: String = error.chars().take(120).collect();
                    *record.errors.entry((place, error)).or_default() += 1;
                }
            }
        }
        record.longest = record.longest.max(succeeded.elapsed());
        record
    }

    async fn write(&mut self, server: &Client, kind: Kind, step: usize) -> Result<(), String> {
        let (name, text) = (self.object(), format!("{kind:?} {} {step}", self.name));
        let place = (kind, name.clone());
        lock(&self.expected)
            .entry(place.clone())
            .or_insert_with(|| vec![None])
            .push(Some(text.clone()));

        let object = kind.object(&name, &text);
        let apply = PatchParams::apply("load").force();
        let api = api(server, kind);
        let written = within(api.patch(&name, &apply, &Patch::Apply(&object))).await;
        match written {
            Ok(_) => {
                lock(&self.expected).insert(place, vec![Some(text)]);
                Ok(())
            }
            Err(error) => {
                self.renamed += 1;
                Err(error)
            }
        }
    }

    async fn read(&self, server: &Client, kind: Kind, wrong: &mut u64) -> Result<(), String> {
        let name = self.object();
        let text = read(server, kind, &name).await?;
        let expected = lock(&self.expected).get(&(kind, name)).cloned();
        *wrong += u64::from(!expected.unwrap_or(vec![None]).contains(&text));
        Ok(())
    }

    fn object(&self) -> String {
        format!("{}-{}", self.name, self.renamed)
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { calls, failed, .. } = self;
        let longest = self.longest.as_secs_f64();
        write!(f, "{calls} | {failed} | {longest:.1} s")
    }
}

async fn read(server: &Client, kind: Kind, name: &str) -> Result<Option<String>, String> {
    let object = within(api(server, kind).get_opt(name)).await?;
    Ok(object.map(|object| kind.text(&object)))
}

async fn within<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, String> {
    match timeout(DEADLINE, call).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {DEADLINE:?}")),
    }
}

fn api(server: &Client, kind: Kind) -> Api<DynamicObject> {
    Api::namespaced_with(server.clone(), kind::NAMESPACE, &kind.resource())
}

fn lock(expected: &Mutex<Expected>) -> MutexGuard<'_, Expected> {
    expected.lock().unwrap_or_else(PoisonError::into_inner)
}
