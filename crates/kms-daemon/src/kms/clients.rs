//! Connected clients and their shared limits: number of connections, and bytes of requests. At a
//! limit, the connection idle for longest, or with the most bytes, is closed.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use kms_domain::limits::MAX_MESSAGE_BYTES;
use kms_node::{
    clock::{Clock as _, SystemClock},
    config::Limits,
};
use tokio::{sync::Notify, time::Instant};

use crate::telemetry::{accept::AcceptFailure, eviction::Eviction};

/// Overhead of a call in bytes, beside its headers and its message.
const CALL_BYTES: usize = 2 * 1024;

/// Time limit for a client to read a response.
pub const TAKE: Duration = Duration::from_secs(3);

/// The table of connections. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Clients(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    table: Mutex<Table>,
    /// Notified when a connection is freed.
    left: Notify,
    activated: AtomicBool,
    max_connections: usize,
    max_bytes: usize,
}

#[derive(Debug, Default)]
struct Table {
    records: BTreeMap<u64, Record>,
    next: u64,
    /// Bytes held by all clients except evicted ones.
    bytes: usize,
    evicted: u64,
    accept_failures: u64,
    last_accept_failure: Option<(AcceptFailure, SystemTime)>,
    fault: Option<(SocketFault, SystemTime)>,
}

/// Why new clients may not reach the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketFault {
    /// Its path does not lead to this process.
    Lost(&'static str),
    /// Its mode or group, or those of its directory, differ from the configuration.
    Drifted(&'static str),
}

impl SocketFault {
    /// The bounded word in metrics and reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lost(reason) | Self::Drifted(reason) => reason,
        }
    }
}

#[derive(Debug)]
struct Record {
    opened: Instant,
    /// End of its last call; `None` before the first one.
    used: Option<Instant>,
    receiving: usize,
    running: usize,
    sending: usize,
    /// Time of its last response.
    answered: Option<Instant>,
    bytes: usize,
    evicted: Option<Eviction>,
    changed: Arc<Notify>,
}

/// State of the socket and its clients, for `/why` and `/metrics`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketStatus {
    /// Whether systemd owns the socket; otherwise this process has bound it.
    pub activated: bool,
    /// Current connections.
    pub connected: usize,
    /// Maximum number of connections.
    pub max_connections: usize,
    /// Connections closed by the provider since its start.
    pub evicted: u64,
    /// Failed accepts since the start.
    pub accept_failures: u64,
    /// The last failed accept, and its time.
    pub last_accept_failure: Option<(AcceptFailure, SystemTime)>,
    /// The present fault, and its begin.
    pub fault: Option<(SocketFault, SystemTime)>,
}

impl SocketStatus {
    /// Whether the path of the socket does not lead to this process.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        matches!(self.fault, Some((SocketFault::Lost(_), _)))
    }
}

impl Clients {
    /// Creates an empty table. The limit in bytes is the number of concurrent calls in `limits`,
    /// times the maximum size of a message.
    #[must_use]
    pub fn new(max_connections: usize, limits: Limits) -> Self {
        let calls = limits.status + limits.encrypt + limits.decrypt;
        Self(Arc::new(Shared {
            table: Mutex::default(),
            left: Notify::new(),
            activated: AtomicBool::new(false),
            max_connections,
            max_bytes: calls * MAX_MESSAGE_BYTES,
        }))
    }

    /// Records that systemd owns the socket.
    pub fn set_activated(&self) {
        self.0.activated.store(true, Ordering::Relaxed);
    }

    /// Records a failed accept.
    pub fn accept_failed(&self, failure: AcceptFailure) {
        let mut table = self.0.lock();
        table.accept_failures += 1;
        table.last_accept_failure = Some((failure, SystemClock.now()));
    }

    /// Records the present fault of the socket.
    pub fn set_socket_fault(&self, fault: Option<SocketFault>) {
        let mut table = self.0.lock();
        if table.fault.map(|(fault, _)| fault) != fault {
            table.fault = fault.map(|fault| (fault, SystemClock.now()));
        }
    }

    #[must_use]
    pub fn status(&self) -> SocketStatus {
        let table = self.0.lock();
        SocketStatus {
            activated: self.0.activated.load(Ordering::Relaxed),
            connected: table.records.len(),
            max_connections: self.0.max_connections,
            evicted: table.evicted,
            accept_failures: table.accept_failures,
            last_accept_failure: table.last_accept_failure,
            fault: table.fault,
        }
    }

    /// Whether another client may connect. Otherwise, this function evicts one connection without a
    /// running call: first one that has never made a call, then the least recently used. An
    /// incomplete request protects no connection, an untaken response only for [`TAKE`]. The limit
    /// of running calls is below the limit of connections, so the table always has one to evict.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let mut table = self.0.lock();
        if table.records.len() < self.0.max_connections {
            return true;
        }

        let leaving = table.records.values().any(|it| it.evicted.is_some());
        if !leaving {
            let idle = table
                .records
                .iter()
                .filter(|(_, record)| record.may_leave())
                .min_by_key(|(_, record)| (record.used, record.opened))
                .map(|(id, _)| *id);
            if let Some(id) = idle {
                table.evict(id, Eviction::Full);
            }
        }
        false
    }

    /// Completes when a client has left since the last call.
    pub async fn left(&self) {
        self.0.left.notified().await;
    }

    /// Adds a newly connected client.
    #[must_use]
    pub fn enter(&self) -> Client {
        let mut table = self.0.lock();
        let id = table.next;
        table.next += 1;
        let changed = Arc::new(Notify::new());
        let record = Record {
            opened: Instant::now(),
            used: None,
            receiving: 0,
            running: 0,
            sending: 0,
            answered: None,
            bytes: 0,
            evicted: None,
            changed: Arc::clone(&changed),
        };
        table.records.insert(id, record);
        drop(table);
        Client(Arc::new(Entry {
            clients: self.clone(),
            id,
            changed,
            preface: AtomicBool::new(false),
        }))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Record {
    fn count(&mut self, phase: Phase) -> &mut usize {
        match phase {
            Phase::Receiving => &mut self.receiving,
            Phase::Running => &mut self.running,
            Phase::Sending => &mut self.sending,
        }
    }

    fn may_leave(&self) -> bool {
        let overdue = self.answered.is_none_or(|at| at.elapsed() > TAKE);
        self.running == 0 && (self.sending == 0 || overdue)
    }
}

impl Table {
    fn evict(&mut self, id: u64, reason: Eviction) {
        if let Some(record) = self.records.get_mut(&id)
            && record.evicted.is_none()
        {
            record.evicted = Some(reason);
            record.changed.notify_waiters();
            self.bytes -= record.bytes;
            self.evicted += 1;
        }
    }

    /// Charges client `id` with `bytes` more, evicting the largest holders at the limit. `false` if
    /// this client itself has to close.
    fn charge(&mut self, id: u64, bytes: usize, max_bytes: usize) -> bool {
        while self.bytes + bytes > max_bytes {
            let most = self
                .records
                .iter()
                .filter(|(_, record)| record.evicted.is_none() && record.bytes > 0)
                .max_by_key(|(_, record)| record.bytes)
                .map(|(id, _)| *id);
            match most {
                Some(most) => self.evict(most, Eviction::Memory),
                None => return false,
            }
        }
        match self.records.get_mut(&id) {
            // A client evicted for a new connection still receives the responses to its running
            // calls.
            Some(record) if record.evicted != Some(Eviction::Memory) => {
                record.bytes += bytes;
                if record.evicted.is_none() {
                    self.bytes += bytes;
                }
                true
            }
            _ => false,
        }
    }
}

/// One connected client. It leaves the table when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Client(Arc<Entry>);

#[derive(Debug)]
struct Entry {
    clients: Clients,
    id: u64,
    changed: Arc<Notify>,
    preface: AtomicBool,
}

impl Client {
    /// Records the arrival of the HTTP/2 preface.
    pub fn sent_preface(&self) {
        self.0.preface.store(true, Ordering::Relaxed);
    }

    /// Whether the HTTP/2 preface has arrived.
    #[must_use]
    pub fn has_preface(&self) -> bool {
        self.0.preface.load(Ordering::Relaxed)
    }

    /// Begins a call with `header_bytes`; `None` if the client has to close.
    #[must_use]
    pub fn call(&self, header_bytes: usize) -> Option<Call> {
        let mut table = self.0.clients.0.lock();
        table.records.get_mut(&self.0.id)?.receiving += 1;
        drop(table);
        let call = Call {
            client: self.clone(),
            phase: Phase::Receiving,
            bytes: 0,
        };
        call.hold(CALL_BYTES + header_bytes)
    }

    /// Marks the connection for closing.
    pub fn evict(&self, reason: Eviction) {
        self.0.clients.0.lock().evict(self.0.id, reason);
    }

    /// Completes when the connection is marked for closing.
    pub async fn evicted(&self) -> Eviction {
        self.wait_for(|record| record.evicted).await
    }

    /// Whether the client has ever made a call.
    #[must_use]
    pub fn is_used(&self) -> bool {
        let table = self.0.clients.0.lock();
        let record = table.records.get(&self.0.id);
        record.is_some_and(|record| record.used.is_some() || record.running + record.sending > 0)
    }

    /// Completes when all calls are answered; responses may still be untaken.
    pub async fn idle(&self) {
        self.wait_for(|record| (record.receiving + record.running == 0).then_some(()))
            .await;
    }

    /// Completes when all responses are taken.
    pub async fn taken(&self) {
        self.wait_for(|record| (record.sending == 0).then_some(()))
            .await;
    }

    async fn wait_for<T>(&self, look: impl Fn(&Record) -> Option<T>) -> T {
        loop {
            let changed = self.0.changed.notified();
            let found = {
                let table = self.0.clients.0.lock();
                table.records.get(&self.0.id).and_then(&look)
            };
            match found {
                Some(found) => return found,
                None => changed.await,
            }
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut table = self.clients.0.lock();
        if let Some(record) = table.records.remove(&self.id)
            && record.evicted.is_none()
        {
            table.bytes -= record.bytes;
        }
        drop(table);
        self.clients.0.left.notify_one();
    }
}

/// One call in progress, from its headers until its response is sent.
#[derive(Debug)]
pub struct Call {
    client: Client,
    phase: Phase,
    bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The request is incomplete.
    Receiving,
    /// The call is being answered.
    Running,
    /// The response is being sent.
    Sending,
}

impl Call {
    /// Charges the call with `bytes` more; `None` if the client has to close.
    #[must_use]
    pub fn hold(mut self, bytes: usize) -> Option<Self> {
        let shared = &self.client.0.clients.0;
        let granted = shared
            .lock()
            .charge(self.client.0.id, bytes, shared.max_bytes);
        granted.then(|| {
            self.bytes += bytes;
            self
        })
    }
}

impl Call {
    /// Enters the next phase.
    #[must_use]
    pub fn now(mut self, phase: Phase) -> Self {
        let mut table = self.client.0.clients.0.lock();
        if let Some(record) = table.records.get_mut(&self.client.0.id) {
            *record.count(self.phase) -= 1;
            *record.count(phase) += 1;
            if phase == Phase::Sending {
                record.answered = Some(Instant::now());
            }
            record.changed.notify_waiters();
        }
        drop(table);
        self.phase = phase;
        self
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let mut table = self.client.0.clients.0.lock();
        let Some(record) = table.records.get_mut(&self.client.0.id) else {
            return;
        };
        *record.count(self.phase) -= 1;
        record.bytes -= self.bytes;
        record.used = Some(Instant::now());
        record.changed.notify_waiters();
        if record.evicted.is_none() {
            table.bytes -= self.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const LIMITS: Limits = Limits {
        status: 1,
        encrypt: 1,
        decrypt: 2,
    };

    fn evicted(client: &Client) -> Option<Eviction> {
        let table = client.0.clients.0.lock();
        table.records[&client.0.id].evicted
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_table_costs_the_client_that_was_idle_longest_and_no_call() {
        let clients = Clients::new(3, LIMITS);
        let enter = async || {
            advance(Duration::from_secs(1)).await;
            clients.enter()
        };
        let (used, calling, unused) = (enter().await, enter().await, enter().await);
        drop(used.call(0));
        let call = calling.call(0).unwrap().now(Phase::Running);
        assert!(!clients.has_room());
        assert_eq!(evicted(&unused), Some(Eviction::Full));
        assert!(!clients.has_room(), "one at a time");
        assert_eq!(evicted(&used), None);
        drop(unused);
        clients.left().await;
        assert!(clients.has_room());

        let _another = enter().await.call(0).unwrap().now(Phase::Running);
        assert!(!clients.has_room());
        assert_eq!(used.evicted().await, Eviction::Full);
        assert!(used.is_used());
        drop(used);
        let third = enter().await;
        let answering = third.call(0).unwrap().now(Phase::Running);
        assert!(!clients.has_room(), "all have calls");
        assert_eq!(evicted(&calling), None);
        let untaken = answering.now(Phase::Sending);
        third.idle().await;
        assert!(!clients.has_room(), "the answer is on its way");
        assert_eq!(evicted(&third), None);
        advance(TAKE + Duration::from_millis(1)).await;
        assert!(!clients.has_room());
        assert_eq!(evicted(&third), Some(Eviction::Full));
        drop((untaken, third));

        let unfinished = enter().await;
        let receiving = unfinished.call(0).unwrap();
        assert!(!clients.has_room());
        assert_eq!(evicted(&unfinished), Some(Eviction::Full));
        drop((receiving, unfinished));
        let _last = enter().await.call(0).unwrap().now(Phase::Running);
        drop(call);
        calling.idle().await;
        assert!(!clients.has_room());
        assert_eq!(evicted(&calling), Some(Eviction::Full));
        let status = clients.status();
        assert_eq!((status.connected, status.evicted), (3, 5));
    }

    #[tokio::test]
    async fn the_client_that_holds_most_pays_for_all_bytes_taken() {
        let clients = Clients::new(8, LIMITS);
        let (greedy, modest) = (clients.enter(), clients.enter());
        let kept = modest.call(0).unwrap().hold(MAX_MESSAGE_BYTES).unwrap();
        let mut held: Vec<_> = (0..2)
            .map(|_| greedy.call(0).unwrap().hold(MAX_MESSAGE_BYTES).unwrap())
            .collect();
        let more = modest.call(0).unwrap().hold(MAX_MESSAGE_BYTES);
        assert!(more.is_some());
        assert_eq!(greedy.evicted().await, Eviction::Memory);
        assert!(greedy.call(0).is_none());
        assert_eq!(evicted(&modest), None);
        held.clear();
        drop((kept, more));
        assert_eq!(clients.0.lock().bytes, 0);

        let too_much = modest.call(0).unwrap().hold(5 * MAX_MESSAGE_BYTES);
        assert!(too_much.is_none());
        assert_eq!(evicted(&modest), Some(Eviction::Memory));
        drop((greedy, modest));
        assert_eq!(clients.0.lock().bytes, 0);
        assert_eq!(clients.status().connected, 0);
    }
}
